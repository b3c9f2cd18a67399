"""ws4redis's subscriber: one for each connection to a compatible facility. Applications replace it by their own.

What a class of their own may say, on both backends:

* `subscription_channels`, `publish_channels`: the words that a client may use;
* `set_pubsub_channels`: what it subscribes to, and where it publishes, before the connection is accepted;
* `publish_message`: what happens with what the client sends;
* `release`: what happens when the connection has ended.

Messages reach a client by themselves, so `parse_response`, `get_file_descriptor` and `send_persisted_messages` are not
called any more (check `realtime.W011`).
"""

from typing import Any, ClassVar, Final, NoReturn

from shim.conf import conf
from shim.ws4redis.connection import Subscription
from shim.ws4redis.store import SELF, RedisStore

UNUSED: Final = ("parse_response", "get_file_descriptor", "send_persisted_messages", "send_persited_messages")
"""Methods that nothing calls."""


class RedisSubscriber(RedisStore):
    """Says what one connection listens to, and publishes what it sends.

    Args:
        connection: a `StoreConnection`.

    Attributes:
        subscription_channels, publish_channels: words of the query that a client may use.
    """

    subscription_channels: ClassVar[list[str]] = [
        "subscribe-session",
        "subscribe-group",
        "subscribe-user",
        "subscribe-broadcast",
    ]
    publish_channels: ClassVar[list[str]] = ["publish-session", "publish-group", "publish-user", "publish-broadcast"]

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._subscription: Subscription | None = None

    def set_pubsub_channels(self, request: Any, channels: Any) -> None:
        """Say where to publish and what to subscribe to.

        Args:
            request: the handshake, as Django sees a request.
            channels: the words that are allowed.

        Raises:
            PermissionDenied: refuse this connection (403, contract 1.1).
        """
        facility = request.path_info.removeprefix(conf().ws_path)
        self._publishers = set(self._channels("publish", request, facility, channels))
        subscription = self._subscription = self._connection.pubsub()
        for channel in self._channels("subscribe", request, facility, channels):
            subscription.subscribe(channel)

    def release(self) -> None:
        """Let go of what was subscribed; called once, when an accepted connection has ended."""
        if self._subscription is not None and self._subscription.subscribed:
            self._subscription.unsubscribe()
            self._subscription.reset()

    def send_persisted_messages(self, websocket: object) -> None:
        """Do nothing: a connection gets its last messages by itself (contract 5.2)."""

    send_persited_messages = send_persisted_messages

    def get_file_descriptor(self) -> None:
        """None: a process has one subscription for all its connections."""
        return

    def parse_response(self) -> NoReturn:
        """Raise `NotImplementedError`: messages do not come this way any more."""
        raise NotImplementedError("messages reach a client by themselves: nothing has to be read from Redis")

    def _channels(self, verb: str, request: Any, facility: str, words: Any) -> list[str]:
        mine = [SELF]
        return self._get_message_channels(
            request=request,
            facility=facility,
            broadcast=f"{verb}-broadcast" in words,
            groups=mine if f"{verb}-group" in words else [],
            users=mine if f"{verb}-user" in words else [],
            sessions=mine if f"{verb}-session" in words else [],
        )
