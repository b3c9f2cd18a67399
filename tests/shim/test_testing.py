"""`shim.testing`: what applications' tests are given, and the server below it."""

import asyncio
import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group as DjangoGroup
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.test import Client, SimpleTestCase, TestCase, override_settings

from shim import (
    Audience,
    Connection,
    Everyone,
    Facility,
    Group,
    History,
    Kind,
    Message,
    MessageTooLarge,
    Position,
    RealtimeUnavailable,
    Session,
    User,
    realtime,
)
from shim.bus.flag import number_command, number_from, publish_command
from shim.complaints import Complaints
from shim.core.cohorts import Snapshot
from shim.core.names import control_channel
from shim.core.wire import Record, encode
from shim.flag import flag_model
from shim.rollout import current
from shim.testing import (
    InMemory,
    MemoryServer,
    Published,
    RealtimeTestMixin,
    Refused,
    aconnect,
    connect,
    handshake,
    outbox,
)
from shim.testing.memory import active

Person = get_user_model()
gone: list[tuple[str | None, int]] = []


class Desk(Facility):
    """Takes everything; says what it took to everyone."""

    name = "testing-desk"

    def audiences(self, connection: Connection) -> Iterable[Audience]:
        if "fail" in connection.query:
            raise LookupError("in audiences")
        if "forbidden" in connection.query:
            raise PermissionDenied("not today")
        yield from connection.usual_audiences()

    def receive(self, connection: Connection, message: Message) -> None:
        match message.value:
            case "echo" | b"echo" | {"echo": _}:
                connection.send(message)
            case "raise":
                raise LookupError("in receive")
            case "deny":
                raise PermissionDenied("not that")
            case "close":
                connection.close(4123, "as told")
            case "count":
                connection.send({"people": Person.objects.count()})
            case value:
                realtime.publish(self.name, Everyone(), value)

    def disconnected(self, connection: Connection, code: int) -> None:
        gone.append((connection.identity.user_name, code))
        if "fail-at-the-end" in connection.query:
            raise LookupError("in disconnected")


class AsyncDesk(Facility):
    """The same with `async def`, and its own answers through the async ORM."""

    name = "testing-async-desk"

    async def audiences(self, connection: Connection) -> Iterable[Audience]:
        return connection.usual_audiences()

    async def receive(self, connection: Connection, message: Message) -> None:
        await asyncio.sleep(0)
        if message.value == "count":
            connection.send({"people": await Person.objects.acount()})
        elif message.value == "raise":
            raise LookupError("in receive")
        else:
            await realtime.apublish(self.name, Everyone(), message.value)

    async def disconnected(self, connection: Connection, code: int) -> None:
        gone.append((connection.identity.user_name, code))


class Closed(Facility):
    """Takes nothing; keeps little."""

    name = "testing-closed"
    history = History(2, 10.0)


@pytest.fixture
def memory() -> Iterator[InMemory]:
    gone.clear()
    with InMemory() as made:
        yield made


# In a Django TestCase: what is created in a test's transaction is seen by the handlers, and rolled back


