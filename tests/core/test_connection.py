import base64
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shim.core.connection import (
    TRANSITIONS,
    Connection,
    Elsewhere,
    End,
    Handle,
    Join,
    Ping,
    State,
)
from shim.core.limits import Limits, TextHeartbeat
from shim.core.message import Kind, Message
from shim.core.protocol import TEXT_HEARTBEAT, Protocol, frame_limit
from shim.core.wire import Position
from tests.core.members import connection, live

V1, RAW = Protocol.V1, Protocol.RAW
HELLO = '{"op":"hello"}'
SEND = '{"op":"send","id":1,"text":"hi"}'
BAD = '{"op":"nonsense"}'
HEARTBEAT = TextHeartbeat(TEXT_HEARTBEAT, 25.0)


def code(effects: list[Any]) -> int:
    (end,) = effects
    assert isinstance(end, End)
    return end.code


class TestTable:
    def test_every_state_can_end_and_nothing_comes_after(self) -> None:
        assert set(TRANSITIONS) == set(State)
        for state, following in TRANSITIONS.items():
            assert state not in following
            assert (State.CLOSED in following) == (state is not State.CLOSED)
        assert TRANSITIONS[State.CLOSED] == frozenset()

    @pytest.mark.parametrize(("state", "other"), list(itertools.product(State, State)))
    def test_what_the_table_does_not_name_is_impossible(self, state: State, other: State) -> None:
        made, _ = connection()
        made.state = state
        if other in TRANSITIONS[state]:
            made._go(other)
            assert made.state is other
        else:
            with pytest.raises(AssertionError, match=f"{state.name} → {other.name} is not a transition"):
                made._go(other)

    @pytest.mark.parametrize("protocol", Protocol)
    @pytest.mark.parametrize("state", State)
    def test_no_call_ever_tries_one(self, state: State, protocol: Protocol) -> None:
        calls: list[Callable[[Connection], object]] = [
            lambda each: each.accepted(1.0),
            lambda each: each.joined({}, {}),
            lambda each: each.received(HELLO, 1.0),
            lambda each: each.received(SEND, 1.0),
            lambda each: each.received(BAD, 1.0),
            lambda each: each.received(b"\0", 1.0),
            lambda each: each.handled(1),
            lambda each: each.refused(1, "no", 1.0),
            lambda each: each.failed(),
            lambda each: each.beat(1_000.0),
            lambda each: each.move(4.0),
            lambda each: each.stay(),
            lambda each: each.close(4500, "out"),
            lambda each: each.ended(1006),
        ]
        for call in calls:
            made, _ = connection(protocol, elsewhere=Elsewhere("channels", "ws://h/"))
            made.state = state
            call(made)
            assert made.state is state or made.state in TRANSITIONS[state]


class TestOpening:
    def test_raw_joins_at_once(self) -> None:
        # contract 2.1, 5.2
        made, sink = connection(RAW)
        assert made.accepted(0.0) == [Join({})]
        made.joined({}, {})
        assert made.state is State.LIVE
        assert sink.frames == []  # a raw client is told nothing

    def test_v1_says_hello_first(self) -> None:
        # contract: realtime.v1 frames
        made, sink = connection()
        assert made.accepted(0.0) == []
        assert made.received('{"op":"hello","resume":{"user":["e",41]}}', 0.0) == [Join({"user": Position("e", 41)})]
        assert sink.frames == []
        made.joined({"user": Position("e", 44)}, {"user": True})
        (ready,) = sink.said
        limits = Limits()
        assert ready == {
            "op": "ready",
            "connection": "c1",
            "backend": "legacy",
            "topics": {"user": ["e", 44]},
            "recovered": {"user": True},
            "heartbeat": 25.0,
            "reconnect": dict(limits.reconnect),
        }

    def test_no_hello_within_10_seconds_is_4003(self) -> None:
        # contract: close codes
        made, _ = connection(now=0.0)
        made.accepted(5.0)  # counted from here
        assert made.beat(14.9) == []
        assert code(made.beat(15.0)) == 4003

    def test_a_violation_is_no_hello(self) -> None:
        made, _ = connection()
        made.accepted(0.0)
        made.received(BAD, 1.0)
        assert code(made.beat(10.0)) == 4003

    @pytest.mark.parametrize(("frame", "error"), [(SEND, "no_hello"), (b"\0", "binary"), (BAD, "unknown_op")])
    def test_something_else_first_is_a_violation(self, frame: str | bytes, error: str) -> None:
        # contract 6.3
        made, sink = connection()
        made.accepted(0.0)
        assert made.received(frame, 0.0) == []
        assert [said["code"] for said in sink.said] == [error]
        assert made.received(HELLO, 0.0) == [Join({})]

    def test_a_second_hello_is_a_violation(self) -> None:
        made, sink = live()
        assert made.received(HELLO, 0.0) == []
        assert sink.said[0]["code"] == "second_hello"

    @pytest.mark.parametrize("protocol", Protocol)
    def test_who_is_gone_before_it_joined_is_told_nothing(self, protocol: Protocol) -> None:
        made, sink = connection(protocol)
        made.accepted(0.0)
        made.close(4500, "signed out")
        made.joined({}, {})
        assert (made.state, sink.frames) == (State.CLOSING, [])


