"""The inbox: bounded, and positions that belong to what was taken."""

from hypothesis import given
from hypothesis import strategies as st

from shim.client.effects import Deliver, Settle
from shim.client.frames import Received
from shim.client.inbox import Inbox
from shim.core.message import Message
from shim.core.wire import Position


def delivery(seq: int) -> Deliver:
    return Deliver(Received("user", Position("e", seq), Message.of(seq)))


def test_positions_follow_what_is_taken() -> None:
    inbox = Inbox({"user": Position("e", 1)})
    inbox.put(delivery(2), 10)
    inbox.put(Settle({"user": Position("new", 5)}), 10)
    inbox.put(Deliver(Received("user", Position("new", 6), Message.of(6))), 10)
    assert inbox.positions == {"user": ("e", 1)}
    assert (message := inbox.take()) is not None
    assert message.value == 2
    assert inbox.positions == {"user": ("new", 5)}, "the gap is what comes next, so it has been seen"
    inbox.put(Deliver(Received("everyone", Position("f", 1), Message.of(1))), 10)
    assert inbox.take() is not None
    assert inbox.positions == {"user": ("new", 6)}
    inbox.clear()
    assert inbox.take() is None
    assert inbox.positions == {"user": ("new", 6)}, "what was not taken was not seen"


def test_a_gap_with_nothing_before_it_counts_at_once() -> None:
    inbox = Inbox({})
    inbox.put(Settle({"user": Position("e", 4)}), 10)
    assert inbox.positions == {"user": ("e", 4)}
    assert not inbox.full


@given(st.lists(st.none() | st.integers(1, 100)), st.integers(1, 5), st.integers(1, 200))
def test_it_is_full_by_number_and_by_size(steps: list[int | None], messages: int, size: int) -> None:
    inbox = Inbox({}, messages=messages, size=size)
    model: list[int] = []
    for step in steps:
        if step is None:
            assert (inbox.take() is None) == (not model)
            model = model[1:]
        elif not inbox.full:
            inbox.put(delivery(1), step)
            model.append(step)
        assert len(inbox) == len(model)
        assert inbox.full == (len(model) >= messages or sum(model) >= size)
