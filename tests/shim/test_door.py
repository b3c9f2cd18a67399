import errno
import logging
import os
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.test import Client, override_settings
from hypothesis import given
from hypothesis import strategies as st

from shim.complaints import Complaints
from shim.conf import conf
from shim.core.cohorts import LEGACY, FlagState
from shim.core.errors import InvalidAudience, RealtimeUnavailable
from shim.core.node import Node, Pace, Refusal
from shim.core.protocol import Protocol
from shim.door import (
    NOT_AN_UPGRADE,
    Handshake,
    connection_of,
    identified,
    look,
    refusal_of,
    request_of,
    wants_websocket,
)
from shim.facility import Facility
from shim.visitor import Connection
from tests.core.members import Sink
from tests.shim.people import UPGRADE, visitor


def handshake(path: str = "/ws/calls", query: str = "", **headers: str) -> Handshake:
    return Handshake(path, query, {**UPGRADE, **{name.replace("_", "-"): value for name, value in headers.items()}})


def node(**pace: float) -> Node:
    return Node(LEGACY, FlagState("f"), Pace(**pace), now=0.0, random=lambda: 0.5)


@pytest.fixture
def calls(facilities: dict[str, Facility]) -> Facility:
    class Calls(Facility):
        name = "calls"

    return facilities["calls"]


def status(found: object) -> int:
    assert isinstance(found, Refusal)
    assert found.reason
    assert found.reason.isprintable()
    assert len(found.reason) < 250
    return found.status


class TestLook:
    # contract 1.1

    def test_lets_in(self, calls: Facility) -> None:
        assert look(handshake(), node(), conf(), 0.0) is calls

    def test_refusals_come_in_the_order_of_their_cost(self, calls: Facility) -> None:
        full = node(admissions=0.001, admission_burst=1.0)
        full.admit(0.0)
        worst = {"origin": "https://evil.example", "upgrade": "h2c"}
        assert status(look(handshake("/ws/none", **worst), full, conf(), 0.0)) == 426
        del worst["upgrade"]
        assert status(look(handshake("/ws/none", **worst), full, conf(), 0.0)) == 404
        assert status(look(handshake("/ws/calls", **worst), full, conf(), 0.0)) == 403
        assert status(look(handshake("/ws/calls"), full, conf(), 0.0)) == 503

    def test_who_is_refused_takes_no_admission(self, calls: Facility) -> None:
        one = node(admissions=0.001, admission_burst=1.0)
        for _ in range(5):
            status(look(handshake("/ws/none"), one, conf(), 0.0))
            status(look(handshake(origin="https://evil.example"), one, conf(), 0.0))
        assert look(handshake(), one, conf(), 0.0) is calls

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"upgrade": "websocket"},
            {"connection": "upgrade"},
            {"upgrade": "h2c", "connection": "upgrade"},
            {"upgrade": "websocket", "connection": "keep-alive"},
            {"upgrade": "websocket", "connection": "x-upgrade"},
        ],
    )
    def test_not_an_upgrade_is_426(self, headers: dict[str, str], calls: Facility) -> None:
        assert look(Handshake("/ws/calls", "", headers), node(), conf(), 0.0) is NOT_AN_UPGRADE
        assert NOT_AN_UPGRADE.status == 426

    @pytest.mark.parametrize("connection", ["Upgrade", "keep-alive, Upgrade", "UPGRADE", "upgrade,keep-alive"])
    def test_an_upgrade_is_said_in_many_ways(self, connection: str, calls: Facility) -> None:
        headers = {"upgrade": "WebSocket", "connection": connection}
        assert look(Handshake("/ws/calls", "", headers), node(), conf(), 0.0) is calls

    @pytest.mark.parametrize(
        "path", ["/ws/", "/ws", "/ws/call", "/ws/calls/", "/ws//calls", "/calls", "/", "", "/ws/Calls"]
    )
    def test_no_such_facility_is_404(self, path: str, calls: Facility) -> None:
        assert status(look(handshake(path), node(), conf(), 0.0)) == 404

    @given(st.text(max_size=300))
    def test_any_path_is_a_clean_404(self, path: str) -> None:
        assert status(look(handshake("/ws/" + path + "?"), node(), conf(), 0.0)) == 404

    def test_a_facility_of_any_name_is_found(self, facilities: dict[str, Facility]) -> None:
        for name in ("é/ü", "a b", "%41"):
            type(f"Named {name}", (Facility,), {"name": name})
            assert look(handshake(f"/ws/{name}"), node(), conf(), 0.0) is facilities[name]

    def test_the_path_is_the_projects(self, calls: Facility) -> None:
        with override_settings(REALTIME_WS_PATH="/rt/v2/"):
            assert look(handshake("/rt/v2/calls"), node(), conf(), 0.0) is calls
            assert status(look(handshake(), node(), conf(), 0.0)) == 404
            assert wants_websocket(handshake("/rt/v2/none"), conf())
            assert not wants_websocket(handshake(), conf())

    def test_a_stopping_process_is_503_with_retry_after(self, calls: Facility) -> None:
        # contract 9.1
        stopping = node()
        stopping.drain(0.0)
        refusal = look(handshake(), stopping, conf(), 0.0)
        assert status(refusal) == 503
        assert isinstance(refusal, Refusal)
        assert refusal.headers()[0][0] == "Retry-After"


