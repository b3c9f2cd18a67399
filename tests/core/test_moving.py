"""Make-before-break, the server's half: who is told `move`, who may stay, and who is closed in the end."""

# contract 8.3, 8.5

import json
from random import Random
from typing import Any

import pytest

from shim.core.cohorts import CHANNELS, LEGACY, FlagState, Snapshot, Subject
from shim.core.connection import Connection, Elsewhere, End, Handle, State
from shim.core.limits import Limits
from shim.core.node import JOIN_SECONDS, Node, Pace
from shim.core.protocol import Protocol
from tests.core.members import Sink, alone, connection, live

FLAG = "realtime_channels"
ELSEWHERE = Elsewhere(CHANNELS, "ws://h:8001/ws/calls")
HELLO = '{"op":"hello"}'
SEND = '{"op":"send","id":1,"text":"hi"}'
MOVE = {"op": "move", "backend": "channels", "url": "ws://h:8001/ws/calls", "within_ms": 4000}


class World:
    """A legacy node with v1 connections that are live, its flag and a clock."""

    def __init__(self, pace: Pace | None = None) -> None:
        self.now = 1_000.0
        self.random = Random(1)
        self.flag = FlagState(FLAG)
        self.node = Node(LEGACY, self.flag, pace or alone(), now=self.now, random=self.random.random)
        self.sinks: dict[str, Sink] = {}
        self.told: dict[str, list[float]] = {}
        self.gone: dict[str, tuple[float, int]] = {}
        self.version = 0

    def turn(self, **fields: Any) -> None:
        self.version += 1
        snapshot = Snapshot(FLAG, exists=True, version=("e", self.version), **fields)
        self.node.control(json.dumps({"op": "flag", "snapshot": snapshot.to_json()}).encode(), self.now)

    def open(self, n: int = 1, *, joined: bool = True, **options: Any) -> list[Connection]:
        opened = []
        for _ in range(n):
            made, sink = connection(
                id=f"{self.random.getrandbits(64):016x}",
                subject=Subject(user=str(len(self.sinks))),
                limits=Limits(heartbeat=1e9, hello=1e9),
                now=self.now,
                **{"elsewhere": ELSEWHERE, **options},
            )
            made.accepted(self.now)
            self.node.opened(made, self.now)
            self.sinks[made.id] = sink
            if joined:
                made.received(HELLO, self.now)
                made.joined({}, {})
            opened.append(made)
        return opened

    def run(self, seconds: float, *, step: float = 0.1) -> None:
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now = min(until, self.now + step)
            for each, effects in self.node.tick(self.now):
                for effect in effects:
                    assert isinstance(effect, End)
                    self.gone[each.id] = (self.now, effect.code)
                    each.ended(effect.code)
                    self.node.closed(each)
            for id, sink in self.sinks.items():
                self.told.setdefault(id, []).extend(self.now for op in sink.ops() if op == "move")

    def leave(self, each: Connection) -> None:
        """The client goes by itself."""
        each.ended(1000)
        self.node.closed(each)


class TestConnection:
    def test_v1_is_told_and_stays_open(self) -> None:
        made, sink = live(elsewhere=ELSEWHERE)
        assert made.move(4.0) == []
        assert made.state is State.MOVING
        assert sink.said == [MOVE]

    def test_it_may_do_all_that_it_could(self) -> None:
        made, sink = live(elsewhere=ELSEWHERE)
        made.move(4.0)
        sink.frames.clear()
        (handle,) = made.received(SEND, 1.0)
        assert isinstance(handle, Handle)
        made.handled(1)
        assert made.beat(30.0) == []
        assert sink.ops() == ["ack", "ping"]
        assert made.close(4500, "signed out") == [End(4500, "signed out")]

    def test_it_still_has_to_answer_pings(self) -> None:
        # contract 7.1
        made, _ = live(elsewhere=ELSEWHERE)
        made.move(4.0)
        made.beat(30.0)
        (end,) = made.beat(40.0)
        assert isinstance(end, End)
        assert end.code == 4002

    def test_who_stays_can_be_told_again(self) -> None:
        made, sink = live(elsewhere=ELSEWHERE)
        made.move(4.0)
        made.stay()
        assert made.state is State.LIVE
        assert made.move(2.5) == []
        assert [said["within_ms"] for said in sink.said] == [4000, 2500]

    def test_who_was_told_and_is_still_here_is_closed(self) -> None:
        made, _ = live(elsewhere=ELSEWHERE)
        made.move(4.0)
        assert made.move(4.0) == [End(1012, "moved: reconnect")]
        made.stay()
        assert made.state is State.CLOSING

    @pytest.mark.parametrize("made", [live(Protocol.RAW, elsewhere=ELSEWHERE)[0], live()[0]], ids=["raw", "nowhere"])
    def test_who_cannot_be_told_is_closed(self, made: Connection) -> None:
        # contract 8.4
        assert not made.may_be_told
        assert made.move(4.0) == [End(1012, "moved: reconnect")]


