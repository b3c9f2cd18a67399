"""The async driver: a pooled bus for publishing and reading, and one subscription connection.

Its twin is `shim.bus.sync`: same names, same order, so that `diff` is the review.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from time import monotonic
from typing import Final, cast

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as LinkTimeout

from shim.bus.commands import META_TTL, Argument, Command, Exchange, Outgoing, Past, heard, subscriptions
from shim.bus.endpoint import Endpoint, client_name
from shim.bus.link_asyncio import Link, Pool, dial
from shim.bus.ws4redis import commands_for
from shim.core.errors import RealtimeUnavailable
from shim.core.history import History, ReadRequest, ReadResult
from shim.core.kept import Save
from shim.core.message import Kind
from shim.core.names import Topic
from shim.core.pacing import backoff
from shim.core.wire import Position
from shim.core.wires import Wire

MAX_CONNECTIONS: Final = 50
"""Most connections of one bus in one event loop; a publish that finds none free waits for one, within its time-out."""

UNSENT: Final = 8 * 1_048_576  # bytes of SUBSCRIBEs that may wait for Redis; they are text, a million of them is less
CROWD: Final = 64  # messages in a row, after which other tasks get their turn

logger = logging.getLogger(__name__)


class AsyncBus:
    """Publishes to Redis and reads topics' pasts, from async code, in any number of event loops.

    Every call ends within `timeout` seconds (contract 7.3). No command is ever sent twice (contract 3.1). Connections
    belong to an event loop and end with it, so a loop that lives for one call (`async_to_sync`) leaves nothing behind.

    Args:
        url: as for `Endpoint`.
        prefix: first part of all Redis names (`REALTIME_PREFIX`).
        timeout: seconds for one call, waiting for a free connection included.
        meta_ttl: seconds that a topic's epoch and seq outlive its last use.
        wire: how messages travel (`REALTIME_WIRE`); None is our own wire.
        max_connections: most connections in one event loop.

    Raises:
        ValueError: a setting is not one.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        timeout: float = 2.0,
        meta_ttl: float = META_TTL,
        wire: Wire | None = None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self.endpoint = Endpoint.of(url)
        self.timeout = timeout
        self._commands = commands_for(wire, prefix, meta_ttl)
        self._size = max_connections
        self._pools: dict[asyncio.AbstractEventLoop, tuple[Pool, AsyncGenerator[None]]] = {}

    async def publish(
        self, topic: Topic, kind: Kind, body: bytes, history: History, origin: str | None = None
    ) -> Position | None:
        """Publish one message (contract 3, 5.1).

        Args:
            topic: whom it is for.
            kind: the kind of the body.
            body: the carried form, `Message.body`.
            history: how much of the topic is kept.
            origin: the id of the connection that caused it, for the echo rule (contract 6.5).

        Returns:
            Its position, or None without history.

        Raises:
            RealtimeUnavailable: Redis did not take it, or not in time. It may have been sent (contract 7.3).
        """
        return await self._carry("publish", self._commands.publish((topic, kind, body, history, origin)))

    async def publish_many(self, messages: Iterable[Outgoing]) -> list[Position | None]:
        """Publish messages in their order, in one round trip (contract 3.2).

        Returns:
            As `publish`, for each.

        Raises:
            RealtimeUnavailable: Redis did not take all of them, or not in time. Any of them may have been sent.
        """
        return await self._carry("publish_many", self._commands.publish_many(messages))

    async def read_many(self, requests: Iterable[ReadRequest]) -> list[ReadResult]:
        """Answer questions about topics' pasts, in one round trip (contract 5).

        Raises:
            RealtimeUnavailable: Redis did not answer, or not in time.
        """
        return await self._carry("read_many", self._commands.read_many(requests))

    async def join(self, requests: Iterable[ReadRequest], state: str | None) -> Past:
        """Answer questions about topics' pasts and take a connection's state from its key, in one round trip.

        Raises:
            RealtimeUnavailable: Redis did not answer, or not in time. The state may be lost.
        """
        return await self._carry("join", self._commands.join(requests, state))

    async def save(self, saves: Iterable[Save]) -> None:
        """Put states of connections where the next ones find them, in one round trip.

        Raises:
            RealtimeUnavailable: Redis did not take all of them, or not in time.
        """
        await self._carry("save", self._commands.save(saves))

    async def control(self, message: Mapping[str, object]) -> None:
        """Publish a control message to every process.

        Raises:
            RealtimeUnavailable: Redis did not take it, or not in time.
        """
        await self._carry("control", self._commands.control(message))

    async def execute(self, *command: Argument) -> object:
        """Send one command as it is, for what is no topic: the flag's hash.

        Returns:
            The answer as Redis gave it: int, bytes, None, or a list of these.

        Raises:
            RealtimeUnavailable: Redis refused it, or did not answer in time. It may have run.
        """
        return await self._carry("execute", self._commands.execute(command))

    async def ping(self) -> None:
        """Ask whether Redis is there.

        Raises:
            RealtimeUnavailable: it is not, or did not answer in time.
        """
        await self._carry("ping", self._commands.ping())

    async def close(self) -> None:
        """Close the connections of this event loop. The bus can be used again."""
        found = self._pools.get(asyncio.get_running_loop())
        if found is not None:
            await found[1].aclose()

    async def _pool(self) -> Pool:
        loop = asyncio.get_running_loop()
        found = self._pools.get(loop)
        if found is None:
            for other in list(self._pools):
                if other.is_closed():  # by somebody who does not shut down asynchronous generators
                    self._pools.pop(other, None)
            pool = Pool(self.endpoint.url, self.timeout, self._size)
            found = self._pools[loop] = pool, self._until_the_loop_ends(loop, pool)
            await anext(found[1])
        return found[0]

    async def _until_the_loop_ends(self, loop: asyncio.AbstractEventLoop, pool: Pool) -> AsyncGenerator[None]:
        """Whoever ends a loop (`asyncio.run`, asgiref, uvicorn) first closes its asynchronous generators: this one."""
        try:
            yield
        finally:
            self._pools.pop(loop, None)
            pool.clear()
            await asyncio.sleep(0)  # sockets are closed one turn later

    async def _carry[T](self, what: str, exchange: Exchange[T]) -> T:
        try:
            async with asyncio.timeout(self.timeout):
                commands = next(exchange)
                pool = await self._pool()
                link = await pool.take()
                try:
                    while True:
                        commands = exchange.send(await link.ask(commands))
                finally:
                    pool.give_back(link)
        except StopIteration as done:
            return cast("T", done.value)
        except (RedisError, OSError) as error:
            raise self.endpoint.unavailable(what, error, self.timeout) from error
        finally:
            exchange.close()  # one that was not finished may have something to take back


