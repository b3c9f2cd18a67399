"""Puts the table of a run into docs/explanation/performance.md: `python -m benchmarks.docs [results.json]`."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.result import figure, ratio

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "explanation" / "performance.md"
RESULTS: Final = ROOT / "benchmarks" / "results.json"
BEGIN: Final = "<!-- table: python -m benchmarks.docs -->"
END: Final = "<!-- end of the table -->"
_VERDICTS: Final = {True: "met", False: "**missed**", None: ""}


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """The results in Markdown."""
    rows = ["| measure | unit | ours | peer | floor | ours / peer | ours / floor | target | |", f"|{'---|' * 9}"]
    for result in results:
        figures = (figure(result[name]) for name in ("ours", "peer", "floor"))
        ratios = (ratio(result[name]) for name in ("ours_vs_peer", "ours_vs_floor"))
        target = result["target"].replace("<=", "≤").replace(">=", "≥")
        cells = (result["name"], result["unit"], *figures, *ratios, target, _VERDICTS[result["met"]])
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main(arguments: list[str]) -> int:
    """Write it."""
    path = Path(arguments[0]) if arguments else RESULTS
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    if not after:
        sys.stderr.write(f"{PAGE} has no place for the table: {BEGIN} and {END}\n")
        return 1
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(json.loads(path.read_text()))}\n\n{END}{after}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