class TestOrigin:
    # contract 1.1

    @pytest.mark.parametrize(
        ("origin", "hosts", "origins", "allowed"),
        [
            (None, ["example.com"], None, True),  # not a browser
            ("https://example.com", ["example.com"], None, True),
            ("https://EXAMPLE.com:8443", ["example.com"], None, True),
            ("http://a.example.com", [".example.com"], None, True),
            ("http://[::1]:8000", ["[::1]"], None, True),
            ("https://evil.com", ["*"], None, True),
            ("https://evil.com", ["example.com"], None, False),
            ("https://example.com.evil.com", ["example.com"], None, False),
            ("https://evilexample.com", [".example.com"], None, False),
            ("https://evil.com/example.com", ["example.com"], None, False),
            ("https://example.com@evil.com", ["example.com"], None, False),
            ("https://evil.com#example.com", ["example.com"], None, False),
            ("null", ["example.com"], None, False),  # a sandboxed frame, a file
            ("", ["example.com"], None, False),
            ("example.com", ["example.com"], None, False),
            ("http://[::1", ["[::1]"], None, False),
            ("https://example.com, https://evil.com", ["example.com"], None, False),
            ("https://app.example.org", ["example.com"], ["app.example.org"], True),
            ("https://example.com", ["example.com"], ["app.example.org"], False),  # instead of ALLOWED_HOSTS
            ("https://evil.com", ["example.com"], ["*"], True),
            ("https://example.com", ["example.com"], [], False),
        ],
    )
    def test_is_one_of_those_allowed(
        self, origin: str | None, hosts: list[str], origins: list[str] | None, allowed: bool, calls: Facility
    ) -> None:
        request = handshake() if origin is None else handshake(origin=origin)
        with override_settings(ALLOWED_HOSTS=hosts, REALTIME_ALLOWED_ORIGINS=origins):
            found = look(request, node(), conf(), 0.0)
        if allowed:
            assert found is calls
        else:
            assert status(found) == 403
            assert isinstance(found, Refusal)
            assert "REALTIME_ALLOWED_ORIGINS" in found.reason

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "a.localhost"])
    def test_a_developers_own_machine_in_debug(self, host: str, calls: Facility) -> None:
        with override_settings(ALLOWED_HOSTS=[], DEBUG=True):
            assert look(handshake(origin=f"http://{host}:8000"), node(), conf(), 0.0) is calls
            assert status(look(handshake(origin="http://example.com"), node(), conf(), 0.0)) == 403
        with override_settings(ALLOWED_HOSTS=[], DEBUG=False):
            assert status(look(handshake(origin=f"http://{host}:8000"), node(), conf(), 0.0)) == 403


class TestHandshake:
    def test_subprotocols_keep_their_order(self) -> None:
        offered = handshake(sec_websocket_protocol=" chat , realtime.v1,,").subprotocols
        assert offered == ["chat", "realtime.v1"]
        assert handshake().subprotocols == []

    @pytest.mark.parametrize(
        "others",
        ["", 'prefs={"dark":true}; ', "a b=c; ", "foo[bar]=1; ", "\x01=1; ", "é=1; ", "=; ; ", "a='; ", 'a="; '],
    )
    def test_another_cookie_takes_none_away(self, others: str) -> None:
        # contract 1.2: as Django reads them, or who is signed in there were nobody here
        assert handshake(cookie=f"{others}sessionid=abc").cookies["sessionid"] == "abc"


