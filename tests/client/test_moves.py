"""Make-before-break as pure steps: two connections that lag as they like, and each message once, in order."""

# contract 8.3

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.client.effects import Deliver, Dial, Drop, Effect, Leave, Probe, Settle, State, Tell, Transmit
from shim.client.events import Gap, Lost, Moved, MoveFailed, Moving
from shim.client.moves import LONGEST
from shim.client.protocol import LIVED, Session
from shim.core.wire import Position
from tests.client.test_protocol import TOPICS, Observer, frame, message, ready

URLS = {"legacy": "ws://h:8000/ws/calls", "channels": "ws://h:8001/ws/calls"}


def move(backend: str = "channels", within_ms: int = 4_000) -> str:
    return frame("move", backend=backend, url=URLS[backend], within_ms=within_ms)


def opened(topics: dict[str, Any] | None = None) -> Session:
    machine = Session(v1=True, random=lambda: 0.5)
    machine.connecting()
    machine.opened(0.0, URLS["legacy"])
    machine.received(ready(topics or {"user": ["e", 0]}), 0.0)
    assert machine.state is State.OPEN
    return machine


def dial(machine: Session, now: float = 0.0, **options: Any) -> Dial:
    moving, effect = machine.received(move(**options), now)
    assert isinstance(moving, Tell)
    assert isinstance(moving.event, Moving)
    assert isinstance(effect, Dial)
    return effect


def switched(machine: Session, now: float = 0.0, **told: Any) -> int:
    """Move it; the link of the old connection."""
    old, link = machine.link, dial(machine, now).link
    machine.opened(now, URLS["channels"], link)
    machine.received(
        ready({"user": ["e", 0]}, {"user": True}, **{"backend": "channels", "connection": "d", **told}), now, link
    )
    assert machine.link == link
    return old


def events(effects: Iterable[Effect]) -> list[Any]:
    return [effect.event for effect in effects if isinstance(effect, Tell)]


def test_a_move_is_no_sign_of_trouble() -> None:
    """Who has been connected for long enough begins its backoff anew, however often it was moved meanwhile."""
    machine = Session(v1=True, random=lambda: 0.5)
    for _ in range(5):
        machine.connecting()
        machine.failed("refused")
    longest = machine.delay
    machine.connecting()
    machine.opened(0.0, URLS["legacy"])
    machine.received(ready({"user": ["e", 0]}), 0.0)
    machine.lost(1000, "left", LIVED - 1.0, link=switched(machine, LIVED - 1.0))
    machine.lost(1006, "", LIVED)
    assert machine.delay == machine.pace.base * 0.5 < longest


