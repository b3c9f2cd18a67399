"""Calling a facility's methods: `def` and `async def`, from a backend that blocks and one that awaits (contract 6.1).

`call` serves threads and greenlets, `acall` serves an event loop. Database connections are given back after each
call: a WebSocket lives for hours, and must not hold one while it waits.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from inspect import isawaitable, iscoroutinefunction, isgenerator
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.core.exceptions import PermissionDenied
from django.db import close_old_connections, connections

from shim.core.connection import Connection as CoreConnection
from shim.core.connection import Effect
from shim.core.errors import PublishingClosed
from shim.core.node import Node
from shim.doorway import doorway
from shim.facility import Facility
from shim.greenlet_loops import keep_apart
from shim.visitor import Connection

logger = logging.getLogger("realtime")

THREADS: Final = 8
"""Threads of one ASGI process that run `def` handlers."""

_handlers = ThreadPoolExecutor(THREADS, "realtime-handler")
_INSTANT: Final = frozenset({Facility.audiences, Facility.receive, Facility.disconnected})
"""What a facility inherits does next to nothing: it is just called."""


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a facility's method from a thread or greenlet of its own, and wait for it.

    A coroutine runs on the process's one handler loop. Raises what the method raises.
    """
    if _is_instant(function):
        return function(*args)
    try:
        result = called(function, args)
        return _loop().run(_awaited(result)) if isawaitable(result) else result
    finally:
        for connection in connections.all(initialized_only=True):
            if not connection.in_atomic_block:  # only a test's own transaction can be open here
                connection.close()


def call_at_door(function: Callable[..., Any], *args: Any) -> Any:
    """Like `call`, for what has to be known before a connection is accepted: a `def` runs in the door's threads."""
    if _is_instant(function):
        return function(*args)
    if iscoroutinefunction(function):
        return call(function, *args)
    result = doorway.ask(called, function, args)
    return _loop().run(_awaited(result)) if isawaitable(result) else result


async def acall(function: Callable[..., Any], *args: Any) -> Any:
    """Call a facility's method from an event loop; a `def` runs in a thread. Raises what the method raises."""
    if _is_instant(function):
        return function(*args)
    if iscoroutinefunction(function):
        return await _awaited(function(*args))
    in_thread: Any = sync_to_async(_in_thread, thread_sensitive=False, executor=_handlers)
    result = await in_thread(function, *args)
    return await _awaited(result) if isawaitable(result) else result


async def acall_at_door(function: Callable[..., Any], *args: Any) -> Any:
    """The twin of `call_at_door`, awaited."""
    if _is_instant(function):
        return function(*args)
    if iscoroutinefunction(function):
        return await _awaited(function(*args))
    result = await doorway.aask(called, function, args)
    return await _awaited(result) if isawaitable(result) else result


def settled(
    error: Exception | None, id: int | str | None, core: CoreConnection, visitor: Connection, node: Node, now: float
) -> list[Effect]:
    """What follows from the end of a facility's `receive`: an ack, a refusal, or the end (contract 6.2, 6.3)."""
    if error is None:
        core.handled(id)
        return []
    if isinstance(error, (PermissionDenied, PublishingClosed)):
        return core.refused(id, str(error)[:120] or "not allowed", now)
    log_failure("receive", error, core, visitor, node)
    return core.failed()


def log_failure(method: str, error: Exception, core: CoreConnection, visitor: Connection, node: Node) -> None:
    """Log a handler's error once, with all that tells whose it is (contract 6.2)."""
    logger.error(
        "%s.%s() failed: connection=%s user=%r topics=%r backend=%s cohort=%s",
        core.facility,
        method,
        core.id,
        visitor.identity.user_name,
        ",".join(topic.label for topic in core.topics),
        core.backend,
        node.flag.cohort(core.subject),
        exc_info=error,
    )


def _is_instant(function: Callable[..., Any]) -> bool:
    return getattr(function, "__func__", None) in _INSTANT


def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    close_old_connections()
    try:
        return called(function, args)
    finally:
        close_old_connections()


def called(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call a facility's method in this very thread; the caller awaits what an `async def` gives."""
    result = function(*args)
    return (
        tuple(result) if isgenerator(result) else result
    )  # its body may block: it runs here too, not where it is read


async def _awaited[T](awaitable: Awaitable[T]) -> T:
    try:
        return await awaitable
    finally:
        _giving_back.ask()


class _GivingBack:
    """Closes old connections where async code's ORM runs: in asgiref's one thread.

    Nobody else does it there, and a connection that broke would stay broken for ever. It is not waited for: that thread
    may be busy with somebody's slow query. However many ask, one is on its way at most, and one more after it.
    """

    def __init__(self) -> None:
        self._is_wanted = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        self._is_wanted = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._is_wanted:
            self._is_wanted = False
            await sync_to_async(close_old_connections)()


_giving_back = _GivingBack()  # for the one event loop of a process that runs handlers


class _HandlerLoop:
    """An event loop in a thread of its own, or a greenlet of its own where threads are patched."""

    def __init__(self) -> None:
        self._loop = asyncio.SelectorEventLoop()  # no policy may make it one that gevent cannot see into
        threading.Thread(target=self._run, name="realtime-handler-loop", daemon=True).start()

    def run[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _run(self) -> None:
        keep_apart()
        self._loop.run_forever()


_handler_loop: _HandlerLoop | None = None
_handler_loop_lock = threading.Lock()


def _loop() -> _HandlerLoop:
    # Made on first use, which is after the fork: no server runs handlers in its parent process.
    global _handler_loop  # noqa: PLW0603  # one for each process
    with _handler_loop_lock:
        if _handler_loop is None:
            _handler_loop = _HandlerLoop()
        return _handler_loop
