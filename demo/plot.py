"""Who was connected where, as a picture: one SVG file, readable on light and on dark. Pure.

Legacy grows from the floor and channels from the ceiling, of each first the v1 clients and then, paler, the raw ones.
So what is between the two is nobody's: clients on their way. The flag's line is where they should meet.
"""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import pairwise
from math import ceil, log10
from typing import Final

from demo.screen import View
from demo.script import Fault, Flip, Kill

WIDTH: Final = 1200
LEFT: Final = 64
RIGHT: Final = 24
TOP: Final = 118  # of the upper panel
HEIGHT: Final = 330
GAP: Final = 52
LOW_HEIGHT: Final = 96
BOTTOM: Final = 52
BIN_SECONDS: Final = 0.5

type _Scale = Callable[[float], float]

_STYLE: Final = """\
svg{--paper:#fff;--ink:#1c2530;--soft:#66727f;--line:#e3e8ed;--legacy:#e8833a;--channels:#189aa8;--flag:#b01e83;
--redis:#d7263d;--got:#8a94a0;font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
@media(prefers-color-scheme:dark){svg{--paper:#12171d;--ink:#e8edf2;--soft:#93a0ad;--line:#2a323b;--legacy:#d97b35;
--channels:#1f9dab;--flag:#ff6fcf;--redis:#ff5a6e;--got:#6d7986}}
text{fill:var(--soft);font-size:13px}.title{fill:var(--ink);font-size:21px;font-weight:650}.sub{font-size:15px}
.good{fill:var(--ink);font-weight:600}.bad{fill:var(--redis);font-weight:700}.axis{stroke:var(--line)}
.end{text-anchor:end}.mid{text-anchor:middle}.legacy{fill:var(--legacy)}.channels{fill:var(--channels)}
.area{fill-opacity:.6}.raw{fill-opacity:.38}.flag{fill:none;stroke:var(--flag);stroke-width:2;stroke-linejoin:round}
.flagged{fill:var(--flag);font-size:12px;font-weight:600}.redis{fill:var(--redis);fill-opacity:.16}
.redised{fill:var(--redis);font-size:12px;font-weight:600}.got{fill:var(--got);fill-opacity:.55}
.kill{stroke-width:2.6;stroke-linecap:round}.kill.legacy{stroke:var(--legacy)}.kill.channels{stroke:var(--channels)}
.drop{stroke:var(--ink);stroke-opacity:.45;stroke-dasharray:2 4}
"""


def plot(
    views: Sequence[View], flips: Sequence[Flip], faults: Sequence[Fault], started: float, *, title: str, result: str
) -> str:
    """Draw it.

    Args:
        views: moments of the run, in order.
        flips, faults: what was done. started: when the first of `views` counts from, on the monotonic clock.
        title: what was run. result: what came out.
    """
    height = TOP + HEIGHT + GAP + LOW_HEIGHT + BOTTOM
    width = WIDTH - LEFT - RIGHT
    last = max((view.elapsed for view in views), default=1.0) or 1.0
    members = max((view.members for view in views), default=1) or 1

    def x(seconds: float) -> float:
        return LEFT + width * min(max(seconds, 0.0), last) / last

    def y(count: float) -> float:
        return TOP + HEIGHT * (1 - count / members)

    low = TOP + HEIGHT + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" style="fill:var(--paper)"/>',
        f'<text class="title" x="{LEFT}" y="38">{escape(title)}</text>',
        f'<text class="sub" x="{LEFT}" y="63">{escape(result)}</text>',
        *_legend(has_faults=bool(faults)),
    ]
    for count in _ticks(members):
        parts.append(_rule(y(count)))
        parts.append(f'<text class="end" x="{LEFT - 9}" y="{y(count) + 4:.1f}">{count}</text>')
    for name, end in (("legacy", 0), ("channels", members)):
        both = [(x(view.elapsed), y(abs(end - sum(view.clients[name])))) for view in views]
        v1 = [(x(view.elapsed), y(abs(end - view.clients[name][0]))) for view in views]
        parts.append(_area(both, y(end), f"raw {name}"))
        parts.append(_area(v1, y(end), f"area {name}"))
    parts.extend(_outages(faults, started, x))
    parts.append(_flag(flips, started, last, x))
    parts.extend(_turns(flips, started, x))
    parts.extend(_kills(faults, started, x))
    rates = _rates(views)
    most = max((rate for _, rate in rates), default=0.0) or 1.0
    parts.append(f'<text x="{LEFT}" y="{low - 9}">messages taken by clients, a second</text>')
    for rate in _ticks(ceil(most), 2):
        at = low + LOW_HEIGHT * (1 - rate / most)
        parts.append(_rule(at))
        parts.append(f'<text class="end" x="{LEFT - 9}" y="{at + 4:.1f}">{rate:,}</text>')
    parts.append(_area([(x(at), low + LOW_HEIGHT * (1 - rate / most)) for at, rate in rates], low + LOW_HEIGHT, "got"))
    step = next(step for step in (1, 2, 5, 10, 20, 30, 60, 120, 300, last) if last / step <= 14)
    for number in range(int(last / step) + 1):
        where = f'x="{x(number * step):.1f}" y="{low + LOW_HEIGHT + 22}"'
        parts.append(f'<text class="mid" {where}>{number * step:g}{" s" if number == 0 else ""}</text>')
    return "\n".join((*parts, "</svg>", ""))