class System:
    """A server with a history and as many connections as the client makes, each with a queue of its own."""

    def __init__(self, history: int) -> None:
        self.machine = Session(v1=True, random=lambda: 0.5)
        self.observer = Observer()
        self.history = history
        self.log: dict[str, list[Position]] = {topic: [Position(f"{topic}-0", 1)] for topic in TOPICS}
        self.published: list[tuple[str, Position]] = []
        self.own: list[tuple[str, Position]] = []
        self.queues: dict[int, list[str]] = {}
        self.dials: list[int] = []
        self.told: list[Any] = []
        self.epochs = 0
        self.connect()

    def head(self, topic: str) -> Position:
        return self.log[topic][-1]

    def do(self, effects: list[Effect], link: int) -> None:
        self.observer.see(effects)
        self.told += events(effects)
        for effect in effects:
            match effect:
                case Transmit(text):
                    self.hello(link, json.loads(text))
                case Dial(number):
                    self.dials.append(number)
                case Leave(number):
                    self.dials = [each for each in self.dials if each != number]
                    if self.queues.pop(number, None) is not None:
                        self.do(self.machine.lost(1000, "", 0.0, ours=True, link=number), number)
                case Drop():
                    raise AssertionError(f"an honest server was dropped: {effect}")

    def connect(self) -> None:
        self.machine.connecting()
        link = self.machine.link
        self.queues[link] = []
        self.do(self.machine.opened(0.0, URLS["legacy"], link), link)

    def hello(self, link: int, said: dict[str, Any]) -> None:
        if said["op"] != "hello":
            return
        recovered, replay = {}, []
        for topic, (epoch, seq) in said["resume"].items():
            head = self.head(topic)
            missed = [(topic, Position(epoch, n)) for n in range(seq + 1, head.seq + 1)]
            is_near = epoch == head.epoch and head.seq - self.history <= seq <= head.seq
            recovered[topic] = is_near and set(missed) <= {*self.published, *self.own}
            if recovered[topic]:
                replay += [self.shown(*each) for each in missed]
        self.queues[link] = [ready({topic: list(self.head(topic)) for topic in TOPICS}, recovered), *replay]

    def publish(self, topic: str, *, own: bool = False) -> None:
        epoch, seq = self.head(topic)
        self.log[topic].append(Position(epoch, seq + 1))
        (self.own if own else self.published).append((topic, self.head(topic)))
        self.say(self.shown(topic, self.head(topic)))

    def send(self, topic: str) -> None:
        """A message of the client's own, which is not brought to it (contract 6.5)."""
        self.publish(topic, own=True)

    def shown(self, topic: str, at: Position) -> str:
        if (topic, at) in self.own:
            return frame("skip", topic=topic, pos=list(at))
        return message(at.seq, topic=topic, epoch=at.epoch)

    def lose_for_good(self, topic: str, n: int, *, new_epoch: bool) -> None:
        epoch, seq = self.head(topic)
        if new_epoch:
            self.epochs += 1
            epoch, seq = f"{topic}-{self.epochs}", 0
        self.log[topic].append(Position(epoch, seq + n))
        self.say(frame("gap", topic=topic, pos=[epoch, seq + n]))

    def say(self, text: str) -> None:
        for queue in self.queues.values():
            if queue or text:
                queue.append(text)

    def deliver(self, which: int, n: int) -> None:
        links = sorted(self.queues)
        if not links:
            return
        link = links[which % len(links)]
        for _ in range(n):
            queue = self.queues.get(link)
            if not queue:
                return
            self.do(self.machine.received(queue.pop(0), 0.0, link), link)

    def open(self) -> None:
        if self.dials:
            link = self.dials.pop()
            self.queues[link] = []
            self.do(self.machine.opened(0.0, URLS["channels"], link), link)

    def refuse(self) -> None:
        if self.dials:
            link = self.dials.pop()
            self.do(self.machine.not_moved(link, "refused"), link)

    def lose(self, which: int) -> None:
        links = sorted(self.queues)
        if links:
            link = links[which % len(links)]
            del self.queues[link]
            was_present = link == self.machine.link
            self.do(self.machine.lost(1006, "", 0.0, link=link), link)
            if was_present:
                assert self.machine.state is State.WAITING
                self.connect()

    def run(self, steps: list[tuple[Any, ...]]) -> None:
        for name, *arguments in steps:
            if name == "move":
                self.queues[self.machine.link].append(move(*arguments))
            elif name == "gap":
                self.lose_for_good(*arguments[:2], new_epoch=arguments[2])
            else:
                getattr(self, name)(*arguments)
            assert len(self.queues) + len(self.dials) <= 2, "more than two connections"
        while any(self.queues.values()):
            self.deliver(0, 100)
            self.deliver(1, 100)


which = st.integers(0, 1)
steps = st.one_of(
    st.tuples(st.sampled_from(["publish", "publish", "send"]), st.sampled_from(TOPICS)),
    st.tuples(st.just("deliver"), which, st.integers(1, 5)),
    st.tuples(st.just("move"), st.sampled_from(["legacy", "channels"])),
    st.tuples(st.just("open")),
    st.tuples(st.just("refuse")),
    st.tuples(st.just("lose"), which),
)
gaps = st.tuples(st.just("gap"), st.sampled_from(TOPICS), st.integers(0, 3), st.booleans())


