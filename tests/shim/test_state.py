"""`connection.state` (contract 8.3): what a facility keeps with a connection goes with its client. Both backends run
the code that runs here."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from shim import Audience, Connection, Everyone, Facility, InvalidPayload, Message
from shim.bus.commands import Command
from shim.core.cohorts import Cohort, Snapshot
from shim.core.kept import MAX_STATE_BYTES, STATE_SECONDS
from shim.testing import InMemory, TestConnection, connect
from tests.project.pages import blocks

BACKENDS = {
    "legacy": {"BACKEND": "legacy_ws4redis.backend.LegacyBackend", "URL": "ws://legacy.example"},
    "channels": {"BACKEND": "channels_impl.backend.ChannelsBackend", "URL": "ws://channels.example"},
}
ANA = {"realtime_anonymous": "ana"}
BEN = {"realtime_anonymous": "ben"}


class Screen(Facility):
    """Counts what it is told, and says what it has counted; obeys a few words."""

    name = "state-screen"
    ended: list[Any] = []  # noqa: RUF012  # what `disconnected` saw, for this file

    def audiences(self, connection: Connection) -> Iterable[Audience]:
        if "begin" in connection.query:
            connection.state = {"begun": True}
        return [Everyone()]

    def receive(self, connection: Connection, message: Message) -> None:
        match message.value:
            case {"set": value}:
                connection.state = value
            case "count":
                connection.state = {"count": (connection.state or {"count": 0})["count"] + 1}
            case "mutate":
                connection.state["count"] = 99
            case "fail":
                raise LookupError("told to fail")
            case "close":
                connection.close(4123)
        connection.send({"state": connection.state})

    def disconnected(self, connection: Connection, code: int) -> None:
        self.ended.append(connection.state)
        if "late" in connection.query:
            connection.state = {"late": code}


class AsyncScreen(Facility):
    name = "state-async-screen"

    async def receive(self, connection: Connection, message: Message) -> None:
        if message.value != "show":
            connection.state = message.value
        connection.send({"state": connection.state})


@pytest.fixture
def memory() -> Iterator[InMemory]:
    with override_settings(REALTIME=BACKENDS), InMemory() as made:
        yield made


def shown(connection: TestConnection, value: object = "show") -> Any:
    """What a facility says its state is, after it was told something."""
    connection.send(value)
    return connection.receive()["state"]


def lost(code: int | None, *, query: str = "", cookies: dict[str, str] = ANA) -> str:
    """A connection with a state that has ended with this code; None breaks the line. Its id."""
    one = connect("state-screen", cookies=cookies, query=query)
    assert shown(one, {"set": {"call": 42}}) == {"call": 42}
    one.cut() if code is None else one.close(code)
    return one.client.id


def found(was: str | None, *, facility: str = "state-screen", cookies: dict[str, str] = ANA, **options: Any) -> Any:
    """What the next connection finds, looked at by its first `receive`."""
    with connect(facility, was=was, cookies=cookies, raise_exceptions=False, **options) as again:
        return shown(again)


def keys(memory: InMemory) -> list[str]:
    """The states that wait on Redis."""
    return sorted(memory.redis._strings)


@pytest.mark.usefixtures("memory")
class TestValue:
    def test_none_at_first(self) -> None:
        assert found(None) is None

    def test_what_is_changed_inside_of_it_is_not_kept(self) -> None:
        with connect("state-screen") as one:
            assert [shown(one, "count") for _ in range(2)] == [{"count": 1}, {"count": 2}]
            assert shown(one, "mutate") == {"count": 2}

    @pytest.mark.parametrize(
        "value", [0, False, "", [], {}, "text", 1.5, [None, {"a": "é\0"}], {"a": [1, "\U0001f600"]}]
    )
    def test_any_json(self, value: object) -> None:
        with connect("state-screen", cookies=ANA) as one:
            assert shown(one, {"set": value}) == value
            one.cut()
        assert found(one.client.id) == value

    @pytest.mark.parametrize(
        "value",
        [object(), {1, 2}, b"bytes", float("nan"), "\ud800", {"a": float("inf")}],
        ids=["object", "set", "bytes", "NaN", "surrogate", "infinity"],
    )
    def test_what_json_cannot_carry_is_refused(self, value: object) -> None:
        connection = visitor()
        connection.state = "before"
        with pytest.raises(InvalidPayload):
            connection.state = value
        assert connection.state == "before"

    def test_4_kib_and_no_more(self) -> None:
        connection = visitor()
        connection.state = "x" * (MAX_STATE_BYTES - 2)
        with pytest.raises(InvalidPayload, match=r"at most 4096 bytes of JSON, not 4097: .*'xxx.*… \(4095 long\)"):
            connection.state = "x" * (MAX_STATE_BYTES - 1)
        with pytest.raises(InvalidPayload, match="at most 4096 bytes of JSON, not 2000002"):
            connection.state = "x" * 2_000_000
        connection.state = None
        assert connection.state is None


def visitor() -> Connection:
    """A connection as `audiences` gets it."""
    caught: list[Connection] = []

    class Catch(Facility):
        name = "state-catch"

        def audiences(self, connection: Connection) -> Iterable[Audience]:
            caught.append(connection)
            return []

    connect(Catch.name)
    return caught[0]


@pytest.mark.usefixtures("memory")
class TestLoss:
    # contract, close codes: after which a client comes back

    @pytest.mark.parametrize("code", [None, 1001, 1005, 1006, 1012, 1013, 4001, 4002, 4400])
    def test_who_comes_back_finds_it(self, code: int | None) -> None:
        assert found(lost(code)) == {"call": 42}

    @pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1008, 1009, 1011, 4500, 4503, 4999])
    def test_who_was_to_stay_away_does_not(self, code: int, memory: InMemory) -> None:
        assert found(lost(code)) is None
        assert keys(memory) == []

    def test_nor_who_comes_back_after_a_handlers_error(self) -> None:
        one = connect("state-screen", cookies=ANA, raise_exceptions=False)
        shown(one, {"set": 1})
        one.send("fail")
        assert one.closed == 1011
        assert found(one.client.id) is None

    def test_a_code_of_the_facilitys_own(self) -> None:
        with connect("state-screen", cookies=ANA) as one:
            shown(one, {"set": 1})
            one.send("close")
            assert one.closed == 4123
        assert found(one.client.id) == 1

    def test_on_the_other_backend_too(self) -> None:
        assert found(lost(None), backend="channels") == {"call": 42}

    def test_it_is_there_once(self) -> None:
        was = lost(None)
        assert found(was) == {"call": 42}
        assert found(was) is None

    def test_again_and_again(self) -> None:
        was = lost(None)
        for n in range(3):
            with connect("state-screen", was=was, cookies=ANA) as one:
                assert shown(one)["call"] == 42 + n
                shown(one, {"set": {"call": 43 + n}})
                one.cut()
            was = one.client.id

    def test_for_five_minutes(self, memory: InMemory) -> None:
        was = lost(None)
        memory.settle()
        memory.clock.move(STATE_SECONDS - 1)
        assert found(was) == {"call": 42}
        was = lost(None)
        memory.settle()
        memory.clock.move(STATE_SECONDS + 1)
        assert found(was) is None

    def test_what_disconnected_has_made_of_it_counts(self) -> None:
        assert found(lost(None, query="late")) == {"late": 1006}
        assert found(lost(1000, query="late")) is None

    def test_what_is_forgotten_is_not_found(self, memory: InMemory) -> None:
        with connect("state-screen", cookies=ANA) as one:
            shown(one, {"set": 1})
            assert shown(one, {"set": None}) is None
            one.cut()
        assert keys(memory) == []
        assert found(one.client.id) is None

    def test_async_handlers(self) -> None:
        with connect("state-async-screen", cookies=ANA) as one:
            assert shown(one, {"a": 1}) == {"a": 1}
            one.cut()
        with connect("state-async-screen", cookies=ANA, was=one.client.id) as again:
            assert shown(again) == {"a": 1}

    def test_it_replaces_what_audiences_has_set(self) -> None:
        assert found(None, query="begin") == {"begun": True}
        assert found(lost(None), query="begin") == {"call": 42}

    def test_of_a_connection_that_was_taken_for_dead_before_its_ready_came(self) -> None:
        """The client never learned of it, and names the one before."""
        was = lost(None)
        between = connect("state-screen", was=was, cookies=ANA)
        between.cut()
        assert found(was) == {"call": 42}

    def test_but_not_of_one_that_has_lived(self) -> None:
        was = lost(None)
        between = connect("state-screen", was=was, cookies=ANA)
        shown(between)
        between.cut()
        assert found(was) is None
        assert found(between.client.id) == {"call": 42}


@pytest.mark.usefixtures("memory")
class TestOwner:
    """Bad input: ids that somebody else has got hold of."""

    def test_somebody_else_gets_nothing_and_takes_nothing(self) -> None:
        was = lost(None)
        assert found(was, cookies=BEN) is None
        assert found(was, facility="state-async-screen") is None
        assert found(was) == {"call": 42}

    def test_who_is_nobody_keeps_nothing(self, memory: InMemory) -> None:
        was = lost(None, cookies={})
        assert keys(memory) == []
        assert found(was, cookies={}) is None

    @pytest.mark.parametrize("was", ["nobody-has-this-id", "x" * 64])
    def test_an_id_that_there_is_not(self, was: str) -> None:
        assert found(was) is None

    def test_raw_connections_have_one_of_their_own(self, memory: InMemory) -> None:
        with connect("state-screen", protocol="raw", cookies=ANA) as one:
            for n in (1, 2):
                one.send("count")
                assert one.receive_json() == {"state": {"count": n}}
            one.cut()
        assert keys(memory) == []


class TestMove:
    # contract 8.3

    def flip(self, memory: InMemory, *, everyone: bool, number: int) -> None:
        snapshot = Snapshot("realtime_channels", exists=True, everyone=everyone, version=("a" * 16, number))
        for server in memory.servers:
            server.node.flag.pushed(snapshot)
            server.node.flipped(memory.clock())

    def told(self, connection: TestConnection) -> list[dict[str, Any]]:
        connection.receive_all()
        return [frame for frame in connection.told if frame["op"] == "move"]

    def test_it_is_there_when_the_client_is_told(self, memory: InMemory) -> None:
        old = connect("state-screen", cookies=ANA)
        shown(old, {"set": {"call": 42}})
        assert keys(memory) == []  # no command before it is needed
        self.flip(memory, everyone=True, number=1)
        memory.advance(1.5)
        assert len(self.told(old)) == 1
        assert len(keys(memory)) == 1
        assert shown(old, {"set": {"call": 43}}) == {"call": 43}  # also what changes from then on
        with connect("state-screen", was=old.client.id, cookies=ANA, backend="channels") as new:
            assert keys(memory) == []
            assert shown(new) == {"call": 43}
            old.close()
            assert keys(memory) == []
            assert Screen.ended[-1] == {"call": 43}

    def test_what_is_set_only_after_the_client_was_told(self, memory: InMemory) -> None:
        old = connect("state-screen", cookies=ANA)
        self.flip(memory, everyone=True, number=1)
        memory.advance(1.5)
        assert len(self.told(old)) == 1
        shown(old, {"set": 1})
        shown(old, {"set": None})
        assert keys(memory) == []
        shown(old, {"set": 2})
        assert found(old.client.id, backend="channels") == 2
        old.close()

    def test_a_move_that_fails_and_a_client_that_stays(self, memory: InMemory) -> None:
        old = connect("state-screen", cookies=ANA)
        shown(old, {"set": {"call": 42}})
        self.flip(memory, everyone=True, number=1)
        memory.advance(1.5)
        connect("state-screen", was=old.client.id, cookies=ANA, backend="channels").close()  # took it, and gave up
        memory.advance(5)
        assert old.closed == 1012
        assert found(old.client.id, backend="channels") == {"call": 42}

    def test_who_keeps_nothing_costs_redis_nothing(self, memory: InMemory, monkeypatch: pytest.MonkeyPatch) -> None:
        said: list[object] = []
        call = memory.redis.call

        def listen(command: Command) -> object:
            said.append(command[0])
            return call(command)

        monkeypatch.setattr(memory.redis, "call", listen)
        old = connect("state-screen", cookies=ANA)
        shown(old)
        self.flip(memory, everyone=True, number=1)
        memory.advance(1.5)
        assert len(self.told(old)) == 1
        assert set(said) <= {"EVALSHA", "EVAL", "HGET"}
        with connect("state-screen", was=old.client.id, cookies=ANA, backend="channels") as new:
            shown(new)
            assert said.count("GETDEL") == 1  # with the reads of the past, in one round trip
            new.cut()
        old.close()
        assert not {"SET", "DEL"} & set(said)

    def test_a_drain(self, memory: InMemory) -> None:
        # contract 9.1
        one = connect("state-screen", cookies=ANA)
        shown(one, {"set": 1})
        memory.server().drain()
        memory.advance(11)
        assert one.closed == 1012
        assert found(one.client.id, backend="channels") == 1


values = st.integers(0, 3) | st.none()
ends = st.sampled_from(["cut", "slow", "move", "move, and a change", "a move that fails", "leave", "fail"])
lives = st.lists(st.tuples(st.lists(values, max_size=3), ends), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(lives)
def test_lives_of_a_client(lives: list[tuple[list[int | None], str]]) -> None:
    """Whatever happens to its connections, a client finds what was set last, or nothing where it left for good."""
    move, number = TestMove(), 0
    backend: Cohort = "legacy"
    was = kept = None
    with override_settings(REALTIME=BACKENDS), InMemory() as memory:
        memory.server("legacy")
        memory.server("channels")
        for values, end in lives:
            one = connect("state-screen", cookies=ANA, was=was, backend=backend, raise_exceptions=False)
            assert shown(one) == kept
            for kept in values:
                assert shown(one, {"set": kept}) == kept
            was = one.client.id
            if "move" in end:
                number += 1
                other: Cohort = "channels" if backend == "legacy" else "legacy"
                move.flip(memory, everyone=other == "channels", number=number)
                memory.advance(1.5)
                assert len(move.told(one)) == 1
                if "change" in end:
                    kept = shown(one, {"set": 9})
                if "fails" in end:
                    connect("state-screen", cookies=ANA, was=was, backend=other).close()
                    memory.advance(5)
                    assert one.closed == 1012
                else:
                    new = connect("state-screen", cookies=ANA, was=was, backend=other)
                    assert shown(new) == kept
                    one.close()
                    was = new.client.id
                    new.cut()
                backend = other
            elif end == "leave":
                one.close(1000)
                kept = None
            elif end == "fail":
                one.send("fail")
                kept = None
            else:
                one.cut() if end == "cut" else one.close(4001)


def test_where_redis_is_away_the_state_is_lost_and_the_connection_is_not(memory: InMemory) -> None:
    move = TestMove()
    old = connect("state-screen", cookies=ANA)
    shown(old, {"set": {"call": 42}})
    memory.redis.stop()
    move.flip(memory, everyone=True, number=1)
    memory.advance(1.5)
    assert len(move.told(old)) == 1
    assert shown(old) == {"call": 42}
    memory.redis.start()
    memory.advance(1.5)
    with connect("state-screen", was=old.client.id, cookies=ANA, backend="channels") as new:
        assert shown(new) is None
        old.close()


def test_what_the_guide_shows(memory: InMemory) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "keep-state.md"
    (code,) = [each.text for each in blocks(page)]
    code = code.replace('name = "calls"', 'name = "state-guide"').replace('publish("calls"', 'publish("state-guide"')
    exec(compile(code, page, "exec"), {"__name__": "guide"})  # it is our own
    with connect("state-guide", cookies=ANA) as one:
        one.send({"op": "take", "call": 42})
        one.send({"op": "mute"})
        one.cut()
    with connect("state-guide", cookies=ANA, was=one.client.id, backend="channels") as again:
        again.send({"op": "screen"})
        assert again.receive() == {"screen": {"call": 42, "muted": True}}
    assert [published.value for published in memory.outbox] == [{"free": 42}]
