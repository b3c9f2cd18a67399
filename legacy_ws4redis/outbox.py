"""What waits to be written to one client: bounded, in order, never waited for (contract 7.2).

Theory of operation. `put` tries the socket itself when nothing is queued: one system call for a client that keeps up,
which is nearly always. What the kernel does not take is queued, and the process's flusher sends it when the socket
takes more. So a slow client costs its own queue and nobody's time. When a queue that is not empty would pass the limit,
`put` says so; its owner then ends the connection with 4001, which throws the queue away except for the rest of a frame
that is partly sent (the close frame must not land inside of it).

States: before `open` everything is queued, because nothing may overtake the 101; after `end` nothing new is accepted;
after `abort` or an error of the socket nothing is sent. A deadline starts with `end`: whatever the client does, the
flusher aborts at that time, which also wakes a reader that waits.

One small lock guards all of it; it is held for non-blocking calls only, so nobody waits behind a slow client.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final, Protocol

from legacy_ws4redis.descriptor import Descriptor

CLOSE_TIMEOUT: Final = 5.0
"""Seconds from the end of a connection's last frame being queued to its socket being cut."""

_BATCH: Final = 64  # frames in one sendmsg; IOV_MAX is 1024
_NOTHING: Final[deque[bytes | memoryview]] = deque()
"""What waits for nearly all: one deque for each would be 760 bytes. Nothing is put into it."""

_TURN: Final = 262_144  # bytes sent to one client before the flusher looks at the others


class Watcher(Protocol):
    """Who writes later, and cuts at the deadline: the process's `Flusher`."""

    def watch(self, outbox: "Outbox") -> None:
        """Look after an outbox until its `let_go` says that it needs nothing."""


