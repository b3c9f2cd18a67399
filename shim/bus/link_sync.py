"""One sync connection to Redis, and the pool of them. Twin of `shim.bus.link_asyncio`.

redis-py's connections are used, not its clients, pools or PubSub. Those reconnect and retry behind the caller's back,
which doubles a publish (contract 3.1) and loses a subscription unnoticed (contract 7.4), and they cannot keep one
time-out over pool, connect, send and answer together (contract 7.3).
"""

import os
import queue
import socket
from collections.abc import Sequence
from functools import cache
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis
from redis import connection as redis_py
from redis.exceptions import ConnectionError as LinkLost
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as LinkTimeout

from shim.bus.commands import Command
from shim.bus.endpoint import CONNECTION_OPTIONS, is_memory

IDLE_CONNECTION: Final = 60.0  # seconds; what a burst opened is closed again, or a fleet would sit on its peak for ever
GRACE: Final = 0.01  # seconds a call may be late, so that the usual call need not set any socket's time-out

if TYPE_CHECKING:

    class _Connection:
        """What we use of redis-py's connection, most of which has no types."""

        is_connected: bool

        def __init__(self, **settings: Any) -> None: ...
        def connect(self) -> None: ...
        def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None: ...
        def disconnect(self) -> None: ...
        def can_read(self, timeout: float = 0) -> bool: ...
        def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None: ...
        def read_response(self, *, disconnect_on_error: bool = True) -> object: ...
        def update_current_socket_timeout(self, relaxed_timeout: float | None) -> None: ...

else:
    _Connection = object


class Link(_Connection):
    """Mixed into redis-py's connection classes: it connects once, and all of that within a deadline.

    redis-py connects again by itself when somebody sends on, or polls, a connection that has ended. Here the owner
    decides that. redis-py reads its time-outs whenever it is about to wait, so a property can be a deadline.
    """

    deadline = 0.0
    timeout = 0.0
    generation = 0
    used_at = 0.0
    waits_since = inf
    """When `hear` began to wait, on the monotonic clock; inf while nobody waits, and nothing can be expected."""
    _reason: RedisError | None = None
    _is_patient = False
    _is_new = True
    _is_narrowed = False

    @property
    def socket_connect_timeout(self) -> float:
        """Seconds to connect, asked for again for each address that the host name has."""
        return self._left()

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: float | None) -> None:
        """Redis-py sets a default."""

    @property
    def socket_timeout(self) -> float:
        """Seconds for the handshake."""
        return self._left()

    @socket_timeout.setter
    def socket_timeout(self, value: float | None) -> None:
        """Redis-py sets a default."""

    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """Connect, the first time only."""
        if self.is_connected:
            return
        if not self._is_new:
            raise LinkLost("the connection has ended")
        self._is_new = False
        super().connect_check_health(check_health, retry_socket_connect)

    def is_usable(self) -> bool:
        """Whether it can be used again: still open, and nothing unread that would be taken for the next answer."""
        try:
            return self.is_connected and not self.can_read()
        except (RedisError, OSError):
            return False

    def ask(self, commands: Sequence[Command]) -> list[object]:
        """Send commands and return their answers, errors as exceptions, before the deadline.

        Raises:
            RedisError: no connection, or no answer; the connection has ended.
        """
        replies: list[object] = []
        try:
            self._hurry()
            self.send(commands)
            for _ in commands:
                self._hurry()
                try:
                    replies.append(self.read_response())
                except ResponseError as error:
                    replies.append(error)
        except BaseException:
            self.disconnect()  # an answer may still come, and would be taken for that of the next command
            raise
        return replies

    def send(self, commands: Sequence[Command]) -> None:
        """Send commands."""
        pack: Any = hiredis.pack_command  # its stub wants a tuple of one; redis-py's own takes five times as long
        packed = [pack(command) for command in commands]
        if self._is_patient:
            self.update_current_socket_timeout(self.timeout)
        try:
            self.send_packed_command(packed if len(packed) == 1 else [b"".join(packed)], check_health=False)
        finally:
            if self._is_patient:
                self.update_current_socket_timeout(None)

    def be_patient(self) -> None:
        """From now on `hear` waits without a time-out where one is dear; who wants it to end, cuts.

        gevent makes and starts a timer for each wait. Its sockets never block, so there a send can have a time-out
        while another greenlet waits without one. Where sockets do block, that is a race, and a time-out is cheap.
        """
        with socket.socket() as any_socket:
            self._is_patient = not os.get_blocking(any_socket.fileno())
        if self._is_patient:
            self.update_current_socket_timeout(None)

    def hear(self) -> object:
        """The next thing that Redis says; waits for it as long as it takes, or until the connection is cut.

        Raises:
            RedisError: the connection has ended.
        """
        self.waits_since = monotonic()
        try:
            while True:
                try:
                    return self.read_response(disconnect_on_error=False)
                except LinkTimeout:
                    pass
        except RedisError:
            if self._reason is not None:
                raise self._reason from None
            raise
        except Exception as error:  # redis-py trips over itself when another thread closes what it reads
            if self.is_connected:
                raise
            raise self._reason or LinkLost("closed while it was being read") from error
        finally:
            self.waits_since = inf

    def cut(self, reason: RedisError) -> None:
        """End it now, from whatever thread: `hear` raises this."""
        self._reason = reason
        self.disconnect()

    def relax(self) -> None:
        """Let each send and each read take `timeout` seconds again."""
        if self._is_narrowed:
            self._is_narrowed = False
            self.update_current_socket_timeout(self.timeout)

    def _hurry(self) -> None:
        left = self.deadline - monotonic()
        if left < self.timeout - GRACE:
            self._is_narrowed = True
            if left <= 0:
                raise LinkTimeout("no time left")
            self.update_current_socket_timeout(left)

    def _left(self) -> float:
        left = self.deadline - monotonic()
        if left <= 0:
            raise TimeoutError("no time left")  # as a socket says it: for this, redis-py closes the one it was making
        return left