@given(st.lists(steps, max_size=60))
def test_all_comes_once_and_in_order(taken: list[tuple[Any, ...]]) -> None:
    """contract 3.1, 3.2, 8.3: whatever lags, ends, or is refused on the way."""
    system = System(history=1_000)
    system.deliver(0, 1)
    system.run(taken)
    assert sorted(system.observer.given) == sorted(system.published)
    for topic in TOPICS:
        mine = [each for each in system.published if each[0] == topic]
        assert [each for each in system.observer.given if each[0] == topic] == mine
    counters = system.machine.counters
    assert (counters.duplicates_dropped, counters.holes, counters.gaps, counters.protocol_errors) == (0, 0, 0, 0)
    told = [type(event) for event in system.told]
    assert told.count(Moving) - told.count(Moved) - told.count(MoveFailed) in (0, 1)
    assert counters.moved == told.count(Moved)
    assert counters.moves_failed == told.count(MoveFailed)


@given(st.lists(steps | gaps, max_size=60), st.integers(0, 3))
def test_what_is_lost_for_good_is_told_and_nothing_comes_twice(taken: list[tuple[Any, ...]], history: int) -> None:
    """contract 5.3, 7.4, with a history that is shorter than a move."""
    system = System(history)
    system.deliver(0, 1)
    system.run(taken)
    assert len(set(system.observer.given)) == len(system.observer.given)
    assert not system.observer.unexplained, "a message is missing and nothing was said"
    for topic in TOPICS:
        given = [position for name, position in system.observer.given if name == topic]
        order = [position for name, position in system.published if name == topic]
        assert given == [position for position in order if position in given]
    counters = system.machine.counters
    assert (counters.duplicates_dropped, counters.holes, counters.protocol_errors) == (0, 0, 0)
    assert system.machine.positions == {topic: system.head(topic) for topic in TOPICS}


class TestDeadlines:
    def test_the_servers_patience_is_the_clients(self) -> None:
        assert dial(opened(), now=7.0).deadline == 11.0

    def test_but_not_for_ever(self) -> None:
        assert dial(opened(), now=7.0, within_ms=10**9).deadline == 7.0 + LONGEST

    def test_no_ready_in_time(self) -> None:
        machine = opened()
        link = dial(machine).link
        machine.opened(1.0, URLS["channels"], link)
        assert machine.due(link) == 4.0
        assert machine.tick(3.9, answered=False, link=link) == []
        failed, drop = machine.tick(4.0, answered=False, link=link)
        assert failed == Tell(MoveFailed("channels", "not ready in time"))
        assert isinstance(drop, Drop)
        assert drop.code == 1000
        assert not machine.holds(link)
        assert machine.state is State.OPEN

    def test_a_handshake_that_is_done_too_late(self) -> None:
        machine = opened()
        link = dial(machine).link
        assert machine.opened(4.0, URLS["channels"], link) == [Tell(MoveFailed("channels", "not ready in time"))]
        assert not machine.holds(link)

    def test_what_is_owed_is_waited_for_until_then(self) -> None:
        machine = opened()
        machine.acks.sent(machine.link)
        old = switched(machine)
        assert machine.holds(old)
        assert machine.due(machine.link) == 4.0
        assert machine.tick(3.9, answered=False) == []
        assert machine.tick(4.0, answered=False) == [Leave(old)]
        assert machine.tick(4.1, answered=False) == []
        assert machine.lost(1000, "", 4.1, link=old) == []
        assert not machine.holds(old)

    def test_the_heartbeat_goes_on_meanwhile(self) -> None:
        # contract 7.1
        machine = opened()
        machine.acks.sent(machine.link)
        switched(machine, heartbeat=1.0)
        machine.tick(4.0, answered=False)
        assert machine.due(machine.link) == 9.0
        assert machine.tick(9.0, answered=False) == [Probe()]


