"""The fleet's rate: many processes, one Redis, whatever their phases and the way of its answers."""

# contract 8.5

import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, pairwise
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shim.bus.memory_redis import MemoryRedis
from shim.bus.moves import announce_command, round_from
from shim.core.cohorts import LEGACY, FlagState, Snapshot, Subject
from shim.core.connection import Connection, End, State
from shim.core.fleet import PATIENCE_SECONDS, RETRY_SECONDS, ROUND_SECONDS, Announcement, Fleet, Round, dealt, slots
from shim.core.limits import Limits
from shim.core.node import Node, Pace
from shim.core.pacing import TokenBucket
from shim.core.protocol import Protocol
from tests.core.members import connection

FLAG = "realtime_channels"
TICK = 0.1


class TestSlots:
    @given(st.floats(0.001, 10_000), st.integers(0, 10**10), st.integers(1, 50))
    def test_are_the_rate_in_the_long_run(self, rate: float, first: int, rounds: int) -> None:
        given = sum(slots(number, rate) for number in range(first, first + rounds))
        assert abs(given - rounds * ROUND_SECONDS * rate) <= 1.001

    def test_a_slow_rate_has_one_now_and_then(self) -> None:
        assert [slots(number, 0.5) for number in range(9)] == [1, 0, 0, 0, 1, 0, 0, 0, 1]


class TestDealing:
    @given(
        st.lists(st.integers(1, 300), min_size=1, max_size=60),
        st.floats(0.01, 2_000),
        st.integers(10**9, 10**10),
    )
    def test_a_round_is_dealt_out_without_rest_and_without_overlap(
        self, line: list[int], rate: float, number: int
    ) -> None:
        given: list[int] = []
        place = 0
        for wanted in line:
            mine = dealt(number, sum(line), place, wanted, rate)
            assert abs(len(mine) - min(wanted, wanted * slots(number, rate) / sum(line))) <= 1  # its share
            assert len(mine) <= wanted
            given.extend(mine)
            place += wanted
        assert given == list(range(min(sum(line), slots(number, rate))))

    @given(st.integers(2, 500), st.integers(1, 100), st.data())
    def test_whoever_is_alone_gets_a_slot_before_long(self, others: int, a_round: int, data: st.DataObject) -> None:
        total = others + 1
        place = data.draw(st.integers(0, others))
        first = data.draw(st.integers(10**9, 10**10))
        waits = next(n for n in count() if dealt(first + n, total, place, 1, a_round / ROUND_SECONDS))
        assert waits <= 3 * total / a_round + 1

    def test_a_line_that_was_lost_gives_nothing(self) -> None:
        assert not dealt(1, 0, 0, 5, 100.0)
        assert not dealt(1, 7, 4, 5, 100.0)


