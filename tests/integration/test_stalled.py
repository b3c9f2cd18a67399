"""Twenty of a hundred take nothing any more: `make stalled` on a small scale."""

# contract 7.2

import asyncio
from pathlib import Path

import pytest

from contract_tests.servers import free_ports
from demo.stack import BACKENDS, CHANNELS
from tests.stalled.__main__ import LINE
from tests.stalled.run import run
from tests.stalled.stack import OneEach

pytestmark = pytest.mark.servers

BACKLOG = 262_144
SIZE = 65_536
SLACK = 8 * 1_048_576


def test_who_takes_nothing_is_closed_and_nobody_else_notices(tmp_path: Path) -> None:
    with OneEach(free_ports(), directory=tmp_path / "stack", room=200, backlog=BACKLOG) as stack:
        for number, backend in enumerate(BACKENDS):
            if backend == CHANNELS:
                stack.turn(100)
            first = number * 100_000
            seen = asyncio.run(run(stack, backend, connections=100, stalled=20, size=SIZE, count=64, first=first))
            assert seen.is_right(20, 20 * (BACKLOG + LINE + SIZE) + SLACK), (backend, seen)