@cache
def _link_class(connection_class: type[Any]) -> type[Any]:
    return type(f"Link{connection_class.__name__}", (Link, connection_class), {})


def dial(url: str, *, timeout: float, deadline: float, **options: Any) -> Link:
    """Make a connection, handshake included.

    Args:
        url: as for `Endpoint`.
        timeout: seconds for each later send or read.
        deadline: when it has to be there, on the monotonic clock.
        options: more of redis-py's.

    Raises:
        RedisError: it could not be made.
    """
    if is_memory(url):
        from shim.bus.memory import SyncMemoryLink  # noqa: PLC0415  # for tests and DEBUG alone

        return cast("Link", SyncMemoryLink(url, timeout))
    settings: dict[str, Any] = {**cast("Any", redis_py).parse_url(url), **CONNECTION_OPTIONS, **options}
    link: Link = _link_class(settings.pop("connection_class", redis_py.Connection))(**settings)
    link.deadline = deadline
    link.timeout = timeout
    try:
        link.connect()
        link.update_current_socket_timeout(timeout)
    except TimeoutError as error:
        link.disconnect()
        raise LinkTimeout("no time left to connect") from error
    except BaseException:
        link.disconnect()
        raise
    return link


class Pool:
    """Connections of one process, most recently used first; the number of connections in use is bounded."""

    def __init__(self, url: str, timeout: float, size: int) -> None:
        self.pid = os.getpid()
        self._url = url
        self._timeout = timeout
        self._size = size
        self._slots: queue.SimpleQueue[None] = queue.SimpleQueue()  # a tenth of what a threading.Semaphore costs
        for _ in range(size):
            self._slots.put(None)
        self._idle: list[Link] = []  # append and pop are atomic
        self._generation = 0

    def take(self, deadline: float) -> Link:
        """A connection that is open, made if need be.

        Raises:
            RedisError: none could be had before the deadline.
        """
        try:
            self._slots.get(timeout=max(0.0, deadline - monotonic()))
        except queue.Empty:
            raise LinkTimeout(f"all {self._size} connections of this process were busy") from None
        try:
            while self._idle:
                try:
                    link = self._idle.pop()
                except IndexError:  # another thread was faster
                    break
                if link.is_usable():
                    link.deadline = deadline
                    return link
                link.disconnect()
            link = dial(self._url, timeout=self._timeout, deadline=deadline)
            link.generation = self._generation
        except BaseException:
            self._slots.put(None)
            raise
        return link

    def give_back(self, link: Link) -> None:
        """The other end of `take`."""
        try:
            if not link.is_connected:
                self.clear()  # whatever ended it, ended the others too; each would cost a caller its time-out
                return
            if link.generation != self._generation:
                link.disconnect()
                return
            link.relax()
            link.used_at = monotonic()
            self._idle.append(link)
            if self._idle[0].used_at < link.used_at - IDLE_CONNECTION:
                self._idle.pop(0).disconnect()
        finally:
            self._slots.put(None)

    def clear(self) -> None:
        """Close what is idle now, and what is in use as soon as it comes back."""
        self._generation += 1
        while self._idle:
            try:
                self._idle.pop().disconnect()
            except IndexError:
                break
