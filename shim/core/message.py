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
        match self.kind, self.value:
            case Kind.TEXT, str(text):
                body = _utf8(text, self.value)
            case Kind.BINARY, bytes(data):
                body = data
            case Kind.JSON, value:
                body = _utf8(_dumped(value), value)
            case _:
                raise InvalidPayload(
                    f"a {self.kind.name} message cannot hold a {type(self.value).__name__}: {shown(self.value)}"
                )
        if len(body) > limit:
            raise MessageTooLarge(
                f"a message of {len(body)} bytes is over the limit of {limit} (REALTIME_MAX_MESSAGE_BYTES): "
                f"send a reference to the data instead: {shown(self.value)}"
            )
        return body


def _dumped(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPayload(f"JSON cannot carry this value ({error}): {shown(value)}") from None


def _utf8(text: str, value: object) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidPayload(f"a lone surrogate cannot be carried as UTF-8: {shown(value)}") from None
