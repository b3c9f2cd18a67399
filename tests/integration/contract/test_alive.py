"""Contract 7.1: who is silent, and who only seems to be. On servers with short patience."""

import json
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from shim import Group, realtime
from tests.integration.contract.cluster import MAIN, PATIENCE, Cluster, Place
from tests.integration.contract.places import at_once
from tests.integration.contract.wire import CLOSE, PING, PONG, TEXT, Wire, close_frame, frame

pytestmark = pytest.mark.servers

V1 = "realtime.v1"
ROUNDS = 2


@pytest.fixture
def both(strained: Cluster) -> list[Place]:
    return [strained.place(name) for name in MAIN]


def opened(place: Place, protocol: str | None = None, facility: str = "contract", **query: Any) -> Wire:
    wire = Wire(place).opened(place.path(facility, **{"listen": [], **query}), protocol=protocol)
    return wire.hello() if protocol else wire


# 7.1: heartbeats


@at_once
def test_silence(place: Place, name: str) -> None:
    # contract 7.1: a ping, and 4002 when nothing at all follows it
    with opened(place, note=name) as raw, opened(place, V1, note=f"{name}-v1") as v1:
        assert raw.read() == (PING, b"")
        assert v1.read() == (TEXT, b'{"op":"ping"}')
        for wire in (raw, v1):
            assert wire.read() == (CLOSE, struct.pack("!H", 4002) + b"nothing heard for 1.9 s after a ping")
            wire.send(close_frame(4002))
            assert wire.end() is None
    assert place.ended(name) == place.ended(f"{name}-v1") == [4002]


def pong(wire: Wire) -> None:
    assert wire.read() == (PING, b"")
    wire.send(frame(PONG, b""))


def talk(wire: Wire) -> None:
    assert wire.read() == (PING, b"")
    wire.send(frame(TEXT, b"busy"))


def ping(wire: Wire) -> None:
    while wire.read() != (PING, b""):
        pass
    wire.send(frame(PING, b"mine"))


def beat(wire: Wire) -> None:
    assert {wire.read(), wire.read()} == {(TEXT, b"--heartbeat--"), (PING, b"")}
    wire.send(frame(TEXT, b"--heartbeat--"))


def pong_v1(wire: Wire) -> None:
    assert wire.read() == (TEXT, b'{"op":"ping"}')
    wire.send(frame(TEXT, b'{"op":"pong"}'))


@at_once
def test_signs_of_life(place: Place, name: str) -> None:
    # contract 7.1: anything received counts; heartbeats are never a message
    lives: list[tuple[Callable[[Wire], None], dict[str, Any], int]] = [
        (pong, {}, 0),
        (talk, {}, ROUNDS),
        (ping, {}, 0),
        (beat, {"heartbeat": ""}, 0),
        (pong_v1, {"protocol": V1}, 0),
    ]

    def live(number: int) -> None:
        sign, query, sent = lives[number]
        with opened(place, note=f"{name}-{number}", **query) as wire:
            for _ in range(ROUNDS):
                sign(wire)
            wire.send(close_frame(1000))
            assert wire.end() == 1000
        assert place.ended(f"{name}-{number}") == [1000]
        assert len(place.notes.read(f"{name}-{number}", "receive")) == sent

    with ThreadPoolExecutor(len(lives)) as threads:
        list(threads.map(live, range(len(lives))))


@at_once
def test_a_client_of_v1_that_says_nothing(place: Place, name: str) -> None:
    # the contract's close codes: 4003
    with Wire(place).opened(place.path(note=name, listen=[]), protocol=V1) as wire:
        assert wire.read() == (CLOSE, struct.pack("!H", 4003) + b"no hello within 4 s")
    assert place.ended(name) == [4003]


def test_a_long_handler_is_not_silence(both: list[Place], name: str) -> None:
    # contract 7.1: what lies unread while a handler works is our silence, not the client's
    cases = [(place, facility) for place in both for facility in ("contract", "contract-async")]
    with ThreadPoolExecutor(len(cases)) as threads:
        list(threads.map(partial(work_long, name), cases))


def work_long(name: str, case: tuple[Place, str]) -> None:
    place, facility = case
    name = f"{name}-{place.name}-{facility}"
    with opened(place, facility=facility, note=name) as wire, opened(place) as clock:
        wire.send(frame(TEXT, json.dumps({"do": "wait", "gate": name}).encode()))
        wire.send(frame(TEXT, b"another, so that nothing more is read"))
        for _ in range(ROUNDS):  # another connection's heartbeats tell the time
            assert clock.read() == (PING, b"")
            clock.send(frame(PONG, b""))
        place.notes.open_gate(name)
        wire.send(frame(TEXT, b'{"do":"echo","value":"still here"}'))
        while (got := wire.read()) != (TEXT, b"still here"):
            assert got[0] == PING
            wire.send(frame(PONG, b""))


@at_once
def test_a_client_that_stalls_and_is_silent(place: Place, name: str) -> None:
    # contract 7.1: below the backlog limit, silence ends it; nothing of it stays
    with Wire(place, receive_buffer=4_096).opened(place.path(listen=[["g", name]], note=name)) as wire:
        for _ in range(60):
            realtime.publish("contract", Group(name), "x" * 65_536)
        assert place.ended(name)[0] in (4001, 4002)
        place.let_go_of(wire.port)


@at_once
def test_a_client_that_never_stops_sending(place: Place, name: str) -> None:
    # contract 6.3, 7.2: it is closed for its rate, and others do not wait for it meanwhile
    flood = frame(TEXT, b"x") * 5_000
    with opened(place, note=name) as wire, opened(place) as other:
        wire.socket.settimeout(0.01)
        deadline = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < deadline:
                wire.send(flood)
        except (TimeoutError, OSError):
            pass
        other.send(frame(TEXT, b'{"do":"echo","value":"not held up"}'))
        assert other.read() == (TEXT, b"not held up")
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert place.ended(name) == [1008]
