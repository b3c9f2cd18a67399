"""ws4redis's message: bytes that application code makes, publishes and receives."""

from typing import Any, Self

from shim.conf import conf
from shim.core.errors import InvalidPayload, shown
from shim.core.message import Kind, Message
from shim.ws4redis.settings import ws4redis


class RedisMessage(bytes):
    """A message; making one of a heartbeat, or of what is no message, gives None.

    Bytes that are UTF-8 are a text, as they always were, since applications encode their JSON themselves. Other bytes
    are binary; ws4redis sent them as a broken text (contract 4.1).

    Args:
        value: `str`, `bytes` or another `RedisMessage`; or what a Redis subscription gives: `[b"message", channel,
            payload]`. Anything else, None too, is no message.

    Raises:
        InvalidPayload: a lone surrogate.
    """

    kind: Kind

    def __new__(cls, value: object) -> Any:  # None is not an instance, and yet what ws4redis gives
        """Make one, or None."""
        if isinstance(value, RedisMessage):
            return cls._of(bytes(value), value.kind)
        if isinstance(value, (list, tuple)):
            value = value[2] if len(value) > 2 and value[0] in (b"message", "message") else None
        if isinstance(value, str):
            try:
                value = value.encode()
            except UnicodeEncodeError:
                raise InvalidPayload(f"a lone surrogate cannot be carried as UTF-8: {shown(value)}") from None
        if not isinstance(value, (bytes, bytearray, memoryview)):
            return None
        body = bytes(value)
        heartbeat = ws4redis().heartbeat
        return None if heartbeat is not None and body == heartbeat.encode() else cls._of(body, _kind(body))

    @classmethod
    def received(cls, message: Message) -> Self | None:
        """What a client sent, its kind kept; None for a heartbeat."""
        found: Self | None = cls(message.body(conf().max_message))
        if found is not None:
            found.kind = message.kind
        return found

    @property
    def message(self) -> Message:
        """The message as realtime shim publishes it."""
        return Message.from_body(self.kind, bytes(self))

    @classmethod
    def _of(cls, body: bytes, kind: Kind) -> Self:
        made = super().__new__(cls, body)
        made.kind = kind
        return made


def _kind(body: bytes) -> Kind:
    try:
        body.decode()
    except UnicodeDecodeError:
        return Kind.BINARY
    return Kind.TEXT
