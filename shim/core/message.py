"""A message: one of three kinds, and the bytes that carry it (contract 4.1, 4.2)."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

from shim.core.errors import InvalidPayload, MessageTooLarge, shown

MAX_MESSAGE_BYTES: Final = 1_048_576
"""Default of `REALTIME_MAX_MESSAGE_BYTES`: the longest message, in bytes of its carried form."""


class Kind(StrEnum):
    """The kind of a message. The value is its letter on the wire."""

    TEXT = "t"
    BINARY = "b"
    JSON = "j"


@dataclass(frozen=True, slots=True)
class Message:
    """A message as an application sees it: the kind and the value, as they were sent (contract 4.1).

    `value` is a `str` for TEXT, `bytes` for BINARY, and anything `json` can carry for JSON.
    """

    kind: Kind
    value: Any

    @classmethod
    def of(cls, value: object) -> Self:
        """The message that a plain value stands for: `str` is text, bytes-like is binary, the rest is JSON.

        A `Message` is returned as it is; use `Message(Kind.JSON, "text")` for a JSON string.
        """
        match value:
            case cls():
                return value
            case str():
                return cls(Kind.TEXT, value)
            case bytes():
                return cls(Kind.BINARY, value)
            case bytearray() | memoryview():
                return cls(Kind.BINARY, bytes(value))
            case _:
                return cls(Kind.JSON, value)

    @classmethod
    def from_body(cls, kind: Kind, body: bytes) -> Self:
        """The message that a body carries.

        Raises:
            InvalidPayload: the body is not of that kind (bad UTF-8, bad JSON).
        """
        try:
            match kind:
                case Kind.TEXT:
                    return cls(kind, body.decode())
                case Kind.BINARY:
                    return cls(kind, body)
                case Kind.JSON:
                    return cls(kind, json.loads(body))
        except (ValueError, RecursionError) as error:
            raise InvalidPayload(f"not a {kind.name} body: {error}: {shown(body)}") from None

    def body(self, limit: int = MAX_MESSAGE_BYTES) -> bytes:
        """The bytes that carry this message.

        Args:
            limit: the longest body allowed, in bytes (contract 4.2).

        Raises:
            InvalidPayload: not serialisable, NaN or infinity, a lone surrogate, or a value that is not of its kind.
            MessageTooLarge: longer than `limit`.
        """
        return _carried(self.kind, self.value, limit)


def carried(value: object, limit: int) -> tuple[Kind, bytes]:
    """Kind and body of what a plain value stands for: `Message.of(value)`, without making one.

    Raises:
        InvalidPayload, MessageTooLarge: as `Message.body`.
    """
    if isinstance(value, Message):
        return value.kind, value.body(limit)
    if isinstance(value, str):
        return Kind.TEXT, _carried(Kind.TEXT, value, limit)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Kind.BINARY, _carried(Kind.BINARY, bytes(value), limit)
    return Kind.JSON, _carried(Kind.JSON, value, limit)


def _carried(kind: Kind, value: Any, limit: int) -> bytes:
    if kind is Kind.JSON:
        body = _utf8(_dumped(value), value)
    elif kind is Kind.TEXT and isinstance(value, str):
        body = _utf8(value, value)
    elif kind is Kind.BINARY and isinstance(value, bytes):
        body = value
    else:
        raise InvalidPayload(f"a {kind.name} message cannot hold a {type(value).__name__}: {shown(value)}")
    if len(body) > limit:
        raise MessageTooLarge(
            f"a message of {len(body)} bytes is over the limit of {limit} (REALTIME_MAX_MESSAGE_BYTES): "
            f"send a reference to the data instead: {shown(value)}"
        )
    return body


# Made once: `json.dumps` makes one for each call that does not take its defaults, and that costs more than to use it.
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _dumped(value: object) -> str:
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPayload(f"JSON cannot carry this value ({error}): {shown(value)}") from None


def _utf8(text: str, value: object) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidPayload(f"a lone surrogate cannot be carried as UTF-8: {shown(value)}") from None
