"""Two hundred live connections move at the fleet's rate, and hurry, while others come in; `make load` moves more."""

# contract 8.5

import asyncio
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.integration.conftest import free_ports
from tests.load.moves import Run, most_within, run
from tests.load.plot import plot
from tests.load.stack import LoadStack

pytestmark = pytest.mark.servers

PEOPLE = 200
RATE = 2.0  # a second: without the hurry nobody here would see the end
HURRIED = 80.0
LATE = 1.4  # seconds that a slot may be used late: half a round, the timers, and a machine with other things to do


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory: Path = tmp_path_factory.mktemp("pacing") / "stack"
    pace = {"fleet_moves": RATE, "hurry": HURRIED / RATE, "moves": 1_000.0}
    with LoadStack(free_ports(), directory=directory, room=1_000, pace=pace) as stack:
        return asyncio.run(run(stack, PEOPLE, quiet=0.5, patience=60.0, hurry=True))


def test_nobody_is_refused_or_cut_off(seen: Run) -> None:
    assert len(seen.moving) > 10
    assert {visit.status for visit in (*seen.quiet, *seen.moving)} == {101}
    assert [each.ends for each in seen.people if each.ends] == []
    assert {len(each.moved) for each in seen.people} == {1}


def test_all_processes_together_keep_to_the_fleets_rate(seen: Run) -> None:
    told = [moment for each in seen.people for moment in each.told]
    assert len(told) == PEOPLE
    for seconds in (0.5, 1.0, 2.0):
        assert most_within(told, seconds) <= HURRIED * (seconds + LATE) + 2


def test_they_hurry_when_they_are_told_to(seen: Run) -> None:
    assert seen.hurried is not None
    before = [moment for each in seen.people for moment in each.told if moment < seen.hurried]
    assert 0 < len(before) <= RATE * (seen.hurried - seen.began + LATE) + 2
    assert seen.ended - seen.began < PEOPLE / RATE


def test_who_came_first_is_not_who_goes_first(seen: Run) -> None:
    order = [each.told[0] for each in seen.people]
    later = sum(one < other for one, other in zip(order, order[PEOPLE // 2 :], strict=False))
    assert PEOPLE / 2 * 0.2 < later < PEOPLE / 2 * 0.8


def test_it_can_be_drawn(seen: Run) -> None:
    drawn = ElementTree.fromstring(plot([("One", seen), ("Another", seen)]))
    words = [text.text or "" for text in drawn.iter("{http://www.w3.org/2000/svg}tspan")]
    assert words.count(f"{PEOPLE} of {PEOPLE} moved") == 2