class TestIdentified:
    # contract 1.2

    def enter(self, found: Facility, **options: Any) -> Connection | Refusal:
        return identified(handshake(**options), found, LEGACY, conf())

    def test_the_visitor(self, calls: Facility, database: None) -> None:
        user = User.objects.create_user("ana")
        client = Client()
        client.force_login(user)
        key = client.cookies["sessionid"].value
        offered = "realtime.v1"
        found = self.enter(
            calls, query="subscribe-user&x=%C3%A9", cookie=f"sessionid={key}", sec_websocket_protocol=offered
        )
        assert isinstance(found, Connection)
        assert (found.user, found.session_key, found.facility, found.backend) == (user, key, "calls", "legacy")
        assert found.protocol is Protocol.V1
        assert "subscribe-user" in found.query
        assert found.query["x"] == "é"
        assert len(found.id) >= 16

    def test_ids_are_unguessable(self, calls: Facility, database: None) -> None:
        ids = {found.id for _ in range(20) if isinstance(found := self.enter(calls), Connection)}
        assert len(ids) == 20

    def test_a_session_store_that_is_down_is_503(
        self, calls: Facility, database: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def down(self: object) -> None:
            raise OperationalError("the database is away")

        monkeypatch.setattr(SessionStore, "load", down)
        found = self.enter(calls, cookie="sessionid=" + "x" * 32)
        assert status(found) == 503
        assert isinstance(found, Refusal)
        assert found.retry_after
        assert "the database is away" in caplog.text
        assert "xxxx" not in caplog.messages[0]

    def test_too_many_arguments_are_400(self, calls: Facility, database: None) -> None:
        assert status(self.enter(calls, query="&".join(["a"] * 1_500))) == 400

    def test_any_query_is_read(self, calls: Facility, database: None) -> None:
        for query in ("%ff%00&=&&;", "a" * 20_000, "é"):
            assert isinstance(self.enter(calls, query=query), Connection)


class TestRefusalOf:
    # contract 1.1

    @pytest.mark.parametrize(
        ("error", "status", "reason"),
        [
            (PermissionDenied("interpreters only"), 403, "interpreters only"),
            (PermissionDenied(), 403, "the facility refused this connection"),
            (RealtimeUnavailable("Redis is away"), 503, "messages cannot be had just now"),
            (InvalidAudience("two users"), 500, "the facility failed"),
            (ZeroDivisionError(), 500, "the facility failed"),
        ],
        ids=repr,
    )
    def test_each(self, error: Exception, status: int, reason: str, caplog: pytest.LogCaptureFixture) -> None:
        refusal = refusal_of(error, visitor(), node())
        assert (refusal.status, refusal.reason) == (status, reason)
        assert (refusal.retry_after is not None) == (status == 503)
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(errors) == (status == 500)  # what the facility or Redis means to say is no fault

    @pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
    def test_no_descriptor_left(
        self, number: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Who comes again finds room perhaps; thousands may come, and each would be a line.
        monkeypatch.setattr("shim.door._complaints", Complaints())
        for _ in range(3):
            refusal = refusal_of(OSError(number, os.strerror(number)), visitor(), node())
            assert (refusal.status, refusal.retry_after is None) == (503, False)
        (said,) = caplog.records
        assert os.strerror(number) in said.getMessage()
        assert not said.exc_info


class TestElsewhere:
    # contract 8.3

    def moved(self, handshake: Handshake, facility: str = "calls") -> dict[str, Any]:
        """What a v1 client is told when it has to move."""
        (said,) = self.told(handshake, facility)
        return said

    def told(self, handshake: Handshake, facility: str = "calls") -> list[dict[str, Any]]:
        """The same; nothing where it is closed."""
        sink = Sink()
        core = connection_of(
            visitor(facility=facility, protocol=Protocol.V1),
            (),
            sink,
            handshake=handshake,
            node=node(),
            conf=conf(),
            pings=True,
            now=0.0,
            random=0.5,
        )
        core.accepted(0.0)
        core.received('{"op":"hello"}', 0.0)
        core.joined({}, {})
        sink.frames.clear()
        core.move(4.0)
        return sink.said

    @pytest.mark.parametrize("url", ["", "ws://front.example.com/ws/"])
    def test_is_nowhere_where_both_have_one_address(self, url: str) -> None:
        # Behind a front door that routes by a cookie: closed, it asks the endpoint, which sets that cookie (8.4).
        both = {
            "legacy": {"BACKEND": "legacy_ws4redis.backend.LegacyBackend", "URL": url},
            "channels": {"BACKEND": "channels_impl.backend.ChannelsBackend", "URL": url},
        }
        with override_settings(REALTIME=both, ALLOWED_HOSTS=["example.com"]):
            assert self.told(handshake(host="example.com")) == []

    @pytest.mark.parametrize("facility", ["calls", "é/ü", "日本", "a b?#"])
    def test_is_where_discovery_says_that_the_other_backend_is(self, facility: str) -> None:
        channels = {"BACKEND": "channels_impl.backend.ChannelsBackend"}
        with override_settings(REALTIME={"channels": channels}, ALLOWED_HOSTS=["example.com"]):
            said = self.moved(handshake(f"/ws/{facility}", host="example.com:8000"), facility)
        assert (said["op"], said["backend"]) == ("move", "channels")
        assert said["url"] == f"ws://example.com:8000/ws/{quote(facility, safe='/')}"


def test_a_header_with_an_underscore_stands_for_no_other() -> None:
    # contract 1.2: some servers pass it on. A proxy that sets the one with a hyphen does not take this one away.
    sent = Handshake("/ws/calls", "", {**UPGRADE, "x-forwarded-user": "ana", "x_forwarded_user": "root"})
    assert request_of(sent).META["HTTP_X_FORWARDED_USER"] == "ana"
    sent = Handshake("/ws/calls", "", {**UPGRADE, "x_forwarded_user": "root"})
    assert "HTTP_X_FORWARDED_USER" not in request_of(sent).META
