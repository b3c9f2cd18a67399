"""Contract 1: opening. Both backends refuse the same handshakes, with the same status and the same words."""

from functools import partial
from typing import Any

import pytest
from django.utils.module_loading import import_string

from tests.integration.contract.cluster import Cluster, Place, wait_until
from tests.integration.contract.places import everywhere, with_line
from tests.integration.contract.sessions import BROKEN
from tests.integration.contract.wire import Wire, raw, refused, said, v1

pytestmark = pytest.mark.servers


BACKENDS = {
    "legacy": "legacy_ws4redis.backend.LegacyBackend",
    "channels": "channels_impl.backend.ChannelsBackend",
}


def cookie(session: str) -> dict[str, str]:
    return {"Cookie": f"sessionid={session}"}


@everywhere
def test_opens(place: Place) -> None:
    with raw(place, listen=[]) as websocket:
        websocket.send('{"do":"echo","value":"here"}')
        assert websocket.recv(10) == "here"
    with v1(place) as (websocket, ready):
        assert ready["backend"] == place.backend
        websocket.send('{"op":"send","id":1,"data":{"do":"echo","value":"here"}}')
        assert {said(websocket)["op"], said(websocket)["op"]} == {"msg", "ack"}


# 1.1: refusals

NOT_AN_UPGRADE = b"this address speaks WebSocket: send an Upgrade request"
PLAIN = {"Connection": "close", "Upgrade": None, "Sec-WebSocket-Key": None, "Sec-WebSocket-Version": None}

REFUSALS: dict[str, tuple[dict[str, Any], int, bytes]] = {
    "a plain request": ({"headers": PLAIN}, 426, NOT_AN_UPGRADE),
    "a plain POST": ({"headers": {**PLAIN, "Content-Length": "0"}, "method": "POST"}, 426, NOT_AN_UPGRADE),
    "a plain HEAD": ({"headers": PLAIN, "method": "HEAD"}, 426, b""),
    "no Upgrade": ({"headers": {"Upgrade": None}}, 426, NOT_AN_UPGRADE),
    "another Upgrade": ({"headers": {"Upgrade": "h2c"}}, 426, NOT_AN_UPGRADE),
    "two Upgrades": ({"headers": {"Upgrade": "websocket, h2c"}}, 426, NOT_AN_UPGRADE),
    "no Connection: Upgrade": ({"headers": {"Connection": "keep-alive"}}, 426, NOT_AN_UPGRADE),
    "a token that only looks like it": ({"headers": {"Connection": "no-upgrade"}}, 426, NOT_AN_UPGRADE),
    "no key": ({"headers": {"Sec-WebSocket-Key": None}}, 400, b"missing Sec-WebSocket-Key header"),
    "a bad key": ({"headers": {"Sec-WebSocket-Key": "abc"}}, 400, b"invalid Sec-WebSocket-Key header: abc"),
    "a short key": ({"headers": {"Sec-WebSocket-Key": "YWJj"}}, 400, b"invalid Sec-WebSocket-Key header: YWJj"),
    "no version": ({"headers": {"Sec-WebSocket-Version": None}}, 400, b"missing Sec-WebSocket-Version header"),
    "an old version": ({"headers": {"Sec-WebSocket-Version": "8"}}, 400, b"invalid Sec-WebSocket-Version header: 8"),
    "POST": ({"method": "POST", "headers": {"Content-Length": "0"}}, 400, b"a WebSocket handshake is a GET request"),
    "HEAD": ({"method": "HEAD"}, 400, b""),
    "PUT": ({"method": "PUT"}, 400, b"a WebSocket handshake is a GET request"),
    "a body": ({"headers": {"Content-Length": "3"}, "after": b"abc"}, 400, b"a WebSocket handshake has no body"),
    "a POST with a body": (
        {"method": "POST", "headers": {"Content-Length": "3"}, "after": b"abc"},
        400,
        b"a WebSocket handshake is a GET request",
    ),
    "a chunked body": (
        {"headers": {"Transfer-Encoding": "chunked"}, "after": b"0\r\n\r\n"},
        400,
        b"a WebSocket handshake has no body",
    ),
    "no such facility": ({"path": "/ws/nowhere"}, 404, b"there is no facility 'nowhere'"),
    "no facility": ({"path": "/ws/"}, 404, b"there is no facility ''"),
    "a slash too many": ({"path": "/ws/contract/"}, 404, b"there is no facility 'contract/'"),
    "NUL in a name": ({"path": "/ws/contract%00"}, 404, b"there is no facility 'contract\\x00'"),
    "bad UTF-8 in a name": ({"path": "/ws/%FF"}, 404, "there is no facility '\ufffd'".encode()),
    "an origin": (
        {"headers": {"Origin": "https://evil.example"}},
        403,
        b"origin 'https://evil.example' is not allowed: see REALTIME_ALLOWED_ORIGINS",
    ),
    "origin null": ({"headers": {"Origin": "null"}}, 403, b"origin 'null' is not allowed"),
    "an origin that is none": ({"headers": {"Origin": "http://[::1"}}, 403, b"origin 'http://[::1' is not allowed"),
    "the facility": ({"path": "/ws/contract?refuse=not+you"}, 403, b"not you"),
    "the facility, async": ({"path": "/ws/contract-async?refuse=not+you"}, 403, b"not you"),
    "the facility, without words": ({"path": "/ws/contract?refuse="}, 403, b"the facility refused this connection"),
    "a bug": ({"path": "/ws/contract?fail"}, 500, b"the facility failed"),
    "a bug, async": ({"path": "/ws/contract-async?fail"}, 500, b"the facility failed"),
    "the session store": ({"headers": cookie(BROKEN)}, 503, b"cannot tell who you are just now"),
}


