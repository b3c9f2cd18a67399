"""The client's state machine: no duplicate is handed on, nothing missing goes unsaid, whatever the server says."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.client.effects import Deliver, Drop, Effect, Probe, Settle, State, Tell, Transmit
from shim.client.errors import ConnectionClosed, DiscoveryError, HandshakeRefused
from shim.client.events import Connected, Gap, Hole, Lost
from shim.client.protocol import ANSWER, HEARTBEAT, LIVED, MARGIN, Session
from shim.core.wire import Position

TOPICS = ("user", "everyone", "group:a")


def frame(op: str, **fields: object) -> str:
    return json.dumps({"op": op, **fields})


def ready(topics: dict[str, Any], recovered: dict[str, bool] | None = None, **fields: object) -> str:
    told = {"connection": "c", "backend": "legacy", "heartbeat": 25, **fields}
    return frame("ready", topics=topics, recovered=recovered or {}, **told)


def message(seq: int, *, topic: str = "user", epoch: str = "e") -> str:
    return frame("msg", topic=topic, pos=[epoch, seq], data=seq)


def session(**options: Any) -> Session:
    return Session(**{"v1": True, "random": lambda: 0.5, **options})


def opened(topics: dict[str, Any] | None = None, **options: Any) -> Session:
    machine = session(**options)
    machine.connecting()
    machine.opened(0.0, "ws://h/")
    machine.received(ready(topics or {"user": ["e", 0]}), 0.0)
    assert machine.state is State.OPEN
    return machine


class Observer:
    """What an application sees, and the accounts that must agree with it."""

    def __init__(self) -> None:
        self.given: list[tuple[str, Position]] = []
        self.at: dict[str, Position] = {}
        self.unexplained: list[tuple[str, Position]] = []
        self.dropped = False

    def see(self, effects: Iterable[Effect]) -> None:
        holes: set[tuple[str, Position]] = set()
        for effect in effects:
            match effect:
                case Settle(positions):
                    self.at = dict(positions)
                case Tell(Hole(topic, position, previous)):
                    assert self.at[topic] == previous
                    holes.add((topic, position))
                case Deliver(received):
                    assert received.topic is not None
                    assert received.position is not None
                    topic, position = received.topic, received.position
                    known = self.at.get(topic)
                    follows = known is None or (position.epoch == known.epoch and position.seq == known.seq + 1)
                    if not follows and (topic, position) not in holes:
                        self.unexplained.append((topic, position))
                    self.given.append((topic, position))
                    self.at[topic] = position
                case Drop():
                    self.dropped = True


class Truth:
    """An honest server: topics, their epochs and heads, and a history of the last three messages."""

    HISTORY = 3

    def __init__(self) -> None:
        self.at = {topic: Position(f"{topic}-0", 2) for topic in TOPICS}
        self.published: list[tuple[str, Position]] = []
        self.own: list[tuple[str, Position]] = []
        self.epochs = 0

    def publish(self, topic: str, *, own: bool = False) -> str:
        """Somebody's message, or one of the client's own, which is not brought (contract 6.5)."""
        epoch, seq = self.at[topic]
        self.at[topic] = Position(epoch, seq + 1)
        (self.own if own else self.published).append((topic, self.at[topic]))
        return self.shown(topic, self.at[topic])

    def shown(self, topic: str, position: Position) -> str:
        if (topic, position) in self.own:
            return frame("skip", topic=topic, pos=list(position))
        return message(position.seq, topic=topic, epoch=position.epoch)

    def lose(self, topic: str, n: int, *, new_epoch: bool) -> str:
        """Messages get lost for good."""
        self.epochs += new_epoch
        epoch, seq = (f"{topic}-{self.epochs}", 0) if new_epoch else self.at[topic]
        self.at[topic] = Position(epoch, seq + n)
        return frame("gap", topic=topic, pos=[epoch, seq + n])

    def ready(self, resume: dict[str, list[Any]]) -> tuple[list[str], dict[str, bool]]:
        """The frames after `hello`."""
        recovered = {}
        replay = []
        for topic, (epoch, seq) in resume.items():
            head = self.at[topic]
            recovered[topic] = epoch == head.epoch and head.seq - self.HISTORY <= seq <= head.seq
            if recovered[topic]:
                replay += [self.shown(topic, Position(epoch, n)) for n in range(seq + 1, head.seq + 1)]
        return [ready({topic: list(at) for topic, at in self.at.items()}, recovered), *replay], recovered


def resume_of(effects: Iterable[Effect]) -> dict[str, list[Any]]:
    (hello,) = (json.loads(effect.text) for effect in effects if isinstance(effect, Transmit))
    assert hello["op"] == "hello"
    resume = hello["resume"]
    assert isinstance(resume, dict)
    return resume


topics = st.sampled_from(TOPICS)
publishes = st.lists(topics, max_size=5)
actions = st.one_of(
    st.tuples(st.just("publish"), topics, st.booleans()),
    st.tuples(st.just("gap"), topics, st.integers(0, 3), st.booleans()),
    st.tuples(st.just("lose"), st.sampled_from([1006, 1011, 1012, 1013, 4001]), publishes, st.booleans()),
)


@given(st.lists(actions, max_size=30))
def test_an_honest_server_is_followed_exactly(steps: list[tuple[Any, ...]]) -> None:
    """contract 3.1, 3.2, 5.3, 7.4: all that was published comes, once and in order, but for what is said to be lost."""
    machine, observer, truth = session(), Observer(), Truth()
    expected: list[tuple[str, Position]] = []
    gaps = 0

    def connect() -> int:
        machine.connecting()
        resume = resume_of(machine.opened(0.0, "ws://h/"))
        assert {topic: tuple(at) for topic, at in resume.items()} == observer.at == machine.positions
        frames, recovered = truth.ready(resume)
        for text in frames:
            observer.see(machine.received(text, 0.0))
        for topic, came in recovered.items():
            if came:
                missed = [Position(resume[topic][0], n) for n in range(resume[topic][1] + 1, truth.at[topic].seq + 1)]
                expected.extend((topic, position) for position in missed if (topic, position) not in truth.own)
        return sum(not came for came in recovered.values())

    connect()
    for step in steps:
        match step:
            case ("publish", topic, own):
                observer.see(machine.received(truth.publish(topic, own=own), 0.0))
                expected += [] if own else [truth.published[-1]]
            case ("gap", topic, n, new_epoch):
                observer.see(machine.received(truth.lose(topic, n, new_epoch=new_epoch), 0.0))
                gaps += 1
            case ("lose", code, meanwhile, lost_history):
                observer.see(machine.lost(code, "", 0.0))
                assert machine.state is State.WAITING
                for topic in meanwhile:
                    truth.publish(topic, own=topic == "group:a")
                if lost_history:
                    truth.lose("user", 1, new_epoch=True)
                gaps += connect()
    assert observer.given == expected
    assert observer.at == truth.at
    assert not observer.unexplained
    counters = machine.counters
    assert (counters.duplicates_dropped, counters.holes, counters.protocol_errors, counters.gaps) == (0, 0, 0, gaps)
    assert counters.received == len(expected)


noise = st.sampled_from(
    [
        frame("ping"),
        frame("ack", id=3),
        frame("error", code="x", reason="y"),
        frame("move", backend="channels", url="ws://h/", within_ms=1),
        frame("msg", topic="user", pos=None, data=0),
        ready({"user": ["user-0", 9]}),
        "garbage",
    ]
)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("publish"), topics, st.booleans()),
            st.tuples(st.just("gap"), topics, st.integers(0, 3), st.booleans()),
        ),
        max_size=20,
    ),
    st.data(),
)
def test_nothing_comes_twice_whatever_is_repeated_or_reordered(
    steps: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    """contract 3.1: and what is missing is told, and `hello` asks from where the application is."""
    truth = Truth()
    start = dict(truth.at)
    frames = [
        truth.publish(step[1], own=step[2]) if step[0] == "publish" else truth.lose(step[1], step[2], new_epoch=step[3])
        for step in steps
    ]
    said = data.draw(st.lists(st.sampled_from(frames) | noise, max_size=60)) if frames else []
    machine, observer = session(), Observer()
    machine.connecting()
    assert resume_of(machine.opened(0.0, "ws://h/")) == {}
    observer.see(machine.received(ready({topic: list(at) for topic, at in start.items()}), 0.0))
    unpositioned = 0
    for text in said:
        effects = machine.received(text, 0.0)
        plain = [e for e in effects if isinstance(e, Deliver) and e.received.position is None]
        unpositioned += len(plain)
        observer.see(effect for effect in effects if effect not in plain)
        assert machine.positions == observer.at
        if observer.dropped:
            observer.dropped = False
            assert machine.state is State.DROPPING
            assert machine.received(message(1), 0.0) == [], "nothing is taken from a connection that is being dropped"
            machine.lost(1002, "", 0.0, ours=True)
            machine.connecting()
            resume = resume_of(machine.opened(0.0, "ws://h/"))
            assert {topic: tuple(at) for topic, at in resume.items()} == observer.at
            observer.see(machine.received(truth.ready(resume)[0][0], 0.0))
    assert len(set(observer.given)) == len(observer.given), "a message was handed on twice"
    assert not observer.unexplained, "a message is missing and nothing was said"
    assert machine.counters.received == len(observer.given) + unpositioned


def test_recovered_is_not_believed_against_the_positions() -> None:
    """contract 5.3: a topic in another epoch, or behind, cannot have brought what was missed."""
    for told in (Position("new", 9), Position("e", 4)):
        machine = opened({"user": ["e", 5]})
        machine.lost(1006, "", 0.0)
        machine.connecting()
        machine.opened(0.0, "ws://h/")
        effects = machine.received(ready({"user": list(told)}, {"user": True}), 0.0)
        assert Tell(Gap("user", told, Position("e", 5))) in effects
        assert machine.positions == {"user": told}


def test_a_topic_that_ready_does_not_name_is_forgotten() -> None:
    machine = opened({"user": ["e", 5], "group:a": ["f", 1]})
    machine.lost(1006, "", 0.0)
    machine.connecting()
    machine.opened(0.0, "ws://h/")
    machine.received(ready({"user": ["e", 5]}, {"user": True}), 0.0)
    assert machine.positions == {"user": ("e", 5)}


# contract, close codes: code, whether to stay away, delay when the dice show one half and nothing was told
CLOSE_CODES = [
    *((code, None) for code in (1000, 1002, 1003, 1007, 1008, 1009, 4500, 4503, 4999)),
    (1012, 2.5),
    *((code, 0.25) for code in (1001, 1005, 1006, 1011, 1013, 4000, 4001, 4002, 4003, 4499, 3000)),
]


@pytest.mark.parametrize(("code", "delay"), CLOSE_CODES)
def test_the_close_code_table(code: int, delay: float | None) -> None:
    """contract, close codes."""
    machine = opened()
    assert machine.lost(code, "why", 1.0) == [Tell(Lost(code, "why", delay))]
    if delay is None:
        assert machine.state is State.CLOSED
        assert isinstance(machine.error, ConnectionClosed)
        assert (machine.error.code, machine.error.reason) == (code, "why")
        assert machine.connecting() == machine.opened(1.0, "") == machine.lost(1006, "", 1.0) == []
    else:
        assert (machine.state, machine.delay, machine.error) == (State.WAITING, delay, None)


@pytest.mark.parametrize("code", [1002, 1007])
def test_a_fault_of_the_server_is_no_reason_to_stay_away(code: int) -> None:
    machine = opened()
    machine.lost(code, "bad frame", 1.0, ours=True)
    assert machine.state is State.WAITING
    assert machine.counters.protocol_errors == 1


reconnects = st.fixed_dictionaries({name: st.integers(0, 10**9) for name in ("base_ms", "cap_ms", "spread_ms")})
ends = st.lists(st.tuples(st.sampled_from([1006, 1011, 1012, 1013, 4001, None, 503]), st.floats(0, 30)), max_size=12)


@given(reconnects, ends, st.floats(0, 1, exclude_max=True))
def test_every_wait_is_bounded(told: dict[str, int], ends: list[tuple[int | None, float]], dice: float) -> None:
    """contract 8.5: within the spread for 1012, from 0 to the doubled base up to the cap for the rest."""
    machine = session(random=lambda: dice)
    failures = 0
    for code, lived in ends:
        machine.connecting()
        if code is None or code == 503:
            machine.failed("refused", status=code, retry_after=7.0 if code else None)
            pace = machine.pace
            least = 7.0 if code else 0.0
            assert least <= machine.delay <= least + min(pace.cap, pace.base * 2**failures)
            failures += 1
            continue
        machine.opened(0.0, "ws://h/")
        machine.received(ready({}, reconnect=told), 0.0)
        machine.lost(code, "", lived)
        pace = machine.pace
        assert 0.01 <= pace.base <= pace.cap <= 600
        assert pace.spread <= 600
        if lived >= LIVED:
            failures = 0
        backoff = min(pace.cap, pace.base * 2**failures) * dice
        if code != 1012:
            assert machine.delay == backoff
            failures += 1
        elif failures == 0:
            assert machine.delay == pace.spread * dice
            failures += lived < LIVED
        else:
            assert machine.delay == max(backoff, pace.spread * dice)
            failures += 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 426])
def test_a_refusal_that_asking_again_does_not_mend(status: int) -> None:
    """contract 1.1."""
    machine = session()
    machine.connecting()
    error = HandshakeRefused(status, "no", url="ws://h/")
    assert machine.failed("no", status=status, error=error) == [Tell(Lost(None, "no", None, status))]
    assert machine.error is error


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_refusal_that_passes(status: int) -> None:
    """contract 1.1: 503 + Retry-After, and jitter on top of it."""
    machine = session()
    machine.connecting()
    machine.failed(
        "later", status=status, retry_after=5.0, error=DiscoveryError("later", url="http://h/", status=status)
    )
    assert (machine.state, machine.delay) == (State.WAITING, 5.25)


def test_silence_is_asked_about_and_then_ended() -> None:
    """contract 7.1, seen from the client."""
    machine = opened()
    first = HEARTBEAT + ANSWER
    assert machine.deadline == first
    assert machine.tick(first - 1, answered=False) == []
    assert machine.tick(first, answered=True) == [Probe()], "an answer to an older ping does not count"
    assert machine.deadline == first + MARGIN
    assert machine.tick(first + MARGIN, answered=True) == []
    assert machine.deadline == first + MARGIN + first
    second = machine.deadline
    assert machine.tick(second, answered=False) == [Probe()]
    machine.received(frame("ping"), second + 1)
    assert machine.deadline == second + 1 + first, "anything heard is life"
    third = machine.deadline
    assert machine.tick(third, answered=False) == [Probe()]
    (drop,) = machine.tick(third + MARGIN, answered=False)
    assert isinstance(drop, Drop)
    assert drop.code == 4002
    assert machine.lost(drop.code, drop.reason, third, ours=True)
    assert machine.state is State.WAITING


def test_the_server_tells_its_heartbeat() -> None:
    machine = session()
    machine.connecting()
    machine.opened(0.0, "ws://h/")
    assert machine.deadline == 10.0  # for ready
    machine.received(ready({}, heartbeat=100), 1.0)
    assert machine.deadline == 101.0 + ANSWER


def test_closing_is_the_end() -> None:
    machine = opened()
    machine.acks.expect(1)
    machine.closed()
    assert machine.acks.outcome(1) == Lost(1000, "closed by this client", None)
    assert machine.received(message(1), 0.0) == machine.lost(1006, "", 0.0) == machine.failed("x") == []
    assert machine.connecting() == []
    assert (machine.state, machine.error, machine.deadline) == (State.CLOSED, None, None)


def test_raw_has_no_positions_and_no_ready() -> None:
    machine = session(v1=False)
    machine.connecting()
    machine.found("channels", None)
    assert machine.opened(0.0, "ws://h/") == [Tell(Connected("channels", "ws://h/", None, {}, {}))]
    (delivered,) = machine.received('{"op":"ready"}', 0.0)
    assert isinstance(delivered, Deliver)
    assert (delivered.received.position, delivered.received.value) == (None, '{"op":"ready"}')


def test_epochs_that_were_left_are_remembered_but_not_for_ever() -> None:
    machine = opened()
    for n in range(1000):
        machine.received(frame("gap", topic="user", pos=[f"e{n}", 0]), 0.0)
    assert machine.counters.protocol_errors == 0
    assert len(machine._topics._left) <= 256
    machine.received(frame("gap", topic="user", pos=["e900", 5]), 0.0)
    assert machine.state is State.DROPPING


class TestWas:
    """`hello` says which connection this one continues."""

    @staticmethod
    def said(effects: Iterable[Effect]) -> dict[str, Any]:
        (hello,) = (json.loads(effect.text) for effect in effects if isinstance(effect, Transmit))
        assert isinstance(hello, dict)
        return hello

    def test_the_last_that_was_ready(self) -> None:
        machine = session()
        machine.connecting()
        assert "was" not in self.said(machine.opened(0.0, "ws://h/"))
        machine.received(ready({"user": ["e", 0]}, connection="one"), 0.0)
        machine.lost(1006, "", 0.0)
        for _ in range(2):  # one that was never ready is none that can be continued
            machine.connecting()
            assert self.said(machine.opened(0.0, "ws://h/"))["was"] == "one"
            machine.lost(1006, "", 0.0)
        machine.connecting()
        machine.opened(0.0, "ws://h/")
        machine.received(ready({"user": ["e", 0]}, connection="two"), 0.0)
        machine.lost(1006, "", 0.0)
        machine.connecting()
        assert self.said(machine.opened(0.0, "ws://h/"))["was"] == "two"

    def test_on_a_move_the_one_that_moves(self) -> None:
        machine = opened()
        link = 2
        machine.received(frame("move", backend="channels", url="ws://h:2/", within_ms=4_000), 0.0)
        assert self.said(machine.opened(0.0, "ws://h:2/", link))["was"] == "c"
        machine.lost(1006, "", 0.0, link=link)  # it failed, and the client stays where it is
        assert machine.connection == "c"


def test_a_skip_that_nobody_asked_for_is_a_violation() -> None:
    machine = opened()
    assert machine.received(frame("skip", topic="user", pos=["e", 1]), 0.0) == [Settle({"user": Position("e", 1)})]
    assert machine.received(frame("skip", topic="user", pos=["e", 1]), 0.0) == []
    assert machine.counters.duplicates_dropped == 1
    told, settled = machine.received(frame("skip", topic="user", pos=["e", 3]), 0.0)
    assert told == Tell(Hole("user", Position("e", 3), Position("e", 1)))
    assert settled == Settle({"user": Position("e", 3)})
    assert any(isinstance(effect, Drop) for effect in machine.received(frame("skip", topic="x", pos=["e", 1]), 0.0))
    assert machine.counters.received == 0
