"""What is announced for the fleet's rounds: on a real server, and on the one in memory under the same clock."""

# contract 8.5

import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shim.bus.moves import ANNOUNCE, announce_command, round_from
from shim.core.errors import RealtimeUnavailable
from shim.core.fleet import ROUND_SECONDS, Announcement, Round
from tests.bus.conftest import BusFace
from tests.bus.test_memory import _CLOCK, Clocked, Fake

LENGTH = round(ROUND_SECONDS * 1000)


def announce(bus: BusFace, prefix: str, wanted: int, *, rate: float = 200.0, claimed: int = -1) -> Round:
    return round_from(bus.execute(*announce_command(prefix, Announcement(wanted, claimed, rate))))


def test_the_line_is_known_when_its_round_begins(bus: BusFace, prefix: str, client: Any) -> None:
    for _ in range(20):  # until the three fall into one round, and the next into the one after it
        client.delete(f"{prefix}:moves")
        first, second, third = (announce(bus, prefix, wanted) for wanted in (5, 1, 7))
        assert 0 <= first.elapsed < ROUND_SECONDS
        if first.number != third.number:
            continue
        assert (first.place, second.place, third.place) == (0, 5, 6)
        assert (first.total, second.total, third.total) == (0, 0, 0)
        while (now := announce(bus, f"{prefix}-clock", 0).number) == third.number:
            pass
        after = announce(bus, prefix, 3)
        if after.number == now == third.number + 1:
            assert (after.total, after.place) == (13, 0)
            break
    else:
        pytest.fail("no two rounds in a row were met")


def test_whoever_has_nothing_in_a_round_gets_one_slot_that_is_left(bus: BusFace, prefix: str, client: Any) -> None:
    for _ in range(20):  # until all fall into one round, and not at its end
        client.delete(f"{prefix}:moves")
        first, second = (announce(bus, prefix, 100, rate=2_000.0) for _ in range(2))
        third = announce(bus, prefix, 100, rate=2_000.0, claimed=first.number)  # it has announced some for this round
        slow = announce(bus, prefix, 100, rate=0.001)
        if slow.number == first.number and first.elapsed < ROUND_SECONDS * 0.9:
            break
    assert first.elapsed * 2_000 <= first.spare < second.spare < 1_000
    assert third.spare == slow.spare == -1


def test_nothing_is_left_of_it(bus: BusFace, prefix: str, client: Any) -> None:
    announce(bus, prefix, 5)
    assert 0 < client.pttl(f"{prefix}:moves") <= 10 * LENGTH


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(rate=200.0, program=[(0, 5), (LENGTH, 2), (LENGTH, 1), (2 * LENGTH, 4), (-3 * LENGTH, 1), (LENGTH, 1)])
@example(rate=5.0, program=[(0, 1)] * 5)
@given(
    rate=st.floats(0.001, 2_000.0),
    program=st.lists(
        st.tuples(st.sampled_from([0, 1, LENGTH - 1, LENGTH, LENGTH + 1, 2 * LENGTH, -LENGTH]), st.integers(0, 500)),
        max_size=20,
    ),
)
def test_the_one_in_memory_answers_alike(url: str, rate: float, program: list[tuple[int, int]]) -> None:
    real, fake, prefix, claimed = Clocked(url), Fake(), f"t{uuid.uuid4().hex[:12]}", -1
    real.scripts[ANNOUNCE] = real.client.script_load(_CLOCK + ANNOUNCE)
    try:
        for ms, wanted in program:
            real.elapse(ms)
            fake.elapse(ms)
            command = announce_command(prefix, Announcement(wanted, claimed, rate))
            reply = fake.run(command)
            assert reply == real.run(command)
            met = round_from(reply)
            assert met.elapsed < ROUND_SECONDS
            claimed = met.number + 1 if wanted % 2 else -1
    finally:
        real.close()


def test_what_is_no_answer_is_as_good_as_none() -> None:
    with pytest.raises(RealtimeUnavailable, match="no round"):
        round_from(b"OK")
