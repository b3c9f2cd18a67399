from io import StringIO

import pytest
from rich.console import Console

from demo.ledger import Count
from demo.screen import Screen, View, line, picture, summary
from demo.script import Fault, Flip, Kill, Restart


@pytest.fixture
def view() -> View:
    return View(
        phase="traffic",
        elapsed=12.0,
        duration=20.0,
        percent=25,
        members=64,
        clients={"legacy": (30, 18), "channels": (8, 6)},
        published=1234,
        received=5678,
        lost=0,
        doubled=3,
        out_of_order=0,
        flips=[Flip(0, 25, 10.0, {"v1": [10.3, 11.5], "raw": []})],
    )


def shown(what: object, width: int = 100) -> str:
    output = StringIO()
    Console(width=width, file=output).print(what)
    return output.getvalue()


@pytest.mark.parametrize("width", [80, 110])
def test_the_picture(view: View, width: int) -> None:
    text = shown(picture(view, "http://127.0.0.1:8000/"), width)
    for word in ("48 clients", "14 clients", "30 v1, 18 raw", "2 on the way", "1,234", "5,678", "0 →  25 %", "1.5 s"):
        assert word in text
    assert "http://127.0.0.1:8000/" in text


def test_a_line(view: View) -> None:
    assert line(view).startswith(" 12.0 s  flag  25 %  legacy  48  channels  14  published  1234")


def test_lines_come_now_and_then(view: View, capsys: pytest.CaptureFixture[str]) -> None:
    with Screen("http://127.0.0.1:8000/", live=False) as screen:
        for tenth in range(120, 140):
            view.elapsed = tenth / 10
            screen.show(view)
    assert capsys.readouterr().err.count("traffic") == 1


def test_the_summary(view: View) -> None:
    counts = {"v1": (40, Count(100, 99, 1)), "raw": (24, Count(50, 50))}
    faults = [
        Fault(Kill("legacy"), 11.0, 11.1, {"v1": 7, "raw": 2}, [11.2, 13.0], 1),
        Fault(Restart("stop"), 14.0, 15.0, refused=12),
    ]
    text = shown(summary(counts, [*view.flips, Flip(25, 0, 20.0)], faults, 5.0), 120)
    assert cells(text, "v1") == ["v1", "40", "100", "99", "1", "1", "0", "0"]
    assert cells(text, "5.0 s │ 0 → 25 %") == [
        "5.0",
        "s",
        "0",
        "→",
        "25",
        "%",
        "2",
        "2",
        "0",
        "300",
        "ms",
        "1500",
        "ms",
    ]
    assert cells(text, "15.0 s │ 25 → 0 %") == ["15.0", "s", "25", "→", "0", "%", "0", "0", "0"]
    killed = ["6.0", "s", "legacy", "worker", "killed", "100", "ms", "9", "7", "2", "200", "ms", "2000", "ms", "1"]
    assert cells(text, "6.0 s │ legacy") == killed
    assert cells(text, "9.0 s │ Redis") == ["9.0", "s", "Redis", "restarted", "1000", "ms", "0", "0", "0", "12"]
    assert "faults" not in shown(summary(counts, view.flips, [], 5.0))


def cells(text: str, begin: str) -> list[str]:
    """The words of the row that begins so."""
    return next(row for row in text.splitlines() if row.lstrip("│ ").startswith(begin)).replace("│", " ").split()