class TestTheGate:
    def gate(self, *, wanted: int = 10, now: float = 0.0) -> Fleet:
        """A gate whose first announcement is on its way."""
        fleet = Fleet()
        assert fleet.is_due(now)
        assert fleet.announce(wanted, 20.0, now) == Announcement(wanted, -1, 20.0)
        assert not fleet.is_due(now)
        return fleet

    def test_is_shut_until_a_round_begins_for_which_we_have_announced(self) -> None:
        fleet = self.gate()
        fleet.answered(Round(7, 0.2, 0, 0), 20.0, 0.0)
        assert not fleet.take(0.29)
        assert not fleet.is_due(0.29)
        assert fleet.is_due(0.3)
        fleet.announce(10, 20.0, 0.3)
        fleet.answered(Round(8, 0.0, 20, 5), 20.0, 0.3)
        taken = []
        while (moment := fleet.next_turn(0.3)) is not None and not fleet.is_due(moment):
            assert not fleet.take(moment - 0.001)
            assert fleet.take(moment)
            taken.append(moment)
        assert moment == pytest.approx(0.8)
        assert len(taken) == 5  # half of the line, so half of the round
        assert all(later - earlier >= 0.04 for earlier, later in pairwise(taken))

    def test_a_spare_slot_of_the_round_that_runs_is_used_in_it(self) -> None:
        fleet = self.gate()
        fleet.answered(Round(7, 0.2, 0, 0, spare=5), 20.0, 0.0)
        assert not fleet.take(0.04)
        assert fleet.take(0.06)  # the fifth of ten in half a second, of which two fifths are over
        assert not fleet.take(0.29)

    def test_what_is_not_used_is_lost(self) -> None:
        fleet = self.gate()
        fleet.answered(Round(7, 0.0, 0, 0), 20.0, 0.0)
        fleet.announce(10, 20.0, 0.5)
        fleet.answered(Round(8, 0.0, 10, 0), 20.0, 0.5)
        assert fleet.take(0.6)
        assert not fleet.take(1.3)

    def test_opens_when_redis_does_not_answer_in_time(self) -> None:
        fleet = self.gate()
        fleet.is_due(PATIENCE_SECONDS - 0.01)
        assert not fleet.take(PATIENCE_SECONDS - 0.01)
        fleet.is_due(PATIENCE_SECONDS + 0.01)
        assert fleet.take(PATIENCE_SECONDS + 0.01)

    def test_opens_when_redis_is_away_and_asks_again(self) -> None:
        fleet = self.gate()
        fleet.unanswered(0.1)
        assert fleet.take(0.1)
        assert not fleet.is_due(0.1 + RETRY_SECONDS - 0.01)
        assert fleet.is_due(0.1 + RETRY_SECONDS)
        fleet.announce(10, 20.0, 1.1)
        assert fleet.take(1.1)  # until there is an answer
        fleet.answered(Round(7, 0.0, 0, 0), 20.0, 1.11)
        assert not fleet.take(1.11)

    def test_opens_when_the_answer_is_older_than_a_round(self) -> None:
        fleet = self.gate()
        fleet.answered(Round(7, 0.0, 0, 0), 20.0, ROUND_SECONDS + 0.01)
        assert fleet.take(0.6)

    def test_opens_where_this_process_is_too_slow_for_every_round(self) -> None:
        fleet = self.gate()
        for number in range(4):
            assert not fleet.is_open
            fleet.answered(Round(number * 3, 0.0, 50, 0), 20.0, number * 1.5)
            fleet.announce(10, 20.0, (number + 1) * 1.5)
        assert fleet.is_open

    def test_is_shut_again_for_the_next_flip(self) -> None:
        fleet = self.gate()
        fleet.unanswered(0.1)
        assert fleet.announce(0, 20.0, 2.0) is None
        assert not fleet.take(2.0)


@dataclass
class Process:
    """A node and its connections, on the way to Redis and back."""

    node: Node
    phase: float
    way: float  # seconds to Redis, and the same back
    all: list[Connection] = field(default_factory=list)


