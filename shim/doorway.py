"""The threads that find out who comes in: a few for each process, fed by one queue.

Theory of operation. Who somebody is costs reading the session, the user and the groups, and before that a database
connection. One handshake at a time is what a request does. In a storm hundreds come at once, so a function may have a
form that serves many (`Doorway.gather`): then a thread takes all that wait for it, and asks the database once. What was
opened for one of them serves the next, too: a thread gives its connections back when nobody has come for a while.

A greenlet that is woken for the first of a storm would find only that one: nobody else runs until it waits, and it
does not wait before the database has answered, if then. So where somebody has just come before, it lets others in
first, as long as they come. Whoever comes alone is served at once.

Real threads would do the opposite: each of them takes the one or two that have just come, and the quicker the machine,
the smaller their batches. So while one thread asks for many, those who come wait for it and are its next batch; another
takes them where that is slow.

Slow handlers keep nobody out, since they run elsewhere; a slow database makes everybody wait their turn and never takes
more connections than there are threads here.
"""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final

from django.db import close_old_connections, connections

THREADS: Final = 4

BATCH: Final = 64
"""Most that are served together: databases limit the values of a query, and the first one waits for the last."""

IDLE_SECONDS: Final = 1.0
"""How long a thread keeps its database connections while nobody comes."""

RUSH_SECONDS: Final = 0.05
"""Who comes so soon after another is probably not the last."""

LULL_SECONDS: Final = 0.002
"""When nobody has come for so long, those who are there are served."""

HOLD_SECONDS: Final = 0.02
"""How long those who come in a rush are waited for at most. CPU time that they use meanwhile has to be used anyway."""

SLOW_SECONDS: Final = 0.05
"""When a thread has asked for so long, another one asks for those who came meanwhile."""

TURN_SECONDS: Final = 10.0
"""How long somebody waits for their turn. What they came for may take longer: that is the caller's own."""

LINE: Final = 1_000
"""Most that wait at a time."""

type Args = tuple[Any, ...]


class Crowded(Exception):
    """Their turn did not come in time, or too many wait: a 503 (contract 1.1). Nothing was called."""


class _Ticket:
    """One who waits: what is to be called, and what came of it."""

    __slots__ = ("_context", "_told", "_turn", "args", "error", "function", "value")

    def __init__(self, function: Callable[..., Any], args: Args, told: Callable[[], None]) -> None:
        self.function = function
        self.args = args
        self._context = copy_context()
        self._told = told
        self._turn = threading.Lock()
        self.value: Any = None
        self.error: BaseException | None = None

    def claim(self) -> bool:
        """Take it, to serve it or to go away with it; whether nobody has before."""
        return self._turn.acquire(blocking=False)

    def serve(self) -> None:
        """Call it."""
        try:
            self.value = self._context.run(self.function, *self.args)
        except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits
            self.error = error
        self._told()

    def give(self, value: Any) -> None:
        """It was served with others."""
        self.value = value
        self._told()

    def result(self) -> Any:
        """What it returned; raises what it raised."""
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None  # its traceback holds this frame
        return self.value


class Doorway:
    """Calls functions in its threads, in the order in which they were asked for. Safe from any thread or event loop."""

    def __init__(self, threads: int = THREADS) -> None:
        """Make one; the threads are started when somebody comes."""
        self._size = threads
        self._lock = threading.Lock()
        self._room: _Room | None = None
        self._gathered: dict[Callable[..., Any], Callable[[Sequence[Args]], Sequence[Any]]] = {}

    def gather(self, function: Callable[..., Any], many: Callable[[Sequence[Args]], Sequence[Any]]) -> None:
        """Say how to serve several that wait for a function: `many` is given their arguments.

        It returns what the function would return, for each in their order. Where it raises, each is served alone.
        """
        self._gathered[function] = many

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call it there, and wait.

        Raises:
            Crowded: its turn did not come.
            Exception: whatever it raises.
        """
        done = threading.Event()
        ticket = _Ticket(function, args, done.set)
        self._enter(ticket)
        if not done.wait(TURN_SECONDS):
            if ticket.claim():
                raise Crowded(f"nobody was free for {TURN_SECONDS:g} s")
            done.wait()
        return ticket.result()

    async def aask(self, function: Callable[..., Any], *args: Any) -> Any:
        """The twin of `ask`, awaited."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def tell() -> None:
            if not done.done():  # cancelled: the client has left
                done.set_result(None)

        def told() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(tell)

        ticket = _Ticket(function, args, told)
        self._enter(ticket)
        await asyncio.wait([done], timeout=TURN_SECONDS)
        if not done.done():
            if ticket.claim():
                raise Crowded(f"nobody was free for {TURN_SECONDS:g} s")
            await done
        return ticket.result()

    def _enter(self, ticket: _Ticket) -> None:
        with self._lock:
            room = self._room
            if room is None or room.pid != os.getpid():  # a fork takes no threads along
                room = self._room = _Room()
            if room.put(ticket, self._size, is_one_of_many=ticket.function in self._gathered):
                self._start(room)

    def _start(self, room: "_Room") -> None:
        name = f"realtime-door-{room.threads}"
        try:
            threading.Thread(target=self._serve, args=(room,), name=name, daemon=True).start()
        except RuntimeError:  # this machine has no thread left
            if not room.lose():
                raise

    def _serve(self, room: "_Room") -> None:
        while True:
            tickets = room.take(self._gathered, IDLE_SECONDS)
            if tickets is None:
                close_old_connections()
                tickets = room.take(self._gathered, None)
                close_old_connections()
            if room.grow(self._size):
                self._start(room)
            self._attend(tickets or [])
            if tickets and tickets[0].function in self._gathered:
                room.finished()
            del tickets
            for connection in connections.all(initialized_only=True):
                if connection.errors_occurred:
                    connection.close_if_unusable_or_obsolete()

    def _attend(self, tickets: list[_Ticket]) -> None:
        if len(tickets) > 1:
            many = self._gathered[tickets[0].function]
            with suppress(Exception):  # what is wrong with one must not be the others' trouble
                for ticket, value in zip(tickets, many([ticket.args for ticket in tickets]), strict=True):
                    ticket.give(value)
                return
        for ticket in tickets:
            ticket.serve()


