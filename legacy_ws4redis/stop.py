"""Stopping a WSGI process: the connections go first, in their own time, then the server (contract 9.1).

Theory of operation. No WSGI server tells an application that it is about to stop: gunicorn waits for its threads and
then cuts them off; uWSGI with gevent waits for its greenlets when it reloads, without a word to them (uWSGI #1098,
#1375), and for nobody when it stops. So the signals by which a server tells its workers are held back: the worker
drains, serves HTTP and refuses handshakes meanwhile, and then gives the signal to the handler that was there before.

* gunicorn: SIGTERM, for a stop and for a reload. The handler is Python's, and can be called. A worker that has served
  its `max_requests`, or has lost its master, is sent no signal; `Worker` shows it.
* uWSGI with gevent: SIGHUP for a reload, SIGINT or SIGTERM for a stop. The handlers are C's: libev's. That of SIGHUP
  is kept (signal(2) returns it) and ends every drain, because it is the patient one: it lets running requests finish.
  A worker that has served its `max-requests` is sent no signal; it accepts nothing any more and waits for its
  connections to go. The count is public.

A handler does as little as one can, because it interrupts anything, and under gevent runs where nothing may wait: it
leaves a mark, and a thread of our own looks for it ten times a second.

Signals belong to the main thread, so `hold` must be called there: when gunicorn loads the application in a worker, and
in the first handshake under uWSGI, where all greenlets are the main thread's. Elsewhere (gunicorn's `--preload` with
threads, uWSGI with threads, runserver) a process stops as its server stops it.
"""

import ctypes
import importlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final, Protocol

from django.core.exceptions import ImproperlyConfigured

from shim.probes import readiness

logger = logging.getLogger("realtime")

LOOK_SECONDS: Final = 0.1


class _Server(Protocol):
    """What there is to know of a server that holds an order to stop back for us."""

    patience: float | None
    """Seconds after which the server kills a process that it has told to stop; None where that is not known."""

    def must_stop(self) -> bool:
        """Whether this process was told to stop."""

    def stop(self) -> None:
        """Have the server stop."""


class _Gunicorn:
    """A server whose handler of SIGTERM is Python's.

    Raises:
        ValueError: this is not the main thread.
    """

    def __init__(self, handler: Callable[[int, FrameType | None], object]) -> None:
        self._handler = handler
        self._worker = getattr(handler, "__self__", None)
        cfg = getattr(self._worker, "cfg", None)
        self.patience: float | None = getattr(cfg, "graceful_timeout", None)
        self._is_told = self._is_over = False
        signal.signal(signal.SIGTERM, self._told)

    def must_stop(self) -> bool:
        if self._is_told or self._worker is None:
            return self._is_told
        parent = os.getppid()
        return not getattr(self._worker, "alive", True) or getattr(self._worker, "ppid", parent) != parent

    def stop(self) -> None:
        self._is_over = True
        os.kill(os.getpid(), signal.SIGTERM)  # a handler runs in the main thread, this may be another

    def _told(self, number: int, frame: FrameType | None) -> None:
        if self._is_over:
            self._handler(number, frame)
        else:
            self._is_told = True
            readiness.withdraw()


class _Uwsgi:
    """uWSGI with gevent.

    Raises:
        ValueError: this is not the main thread.
    """

    def __init__(self, uwsgi: Any) -> None:
        self._uwsgi = uwsgi
        self.patience: float | None = _option(uwsgi, "worker-reload-mercy", 60)
        self._max_requests = _option(uwsgi, "max-requests", 0)
        self._is_told = False
        self._signal: Any = ctypes.CDLL(None).signal
        self._signal.restype = ctypes.c_void_p
        self._signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        try:
            self._patient = self._signal(signal.SIGHUP, None)
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._told)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def must_stop(self) -> bool:
        return self._is_told or self._is_used_up()

    def stop(self) -> None:
        self._signal(signal.SIGHUP, self._patient)
        os.kill(os.getpid(), signal.SIGHUP)

    def _is_used_up(self) -> bool:
        if not self._max_requests:
            return False
        requests: int = self._uwsgi.workers()[self._uwsgi.worker_id() - 1]["delta_requests"]
        return requests >= self._max_requests

    def _told(self, _: int, __: FrameType | None) -> None:
        self._is_told = True
        readiness.withdraw()


_held_pid = 0


def hold(drain: Callable[[], None], longest: Callable[[], float], *, is_loading: bool = False) -> None:
    """Have orders to stop wait until a drain has ended, if this server and this thread allow it. Idempotent.

    Args:
        drain: called in a thread of its own; returns when the server may stop.
        longest: how many seconds a drain may take.
        is_loading: the application is being loaded. That is too early under uWSGI: its gevent loop sets the handlers.
    """
    global _held_pid  # noqa: PLW0603  # one for each process
    if _held_pid == os.getpid():
        return
    try:
        server = _server(is_loading=is_loading)
    except ValueError:
        logger.debug("not in the main thread: this process will stop without a drain")
        return
    if server is not None:
        _held_pid = os.getpid()
        threading.Thread(target=_watch, args=(server, drain, longest), name="realtime-stop", daemon=True).start()


def _server(*, is_loading: bool) -> _Server | None:
    try:
        uwsgi: Any = importlib.import_module("uwsgi")  # exists only inside of uWSGI
    except ImportError:
        handler = signal.getsignal(signal.SIGTERM)
        return _Gunicorn(handler) if callable(handler) else None
    return _Uwsgi(uwsgi) if _option(uwsgi, "gevent", 0) and not is_loading else None


def _option(uwsgi: Any, name: str, default: int) -> int:
    return int(uwsgi.opt.get(name, uwsgi.opt.get(name.encode(), default)))


def _watch(server: _Server, drain: Callable[[], None], longest: Callable[[], float]) -> None:
    with suppress(ImproperlyConfigured):  # the first handshake will say so
        if server.patience is not None and server.patience < longest():
            logger.warning(
                "this server kills a stopping process after %g s, in the middle of its drain: give it %g s"
                " (gunicorn: --graceful-timeout; uWSGI: --worker-reload-mercy), or make REALTIME_PACE['drain'] shorter",
                server.patience,
                longest(),
            )
    while not server.must_stop():
        time.sleep(LOOK_SECONDS)
    try:
        drain()
    except Exception:
        logger.exception("the drain failed: connections are cut off")
    server.stop()