@pytest.mark.usefixtures("_databases")
class InATestCase(RealtimeTestMixin, TestCase):
    ana: Any
    session_client: Client

    @classmethod
    def setUpTestData(cls) -> None:
        cls.ana = Person.objects.create_user("ana")
        cls.ana.groups.add(DjangoGroup.objects.create(name="team a"))

    def setUp(self) -> None:
        gone.clear()

    def test_a_user_hears_the_usual_audiences(self) -> None:
        with connect("testing-desk", user=self.ana) as ana, connect("testing-desk") as nobody:
            for audience in (User("ana"), Group("team a"), User("ben"), Group("team b")):
                realtime.publish("testing-desk", audience, {"for": str(audience)})
            realtime.publish("testing-desk", Everyone(), "all")
            assert ana.receive() == {"for": "User(name='ana')"}
            assert ana.receive() == {"for": "Group(name='team a')"}
            assert ana.receive_all() == ["all"]
            assert nobody.receive_all() == ["all"]
            ana.receive_nothing()

    def test_a_test_client_and_a_session_say_who_connects(self) -> None:
        self.client.force_login(self.ana)
        with (
            connect("testing-desk", client=self.client) as one,
            connect("testing-desk", session=self.client.session) as two,
        ):
            key = self.client.session.session_key
            assert key is not None
            realtime.publish("testing-desk", Session(key), b"\x00")
            assert [one.receive(), two.receive()] == [b"\x00", b"\x00"]
            assert two.positions.keys() == {"everyone", "user", "group:team a", "session"}

    def test_on_commit_is_respected(self) -> None:  # contract 4.3
        with connect("testing-desk", user=self.ana) as ana:
            with self.captureOnCommitCallbacks(execute=True):
                realtime.publish("testing-desk", Everyone(), 1, on_commit=True)
                assert outbox() == []
                ana.receive_nothing()
            assert ana.receive() == 1
            with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
                realtime.publish("testing-desk", Everyone(), 2, on_commit=True)
                transaction.set_rollback(True)
            ana.receive_nothing()
            assert [each.value for each in outbox()] == [1]

    def test_handlers_see_the_tests_transaction(self) -> None:
        for name in ("testing-desk", "testing-async-desk"):
            with connect(name, user=self.ana) as ana:
                ana.send("count")
                assert ana.receive() == {"people": 1}

    def test_signing_out_ends_the_connections(self) -> None:  # contract 7.5
        self.client.force_login(self.ana)
        ana, nobody = connect("testing-desk", client=self.client), connect("testing-desk")
        self.client.logout()
        assert (ana.closed, nobody.closed) == (4500, None)
        assert gone == [("ana", 4500)]

    def test_a_flip_moves_connections_as_time_passes(self) -> None:  # contract 8
        with connect("testing-desk", user=self.ana, protocol="raw") as ana:
            flag = flag_model()._default_manager.create(name="realtime_channels", everyone=True)
            with self.captureOnCommitCallbacks(execute=True):
                flag.save()
            still_open = ana.closed
            self.realtime.advance(2)
            assert [still_open, ana.closed] == [None, 1012]
        with connect("testing-desk", user=self.ana, backend="channels") as ana:
            self.realtime.advance(120)
            assert ana.closed is None

    async def test_async_code_awaits_the_twins(self) -> None:
        async with await aconnect("testing-async-desk", user=self.ana) as ana:
            await ana.asend({"hello": 1})
            assert ana.receive() == {"hello": 1}
            await ana.asend("count")
            assert ana.receive() == {"people": 1}
            await realtime.apublish("testing-async-desk", User("ana"), "x")
            assert ana.receive() == "x"
            await realtime.adisconnect(User("ana"))
            assert ana.closed == 4500
            assert gone == [], "handlers do not run in the loop's thread"
        assert gone == [("ana", 4500)]
        with pytest.raises(RuntimeError, match="aconnect"):
            connect("testing-desk")
        other = await aconnect("testing-desk")
        with pytest.raises(RuntimeError, match="asend"):
            other.send("x")
        with pytest.raises(RuntimeError, match="aclose"):
            other.close()
        await other.aclose(1001)
        assert gone[1:] == [(None, 1001)]
        await sync_to_async(Person.objects.count)()


class WithoutADatabase(RealtimeTestMixin, SimpleTestCase):
    def test_nobody_in_particular_needs_none(self) -> None:
        assert self.realtime is active()
        with connect("testing-closed") as connection:
            realtime.publish("testing-closed", Everyone(), "x")
            assert connection.receive() == "x"

    def test_each_test_begins_with_nothing(self) -> None:
        assert outbox() == []
        with connect("testing-closed", protocol="raw") as connection:
            connection.receive_nothing()


def test_the_mixin_is_in_memory_under_a_debugger_too() -> None:
    class Case(RealtimeTestMixin, SimpleTestCase):
        def runTest(self) -> None:  # noqa: N802  # unittest's name
            realtime.publish("testing-desk", Everyone(), 1)
            assert len(outbox()) == 1

    Case().debug()
    with pytest.raises(RuntimeError, match="RealtimeTestMixin"):
        outbox()


# What was published


def test_the_outbox_has_all_there_is_to_know(memory: InMemory) -> None:
    receipt = realtime.publish("testing-desk", User("ana"), {"a": 1})
    realtime.publish_many([("testing-closed", Everyone(), "t"), ("testing-desk", Group("g"), b"b")])
    realtime.publish("testing-desk", Everyone(), None, history=History(size=0))
    first, second, third, last = outbox()
    assert first == Published(
        "testing-desk", User("ana"), Message(Kind.JSON, {"a": 1}), History(100, 300.0), receipt.position
    )
    assert (second.value, second.history, third.message) == ("t", History(2, 10.0), Message(Kind.BINARY, b"b"))
    assert (last.value, last.position) == (None, None)
    with pytest.raises(MessageTooLarge):
        realtime.publish("testing-desk", Everyone(), "x" * 2_000_000)
    memory.redis.stop()
    with pytest.raises(RealtimeUnavailable):  # contract 7.3
        realtime.publish("testing-desk", Everyone(), "x")
    assert outbox() == [first, second, third, last]
    with InMemory():
        assert outbox() == []
    outbox().clear()
    assert memory.outbox == []


