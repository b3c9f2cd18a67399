"""Who connects: users with groups and sessions, made directly in the database that the servers read (contract 1.2)."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model, logout
from django.contrib.auth.models import Group
from django.contrib.sessions.backends.db import SessionStore
from django.db import transaction
from django.http import HttpRequest

from contract_tests.flag import Flag
from shim.visitor import ANONYMOUS_COOKIE

_BUCKETS = 100_000


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a browser. Without a name nobody is signed in."""

    name: str | None
    groups: tuple[str, ...] = ()
    session: str | None = None
    anonymous: str | None = None
    user: Any = None

    @property
    def cookie(self) -> dict[str, str]:
        """The header that the browser sends."""
        pairs = []
        if self.session is not None:
            pairs.append(f"{settings.SESSION_COOKIE_NAME}={self.session}")
        if self.anonymous is not None:
            pairs.append(f"{ANONYMOUS_COOKIE}={self.anonymous}")
        return {"Cookie": "; ".join(pairs)} if pairs else {}

    def is_on_channels(self, flag: Flag) -> bool:
        """This person's cohort, decided here once more, by the words of contract 8.1."""
        if flag.everyone is not None:
            return flag.everyone
        if self.name is not None and self.name in flag.users:
            return True
        if self.name is not None:
            key = f"user:{self.user.pk}"
        elif self.session is not None:
            key = f"session:{self.session}"
        elif self.anonymous is not None:
            key = f"anonymous:{self.anonymous}"
        else:
            return False
        digest = hashlib.sha256(f"{flag.name}\0{key}".encode()).digest()
        return int.from_bytes(digest[:8]) % _BUCKETS < flag.percent * 1000


def signed_in(name: str, groups: tuple[str, ...]) -> Person:
    """A new user, member of some groups, with a session."""
    with transaction.atomic():
        user = get_user_model().objects.create(username=name)
        user.groups.set([Group.objects.get_or_create(name=group)[0] for group in groups])
        store = SessionStore()
        store[SESSION_KEY] = str(user.pk)
        store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
        store[HASH_SESSION_KEY] = user.get_session_auth_hash()
        store.save()
    return Person(name, tuple(sorted(set(groups))), store.session_key, None, user)


def with_session(anonymous: str) -> Person:
    """Nobody who is signed in, but has a session."""
    store = SessionStore()
    store["visited"] = True
    store.save()
    return Person(None, (), store.session_key, anonymous)


def signed_out(person: Person) -> Person:
    """Sign somebody out as Django's view does, signals included (contract 7.5); who that is from now on."""
    request = HttpRequest()
    request.session = SessionStore(person.session)
    request.user = person.user
    logout(request)
    return replace(person, name=None, groups=(), session=None, user=None)