class TestComingIn:
    # contract 6

    @given(st.text(st.characters(exclude_categories=["Cs"])) | st.binary())
    def test_raw_keeps_kind_and_value(self, data: str | bytes) -> None:
        made, _ = live(RAW)
        kind = Kind.TEXT if isinstance(data, str) else Kind.BINARY
        assert made.received(data, 0.0) == [Handle(Message(kind, data), None)]

    def test_v1_keeps_kind_value_and_id(self) -> None:
        made, sink = live()
        assert made.received(SEND, 0.0) == [Handle(Message(Kind.TEXT, "hi"), 1)]
        made.handled(1)
        assert sink.said == [{"op": "ack", "id": 1}]

    def test_what_has_no_id_gets_no_ack(self) -> None:
        made, sink = live()
        made.received('{"op":"send","data":null}', 0.0)
        made.handled(None)
        assert sink.frames == []

    def test_a_violation_is_told_and_a_second_within_10_seconds_ends_it(self) -> None:
        # contract 6.3
        made, sink = live()
        assert made.received(BAD, 100.0) == []
        assert made.received(BAD, 110.0) == []
        assert made.received(SEND, 111.0) != []
        assert code(made.received(BAD, 119.9)) == 1008
        assert sink.ops() == ["error", "error", "error"]

    def test_a_handler_that_says_no_is_a_violation_on_v1(self) -> None:
        made, sink = live()
        made.received(SEND, 0.0)
        assert made.refused(1, "calls takes nothing from clients", 0.0) == []
        assert sink.said == [
            {"op": "error", "id": 1, "code": "forbidden", "reason": "calls takes nothing from clients"}
        ]
        assert code(made.refused(2, "still", 1.0)) == 1008

    def test_a_handler_that_says_no_ends_raw(self) -> None:
        made, sink = live(RAW)
        made.received("hi", 0.0)
        assert made.refused(None, "no", 0.0) == [End(1008, "no")]
        assert sink.frames == []

    @pytest.mark.parametrize("protocol", Protocol)
    def test_a_handler_that_fails_ends_its_connection(self, protocol: Protocol) -> None:
        # contract 6.2
        made, _ = live(protocol)
        made.received(SEND, 0.0)
        assert code(made.failed()) == 1011

    @pytest.mark.parametrize("protocol", Protocol)
    def test_nothing_is_said_after_a_close(self, protocol: Protocol) -> None:
        made, sink = live(protocol)
        made.received(SEND, 0.0)
        made.close(4500, "signed out")
        made.handled(1)
        assert made.refused(1, "no", 0.0) == made.failed() == made.received(SEND, 0.0) == made.received(BAD, 0.0) == []
        assert made.beat(1_000.0) == []
        assert sink.frames == []

    @pytest.mark.parametrize("protocol", Protocol)
    def test_over_the_inbound_rate_is_1008(self, protocol: Protocol) -> None:
        # contract 6.3
        made, _ = live(protocol, limits=Limits(inbound_rate=10.0, inbound_burst=3.0))
        for _ in range(3):
            assert isinstance(made.received(SEND, 0.0)[0], Handle)
        assert isinstance(made.received(SEND, 0.1)[0], Handle)  # a token has come back
        assert code(made.received(SEND, 0.1)) == 1008

    def test_heartbeats_are_not_counted(self) -> None:
        # contract 7.1
        limits = Limits(inbound_rate=0.001, inbound_burst=1.0)
        v1, _ = live(limits=limits)
        raw, _ = live(RAW, limits=limits, text_heartbeat=HEARTBEAT)
        for _ in range(50):
            assert v1.received('{"op":"pong"}', 0.0) == raw.received(TEXT_HEARTBEAT, 0.0) == []


