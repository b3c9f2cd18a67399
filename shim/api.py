"""Publishing: one call for all backends, from any code, sync or async.

What the twins `x` and `ax` mean is decided in helpers that both use; they differ by one `await`.
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from shim.bus.asyncio import AsyncBus
from shim.bus.endpoint import is_memory
from shim.bus.memory import AsyncMemoryBus, MemoryBus
from shim.bus.sync import SyncBus
from shim.conf import Conf, conf
from shim.core.errors import InvalidAudience, shown
from shim.core.history import History
from shim.core.message import Kind, carried
from shim.core.names import Audience, Topic, User
from shim.core.protocol import Close, is_connection_id
from shim.core.wire import Position
from shim.facility import history_of
from shim.visitor import Connection


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is known of a message that Redis has taken.

    `position` is None for a message without history (`size=0`), and for one that waits for a commit.
    """

    position: Position | None = None


class _Ready(NamedTuple):
    topic: Topic
    kind: Kind
    body: bytes
    history: History
    origin: str | None


def _ready(
    facility: str, audience: Audience, message: object, history: History | None, sender: Connection | str | None
) -> _Ready:
    origin, settings_ = _origin(history, sender), conf()
    return _checked(Topic(facility, audience), message, _kept(facility, history, settings_), origin, settings_)


def _many_ready(
    messages: Iterable[Sequence[Any]], history: History | None, sender: Connection | str | None
) -> list[_Ready]:
    origin, settings_ = _origin(history, sender), conf()
    ready: list[_Ready] = []
    topic: Topic | None = None
    kept = settings_.history
    for facility, audience, message in messages:
        if topic is None or topic.audience is not audience or topic.facility != facility:  # neighbours share one
            topic, kept = Topic(facility, audience), _kept(facility, history, settings_)
        ready.append(_checked(topic, message, kept, origin, settings_))
    return ready


def _kept(facility: str, history: History | None, settings_: Conf) -> History:
    return history_of(facility, settings_.history) if history is None else history


def _checked(topic: Topic, message: object, kept: History, origin: str | None, settings_: Conf) -> _Ready:
    kind, body = carried(message, settings_.max_message)
    settings_.wire.check(topic, body)
    return _Ready(topic, kind, body, kept, origin)


def _origin(history: History | None, sender: Connection | str | None) -> str | None:
    if history is not None and not isinstance(history, History):
        raise TypeError(f"history is a History(size, ttl) or None, not {shown(history)}")
    origin = sender.id if isinstance(sender, Connection) else sender
    if origin is not None and not is_connection_id(origin):
        raise TypeError(f"sender is a connection or the id of one, not {shown(sender)}")
    return origin


def _disconnect_message(audience: Audience, code: int) -> dict[str, object]:
    if not isinstance(audience, User):
        raise InvalidAudience(f"disconnect() takes User(name), not {shown(audience)}")
    if type(code) is not int or not 4500 <= code <= 4999:  # 4500.5 would be sent, and passed over by every process
        raise ValueError(f"a disconnect's code is 4500 to 4999, not {code!r}")
    return {"op": "disconnect", "user": audience.name, "code": code}