class System:
    """Processes with one Redis, in one thread, in the order of what happens when."""

    def __init__(self, pace: Pace, people: list[tuple[int, float, float]], *, v1: bool = False) -> None:
        self.random = Random(1)
        self.now = 1_000.0
        self.redis = MemoryRedis(lambda: self.now)
        self.answers = True
        self.gone: dict[str, float] = {}
        self.processes = []
        self._version = 0
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        for n, phase, way in people:
            node = Node(LEGACY, FlagState(FLAG), pace, now=self.now, random=self.random.random)
            process = Process(node, phase, way)
            self.processes.append(process)
            for _ in range(n):
                self.open(process, v1=v1)
            self._at(self.now + phase * TICK, lambda process=process: self._tick(process))  # type: ignore[misc]

    def open(self, process: Process, *, v1: bool) -> None:
        made, _ = connection(
            Protocol.V1 if v1 else Protocol.RAW,
            id=f"{self.random.getrandbits(64):016x}",
            subject=Subject(user=str(self.random.random())),
            limits=Limits(heartbeat=1e9, hello=1e9),
            now=self.now,
            pings=False,
        )
        made.accepted(self.now)
        process.node.opened(made, self.now)
        process.all.append(made)

    def turn(self, percent: int, *, hurry: bool = False) -> None:
        self._version += 1
        for process in self.processes:
            node = process.node
            node.flag.pushed(Snapshot(FLAG, exists=True, percent=percent * 1_000, version=("e", self._version)))
            node.flipped(self.now, hurry=hurry)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._events[0][0] <= until:
            self.now, _, do = heapq.heappop(self._events)
            do()
        self.now = until

    def left(self) -> int:
        """How many are where they do not belong."""
        return sum(
            process.node.flag.cohort(each.subject) != LEGACY
            for process in self.processes
            for each in process.all
            if each.id not in self.gone
        )

    def _at(self, moment: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), do))

    def _tick(self, process: Process) -> None:
        for each, effects in process.node.tick(self.now):
            assert [type(effect) for effect in effects] == [End]
            self.gone[each.id] = self.now
            each.ended(1012)
            process.node.closed(each)
        if (said := process.node.announced(self.now)) is not None:
            self._at(self.now + process.way, lambda: self._ask(process, said))
        self._at(self.now + TICK, lambda: self._tick(process))

    def _ask(self, process: Process, said: Announcement) -> None:
        if self.answers:
            reply = self.redis.call(announce_command("rt", said))
            self._at(self.now + process.way, lambda: process.node.granted(round_from(reply), self.now))
        else:
            self._at(self.now + process.way, lambda: process.node.granted(None, self.now))


def most_within(moments: list[float], seconds: float) -> int:
    """The most that happened in any so many seconds."""
    most = first = 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


WAY = 0.05
people = st.lists(st.tuples(st.integers(0, 150), st.floats(0, 0.999), st.floats(0.0005, WAY)), min_size=1, max_size=6)
FAST = 10_000.0


