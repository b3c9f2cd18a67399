"""What `_connection` is in a store: ws4redis's connection to Redis, as far as application code has seen it."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final, NoReturn

from shim.api import realtime, sync_bus
from shim.conf import conf
from shim.core.history import MAX_TTL, History, ReadRequest, Want
from shim.core.names import Topic
from shim.facility import history_of
from shim.visitor import Connection
from shim.ws4redis.channel import topic_of
from shim.ws4redis.message import RedisMessage
from shim.ws4redis.settings import ws4redis

type Expire = float | timedelta

_OFFERED: Final = "publish, get and pubsub"


def prefix() -> str:
    """What the old names of channels begin with: `WS4REDIS_PREFIX` and a colon, or nothing."""
    return f"{ws4redis().prefix}:" if ws4redis().prefix else ""


class StoreConnection:
    """Publishes, reads last messages, and notes what a subscriber subscribes to. It has no socket of its own.

    Args:
        sender: the WebSocket connection in whose name it publishes (contract 6.5).
    """

    def __init__(self, sender: Connection | None = None) -> None:
        self._sender = sender
        self._subscriptions: list[Subscription] = []

    def send(self, channels: Iterable[str], message: RedisMessage, expire: Expire) -> None:
        """Publish a message on some channels, in one round trip.

        Args:
            expire: seconds for which it is kept as the last message; not over 0 keeps nothing (contract 5.1).

        Raises:
            InvalidAudience, InvalidPayload, MessageTooLarge: it cannot be carried; nothing was sent (contract 4.2).
            RealtimeUnavailable: Redis did not take it in time (contract 7.3).
        """
        topics = [topic_of(channel, prefix()) for channel in sorted(channels)]
        if topics:
            kept = history(topics[0].facility, expire)
            messages = [(topic.facility, topic.audience, message.message) for topic in topics]
            realtime.publish_many(messages, history=kept, sender=self._sender)

    def last(self, topics: Iterable[Topic]) -> bytes | None:
        """The first last message that some topics have; empty ones do not count.

        Raises:
            RealtimeUnavailable: as for `send`.
        """
        requests = [ReadRequest(conf().wire.channel(topic), Want.LAST) for topic in topics]
        for result in sync_bus().read_many(requests) if requests else ():
            if result.records and result.records[-1].body:
                return result.records[-1].body
        return None

    # What redis-py's client is called for

    def publish(self, channel: str, message: bytes) -> int:
        """Publish, and keep nothing. Returns 0: how many listen is not known."""
        wanted: RedisMessage | None = RedisMessage(message)
        if wanted is not None:
            self.send((channel,), wanted, 0)
        return 0

    def get(self, channel: str) -> bytes | None:
        """The last message of a channel."""
        return self.last([topic_of(channel, prefix())])

    def pubsub(self, **_: object) -> "Subscription":
        """A subscription; a subscriber's one is read once, when its connection opens."""
        self._subscriptions.append(Subscription())
        return self._subscriptions[-1]

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"ws4redis's connection to Redis is no more, so it has no {name!r}: what is left of it is {_OFFERED}. "
            "For other things that you keep on Redis open a connection of your own"
        )

    @property
    def topics(self) -> tuple[Topic, ...]:
        """What was subscribed to, in order, each topic once."""
        channels = [channel for subscription in self._subscriptions for channel in subscription.channels]
        return tuple(dict.fromkeys(topic_of(channel, prefix()) for channel in channels))


class Subscription:
    """What `pubsub()` of a store's connection gives: it notes channels. Messages do not come this way any more."""

    def __init__(self) -> None:
        self.channels: dict[str, None] = {}

    @property
    def subscribed(self) -> bool:
        """Whether there is a channel."""
        return bool(self.channels)

    def subscribe(self, *channels: str | bytes, **_: Any) -> None:
        """Note channels."""
        self.channels.update(dict.fromkeys(_text(channel) for channel in channels))

    def unsubscribe(self, *channels: str | bytes) -> None:
        """Forget channels; all, where none is named."""
        for channel in channels or list(self.channels):
            self.channels.pop(_text(channel), None)

    def reset(self) -> None:
        """Forget all channels."""
        self.channels.clear()

    close = reset


def history(facility: str, expire: Expire) -> History:
    """What is kept of a message with ws4redis's `expire`: at least that message, for so long (contract 5.1, 5.2)."""
    seconds = expire.total_seconds() if isinstance(expire, timedelta) else float(expire)
    if seconds <= 0:
        return History(size=0)
    size = max(1, history_of(facility, conf().history).size)
    return History(size, min(max(seconds, 0.001), MAX_TTL))


def _text(channel: str | bytes) -> str:
    return channel.decode() if isinstance(channel, bytes) else channel
