import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.contrib.sessions.backends.db import SessionStore
from django.db import OperationalError, connection
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import path
from waffle.models import Flag

from shim import rollout
from shim.conf import conf
from shim.core.cohorts import BUCKETS, CHANNELS, LEGACY, bucket
from shim.rollout import push
from shim.visitor import ANONYMOUS_COOKIE, identify

NAME = "realtime_channels"
COOKIE = "realtime_backend"


def public(request: HttpRequest) -> HttpResponse:
    return HttpResponse("kept by others", headers={"Cache-Control": "max-age=60, s-maxage=600"})


def personal(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.user))


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse([b"a", b"b"])


async def coroutine(request: HttpRequest) -> HttpResponse:
    return HttpResponse("plain")


urlpatterns = [
    path("", lambda _: HttpResponse("plain")),
    path("public", public),
    path("personal", personal),
    path("stream", stream),
    path("async", coroutine),
]


@pytest.fixture(autouse=True)
def _served(bus_settings: str, database: None) -> Iterator[None]:
    middleware = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "shim.middleware.CohortCookieMiddleware",
    ]
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=middleware):
        rollout._asked = None
        yield
    rollout._asked = None


@pytest.fixture
def ana() -> User:
    return User.objects.create_user("ana", password="pw")


def flag(**fields: Any) -> Flag:
    found: Flag = Flag.objects.update_or_create(name=NAME, defaults={"superusers": False, **fields})[0]
    push()
    rollout._asked = None
    return found


def signed_in(user: User, cookie: str | None = None) -> Client:
    client = Client()
    client.force_login(user)
    if cookie:
        client.cookies[COOKIE] = cookie
    return client


def told(client: Client, path: str = "/") -> str | None:
    """The cohort that a response sets, None if it sets none."""
    response: Any = client.get(path)
    assert response.status_code == 200
    return response.cookies[COOKIE].value if COOKIE in response.cookies else None


def queries(client: Client, path: str = "/") -> int:
    client.get(path)  # the flag is read, and known for a while
    with CaptureQueriesContext(connection) as captured:
        client.get(path)
    return len(captured)


