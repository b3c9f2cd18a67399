"""One ASGI process: its hub and node, its Redis subscription, its timers. `legacy_ws4redis/process.py` is its twin.

Six tasks serve all connections of the process: the subscription's reader, the timer, the healer that reads history for
topics with a hole, the one that polls the flag, the one that asks for this process's share of the fleet's moves, and
the keeper of connections' states. Each connection has the task that its server gave it. Everything happens in one event
loop, so the pure core needs no lock.
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final
from weakref import WeakKeyDictionary

from channels_impl.backend import ChannelsBackend
from shim.api import async_bus, redis_url
from shim.bus.asyncio import AsyncSubscription
from shim.bus.moves import announce_command, round_from
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


class Process:
    """What the connections of one process share. For use in its event loop alone."""

    def __init__(self) -> None:
        """Make it; `start` sets it going."""
        self.conf = conf()
        self.bus = async_bus()
        self.hub = hub_for(self.conf.wire, self.conf.prefix, name=secrets.token_hex(8), control=self._told)
        self.node = Node(
            ChannelsBackend.cohort,
            new_state(),
            self.conf.pace,
            now=time.monotonic(),
            random=random.random,
            wake=self._wake,
        )
        self._woken = asyncio.Event()  # the timer is
        self._first_answer = asyncio.Event()
        self._reads: asyncio.Queue[tuple[ReadRequest, ...]] = asyncio.Queue()  # a topic has one read at most in it
        self._announcements: asyncio.Queue[Announcement] = asyncio.Queue()  # one at most
        self._keepings: asyncio.Queue[Keeping] = asyncio.Queue()
        self._is_keeping = True
        self._subscription = AsyncSubscription(
            redis_url(),
            timeout=self.conf.timeout,
            on_up=self._up,
            on_message=self._message,
            on_subscribed=self._confirmed,
            on_down=self._down,
            name="realtime-subscription",
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._visits = 0
        self._flag_due = asyncio.Event()  # the subscription is there again
        self._empty = asyncio.Event()
        self._empty.set()

    async def start(self) -> None:
        """Start the tasks, and learn the flag. Takes `REALTIME_TIMEOUT` at most while Redis does not answer."""
        self._subscription.start()
        await self._learn_flag()
        for name, work in (
            ("timer", self._tick),
            ("healer", self._heal),
            ("flag", self._poll_flag),
            ("moves", self._announce),
            ("keeper", self._keep),
        ):
            self._tasks.append(asyncio.create_task(_forever(work), name=f"realtime-{name}"))
        try:
            await asyncio.wait_for(self._first_answer.wait(), self.conf.timeout)
        except TimeoutError:
            logger.warning("Redis has not answered within %g s: connections will be refused", self.conf.timeout)

    async def drain(self) -> None:
        """Send everybody away within the drain window, and wait until the last handler has finished (contract 9.1).

        From now on the process is not ready, and handshakes are refused. Returns as soon as all have gone; a handler
        that is still busy `GOODBYE_SECONDS` after the window is left to the server's own patience. May be called again.
        """
        readiness.withdraw()
        now = time.monotonic()
        self.node.drain(now)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), self.node.drained_by + GOODBYE_SECONDS - now)

    async def close(self) -> None:
        """End the tasks and the connections to Redis; the ASGI server has closed the clients' before."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._subscription.close()
        await self.bus.close()

    # Connections

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Around all that is done for one handshake, up to the end of `disconnected`: `drain` waits for it."""
        self._visits += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._visits -= 1
            if not self._visits:
                self._empty.set()

    async def subscribe(self, connection: Connection, confirmed: asyncio.Event) -> None:
        """Ask for a connection's topics, and wait until Redis has confirmed them (contract 2.1).

        Raises:
            RealtimeUnavailable: Redis is away, or did not confirm in time.
        """
        if not self.hub.up:
            raise RealtimeUnavailable("Redis is away: no topic can be subscribed")
        self._perform(self.hub.subscribe(connection, connection.topics))
        try:
            await asyncio.wait_for(confirmed.wait(), self.conf.timeout)
        except TimeoutError:
            raise RealtimeUnavailable(f"Redis did not confirm a subscription within {self.conf.timeout:g} s") from None

    def accepted(self, connection: Connection, *, quickly: bool = False) -> list[ConnectionEffect]:
        """The handshake reply has been written; for `quickly` see `Node.opened`."""
        now = time.monotonic()
        self.node.opened(connection, now, quickly=quickly)
        return connection.accepted(now)

    async def read_past(self, connection: Connection, resume: Mapping[str, Position]) -> list[ReadResult]:
        """Read the past of a connection's topics; what they hand on from now on is kept for it (contract 5.2, 5.3).

        In the same round trip it takes over the state of the connection that it continues.

        Raises:
            RealtimeUnavailable: Redis did not answer in time.
        """
        requests = self.hub.begin(connection, resume)
        past, state = await self.bus.join(requests, connection.inherits(self.conf.prefix))
        if state is not None:
            connection.kept.carry(state)
        return past

    def attach(self, connection: Connection, past: Iterable[ReadResult], resume: Mapping[str, Position]) -> None:
        """Hand the past over, then what was kept, then live messages."""
        self._perform(self.hub.attach(connection, past, resume))

    def leave(self, connection: Connection, code: int) -> int | None:
        """Forget a connection. Returns the code for `disconnected`, the first time (contract 6.4)."""
        self.node.closed(connection)
        self._perform(self.hub.unsubscribe(connection))
        return connection.ended(code)

    def keep(self, connection: Connection) -> None:
        """A connection's state has changed, and is to be saved. Does not wait."""
        self._keepings.put_nowait(Keeping(connection, time.monotonic()))

    async def leave_state(self, connection: Connection) -> None:
        """Save the state of a connection that has ended, if its client may come back for it; wait for that."""
        if connection.leaves_state:
            done = asyncio.Event()
            self._keepings.put_nowait(Keeping(connection, time.monotonic(), done=done.set))
            with suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), KEEPING * self.conf.timeout)

    # The bus calls these from its reader task

    def _up(self) -> None:
        self._perform(self.hub.connected())
        self.node.redis_back(time.monotonic())
        self._first_answer.set()

    def _down(self, _: BaseException) -> None:
        self.hub.disconnected()
        self.node.redis_away()
        self._first_answer.set()

    def _confirmed(self, channel: str) -> None:
        self._perform(self.hub.confirmed(channel))
        if channel == control_channel(self.conf.prefix):
            self._flag_due.set()

    def _message(self, channel: str, data: bytes) -> None:
        try:
            self._perform(self.hub.message(channel, data))
        except WireError as error:
            if _complaints.allow("message"):
                logger.warning("passed over something on %s: %s", channel, error)

    def _told(self, data: bytes) -> None:
        """Something was said to all processes."""
        try:
            self._end(self.node.control(data, now := time.monotonic()))
            self._announce_due(now)  # the timer would do it too, and the first move be so much later
        except WireError as error:
            if _complaints.allow("control"):
                logger.warning("passed over a control message: %s", error)

    def _wake(self) -> None:
        """Somebody has to go, and the timer rests."""
        self._woken.set()

    # Tasks

    async def _tick(self) -> None:
        """Heartbeats, moves, drains: one timer for all connections (contract 7.1, 8.5)."""
        retry_at = rest = 0.0
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), rest)
            self._woken.clear()
            now = time.monotonic()
            self._end(self.node.tick(now))
            rest = self.node.rest(now)
            self._announce_due(now)
            if now >= retry_at:
                retry_at = now + RETRY_SECONDS
                self._perform([*self.hub.retry(), *self.hub.check()])

    async def _heal(self) -> None:
        """Read the history of topics that have a hole (contract 7.4)."""
        while True:
            requests = await self._reads.get()
            try:
                results = await self.bus.read_many(requests)
            except RealtimeUnavailable as error:
                logger.warning("history cannot be read, it will be tried again: %s", error)
                for request in requests:
                    self.hub.unhealed(request.channel)
                continue
            for result in results:
                self._perform(self.hub.healed(result))

    async def _poll_flag(self) -> None:
        """Find changes of the flag that nobody pushed (contract 8.2)."""
        while True:
            try:
                await asyncio.wait_for(self._flag_due.wait(), poll_delay(random.random))
            except TimeoutError:
                await self._learn_from_database()
            else:
                self._flag_due.clear()
                await self._learn_from_redis()

    async def _keep(self) -> None:
        """Put connections' states where the next ones find them (contract 8.3)."""
        while True:
            keepings = [await self._keepings.get()]
            while not self._keepings.empty() and len(keepings) < BATCH:
                keepings.append(self._keepings.get_nowait())
            batch, worked = Batch(self.conf.prefix, keepings), False
            try:
                await self.bus.save(batch.saves)
                worked = True
            except RealtimeUnavailable as error:
                if self._is_keeping:
                    logger.warning("connections lose their state when they move, until this works: %s", error)
            finally:
                self._is_keeping = worked
                batch.finished(time.monotonic(), worked=worked)

    async def _announce(self) -> None:
        """Announce moves to the fleet, and take this process's share of them (contract 8.5)."""
        while True:
            said, round = await self._announcements.get(), None
            try:
                round = round_from(await self.bus.execute(*announce_command(self.conf.prefix, said)))
            except RealtimeUnavailable as error:
                if not self.node.is_alone:
                    logger.warning("the fleet's rate is not known, moves go by this process's own: %s", error)
            finally:
                self.node.granted(round, time.monotonic())

    # Inside

    def _announce_due(self, now: float) -> None:
        if (said := self.node.announced(now)) is not None:
            self._announcements.put_nowait(said)

    async def _learn_flag(self) -> None:
        try:
            snapshot = await asyncio.to_thread(stored)
        except RealtimeUnavailable:
            snapshot = None
        if snapshot is not None:
            self.node.flag.pushed(snapshot)
        else:
            await asyncio.to_thread(
                poll, self.node.flag
            )  # no flip: nobody asked a process that was not there where to go

    async def _learn_from_redis(self) -> None:
        """What was pushed while the subscription was down (contract 8.2). Where this fails, the next poll finds it."""
        with suppress(RealtimeUnavailable):
            snapshot = await asyncio.to_thread(stored)
            if snapshot is not None and self.node.flag.pushed(snapshot):
                self.node.flipped(time.monotonic())

    async def _learn_from_database(self) -> None:
        if await asyncio.to_thread(poll, self.node.flag):  # not among the handlers: they may all be slow
            self.node.flipped(time.monotonic())

    def _perform(self, effects: Iterable[Effect]) -> None:
        """Do what the hub asks for, in its order. A write to Redis is buffered, not waited for."""
        for effect in effects:
            match effect:
                case Subscribe(channels):
                    self._subscription.subscribe(channels)
                case Unsubscribe(channels):
                    self._subscription.unsubscribe(channels)
                case Read(requests):
                    self._reads.put_nowait(requests)

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
                        self._keepings.put_nowait(Keeping(connection, time.monotonic(), within))


async def _forever(work: Callable[[], Awaitable[None]]) -> None:
    """A task that must not die unseen: an error is logged, and the work begun again."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("a realtime task failed and is started again")
            await asyncio.sleep(RETRY_SECONDS)


_processes: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[Process]] = WeakKeyDictionary()


async def process() -> Process:
    """This event loop's `Process`, started when first asked for."""
    loop = asyncio.get_running_loop()
    starting = _processes.get(loop)
    if starting is None or (starting.done() and (starting.cancelled() or starting.exception())):
        starting = _processes[loop] = loop.create_task(_started())
    return await asyncio.shield(starting)


def running() -> Process | None:
    """The running event loop's `Process`, if there is one already."""
    starting = _processes.get(asyncio.get_running_loop())
    if starting is None or not starting.done() or starting.cancelled() or starting.exception():
        return None
    return starting.result()


async def _started() -> Process:
    fresh = Process()
    await fresh.start()
    settle()
    return fresh
