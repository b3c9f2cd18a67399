"""The picture of a run: well-formed, and in it what was done."""

from xml.etree import ElementTree as Tree

import pytest

from demo.plot import plot
from demo.screen import View
from demo.script import Fault, Flip, Kill, Restart

SVG = "{http://www.w3.org/2000/svg}"


def view(elapsed: float, legacy: tuple[int, int], channels: tuple[int, int], received: int) -> View:
    clients = {"legacy": legacy, "channels": channels}
    return View("traffic", elapsed, 10.0, 50, 64, clients, 10, received, 0, 0, 0)


def drawn(views: list[View], flips: list[Flip], faults: list[Fault]) -> Tree.Element:
    return Tree.fromstring(plot(views, flips, faults, 100.0, title="40 v1 & 24 raw", result="lost 0 < 1"))


def test_what_was_done_is_in_it() -> None:
    views = [view(n / 4, (40 - n, 24), (n, 0), n * 100) for n in range(40)]
    faults = [Fault(Kill("channels"), 102.0), Fault(Restart("stop"), 104.0, until=105.0), Fault(Restart("kill"), 106.0)]
    svg = drawn(views, [Flip(0, 100, 101.0), Flip(100, 0, 107.0)], faults)
    texts = [each.text for each in svg.iter(f"{SVG}text")]
    assert {"40 v1 & 24 raw", "lost 0 < 1", "100 %", "0 %", "Redis restarted", "Redis killed"} <= set(texts)
    classes = [each.get("class", "") for each in svg.iter(f"{SVG}path")]
    assert classes.count("kill channels") == 1
    assert classes.count("drop") == 1
    band = next(each for each in svg.iter(f"{SVG}rect") if each.get("class") == "redis" and each.get("x"))
    assert float(band.get("width", 0)) > 50  # a second of ten


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_run_that_was_hardly_one(count: int) -> None:
    views = [view(n / 8, (0, 0), (0, 0), 0) for n in range(count)]
    assert drawn(views, [], []).tag == f"{SVG}svg"
