"""Findings as text for a terminal, and as JSON for programs."""

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Final

from shim.doctor.finding import LEVELS, Finding, Level

WIDTH: Final = 100
"""Most characters of a line; a narrow terminal gets fewer."""

_LABELS: Final = (("why", "why"), ("do", "remedy"), ("see", "doc"))

type Paint = Callable[[str], str]


def summary(findings: Sequence[Finding]) -> str:
    """How many there are of each level, in words."""
    counts = _counts(findings)
    return ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for level, n in counts.items())


def to_json(findings: Sequence[Finding]) -> str:
    """One object: how many of each level, and the findings with all their fields."""
    counts = {f"{level}s": n for level, n in _counts(findings).items()}
    return json.dumps({**counts, "findings": [asdict(finding) for finding in findings]}, indent=2, ensure_ascii=False)


def to_lines(findings: Sequence[Finding], paint: Mapping[Level, Paint], width: int = WIDTH) -> Iterator[str]:
    """What a person reads: each finding in a paragraph of its own, then the summary.

    Args:
        paint: colours for the levels. width: of the terminal, in characters.
    """
    width = max(40, min(width, WIDTH))
    for finding in findings:
        head, *more = textwrap.wrap(finding.what, width - 9)
        yield f"{paint[finding.level](f'{finding.level:<8}')} {head}"
        yield from (f"{'':<9}{line}" for line in more)
        for label, name in _LABELS:
            first, *rest = textwrap.wrap(str(getattr(finding, name)), width - 14, break_long_words=False)
            yield f"{'':<9}{label:<4} {first}"
            yield from (f"{'':<14}{line}" for line in rest)
        yield f"{'':<9}{'id':<4} {finding.id}"
        yield ""
    yield f"{summary(findings)}." if findings else "Nothing is left to do."


def _counts(findings: Sequence[Finding]) -> dict[Level, int]:
    return {level: sum(finding.level == level for finding in findings) for level in LEVELS}
