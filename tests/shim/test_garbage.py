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


OLD = """
import gc
from collections import deque
from shim.garbage import settle
settle()
begun, young = gc.get_stats()[2]["collections"], deque(maxlen=20_000)
for made in range(0, 3_000_000, 2):
    cycle = [[]]
    cycle[0].append(cycle)
    young.append(cycle)  # long enough for the collections of the young
    if gc.get_stats()[2]["collections"] > begun:
        break
print(made < 2_500_000)
"""


def test_what_grows_old_as_garbage_is_bounded() -> None:
    # 0.1 KiB each; a process has a few hundred MiB to live in
    done = subprocess.run([sys.executable, "-c", OLD], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True"]
