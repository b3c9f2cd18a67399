import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.db import OperationalError
from django.test import Client, override_settings
from django.urls import include, path
from waffle.models import Flag

from shim import rollout
from shim.core.cohorts import BUCKETS, bucket
from shim.facility import Facility
from shim.rollout import push
from shim.visitor import ANONYMOUS_COOKIE

urlpatterns = [path("realtime/", include("shim.urls"))]

REALTIME = {
    "legacy": {"BACKEND": "legacy_ws4redis.backend.LegacyBackend", "URL": "wss://legacy.example.com/ws/"},
    "channels": {"BACKEND": "channels_impl.backend.ChannelsBackend", "URL": "wss://channels.example.com/ws/"},
}
NAME = "realtime_channels"


@pytest.fixture(autouse=True)
def _served(bus_settings: str, database: None, facilities: dict[str, Facility]) -> Iterator[None]:
    type("Calls", (Facility,), {"name": "calls"})
    with override_settings(ROOT_URLCONF=__name__, REALTIME=REALTIME, ALLOWED_HOSTS=["testserver", "[::1]"]):
        rollout._asked = None
        yield
    rollout._asked = None


def ask(client: Client | None = None, facility: str | None = "calls", **headers: Any) -> Any:
    query = {} if facility is None else {"facility": facility}
    return (client or Client()).get("/realtime/endpoint", query, **headers)


def flag(**fields: Any) -> None:
    Flag.objects.update_or_create(name=NAME, defaults={"superusers": False, **fields})
    push()
    rollout._asked = None


class TestAnswer:
    # contract: realtime.v1 frames, the endpoint

    def test_says_where_and_how(self) -> None:
        response = ask()
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "application/json"
        assert response.json() == {
            "backend": "legacy",
            "url": "wss://legacy.example.com/ws/calls",
            "protocol": "realtime.v1",
            "reconnect": {"base_ms": 500, "cap_ms": 30_000, "spread_ms": 2_000},
        }

    def test_is_never_kept(self) -> None:
        response = ask()
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Expires"]

    @pytest.mark.parametrize("facility", [None, "", "none", "call", "calls/", "é" * 5_000])
    def test_no_such_facility_is_404(self, facility: str | None) -> None:
        response = ask(facility=facility)
        assert response.status_code == 404
        assert response.json() == {"error": "no such facility"}
        assert response.cookies == {}

    def test_a_developer_is_told_which_there_are(self) -> None:
        with override_settings(DEBUG=True):
            assert "ask for one of calls" in ask(facility="none").json()["error"]

    @pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
    def test_it_is_asked_with_get(self, method: str) -> None:
        assert getattr(Client(), method)("/realtime/endpoint?facility=calls").status_code == 405