class TestNode:
    def test_everybody_is_told_in_the_window_and_closed_when_theirs_is_over(self) -> None:
        world = World()
        world.turn(percent=0)
        all = world.open(100)
        world.turn(everyone=True)
        started = world.now
        world.run(10.0, step=0.01)
        for each in all:
            (told,) = world.told[each.id]
            gone, code = world.gone[each.id]
            assert told - started <= 1.01
            assert gone - told == pytest.approx(4.0, abs=0.02)
            assert code == 1012

    def test_who_leaves_in_time_is_not_closed(self) -> None:
        world = World()
        world.turn(percent=0)
        all = world.open(10)
        world.turn(everyone=True)
        world.run(1.1)
        for each in all:
            world.leave(each)
        world.run(10.0)
        assert world.gone == {}
        assert world.node._leaving == {}

    def test_move_within_is_a_setting(self) -> None:
        world = World(alone(move_within=0.5))
        world.turn(percent=0)
        (made,) = world.open()
        world.turn(everyone=True)
        world.run(2.0, step=0.01)
        assert world.gone[made.id][0] - world.told[made.id][0] == pytest.approx(0.5, abs=0.02)

    def test_no_time_at_all_is_a_close(self) -> None:
        world = World(alone(move_within=0.0))
        world.turn(percent=0)
        (made,) = world.open()
        world.turn(everyone=True)
        world.run(1.1)
        assert world.gone[made.id][1] == 1012

    def test_the_flag_turned_back_lets_the_told_stay(self) -> None:
        world = World()
        world.turn(percent=0)
        all = world.open(20)
        world.turn(everyone=True)
        world.run(1.1)
        assert {each.state for each in all} == {State.MOVING}
        world.turn(everyone=False)
        assert {each.state for each in all} == {State.LIVE}
        world.run(60.0)
        assert world.gone == {}

    def test_and_turned_again_tells_them_again(self) -> None:
        world = World()
        world.turn(percent=0)
        (made,) = world.open()
        for everyone in (True, False, True):
            world.turn(everyone=everyone)
            world.run(1.1)
        assert len(world.told[made.id]) == 2
        world.run(4.1)
        assert world.gone[made.id][0] - world.told[made.id][1] == pytest.approx(4.0, abs=0.11)

    def test_another_flip_puts_nobody_off(self) -> None:
        world = World()
        world.turn(percent=0)
        (made,) = world.open()
        world.turn(percent=100_000)
        for _ in range(6):
            world.run(1.0)
            world.turn(everyone=True)
        (told,) = world.told[made.id]
        assert world.gone[made.id][0] - told == pytest.approx(4.0, abs=0.11)

    def test_the_told_take_no_place_in_the_window_of_others(self) -> None:
        world = World(alone(moves=10.0))
        world.turn(percent=0)
        world.open(20)
        world.turn(everyone=True)
        world.run(2.1)
        late = world.open(5)
        world.turn(percent=100_000)
        world.run(1.1)
        assert all(world.told[each.id] for each in late)

    def test_who_has_not_joined_yet_is_told_when_it_has(self) -> None:
        world = World()
        world.turn(percent=0)
        (made,) = world.open(joined=False)
        world.turn(everyone=True)
        world.run(3.0)
        assert world.told[made.id] == []
        assert world.gone == {}
        made.received(HELLO, world.now)
        made.joined({}, {})
        world.run(JOIN_SECONDS + 0.1)
        assert made.state is State.MOVING
        assert len(world.told[made.id]) == 1

    def test_raw_is_closed_in_the_window_as_ever(self) -> None:
        # contract 8.4
        world = World()
        world.turn(percent=0)
        (made,) = world.open(protocol=Protocol.RAW, joined=False)
        world.turn(everyone=True)
        world.run(1.1)
        assert world.gone[made.id][1] == 1012

    def test_an_arrival_at_the_wrong_backend_is_told_too(self) -> None:
        # contract 1.4
        world = World()
        world.turn(everyone=True)
        world.run(5.0)
        (made,) = world.open()
        world.run(60.2)
        assert len(world.told[made.id]) == 1

    def test_a_drain_takes_the_told_with_it(self) -> None:
        # contract 9.1
        world = World(alone(drain=2.0))
        world.turn(percent=0)
        world.open(10)
        world.turn(everyone=True)
        world.run(1.1)
        world.node.drain(world.now)
        world.run(2.1)
        assert {code for _, code in world.gone.values()} == {1012}
        assert len(world.gone) == 10


