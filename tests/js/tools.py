"""The programs that the browser client is tested with, and what is said when they are not there."""

import functools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
MODULE: Final = ROOT / "shim" / "static" / "realtime" / "realtime.js"
CHROMIUM: Final = Path("/usr/bin/chromium")  # Debian's
OLDEST_NODE: Final = 20


@functools.cache
def node() -> str:
    """The path of a node that is new enough; skips the test without one."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed: the JavaScript client is NOT tested (node 20 or newer, https://nodejs.org)")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    version = re.match(r"v(\d+)", said)
    if version is None or int(version[1]) < OLDEST_NODE:
        pytest.skip(f"node is {said.strip()}, older than {OLDEST_NODE}: the JavaScript client is NOT tested")
    return program