class TestTooBig:
    # contract 6.3: 1009 at the exact byte

    @pytest.mark.parametrize(
        ("protocol", "of_size"),
        [
            (RAW, lambda n: "x" * n),
            (RAW, lambda n: "é" * (n // 2) + "x" * (n % 2)),
            (RAW, lambda n: "\U0001f600" * (n // 4) + "x" * (n % 4)),
            (RAW, bytes),
            (V1, lambda n: json.dumps({"op": "send", "text": "x" * n})),
            (V1, lambda n: json.dumps({"op": "send", "text": "é" * (n // 2) + "x" * (n % 2)}, ensure_ascii=False)),
            (V1, lambda n: json.dumps({"op": "send", "b64": base64.b64encode(bytes(n)).decode()})),
            (V1, lambda n: json.dumps({"op": "send", "data": "x" * (n - 2)})),
            (V1, lambda n: json.dumps({"op": "send", "data": ["x" * (n - 4)]})),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    @pytest.mark.parametrize("limit", [100, 101, 4_096])
    def test_of_each_kind(self, protocol: Protocol, of_size: Callable[[int], str | bytes], limit: int) -> None:
        made, _ = live(protocol, limits=Limits(max_message=limit))
        assert isinstance(made.received(of_size(limit), 0.0)[0], Handle)
        assert len(of_size(limit)) <= frame_limit(limit)
        assert code(made.received(of_size(limit + 1), 0.0)) == 1009

    def test_escapes_do_not_count(self) -> None:
        made, _ = live(limits=Limits(max_message=10))
        frame = '{"op":"send","text":"' + "\\u00e9" * 5 + '"}'
        assert isinstance(made.received(frame, 0.0)[0], Handle)

    def test_it_takes_no_token(self) -> None:
        made, _ = live(RAW, limits=Limits(max_message=10, inbound_rate=0.001, inbound_burst=1.0))
        assert code(made.received("x" * 11, 0.0)) == 1009


class TestStayingAlive:
    # contract 7.1

    def test_pings_are_spread_over_the_interval(self) -> None:
        first = []
        for phase in (0.0, 0.25, 0.5, 0.75, 0.999):
            made, sink = live(phase=phase)
            first.append(next(now for now in range(30) if made.beat(float(now)) or sink.frames))
        assert first == sorted(first)
        assert len(set(first)) == 5
        assert first[0] >= 5
        assert first[-1] <= 25

    @pytest.mark.parametrize("protocol", Protocol)
    def test_a_ping_every_25_seconds_while_it_is_answered(self, protocol: Protocol) -> None:
        made, sink = live(protocol, phase=1.0)
        pinged = []
        for now in range(1, 200):
            effects = made.beat(float(now))
            if effects == [Ping()] or sink.frames:
                pinged.append(now)
                sink.frames.clear()
                sink.last_heard = now + 0.1
            else:
                assert effects == []
        assert pinged == [25, 50, 75, 100, 125, 150, 175]

    @pytest.mark.parametrize("protocol", Protocol)
    def test_8_seconds_of_silence_after_a_ping_is_4002(self, protocol: Protocol) -> None:
        made, sink = live(protocol, phase=1.0)
        sink.last_heard = 24.9
        made.beat(25.0)
        assert made.beat(32.9) == []
        assert code(made.beat(33.0)) == 4002

    @pytest.mark.parametrize("protocol", Protocol)
    def test_an_answer_may_be_waited_for_longer_than_to_the_next_ping(self, protocol: Protocol) -> None:
        made, _ = live(protocol, phase=1.0, limits=Limits(heartbeat=5.0, answer=12.0))
        for now in (5.0, 10.0, 15.0):
            made.beat(now)
        assert made.beat(16.9) == []
        assert code(made.beat(17.0)) == 4002

    @pytest.mark.parametrize("protocol", Protocol)
    def test_anything_that_comes_is_life(self, protocol: Protocol) -> None:
        made, sink = live(protocol, phase=1.0)
        made.beat(25.0)
        sink.last_heard = 25.0  # a data frame, a pong, a close: the shell notes all of them
        for now in range(26, 49):
            assert made.beat(float(now)) == []

    @pytest.mark.parametrize("protocol", Protocol)
    def test_a_busy_handler_is_never_silence(self, protocol: Protocol) -> None:
        # Nothing is read while a handler works, so a pong would lie unread.
        made, sink = live(protocol, phase=1.0)
        made.beat(25.0)
        made.received(SEND, 26.0)
        sink.frames.clear()
        for now in range(26, 500):
            assert made.beat(float(now)) == []
        assert sink.frames == []
        made.handled(None)
        made.beat(500.0)  # a new ping, with its own 8 s
        assert made.beat(507.9) == []
        assert code(made.beat(508.0)) == 4002

    @pytest.mark.parametrize("protocol", Protocol)
    def test_a_handler_that_works_across_a_beat_is_never_silence(self, protocol: Protocol) -> None:
        made, _ = live(protocol, phase=1.0)
        made.beat(25.0)
        made.received(SEND, 26.0)  # what came before its pong, which lies unread until the handler has finished
        made.handled(None)
        assert made.beat(33.0) == []

    def test_it_says_when_it_wants_to_be_looked_at(self) -> None:
        made, sink = live(RAW, phase=1.0)
        assert made.next_beat(0.0) == 25.0
        assert made.beat(25.5) == [Ping()]
        assert made.next_beat(25.5) == 33.5  # the answer's time
        sink.last_heard = 26.0
        assert made.beat(33.5) == []
        assert made.next_beat(33.5) == 50.0  # every 25 s, though the timer came late
        made.received("hello", 40.0)
        assert made.next_beat(40.0) == 40.0  # while a handler works, that may change at any time
        made.handled(None)
        assert made.next_beat(41.0) == 50.0

    def test_it_wants_to_be_looked_at_for_its_text_heartbeat(self) -> None:
        made, _ = live(RAW, text_heartbeat=TextHeartbeat("beat", 4.0), phase=0.5)
        assert made.next_beat(0.0) == 2.0
        made.beat(2.5)
        assert made.next_beat(2.5) == 6.0
        made.beat(10.5)  # it was held up: what was missed is not made up for
        assert made.next_beat(10.5) == 14.5

    def test_a_server_that_pings_by_itself_is_left_to_it(self) -> None:
        made, sink = live(RAW, pings=False)
        assert [made.beat(float(now)) for now in range(100)] == [[]] * 100
        assert sink.frames == []

    @pytest.mark.parametrize("pings", [True, False])
    def test_the_text_heartbeat_for_raw_clients_that_ask(self, pings: bool) -> None:
        made, sink = live(RAW, pings=pings, text_heartbeat=HEARTBEAT, phase=1.0)
        made.beat(25.0)
        assert [frame.string for frame in sink.frames] == ["--heartbeat--"]
        sink.last_heard = 25.0
        assert made.received(TEXT_HEARTBEAT, 26.0) == []  # never a message

    def test_the_text_heartbeat_is_a_message_for_others(self) -> None:
        raw, _ = live(RAW)
        assert raw.received(TEXT_HEARTBEAT, 0.0) == [Handle(Message(Kind.TEXT, TEXT_HEARTBEAT), None)]
        v1, sink = live(text_heartbeat=HEARTBEAT, phase=1.0)
        v1.beat(25.0)
        assert sink.ops() == ["ping"]

    def test_the_text_heartbeat_has_a_rhythm_of_its_own(self) -> None:
        # ws4redis's client leaves after 20 s without one, also while a handler works on what it sent
        made, sink = live(RAW, text_heartbeat=TextHeartbeat("beat", 4.0), phase=0.5)
        made.received("hello", 0.0)
        for now in range(13):
            made.beat(float(now))
            sink.last_heard = float(now)
        assert [frame.string for frame in sink.frames] == ["beat"] * 3
        assert made.received(TEXT_HEARTBEAT, 13.0) == [Handle(Message(Kind.TEXT, TEXT_HEARTBEAT), None)]

    def test_nobody_is_pinged_before_it_is_live(self) -> None:
        made, sink = connection(RAW)
        made.accepted(0.0)
        assert made.beat(1_000.0) == []
        assert sink.frames == []


class TestEnding:
    def test_the_first_reason_wins(self) -> None:
        made, _ = live()
        assert made.close(1012, "moved") == [End(1012, "moved")]
        assert made.close(4500, "signed out") == made.move(4.0) == made.failed() == []
        assert made.ended(1006) == 1012

    def test_the_clients_code_where_we_did_not_close(self) -> None:
        made, _ = live()
        assert made.ended(1001) == 1001
        assert made.close(1012, "moved") == []

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
    def test_a_reason_fits_into_a_close_frame(self, reason: str) -> None:
        # RFC 6455, section 5.5: 125 bytes with the code
        made, _ = live()
        (end,) = made.close(1008, reason)
        assert isinstance(end, End)
        assert len(end.reason.encode()) <= 123
        assert reason.startswith(end.reason)

    def test_a_move_closes_with_1012(self) -> None:
        # contract 8.4
        made, _ = live()
        assert code(made.move(4.0)) == 1012


class ConnectionMachine(RuleBasedStateMachine):
    """Any events in any order, as clients, handlers, timers, operators and servers may bring them."""

    protocol = V1

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.connection, self.sink = connection(
            self.protocol,
            limits=Limits(inbound_burst=5.0, inbound_rate=1.0),
            elsewhere=Elsewhere("channels", "ws://h/ws/calls"),
        )
        self.states = [State.OPENING]
        self.ends: list[End] = []
        self.joins = self.handling = self.sent_when_closed = 0
        self.told: list[int] = []
        self.is_joining = False

    def did(self, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case End():
                    self.ends.append(effect)
                case Join():
                    self.joins += 1
                    self.is_joining = True
                case Handle():
                    self.handling += 1
                case Ping():
                    assert self.protocol is RAW

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def hear(self) -> None:
        self.sink.last_heard = self.now

    @rule()
    def accept(self) -> None:
        self.did(self.connection.accepted(self.now))

    @rule(data=st.sampled_from([HELLO, SEND, BAD, '{"op":"pong"}', "text", b"\0", "x" * 20]))
    def receive(self, data: str | bytes) -> None:
        if self.connection.state is not State.OPENING and not self.handling:  # a shell reads one at a time
            self.did(self.connection.received(data, self.now))

    @precondition(lambda self: self.is_joining)
    @rule()
    def join(self) -> None:
        self.is_joining = False
        self.connection.joined({"everyone": Position("e", 1)}, {})

    @precondition(lambda self: self.handling)
    @rule(how=st.sampled_from(["handled", "refused", "failed"]))
    def finish(self, how: str) -> None:
        self.handling -= 1
        match how:
            case "handled":
                self.connection.handled(1)
            case "refused":
                self.did(self.connection.refused(1, "no", self.now))
            case "failed":
                self.did(self.connection.failed())

    @rule()
    def beat(self) -> None:
        self.did(self.connection.beat(self.now))

    @rule()
    def move(self) -> None:
        self.did(self.connection.move(4.0))

    @rule()
    def stay(self) -> None:
        self.connection.stay()

    @rule(close=st.sampled_from([1000, 4001, 4500]))
    def close(self, close: int) -> None:
        self.did(self.connection.close(close, "reason"))

    @rule(close=st.sampled_from([1000, 1005, 1006]))
    def end(self, close: int) -> None:
        told = self.connection.ended(close)
        if told is not None:
            self.told.append(told)

    @invariant()
    def follows_the_table(self) -> None:
        state = self.connection.state
        assert state is self.states[-1] or state in TRANSITIONS[self.states[-1]]
        self.states.append(state)

    @invariant()
    def ends_once(self) -> None:
        # contract 6.4
        assert len(self.ends) <= 1
        assert len(self.told) <= 1
        assert (self.connection.state is State.CLOSED) == bool(self.told)
        if self.ends and self.told:
            assert self.told == [self.ends[0].code]
        assert self.joins <= 1
        assert bool(self.ends) <= (self.connection.state in (State.CLOSING, State.CLOSED))

    @invariant()
    def says_nothing_after_the_end(self) -> None:
        frames = len(self.sink.frames)
        if self.connection.state in (State.CLOSING, State.CLOSED):
            # One call may say something and then close; after it there is silence.
            assert self.states[-1] is not self.states[-2] or frames == self.sent_when_closed
            self.sent_when_closed = frames

    @invariant()
    def says_ready_before_anything_but_errors(self) -> None:
        if self.protocol is V1:
            ops = [op for op in (fields["op"] for fields in self.sink.said) if op != "error"]
            assert "ready" not in ops[1:]
            assert not ops or ops[0] == "ready"


class RawConnectionMachine(ConnectionMachine):
    protocol = RAW


TestAnyOrderV1 = ConnectionMachine.TestCase
TestAnyOrderRaw = RawConnectionMachine.TestCase
