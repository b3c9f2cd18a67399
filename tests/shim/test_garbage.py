"""Full collections in a process that serves: rare, and short."""

import subprocess
import sys

PROGRAM = """
import gc, os
from shim.garbage import RARER, settle
{before}
usual, frozen = gc.get_threshold(), gc.get_freeze_count()
settle()
first, settled = gc.get_threshold(), gc.get_freeze_count()
kept = [[] for _ in range(1_000)]
settle()
print(first == (*usual[:2], usual[2] * RARER), settled > frozen + 1_000, gc.get_threshold() == first, flush=True)
print(gc.get_freeze_count() < settled + 1_000, flush=True)
if not os.fork():
    settle()  # another process, which is set already
    print(gc.get_threshold() == first, flush=True)
"""


def run(before: str) -> list[str]:
    program = [sys.executable, "-c", PROGRAM.format(before=before)]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=True).stdout.split()


def test_what_is_loaded_is_left_out_and_full_collections_are_rarer_once() -> None:
    assert run("") == ["True"] * 5


def test_an_application_that_has_set_the_collector_itself_is_left_alone() -> None:
    for before in ("gc.set_threshold(5_000, 20, 50)", "gc.disable()", "gc.set_threshold(0)"):
        assert run(before)[:2] == ["False", "False"], before
