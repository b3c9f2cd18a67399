"""What `make demo` shows while it runs, and the summary: rich in a terminal, plain lines elsewhere."""

import sys
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.ledger import Count
from demo.script import Fault, Flip

COLOURS: Final = {"legacy": "dark_orange", "channels": "turquoise2"}
FRAMES_A_SECOND: Final = 8
LINE_SECONDS: Final = 2.0
LINE_WIDTH: Final = 120  # where there is no terminal
SHOWN_FLIPS: Final = 8


@dataclass(slots=True)
class View:
    """Everything that is to be seen at one moment. `clients`: by backend, how many v1 and raw."""

    phase: str
    elapsed: float
    duration: float
    percent: int
    members: int
    clients: dict[str, tuple[int, int]]
    published: int
    received: int
    lost: int
    doubled: int
    out_of_order: int
    flips: list[Flip] = field(default_factory=list)


class Screen:
    """Shows views; a context manager.

    Args:
        page: where to look with a browser.
        live: a picture that is drawn anew; otherwise a line now and then.
    """

    def __init__(self, page: str, *, live: bool) -> None:
        self._page = page
        self.console = Console(stderr=not live, width=None if sys.stderr.isatty() else LINE_WIDTH)
        self._live = Live(console=self.console, refresh_per_second=FRAMES_A_SECOND) if live else None
        self._next_line = 0.0

    @property
    def is_live(self) -> bool:
        return self._live is not None

    def __enter__(self) -> "Screen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, view: View) -> None:
        if self._live is not None:
            self._live.update(picture(view, self._page))
        elif view.elapsed >= self._next_line:
            self._next_line = view.elapsed + LINE_SECONDS
            self.console.print(line(view), highlight=False, soft_wrap=True)


def line(view: View) -> str:
    legacy, channels = (sum(view.clients[name]) for name in ("legacy", "channels"))
    return (
        f"{view.elapsed:5.1f} s  flag {view.percent:3d} %  legacy {legacy:3d}  channels {channels:3d}  "
        f"published {view.published:5d}  received {view.received:6d}  "
        f"lost {view.lost}  doubled {view.doubled}  out of order {view.out_of_order}  {view.phase}"
    )


def picture(view: View, page: str) -> RenderableType:
    who = Table.grid(padding=(0, 2), expand=True)
    for width in (10, 14, None, 22):
        who.add_column(width=width, ratio=None if width else 1)
    for name, (v1, raw) in view.clients.items():
        bar = ProgressBar(view.members, v1 + raw, complete_style=COLOURS[name], finished_style=COLOURS[name])
        count = Text(f"{v1 + raw:3d} clients", style="bold")
        who.add_row(Text(name, style=f"bold {COLOURS[name]}"), count, bar, Text(f"{v1} v1, {raw} raw", style="dim"))
    between = view.members - sum(v1 + raw for v1, raw in view.clients.values())
    on_the_way = Text(f"{between} on the way" if between else "", style="dim")
    flag = ProgressBar(100, view.percent, complete_style="magenta", finished_style="magenta")
    who.add_row(Text("flag", style="bold magenta"), Text(f"{view.percent:3d} %", style="bold"), flag, on_the_way)

    numbers = Table.grid(padding=(0, 4))
    for _ in range(5):
        numbers.add_column(justify="left")
    bad = [view.lost, view.doubled, view.out_of_order]
    numbers.add_row(*(Text(word, style="dim") for word in ("published", "received", "lost", "doubled", "out of order")))
    numbers.add_row(
        *(Text(f"{number:,}", style="bold") for number in (view.published, view.received)),
        *(Text(str(number), style="bold red" if number else "bold green") for number in bad),
    )

    moves = Table.grid(padding=(0, 2), expand=True)
    for width in (14, 14, None, 22):
        moves.add_column(width=width, ratio=None if width else 1)
    for flip in view.flips[-SHOWN_FLIPS:]:
        done = flip.moved
        aim = _aim(flip, view)
        bar = ProgressBar(max(aim, done, 1), done, complete_style="magenta", finished_style="green")
        last = "" if flip.last_ms is None else f"last after {flip.last_ms / 1000:.1f} s"
        moves.add_row(f"{flip.before:3d} → {flip.percent:3d} %", f"{done:3d} moved", bar, Text(last, style="dim"))

    clock = ProgressBar(view.duration, min(view.elapsed, view.duration), complete_style="white", finished_style="white")
    head = Table.grid(padding=(0, 2), expand=True)
    for width in (14, 10, None):
        head.add_column(width=width, ratio=None if width else 1)
    head.add_row(Text(view.phase, style="bold"), f"{view.elapsed:.0f} s", clock)
    parts: list[RenderableType] = [head, Text(), who, Text(), numbers, Text(), moves]
    return Panel(Group(*parts), title="realtime shim: two live backends, one API", subtitle=page, padding=(1, 2))


def _aim(flip: Flip, view: View) -> int:
    """How many this flip should move, near enough for a bar; which they are is up to the flag's draw."""
    return round(view.members * abs(flip.percent - flip.before) / 100)


def summary(
    counts: dict[str, tuple[int, Count]], flips: list[Flip], faults: list[Fault], started: float
) -> RenderableType:
    """The tables at the end: what each protocol's clients got, and what each flip and each fault did."""
    table = Table(title="messages", title_justify="left", title_style="bold")
    for column in ("clients", "", "expected", "delivered", "lost", "doubled", "out of order", "unexpected"):
        table.add_column(column, justify="left" if column in ("clients", "") else "right")
    for name, (clients, count) in counts.items():
        bad = (count.lost, count.duplicated, count.out_of_order, count.unexpected)
        styles = ["red" if number and name == "v1" else "" for number in bad]
        cells = [Text(str(number), style=style) for number, style in zip(bad, styles, strict=True)]
        table.add_row(name, str(clients), f"{count.expected:,}", f"{count.delivered:,}", *cells)
    note = Text(
        "v1 clients move without a break: they leave one backend when the other is ready. Raw clients have no "
        "positions: what is sent while one of them moves is lost to it, and the last message of each topic comes again "
        "when it is back. Lost, doubled and out of order in DEMO are those of v1.",
        style="dim",
    )
    return Group(table, _turns(flips, started), *([_strikes(faults, started)] if faults else ()), note)


def _turns(flips: list[Flip], started: float) -> Table:
    turns = _table("flag", ("at", "turned", "moved", "v1", "raw", "first after", "last after"))
    for flip in flips:
        who = [str(len(flip.landings[protocol])) for protocol in ("v1", "raw")]
        turn = f"{flip.before} → {flip.percent} %"
        turns.add_row(f"{flip.at - started:.1f} s", turn, str(flip.moved), *who, _ms(flip.first_ms), _ms(flip.last_ms))
    return turns


def _strikes(faults: list[Fault], started: float) -> Table:
    strikes = _table("faults", ("at", "what", "there again", "cut", "v1", "raw", "first back", "last back", "refused"))
    for fault in faults:
        cut = [str(fault.cut[protocol]) for protocol in ("v1", "raw")]
        strikes.add_row(
            *(f"{fault.at - started:.1f} s", fault.name, _ms(fault.away_ms), str(sum(fault.cut.values())), *cut),
            *(_ms(fault.first_ms), _ms(fault.last_ms), str(fault.refused)),
        )
    return strikes


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="left" if column in ("turned", "what") else "right")
    return table


def _ms(milliseconds: int | None) -> str:
    return "" if milliseconds is None else f"{milliseconds} ms"