def test_settings_that_change_in_a_test_leave_it_in_memory(memory: InMemory) -> None:
    with connect("testing-closed") as connection, override_settings(REALTIME_MAX_MESSAGE_BYTES=10):
        realtime.publish("testing-closed", Everyone(), "x" * 10)
        with pytest.raises(MessageTooLarge):
            realtime.publish("testing-closed", Everyone(), "x" * 11)
        assert connection.receive() == "x" * 10
        assert current() is current()


# The door


@pytest.mark.parametrize(
    ("facility", "options", "status", "reason"),
    [
        ("nothing-of-that-name", {}, 404, "no facility 'nothing-of-that-name'"),
        ("testing-desk", {"headers": {"Origin": "https://elsewhere.example"}}, 403, "not allowed"),
        ("testing-desk", {"headers": {"Upgrade": "h2c"}}, 426, "WebSocket"),
        ("testing-desk", {"query": "forbidden"}, 403, "not today"),
        ("testing-desk", {"query": "fail", "raise_exceptions": False}, 500, "failed"),
    ],
)
def test_refusals(memory: InMemory, facility: str, options: Any, status: int, reason: str) -> None:  # contract 1.1
    with pytest.raises(Refused, match=reason) as caught:
        connect(facility, **options)
    assert caught.value.status == status
    assert reason in caught.value.reason
    assert gone == []


def test_who_cannot_come_in_just_now_is_told_when_to_come_back(memory: InMemory) -> None:
    memory.redis.stop()
    with pytest.raises(Refused) as caught:
        connect("testing-desk")
    assert caught.value.status == 503
    assert caught.value.retry_after in range(5, 11)
    memory.redis.start()
    connect("testing-desk").close()
    memory.server().drain()
    with pytest.raises(Refused, match="503 Service Unavailable: this server is stopping"):  # contract 9.1
        connect("testing-desk")


def test_what_audiences_raises_is_raised(memory: InMemory) -> None:
    with pytest.raises(LookupError, match="in audiences"):
        connect("testing-desk", query={"fail": ""})


def test_wrong_calls_are_told(memory: InMemory) -> None:
    with pytest.raises(TypeError, match="one of"):
        connect("testing-desk", user=object(), client=Client())
    with pytest.raises(TypeError, match="resume"):
        connect("testing-desk", protocol="raw", resume={})
    with pytest.raises(ValueError, match="v2"):
        connect("testing-desk", protocol="v2")  # type: ignore[arg-type]  # wrong on purpose


def test_a_client_can_narrow_what_it_hears(memory: InMemory) -> None:  # contract 1.3
    with connect("testing-desk", query="subscribe-user") as connection:
        realtime.publish("testing-desk", Everyone(), 1)
        connection.receive_nothing()


# Messages


@pytest.mark.parametrize("facility", ["testing-desk", "testing-async-desk"])
@pytest.mark.parametrize("value", ["", "\x00 ☃ 🦊", b"", b"\xff\x00", None, 0, [1, {"a": "b"}], {"a": None}])
def test_kinds_and_values_come_as_they_were_sent(memory: InMemory, facility: str, value: Any) -> None:  # contract 4.1
    with connect(facility) as one, connect(facility) as two:
        one.send(value)
        assert (one.receive(), two.receive()) == (value, value)
        assert outbox()[0].value == value
        assert one.told == [{"op": "ack", "id": 1}]


def test_raw_gets_bare_frames_and_the_last_message(memory: InMemory) -> None:  # contract 4.1, 5.2
    realtime.publish("testing-desk", Everyone(), "first")
    realtime.publish("testing-desk", Everyone(), {"a": 1})
    with connect("testing-desk", protocol="raw") as connection:
        assert connection.receive_json() == {"a": 1}
        connection.send(b"\x01")
        assert connection.receive() == b"\x01"
        connection.send({"b": 2})
        assert outbox()[-1].message == Message(Kind.TEXT, '{"b":2}')
        assert connection.receive() == '{"b":2}'
        assert (connection.ready, connection.positions, connection.recovered) == (None, {}, {})