class TestUrl:
    def url(self, setting: str | None, facility: str = "calls", **headers: Any) -> str:
        if facility != "calls":
            type(f"Named {facility}", (Facility,), {"name": facility})
        entry = {"BACKEND": REALTIME["legacy"]["BACKEND"], **({} if setting is None else {"URL": setting})}
        with override_settings(REALTIME={"legacy": entry}):
            return str(ask(facility=facility, **headers).json()["url"])

    @pytest.mark.parametrize("setting", ["wss://a.example/ws", "wss://a.example/ws/", "wss://a.example/ws//"])
    def test_ends_with_the_facility(self, setting: str) -> None:
        assert self.url(setting) == "wss://a.example/ws/calls"

    @pytest.mark.parametrize(
        ("facility", "quoted"),
        [
            ("a b", "a%20b"),
            ("é", "%C3%A9"),
            ("a/b", "a/b"),
            ("a?b#c", "a%3Fb%23c"),
            ("%41", "%2541"),
            ("日本", "%E6%97%A5%E6%9C%AC"),
        ],
    )
    def test_is_quoted(self, facility: str, quoted: str) -> None:
        assert self.url("ws://a/", facility) == f"ws://a/{quoted}"

    def test_without_one_it_is_the_host_that_was_asked(self) -> None:
        assert self.url(None) == "ws://testserver/ws/calls"
        assert self.url("", HTTP_HOST="[::1]:8000") == "ws://[::1]:8000/ws/calls"
        with override_settings(REALTIME_WS_PATH="/rt/", SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https")):
            assert self.url(None, HTTP_X_FORWARDED_PROTO="https", HTTP_HOST="testserver") == "wss://testserver/rt/calls"


class TestCohort:
    # contract 8.1

    def test_follows_the_flag(self) -> None:
        client = Client()
        assert ask(client).json()["backend"] == "legacy"
        flag(everyone=True)
        assert ask(client).json() == {
            "backend": "channels",
            "url": "wss://channels.example.com/ws/calls",
            "protocol": "realtime.v1",
            "reconnect": {"base_ms": 500, "cap_ms": 30_000, "spread_ms": 2_000},
        }
        flag(everyone=False)
        assert ask(client).json()["backend"] == "legacy"

    def test_of_a_signed_in_user(self) -> None:
        client = Client()
        client.force_login(User.objects.create_user("ana"))
        flag(authenticated=True)
        response = ask(client)
        assert response.json()["backend"] == "channels"
        assert ANONYMOUS_COOKIE not in response.cookies  # a user is subject enough
        assert ask().json()["backend"] == "legacy"

    def test_of_somebody_unknown_is_by_a_cookie_and_stays(self) -> None:
        flag(percent=50)
        seen = set()
        for _ in range(30):
            client = Client()
            first = ask(client)
            cookie = first.cookies[ANONYMOUS_COOKIE]
            backend = first.json()["backend"]
            assert backend == ("channels" if bucket(NAME, f"anonymous:{cookie.value}") < BUCKETS // 2 else "legacy")
            seen.add(backend)
            again = ask(client)
            assert again.json()["backend"] == backend
            assert again.cookies == {}
        assert seen == {"legacy", "channels"}

    def test_the_cookie_is_for_the_server_alone(self) -> None:
        cookie = ask().cookies[ANONYMOUS_COOKIE]
        assert (cookie["httponly"], cookie["samesite"], cookie["secure"]) == (True, "Lax", "")
        assert cookie["max-age"] == 365 * 86_400
        secure = Client().get("/realtime/endpoint?facility=calls", secure=True).cookies[ANONYMOUS_COOKIE]
        assert secure["secure"] is True

    @pytest.mark.parametrize("cookie", ["", "x" * 65, "a b", "é"])
    def test_a_cookie_that_is_none_of_ours_is_replaced(self, cookie: str) -> None:
        client = Client()
        client.cookies[ANONYMOUS_COOKIE] = cookie
        assert ask(client).cookies[ANONYMOUS_COOKIE].value != cookie

    def test_a_session_that_is_over_leaves_nobody_without_a_cohort(self) -> None:
        # Without a subject there is no bucket: at 100 per cent the owner of an old cookie stayed on legacy for ever.
        flag(percent=99.9)
        client = Client()
        client.cookies["sessionid"] = "x" * 32
        response = ask(client)
        assert ANONYMOUS_COOKIE in response.cookies
        assert response.json()["backend"] == "channels"

    def test_the_front_door_is_told(self) -> None:
        # contract 8.4: no cookie is legacy
        client = Client()
        assert "realtime_backend" not in ask(client).cookies
        for everyone, backend in ((True, "channels"), (False, "legacy")):
            flag(everyone=everyone)
            assert ask(client).cookies["realtime_backend"].value == backend
            assert ask(client).cookies == {}

    def test_a_session_without_a_user_is_a_subject(self) -> None:
        client = Client()
        session = client.session
        session["cart"] = 1
        session.save()
        client.cookies["sessionid"] = str(session.session_key)
        assert ask(client).cookies == {}


class TestForce:
    # contract 8.6

    @pytest.mark.parametrize("backend", ["legacy", "channels"])
    def test_is_above_the_flag_and_asks_no_database(self, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def down(self: object) -> None:
            raise OperationalError("the database is away")

        flag(everyone=backend == "legacy")
        monkeypatch.setattr(SessionStore, "load", down)
        client = Client()
        client.cookies["sessionid"] = "x" * 32
        with override_settings(REALTIME_FORCE_BACKEND=backend, REALTIME_REDIS_URL="redis://127.0.0.1:1/0"):
            response = ask(client)
        assert response.status_code == 200
        assert response.json()["backend"] == backend


def test_a_session_store_that_is_down_is_503(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def down(self: object) -> None:
        raise OperationalError("the database is away")

    monkeypatch.setattr(SessionStore, "load", down)
    client = Client()
    client.cookies["sessionid"] = "x" * 32
    response = ask(client)
    assert response.status_code == 503
    assert 5 <= int(response.headers["Retry-After"]) <= 10
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json() == {"error": "cannot tell who you are just now"}
    assert "the database is away" in caplog.text
    assert any(record.levelno == logging.ERROR for record in caplog.records)