class TestManyProcesses:
    @settings(max_examples=60, deadline=None)
    @example(people=[(150, 0.0, 0.001)], rate=100.0, flips=[(0, 1.0)])
    @example(people=[(1, phase / 6, 0.01) for phase in range(6)], rate=2.0, flips=[])
    @given(
        people=people,
        rate=st.floats(2, 300),
        flips=st.lists(st.tuples(st.integers(0, 100), st.floats(0, 3)), max_size=4),
    )
    def test_never_move_more_than_the_fleet_may_and_everybody_in_the_end(
        self, people: list[tuple[int, float, float]], rate: float, flips: list[tuple[int, float]]
    ) -> None:
        system = System(Pace(fleet_moves=rate, moves=FAST, move_least=0.05), people)
        system.turn(0)
        system.run(0.5)
        for percent, pause in [(100, 1.0), *flips]:
            system.turn(percent)
            system.run(pause)
        system.turn(100)
        n = system.left()
        system.run(n / rate + 4 * ROUND_SECONDS + 2 / rate)
        assert system.left() == 0
        moments = sorted(system.gone.values())
        # A slot is used at its moment or later: by the round that was half over, the timer, and the way of the answer.
        late = ROUND_SECONDS + 2 * TICK + 2 * WAY
        for seconds in (0.05, 0.5, 1.0, 2.0, 5.0):
            assert most_within(moments, seconds) <= rate * (seconds + late) + 2

    @pytest.mark.parametrize("processes", [2, 10])
    def test_all_processes_are_served_alike(self, processes: int) -> None:
        """Not the first first: at half the time each has moved about half of its own."""
        system = System(
            Pace(fleet_moves=100.0, moves=FAST, move_least=0.05),
            [(1_000 // processes, n / processes, 0.001) for n in range(processes)],
        )
        system.turn(100)
        system.run(5.5)
        for process in system.processes:
            moved = sum(each.id in system.gone for each in process.all)
            assert moved == pytest.approx(500 / processes, rel=0.1)

    def test_a_big_one_and_small_ones_end_together(self) -> None:
        system = System(
            Pace(fleet_moves=100.0, moves=FAST, move_least=0.05), [(700, 0.1, 0.001), *[(30, 0.5, 0.001)] * 10]
        )
        system.turn(100)
        system.run(12.0)
        assert system.left() == 0
        ends = [max(system.gone[each.id] for each in process.all) for process in system.processes]
        assert min(ends) > max(ends) - 2.0

    @pytest.mark.parametrize("begun", [0.0, 0.2, 0.4])
    def test_the_first_need_not_wait_for_the_next_round(self, begun: float) -> None:
        system = System(Pace(fleet_moves=200.0, moves=200.0), [(500, n / 5, 0.005) for n in range(5)])
        system.run(begun)
        began = system.now
        system.turn(100)
        system.run(2 * ROUND_SECONDS)
        first = sorted(system.gone.values())[:5]
        assert first[0] - began <= 2 * TICK + 2 * 0.005
        assert most_within(first, 0.004) <= 5  # a slot of its own for each

    def test_one_alone_is_not_held_up(self) -> None:
        """Where the fleet has room, a process's own rate is all that holds."""
        system = System(Pace(fleet_moves=1_000.0, moves=100.0), [(300, 0.3, 0.001)])
        system.turn(100)
        system.run(3.0 + 2 * ROUND_SECONDS)
        assert system.left() == 0
        assert most_within(sorted(system.gone.values()), 1.0) <= 100 * (1.0 + ROUND_SECONDS) + 2

    def test_who_is_flipped_back_stays_and_leaves_no_debt(self) -> None:
        system = System(Pace(fleet_moves=50.0, moves=FAST, move_least=0.05), [(400, n / 3, 0.001) for n in range(3)])
        system.turn(100)
        system.run(4.0)
        system.turn(0)
        went = len(system.gone)
        assert 100 < went < 250
        system.run(30.0)
        assert len(system.gone) == went
        began = system.now
        system.turn(100)
        system.run(2 * ROUND_SECONDS)
        assert min(moment for moment in system.gone.values() if moment > began) < began + 2 * ROUND_SECONDS

    def test_who_is_told_to_go_needs_no_second_slot_to_be_closed(self) -> None:
        """Contract 8.3: `move_within` after the word it is closed, however many wait behind it."""
        system = System(Pace(fleet_moves=10.0, moves=FAST, move_least=0.05), [(50, 0.0, 0.001)])
        (process,) = system.processes
        system.turn(100)
        system.run(1.5)
        told = next(each for each in process.all if each.id not in system.gone)
        told.state = State.MOVING
        process.node._leaving[told.id] = system.now + 0.01
        heapq.heappush(process.node._order, (system.now + 0.01, told.id))
        system.run(0.2)
        assert told.id in system.gone


class TestWithoutRedis:
    def test_moves_go_by_the_process_own_rate(self) -> None:
        system = System(Pace(fleet_moves=10.0, moves=100.0), [(300, 0.5, 0.01)])
        system.answers = False
        system.turn(100)
        system.run(3.0 + PATIENCE_SECONDS + 0.5)
        assert system.left() == 0
        bucket = TokenBucket(100.0, 100 * TICK + 4, 1_000.0)
        for moment in sorted(system.gone.values()):
            assert bucket.take(moment)

    def test_those_who_waited_do_not_all_go_when_it_goes_away(self) -> None:
        system = System(Pace(fleet_moves=10.0, moves=100.0), [(300, 0.5, 0.01)])
        system.turn(100)
        system.run(5.0)
        assert system.left() > 240
        system.answers = False
        went = len(system.gone)
        began = system.now
        system.run(6.0)
        assert system.left() == 0
        bucket = TokenBucket(100.0, 100 * TICK + 4, began)
        for moment in sorted(system.gone.values())[went:]:
            assert bucket.take(moment)

    def test_when_it_is_back_the_fleet_counts_again(self) -> None:
        system = System(Pace(fleet_moves=10.0, moves=20.0), [(400, 0.5, 0.01)])
        system.answers = False
        system.turn(100)
        system.run(5.0)
        system.answers = True
        system.run(2.0)
        went = len(system.gone)
        system.run(5.0)
        assert len(system.gone) - went <= 10 * 6


class TestHurry:
    def pace(self, **fields: float) -> Pace:
        return Pace(**{"fleet_moves": 50.0, "moves": FAST, "move_least": 0.05, "hurry": 4.0, **fields})

    def test_is_so_many_times_as_fast_and_still_spread(self) -> None:
        for hurry, rate in ((False, 50.0), (True, 200.0)):
            system = System(self.pace(), [(100, n / 4, 0.001) for n in range(4)])
            system.turn(100, hurry=hurry)
            system.run(400 / rate + 4 * ROUND_SECONDS)
            assert system.left() == 0
            moments = sorted(system.gone.values())
            assert moments[-1] - 1_000.0 >= 400 / rate - ROUND_SECONDS
            assert most_within(moments, 1.0) <= rate * (1.0 + ROUND_SECONDS + 2 * TICK) + 2

    def test_the_process_own_rate_is_faster_too(self) -> None:
        system = System(self.pace(fleet_moves=FAST, moves=50.0), [(400, 0.2, 0.001)])
        system.turn(100, hurry=True)
        system.run(2.0 + 2 * ROUND_SECONDS)
        assert system.left() == 0

    def test_can_be_told_to_a_flip_that_is_under_way(self) -> None:
        system = System(self.pace(), [(100, n / 4, 0.001) for n in range(4)])
        system.turn(100)
        system.run(2.0)
        left = system.left()
        assert left > 290
        system.turn(100, hurry=True)
        system.run(left / 200 + 4 * ROUND_SECONDS)
        assert system.left() == 0

    def test_lasts_as_long_as_what_it_was_for(self) -> None:
        system = System(self.pace(), [(100, 0.2, 0.001)])
        (process,) = system.processes
        system.turn(100, hurry=True)
        system.run(0.3)
        system.turn(99)  # somebody else's change on the way does not take it back
        assert process.node.hurried
        system.run(2.0)
        assert not process.node.hurried

    def test_travels_with_what_is_said_of_the_flag(self) -> None:
        node = Node(LEGACY, FlagState(FLAG), self.pace(), now=0.0, random=Random(1).random)

        def say(number: int, **fields: object) -> bool:
            snapshot = Snapshot(FLAG, exists=True, everyone=False, version=("e", number))
            message = {"op": "flag", "snapshot": snapshot.to_json(), **fields}
            node.control(json.dumps(message).encode(), 0.0)
            return node.hurried

        assert not say(2)
        assert not say(1, hurry=True)  # what is over hurries nobody
        assert not say(3, hurry="yes")
        assert say(4, hurry=True)  # the flag is the same: this is for what is under way

    @settings(max_examples=30, deadline=None)
    @given(people=people, after=st.floats(0, 3))
    def test_makes_nobody_wait_longer(self, people: list[tuple[int, float, float]], after: float) -> None:
        """Planned moments are never put off; and of any moment, as many are gone by then as without it."""
        plain, hurried = (System(self.pace(moves=20.0), people) for _ in range(2))
        for system in (plain, hurried):
            system.turn(100)
            system.run(after)
        before = [dict(process.node._leaving) for process in hurried.processes]
        hurried.turn(100, hurry=True)
        for process, planned in zip(hurried.processes, before, strict=True):
            assert process.node._leaving.keys() == planned.keys()
            assert all(moment <= planned[id] for id, moment in process.node._leaving.items())
        for _ in range(12):
            for system in (plain, hurried):
                system.run(1.0)
            # A round may be dealt a slot later than it would have been: the line is in another order.
            assert len(hurried.gone) >= len(plain.gone) - len(people) - 1
