"""Many asked together: whoever is found is whom `identify` finds (contract 1.2)."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import Group, User
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shim.crowd import identify_together
from shim.visitor import ANONYMOUS_COOKIE, identify
from tests.shim.test_visitor import signed_in


class Pickier(ModelBackend):
    """Lets in whom it likes."""

    def user_can_authenticate(self, user: Any) -> bool:
        return user is not None and not user.username.endswith("1")


class Elsewhere(ModelBackend):
    """Looks users up in its own way."""

    def get_user(self, user_id: int) -> Any:
        return User.objects.filter(pk=user_id, is_staff=True).first()


def edited(cookies: Mapping[str, str], **values: object) -> dict[str, str]:
    """A session in which something is otherwise."""
    from django.contrib.sessions.backends.db import SessionStore  # noqa: PLC0415  # a copy, of the same user

    session, fresh = SessionStore(cookies["sessionid"]), SessionStore()
    fresh.update(dict(session.items()) | values)
    fresh.create()
    return {**cookies, "sessionid": str(fresh.session_key)}


def expired(cookies: Mapping[str, str]) -> dict[str, str]:
    Session.objects.filter(session_key=cookies["sessionid"]).update(expire_date=timezone.now())
    return dict(cookies)


def spoilt(cookies: Mapping[str, str]) -> dict[str, str]:
    Session.objects.filter(session_key=cookies["sessionid"]).update(session_data="nonsense")
    return dict(cookies)


def locked(cookies: Mapping[str, str]) -> dict[str, str]:
    User.objects.filter(pk=identify(cookies).user.pk).update(is_active=False)
    return dict(cookies)


def deleted(cookies: Mapping[str, str]) -> dict[str, str]:
    User.objects.filter(pk=identify(cookies).user.pk).delete()
    return dict(cookies)


def changed_password(cookies: Mapping[str, str]) -> dict[str, str]:
    User.objects.filter(pk=identify(cookies).user.pk).update(password="another")  # no secret
    return dict(cookies)


HERE = f"{__name__}."
FATES: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
    "as it is": dict,
    "anonymous id": lambda cookies: cookies | {ANONYMOUS_COOKIE: "abc"},
    "nobody": lambda _: {},
    "no such session": lambda _: {"sessionid": "x" * 32},
    "a strange key": lambda _: {"sessionid": "'\0\ud800"},
    "a short key": lambda _: {"sessionid": "abc"},
    "expired": expired,
    "spoilt": spoilt,
    "locked": locked,
    "deleted": deleted,
    "changed password": changed_password,
    "no user": lambda cookies: edited(cookies, **{SESSION_KEY: "7000"}),
    "user of another kind": lambda cookies: edited(cookies, **{SESSION_KEY: "1"}),
    "no password": lambda cookies: edited(cookies, **{HASH_SESSION_KEY: ""}),
    "unknown backend": lambda cookies: edited(cookies, **{BACKEND_SESSION_KEY: "a.b"}),
    "pickier backend": lambda cookies: edited(cookies, **{BACKEND_SESSION_KEY: f"{HERE}Pickier"}),
    "another backend": lambda cookies: edited(cookies, **{BACKEND_SESSION_KEY: f"{HERE}Elsewhere"}),
}


@pytest.fixture
def backends() -> Any:
    names = ["django.contrib.auth.backends.ModelBackend", f"{HERE}Pickier", f"{HERE}Elsewhere"]
    with override_settings(AUTHENTICATION_BACKENDS=names):
        yield


@pytest.mark.parametrize(
    "engine", ["django.contrib.sessions.backends.db", "django.contrib.sessions.backends.cached_db"]
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fates=st.lists(st.sampled_from(sorted(FATES)), min_size=1, max_size=6), twice=st.booleans())
def test_who_is_found_is_who_identify_finds(
    engine: str, fates: list[str], twice: bool, backends: None, database: None
) -> None:
    with override_settings(SESSION_ENGINE=engine):
        User.objects.all().delete()
        team, other = (Group.objects.get_or_create(name=name)[0] for name in ("team", "a team"))
        crowd = []
        for number, fate in enumerate(fates):
            user = User.objects.create(username=f"u{number}", is_staff=number % 2 == 0)
            user.groups.set([team, other][: number % 3])
            crowd.append(FATES[fate](signed_in(user)))
        crowd *= 1 + twice
        found = identify_together(crowd)
        for cookies, together in zip(crowd, found, strict=True):
            alone = identify(cookies)
            if together is not None:
                assert together == alone
                assert together.user.__dict__.keys() - {"_prefetched_objects_cache"} == alone.user.__dict__.keys()
                assert list(together.user.groups.all()) == list(alone.user.groups.all())
        usual = [together for together, fate in zip(found, fates, strict=False) if fate in ("as it is", "anonymous id")]
        assert None not in usual
        users = [id(together.user) for together in found if together is not None]
        assert len(set(users)) == len(users)


def test_three_queries_for_all(database: None) -> None:
    group = Group.objects.create(name="team")
    crowd = []
    for number in range(20):
        user = User.objects.create(username=f"u{number}")
        user.groups.add(group)
        crowd.append(signed_in(user))
    with CaptureQueriesContext(
        connection,
    ) as queries:
        found = identify_together(crowd)
    assert [one and one.user_name for one in found] == [f"u{number}" for number in range(20)]
    assert len(queries) == 3


def test_nobody_asks_nothing(database: None) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert identify_together([{}, {"sessionid": ""}]) == [None, None]
    assert not queries.captured_queries


def test_groups_are_not_kept_for_ever(database: None) -> None:
    user = User.objects.create(username="ana")
    (found,) = identify_together([signed_in(user)])
    assert found is not None
    user.groups.add(Group.objects.create(name="later"))
    assert [group.name for group in found.user.groups.all()] == ["later"]
