"""Stopping an ASGI process: the connections go first, in their own time, then the server (contract 9.1).

Theory of operation. uvicorn closes every socket in the same instant when it is told to stop, and tells the application
last of all (uvicorn #3049). There are two public ways to come first, and they do not disturb each other:

* A server that stops on SIGTERM by a Python signal handler has installed it before `lifespan.startup`. `Stop` puts one
  in front of it, drains, and raises the signal again for the handler that was there. That serves uvicorn alone, with
  and without `--workers`. SIGINT is left alone: Ctrl-C ends the process at once, as a developer expects.
* `channels_impl.worker.DrainingServer` is uvicorn's server, which goes on serving until the drain has ended, whatever
  asked it to end: a signal, or `max_requests`, for which there is none. Our gunicorn worker runs it.

A process that drains goes on answering HTTP and refusing handshakes (503), until the last connection has gone.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from types import FrameType


class Stop:
    """SIGTERM, held back until a drain has ended. Made in an event loop; it does nothing outside the main thread.

    Args:
        drain: called once, in the loop, when the signal comes for the first time.
    """

    def __init__(self, drain: Callable[[], Awaitable[None]]) -> None:
        self._drain = drain
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._server: Callable[[int, FrameType | None], object] | None = None

    def hold(self) -> None:
        """Come before the handler that the server has installed; a server without one is left alone."""
        handler = signal.getsignal(signal.SIGTERM)
        if not callable(handler):
            return
        try:
            signal.signal(signal.SIGTERM, self._told)
        except ValueError:  # not in the main thread: no signal comes here
            return
        self._server = handler

    def release(self) -> None:
        """Give the signal back to the server."""
        if self._server is not None and signal.getsignal(signal.SIGTERM) == self._told:
            signal.signal(signal.SIGTERM, self._server)

    def _told(self, _: int, __: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._task is None:
            self._task = self._loop.create_task(self._end())

    async def _end(self) -> None:
        try:
            await self._drain()
        finally:
            self.release()
            signal.raise_signal(signal.SIGTERM)
