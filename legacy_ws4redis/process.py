"""One WSGI process: its hub and node, its Redis subscription, its timers. `channels_impl/process.py` is its twin.

Seven threads (greenlets under gevent) serve all connections of the process: the subscription's reader and its watcher,
the timer, the healer that reads history for topics with a hole, the one that polls the flag, the one that asks for this
process's share of the fleet's moves, and the keeper of connections' states. Each connection has the thread that its
server gave it. One lock guards the pure core; nothing that may block is done while it is held.
"""

import logging
import os
import queue
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final

from legacy_ws4redis import stop
from legacy_ws4redis.backend import LegacyBackend
from shim.api import redis_url, sync_bus
from shim.bus.moves import announce_command, round_from
from shim.bus.sync import SyncSubscription
from shim.complaints import Complaints
from shim.conf import conf
from shim.core.connection import Connection, End, Keep, Ping
from shim.core.connection import Effect as ConnectionEffect
from shim.core.errors import RealtimeUnavailable, WireError
from shim.core.fleet import Announcement
from shim.core.history import ReadRequest, ReadResult
from shim.core.hub import Effect, Read, Subscribe, Unsubscribe
from shim.core.kept import BATCH, Batch, Keeping
from shim.core.live import hub_for
from shim.core.names import control_channel
from shim.core.node import Due, Node
from shim.core.wire import Position
from shim.garbage import settle
from shim.probes import readiness
from shim.rollout import new_state, poll, poll_delay, stored

logger = logging.getLogger("realtime")

_complaints = Complaints()

KEEPING: Final = 2  # time-outs for which a state that is to be saved is waited for: others may be in front of it
RETRY_SECONDS: Final = 0.9  # under a second: whenever the timer comes by that looks after heartbeats
GOODBYE_SECONDS: Final = 6.0
"""How long after the drain window somebody may still be here: a client has 5 s to take its close frame and hang up."""

MARGIN_SECONDS: Final = 2.0