def test_what_was_missed_comes_with_resume(memory: InMemory) -> None:  # contract 5.3
    with connect("testing-closed") as before:
        realtime.publish("testing-closed", Everyone(), 1)
        assert before.receive() == 1
    realtime.publish_many([("testing-closed", Everyone(), value) for value in (2, 3)])
    with connect("testing-closed", resume=before.positions) as after:
        assert after.recovered == {"everyone": True}
        realtime.publish("testing-closed", Everyone(), 4)
        assert after.receive_all() == [2, 3, 4]
    with connect("testing-closed", resume=before.positions) as late:  # two are kept, three were missed
        assert late.recovered == {"everyone": False}
        late.receive_nothing()
    with connect("testing-closed", resume={"everyone": Position("f" * 16, 1)}) as forged:
        assert forged.recovered == {"everyone": False}
    memory.advance(10.1)
    with connect("testing-closed", resume=after.positions) as up_to_date:
        assert up_to_date.recovered == {"everyone": True}
    with connect("testing-closed", protocol="raw") as raw:
        raw.receive_nothing()


def test_what_a_client_may_not_say(memory: InMemory) -> None:  # contract 1.3, 6.3
    with connect("testing-closed") as v1, connect("testing-closed", protocol="raw") as raw:
        v1.send("x")
        ((code, reason),) = [(error["code"], error["reason"]) for error in v1.errors]
        assert (code, v1.closed) == ("forbidden", None)
        assert "takes nothing" in reason
        v1.send_frame('{"op":"dance"}')
        assert v1.closed == 1008
        raw.send("x")
        assert (raw.closed, raw.close_reason) == (1008, "testing-closed takes nothing from clients")
        with pytest.raises(AssertionError, match=r"no message for .* was closed: 1008 testing-closed takes nothing"):
            raw.receive()
        raw.send("too late")
        raw.close()
    with connect("testing-desk", protocol="raw") as raw:
        raw.send_frame("x" * 3_000_000)
        assert raw.closed == 1009


def test_a_handler_that_raises(memory: InMemory, caplog: pytest.LogCaptureFixture) -> None:  # contract 6.2
    for facility in ("testing-desk", "testing-async-desk"):
        with connect(facility) as connection, connect(facility) as other:
            with pytest.raises(LookupError, match="in receive"):
                connection.send("raise")
            assert (connection.closed, other.closed) == (1011, None)
        with connect(facility, raise_exceptions=False, protocol="raw") as connection:
            connection.send("raise")
            assert connection.closed == 1011
    assert len(caplog.records) == 4
    with pytest.raises(LookupError, match="in disconnected"):
        connect("testing-desk", query="fail-at-the-end").close()
    with pytest.raises(ZeroDivisionError), connect("testing-desk", query="fail-at-the-end"):
        raise ZeroDivisionError


def test_endings_are_told_once(memory: InMemory) -> None:  # contract 6.4
    def ended(do: Any) -> int | None:
        gone.clear()
        connection = connect("testing-desk")
        do(connection)
        connection.close(1001)
        ((_, code),) = gone
        assert connection.closed == code
        return code

    assert ended(lambda connection: None) == 1001
    assert ended(lambda connection: connection.close(4321)) == 4321
    assert ended(lambda connection: connection.cut()) == 1006
    assert ended(lambda connection: connection.send("close")) == 4123
    assert ended(lambda connection: memory.advance(0.1)) == 1001
    gone.clear()
    connect("testing-desk")
    with InMemory():
        connect("testing-desk")
    assert gone == [(None, 1001)], "what a test leaves open is closed at its end"


def test_no_rate_is_met_by_a_busy_test(memory: InMemory) -> None:
    with connect("testing-desk") as connection:
        for i in range(600):
            connection.send(i)
        assert connection.receive_all() == list(range(600))
    for _ in range(600):
        connect("testing-desk").close()


# Time, and other accidents


def test_who_answers_pings_stays_and_who_does_not_goes(memory: InMemory) -> None:  # contract 7.1
    for protocol in ("v1", "raw"):
        alive, dead = connect("testing-desk", protocol=protocol), connect("testing-desk", protocol=protocol)
        dead.client.answers_pings = False
        memory.advance(40)
        assert (alive.closed, dead.closed) == (None, 4002)
        memory.advance(100)
        assert alive.closed is None


def test_who_does_not_read_is_closed_and_keeps_nobody_waiting(memory: InMemory) -> None:  # contract 7.2
    slow, quick = connect("testing-desk", protocol="raw"), connect("testing-desk", protocol="raw")
    slow.pause()
    for _ in range(3):
        realtime.publish("testing-desk", Everyone(), b"x" * 500_000)
    assert len(quick.receive_all()) == 3
    slow.resume()
    assert [slow.receive_all(), slow.closed] == [[], 4001]
    paused = connect("testing-desk", protocol="raw")
    paused.receive()
    paused.pause()
    realtime.publish("testing-desk", Everyone(), "1")
    paused.send("close")
    paused.resume()
    assert [paused.receive_all(), paused.closed] == [["1"], 4123]


