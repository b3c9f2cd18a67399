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
GRACE: Final = 5.0  # seconds after a fault in which a request or a publish may still fail for it

# What is acknowledged is on disk, so a restart loses nothing. With `everysec`, or with snapshots alone, what the last
# seconds brought may be missing after a crash: those who have not got it by then are told so, `gap` (contract 7.4).
REDIS_THAT_KEEPS: Final = {"appendonly": "yes", "appendfsync": "always"}


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
    victim = stack.health(backend)["pid"]
    fault.at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    deadline = fault.at + GRACE
    while time.monotonic() < deadline:
        try:
            stack.health(backend)
        except (OSError, http.client.HTTPException, ValueError):
            continue  # it was accepted by the one that is gone
        break
    fault.until = time.monotonic()


async def _restart(valkey: EmbeddedValkey, fault: Fault, act: Restart) -> None:
    fault.at = time.monotonic()
    await asyncio.to_thread(valkey.stop, SAVING if act.how == "stop" else 0.0)
    await asyncio.sleep(max(0.0, fault.at + AWAY - time.monotonic()))
    await asyncio.to_thread(valkey.start)
    fault.until = time.monotonic()