class Process:
    """What the connections of one process share. Thread-safe."""

    def __init__(self) -> None:
        """Make it; `start` sets it going."""
        self.conf = conf()
        self.bus = sync_bus()
        self.lock = threading.Lock()
        self.hub = hub_for(self.conf.wire, self.conf.prefix, name=secrets.token_hex(8), control=self._told)
        self.node = Node(
            LegacyBackend.cohort,
            new_state(),
            self.conf.pace,
            now=time.monotonic(),
            random=random.random,
            wake=self._wake,
        )
        self._woken = threading.Event()  # the timer is
        self._first_answer = threading.Event()
        self._reads: queue.SimpleQueue[tuple[ReadRequest, ...]] = queue.SimpleQueue()
        self._announcements: queue.SimpleQueue[Announcement] = queue.SimpleQueue()  # one at most
        self._keepings: queue.SimpleQueue[Keeping] = queue.SimpleQueue()
        self._is_keeping = True
        self._subscription = SyncSubscription(
            redis_url(),
            timeout=self.conf.timeout,
            on_up=self._up,
            on_message=self._message,
            on_subscribed=self._confirmed,
            on_down=self._down,
            name="realtime-subscription",
        )
        self._flag_due = threading.Event()  # the subscription is there again
        self._visits = 0
        self._is_server_held = False
        self._empty = threading.Event()
        self._empty.set()

    def start(self) -> None:
        """Start the threads, and learn the flag. Blocks for `REALTIME_TIMEOUT` at most while Redis does not answer."""
        self._subscription.start()
        self._learn_flag()
        for name, work in (
            ("timer", self._tick),
            ("healer", self._heal),
            ("flag", self._poll_flag),
            ("moves", self._announce),
            ("keeper", self._keep),
        ):
            threading.Thread(target=_forever(work), name=f"realtime-{name}", daemon=True).start()
        self._first_answer.wait(self.conf.timeout)

    def drain(self) -> None:
        """Send everybody away within the drain window, and wait until the last handler has finished (contract 9.1).

        From now on the process is not ready, and handshakes are refused. Returns as soon as all have gone; a handler
        that is still busy `GOODBYE_SECONDS` after the window is left to the server's own patience. May be called again.
        """
        readiness.withdraw()
        now = time.monotonic()
        with self.lock:
            self.node.drain(now)
        self._empty.wait(self.node.drained_by + GOODBYE_SECONDS - now)

    # Connections

    def come(self) -> None:
        """One more visit: a handshake, and all that follows up to the end of `disconnected`. `drain` waits for it."""
        with self.lock:
            self._visits += 1
            self._empty.clear()

    def go(self) -> None:
        """The other end of `come`."""
        with self.lock:
            self._visits -= 1
            if not self._visits:
                self._empty.set()

    def hold_server(self, forget_client: Callable[[], None]) -> None:
        """Keep one request under way for as long as there are visits whose own requests have ended.

        uWSGI lets a worker end when no request is under way (a reload, `max-requests`). One is enough: the first one
        waits here, all others return at once. It may wait for days, and its client may be one of the first to leave.
        """
        with self.lock:
            if self._is_server_held:
                return
            self._is_server_held = True
        forget_client()
        while True:
            self._empty.wait()
            with self.lock:
                if not self._visits:  # else somebody came before this one could see that all had gone
                    self._is_server_held = False
                    return

    def subscribe(self, connection: Connection, confirmed: threading.Event) -> None:
        """Ask for a connection's topics, and wait until Redis has confirmed them (contract 2.1).

        Raises:
            RealtimeUnavailable: Redis is away, or did not confirm in time.
        """
        with self.lock:
            if not self.hub.up:
                raise RealtimeUnavailable("Redis is away: no topic can be subscribed")
            self._perform(self.hub.subscribe(connection, connection.topics))
        if not confirmed.wait(self.conf.timeout):
            raise RealtimeUnavailable(f"Redis did not confirm a subscription within {self.conf.timeout:g} s")

    def accepted(self, connection: Connection, *, quickly: bool = False) -> list[ConnectionEffect]:
        """The handshake reply has been written; for `quickly` see `Node.opened`."""
        now = time.monotonic()
        with self.lock:
            self.node.opened(connection, now, quickly=quickly)
            return connection.accepted(now)

    def read_past(self, connection: Connection, resume: Mapping[str, Position]) -> list[ReadResult]:
        """Read the past of a connection's topics; what they hand on from now on is kept for it (contract 5.2, 5.3).

        In the same round trip it takes over the state of the connection that it continues.

        Raises:
            RealtimeUnavailable: Redis did not answer in time.
        """
        with self.lock:
            requests = self.hub.begin(connection, resume)
        past, state = self.bus.join(requests, connection.inherits(self.conf.prefix))
        if state is not None:
            connection.kept.carry(state)
        return past

    def attach(self, connection: Connection, past: Iterable[ReadResult], resume: Mapping[str, Position]) -> None:
        """Hand the past over, then what was kept, then live messages."""
        with self.lock:
            self._perform(self.hub.attach(connection, past, resume))

    def leave(self, connection: Connection, code: int) -> int | None:
        """Forget a connection. Returns the code for `disconnected`, the first time (contract 6.4)."""
        with self.lock:
            self.node.closed(connection)
            self._perform(self.hub.unsubscribe(connection))
            return connection.ended(code)

    def keep(self, connection: Connection) -> None:
        """A connection's state has changed, and is to be saved. Does not wait."""
        self._keepings.put(Keeping(connection, time.monotonic()))

    def leave_state(self, connection: Connection) -> None:
        """Save the state of a connection that has ended, if its client may come back for it; wait for that."""
        if connection.leaves_state:
            done = threading.Event()
            self._keepings.put(Keeping(connection, time.monotonic(), done=done.set))
            done.wait(KEEPING * self.conf.timeout)

    # The bus calls these from its reader thread

    def _up(self) -> None:
        with self.lock:
            self._perform(self.hub.connected())
            self.node.redis_back(time.monotonic())
        self._first_answer.set()

    def _down(self, _: BaseException) -> None:
        with self.lock:
            self.hub.disconnected()
            self.node.redis_away()
        self._first_answer.set()

    def _confirmed(self, channel: str) -> None:
        with self.lock:
            self._perform(self.hub.confirmed(channel))
        if channel == control_channel(self.conf.prefix):
            self._flag_due.set()

    def _message(self, channel: str, data: bytes) -> None:
        try:
            with self.lock:
                self._perform(self.hub.message(channel, data))
        except WireError as error:
            if _complaints.allow("message"):
                logger.warning("passed over something on %s: %s", channel, error)

    def _told(self, data: bytes) -> None:
        """Something was said to all processes; the lock is held."""
        try:
            self._end(self.node.control(data, now := time.monotonic()))
            self._announce_due(now)  # the timer would do it too, and the first move be so much later
        except WireError as error:
            if _complaints.allow("control"):
                logger.warning("passed over a control message: %s", error)

    def _wake(self) -> None:
        """Somebody has to go, and the timer rests; the lock is held."""
        self._woken.set()

    # Threads

    def _tick(self) -> None:
        """Heartbeats, moves, drains: one timer for all connections (contract 7.1, 8.5)."""
        retry_at = rest = 0.0
        while True:
            self._woken.wait(rest)
            self._woken.clear()
            now = time.monotonic()
            with self.lock:
                due = self.node.tick(now)
                rest = self.node.rest(now)
                self._announce_due(now)
                if now >= retry_at:
                    retry_at = now + RETRY_SECONDS
                    self._perform([*self.hub.retry(), *self.hub.check()])
            self._end(due)

    def _heal(self) -> None:
        """Read the history of topics that have a hole (contract 7.4)."""
        while True:
            requests = self._reads.get()
            try:
                results = self.bus.read_many(requests)
            except RealtimeUnavailable as error:
                logger.warning("history cannot be read, it will be tried again: %s", error)
                with self.lock:
                    for request in requests:
                        self.hub.unhealed(request.channel)
                continue
            with self.lock:
                for result in results:
                    self._perform(self.hub.healed(result))

    def _poll_flag(self) -> None:
        """Find changes of the flag that nobody pushed (contract 8.2)."""
        while True:
            if self._flag_due.wait(poll_delay(random.random)):
                self._flag_due.clear()
                self._learn_from_redis()
            else:
                self._learn_from_database()

    def _keep(self) -> None:
        """Put connections' states where the next ones find them (contract 8.3)."""
        while True:
            keepings = [self._keepings.get()]
            while not self._keepings.empty() and len(keepings) < BATCH:
                keepings.append(self._keepings.get_nowait())
            batch, worked = Batch(self.conf.prefix, keepings), False
            try:
                self.bus.save(batch.saves)
                worked = True
            except RealtimeUnavailable as error:
                if self._is_keeping:
                    logger.warning("connections lose their state when they move, until this works: %s", error)
            finally:
                self._is_keeping = worked
                with self.lock:
                    batch.finished(time.monotonic(), worked=worked)

    def _announce(self) -> None:
        """Announce moves to the fleet, and take this process's share of them (contract 8.5)."""
        while True:
            said, round = self._announcements.get(), None
            try:
                round = round_from(self.bus.execute(*announce_command(self.conf.prefix, said)))
            except RealtimeUnavailable as error:
                if not self.node.is_alone:
                    logger.warning("the fleet's rate is not known, moves go by this process's own: %s", error)
            finally:
                with self.lock:
                    self.node.granted(round, time.monotonic())

    # Inside

    def _announce_due(self, now: float) -> None:
        if (said := self.node.announced(now)) is not None:
            self._announcements.put(said)

    def _learn_flag(self) -> None:
        try:
            snapshot = stored()
        except RealtimeUnavailable:
            snapshot = None
        if snapshot is not None:
            self.node.flag.pushed(snapshot)
        else:
            poll(self.node.flag)  # no flip: nobody asked a process that was not there where to go

    def _learn_from_redis(self) -> None:
        """What was pushed while the subscription was down (contract 8.2). Where this fails, the next poll finds it."""
        with suppress(RealtimeUnavailable):
            snapshot = stored()
            with self.lock:
                if snapshot is not None and self.node.flag.pushed(snapshot):
                    self.node.flipped(time.monotonic())

    def _learn_from_database(self) -> None:
        if poll(self.node.flag):
            with self.lock:
                self.node.flipped(time.monotonic())

    def _perform(self, effects: Iterable[Effect]) -> None:
        """Do what the hub asks for, in its order; the lock is held. A write to Redis is buffered, not waited for."""
        for effect in effects:
            match effect:
                case Subscribe(channels):
                    self._subscription.subscribe(channels)
                case Unsubscribe(channels):
                    self._subscription.unsubscribe(channels)
                case Read(requests):
                    self._reads.put(requests)

    def _end(self, due: Iterable[Due]) -> None:
        """Do what is due on connections: nothing of it blocks."""
        for connection, effects in due:
            for effect in effects:
                match effect:
                    case Ping():
                        connection.sink.ping()
                    case End(code, reason):
                        connection.sink.close(code, reason)
                    case Keep(within):
                        self._keepings.put(Keeping(connection, time.monotonic(), within))


def _forever(work: Callable[[], None]) -> Callable[[], None]:
    """A thread that must not die unseen: an error is logged, and the work begun again."""

    def run() -> None:
        while True:
            try:
                work()
            except Exception:
                logger.exception("a realtime thread failed and is started again")
                time.sleep(RETRY_SECONDS)

    return run


_process: Process | None = None
_process_pid = 0
_process_lock = threading.Lock()


def process() -> Process:
    """This process's `Process`, started when first asked for: after the server has forked."""
    global _process, _process_pid  # one for each process
    if _process is None or _process_pid != os.getpid():
        with _process_lock:
            if _process is None or _process_pid != os.getpid():
                fresh = Process()
                fresh.start()
                _process, _process_pid = fresh, os.getpid()
                stop.hold(drain, longest_drain)
                settle()
    return _process


def drain() -> None:
    """Drain this process, if it has had any connection at all."""
    if _process is not None and _process_pid == os.getpid():
        _process.drain()
    else:
        readiness.withdraw()


def longest_drain() -> float:
    """Seconds that a drain takes at most, and a little more for the server to notice its end."""
    return conf().pace.drain + GOODBYE_SECONDS + MARGIN_SECONDS