class _Room:
    """Where the threads of one process wait for those who come."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.threads = 0
        self._changed = threading.Condition()
        self._waiting: deque[_Ticket] = deque()
        self._idle = 0
        self._is_waking = False  # a thread has been woken, or started, and will take what there is
        self._came_at = -RUSH_SECONDS
        self._is_rush = False
        self._asking = 0  # threads that serve those who can be served together
        self._asked_at = 0.0  # since when the last of them does
        self._is_standing_by = False  # a thread waits for them, see `_stand_by`

    def put(self, ticket: _Ticket, size: int, *, is_one_of_many: bool = False) -> bool:
        """Let somebody in. Whether one more thread is to be started, of so many at most."""
        with self._changed:
            if len(self._waiting) >= LINE:
                raise Crowded(f"{LINE} are waiting already")
            self._waiting.append(ticket)
            now = time.monotonic()
            self._is_rush, self._came_at = now - self._came_at < RUSH_SECONDS, now
            if self._is_standing_by and not is_one_of_many:
                self._changed.notify_all()
            if self._is_waking:
                return False
            if self._idle:
                self._wake()
                return False
            return self._grow(size)

    def grow(self, size: int) -> bool:
        """Whether one more thread is to be started for those whom the one that was woken has left: it may take long."""
        with self._changed:
            return bool(self._waiting) and not self._idle and not self._is_waking and self._grow(size)

    def lose(self) -> bool:
        """A thread could not be started. Whether there are others, which will serve all that wait."""
        with self._changed:
            self.threads -= 1
            self._is_waking = False
            return self.threads > 0

    def take(self, together: Any, patience: float | None) -> list[_Ticket] | None:
        """Whoever is next, with those who can be served together; None when nobody has come for so many seconds."""
        with self._changed:
            self._idle += 1
            came = self._changed.wait_for(lambda: self._waiting, patience)
            self._idle -= 1
            if came and not self._is_standing_by:
                self._stand_by(together)
            if self._waiting and self._is_rush and not self._asking and self._waiting[0].function in together:
                self._hold()
            self._is_waking = self._is_standing_by
            if not self._waiting:  # also where another thread was faster
                return [] if came else None
            first = self._next(together)
            tickets = [first]
            if first.function in together:
                self._asking += 1
                self._asked_at = time.monotonic()
                others, self._waiting = self._waiting, deque()
                for ticket in others:
                    is_mate = ticket.function == first.function and len(tickets) < BATCH
                    (tickets if is_mate else self._waiting).append(ticket)
            tickets = [ticket for ticket in tickets if ticket.claim()]
            if not tickets and first.function in together:
                self._asking -= 1
            if self._waiting and self._idle:
                self._wake()
            return tickets

    def finished(self) -> None:
        """Those who were taken together have been served."""
        with self._changed:
            self._asking -= 1

    @property
    def _is_asked(self) -> bool:
        """Whether a thread asks for many just now, and has not done so for long."""
        return self._asking > 0 and time.monotonic() < self._asked_at + SLOW_SECONDS

    def _next(self, together: Any) -> _Ticket:
        """Who is first in the line, of those who are not left to the thread that asks for many."""
        if self._is_asked:
            for place, ticket in enumerate(self._waiting):
                if ticket.function not in together:
                    del self._waiting[place]
                    return ticket
        return self._waiting.popleft()

    def _stand_by(self, together: Any) -> None:
        """Leave who waits to the thread that asks for many, unless that takes long. The lock is let go of."""
        self._is_waking = self._is_standing_by = True
        while self._is_asked and self._waiting and all(ticket.function in together for ticket in self._waiting):
            self._changed.wait(max(0.0, self._asked_at + SLOW_SECONDS - time.monotonic()))
        self._is_standing_by = False

    def _hold(self) -> None:
        """Let others in, as long as they come; nobody else is woken for them meanwhile. The lock is let go of."""
        self._is_waking = True
        until = time.monotonic() + HOLD_SECONDS
        while len(self._waiting) < BATCH and (left := min(until, self._came_at + LULL_SECONDS) - time.monotonic()) > 0:
            self._changed.release()
            try:
                time.sleep(left)  # also lets greenlets go on, and sockets be looked at
            finally:
                self._changed.acquire()

    def _grow(self, size: int) -> bool:
        if self.threads == size:
            return False
        self.threads += 1
        self._is_waking = True
        return True

    def _wake(self) -> None:
        self._is_waking = True
        self._changed.notify()


doorway = Doorway()
"""This process's."""