class TestAcks:
    def test_an_answer_from_the_old_one_counts(self) -> None:
        machine = opened()
        machine.acks.sent(machine.link)
        machine.acks.expect(1, machine.link)
        old = switched(machine)
        assert machine.received(frame("ack", id=1), 1.0, old) == [Leave(old)]
        outcome = machine.acks.outcome(1)
        assert outcome is not None
        assert not isinstance(outcome, Lost)

    def test_what_the_old_one_owes_at_its_end_is_lost_and_nothing_else(self) -> None:
        machine = opened()
        for id in (1, 2):
            machine.acks.sent(machine.link)
            machine.acks.expect(id, machine.link)
            if id == 1:
                old = switched(machine)
        assert machine.lost(1012, "", 1.0, link=old) == []
        assert machine.acks.outcome(1) == Lost(1012, "", None)
        assert machine.acks.outcome(2) is None
        assert machine.counters.losses == 0

    def test_the_end_of_the_new_one_takes_only_its_own(self) -> None:
        machine = opened()
        machine.acks.sent(machine.link)
        machine.acks.expect(1, machine.link)
        old = switched(machine)
        machine.acks.expect(2, machine.link)
        effects = machine.lost(1011, "", 1.0)
        assert Leave(old) in effects
        assert machine.acks.outcome(1) is None
        assert isinstance(machine.acks.outcome(2), Lost)
        machine.received(frame("ack", id=1), 1.0, old)
        assert not isinstance(machine.acks.outcome(1), Lost)


class TestOneAtATime:
    def test_told_again_under_way(self) -> None:
        machine = opened()
        link = dial(machine).link
        assert machine.received(move(), 1.0) == []
        machine.opened(1.0, URLS["channels"], link)
        assert machine.received(move(), 1.0) == []
        assert machine.counters.moves_told == 3

    def test_told_while_the_last_one_is_not_over(self) -> None:
        machine = opened()
        machine.acks.sent(machine.link)
        old = switched(machine)
        assert machine.received(move("legacy"), 1.0) == []
        moving, effect = machine.lost(1000, "", 2.0, link=old)
        assert moving == Tell(Moving("legacy", URLS["legacy"], 4.0))
        assert isinstance(effect, Dial)
        assert effect.deadline == 5.0, "counted from when it was told"

    def test_and_that_took_too_long(self) -> None:
        machine = opened()
        machine.acks.sent(machine.link)
        old = switched(machine)
        machine.received(move("legacy", within_ms=500), 1.0)
        effects = machine.lost(1000, "", 2.0, link=old)
        assert events(effects) == [Moving("legacy", URLS["legacy"], 0.5), MoveFailed("legacy", "not ready in time")]

    def test_and_the_new_one_ended_too(self) -> None:
        machine = opened()
        machine.acks.sent(machine.link)
        old = switched(machine)
        machine.received(move("legacy"), 1.0)
        machine.lost(1006, "", 1.5)
        assert machine.lost(1000, "", 2.0, link=old) == []

    def test_a_connection_that_was_given_up_says_nothing(self) -> None:
        machine = opened()
        link = dial(machine).link
        machine.not_moved(link, "dead")
        assert machine.opened(0.0, URLS["channels"], link) == []
        assert machine.received(message(1), 0.0, link) == []
        assert machine.tick(100.0, answered=False, link=link) == []
        assert machine.not_moved(link, "dead") == []
        assert machine.lost(1006, "", 0.0, link=link) == []


class TestTheOldOne:
    def test_a_violation_of_the_old_one_ends_the_move(self) -> None:
        machine = opened()
        link = dial(machine).link
        machine.opened(0.0, URLS["channels"], link)
        effects = machine.received("nonsense", 0.0)
        assert Leave(link) in effects
        assert machine.state is State.DROPPING
        assert not machine.holds(link)

    @pytest.mark.parametrize("code", [1012, 1006, 4500])
    def test_its_end_gives_the_move_up(self, code: int) -> None:
        machine = opened()
        link = dial(machine).link
        effects = machine.lost(code, "why", 1.0)
        failed, lost = events(effects)
        assert failed == MoveFailed("channels", f"the old connection ended first: {code} 'why'")
        assert isinstance(lost, Lost)
        assert Leave(link) in effects
        assert not machine.holds(link)

    def test_closing_forgets_both(self) -> None:
        machine = opened()
        machine.acks.sent(machine.link)
        old = switched(machine)
        machine.closed()
        assert not machine.holds(old)
        assert not machine.holds(machine.link)
        assert machine.lost(1000, "", 0.0, link=old) == machine.lost(1000, "", 0.0) == []

    def test_what_it_says_of_topics_after_the_switch_is_nothing(self) -> None:
        machine = opened()
        machine.acks.sent(machine.link)
        old = switched(machine)
        for text in (message(1), frame("gap", topic="user", pos=["x", 1]), move(), ready({"user": ["x", 1]})):
            assert machine.received(text, 0.0, old) == []
        assert machine.received(frame("ping"), 0.0, old) == [Transmit('{"op":"pong"}')]
        (direct,) = machine.received(frame("msg", topic=None, pos=None, text="hi"), 0.0, old)
        assert isinstance(direct, Deliver)
        assert machine.received("nonsense", 0.0, old) == [Leave(old)]


