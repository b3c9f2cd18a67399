"""The demo's faults: workers are killed, Redis goes away and comes back."""

import asyncio
import http.client
import os
import signal
import time
from typing import Final

from demo.script import Fault, Kill, Restart
from demo.stack import Stack
from shim.bus.embedded import EmbeddedValkey

AWAY: Final = 1.0  # seconds that Redis is gone
SAVING: Final = 5.0  # seconds that it may take to end when it is told to
PATIENCE: Final = 20.0  # seconds for a worker to answer
GRACE: Final = 5.0  # seconds after a fault in which a request or a publish may still fail for it

# Nothing that was acknowledged is lost with the process: the kernel has it by then, and writes it in its own time. With
# snapshots alone, or where the machine itself goes down, a restart can lose what the last seconds brought (`always`
# is for that); those who have not got it by then are told so, `gap` (contract 7.4).
REDIS_THAT_KEEPS: Final = {"appendonly": "yes", "appendfsync": "no"}


async def strike(stack: Stack, fault: Fault) -> None:
    """Do it; returns when what was struck is there again, which goes into `fault.until`.

    Raises:
        RealtimeUnavailable: Redis does not come back. OSError, HTTPException, ValueError: no worker answers.
    """
    if isinstance(fault.act, Kill):
        await asyncio.to_thread(_kill, stack, fault, fault.act.backend)
    elif stack.valkey is not None:
        await _restart(stack.valkey, fault, fault.act)


def _kill(stack: Stack, fault: Fault, backend: str) -> None:
    """Kill one worker; its master starts another, and the others serve meanwhile."""
    victim = _worker(stack, backend)
    fault.at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    _worker(stack, backend)
    fault.until = time.monotonic()


def _worker(stack: Stack, backend: str) -> int:
    """The process of whichever worker answers; who asks one that is just being killed, or a busy one, asks again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            pid: int = stack.health(backend)["pid"]
        except (OSError, http.client.HTTPException, ValueError):
            if time.monotonic() > deadline:
                raise
        else:
            return pid


async def _restart(valkey: EmbeddedValkey, fault: Fault, act: Restart) -> None:
    fault.at = time.monotonic()
    await asyncio.to_thread(valkey.stop, SAVING if act.how == "stop" else 0.0)
    await asyncio.sleep(max(0.0, fault.at + AWAY - time.monotonic()))
    await asyncio.to_thread(valkey.start)
    fault.until = time.monotonic()