@pytest.mark.parametrize("case", REFUSALS)
@with_line
def test_refuses(place: Place, case: str) -> None:
    # contract 1.1
    options, status, reason = REFUSALS[case]
    with Wire(place) as wire:
        answer = wire.ask(**{"path": "/ws/contract", **options})
    assert (answer.status, answer.body[: len(reason)]) == (status, reason)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert ("retry-after" in answer.headers) == (status == 503)
    if status == 426 and place.name != "runserver":
        assert answer.headers["upgrade"] == "websocket"  # RFC 9110 section 15.5.22; wsgiref forbids the header


@pytest.mark.parametrize("place", ["asgi"], indirect=True)
def test_refuses_by_asgi_alone(place: Place) -> None:
    # Any ASGI server with `websocket.http.response`: what reaches the application is refused as everywhere.
    for options, status, reason in REFUSALS.values():
        if status not in (400, 426):
            with Wire(place) as wire:
                answer = wire.ask(**{"path": "/ws/contract", **options})
            assert (answer.status, answer.body[: len(reason)]) == (status, reason)


def test_an_old_http_version(place: Place) -> None:
    # RFC 6455 section 4.1: HTTP/1.1 at least; what nginx speaks to a backend unless it is told otherwise
    with Wire(place) as wire:
        answer = wire.ask("/ws/contract", version="HTTP/1.0")
    if import_string(BACKENDS[place.backend]).sees_http_version:
        assert (answer.status, b"proxy_http_version" in answer.body) == (400, True)
    else:
        assert answer.status == 101


def test_what_looks_odd_is_welcome(place: Place) -> None:
    for headers in (
        {"Connection": "keep-alive, Upgrade"},
        {"Upgrade": "WebSocket"},
        {"Origin": "http://localhost:1234"},
        {"Host": "elsewhere.example"},
        {"Cookie": "\xff;;;=;sessionid"},
        {"Sec-WebSocket-Extensions": "permessage-deflate"},
        {"X-Latin-1": "\xe9"},
    ):
        with Wire(place) as wire:
            answer = wire.ask("/ws/contr%61ct?%FF=%FF&a=%", headers)
            assert answer.status == 101, (headers, answer)
            assert "sec-websocket-extensions" not in answer.headers  # about 300 KiB for each connection


