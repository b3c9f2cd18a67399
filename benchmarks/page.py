"""The results as one HTML page that needs nothing but itself: the table, and what is behind each median."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from math import log10
from typing import Final

from benchmarks.result import Result, figure, ratio

WIDTH: Final = 560
LABEL: Final = 168
RIGHT: Final = 74
ROW: Final = 26
LINES: Final = 210  # the height of a plot over sizes
VERDICTS: Final = {True: "met", False: "missed", None: "–"}


def page(results: Sequence[Result], *, at: datetime, environment: Mapping[str, str], failed: Mapping[str, str]) -> str:
    """The whole document.

    Args:
        at: when the run ended, in UTC. environment: versions and the like.
        failed: why, by the benchmark that could not run.
    """
    judged = [result.met for result in results if result.met is not None]
    missed = len(judged) - sum(judged)
    title = f"{sum(judged)} of {len(judged)} targets met"
    facts = {"run": f"{at:%Y-%m-%d %H:%M} UTC", **environment}
    parts = [
        f'<header class="{"bad" if missed or failed else "good"}"><p class="kicker">benchmarks</p>',
        f"<h1>{escape(title)}</h1><p>Ours beside the peers and the floor, measured in the same run on the same "
        "machine. Medians of rounds; a ratio is ours divided by the other.</p></header>",
        *(f'<p class="failed"><b>{escape(name)}</b> could not run: {escape(why)}</p>' for name, why in failed.items()),
        _table(results),
        '<section class="panels">',
        *(_panel(result) for result in results),
        "</section><footer><dl>",
        *(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()),
        "</dl></footer>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _table(results: Iterable[Result]) -> str:
    rows = "".join(
        f'<tr class="{_mark(result.met)}">'
        f'<th scope="row">{escape(result.name)}<small>{escape(result.unit)}</small></th>'
        f"<td>{figure(result.ours)}</td><td>{figure(result.peer)}</td><td>{figure(result.floor)}</td>"
        f"<td>{ratio(result.ours_vs_peer)}</td><td>{ratio(result.ours_vs_floor)}</td>"
        f'<td class="verdict">{VERDICTS[result.met]}</td>'
        f'<td class="target">{"<br>".join(escape(str(bound)) for bound in result.bounds)}</td></tr>'
        for result in results
    )
    return (
        '<div class="wide"><table><thead><tr><th></th><th>ours</th><th>peer</th><th>floor</th><th>ours / peer</th>'
        f'<th>ours / floor</th><th></th><th class="target">target</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _mark(met: bool | None) -> str:
    return {True: "good", False: "bad", None: ""}[met]


def _panel(result: Result) -> str:
    drawn = _over_sizes(result) if result.axis else _rounds(result)
    if not drawn:
        return ""
    return (
        f'<figure class="{_mark(result.met)}"><figcaption><b>{escape(result.name)}</b> '
        f"<span>{escape(result.unit)}</span></figcaption>{drawn}</figure>"
    )


def _rounds(result: Result) -> str:
    """A row for each candidate, a dot for each round; a logarithmic scale, for factors are what counts."""
    series = {name: [value for value in values if value > 0] for name, values in result.series.items()}
    values = [value for found in series.values() for value in found]
    if not values:
        return ""
    low, high = min(values) / 1.25, max(values) * 1.25
    inside = WIDTH - LABEL - RIGHT

    def x(value: float) -> float:
        return LABEL + inside * log10(value / low) / log10(high / low)

    height = ROW * len(series) + 24
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(result.name)}">']
    for tick in _ticks(low, high):
        parts.append(f'<path class="axis" d="M{x(tick):.1f},0V{height - 20}"/>')
        parts.append(f'<text class="mid" x="{x(tick):.1f}" y="{height - 5}">{figure(tick)}</text>')
    for number, (name, found) in enumerate(series.items()):
        y = ROW * number + ROW / 2
        kind = "ours" if number == 0 else "other"
        parts.append(f'<text class="end {kind}" x="{LABEL - 12}" y="{y + 4:.1f}">{escape(name)}</text>')
        dots = "".join(f"M{x(value):.1f},{y:.1f}h0" for value in found)
        parts.append(f'<path class="dots {kind}" d="{dots}"/>')
        if found:
            middle = sorted(found)[len(found) // 2]
            parts.append(f'<path class="middle {kind}" d="M{x(middle):.1f},{y - 9:.1f}v18"/>')
            parts.append(f'<text class="{kind}" x="{WIDTH - RIGHT + 8}" y="{y + 4:.1f}">{figure(middle)}</text>')
    return "".join((*parts, "</svg>"))


def _over_sizes(result: Result) -> str:
    """A line for each series, over its sizes; both scales logarithmic, so that a flat line is a flat cost."""
    values = [value for found in result.series.values() for value in found if value > 0]
    if not values:
        return ""
    low, high = min(values) / 2, max(values) * 2
    first, last = result.axis[0], result.axis[-1]
    left, bottom = 64, LINES - 24

    def x(size: float) -> float:
        return left + (WIDTH - left - 24) * log10(size / first) / log10(last / first)

    def y(value: float) -> float:
        return bottom - (bottom - 14) * log10(value / low) / log10(high / low)

    parts = [f'<svg viewBox="0 0 {WIDTH} {LINES}" role="img" aria-label="{escape(result.name)}">']
    for tick in _ticks(low, high):
        parts.append(f'<path class="axis" d="M{left},{y(tick):.1f}H{WIDTH - 24}"/>')
        parts.append(f'<text class="end" x="{left - 8}" y="{y(tick) + 4:.1f}">{figure(tick)}</text>')
    parts += [f'<text class="mid" x="{x(size):.1f}" y="{LINES - 5}">{size:,g}</text>' for size in result.axis]
    for number, (name, found) in enumerate(result.series.items()):
        points = [(x(size), y(value)) for size, value in zip(result.axis, found, strict=True) if value > 0]
        kind = "ours" if number == 0 else "other"
        parts.append(f'<path class="line {kind}" d="M{"L".join(f"{at:.1f},{up:.1f}" for at, up in points)}"/>')
        parts.append(f'<path class="dots {kind}" d="{"".join(f"M{at:.1f},{up:.1f}h0" for at, up in points)}"/>')
        at, up = points[-1]
        under = 20 if number else -10
        parts.append(f'<text class="end {kind}" x="{at:.1f}" y="{up + under:.1f}">{escape(name)}</text>')
    return "".join((*parts, "</svg>"))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between the two, two to seven of them."""
    found: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        powers = range(int(log10(low)) - 1, int(log10(high)) + 2)
        found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) >= 3:
            break
    return found[:: len(found) // 7 + 1]


_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6878; --line: #dfe4ea; --paper: #ffffff; --sunk: #f7f9fa;
  --good: #0f7b55; --bad: #b3261e; --ours: #b01e83; --other: #4f7f9e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf0; --soft: #9aa6b5; --line: #2c3542; --paper: #12171e;
  --sunk: #171e27; --good: #4ec69a; --bad: #ff8a80; --ours: #ff6fcf; --other: #7fb2d2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header { border-left: .35rem solid var(--good); padding-left: 1.25rem; margin-bottom: 2.5rem; }
header.bad { border-color: var(--bad); }
header p { margin: 0; color: var(--soft); max-width: 46rem; }
h1 { margin: .1rem 0 .6rem; font-size: clamp(1.6rem, 4vw, 2.3rem); line-height: 1.15; letter-spacing: -.02em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .5rem; text-align: right; border-top: 1px solid var(--line); white-space: nowrap; }
thead th { border: 0; color: var(--soft); font-weight: 500; }
tbody th { text-align: left; padding-left: 0; font-weight: 600; }
tbody th small { display: block; color: var(--soft); font-weight: 400; }
td:nth-child(2) { font-weight: 600; }
.target { text-align: left; color: var(--soft); }
.verdict { font-weight: 600; color: var(--soft); }
.good .verdict { color: var(--good); }
.bad .verdict { color: var(--bad); }
.failed { color: var(--bad); overflow-wrap: anywhere; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1rem;
  margin-top: 3rem; }
figure { margin: 0; padding: 1rem 1.1rem .8rem; background: var(--sunk); border: 1px solid var(--line);
  border-radius: .6rem; }
figure.bad { border-color: color-mix(in srgb, var(--bad) 55%, var(--line)); }
figcaption { margin-bottom: .6rem; }
figcaption span { color: var(--soft); }
svg { display: block; width: 100%; font-size: 13px; overflow: visible; }
text { fill: var(--soft); font-variant-numeric: tabular-nums; }
text.end { text-anchor: end; } text.mid { text-anchor: middle; font-size: 12px; }
text.ours { fill: var(--ours); font-weight: 600; }
.axis { stroke: var(--line); fill: none; }
.dots { stroke-width: 7; stroke-linecap: round; stroke-opacity: .45; }
.middle { stroke-width: 2; } .line { fill: none; stroke-width: 2; }
path.ours { stroke: var(--ours); } path.other { stroke: var(--other); }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; }
dd { margin: 0; color: var(--ink); overflow-wrap: anywhere; }
"""