def _legend(*, has_faults: bool) -> Iterable[str]:
    keys = [
        ("legacy", '<rect width="14" height="14" rx="3" y="-12" class="area legacy"/>'),
        ("channels", '<rect width="14" height="14" rx="3" y="-12" class="area channels"/>'),
        ("raw: paler", '<rect width="14" height="14" rx="3" y="-12" class="got"/>'),
        ("where the flag wants them to meet", '<path d="M0,-5h14" class="flag"/>'),
    ]
    if has_faults:
        keys.append(("worker killed", f'<g transform="translate(7,-5)">{_cross("legacy")}</g>'))
        keys.append(("Redis away", '<rect width="14" height="14" y="-12" class="redis"/>'))
    at = LEFT
    for word, sign in keys:
        yield f'<g transform="translate({at},90)">{sign}<text x="21">{word}</text></g>'
        at += 21 + 7 * len(word) + 28


def _outages(faults: Iterable[Fault], started: float, x: _Scale) -> Iterable[str]:
    for fault in faults:
        if isinstance(fault.act, Kill):
            continue
        left, right = x(fault.at - started), x((fault.until or fault.at) - started)
        tall = HEIGHT + GAP + LOW_HEIGHT
        yield f'<rect class="redis" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{tall}"/>'
        word = "Redis restarted" if fault.act.how == "stop" else "Redis killed"
        yield f'<text class="redised mid" x="{(left + right) / 2:.1f}" y="{TOP + HEIGHT + 16}">{word}</text>'


def _flag(flips: Sequence[Flip], started: float, last: float, x: _Scale) -> str:
    percent = flips[0].before if flips else 0
    path = f"M{x(0):.1f},{_wanted(percent):.1f}"
    for flip in flips:
        path += f"H{x(flip.at - started):.1f}V{_wanted(flip.percent):.1f}"
    return f'<path class="flag" d="{path}H{x(last):.1f}"/>'


def _turns(flips: Iterable[Flip], started: float, x: _Scale) -> Iterable[str]:
    for flip in flips:
        up = flip.percent > 50
        at = _wanted(flip.percent) + (-6 if up else 16)
        at = min(max(at, TOP + 15), TOP + HEIGHT - 7)
        yield f'<text class="flagged" x="{x(flip.at - started) + 5:.1f}" y="{at:.1f}">{flip.percent} %</text>'


def _kills(faults: Iterable[Fault], started: float, x: _Scale) -> Iterable[str]:
    for fault in faults:
        if not isinstance(fault.act, Kill):
            continue
        at = x(fault.at - started)
        top, bottom = TOP, TOP + HEIGHT
        sign = bottom - 12 if fault.act.backend == "legacy" else top + 12
        yield f'<path class="drop" d="M{at:.1f},{top}V{bottom}"/>'
        yield f'<circle cx="{at:.1f}" cy="{sign}" r="9.5" style="fill:var(--paper)"/>'
        yield f'<g transform="translate({at:.1f},{sign})">{_cross(fault.act.backend)}</g>'


def _cross(backend: str) -> str:
    return f'<path class="kill {backend}" d="M-4.5,-4.5L4.5,4.5M-4.5,4.5L4.5,-4.5"/>'


def _wanted(percent: int) -> float:
    return TOP + HEIGHT * percent / 100


def _rule(at: float) -> str:
    return f'<path class="axis" d="M{LEFT},{at:.1f}H{WIDTH - RIGHT}"/>'


def _area(points: Sequence[tuple[float, float]], floor: float, name: str) -> str:
    if not points:
        return ""
    kept = [points[0]]
    for (_, before), here, (_, after) in zip(points, points[1:], points[2:], strict=False):
        if not before == here[1] == after:  # in the middle of a level run nothing is to be seen
            kept.append(here)
    kept.append(points[-1])
    line = "L".join(f"{x:.1f},{y:.1f}" for x, y in kept)
    return f'<path class="{name}" d="M{kept[0][0]:.1f},{floor:.1f}L{line}L{kept[-1][0]:.1f},{floor:.1f}Z"/>'


def _rates(views: Sequence[View]) -> list[tuple[float, float]]:
    """Messages a second over bins of half a second, at their middles."""
    marks: list[View] = []
    for view in views:
        if not marks or view.elapsed - marks[-1].elapsed >= BIN_SECONDS:
            marks.append(view)
    return [
        ((one.elapsed + two.elapsed) / 2, (two.received - one.received) / (two.elapsed - one.elapsed))
        for one, two in pairwise(marks)
    ]


def _ticks(most: int, about: int = 5) -> list[int]:
    """Round numbers from 0 up to `most`, about so many."""
    rough = max(most / about, 1)
    scale = 10 ** int(log10(rough))
    step = next(step * scale for step in (1, 2, 5, 10) if step * scale >= rough)
    return list(range(0, most + 1, step))
