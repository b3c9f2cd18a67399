"""The contract suite's quick profile: the same lives each time, on every driver, in processes of their own."""

import json
import subprocess
import sys

import pytest

from contract_tests.clauses import CLAUSES
from tests.integration.served import clean_environment


@pytest.mark.servers
@pytest.mark.timeout(600)  # a deadline for a machine that is busy with other things; it takes less than a minute
def test_every_driver_keeps_the_contract() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "contract_tests", "--profile", "quick"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=590,
    )
    assert done.returncode == 0, done.stderr.partition(": broken")[2][:8_000] or done.stderr[-8_000:]
    word, _, found = done.stdout.splitlines()[-1].partition(" ")
    assert word == "CONTRACT"
    summary = json.loads(found)
    assert set(summary["drivers"]) == {"legacy", "channels", "mixed", "memory"}
    for counts in summary["drivers"].values():
        assert counts["failed"] == 0
        assert counts["examples"] >= 30
    assert summary["clauses"] == {"total": len(CLAUSES), "covered": len(CLAUSES)}