class AsyncSubscription:
    """One subscription connection, kept up by a task of its own. It remembers no channels.

    Whenever a connection is there, for the first time or again, `on_up` is called; the owner then subscribes to all
    that it wants (contract 7.4). All callbacks are plain functions, called in the event loop one at a time, in the
    order of what Redis said; other tasks get their turn in between. After `close` none is called.

    * `on_up` or `on_subscribed` raises: logged, and the connection is made anew, because what is subscribed is unknown.
    * `on_message` raises: logged, and the message is skipped; one bad message must not cut off all others.
    * `on_down` raises: logged.

    Args:
        url: as for `Endpoint`.
        timeout: seconds to connect, for a write, and for the answer to a PING.
        on_up: a connection is there.
        on_message: a message has arrived: channel, data.
        on_subscribed: Redis has confirmed one channel (contract 2.1).
        on_down: the connection, or the first attempt at it, has failed. Once for each outage.
        name: shown in task lists, in logs and in CLIENT LIST.
        idle: seconds of silence after which Redis is asked for a sign of life.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        on_up: Callable[[], None],
        on_message: Callable[[str, bytes], None],
        on_subscribed: Callable[[str], None],
        on_down: Callable[[RealtimeUnavailable], None],
        name: str,
        idle: float = 10.0,
    ) -> None:
        self.endpoint = Endpoint.of(url)
        self.name = name
        self._timeout = timeout
        self._idle = idle
        self._on_up = on_up
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._on_down = on_down
        self._link: Link | None = None
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None
        self._attempt = 0
        self._is_out = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link is not None

    def start(self) -> None:
        """Begin. Returns at once; `on_up` tells when the connection is there.

        Raises:
            RuntimeError: started before, or no event loop is running.
        """
        if self._task is not None:
            raise RuntimeError(f"subscription {self.name!r} was started before; make another one")
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self.name)

    def subscribe(self, channels: Iterable[str]) -> None:
        """Ask for channels; each is confirmed by `on_subscribed`. While down: nothing, `on_up` will come."""
        self._write(list(subscriptions("SUBSCRIBE", channels)))

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Give channels up. While down: nothing."""
        self._write(list(subscriptions("UNSUBSCRIBE", channels)))

    async def close(self) -> None:
        """End: within a time-out, even if Redis hangs. Idempotent."""
        self._is_closing = True
        task = self._task
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task], timeout=self._timeout)

    def _write(self, commands: list[Command]) -> None:
        link = self._link
        if link is None or not commands:
            return
        try:
            link.post(commands)
        except RedisError:
            # The connection has ended; the task sees that, and tells `on_down`.
            logger.debug("Subscription %s: a write failed", self.name, exc_info=True)
        if link.unsent > UNSENT:
            link.cut(LinkTimeout(f"{link.unsent} bytes were not taken"))

    async def _run(self) -> None:
        try:
            while not self._is_closing:
                try:
                    await self._live()
                except (RedisError, OSError) as error:
                    self._fell(error)
                except Exception as error:
                    logger.exception("Subscription %s: the connection is made anew after", self.name)
                    self._fell(error)
                await asyncio.sleep(backoff(self._attempt, base=0.05, cap=2.0, random=random.random))
                self._attempt += 1
        finally:
            if not self._is_closing:
                logger.warning("Subscription %s: its task was ended; nothing is received any more", self.name)

    async def _live(self) -> None:
        """One connection, from its beginning to its end."""
        async with asyncio.timeout(self._timeout):
            link = await dial(self.endpoint.url, client_name=client_name(self.name))
        try:
            self._link = link
            if self._is_out:
                self._is_out = False
                logger.warning("Subscription %s: Redis at %s is back", self.name, self.endpoint.shown)
            self._on_up()
            self._look(link)
            await link.listen(self._take, CROWD)
        finally:
            self._link = None
            link.cut()

    def _look(self, link: Link, asked_at: float = 0.0) -> None:
        """Look after a silent connection, from time to time."""
        if link is not self._link:
            return
        if link.heard_at < asked_at:
            link.cut(LinkTimeout("not even a PING was answered"))
            return
        now = monotonic()
        wait, asked_at = link.heard_at + self._idle - now, 0.0
        if wait <= 0:
            self._write([("PING",)])
            wait, asked_at = self._timeout, now
        asyncio.get_running_loop().call_later(wait, self._look, link, asked_at)

    def _take(self, reply: object) -> None:
        news = heard(reply)
        if news is None or self._is_closing:
            return
        channel, data = news
        if data is None:
            self._on_subscribed(channel)
            self._attempt = 0  # not before: callbacks that fail every time must not restart us at full speed
            return
        try:
            self._on_message(channel, data)
        except Exception:
            logger.exception("Subscription %s: a message on %s was skipped after", self.name, channel)

    def _fell(self, error: Exception) -> None:
        if self._is_closing or self._is_out:
            return
        self._is_out = True
        down = self.endpoint.unavailable(f"subscription {self.name}", error, self._timeout)
        down.__cause__ = error
        logger.warning("%s It is tried again until it works.", down)
        try:
            self._on_down(down)
        except Exception:
            logger.exception("Subscription %s: on_down raised", self.name)
