"""Who many visitors are, asked together: one query for the sessions, one for the users, one for their groups.

Theory of operation. `shim.visitor.identify` is the law: it leaves every decision to Django. In a storm its queries are
most of what a handshake costs. This reads ahead for many at once, and then accepts only what it can see to be plain: a
session that is there and has not expired, whose user is there, may sign in by Django's own rules, and has the password
that the session was made with. Whoever is anything else (nobody, a session from before a change of SECRET_KEY, an
authentication backend with a `get_user` of its own) is left to `identify`. So it can find fewer, never others.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model, load_backend
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import PermissionsMixin
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db.models import Prefetch, prefetch_related_objects
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from shim.visitor import Identity, identity_with

_GROUPS = "_realtime_groups"


def identify_together(crowd: Sequence[Mapping[str, str]]) -> list[Identity | None]:
    """Who sent these cookies, for each; None where `identify` has to say it. Reads the database.

    Raises:
        Exception: whatever the database raises.
    """
    found: list[Identity | None] = [None] * len(crowd)
    keys = {place: key for place, cookies in enumerate(crowd) if _is_plain(key := _key(cookies))}
    sessions = _sessions(set(keys.values()))
    claims = {place: claim for place, key in keys.items() if (claim := _claim(sessions.get(key))) is not None}
    users = _users({user_id for user_id, _, _ in claims.values()})
    for place, (user_id, backend, password) in claims.items():
        user = users.pop(user_id, None)  # who comes twice gets an object for each connection: `identify` makes another
        if not user or not backend.user_can_authenticate(user):
            continue
        if constant_time_compare(password, user.get_session_auth_hash()):
            members = [(group.pk, group.name) for group in user.__dict__.pop(_GROUPS)]
            found[place] = identity_with(user, keys[place], members, crowd[place])
    return found


def _key(cookies: Mapping[str, str]) -> str:
    return cookies.get(settings.SESSION_COOKIE_NAME, "")


def _is_plain(key: str) -> bool:
    """Whether it looks like Django's keys: what else there is might make a query fail for everybody."""
    return 8 <= len(key) <= 40 and key.isascii() and key.isalnum()


def _sessions(keys: set[str]) -> dict[str, Any]:
    """What is in those sessions that are there, by key."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    if keys and store is SessionStore:
        rows = Session.objects.filter(session_key__in=keys, expire_date__gt=timezone.now())
        decode = SessionStore().decode
        return {key: decode(data) for key, data in rows.values_list("session_key", "session_data")}
    sessions = {key: store(key) for key in keys}
    return {key: session for key, session in sessions.items() if session.get("", True) and session.session_key == key}


def _claim(session: Any) -> tuple[Any, ModelBackend, str] | None:
    """The primary key of the user that a session names, the backend that let it in, and a hash of its password."""
    if session is None:
        return None
    path, password = session.get(BACKEND_SESSION_KEY), session.get(HASH_SESSION_KEY)
    if SESSION_KEY not in session or not password or path not in settings.AUTHENTICATION_BACKENDS:
        return None
    backend: Any = load_backend(path)
    if getattr(type(backend), "get_user", None) is not ModelBackend.get_user:
        return None
    key: Any = get_user_model()._meta.pk  # noqa: SLF001  # a documented API
    return key.to_python(session[SESSION_KEY]), backend, password


def _users(keys: set[Any]) -> dict[Any, Any]:
    """Users by primary key, each with its groups in `_GROUPS`."""
    kind: Any = get_user_model()
    if not keys or not issubclass(kind, PermissionsMixin):
        return {}
    users = list(kind._default_manager.filter(pk__in=keys))  # noqa: SLF001  # documented, and what ModelBackend asks
    groups = kind._meta.get_field("groups").related_model  # noqa: SLF001  # a documented API
    by_name = Prefetch("groups", groups._default_manager.order_by("name"), to_attr=_GROUPS)  # noqa: SLF001  # likewise
    prefetch_related_objects(users, by_name)
    return {user.pk: user for user in users}
