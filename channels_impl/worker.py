"""The gunicorn worker: uvicorn, set up as the contract needs it.

`gunicorn -k channels_impl.worker.RealtimeWorker project.asgi:application`. Who runs uvicorn alone gives the same on its
command line: see docs/how-to/deploy.md.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, ClassVar, Final

from gunicorn.arbiter import Arbiter
from uvicorn import Config, Server
from uvicorn_worker import UvicornWorker

from channels_impl.process import GOODBYE_SECONDS, process
from channels_impl.uvicorn_door import RealtimeDoor
from channels_impl.uvicorn_protocol import RealtimeProtocol
from shim.conf import conf
from shim.core.limits import Limits
from shim.core.protocol import frame_limit

MARGIN_SECONDS: Final = 2.0
"""What a stopping worker needs beside the drain and its handlers: uvicorn looks at its sockets ten times a second."""

TICK_SECONDS: Final = 1.0
"""uvicorn's main loop comes by ten times as often: 600 times a minute, of which a quiet process does nothing else."""

DRAIN_TICK_SECONDS: Final = 0.1


class DrainingServer(Server):
    """uvicorn's server, with a drain between the order to end and the end (contract 9.1): see `channels_impl.stop`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._parent = os.getppid()
        self._drained: asyncio.Task[None] | None = None
        self._told: Callable[[], None] = lambda: None  # wakes the main loop

    async def main_loop(self) -> None:
        """Look once a second whether to end, and at once when told to; while draining as often as uvicorn does."""
        loop, told = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(told.set)

        self._told = tell
        while not await self.on_tick(0):
            if not self.should_exit:
                with suppress(TimeoutError):
                    await asyncio.wait_for(told.wait(), TICK_SECONDS)
            else:
                await asyncio.sleep(DRAIN_TICK_SECONDS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal says that it should end."""
        super().handle_exit(sig, frame)
        self._told()

    async def on_tick(self, counter: int) -> bool:
        """Whether to end; it tells gunicorn, too, that the worker lives."""
        # gunicorn's own workers end when their master has; nobody else would end this one, or replace it.
        if not await super().on_tick(counter) and os.getppid() == self._parent:
            return False
        self.should_exit = True  # also where a limit was reached; uvicorn would log that again and again
        if self._drained is None:
            self._drained = asyncio.create_task(_drain())
        return self.force_exit or self._drained.done()

    def quit(self) -> None:
        """End at once."""
        self.should_exit = self.force_exit = True
        self._told()


class RealtimeWorker(UvicornWorker):
    """uvicorn under gunicorn, with back-pressure, pings, limits, and a drain before it stops."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "auto",
        "http": RealtimeDoor,  # in front of uvicorn's own, `auto`
        # Of uvicorn's own, only `websockets-sansio` lets a slow client slow its sender (contract 7.2); this extends it.
        "ws": RealtimeProtocol,
        # For consumers of other paths; ours ping by themselves (contract 7.1).
        "ws_ping_interval": Limits().heartbeat,
        "ws_ping_timeout": Limits().answer,
        # About 300 KiB for each connection (uvicorn #1862).
        "ws_per_message_deflate": False,
        "lifespan": "on",
    }

    def load_wsgi(self) -> None:
        """Load the application, and with it the settings: the server below reads no longer frames than they allow."""
        super().load_wsgi()
        # Frames over this close with 1009; the exact limit of a message is the state machine's (contract 6.3).
        self.config.ws_max_size = frame_limit(conf().max_message)
        # uvicorn-worker sets none, so that one open socket would hold a stopping worker until gunicorn kills it. What
        # gunicorn allows, less the drain, is for handlers and requests that are still busy (contract 9.1).
        drain = conf().pace.drain + GOODBYE_SECONDS + MARGIN_SECONDS
        left = self.cfg.graceful_timeout - drain
        if left < 0:
            self.log.warning(
                "gunicorn kills a stopping worker after %g s, in the middle of its drain: set --graceful-timeout to %g"
                " or more, or make REALTIME_PACE['drain'] (%g s) shorter",
                self.cfg.graceful_timeout,
                drain,
                conf().pace.drain,
            )
        self.config.timeout_graceful_shutdown = max(1, int(left))

    def run(self) -> None:
        """Serve until told to stop; then drain, and end."""
        self.config.app = self.wsgi
        server = DrainingServer(self.config)
        # What gunicorn sends for a quick stop; uvicorn knows no such thing.
        signal.signal(signal.SIGQUIT, lambda *_: server.quit())
        server.run(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)


async def _drain() -> None:
    await (await process()).drain()
