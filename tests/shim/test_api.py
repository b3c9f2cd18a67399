import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.test import override_settings

from shim import (
    Everyone,
    Facility,
    Group,
    History,
    InvalidAudience,
    InvalidPayload,
    Kind,
    Message,
    MessageTooLarge,
    RealtimeUnavailable,
    Receipt,
    Session,
    User,
    realtime,
)
from shim.api import redis_url, sync_bus
from shim.bus.embedded import EmbeddedValkey
from shim.core.names import Audience, Topic
from shim.core.wire import Position, Record, decode

DEADLINE = 5.0  # seconds

AUDIENCES: list[Audience] = [Everyone(), User("ana é"), Group("team:a"), Session("s" * 32)]
VALUES: list[object] = ["", "text é\0", b"", b"\0\xff\n", None, {"a": [1, 2.5, "é"]}, Message(Kind.JSON, "text")]


class Ear:
    """Hears everything that is published."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url, socket_timeout=DEADLINE)
        self._pubsub: Any = self._redis.pubsub()  # type: ignore[no-untyped-call] # redis-py's
        self._pubsub.psubscribe("*")
        assert self._pubsub.get_message(timeout=DEADLINE)["type"] == "psubscribe"

    def heard(self) -> list[tuple[str, bytes]]:
        """What was published since the last call, channel and bytes: order is kept, so it ends with our own word."""
        self._redis.publish("end", b"")
        found = []
        while (message := self._pubsub.get_message(timeout=DEADLINE))["channel"] != b"end":
            found.append((message["channel"].decode(), message["data"]))
        return found

    def records(self) -> list[tuple[str, Record]]:
        return [(channel, decode(data)) for channel, data in self.heard()]

    def close(self) -> None:
        self._pubsub.close()
        self._redis.close()


@pytest.fixture
def ear(bus_settings: str, facilities: dict[str, Facility]) -> Iterator[Ear]:
    made = Ear(bus_settings)
    yield made
    made.close()


def publish(*args: Any, **options: Any) -> Receipt:
    return realtime.publish(*args, **options)


def apublish(*args: Any, **options: Any) -> Receipt:
    return asyncio.run(realtime.apublish(*args, **options))


def publish_many(*args: Any, **options: Any) -> Receipt:
    (receipt,) = realtime.publish_many([args], **options)
    return receipt


def apublish_many(*args: Any, **options: Any) -> Receipt:
    (receipt,) = asyncio.run(realtime.apublish_many([args], **options))
    return receipt


type Publish = Callable[..., Receipt]
WAYS: list[Publish] = [publish, apublish, publish_many, apublish_many]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Publish:
    found: Publish = request.param
    return found


class TestOneWire:
    # contract 3.4

    @pytest.mark.parametrize("history", [None, History(size=0)], ids=["history", "none"])
    @pytest.mark.parametrize("audience", AUDIENCES, ids=lambda audience: type(audience).__name__)
    def test_every_way_says_the_same(self, audience: Audience, history: History | None, ear: Ear) -> None:
        channel = Topic("calls", audience).channel("rt")
        for value in VALUES:
            receipts = [way("calls", audience, value, history=history) for way in WAYS]
            heard = ear.records()
            assert [name for name, _ in heard] == [channel] * 4
            assert [record.position for _, record in heard] == [receipt.position for receipt in receipts]
            message = Message.of(value)
            assert {(record.kind, record.body, record.origin) for _, record in heard} == {
                (message.kind, message.body(), None)
            }

    def test_positions_are_dense_whoever_publishes(self, ear: Ear) -> None:
        # contract 3.2
        positions = [way("calls", User("ana"), n).position for n in range(3) for way in WAYS]
        epochs = {position.epoch for position in positions if position}
        assert len(epochs) == 1
        assert [position.seq for position in positions if position] == list(range(1, 13))
        assert [json.loads(record.body) for _, record in ear.records()] == [n for n in range(3) for _ in WAYS]

    def test_the_prefix_is_the_projects(self, ear: Ear, way: Publish) -> None:
        with override_settings(REALTIME_PREFIX="other"):
            way("calls", Everyone(), "hi")
        assert [channel for channel, _ in ear.heard()] == ["other:{calls:e:}"]

    def test_many_go_in_one_round_trip_in_order(self, ear: Ear) -> None:
        messages: list[tuple[str, Audience, object]] = [
            ("calls", User("ana"), "1"),
            ("chat", Everyone(), {"n": 2}),
            ("calls", User("ana"), b"3"),
        ]
        receipts = [*realtime.publish_many(messages), *asyncio.run(realtime.apublish_many(iter(messages)))]
        assert [record.body for _, record in ear.records()] == [b"1", b'{"n":2}', b"3"] * 2
        assert [receipt.position.seq for receipt in receipts if receipt.position] == [1, 1, 2, 3, 2, 4]
        assert realtime.publish_many([]) == asyncio.run(realtime.apublish_many([])) == []


class TestSender:
    # contract 6.5

    @pytest.mark.parametrize("history", [None, History(size=0)], ids=["history", "none"])
    def test_it_travels_with_the_message(self, ear: Ear, way: Publish, history: History | None) -> None:
        way("calls", Everyone(), "hi", history=history, sender="c1-A_b")
        assert [record.origin for _, record in ear.records()] == ["c1-A_b"]

    @pytest.mark.usefixtures("database")
    def test_also_after_a_commit(self, ear: Ear, way: Publish) -> None:
        way("calls", Everyone(), "hi", sender="c1", on_commit=True)
        assert [record.origin for _, record in ear.records()] == ["c1"]

    @pytest.mark.parametrize("sender", ["", "a b", "é", "x" * 65, 7, b"c1", ["c1"]], ids=repr)
    def test_is_a_connection_or_its_id_and_nothing_is_sent_otherwise(self, ear: Ear, way: Publish, sender: Any) -> None:
        with pytest.raises(TypeError, match="sender is a connection or the id of one"):
            way("calls", Everyone(), "hi", sender=sender)
        assert ear.records() == []


class TestHistory:
    # contract 5.1

    def kept(self, url: str, topic: Topic) -> int:
        with redis.Redis.from_url(url) as client:
            return int(client.xlen(topic.channel("rt") + ":log"))

    def test_is_the_projects_or_the_facilitys_or_the_publishs(self, ear: Ear, bus_settings: str, way: Publish) -> None:
        type("Short", (Facility,), {"name": "short", "history": History(size=2)})
        with override_settings(REALTIME_HISTORY_SIZE=3):
            for _ in range(5):
                way("calls", Everyone(), "hi")
                way("short", Everyone(), "hi")
                way("short", User("ana"), "hi", history=History(size=4))
        assert self.kept(bus_settings, Topic("calls", Everyone())) == 3
        assert self.kept(bus_settings, Topic("short", Everyone())) == 2
        assert self.kept(bus_settings, Topic("short", User("ana"))) == 4

    def test_none_at_all_leaves_nothing_on_redis(self, ear: Ear, bus_settings: str, way: Publish) -> None:
        assert way("calls", Everyone(), "hi", history=History(size=0)) == Receipt(None)
        with redis.Redis.from_url(bus_settings) as client:
            assert client.keys("*calls*") == []

    @pytest.mark.parametrize("history", [0, (100, 300), "none"])
    def test_is_a_history_and_nothing_is_sent_otherwise(self, ear: Ear, way: Publish, history: Any) -> None:
        with pytest.raises(TypeError, match="history is a History"):
            way("calls", Everyone(), "x", history=history)
        assert ear.heard() == []


class TestWhatCannotBeCarried:
    # contract 4.2

    @pytest.mark.parametrize(
        ("args", "error"),
        [
            (("", Everyone(), "hi"), InvalidAudience),
            (("x" * 70_000, Everyone(), "hi"), InvalidAudience),
            (("calls", "ana", "hi"), InvalidAudience),
            (("calls", None, "hi"), InvalidAudience),
            (("calls", Everyone(), object()), InvalidPayload),
            (("calls", Everyone(), float("nan")), InvalidPayload),
            (("calls", Everyone(), "\ud800"), InvalidPayload),
            (("calls", Everyone(), "x" * 1_048_577), MessageTooLarge),
        ],
        ids=lambda value: repr(value)[:40],
    )
    def test_is_refused_and_nothing_sent(
        self, args: tuple[Any, ...], error: type[Exception], way: Publish, ear: Ear, database: None
    ) -> None:
        with pytest.raises(error) as caught:
            way(*args)
        assert len(str(caught.value)) < 400
        with transaction.atomic(), pytest.raises(error):  # at the call, not at the commit
            way(*args, on_commit=True)
        assert ear.heard() == []

    def test_one_of_many_stops_them_all(self, ear: Ear) -> None:
        messages: list[tuple[str, Audience, object]] = [("calls", Everyone(), "hi"), ("calls", Everyone(), {1})]
        with pytest.raises(InvalidPayload):
            realtime.publish_many(messages)
        with pytest.raises(InvalidPayload):
            asyncio.run(realtime.apublish_many(messages))
        assert ear.heard() == []

    def test_the_limit_is_the_projects(self, ear: Ear, way: Publish) -> None:
        with override_settings(REALTIME_MAX_MESSAGE_BYTES=4):
            way("calls", Everyone(), "four")
            with pytest.raises(MessageTooLarge):
                way("calls", Everyone(), "four+")
        assert len(ear.heard()) == 1


@async_to_sync
async def apublish_here(*args: Any, **options: Any) -> Receipt:
    """Awaited on behalf of the thread that holds the transaction, as Django runs async views under WSGI."""
    return await realtime.apublish(*args, **options)


@async_to_sync
async def apublish_many_here(*args: Any, **options: Any) -> Receipt:
    (receipt,) = await realtime.apublish_many([args], **options)
    return receipt


@pytest.mark.parametrize("way", [publish, publish_many, apublish_here, apublish_many_here])
class TestOnCommit:
    # contract 4.3

    @pytest.fixture(autouse=True)
    def _database(self, database: None) -> None:
        pass

    def test_committed_is_sent(self, way: Publish, ear: Ear) -> None:
        with transaction.atomic():
            assert way("calls", User("ana"), "hi", on_commit=True) == Receipt(None)
            assert ear.heard() == []
        assert [record.body for _, record in ear.records()] == [b"hi"]

    def test_rolled_back_is_never_sent(self, way: Publish, ear: Ear) -> None:
        with transaction.atomic():
            way("calls", User("ana"), "hi", on_commit=True)
            transaction.set_rollback(True)
        with transaction.atomic():
            pass
        assert ear.heard() == []

    def test_so_is_a_savepoint(self, way: Publish, ear: Ear) -> None:
        with transaction.atomic():
            with transaction.atomic():
                way("calls", User("ana"), "inner", on_commit=True)
                transaction.set_rollback(True)
            way("calls", User("ana"), "outer", on_commit=True)
        assert [record.body for _, record in ear.records()] == [b"outer"]

    def test_what_was_given_is_what_is_sent(self, way: Publish, ear: Ear) -> None:
        value = {"n": 1}
        with transaction.atomic():
            way("calls", Everyone(), value, on_commit=True)
            value["n"] = 2
        assert [record.body for _, record in ear.records()] == [b'{"n":1}']

    def test_without_a_transaction_it_is_sent_at_once(self, way: Publish, ear: Ear) -> None:
        receipt = way("calls", Everyone(), "hi", on_commit=True)
        assert receipt.position
        assert len(ear.heard()) == 1

    def test_without_it_the_transaction_does_not_matter(self, way: Publish, ear: Ear) -> None:
        with transaction.atomic():
            way("calls", Everyone(), "hi")
            assert len(ear.heard()) == 1

    def test_redis_away_by_then_undoes_nothing(self, way: Publish, ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
        called: list[str] = []
        with override_settings(REALTIME_REDIS_URL="redis://127.0.0.1:1/0"), transaction.atomic():
            way("calls", Everyone(), "hi", on_commit=True)
            transaction.on_commit(lambda: called.append("the next one"))
        assert called == ["the next one"]
        assert "redis://127.0.0.1:1/0" in caplog.text


class TestRedisAway:
    # contract 7.3

    @pytest.fixture
    def server(self) -> Iterator[EmbeddedValkey]:
        with EmbeddedValkey() as valkey, override_settings(REALTIME_REDIS_URL=valkey.url, REALTIME_TIMEOUT=0.5):
            yield valkey

    def refused(self, way: Publish) -> None:
        started = time.monotonic()
        with pytest.raises(RealtimeUnavailable, match="REALTIME_"):
            way("calls", Everyone(), "hi")
        assert time.monotonic() - started < 1.5  # 0.5 s, and what a busy machine adds

    def test_stopped_and_started_again(self, server: EmbeddedValkey, way: Publish) -> None:
        assert way("calls", Everyone(), "hi").position
        server.stop()
        self.refused(way)
        server.start()
        assert way("calls", Everyone(), "hi").position

    def test_hung(self, server: EmbeddedValkey, way: Publish) -> None:
        way("calls", Everyone(), "hi")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            self.refused(way)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert way("calls", Everyone(), "hi").position

    def test_disconnect(self, server: EmbeddedValkey) -> None:
        server.stop()
        with pytest.raises(RealtimeUnavailable):
            realtime.disconnect(User("ana"))
        with pytest.raises(RealtimeUnavailable):
            asyncio.run(realtime.adisconnect(User("ana")))


def disconnect(*args: Any, **options: Any) -> None:
    realtime.disconnect(*args, **options)


def adisconnect(*args: Any, **options: Any) -> None:
    asyncio.run(realtime.adisconnect(*args, **options))


@pytest.mark.parametrize("way", [disconnect, adisconnect])
class TestDisconnect:
    # contract 7.5

    def test_is_said_to_every_process(self, way: Callable[..., None], ear: Ear) -> None:
        way(User("ana é"))
        way(User("bob"), code=4503)
        assert [(channel, json.loads(decode(data).body)) for channel, data in ear.heard()] == [
            ("rt:{control}", {"op": "disconnect", "user": "ana é", "code": 4500}),
            ("rt:{control}", {"op": "disconnect", "user": "bob", "code": 4503}),
        ]

    @pytest.mark.parametrize("audience", ["ana", Everyone(), Group("a"), None])
    def test_it_is_a_user_who_is_disconnected(self, audience: object, way: Callable[..., None], ear: Ear) -> None:
        with pytest.raises(InvalidAudience, match=r"takes User\(name\)"):
            way(audience)
        assert ear.heard() == []

    @pytest.mark.parametrize("code", [0, 1000, 4499, 5000, True, "4500", 4500.5])
    def test_the_code_tells_clients_to_stay_away(self, code: object, way: Callable[..., None], ear: Ear) -> None:
        with pytest.raises(ValueError, match="4500 to 4999"):
            way(User("ana"), code=code)
        assert ear.heard() == []


class TestProcess:
    def test_one_bus_for_each_process_and_for_each_settings(self, bus_settings: str) -> None:
        bus = sync_bus()
        assert sync_bus() is bus
        with override_settings(REALTIME_PREFIX="other"):
            assert sync_bus() is not bus

    def test_no_redis_outside_debug_is_an_error_with_the_remedy(self) -> None:
        with (
            override_settings(REALTIME_REDIS_URL=None, DEBUG=False),
            pytest.raises(ImproperlyConfigured, match="REALTIME_REDIS_URL is not set"),
        ):
            redis_url()

    def test_a_receipt_is_a_value(self) -> None:
        assert Receipt(Position("e", 1)) == Receipt(Position("e", 1))
        assert Receipt().position is None