class TestOverlap:
    def new(self, machine: Session, at: Position, *, recovered: bool = True) -> list[Effect]:
        """Move it while the old connection brings 1 and 2 after `hello`."""
        link = dial(machine).link
        machine.opened(0.0, URLS["channels"], link)
        for seq in (1, 2):
            machine.received(message(seq), 0.0)
        return machine.received(ready({"user": list(at)}, {"user": recovered}, backend="channels"), 0.0, link)

    def test_the_switch_settles_what_is_known(self) -> None:
        machine = opened()
        assert self.new(machine, Position("e", 2))[0] == Settle({"user": Position("e", 2)})

    def test_a_gap_over_what_has_come_is_nothing(self) -> None:
        machine = opened()
        self.new(machine, Position("e", 2))
        assert machine.received(frame("gap", topic="user", pos=["e", 2]), 0.0) == []
        assert len(machine.received(message(3), 0.0)) == 1
        assert machine.counters.gaps == 0

    def test_a_gap_beyond_it_is_told(self) -> None:
        machine = opened()
        self.new(machine, Position("e", 2))
        effects = machine.received(frame("gap", topic="user", pos=["e", 5]), 0.0)
        assert events(effects) == [Gap("user", Position("e", 5), Position("e", 2))]

    def test_a_server_that_has_gone_back_is_not_believed(self) -> None:
        machine = opened({"user": ["e", 5]})
        link = dial(machine).link
        machine.opened(0.0, URLS["channels"], link)
        machine.received(message(6), 0.0)
        effects = machine.received(ready({"user": ["e", 3]}, {"user": True}, backend="channels"), 0.0, link)
        assert Gap("user", Position("e", 3), Position("e", 6)) in events(effects)

    def test_an_epoch_that_the_old_one_has_told_first(self) -> None:
        """The new connection is behind: it brings the rest of the old epoch, its gap, and then what is new."""
        machine = opened()
        link = dial(machine).link
        machine.opened(0.0, URLS["channels"], link)
        machine.received(message(1), 0.0)
        machine.received(frame("gap", topic="user", pos=["f", 1]), 0.0)
        machine.received(message(2, epoch="f"), 0.0)
        machine.received(ready({"user": ["e", 1]}, {"user": True}, backend="channels"), 0.0, link)
        assert machine.received(message(1), 0.0) == []
        assert machine.received(frame("gap", topic="user", pos=["f", 1]), 0.0) == []
        assert machine.received(message(2, epoch="f"), 0.0) == []
        assert len(machine.received(message(3, epoch="f"), 0.0)) == 1
        counters = machine.counters
        assert (counters.gaps, counters.holes, counters.duplicates_dropped) == (1, 0, 0)

    def test_an_epoch_that_is_over_and_that_the_new_server_still_believes_in(self) -> None:
        machine = opened()
        link = dial(machine).link
        machine.opened(0.0, URLS["channels"], link)
        for epoch in ("f", "g"):
            machine.received(frame("gap", topic="user", pos=[epoch, 0]), 0.0)
        machine.received(ready({"user": ["e", 1]}, {"user": False}, backend="channels"), 0.0, link)
        for epoch in ("f", "g"):
            assert machine.received(frame("gap", topic="user", pos=[epoch, 0]), 0.0) == []
        assert len(machine.received(message(1, epoch="g"), 0.0)) == 1
        assert (machine.counters.gaps, machine.counters.protocol_errors) == (2, 0)
