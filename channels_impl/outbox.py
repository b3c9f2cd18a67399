"""What waits for one ASGI connection: sent at once where the socket takes it, queued and bounded where it does not.

The usual frame goes out inside `put`, and costs no queue and no switch; one slow socket holds nobody else (contract
7.2). Where the server offers a line (`channels_impl.line`), that takes the frame as it is, encoded once for all
connections. Else, and where the line does not take it just now, the frame goes through the ASGI send, in an eager task:
it runs to its end inside `put` unless the server makes it wait (uvicorn does when the socket is full).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from asgiref.typing import ASGISendCallable, WebSocketCloseEvent

from channels_impl.line import Line
from shim.core.protocol import Frame

logger = logging.getLogger("realtime")

LAST_WORDS_SECONDS: Final = 5.0
"""How long a client that has stalled may take to accept the close frame, before its connection is dropped."""

_NOTHING: Final[deque[Frame | WebSocketCloseEvent]] = deque()
"""What waits for nearly all: one deque for each would be 760 bytes. Nothing is put into it."""


class Outbox:
    """Frames on their way to one client. For use in one event loop alone; nothing blocks.

    Args:
        send: the ASGI send.
        max_backlog: bytes that may wait (contract 7.2).
        too_slow: called once when more would have to wait.
        line: the bytes below the connection, None where the server offers none.

    Attributes:
        backlog: bytes that wait. is_stalled: the client has not taken the close frame in time.
    """

    __slots__ = (
        "_allowed",
        "_closing",
        "_line",
        "_loop",
        "_max_backlog",
        "_queue",
        "_send",
        "_sending",
        "_stopped",
        "_too_slow",
        "_waiting",
        "backlog",
        "is_stalled",
    )

    def __init__(
        self, send: ASGISendCallable, max_backlog: int, too_slow: Callable[[], None], line: Line | None = None
    ) -> None:
        self._send = send
        self._line = line
        self._max_backlog = max_backlog
        self._too_slow = too_slow
        self._loop = asyncio.get_running_loop()
        self._queue = _NOTHING
        self._sending: asyncio.Task[None] | None = None
        self._closing = False
        self._allowed = max_backlog
        self.backlog = 0
        self.is_stalled = False
        self._stopped = False
        self._waiting: asyncio.Task[Any] | None = None

    def put(self, frame: Frame) -> None:
        """Send a frame after those before it."""
        if self._closing:
            return
        if self._sending is None:
            if self._line is None or not self._line.write(frame.wire):
                self._start(frame)
        elif self.backlog + len(frame) > self._allowed and self._queue:
            self._too_slow()
        else:
            self._queue_up(frame)
            self.backlog += len(frame)

    def put_batch(self, frames: Sequence[Frame]) -> None:
        """Send frames that may be over the limit together, once: the limit is raised until they have drained."""
        self._allowed = self.backlog + sum(len(frame) for frame in frames) + self._max_backlog
        for frame in frames:
            self.put(frame)
        if self._sending is None:
            self._allowed = self._max_backlog

    def close(self, code: int, reason: str, *, drop: bool = False) -> None:
        """Close after what is queued (`drop`: instead of it); the first one counts."""
        if self._closing:
            return
        self._closing = True
        if drop:
            self._queue.clear()
        message: WebSocketCloseEvent = {"type": "websocket.close", "code": code, "reason": reason}
        if self._sending is None:
            self._start(message)
        else:
            self._queue_up(message)
        if self._sending is not None:
            self._loop.call_later(LAST_WORDS_SECONDS, self._run_out)

    def stop(self) -> None:
        """Send nothing more, and wake who waits in `unless_stopped`. Idempotent."""
        self._give_up()
        if self._sending is not None:
            self._sending.cancel()
        self._stopped = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def unless_stopped[T](self, wait: Callable[[], Awaitable[T]]) -> T | None:
        """Wait for something from the client; None when the outbox has been stopped, so that nothing may ever come."""
        if self._stopped:
            return None
        self._waiting = asyncio.current_task()
        try:
            return await wait()
        except asyncio.CancelledError:
            if not self._woke(self._waiting):
                raise
            return None
        finally:
            self._waiting = None

    def _queue_up(self, item: Frame | WebSocketCloseEvent) -> None:
        if self._queue is _NOTHING:
            self._queue = deque()
        self._queue.append(item)

    def _woke(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether it was `stop` that cancelled a task, and nobody else."""
        if task is None or not self._stopped or task.cancelling() > 1:
            return False
        task.uncancel()
        return True

    def _run_out(self) -> None:
        self.is_stalled = not self._stopped and self._sending is not None
        self.stop()

    def _give_up(self) -> None:
        self._closing = True
        self._queue.clear()

    def _start(self, first: Frame | WebSocketCloseEvent) -> None:
        task = asyncio.Task(self._run(first), loop=self._loop, eager_start=True)
        if not task.done():
            self._sending = task

    async def _run(self, item: Frame | WebSocketCloseEvent) -> None:
        try:
            while True:
                if isinstance(item, Frame):
                    text, data = (item.string, None) if item.text else (None, item.data)
                    await self._send({"type": "websocket.send", "text": text, "bytes": data})
                else:
                    await self._send(item)
                if not self._queue:
                    break
                item = self._queue.popleft()
                if isinstance(item, Frame):
                    self.backlog -= len(item)
        except OSError:  # the client is gone (ASGI: send raises a subclass of OSError then)
            self._give_up()
        except Exception:
            logger.exception("the ASGI server failed to send")
            self._give_up()
        finally:
            self._sending = None
            self._allowed = self._max_backlog
            if not self._queue:
                self._queue = _NOTHING
                self.backlog = 0