class TestRedisAway:
    """No process lets anybody in then (contract 2.1), so nobody is cut off for a flip (7.3)."""

    def test_who_is_told_meanwhile_stays_and_is_told_again_afterwards(self) -> None:
        world = World()
        world.turn(percent=0)
        all = world.open(50)
        world.node.redis_away()
        world.turn(everyone=True)
        world.run(60.0)
        assert world.gone == {}
        assert all_told(world, 1)
        world.node.redis_back(world.now)
        assert {each.state for each in all} == {State.LIVE}
        world.run(1.1)
        assert all_told(world, 2)
        world.run(4.1)
        assert {code for _, code in world.gone.values()} == {1012}
        assert len(world.gone) == 50

    def test_who_was_told_before_has_its_time_when_redis_is_back_in_time(self) -> None:
        world = World()
        world.turn(percent=0)
        (made,) = world.open()
        world.turn(everyone=True)
        world.run(1.1)
        world.node.redis_away()
        world.run(1.0)
        world.node.redis_back(world.now)
        world.run(10.0)
        assert len(world.told[made.id]) == 1
        assert world.gone[made.id][0] - world.told[made.id][0] == pytest.approx(4.0, abs=0.11)

    def test_who_cannot_be_told_is_closed_afterwards_and_not_all_at_once(self) -> None:
        world = World(alone(moves=100.0))
        world.turn(percent=0)
        world.open(300, protocol=Protocol.RAW, joined=False)
        world.node.redis_away()
        world.turn(everyone=True)
        world.run(30.0)
        assert world.gone == {}
        world.node.redis_back(world.now)
        began = world.now
        world.run(3.1, step=0.01)
        moments = sorted(moment - began for moment, _ in world.gone.values())
        assert len(moments) == 300
        for second in range(3):
            assert sum(second <= moment < second + 1 for moment in moments) <= 103

    def test_the_flag_turned_back_meanwhile_lets_all_stay(self) -> None:
        world = World()
        world.turn(percent=0)
        all = [*world.open(10), *world.open(10, protocol=Protocol.RAW, joined=False)]
        world.node.redis_away()
        world.turn(everyone=True)
        world.run(10.0)
        world.turn(everyone=False)
        world.node.redis_back(world.now)
        world.run(60.0)
        assert world.gone == {}
        assert State.MOVING not in {each.state for each in all}

    def test_a_process_that_stops_does_so_all_the_same(self) -> None:
        # contract 9.1
        world = World(alone(drain=2.0))
        world.turn(percent=0)
        world.open(10)
        world.open(10, protocol=Protocol.RAW, joined=False)
        world.node.redis_away()
        world.turn(everyone=True)
        world.run(10.0)
        world.node.drain(world.now)
        world.node.redis_back(world.now)
        world.run(2.1)
        assert len(world.gone) == 20


def all_told(world: World, times: int) -> bool:
    return {len(told) for told in world.told.values()} == {times}


class TestStaleAnswers:
    """A v1 client that asked where to go before a flip, and connected after it."""

    def test_is_told_soon_and_not_after_the_patience_with_a_wrong_address(self) -> None:  # contract 8.2, 8.3
        pace = alone()
        world = World(pace)
        world.turn(percent=0)
        world.turn(everyone=True)
        world.run(pace.stale - 0.1)
        (late,) = world.open()
        world.run(pace.move_least + 0.1)
        assert len(world.told[late.id]) == 1

    def test_who_comes_later_has_the_usual_time(self) -> None:  # contract 1.4
        pace = alone()
        world = World(pace)
        world.turn(percent=0)
        world.turn(everyone=True)
        world.run(pace.stale + 0.1)
        (wrong,) = world.open()
        world.run(pace.arrival - 0.2)
        assert world.told[wrong.id] == []

    def test_raw_has_the_usual_time_too(self) -> None:  # contract 1.4: it may have no way to ask
        pace = alone()
        world = World(pace)
        world.turn(percent=0)
        world.turn(everyone=True)
        world.run(2.0)
        (wrong,) = world.open(protocol=Protocol.RAW, joined=False)
        world.run(pace.arrival - 0.2)
        assert wrong.id not in world.gone