class Realtime:
    """The publishing half of the API; use the instance `shim.realtime`. Safe from any thread."""

    def publish(
        self,
        facility: str,
        audience: Audience,
        message: object,
        *,
        history: History | None = None,
        on_commit: bool = False,
        sender: Connection | str | None = None,
    ) -> Receipt:
        """Send a message to everyone in an audience of a facility, whichever backend serves them (contract 3).

        Args:
            facility: name of the facility.
            audience: `Everyone()`, `User(name)`, `Group(name)` or `Session(key)`.
            message: text (`str`), binary (`bytes`), anything `json` can carry, or a `Message`.
            history: what is kept of it; None means what the facility says (contract 5.1).
            on_commit: inside a transaction, wait for its commit; rolled back means never sent (contract 4.3). Redis
                failing then is logged by Django, since the transaction can no longer be undone.
            sender: the connection, or its id, whose message this is. It does not get it back where its facility has
                `echo = False`, unless it asked for that (contract 6.5). None: everybody gets it.

        Returns:
            The receipt, with the message's position.

        Raises:
            InvalidAudience, InvalidPayload, MessageTooLarge: cannot be carried; nothing was sent (contract 4.2).
            TypeError: `history` or `sender` is something else.
            RealtimeUnavailable: Redis did not answer within `REALTIME_TIMEOUT` (2 s, contract 7.3).
        """
        ready = _ready(facility, audience, message, history, sender)
        if on_commit and transaction.get_connection().in_atomic_block:
            transaction.on_commit(lambda: _ignore(sync_bus().publish(*ready)), robust=True)
            return Receipt()
        return Receipt(sync_bus().publish(*ready))

    async def apublish(
        self,
        facility: str,
        audience: Audience,
        message: object,
        *,
        history: History | None = None,
        on_commit: bool = False,
        sender: Connection | str | None = None,
    ) -> Receipt:
        """Like `publish`, awaited: the same bytes reach Redis (contract 3.4)."""
        if on_commit:  # a transaction belongs to the thread that sync code runs in
            return await sync_to_async(self.publish)(
                facility, audience, message, history=history, on_commit=True, sender=sender
            )
        ready = _ready(facility, audience, message, history, sender)
        return Receipt(await async_bus().publish(*ready))

    def publish_many(
        self,
        messages: Iterable[tuple[str, Audience, object]],
        *,
        history: History | None = None,
        on_commit: bool = False,
        sender: Connection | str | None = None,
    ) -> list[Receipt]:
        """Send several messages in one round trip, in order. All are checked before any is sent.

        Args:
            messages: tuples of facility, audience, message.
            history, on_commit, sender: as for `publish`, for all of them.

        Returns:
            Their receipts, in the order given.

        Raises:
            InvalidAudience, InvalidPayload, MessageTooLarge: one of them cannot be carried; none was sent.
            RealtimeUnavailable: as for `publish`; the first of them may have been sent.
        """
        ready = _many_ready(messages, history, sender)
        if on_commit and transaction.get_connection().in_atomic_block:
            transaction.on_commit(lambda: _ignore(sync_bus().publish_many(ready)), robust=True)
            return [Receipt() for _ in ready]
        return [Receipt(position) for position in sync_bus().publish_many(ready)]

    async def apublish_many(
        self,
        messages: Iterable[tuple[str, Audience, object]],
        *,
        history: History | None = None,
        on_commit: bool = False,
        sender: Connection | str | None = None,
    ) -> list[Receipt]:
        """Like `publish_many`, awaited."""
        if on_commit:
            return await sync_to_async(self.publish_many)(
                list(messages), history=history, on_commit=True, sender=sender
            )
        ready = _many_ready(messages, history, sender)
        return [Receipt(position) for position in await async_bus().publish_many(ready)]

    def disconnect(self, audience: User, *, code: int = Close.SIGNED_OUT) -> None:
        """End a user's connections everywhere (contract 7.5). Signing out does this by itself.

        Args:
            audience: `User(name)`.
            code: 4500 to 4999: clients stay away.

        Raises:
            InvalidAudience, ValueError: a wrong argument.
            RealtimeUnavailable: as for `publish`.
        """
        sync_bus().control(_disconnect_message(audience, code))

    async def adisconnect(self, audience: User, *, code: int = Close.SIGNED_OUT) -> None:
        """Like `disconnect`, awaited."""
        await async_bus().control(_disconnect_message(audience, code))


realtime = Realtime()
"""The publishing API of this process."""


def _ignore(_: object) -> None:
    """`on_commit` callbacks return nothing."""


def redis_url() -> str:
    """The address of Redis: `REALTIME_REDIS_URL`, or in DEBUG the embedded Valkey, started where it is not running.

    Raises:
        ImproperlyConfigured: neither.
    """
    if (url := conf().redis_url) is not None:
        return url
    if not settings.DEBUG:
        raise ImproperlyConfigured(
            "REALTIME_REDIS_URL is not set; outside DEBUG there is no embedded Valkey. Give redis://host:6379/0"
        )
    from shim.bus.embedded import embedded_url  # noqa: PLC0415  # the wheel is an extra

    return embedded_url(getattr(settings, "BASE_DIR", "."))


class _PerProcess[T]:
    """Something made once in each process, again after a fork and after a change of settings."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[int, object, T] | None = None

    def __call__(self) -> T:
        made, key = self._made, conf()
        if made is not None and made[0] == os.getpid() and made[1] is key:
            return made[2]
        with self._lock:
            made = self._made
            if made is None or made[0] != os.getpid() or made[1] is not key:
                made = self._made = (os.getpid(), key, self._make())
            return made[2]


def _make_sync_bus() -> SyncBus:
    url = redis_url()
    kind = MemoryBus if is_memory(url) else SyncBus
    return kind(url, prefix=conf().prefix, timeout=conf().timeout, wire=conf().wire)


def _make_async_bus() -> AsyncBus:
    url = redis_url()
    kind = AsyncMemoryBus if is_memory(url) else AsyncBus
    return kind(url, prefix=conf().prefix, timeout=conf().timeout, wire=conf().wire)


sync_bus: Callable[[], SyncBus] = _PerProcess(_make_sync_bus)
async_bus: Callable[[], AsyncBus] = _PerProcess(_make_async_bus)
