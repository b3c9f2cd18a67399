"""How figures are judged, and what of them is written down."""

from datetime import UTC, datetime

import pytest

from benchmarks.page import page
from benchmarks.result import Bound, Result, figure, interleaved, shuffled, slope


@pytest.mark.parametrize(
    ("bounds", "met"),
    [
        ((), None),
        ((Bound("peer", "<=", 0.5),), True),
        ((Bound("peer", "<=", 0.49),), False),
        ((Bound("floor", ">=", 2.0),), True),
        ((Bound("floor", ">=", 2.01),), False),
        ((Bound("ours", "<=", 10.0),), True),
        ((Bound("peer", "<=", 0.5), Bound("floor", "<=", 1.0)), False),
    ],
)
def test_all_bounds_have_to_be_kept(bounds: tuple[Bound, ...], met: bool | None) -> None:
    assert Result("x", "µs", 10.0, 20.0, 5.0, bounds).met is met


@pytest.mark.parametrize("of", ["peer", "floor"])
def test_what_was_not_measured_is_not_judged(of: str) -> None:
    bound = Bound("peer", "<=", 1.0) if of == "peer" else Bound("floor", "<=", 1.0)
    assert Result("x", "µs", 10.0, bounds=(bound,)).met is None


def test_a_result_has_these_keys() -> None:
    plain = Result("x", "µs", 10.0, 20.0, 5.0, (Bound("peer", "<=", 1 / 20),), {"more": 1}).plain()
    assert plain == {
        "name": "x",
        "unit": "µs",
        "ours": 10.0,
        "peer": 20.0,
        "floor": 5.0,
        "ours_vs_peer": 0.5,
        "ours_vs_floor": 2.0,
        "target": "<= 0.05 of the peer",
        "met": False,
        "details": {"more": 1},
    }


def test_candidates_take_turns_and_each_begins() -> None:
    order: list[str] = []

    def candidate(name: str) -> list[float]:
        order.append(name)
        return [3.0, 1.0, 2.0]

    rounds = {name: lambda name=name: candidate(name) for name in "abc"}
    found = interleaved(rounds, 3, lambda: None)
    assert "".join(order) == "abcbcacab"
    assert found == {name: [2.0] * 3 for name in "abc"}


def test_the_page_draws_rounds_and_sizes() -> None:
    results = [
        Result("1 a < b", "µs", 10.0, 20.0, None, (Bound("peer", "<=", 1.0),), {}, {"ours": [9.0, 11.0], "p": [20.0]}),
        Result("2 sizes", "slope", 0.2, None, None, (Bound("ours", "<=", 0.05),), {}, {"ours": [1.0, 2.0]}, [10, 100]),
        Result("3 nothing to draw", "commands", 0.0),
    ]
    document = page(results, at=datetime(2026, 11, 22, tzinfo=UTC), environment={}, failed={"idle": "no <memory>"})
    assert "1 of 2 targets met" in document
    assert "1 a &lt; b" in document
    assert "no &lt;memory&gt;" in document
    assert document.count("<figure") == 2


@pytest.mark.parametrize(("value", "said"), [(None, "–"), (0.01234, "0.0123"), (43.26, "43.3"), (12345.6, "12,346")])
def test_figures_have_three_digits(value: float | None, said: str) -> None:
    assert figure(value) == said


@pytest.mark.parametrize("power", [0.0, 0.05, 1.0, 2.0])
def test_a_slope_is_the_power_with_which_a_cost_grows(power: float) -> None:
    sizes = (100, 1_000, 10_000)
    assert slope(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_shuffled_calls_are_as_many_of_each_in_every_round() -> None:
    called: list[str] = []
    calls = {"a": (lambda: called.append("a"), 30), "b": (lambda: called.append("b"), 10)}
    found = shuffled(calls, 3, lambda: called.append("|"))
    rounds = "".join(called).rstrip("|").split("|")
    assert [(each.count("a"), each.count("b")) for each in rounds] == [(30, 10)] * 3
    assert len(set(rounds)) == 3
    assert all(len(costs) == 3 and min(costs) > 0 for costs in found.values())
