"""`make`: its help is complete."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_help_names_every_target_and_variable() -> None:
    done = make()
    assert done.returncode == 0
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    listed = re.findall(r"^  (\w+) +\S", done.stdout, re.MULTILINE)
    assert [name for name in listed if name.islower()] == phony[1].split()
    assert {"HEADLESS", "DURATION", "PORT_BASE", "REDIS_URL", "PYTHON"} <= set(listed)
