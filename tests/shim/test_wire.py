"""`REALTIME_WIRE = "ws4redis"`: what applications and clients meet, in memory. Beside the real package: tests/mixed."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final, Literal

import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.test import override_settings

from shim import (
    Connection,
    Everyone,
    Facility,
    History,
    InvalidAudience,
    InvalidPayload,
    Kind,
    Message,
    Position,
    Receipt,
    Session,
    User,
    realtime,
)
from shim.conf import conf
from shim.core.cohorts import Snapshot
from shim.core.names import control_channel
from shim.core.wire import Record, encode
from shim.core.wires import RealtimeWire, Ws4redisWire
from shim.testing import InMemory, Refused, TestConnection, connect

type Backend = Literal["legacy", "channels"]

BACKENDS: Final[tuple[Backend, ...]] = ("legacy", "channels")
PROTOCOLS: Final[tuple[Literal["raw", "v1"], ...]] = ("raw", "v1")


class Square(Facility):
    name = "wire-square"
    echo = False

    def receive(self, connection: Connection, message: Message) -> None:
        realtime.publish(self.name, Everyone(), message, sender=connection)


@pytest.fixture
def memory() -> Iterator[InMemory]:
    with (
        InMemory() as made,
        override_settings(REALTIME_WIRE="ws4redis", WS4REDIS_PREFIX="site", WS4REDIS_HEARTBEAT="--heartbeat--"),
    ):
        yield made


def kept(memory: InMemory, key: str) -> Any:
    return memory.redis.call(("GET", key))


class TestPublishing:
    def test_is_what_the_old_processes_do(self, memory: InMemory) -> None:
        assert realtime.publish("wire-square", Everyone(), {"a": 1}) == Receipt(None)
        assert kept(memory, "site:broadcast:wire-square") == b'{"a":1}'
        realtime.publish("wire-square", Everyone(), "at most once", history=History(0))
        realtime.publish_many([("wire-square", User("ana"), "1"), ("wire-square", User("ana"), "2")])
        assert kept(memory, "site:broadcast:wire-square") == b'{"a":1}'
        assert kept(memory, "site:user:ana:wire-square") == b"2"
        memory.advance(301)
        assert kept(memory, "site:user:ana:wire-square") is None

    def test_of_the_async_twin_too(self, memory: InMemory) -> None:
        asyncio.run(realtime.apublish("wire-square", Session("k1"), b"\xff"))
        assert kept(memory, "site:session:k1:wire-square") == b"\xff"

    @pytest.mark.parametrize("body", ["", b"", "--heartbeat--"])
    def test_what_old_processes_do_not_deliver_is_refused(self, memory: InMemory, body: str | bytes) -> None:
        # contract 4.2
        with pytest.raises(InvalidPayload, match="no empty message and no heartbeat"):
            realtime.publish_many([("wire-square", Everyone(), "fine"), ("wire-square", Everyone(), body)])
        assert memory.outbox == []

    def test_an_ambiguous_name_is_refused_at_the_call_not_at_the_commit(self, memory: InMemory) -> None:
        with transaction.atomic(), pytest.raises(InvalidAudience, match="because of its colon"):
            realtime.publish("a:b", User("ana"), "x", on_commit=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("memory")
class TestClients:
    def test_get_the_last_message_and_then_live_ones(self, backend: Backend) -> None:  # contract 5.2
        realtime.publish("wire-square", Everyone(), "kept")
        with connect("wire-square", backend=backend, protocol="raw") as raw, v1(backend) as client:
            realtime.publish("wire-square", Everyone(), b"\xff")
            realtime.publish("wire-square", Everyone(), {"a": 1})
            assert raw.receive_all() == ["kept", b"\xff", '{"a":1}']
            assert client.receive_all() == [b"\xff", '{"a":1}']

    def test_recover_nothing_and_are_told_so(self, backend: Backend) -> None:  # contract 5.3
        with v1(backend, resume={"everyone": Position("5f0c2a9b41d7e683", 7)}) as client:
            assert client.ready is not None
            assert (client.ready["topics"], client.ready["recovered"]) == ({"everyone": None}, {"everyone": False})

    def test_do_not_get_back_what_they_have_sent(self, backend: Backend) -> None:  # contract 6.5
        for protocol in PROTOCOLS:
            with (
                connect("wire-square", backend=backend, protocol=protocol) as sender,
                connect("wire-square", backend=backend, protocol=protocol) as other,
            ):
                for value in ("a", "b"):
                    sender.send(value)
                realtime.publish("wire-square", Everyone(), "a", history=History(0))
                assert sender.receive_all()[-1:] == ["a"]  # somebody else's, and equal
                assert other.receive_all()[-3:] == ["a", "b", "a"]

    def test_are_closed_when_they_have_to_move(self, backend: Backend, memory: InMemory) -> None:  # contract 8.3, 8.4
        clients = [connect("wire-square", backend=backend, protocol=protocol) for protocol in PROTOCOLS]
        flip(memory, to=next(each for each in BACKENDS if each != backend))
        memory.advance(2)
        assert [client.closed for client in clients] == [1012, 1012]
        assert all(frame["op"] != "move" for frame in clients[1].told)

    @pytest.mark.usefixtures("database")
    def test_are_thrown_out_as_ever(self, backend: Backend) -> None:  # contract 7.5
        with connect("wire-square", backend=backend, user=get_user_model().objects.create_user("ana")) as ana:
            realtime.disconnect(User("ana"))
            ana.receive_all()
            assert ana.closed == 4500


def v1(backend: Backend, **options: Any) -> TestConnection:
    return connect("wire-square", backend=backend, protocol="v1", **options)


def flip(memory: InMemory, *, to: str) -> None:
    snapshot = Snapshot("realtime_channels", exists=True, everyone=to == "channels", version=("a" * 16, 1))
    said = encode(Record(Kind.JSON, json.dumps({"op": "flag", "snapshot": snapshot.to_json()}).encode()))
    memory.redis.call(("PUBLISH", control_channel(conf().prefix), said))
    memory.settle()


class TestSettings:
    def test_one_wire_at_a_time(self, memory: InMemory) -> None:
        wire = conf().wire
        assert isinstance(wire, Ws4redisWire)
        assert (wire.prefix, wire.heartbeat) == ("site", "--heartbeat--")
        with override_settings(REALTIME_WIRE="realtime"):
            assert conf().wire == RealtimeWire("rt")

    def test_what_ws4redis_leaves_out_is_left_out(self, memory: InMemory) -> None:
        with override_settings(WS4REDIS_PREFIX=None, WS4REDIS_HEARTBEAT=""):
            wire = conf().wire
            assert isinstance(wire, Ws4redisWire)
            assert (wire.prefix, wire.heartbeat) == ("", None)

    @pytest.mark.parametrize("value", ["ws4", None, True])
    def test_what_is_no_wire_is_said(self, memory: InMemory, value: object) -> None:
        with (
            override_settings(REALTIME_WIRE=value),
            pytest.raises(ImproperlyConfigured, match="REALTIME_WIRE is 'realtime' or 'ws4redis', not"),
        ):
            conf()


@pytest.mark.usefixtures("memory")
class TestCompatibleFacilities:
    """What a URL names is the client's."""

    @pytest.fixture(autouse=True)
    def compatible(self, memory: InMemory) -> Iterator[None]:
        with override_settings(REALTIME_WS4REDIS=True):
            yield

    @pytest.mark.usefixtures("database")
    def test_a_name_that_the_wire_has_not_is_forbidden(self) -> None:
        ana = get_user_model().objects.create_user("ana")
        with connect("rooms:7", protocol="raw", query="subscribe-broadcast") as client:
            realtime.publish("rooms:7", Everyone(), "1")
            assert client.receive_all() == ["1"]
        with pytest.raises(Refused, match="because of its colon") as refused:
            connect("rooms:7", protocol="raw", query="subscribe-user", user=ana)
        assert refused.value.status == 403

    def test_an_empty_message_goes_nowhere(self) -> None:
        with connect("lobby", protocol="raw", query="subscribe-broadcast&publish-broadcast&echo") as client:
            for text in ("", "1"):
                client.send(text)
            assert client.receive_all() == ["1"]
            assert client.closed is None