class Outbox:
    """The writing half of one connection. Every method is thread-safe and returns at once.

    Args:
        max_backlog: bytes that may wait; a single frame may be larger when nothing waits before it.
        flusher: the process's flusher.
    """

    def __init__(self, max_backlog: int, flusher: Watcher) -> None:
        self._max_backlog = max_backlog
        self._flusher = flusher
        self._lock = threading.Lock()
        self._queue = _NOTHING
        self._bytes = 0
        self._exempt = 0  # bytes of a batch that may wait on top of the limit, until the queue has drained
        self._partly_sent = False  # the queue's first item is the rest of a frame
        self._descriptor: Descriptor | None = None
        self._watched = False  # the flusher knows us; it then closes the descriptor
        self._dead = False
        self._released = False
        self._half_close = False
        self.ending: tuple[int, str] | None = None
        """Code and reason of whoever ended the connection first; None while it lives."""
        self.deadline: float | None = None
        """Monotonic time at which the connection is cut, once it is ending."""

    @property
    def backlog(self) -> int:
        """Bytes that wait."""
        return self._bytes

    def open(self, descriptor: Descriptor) -> None:
        """Start to write: the 101 is on the wire."""
        with self._lock:
            self._descriptor = descriptor
            if self._dead:
                descriptor.reset()
                return
            self._write_queue(descriptor)
            if self._queue or self.ending is not None:
                self._watch()

    def put(self, frame: bytes) -> bool:
        """Send a frame, now or later; nowhere after `end`. False: the client is too slow, nothing was queued."""
        with self._lock:
            if self.ending is not None or self._dead or not frame:
                return True
            if self._queue and self._bytes + len(frame) > self._max_backlog + self._exempt:
                return False
            self._append(frame)
            return True

    def put_batch(self, frames: Iterable[bytes]) -> None:
        """Send frames in one piece; what waits of them does not count against the limit until all has drained."""
        with self._lock:
            if self.ending is not None or self._dead:
                return
            for frame in frames:
                before = self._bytes
                self._append(frame)
                self._exempt += self._bytes - before
            if not self._queue:
                self._exempt = 0

    def end(self, frame: bytes | None, code: int, reason: str, *, drop: bool = False) -> None:
        """Send the last frame, and accept nothing more. Only the first call counts.

        Args:
            frame: a close frame, or None when the peer is gone.
            code: how it ended. reason: the same in words.
            drop: throw away what waits, except the rest of a frame that is partly sent.
        """
        with self._lock:
            if self.ending is not None:
                return
            self.ending = (code, reason)
            if frame is None:
                self._partly_sent = False
            if drop or frame is None:
                self._drop_queue()
            if frame is not None and not self._dead:
                self._append(frame)
            self.deadline = time.monotonic() + CLOSE_TIMEOUT
            # Without a frame nothing is left to be written, and whoever says so ends the connection at once.
            if self._descriptor is not None and not self._dead and (frame is not None or self._watched):
                self._watch()  # also when it watches already: the deadline is news

    def half_close(self) -> None:
        """Send FIN when all is sent: no more will come, whatever the peer does."""
        with self._lock:
            self._half_close = True
            self._finish_writing()

    def abort(self) -> None:
        """Send nothing more, and cut the connection."""
        with self._lock:
            self._die()

    def release(self) -> None:
        """Cut the connection and give the descriptor back. Idempotent."""
        with self._lock:
            if self._released:
                return
            self._released = True
            if self._descriptor is None:
                return
            if self._queue and not self._dead:
                self._die()
            self._dead = True
            self._drop_queue()
            self._descriptor.end()
            if not self._watched:
                self._descriptor.close()
                return
        self._flusher.watch(self)  # which takes it out of its selector first, then closes it

    # The flusher's side.

    def flush(self) -> bool:
        """Send what the socket takes, up to a fair share. True: more waits."""
        with self._lock:
            if self._descriptor is not None:
                self._write_queue(self._descriptor)
            return bool(self._queue)

    def fileno(self) -> int:
        """The descriptor to watch; it stays open until `let_go`."""
        return -1 if self._descriptor is None else self._descriptor.fileno()

    def let_go(self) -> bool:
        """Whether the flusher is done with us, for now or for good; it must not watch the descriptor any more."""
        with self._lock:
            if self._released:
                if self._descriptor is not None:
                    self._descriptor.close()
            elif self._queue or (self.ending is not None and not self._dead):
                return False
            self._watched = False
            return True

    # Inside of the lock.

    def _append(self, frame: bytes) -> None:
        item: bytes | memoryview = frame
        if not self._queue and self._descriptor is not None:
            sent = self._write(self._descriptor, frame)
            if self._dead or sent == len(frame):
                return
            if sent:
                item, self._partly_sent = memoryview(frame)[sent:], True
            if not self._watched:
                self._watch()
        self._queue_up(item)
        self._bytes += len(item)

    def _queue_up(self, item: bytes | memoryview) -> None:
        if self._queue is _NOTHING:
            self._queue = deque()
        self._queue.append(item)

    def _write_queue(self, descriptor: Descriptor) -> None:
        budget = _TURN
        while self._queue and budget > 0 and not self._dead:
            first = self._queue[0]
            sent = self._write(descriptor, first if len(self._queue) == 1 else list(islice(self._queue, _BATCH)))
            if not sent:
                break
            budget -= sent
            self._forget(sent)
        if not self._queue:
            self._queue = _NOTHING
            self._exempt = 0
            self._finish_writing()

    def _write(self, descriptor: Descriptor, what: bytes | memoryview | list[bytes | memoryview]) -> int:
        try:
            return descriptor.write_many_now(what) if isinstance(what, list) else descriptor.write_now(what)
        except BlockingIOError:
            return 0
        except OSError:  # reset by the peer, time-out of TCP: the reader learns it too
            self._die()
            return 0

    def _forget(self, sent: int) -> None:
        self._bytes -= sent
        while sent:
            first = self._queue[0]
            if sent < len(first):
                self._queue[0], self._partly_sent = memoryview(first)[sent:], True
                return
            self._queue.popleft()
            self._partly_sent = False
            sent -= len(first)

    def _drop_queue(self) -> None:
        rest = self._queue[0] if self._partly_sent and self._queue and not self._dead else None
        self._queue.clear()
        self._bytes = 0
        self._partly_sent = rest is not None
        if rest is not None:
            self._queue_up(rest)
            self._bytes = len(rest)

    def _finish_writing(self) -> None:
        if self._half_close and not self._queue and not self._dead and self._descriptor is not None:
            self._half_close = False
            self._descriptor.end_writing()

    def _die(self) -> None:
        self._dead = True
        self._drop_queue()
        if self._descriptor is not None and not self._released:
            self._descriptor.reset()

    def _watch(self) -> None:
        self._watched = True
        self._flusher.watch(self)