def test_a_line_to_redis_that_breaks_loses_nothing(memory: InMemory) -> None:  # contract 7.3, 7.4
    v1, raw = connect("testing-desk"), connect("testing-desk", protocol="raw")
    memory.server().cut()
    realtime.publish("testing-desk", Everyone(), 1)
    v1.receive_nothing()
    with pytest.raises(Refused, match="503"):
        connect("testing-desk")
    memory.server().restore()
    realtime.publish("testing-desk", Everyone(), 2)
    assert v1.receive_all() == [1, 2]
    assert raw.receive_all() == ["1", "2"]
    memory.server().cut()
    memory.settle()
    memory.redis.flush()
    memory.server().restore()
    realtime.publish("testing-desk", Everyone(), 3)
    assert v1.receive_all() in ([3], [])
    assert [frame["op"] for frame in v1.told] == ["gap"]


def test_a_redis_that_is_away_while_a_client_joins(memory: InMemory) -> None:
    server = memory.server()
    client = server.connect(handshake("testing-desk", protocol="v1"))
    memory.redis.stop()
    client.send('{"op":"hello"}')
    memory.settle()
    assert client.closed == 1013
    memory.redis.start()


# The server below


def test_servers_share_one_redis_and_differ_in_cohort(memory: InMemory) -> None:
    legacy, channels, second = memory.serve("legacy"), memory.serve("channels"), memory.serve("legacy")
    assert memory.server("channels") is channels
    clients = [server.connect(handshake("testing-desk")) for server in (legacy, channels, second)]
    realtime.publish("testing-desk", Everyone(), "x")
    memory.settle()
    assert [[frame.string for frame in client.frames] for client in clients] == [["x"]] * 3
    second.kill()
    assert (clients[2].closed, gone) == (1006, [])
    with pytest.raises(ConnectionRefusedError):
        second.connect(handshake("testing-desk"))
    legacy.drain()
    memory.advance(11)
    assert (clients[0].closed, clients[1].closed) == (1012, None)
    assert gone == [(None, 1012)]
    assert "connections=0" in repr(legacy)


def test_a_server_learns_the_flag_as_a_real_one_does(memory: InMemory) -> None:  # contract 8.2
    legacy = memory.serve("legacy")
    client = legacy.connect(handshake("testing-desk", protocol="raw"))
    snapshot = Snapshot("realtime_channels", exists=True, everyone=True, version=("a" * 16, 1))
    said = json.dumps({"op": "flag", "snapshot": snapshot.to_json()}).encode()
    memory.redis.call(("PUBLISH", control_channel("rt"), encode(Record(Kind.JSON, said))))
    memory.settle()
    assert legacy.node.flag.current == snapshot
    memory.advance(2)
    assert client.closed == 1012


def test_a_flip_while_the_subscription_is_down_is_found_when_it_is_back(memory: InMemory) -> None:  # contract 8.2
    legacy = memory.serve("legacy")
    client = legacy.connect(handshake("testing-desk", protocol="raw"))
    legacy.cut()
    memory.settle()
    version = number_from(memory.redis.call(number_command("rt", "a" * 16)))
    snapshot = Snapshot("realtime_channels", exists=True, everyone=True, version=version)
    memory.redis.call(publish_command("rt", control_channel("rt"), snapshot))
    memory.advance(2)
    assert legacy.clients() == [client]
    legacy.restore()
    memory.advance(2)
    assert (legacy.node.flag.current, client.closed) == (snapshot, 1012)


@pytest.mark.usefixtures("database")
def test_a_change_that_nobody_pushed_is_found_in_the_database(memory: InMemory) -> None:
    legacy = memory.serve("legacy")
    client = legacy.connect(handshake("testing-desk", protocol="raw"))
    flag_model()._default_manager.bulk_create([flag_model()(name="realtime_channels", everyone=True)])
    memory.advance(2)
    assert client.closed is None
    legacy.poll_flag()
    memory.advance(2)
    assert client.closed == 1012


def test_nonsense_on_the_wire_is_passed_over(
    memory: InMemory, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shim.testing.server._complaints", Complaints())
    with connect("testing-desk") as connection:
        channel = next(iter(memory.server().hub._feeds))
        for where in (channel, control_channel("rt")):
            for _ in range(3):  # and complained about once
                memory.redis.call(("PUBLISH", where, "nonsense"))
        realtime.publish("testing-desk", Everyone(), 1)
        assert connection.receive() == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_server_is_in_memory_or_not_at_all() -> None:
    with override_settings(REALTIME_REDIS_URL="redis://localhost:1"), pytest.raises(RuntimeError, match="memory://"):
        MemoryServer()
