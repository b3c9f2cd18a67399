"""The sync driver: a pooled bus for publishing and reading, and one subscription connection.

Its twin is `shim.bus.asyncio`: same names, same order, so that `diff` is the review. Works with threads and, under
monkey patching, with greenlets; it imports neither gevent nor asyncio.
"""

import logging
import os
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Final, cast

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as LinkTimeout

from shim.bus.commands import META_TTL, Argument, Command, Exchange, Outgoing, Past, heard, subscriptions
from shim.bus.endpoint import Endpoint, client_name
from shim.bus.link_sync import Link, Pool, dial
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
"""Most connections of one bus in one process; a publish that finds none free waits for one, within its time-out."""

logger = logging.getLogger(__name__)


class SyncBus:
    """Publishes to Redis and reads topics' pasts, from sync code. Thread-safe, greenlet-safe, fork-safe.

    Every call ends within `timeout` seconds (contract 7.3), but for looking up a host name, which Python cannot limit.
    No command is ever sent twice (contract 3.1).

    Args:
        url: as for `Endpoint`.
        prefix: first part of all Redis names (`REALTIME_PREFIX`).
        timeout: seconds for one call, waiting for a free connection included.
        meta_ttl: seconds that a topic's epoch and seq outlive its last use.
        wire: how messages travel (`REALTIME_WIRE`); None is our own wire.
        max_connections: most connections in this process.

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
        self._own_pool = Pool(url, timeout, max_connections)

    def publish(
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
        return self._carry("publish", self._commands.publish((topic, kind, body, history, origin)))

    def publish_many(self, messages: Iterable[Outgoing]) -> list[Position | None]:
        """Publish messages in their order, in one round trip (contract 3.2).

        Returns:
            As `publish`, for each.

        Raises:
            RealtimeUnavailable: Redis did not take all of them, or not in time. Any of them may have been sent.
        """
        return self._carry("publish_many", self._commands.publish_many(messages))

    def read_many(self, requests: Iterable[ReadRequest]) -> list[ReadResult]:
        """Answer questions about topics' pasts, in one round trip (contract 5).

        Raises:
            RealtimeUnavailable: Redis did not answer, or not in time.
        """
        return self._carry("read_many", self._commands.read_many(requests))

    def join(self, requests: Iterable[ReadRequest], state: str | None) -> Past:
        """Answer questions about topics' pasts and take a connection's state from its key, in one round trip.

        Raises:
            RealtimeUnavailable: Redis did not answer, or not in time. The state may be lost.
        """
        return self._carry("join", self._commands.join(requests, state))

    def save(self, saves: Iterable[Save]) -> None:
        """Put states of connections where the next ones find them, in one round trip.

        Raises:
            RealtimeUnavailable: Redis did not take all of them, or not in time.
        """
        self._carry("save", self._commands.save(saves))

    def control(self, message: Mapping[str, object]) -> None:
        """Publish a control message to every process.

        Raises:
            RealtimeUnavailable: Redis did not take it, or not in time.
        """
        self._carry("control", self._commands.control(message))

    def execute(self, *command: Argument) -> object:
        """Send one command as it is, for what is no topic: the flag's hash.

        Returns:
            The answer as Redis gave it: int, bytes, None, or a list of these.

        Raises:
            RealtimeUnavailable: Redis refused it, or did not answer in time. It may have run.
        """
        return self._carry("execute", self._commands.execute(command))

    def ping(self) -> None:
        """Ask whether Redis is there.

        Raises:
            RealtimeUnavailable: it is not, or did not answer in time.
        """
        self._carry("ping", self._commands.ping())

    def close(self) -> None:
        """Close the connections. The bus can be used again."""
        self._own_pool.clear()

    def _pool(self) -> Pool:
        pool = self._own_pool
        if pool.pid != os.getpid():  # forked: not a hook, because uWSGI forks without telling Python
            pool = self._own_pool = Pool(self.endpoint.url, self.timeout, self._size)
        return pool

    def _carry[T](self, what: str, exchange: Exchange[T]) -> T:
        deadline = monotonic() + self.timeout
        try:
            commands = next(exchange)
            pool = self._pool()
            link = pool.take(deadline)
            try:
                while True:
                    commands = exchange.send(link.ask(commands))
            finally:
                pool.give_back(link)
        except StopIteration as done:
            return cast("T", done.value)
        except RedisError as error:
            raise self.endpoint.unavailable(what, error, self.timeout) from error
        finally:
            exchange.close()  # one that was not finished may have something to take back


class SyncSubscription:
    """One subscription connection, kept up by two threads of its own. It remembers no channels.

    Whenever a connection is there, for the first time or again, `on_up` is called; the owner then subscribes to all
    that it wants (contract 7.4). All callbacks are called in one thread, one at a time, in the order of what Redis
    said; a callback that takes long delays the next one, nothing else. After `close` none is called.

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
        name: shown in thread lists, in logs and in CLIENT LIST.
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
        self._lock = threading.Lock()  # one writer at a time
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._attempt = 0
        self._is_out = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link is not None

    def start(self) -> None:
        """Begin. Returns at once; `on_up` tells when the connection is there.

        Raises:
            RuntimeError: started before.
        """
        if self._thread is not None:
            raise RuntimeError(f"subscription {self.name!r} was started before; make another one")
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def subscribe(self, channels: Iterable[str]) -> None:
        """Ask for channels; each is confirmed by `on_subscribed`. While down: nothing, `on_up` will come."""
        self._write(list(subscriptions("SUBSCRIBE", channels)))

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Give channels up. While down: nothing."""
        self._write(list(subscriptions("UNSUBSCRIBE", channels)))

    def close(self) -> None:
        """End: within two time-outs, even if Redis hangs. Idempotent; may be called by a callback."""
        self._closing.set()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        self._write([("PING",)])  # the answer wakes the thread
        thread.join(self._timeout)
        link = self._link
        if thread.is_alive() and link is not None:
            link.disconnect()
            thread.join(self._timeout)
        if thread.is_alive():
            logger.error("Subscription %s: a callback does not return, its thread is left behind", self.name)

    def _write(self, commands: list[Command]) -> None:
        with self._lock:
            link = self._link
            if link is None or not commands:
                return
            try:
                link.send(commands)
            except RedisError:
                # The connection has ended by this; the thread sees that, and tells `on_down`.
                logger.debug("Subscription %s: a write failed", self.name, exc_info=True)

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                try:
                    self._live()
                except RedisError as error:
                    self._fell(error)
                except Exception as error:
                    logger.exception("Subscription %s: the connection is made anew after", self.name)
                    self._fell(error)
                self._closing.wait(backoff(self._attempt, base=0.05, cap=2.0, random=random.random))
                self._attempt += 1
        finally:
            if not self._closing.is_set():
                logger.critical("Subscription %s: its thread was ended; nothing is received any more", self.name)

    def _live(self) -> None:
        """One connection, from its beginning to its end."""
        gone = threading.Event()
        link = dial(
            self.endpoint.url,
            timeout=self._timeout,
            deadline=monotonic() + self._timeout,
            client_name=client_name(self.name),
        )
        try:
            self._link = link
            if self._is_out:
                self._is_out = False
                logger.warning("Subscription %s: Redis at %s is back", self.name, self.endpoint.shown)
            if not self._closing.is_set():
                self._on_up()
            link.be_patient()
            threading.Thread(target=self._look, args=(link, gone), name=f"{self.name}-watch", daemon=True).start()
            while not self._closing.is_set():
                self._take(link.hear())
        finally:
            gone.set()
            with self._lock:
                self._link = None
            link.disconnect()

    def _look(self, link: Link, gone: threading.Event) -> None:
        """Look after a silent connection, from time to time: a thread of its own, as long as the connection lasts."""
        wait, asked_at = self._idle, 0.0
        while not gone.wait(wait):
            since = link.waits_since
            if since < asked_at:
                link.cut(LinkTimeout("not even a PING was answered"))
                return
            now = monotonic()
            wait, asked_at = min(since + self._idle - now, self._idle), 0.0
            if wait <= 0:
                self._write([("PING",)])
                wait, asked_at = self._timeout, now

    def _take(self, reply: object) -> None:
        news = heard(reply)
        if news is None or self._closing.is_set():
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
        if self._closing.is_set() or self._is_out:
            return
        self._is_out = True
        down = self.endpoint.unavailable(f"subscription {self.name}", error, self._timeout)
        down.__cause__ = error
        logger.warning("%s It is tried again until it works.", down)
        try:
            self._on_down(down)
        except Exception:
            logger.exception("Subscription %s: on_down raised", self.name)
