"""The one thread of a process that writes what clients could not take at once, and cuts those that never will.

Theory of operation. Outboxes with something to do (bytes that wait, or a deadline) are handed over with `watch`, from
any thread; a socket pair wakes the thread. It waits in a selector for sockets that take bytes, and in a heap for
deadlines. It alone touches the selector, so a descriptor is closed only after it left the selector: that is why a
watched outbox leaves the closing to us.

It is plain blocking code: a daemon thread, or a greenlet when gevent has patched `threading` and `selectors`. It is
started by the first `watch`, and belongs to the process that started it: servers load the application first and fork
afterwards, and uWSGI runs none of Python's fork hooks, so the process id is compared instead.

It must not die: an error of one outbox ends that outbox; any other error is logged, and the loop starts again with a
new selector and everything that it knew; and if the thread is gone all the same, the next `watch` starts another.
"""

import contextlib
import heapq
import itertools
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from typing import Final

from legacy_ws4redis.outbox import Outbox

logger = logging.getLogger(__name__)

_PAUSE: Final = 0.1  # seconds after an error of the loop itself (no descriptors left, say), so that it does not spin


class Flusher:
    """Writes backlogs; see the module."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        self._new: deque[Outbox] = deque()
        self._known: set[Outbox] = set()
        self._writing: set[Outbox] = set()  # in the selector
        self._timed: set[Outbox] = set()  # in the heap
        self._deadlines: list[tuple[float, int, Outbox]] = []
        self._count = itertools.count()
        self._sleeping, self._waking = socket.socketpair()
        self._sleeping.setblocking(False)
        self._waking.setblocking(False)

    def watch(self, outbox: Outbox) -> None:
        """Look after an outbox until its `let_go` says that it needs nothing. Thread-safe, returns at once."""
        self._new.append(outbox)
        if self._thread is None or not self._thread.is_alive():
            self._run_thread()
        with contextlib.suppress(BlockingIOError):  # many wake-ups wait already
            self._waking.send(b"\0")

    def _run_thread(self) -> None:
        with self._start:
            if self._thread is None or not self._thread.is_alive():
                if self._thread is not None:
                    logger.error("the thread that writes backlogs was gone; starting another")
                self._thread = threading.Thread(target=self._run, name="realtime-flusher", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                with selectors.DefaultSelector() as selector:
                    self._serve(selector)
            except Exception:
                logger.exception("writing backlogs failed; going on with %d connections", len(self._known))
                time.sleep(_PAUSE)

    def _serve(self, selector: selectors.BaseSelector) -> None:
        self._writing.clear()  # they were in the selector before this one
        selector.register(self._sleeping, selectors.EVENT_READ)
        ready = set(self._known)
        while True:
            while self._new:
                ready.add(self._new.popleft())
            for outbox in ready:
                self._attend(selector, outbox)
            ready = self._wait(selector)

    def _wait(self, selector: selectors.BaseSelector) -> set[Outbox]:
        timeout = max(0.0, self._deadlines[0][0] - time.monotonic()) if self._deadlines else None
        ready: set[Outbox] = set()
        for key, _ in selector.select(timeout):
            if key.data is None:
                self._drain_wakeups()
            else:
                ready.add(key.data)
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            outbox = heapq.heappop(self._deadlines)[2]
            if outbox in self._known:
                outbox.abort()
                ready.add(outbox)
        return ready

    def _attend(self, selector: selectors.BaseSelector, outbox: Outbox) -> None:
        try:
            self._known.add(outbox)
            waits = outbox.flush()
            if waits and outbox not in self._writing:
                selector.register(outbox, selectors.EVENT_WRITE, outbox)
                self._writing.add(outbox)
            elif not waits and outbox in self._writing:
                self._writing.discard(outbox)
                selector.unregister(outbox)
            if not waits and outbox.let_go():
                self._forget(outbox)
            elif outbox.deadline is not None and outbox not in self._timed:
                self._timed.add(outbox)
                heapq.heappush(self._deadlines, (outbox.deadline, next(self._count), outbox))
            elif not waits and outbox.deadline is None:  # bytes came in between
                self.watch(outbox)
        except Exception:
            logger.exception("writing to one connection failed; cutting it")
            self._give_up(selector, outbox)

    def _give_up(self, selector: selectors.BaseSelector, outbox: Outbox) -> None:
        self._writing.discard(outbox)
        with contextlib.suppress(KeyError, ValueError, OSError):  # it was not in there, or is closed
            selector.unregister(outbox)
        outbox.abort()
        outbox.let_go()
        self._forget(outbox)

    def _forget(self, outbox: Outbox) -> None:
        self._known.discard(outbox)
        self._timed.discard(outbox)

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._sleeping.recv(4096):
                pass


_flusher: Flusher | None = None
_making = threading.Lock()


def flusher() -> Flusher:
    """This process's flusher."""
    global _flusher  # noqa: PLW0603  # one for each process
    with _making:
        if _flusher is None or _flusher.pid != os.getpid():
            _flusher = Flusher()
        return _flusher