@pytest.mark.parametrize(("offered", "chosen"), [("chat", None), ("chat, realtime.v1", "realtime.v1"), (None, None)])
def test_the_subprotocol_decides_the_protocol(place: Place, offered: str | None, chosen: str | None) -> None:
    with Wire(place) as wire:
        answer = wire.ask("/ws/contract", {"Sec-WebSocket-Protocol": offered})
        assert (answer.status, answer.headers.get("sec-websocket-protocol")) == (101, chosen)


def test_too_many_at_once(cluster: Cluster) -> None:
    # contract 1.1: over the admission rate, met at the door: 503 and Retry-After
    env = {"CONTRACT_PACE": '{"admissions": 0.001, "admission_burst": 2, "retry_after": 7}'}
    for number, kind in enumerate(("gthread", "uvicorn")):
        place = cluster.more(kind, f"narrow-{kind}", cluster.stack.port_base + 10 + number, env)
        for _ in range(2):
            with raw(place):
                pass
        answer = refused(place)
        assert (answer.status, answer.body) == (503, b"too many are coming in at once")
        assert 7 <= int(answer.headers["retry-after"]) <= 14
        assert refused(place, "nowhere").status == 404  # what costs nothing is not counted


# 1.2: who


def test_who_it_is(place: Place, name: str) -> None:
    person = place.ask("person", name=name, groups=[f"{name}-é:{{x}}", f"{name}-b"])
    with v1(place, headers=cookie(person["session"])) as (_, ready):
        assert set(ready["topics"]) == {"everyone", "user", "session", f"group:{name}-é:{{x}}", f"group:{name}-b"}


def test_nobody(place: Place, name: str) -> None:
    for session in ("0" * 32, "", "x" * 5_000, place.ask("person", name=name, expired=True)["session"]):
        with v1(place, headers=cookie(session)) as (_, ready):
            assert set(ready["topics"]) == {"everyone"}


# 1.3: which audiences


def test_a_client_narrows_what_it_gets(place: Place, name: str) -> None:
    person = place.ask("person", name=name, groups=[name])
    all_of_them = {"everyone", "user", "session", f"group:{name}"}
    narrowings: list[tuple[dict[str, Any], set[str]]] = [
        ({"subscribe-user": ""}, {"user"}),
        ({"subscribe_group": "", "subscribe_everyone": ""}, {"everyone", f"group:{name}"}),
        ({"subscribe_broadcast": ""}, {"everyone"}),
        ({"subscribe_session": "", "subscribe_user": "x"}, {"session", "user"}),
        ({"subscribe_strangers": ""}, all_of_them),
        ({}, all_of_them),
    ]
    for narrowing, expected in narrowings:
        with v1(place, headers=cookie(person["session"]), **narrowing) as (_, ready):
            assert set(ready["topics"]) == expected
    with v1(place, subscribe_user="") as (_, ready):
        assert ready["topics"] == {}  # nobody's user


def test_the_end_of_the_query_is_not_read_for_ever(place: Place) -> None:
    # A handshake's head is bounded, and what is over the bound is answered: never left without an answer.
    with Wire(place) as wire:
        assert wire.ask(f"/ws/contract?{'x' * 20_000}").status in (101, 400, 414)


# While the door is open


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "fin"])
@everywhere
def test_a_client_that_leaves_at_the_door(place: Place, name: str, reset: bool) -> None:
    # It never was a connection, so nobody is told that it ended (contract 6.4).
    for facility in ("contract", "contract-async"):
        note = f"{name}-{facility}"
        wire = Wire(place)
        wire.send_handshake(place.path(facility, hold=name, note=note))
        wait_until(partial(place.notes.read, note, "audiences"))
        wire.reset() if reset else wire.close()
    place.notes.open_gate(name)
    for facility in ("contract", "contract-async"):
        wait_until(partial(place.notes.read, f"{name}-{facility}", "held"))
    with raw(place, listen=[]) as websocket:  # a fence: what comes after the gate has had its time
        websocket.send('{"do":"echo","value":1}')
        assert websocket.recv(10) == "1"
    assert [place.notes.read(f"{name}-{facility}", "disconnected") for facility in ("contract", "contract-async")] == [
        [],
        [],
    ]