class TestWhatItSays:
    # contract 8.4

    def test_no_cookie_is_legacy(self) -> None:
        for fields in ({}, {"everyone": False}, {"percent": 0}):
            flag(**fields)
            assert Client().get("/").cookies == {}

    def test_follows_the_flag_up_and_back(self, ana: User) -> None:
        flag(everyone=None)
        for client in (Client(), signed_in(ana)):
            flag(everyone=True)
            assert told(client) == CHANNELS
            assert told(client) is None  # once is enough
            flag(everyone=False)
            assert told(client) == LEGACY
            assert told(client) is None

    @pytest.mark.parametrize("forged", ["", "chanels", "x" * 4_000, "legacy channels"])
    def test_a_forged_cookie_is_set_right(self, forged: str, ana: User) -> None:
        flag(everyone=True)
        assert told(signed_in(ana, forged)) == CHANNELS
        flag(everyone=False)
        client = Client()
        client.cookies[COOKIE] = forged
        assert told(client) == LEGACY

    def test_says_what_a_handshake_finds(self, ana: User) -> None:
        # contract 8.1, 1.2: the same function, fed from the request
        team = Group.objects.create(name="team")
        people = [User.objects.create_user(f"p{n}", is_staff=n % 3 == 0) for n in range(8)]
        people[5].groups.add(team)
        found = flag(percent=50.0, staff=True)
        found.groups.add(team)
        found.users.add(people[7])
        push()
        rollout._asked = None
        for user in people:
            client = signed_in(user)
            cookies = {name: morsel.value for name, morsel in client.cookies.items()}
            home = rollout.current().cohort(identify(cookies).subject)
            assert told(client) == (CHANNELS if home == CHANNELS else None)

    def test_a_visitor_is_drawn_by_session_then_by_a_cookie_of_their_own(self) -> None:
        flag(percent=50.0)
        for _ in range(6):
            session = SessionStore()
            session["a"] = 1
            session.create()
            client = Client()
            client.cookies["sessionid"] = str(session.session_key)
            response: Any = client.get("/")
            drawn = bucket(NAME, f"session:{session.session_key}") < BUCKETS // 2
            assert (COOKIE in response.cookies) == drawn
            assert ANONYMOUS_COOKIE not in response.cookies
        for _ in range(6):
            client = Client()
            response = client.get("/")
            id = response.cookies[ANONYMOUS_COOKIE].value
            assert (COOKIE in response.cookies) == (bucket(NAME, f"anonymous:{id}") < BUCKETS // 2)
            assert client.get("/").cookies == {}  # and stays

    def test_nobody_is_named_without_need(self, ana: User) -> None:
        for fields in ({"everyone": True}, {"everyone": False}, {"everyone": None, "authenticated": True}):
            flag(**fields)
            assert ANONYMOUS_COOKIE not in Client().get("/").cookies
        flag(everyone=None, percent=50.0)
        assert ANONYMOUS_COOKIE not in signed_in(ana).get("/").cookies

    def test_a_session_that_is_over_is_nobody(self) -> None:
        flag(percent=50.0)
        client = Client()
        client.cookies["sessionid"] = "x" * 32
        assert ANONYMOUS_COOKIE in client.get("/").cookies

    def test_the_backend_is_forced(self) -> None:
        # contract 8.6: whatever the flag says, and whether or not anybody can be asked
        flag(everyone=True)
        client = Client()
        assert told(client) == CHANNELS
        with override_settings(REALTIME_FORCE_BACKEND="legacy", REALTIME_REDIS_URL="redis://127.0.0.1:1"):
            assert told(client) == LEGACY

    def test_it_can_be_turned_off(self) -> None:
        flag(everyone=True)
        with override_settings(REALTIME_COHORT_COOKIE=None):
            assert Client().get("/").cookies == {}
        with override_settings(REALTIME_COHORT_COOKIE="other"):
            assert Client().get("/").cookies["other"].value == CHANNELS


class TestTheCookie:
    def test_is_for_the_server_alone(self) -> None:
        flag(everyone=True)
        found = Client().get("/").cookies[COOKIE]
        assert (found["httponly"], found["samesite"], found["path"], found["secure"]) == (True, "Lax", "/", "")
        assert Client().get("/", secure=True).cookies[COOKIE]["secure"]

    def test_caches_are_told(self) -> None:
        flag(everyone=True)
        assert "Cookie" in Client().get("/").headers["Vary"]
        assert told(Client(), "/public") is None  # or it would be everybody's who gets the copy

    def test_comes_with_a_stream_too(self) -> None:
        flag(everyone=True)
        assert told(Client(), "/stream") == CHANNELS


class TestWhatItCosts:
    def test_nothing_for_anonymous_visitors(self) -> None:
        for fields in ({"everyone": True}, {"everyone": None, "percent": 50.0}):
            flag(**fields)
            assert queries(Client()) == 0

    def test_nothing_while_all_are_treated_alike(self, ana: User) -> None:
        for everyone in (True, False, None):
            flag(everyone=everyone)
            assert queries(signed_in(ana)) == 0

    def test_nothing_where_the_view_knows_who_is_there(self, ana: User) -> None:
        flag(everyone=False)
        usual = queries(signed_in(ana), "/personal")
        flag(everyone=None, percent=50.0)
        assert queries(signed_in(ana), "/personal") == usual

    def test_groups_are_asked_for_where_they_decide(self, ana: User) -> None:
        flag(everyone=None, percent=0.1)
        usual = queries(signed_in(ana), "/personal")
        Flag.objects.get(name=NAME).groups.add(Group.objects.create(name="team"))
        push()
        rollout._asked = None
        assert queries(signed_in(ana), "/personal") == usual + 1


@pytest.mark.parametrize("path", ["/async", "/"])
def test_under_asgi(path: str, ana: User) -> None:
    flag(everyone=None, authenticated=True)
    client: Any = AsyncClient()
    client.force_login(ana)
    response = asyncio.run(client.get(path))
    assert response.cookies[COOKIE].value == CHANNELS


def test_it_never_fails_a_response(
    ana: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flag(everyone=None, percent=50.0)
    client = signed_in(ana)

    def broken(*_: object) -> None:
        raise OperationalError("the database is away")

    monkeypatch.setattr(SessionStore, "load", broken)
    for _ in range(3):
        assert client.get("/").content == b"plain"
    complaints = [record for record in caplog.records if record.name == "realtime" and record.levelno >= logging.ERROR]
    assert len(complaints) == 1  # a minute


def test_without_redis_it_goes_by_the_database() -> None:
    flag(everyone=True)
    with override_settings(REALTIME_REDIS_URL="redis://127.0.0.1:1", REALTIME_TIMEOUT=0.2):
        assert conf().timeout == 0.2
        rollout._asked = None
        assert told(Client()) == CHANNELS  # contract 8.2
