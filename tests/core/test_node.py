import json
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.core.cohorts import CHANNELS, LEGACY, FlagState, Snapshot, Subject
from shim.core.connection import Connection, End, Ping, State
from shim.core.errors import WireError
from shim.core.limits import Limits
from shim.core.names import Everyone, Group, Topic, User, control_channel
from shim.core.node import BEAT_SECONDS, BRISK_SECONDS, LEAST_REST, TICK_SECONDS, Node, Pace
from shim.core.pacing import TokenBucket
from shim.core.protocol import Protocol
from tests.core.members import alone, connection, live

PACE = alone()
FLAG = "realtime_channels"


class World:
    """A node with its flag and a clock; remembers who went when."""

    def __init__(self, backend: str = LEGACY, pace: Pace = PACE, *, seed: int = 1, now: float = 1_000.0) -> None:
        self.now = now
        self.random = Random(seed)
        self.flag = FlagState(FLAG)
        self.woken = 0
        self.node = Node(backend, self.flag, pace, now=now, random=self.random.random, wake=self.wake)
        self.version = 0
        self.gone: dict[str, float] = {}
        self.codes: dict[str, int] = {}

    def wake(self) -> None:
        self.woken += 1

    def turn(self, **fields: Any) -> Snapshot:
        """Turn the flag, as a push does."""
        self.version += 1
        snapshot = Snapshot(FLAG, exists=True, version=("e", self.version), **fields)
        message = {"op": "flag", "snapshot": snapshot.to_json()}
        assert self.node.control(json.dumps(message).encode(), self.now) == []
        return snapshot

    def open(self, n: int = 1, *, first: int = 0) -> list[Connection]:
        """Connections of users `first`… who came in just now; their ids are in no order."""
        opened = []
        for number in range(first, first + n):
            made, _ = connection(
                id=f"{self.random.getrandbits(64):016x}",
                user=f"user-{number}",
                subject=Subject(user=str(number)),
                backend=self.node.backend,
                limits=Limits(heartbeat=1e9, hello=1e9),
                now=self.now,
            )
            made.accepted(self.now)
            self.node.opened(made, self.now)
            opened.append(made)
        return opened

    def run(self, seconds: float, *, step: float = 0.1) -> None:
        """Let the timer tick."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + step)
            for each, effects in self.node.tick(self.now):
                for effect in effects:
                    assert isinstance(effect, End)
                    self.gone[each.id] = self.now
                    self.codes[each.id] = effect.code
                    each.ended(effect.code)
                    self.node.closed(each)

    def elsewhere(self, all: list[Connection]) -> set[str]:
        return {each.id for each in all if self.flag.cohort(each.subject) != self.node.backend}


class TestTheDoor:
    # contract 1.1

    def test_admits_its_burst_then_its_rate(self) -> None:
        world = World(pace=alone(admissions=10.0, admission_burst=3.0))
        assert [world.node.admit(world.now) is None for _ in range(5)] == [True, True, True, False, False]
        assert world.node.admit(world.now + 0.1) is None

    def test_a_refusal_is_503_and_says_when_to_come_back(self) -> None:
        world = World(pace=alone(admissions=0.001, admission_burst=1.0))
        world.node.admit(world.now)
        refusal = world.node.admit(world.now)
        assert refusal is not None
        assert refusal.status == 503
        assert refusal.headers() == [("Retry-After", str(refusal.retry_after))]

    def test_the_refused_are_spread(self) -> None:
        world = World()
        waits = [world.node.retry_after() for _ in range(1_000)]
        assert set(waits) == {5, 6, 7, 8, 9, 10}
        assert all(isinstance(wait, int) for wait in waits)

    def test_a_stopping_process_lets_nobody_in(self) -> None:
        # contract 9.1
        world = World()
        world.node.drain(world.now)
        refusal = world.node.admit(world.now)
        assert refusal is not None
        assert (refusal.status, refusal.reason) == (503, "this server is stopping")


class TestFlips:
    # contract 8.5

    @pytest.mark.parametrize("seed", range(5))
    def test_everybody_who_belongs_elsewhere_goes_and_nobody_else(self, seed: int) -> None:
        world = World(seed=seed)
        world.turn(percent=0)
        all = world.open(300)
        world.turn(percent=40_000)
        elsewhere = world.elsewhere(all)
        assert 80 < len(elsewhere) < 160
        world.run(1.5)  # 300 connections at 200 a second at most
        assert set(world.gone) == elsewhere
        assert set(world.codes.values()) == {1012}
        world.run(100.0)
        assert set(world.gone) == elsewhere

    def test_on_channels_the_others_go(self) -> None:
        world = World(CHANNELS)
        world.turn(percent=100_000)
        all = world.open(100)
        world.turn(everyone=False)
        world.run(2.0)
        assert set(world.gone) == {each.id for each in all}

    @pytest.mark.parametrize("everyone", [True, None])
    def test_a_flip_back_cancels_what_has_not_happened(self, everyone: bool | None) -> None:
        world = World(pace=alone(moves=10.0))
        world.turn(percent=0)
        all = world.open(100)
        world.turn(everyone=everyone, percent=100_000)
        world.run(3.0)
        went = len(world.gone)
        assert 20 < went < 40
        world.turn(everyone=False)
        world.run(60.0)
        assert len(world.gone) == went
        assert all[0].id in world.gone or all[0].state is not State.CLOSED

    @pytest.mark.parametrize(("n", "moves", "most"), [(400, 50.0, 30.0), (400, 400.0, 30.0), (400, 10.0, 10.0)])
    def test_the_rate_is_that_of_the_window(self, n: int, moves: float, most: float) -> None:
        world = World(pace=alone(moves=moves, move_most=most))
        world.turn(percent=0)
        world.open(n)
        world.turn(everyone=True)
        started = world.now
        world.run(most + 1.0, step=0.01)
        times = sorted(moment - started for moment in world.gone.values())
        window = min(most, max(1.0, n / moves))
        assert len(times) == n
        assert times[-1] <= window + 0.02
        for start in range(int(window)):
            within = sum(start <= moment < start + 1 for moment in times)
            assert within <= n / window + 3

    def test_a_few_are_spread_too(self) -> None:
        world = World()
        world.turn(percent=0)
        world.open(4)
        world.turn(everyone=True)
        started = world.now
        world.run(1.2, step=0.01)
        times = sorted(moment - started for moment in world.gone.values())
        assert [int(moment * 4) for moment in times] == [0, 1, 2, 3]

    def test_who_came_first_is_not_who_goes_first(self) -> None:
        world = World()
        world.turn(percent=0)
        all = world.open(100)
        world.turn(everyone=True)
        world.run(2.0, step=0.005)
        order = [each.id for each in sorted(all, key=lambda each: world.gone[each.id])]
        assert order != [each.id for each in all]

    def test_many_flips_put_nobody_off(self) -> None:
        # An operator who turns the knob up each second must not keep the first from going.
        world = World(pace=alone(moves=5.0))
        world.turn(percent=0)
        first = world.open(50)
        world.turn(percent=0, users=frozenset(str(n) for n in range(50)))
        due = dict(world.node._leaving)
        for n in range(20):
            world.open(1, first=100 + n)
            world.turn(percent=0, users=frozenset(str(n) for n in (*range(50), *range(100, 101 + n))))
            world.run(0.5, step=0.01)
        for each in first:
            assert world.gone[each.id] == pytest.approx(due[each.id], abs=0.02)

    @given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 100_000), st.floats(0, 3)), max_size=8))
    def test_any_flips_keep_to_the_rate_and_end(self, seed: int, flips: list[tuple[int, float]]) -> None:
        moves, least, most = 20.0, 1.0, 10.0
        world = World(seed=seed, pace=alone(moves=moves, move_least=least, move_most=most))
        world.turn(percent=0)
        all = world.open(60)
        for percent, pause in flips:
            before = dict(world.node._leaving)
            world.turn(percent=percent)
            elsewhere = world.elsewhere(all) - set(world.gone)
            assert set(world.node._leaving) == elsewhere
            for id, moment in world.node._leaving.items():
                assert moment <= before.get(id, world.now + most)  # nobody is put off
            world.run(pause)
        world.turn(everyone=True)
        world.run(most + 0.2)
        assert set(world.gone) == {each.id for each in all}
        # 60 connections take 3 seconds at this rate; the bucket gets one more for each flip's own jitter.
        bucket = TokenBucket(moves, 2.0 + moves * 0.1 + len(flips) + 1, 1_000.0)
        for moment in sorted(world.gone.values()):
            assert bucket.take(moment)

    def test_a_flip_hurries_those_who_were_to_go_after_its_window(self) -> None:
        world = World(pace=alone(arrival=30.0, arrival_spread=30.0))
        world.turn(everyone=True)
        world.run(5.0)
        (late,) = world.open()
        world.turn(percent=100_000)
        world.run(1.1)
        assert late.id in world.gone

    def test_what_changes_nothing_moves_nobody(self) -> None:
        world = World(pace=alone(moves=10.0))
        world.turn(percent=0)
        world.open(100)
        world.turn(everyone=True)
        due = dict(world.node._leaving)
        world.turn(everyone=True)
        assert world.node._leaving == due

    def test_an_unknown_flag_moves_nobody(self) -> None:
        # contract 8.2
        world = World(CHANNELS)
        world.open(10)
        world.node.flipped(world.now)
        world.run(100.0)
        assert world.gone == {}

    def test_force_is_above_the_flag(self) -> None:
        # contract 8.6
        world = World(CHANNELS)
        world.flag.force = LEGACY
        world.open(10)
        world.turn(everyone=True)
        world.run(2.0)
        assert len(world.gone) == 10


class TestRest:
    # contract 8.5: who is sent away in one instant comes back in one, too

    def test_the_timer_comes_for_each_who_goes(self) -> None:
        world = World(pace=alone(moves=20.0))
        world.turn(percent=0)
        world.open(50)
        assert world.node.rest(world.now) == BEAT_SECONDS
        world.turn(everyone=True)
        for went in range(10):
            world.now = world.node._order[0][0]
            world.node.tick(world.now)
            assert len(world.node._leaving) == 49 - went
            coming = world.node._order[0][0]
            assert world.node.rest(world.now) == pytest.approx(min(max(coming - world.now, LEAST_REST), BRISK_SECONDS))
        world.run(5.0)
        assert not world.node._leaving
        assert world.node.rest(world.now) > TICK_SECONDS

    def test_it_is_woken_when_somebody_has_to_go_sooner(self) -> None:
        world = World(pace=alone(moves=10.0))
        world.turn(percent=0)
        world.open(50)
        world.node.rest(world.now)
        world.turn(percent=0, superusers=True)
        assert world.woken == 0
        world.turn(everyone=True)
        assert world.woken == 1

    def test_it_comes_in_time_for_whoever_goes_much_later(self) -> None:
        world = World(CHANNELS, pace=alone(arrival=30.0, arrival_spread=0.0))
        world.turn(percent=0)
        world.open(1)
        world.run(28.25)
        assert world.node.rest(world.now) == 0.75  # a second before it goes, which the fleet is told
        assert world.woken == 0


class TestBeats:
    # contract 7.1

    def beats(self, world: World, seconds: int, *, step: float = 1.0) -> dict[str, list[float]]:
        """When each connection is pinged."""
        found: dict[str, list[float]] = {}
        for _ in range(int(seconds / step)):
            world.now += step
            for each, effects in world.node.tick(world.now):
                assert effects == [Ping()]
                found.setdefault(each.id, []).append(world.now)
        return found

    def opened(self, world: World, n: int) -> list[Connection]:
        made = [
            live(Protocol.RAW, id=f"c{number}", limits=Limits(answer=1e9), phase=number / n, now=world.now)[0]
            for number in range(n)
        ]
        for each in made:
            world.node.opened(each, world.now)
        return made

    @pytest.mark.parametrize("step", [0.02, 0.1, 1.0])
    def test_each_connection_is_asked_every_25_seconds_and_not_in_step(self, step: float) -> None:
        world = World()
        self.opened(world, 100)
        beats = self.beats(world, 200, step=step)
        assert len(beats) == 100
        for moments in beats.values():
            assert len(moments) >= 7
            assert all(25.0 - 1e-6 <= b - a <= 26.0 + step for a, b in pairwise(moments))
        assert len({moments[0] for moments in beats.values()}) >= 20

    def test_a_process_that_was_held_up_asks_each_once(self) -> None:
        world = World()
        self.opened(world, 10)
        world.now += 86_400.0
        assert len(world.node.tick(world.now)) == 10
        assert self.beats(world, 20) == {}

    def test_who_has_gone_is_forgotten(self) -> None:
        world = World()
        for each in self.opened(world, 10):
            world.node.closed(each)
        assert self.beats(world, 40) == {}
        assert not world.node._beats  # nothing grows with those who have been here


class TestArrivals:
    # contract 1.4

    def test_a_wrong_address_is_no_error_and_left_alone_for_long(self) -> None:
        world = World()
        world.turn(everyone=True)
        world.run(PACE.stale + 0.1)
        (wrong,) = world.open()
        world.run(PACE.arrival - 0.1)
        assert world.gone == {}
        world.run(PACE.arrival_spread + 0.2)
        assert world.codes == {wrong.id: 1012}

    def test_who_asked_before_the_flip_and_came_after_it_goes_with_the_others(self) -> None:
        world = World(pace=alone(moves=10.0))
        world.turn(percent=0)
        world.open(100)
        world.turn(everyone=True)
        world.run(1.0)
        late = world.open(3, first=500)
        world.run(9.1)
        assert {each.id for each in late} <= set(world.gone)

    def test_who_was_told_a_better_address_goes_soon(self) -> None:
        # contract 8.4
        world = World()
        world.turn(everyone=True)
        world.run(PACE.stale + 0.1)
        for made in world.open(20):
            world.node.opened(made, world.now, quickly=True)
        world.run(PACE.move_least + 0.1)
        assert len(world.gone) == 20
        world.turn(everyone=False)
        (right,) = world.open()
        world.node.opened(right, world.now, quickly=True)
        world.run(100.0)
        assert right.id not in world.gone

    def test_who_arrives_where_it_belongs_stays(self) -> None:
        world = World()
        world.turn(percent=0)
        world.open(10)
        world.run(200.0)
        assert world.gone == {}

    def test_who_left_by_itself_is_forgotten(self) -> None:
        world = World()
        world.turn(everyone=True)
        world.run(5.0)
        (wrong,) = world.open()
        world.node.closed(wrong)
        world.node.closed(wrong)
        assert len(world.node) == 0
        world.run(100.0)
        assert world.gone == {}

    def test_a_flip_on_the_way_keeps_it(self) -> None:
        world = World()
        world.turn(everyone=True)
        world.run(5.0)
        world.open()
        world.turn(everyone=False)
        world.run(100.0)
        assert world.gone == {}


class TestDrain:
    # contract 9.1

    @pytest.mark.parametrize("n", [1, 10, 1_000])
    def test_everybody_goes_within_the_window(self, n: int) -> None:
        world = World(pace=alone(drain=10.0))
        world.open(n)
        world.node.drain(world.now)
        started = world.now
        world.run(10.1)
        assert len(world.gone) == n
        assert set(world.codes.values()) == {1012}
        times = sorted(moment - started for moment in world.gone.values())
        for start in range(10):
            assert sum(start <= moment < start + 1 for moment in times) <= n / 10 * 1.15 + 2

    def test_being_told_twice_puts_nobody_off(self) -> None:
        world = World(pace=alone(drain=10.0))
        world.open(40)
        world.node.drain(world.now)
        until = world.node.drained_by
        assert until == world.now + 10.0
        world.run(5.0)
        left = len(world.gone)
        world.node.drain(world.now)
        assert world.node.drained_by == until
        world.run(5.1)
        assert 0 < left < 40 == len(world.gone)

    def test_who_comes_in_at_last_goes_by_the_end_of_the_window(self) -> None:
        world = World(pace=alone(drain=10.0))
        world.node.drain(world.now)
        world.run(9.0)
        world.open(20)
        world.run(1.2)
        assert len(world.gone) == 20

    def test_a_flip_while_draining_changes_nothing(self) -> None:
        world = World(pace=alone(drain=10.0))
        world.turn(percent=0)
        world.open(100)
        world.node.drain(world.now)
        due = dict(world.node._leaving)
        world.turn(everyone=True)
        assert world.node._leaving == due

    def test_who_was_on_the_way_in_goes_too(self) -> None:
        world = World(pace=alone(drain=10.0))
        world.node.drain(world.now)
        world.open(5)
        world.run(10.1)
        assert len(world.gone) == 5

    def test_the_window_is_30_seconds_at_most(self) -> None:
        assert PACE.drain <= 30.0


class TestControl:
    def test_the_channel(self) -> None:
        assert control_channel("rt") == "rt:{control}"

    def disconnect(self, world: World, **fields: object) -> dict[str, int]:
        due = world.node.control(json.dumps({"op": "disconnect", **fields}).encode(), world.now)
        return {each.id: effects[0].code for each, effects in due if isinstance(effects[0], End)}

    def test_disconnect_ends_one_users_connections(self) -> None:
        # contract 7.5
        world = World()
        all = world.open(3)
        assert self.disconnect(world, user="user-1") == {all[1].id: 4500}
        assert self.disconnect(world, user="nobody") == {}

    def test_disconnect_with_a_code(self) -> None:
        world = World()
        all = world.open(1)
        assert self.disconnect(world, user="user-0", code=4503) == {all[0].id: 4503}

    def test_disconnect_by_audience(self) -> None:
        world = World()
        topics = [Topic("calls", Everyone()), Topic("calls", Group("a")), Topic("calls", User("ana"))]
        made, _ = connection(id="x", user="ana", topics=topics)
        world.node.opened(made, world.now)
        tag = Topic("other", Group("b")).tag.partition(":")[2]
        assert self.disconnect(world, topic=tag) == {}
        tag = Topic("other", Group("a")).tag.partition(":")[2]
        assert self.disconnect(world, topic=tag) == {"x": 4500}

    @given(st.binary() | st.dictionaries(st.text(), st.text()).map(lambda fields: json.dumps(fields).encode()))
    def test_garbage_is_a_wire_error_and_changes_nothing(self, data: bytes) -> None:
        world = World()
        world.turn(percent=0)
        world.open(2)
        with pytest.raises(WireError):
            world.node.control(data, world.now)
        assert world.flag.version == ("e", 1)
        assert world.node._leaving == {}

    @pytest.mark.parametrize(
        "message",
        [
            b"",
            b"[]",
            b"null",
            b'"op"',
            b"{}",
            b'{"op":"nonsense"}',
            b'{"op":null}',
            b'{"op":"flag"}',
            b'{"op":"flag","snapshot":null}',
            b'{"op":"flag","snapshot":[]}',
            b'{"op":"flag","snapshot":{"format":1}}',
            b'{"op":"disconnect"}',
            b'{"op":"disconnect","user":7}',
            b'{"op":"disconnect","user":"user-0","code":1000}',
            b'{"op":"disconnect","user":"user-0","code":true}',
            b'{"op":"disconnect","user":"user-0","code":"4500"}',
            b'{"op":"disconnect","user":"user-0","code":4500.0}',
            b"[" * 100_000,
            b"\xff\xfe",
        ],
        ids=lambda data: data[:50].decode(errors="replace"),
    )
    def test_so_is_what_is_nearly_right(self, message: bytes) -> None:
        world = World()
        world.open(1)
        with pytest.raises(WireError) as caught:
            world.node.control(message, world.now)
        assert len(str(caught.value)) < 400
        assert all(each.state is not State.CLOSING for each in world.node.connections.values())

    def test_another_flag_is_passed_over(self) -> None:
        world = World()
        world.turn(percent=0)
        world.open(5)
        other = Snapshot("other", exists=True, everyone=True, version=("e", 9))
        world.node.control(json.dumps({"op": "flag", "snapshot": other.to_json()}).encode(), world.now)
        world.run(100.0)
        assert world.gone == {}


class TestHeartbeats:
    # contract 7.1

    def test_one_walk_a_second_serves_all(self) -> None:
        world = World()
        made, sink = connection(now=world.now)
        made.accepted(world.now)
        made.received('{"op":"hello"}', world.now)
        made.joined({}, {})
        world.node.opened(made, world.now)
        sink.ops()
        pinged = []
        for _ in range(600):
            world.run(0.1)
            if sink.ops():
                pinged.append(world.now)
                sink.last_heard = world.now
        assert len(pinged) == 3
        assert pinged[1] - pinged[0] == pytest.approx(25.0, abs=1.1)
