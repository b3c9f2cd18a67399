"""`make stalled`: of a thousand connections to one server process two hundred take nothing any more (contract 7.2).

They are closed, the others get everything, and the memory of the process is bounded. On both backends; the last line
is `STALLED {…}`, and the exit code 1 where it is not so.
"""

import argparse
import asyncio
import json
import resource
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from contract_tests.servers import free_ports
from demo.stack import BACKENDS, CHANNELS
from tests.stalled.run import Outcome, run
from tests.stalled.stack import OneEach

SLACK: Final = 32 * 1_048_576  # bytes that a process may grow by for other reasons
LINE: Final = 65_536  # bytes that uvicorn holds for a connection beside our backlog, and the message on top of them


def main() -> int:
    """Run it on both backends, and tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.stalled", description=__doc__)
    parser.add_argument("--connections", type=int, default=1_000)
    parser.add_argument("--stalled", type=int, default=200)
    parser.add_argument("--backlog", type=int, default=1_048_576, help="REALTIME_MAX_BACKLOG_BYTES")
    parser.add_argument("--size", type=int, default=65_536, help="bytes of a message")
    parser.add_argument("--count", type=int, default=80, help="messages to each, while some are stalled")
    told = parser.parse_args()
    _allow_sockets(2 * told.connections + 500)
    result: dict[str, Any] = {"connections": told.connections, "stalled": told.stalled, "backlog": told.backlog}
    bound = told.stalled * (told.backlog + LINE + told.size) + SLACK
    is_right = True
    with (
        tempfile.TemporaryDirectory(prefix="stalled-") as directory,
        OneEach(
            free_ports(), directory=Path(directory) / "stack", room=told.connections + 200, backlog=told.backlog
        ) as stack,
    ):
        for number, backend in enumerate(BACKENDS):
            if backend == CHANNELS:
                stack.turn(100)  # nobody is to be moved meanwhile
            outcome = asyncio.run(
                run(
                    stack,
                    backend,
                    connections=told.connections,
                    stalled=told.stalled,
                    size=told.size,
                    count=told.count,
                    first=number * 100_000,
                )
            )
            print(_line(backend, outcome, bound), flush=True)
            result[backend] = asdict(outcome)
            is_right = is_right and outcome.is_right(told.stalled, bound)
    print("STALLED " + json.dumps(result, separators=(",", ":")))
    return 0 if is_right else 1


def _line(backend: str, seen: Outcome, bound: int) -> str:
    return (
        f"{backend}: {seen.closed} closed with 4001; the others missed {seen.missed} messages, {seen.lost} of them "
        f"were lost; the last had a message after {seen.quiet_ms} ms quiet, {seen.stalled_ms} ms meanwhile, "
        f"{seen.worst_ms} ms at most; {_mib(seen.before)} MiB, and {_mib(seen.grown)} MiB more meanwhile "
        f"(allowed: {_mib(bound)})"
    )


def _mib(size: int) -> int:
    return round(size / 1_048_576)


def _allow_sockets(n: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < n <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))
    elif hard < n:
        sys.exit(f"{n} open files are needed, and {hard} are allowed: see `ulimit -Hn`, or give fewer --connections")


if __name__ == "__main__":
    raise SystemExit(main())
