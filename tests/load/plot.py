"""Runs as a picture, one beside the other: who has moved when, and how long newcomers waited meanwhile. Pure."""

from collections.abc import Sequence
from html import escape
from math import log10
from typing import Final

from tests.load.moves import Run

WIDTH: Final = 460  # of a panel's inside
HEIGHT: Final = 240
LEFT: Final = 62
TOP: Final = 64
BOTTOM: Final = 46
STEPS: Final = 200  # points of the curve of moves
LEAST_MS: Final = 1.0
MOST_MS: Final = 10_000.0

_STYLE: Final = """\
svg{--paper:#fff;--ink:#1c2530;--soft:#66727f;--line:#e3e8ed;--moved:#189aa8;--new:#b01e83;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
@media(prefers-color-scheme:dark){svg{--paper:#12171d;--ink:#e8edf2;--soft:#93a0ad;--line:#2a323b;--moved:#1f9dab;
--new:#ff6fcf}}
text{fill:var(--soft);font-size:12px}.title{fill:var(--ink);font-size:15px;font-weight:650}.end{text-anchor:end}
.mid{text-anchor:middle}.axis{stroke:var(--line)}.moved{fill:var(--moved);fill-opacity:.35}
.new{stroke:var(--new);stroke-opacity:.7;stroke-width:3;stroke-linecap:round}.word-moved{fill:var(--moved)}.word-new{fill:var(--new)}
"""


def plot(runs: Sequence[tuple[str, Run]]) -> str:
    """Draw runs under their titles; time begins two seconds before each flip, and has one scale."""
    seconds = max(run.ended - run.began for _, run in runs) + 4.0
    width = len(runs) * (LEFT + WIDTH) + 24
    height = TOP + HEIGHT + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape('; '.join(title for title, _ in runs))}</title><style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="var(--paper)"/>',
    ]
    for number, (title, run) in enumerate(runs):
        parts += _panel(LEFT + number * (LEFT + WIDTH), title, run, seconds)
    return "\n".join([*parts, "</svg>", ""])


def _panel(left: int, title: str, run: Run, seconds: float) -> list[str]:
    def x(moment: float) -> float:
        return left + WIDTH * (moment - run.began + 2.0) / seconds

    def y(share: float) -> float:
        return TOP + HEIGHT * (1.0 - share)

    moved = sorted(moment for each in run.people for moment in each.moved[:1])
    cut_off = sum(bool(each.ends) for each in run.people)
    words = f"{len(moved):,} of {len(run.people):,} moved" + (f", {cut_off:,} cut off" if cut_off else "")
    parts = [
        f'<text class="title" x="{left}" y="22">{escape(title)}</text>',
        f'<text x="{left}" y="44"><tspan class="word-moved">{words}</tspan>'
        '<tspan dx="14" class="word-new">a newcomer’s wait, ms</tspan></text>',
    ]
    for decade in (1, 10, 100, 1_000, 10_000):
        at = y(_height(decade))
        parts += [
            f'<line class="axis" x1="{left}" x2="{left + WIDTH}" y1="{at:.1f}" y2="{at:.1f}"/>',
            f'<text class="end" x="{left - 8}" y="{at + 4:.1f}">{decade:,}</text>',
        ]
    ticks = [(x(run.began + second), second) for second in range(0, int(seconds), 5)]
    parts += [f'<text class="mid" x="{at:.1f}" y="{TOP + HEIGHT + 20}">{second} s</text>' for at, second in ticks]
    shares = [(moment, (n + 1) / len(run.people)) for n, moment in enumerate(moved)]
    points = [(run.began, 0.0), *shares[:: max(1, len(shares) // STEPS)], *shares[-1:]]
    points.append((run.began + seconds - 2.0, points[-1][1]))
    steps = " ".join(f"L{x(moment):.0f} {y(share):.0f}" for moment, share in points)
    parts.append(f'<path class="moved" d="M{x(run.began):.0f} {y(0):.0f} {steps} V{y(0):.0f}Z"/>')
    visits = [visit for visit in (*run.quiet, *run.moving) if visit.at >= run.began - 2.0]
    dots = "".join(f"M{x(visit.at):.1f} {y(_height(visit.ms)):.0f}h0" for visit in visits)
    return [*parts, f'<path class="new" d="{dots}"/>']


def _height(ms: float) -> float:
    """The place of a wait on a logarithmic scale, 0 to 1."""
    bounded = min(max(ms, LEAST_MS), MOST_MS)
    return log10(bounded / LEAST_MS) / log10(MOST_MS / LEAST_MS)
