"""What is kept with a connection: whose it is, when it is saved, and what is said to the client only after that."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.client.reconnect import Verdict, verdict_of_close
from shim.core.cohorts import Subject
from shim.core.connection import Connection, Elsewhere, Keep, State
from shim.core.kept import Batch, Keeping, Kept, Save, comes_back, owner_of, state_key
from shim.core.protocol import Protocol
from tests.core.members import Sink, connection, live

ANA = Subject(user="7", session="s-1", anonymous="a-1")
THERE = Elsewhere("channels", "ws://there/ws/calls")
type Ids = tuple[str | None, str | None, str | None]
names = st.none() | st.text(min_size=1, max_size=5)


def key(id: str, subject: Subject = ANA) -> str:
    owner = owner_of("calls", subject)
    assert owner is not None
    return state_key("rt", id, owner)


def moving(value: object = None, **options: Any) -> tuple[Connection, Sink, list[Any]]:
    """A live connection with a state whose turn to move has come, and what is to be done."""
    made, sink = live(subject=ANA, elsewhere=THERE, **options)
    made.kept.put(value)
    return made, sink, made.move(4.0)


@given(st.integers(1000, 4999))
def test_it_is_kept_for_those_who_come_back(code: int) -> None:
    # contract, close codes; after 1011 a client comes back, and begins anew
    assert comes_back(code) is (verdict_of_close(code) is not Verdict.STAY_AWAY and code != 1011)


class TestOwner:
    @given(st.tuples(names, names, names), st.tuples(names, names, names))
    def test_is_the_user_else_the_session_else_the_cookie(self, one_ids: Ids, other_ids: Ids) -> None:
        threes = one_ids, other_ids
        one, other = (Subject(user=user, session=session, anonymous=cookie) for user, session, cookie in threes)
        proofs = [next((each for each in enumerate(three) if each[1]), None) for three in threes]
        assert (owner_of("calls", one) == owner_of("calls", other)) is (proofs[0] == proofs[1])
        assert (owner_of("calls", one) is None) is (proofs[0] is None)

    def test_is_the_facilitys(self) -> None:
        assert owner_of("calls", ANA) != owner_of("chat", ANA)

    def test_shows_no_credential(self) -> None:
        assert "s-1" not in str(owner_of("calls", Subject(session="s-1")))


class TestMove:
    def test_is_told_when_the_state_is_saved(self) -> None:
        made, sink, effects = moving({"call": 42})
        assert effects == [Keep(4.0)]
        assert made.state is State.MOVING
        assert sink.ops() == []
        batch = Batch("rt", [Keeping(made, 10.0, 4.0)])
        assert batch.saves == [Save(key("c1"), b'{"call":42}')]
        batch.finished(10.5, worked=True)
        assert [json.loads(frame.string)["within_ms"] for frame in sink.frames] == [3_500]
        assert made.kept.saved == b'{"call":42}'

    def test_is_told_where_redis_is_away_too(self) -> None:
        made, sink, _ = moving(1)
        Batch("rt", [Keeping(made, 10.0, 4.0)]).finished(15.0, worked=False)
        assert [json.loads(frame.string)["within_ms"] for frame in sink.frames] == [0]
        assert made.kept.saved is None

    def test_is_told_at_once_where_nothing_is_kept(self) -> None:
        made, sink, effects = moving()
        assert (effects, sink.ops(), made.kept.is_followed) == ([], ["move"], True)

    def test_or_nobody_could_take_it(self) -> None:
        made, sink = live(elsewhere=THERE)
        made.kept.put(1)
        assert (made.move(4.0), sink.ops(), made.kept.is_followed) == ([], ["move"], False)

    @pytest.mark.parametrize("end", ["stay", "close"])
    def test_is_not_told_any_more_where_it_is_over(self, end: str) -> None:
        made, sink, _ = moving(1)
        made.stay() if end == "stay" else made.close(1012, "")
        Batch("rt", [Keeping(made, 0.0, 4.0)]).finished(0.1, worked=True)
        assert sink.ops() == []

    def test_is_told_once_where_the_flag_went_back_and_forth_meanwhile(self) -> None:
        made, sink, _ = moving(1)
        made.stay()
        made.move(4.0)
        Batch("rt", [Keeping(made, 0.0, 4.0), Keeping(made, 0.1, 4.0)]).finished(0.2, worked=True)
        assert sink.ops() == ["move"]
        made.stay()
        made.move(4.0)
        Batch("rt", [Keeping(made, 1.0, 4.0)]).finished(1.1, worked=True)
        assert sink.ops() == ["move"]

    def test_then_every_change_is_saved(self) -> None:
        made, _, _ = moving(1)
        assert made.kept.put(2)
        Batch("rt", [Keeping(made, 0.0)]).finished(0.1, worked=True)
        assert made.kept.put(None)
        made.ended(1000)
        Batch("rt", [Keeping(made, 0.0)]).finished(0.1, worked=True)
        assert not made.kept.put(3)

    def test_changes_that_wait_are_saved_as_one(self) -> None:
        """A handler that sets it with each message must not fill the queue of a process that Redis keeps waiting."""
        made, _, _ = moving(1)
        assert [made.kept.put(value) for value in (2, 3, None, 4)] == [True, False, False, False]
        assert [save.body for save in Batch("rt", [Keeping(made, 0.0)]).saves] == [b"4"]
        assert made.kept.put(5)


class TestEnd:
    @pytest.mark.parametrize(
        ("code", "left"), [(1006, True), (1012, True), (1000, False), (1011, False), (4500, False)]
    )
    def test_what_is_left_for_whoever_comes_back(self, code: int, left: bool) -> None:
        made, _ = live(subject=ANA)
        made.kept.put({"call": 42})
        assert not made.leaves_state
        made.ended(code)
        assert made.leaves_state is left

    def test_of_nothing_nothing_is_left(self) -> None:
        made, _ = live(subject=ANA)
        made.ended(1006)
        assert not made.leaves_state
        assert Batch("rt", [Keeping(made, 0.0)]).saves == []

    def test_what_was_saved_before_is_saved_again(self) -> None:
        """It may have been taken by a connection that came to nothing."""
        made, _, _ = moving(1)
        Batch("rt", [Keeping(made, 0.0, 4.0)]).finished(0.1, worked=True)
        made.ended(1012)
        assert made.leaves_state

    def test_who_says_once_more_that_it_was_left_asks_for_nothing(self) -> None:
        made, _ = live(subject=ANA)
        made.kept.put(1)
        made.ended(1006)
        Batch("rt", [Keeping(made, 0.0)]).finished(0.1, worked=True)
        found = [made.leaves_state]
        for value in (2, None):
            made.kept.put(value)
            found.append(made.leaves_state)
        assert found == [False, True, True]
        assert Batch("rt", [Keeping(made, 0.0)]).saves == [Save(key("c1"), None)]

    @pytest.mark.parametrize("is_known", [False, True])
    def test_a_client_that_may_not_know_this_connection_names_the_one_before(self, is_known: bool) -> None:
        made, _ = connection(subject=ANA)
        made.accepted(0.0)
        made.received('{"op":"hello","was":"c0"}', 0.0)
        made.kept.carry(b"1")
        made.joined({}, {})
        if is_known:
            made.received('{"op":"pong"}', 0.0)
        made.ended(1006)
        before = [] if is_known else [Save(key("c0"), b"1", if_none=True)]
        assert Batch("rt", [Keeping(made, 0.0)]).saves == [Save(key("c1"), b"1"), *before]

    def test_raw_has_none_to_leave(self) -> None:
        made, _ = live(Protocol.RAW, subject=ANA)
        made.kept.put(1)
        made.ended(1006)
        assert not made.leaves_state


class TestBatch:
    def test_each_connection_once_as_it_is_now(self) -> None:
        one, other = live(subject=ANA)[0], live(subject=ANA, id="c2")[0]
        done: list[str] = []
        one.kept.put(1)
        keepings = [
            Keeping(one, 0.0, done=lambda: done.append("a")),
            Keeping(other, 0.0),
            Keeping(one, 0.0, done=lambda: done.append("b")),
        ]
        one.kept.put(2)
        other.kept.put(3)
        batch = Batch("rt", keepings)
        assert batch.saves == [Save(key("c1"), b"2"), Save(key("c2"), b"3")]
        one.kept.put(4)
        batch.finished(0.0, worked=True)
        assert done == ["a", "b"]
        assert one.kept.saved == b"2"  # what Redis was given

    def test_who_waits_is_told_where_it_failed_too(self) -> None:
        done: list[int] = []
        Batch("rt", [Keeping(live(subject=ANA)[0], 0.0, done=lambda: done.append(1))]).finished(0.0, worked=False)
        assert done == [1]


class TestInheriting:
    @pytest.mark.parametrize(
        ("hello", "subject", "found"),
        [
            ('{"op":"hello","was":"c0"}', ANA, True),
            ('{"op":"hello"}', ANA, False),
            ('{"op":"hello","was":"c0"}', Subject(), False),
        ],
    )
    def test_who_looks_where(self, hello: str, subject: Subject, found: bool) -> None:
        made, _ = connection(subject=subject)
        made.accepted(0.0)
        made.received(hello, 0.0)
        assert made.inherits("rt") == (key("c0") if found else None)

    @pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"nul"])
    def test_what_is_no_json_is_not_taken(self, body: bytes) -> None:
        kept = Kept()
        kept.carry(body)
        assert kept.value is None
