"""The two client protocols, as text and bytes: what is written to a client, and what a client may say.

*raw* frames carry the bare payload, which is what ws4redis clients speak. *realtime.v1* frames are text frames of one
JSON object each (contract, "`realtime.v1` frames"). A frame for many connections is built once and shared: see
`Delivery`.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import isinf
from typing import Any, Final, TypeGuard

from shim.core.message import Kind, Message
from shim.core.wire import MAX_SEQ, Position, Record

SUBPROTOCOL: Final = "realtime.v1"
MAX_RESUMED_TOPICS: Final = 1_000
MAX_ID_CHARACTERS: Final = 64


_CONNECTION_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_connection_id(value: object) -> TypeGuard[str]:
    """Whether this could be the id of a connection: 1 to 64 ASCII letters, digits, `_` and `-`."""
    return isinstance(value, str) and _CONNECTION_ID.fullmatch(value) is not None


def frame_limit(max_message: int) -> int:
    """The longest frame that a server takes, in bytes: a longest message as base64, and what v1 puts around it."""
    return max_message * 4 // 3 + 4_096


class Protocol(StrEnum):
    """What a client speaks, decided by the subprotocol it offers."""

    RAW = "raw"
    V1 = "v1"

    @classmethod
    def chosen(cls, offered: list[str]) -> "Protocol":
        """The protocol for a client that offers these subprotocols: v1 where it is among them, else raw."""
        return cls.V1 if SUBPROTOCOL in offered else cls.RAW


class Close:
    """Close codes of the contract that the server sends."""

    NORMAL: Final = 1000
    GOING_AWAY: Final = 1001
    BAD_FRAME: Final = 1002
    NO_STATUS: Final = 1005  # never on the wire: the client's close frame was empty
    BAD_UTF8: Final = 1007
    POLICY: Final = 1008
    TOO_BIG: Final = 1009
    HANDLER_FAILED: Final = 1011
    MOVED: Final = 1012
    OVERLOADED: Final = 1013
    TOO_SLOW: Final = 4001
    SILENT: Final = 4002
    NO_HELLO: Final = 4003
    SIGNED_OUT: Final = 4500
    FORBIDDEN: Final = 4503
    ABNORMAL: Final = 1006  # never on the wire: the connection was lost without a close frame


class Frame:
    """One server-to-client data frame, in the forms that the shells need, each made once and then shared."""

    __slots__ = ("_string", "_wire", "data", "text")

    def __init__(self, data: bytes, *, text: bool) -> None:
        self.data = data
        self.text = text
        self._wire: bytes | None = None
        self._string: str | None = None

    def __repr__(self) -> str:
        return f"Frame({self.data[:60]!r}, text={self.text})"

    def __len__(self) -> int:
        return len(self.data)

    @property
    def wire(self) -> bytes:
        """The frame as a server sends it: final, unmasked, with its header (RFC 6455, section 5.2)."""
        if self._wire is None:
            opcode = b"\x81" if self.text else b"\x82"
            size = len(self.data)
            if size < 126:
                header = opcode + size.to_bytes(1)
            elif size < 65_536:
                header = opcode + b"\x7e" + size.to_bytes(2)
            else:
                header = opcode + b"\x7f" + size.to_bytes(8)
            self._wire = header + self.data
        return self._wire

    @property
    def string(self) -> str:
        """The payload of a text frame as `str`, for servers that take no bytes there (ASGI)."""
        if self._string is None:
            self._string = self.data.decode()
        return self._string


class Delivery:
    """One message on its way to the connections of one topic: encoded once for each protocol."""

    __slots__ = ("_label", "_raw", "_skip", "_v1", "record")

    def __init__(self, record: Record, label: bytes) -> None:
        """Take a record, and the topic's label already encoded by `label_json`."""
        self.record = record
        self._label = label
        self._raw: Frame | None = None
        self._v1: Frame | None = None
        self._skip: Frame | None = None

    def frame(self, protocol: Protocol) -> Frame:
        """The frame that carries the message in a protocol."""
        if protocol is Protocol.RAW:
            if self._raw is None:
                self._raw = Frame(self.record.body, text=self.record.kind is not Kind.BINARY)
            return self._raw
        if self._v1 is None:
            self._v1 = _message_frame(self.record.kind, self.record.body, self._label, self.record.position)
        return self._v1

    @property
    def skip(self) -> Frame | None:
        """The frame that stands in the message's place for a v1 sender (contract 6.5); None without a position."""
        position = self.record.position
        if self._skip is None and position is not None:
            self._skip = Frame(b'{"op":"skip","topic":%b,"pos":%b}' % (self._label, _pos_json(position)), text=True)
        return self._skip


def label_json(label: str) -> bytes:
    """A topic's label as JSON, for `Delivery`."""
    return json.dumps(label).encode()


def direct_frame(protocol: Protocol, message: Message, limit: int) -> Frame:
    """The frame of a message that a handler sends to its own connection: it has no topic and no position.

    Raises:
        InvalidPayload, MessageTooLarge: as for a publish (contract 4.2).
    """
    body = message.body(limit)
    if protocol is Protocol.RAW:
        return Frame(body, text=message.kind is not Kind.BINARY)
    return _message_frame(message.kind, body, b"null", None)


def _message_frame(kind: Kind, body: bytes, label: bytes, position: Position | None) -> Frame:
    if kind is Kind.JSON:
        payload = b'"data":' + body  # published JSON is spliced in: nothing is decoded
    elif kind is Kind.TEXT:
        payload = b'"text":' + json.dumps(body.decode(), ensure_ascii=False).encode()
    else:
        payload = b'"b64":"' + b64encode(body) + b'"'
    pos = b"null" if position is None else _pos_json(position)
    return Frame(b'{"op":"msg","topic":%b,"pos":%b,%b}' % (label, pos, payload), text=True)


def _pos_json(position: Position) -> bytes:
    return b'["%b",%d]' % (position.epoch.encode(), position.seq)


def _frame(**fields: object) -> Frame:
    return Frame(json.dumps(fields, separators=(",", ":")).encode(), text=True)


PING_FRAME: Final = _frame(op="ping")
TEXT_HEARTBEAT: Final = "--heartbeat--"
"""The text heartbeat that raw clients can ask for with `?heartbeat` (contract 7.1; ws4redis's usual text)."""


def ready_frame(
    *,
    connection: str,
    backend: str,
    topics: Mapping[str, Position | None],
    recovered: Mapping[str, bool],
    heartbeat: float,
    reconnect: Mapping[str, int],
) -> Frame:
    """`ready`: the connection's topics are subscribed, and this is where each of them stands (contract 2.1)."""
    return _frame(
        op="ready",
        connection=connection,
        backend=backend,
        topics={label: None if position is None else list(position) for label, position in topics.items()},
        recovered=dict(recovered),
        heartbeat=heartbeat,
        reconnect=dict(reconnect),
    )


def ack_frame(id: int | str) -> Frame:
    """`ack`: the handler took the message with this id."""
    return _frame(op="ack", id=id)


def gap_frame(label: str, position: Position) -> Frame:
    """`gap`: messages up to this position may be missing and cannot be had any more (contract 7.4)."""
    return _frame(op="gap", topic=label, pos=list(position))


def move_frame(backend: str, url: str, within: float) -> Frame:
    """`move`: go to another backend within so many seconds; then this connection will be closed (contract 8.3)."""
    return _frame(op="move", backend=backend, url=url, within_ms=round(within * 1000))


def error_frame(code: str, reason: str, id: int | str | None = None) -> Frame:
    """`error`: what the client sent was not taken, and why (contract 6.3)."""
    return _frame(op="error", id=id, code=code, reason=reason)


class Violation(Exception):
    """A client said something that realtime.v1 does not allow (contract 6.3).

    Attributes:
        code: a stable word for programs. reason: a sentence for people. id: the id that the client gave, if any.
    """

    def __init__(self, code: str, reason: str, id: int | str | None = None) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.id = id


@dataclass(frozen=True, slots=True)
class Hello:
    """The client's first frame.

    Attributes:
        resume: the positions it has, by topic label.
        was: id of the connection that this one continues, as the client says.
    """

    resume: Mapping[str, Position] = field(default_factory=dict)
    was: str | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """A message from the client, for the facility's handler."""

    message: Message
    id: int | str | None = None


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a `ping`."""


def parse(text: str) -> Hello | Send | Pong:
    """Read one frame of a realtime.v1 client.

    Raises:
        Violation: not something that v1 allows.
    """
    try:
        fields = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise Violation("bad_json", f"a frame is one JSON object: {error}"[:200]) from None
    if not isinstance(fields, dict):
        raise Violation("bad_frame", f"a frame is one JSON object, not {type(fields).__name__}")
    match fields.get("op"):
        case "hello":
            return Hello(_resume(fields.get("resume")), _was(fields.get("was")))
        case "send":
            return _send(fields, text)
        case "pong":
            return Pong()
        case op:
            raise Violation("unknown_op", f"no such op: {str(op)[:60]!r}", _id(fields))


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if isinf(number):  # no JSON could carry it on (contract 4.2)
        raise ValueError(f"{digits[:20]} is beyond what a number holds")
    return number


def _resume(resume: object) -> dict[str, Position]:
    if resume is None:
        return {}
    if not isinstance(resume, dict) or len(resume) > MAX_RESUMED_TOPICS:
        raise Violation("bad_hello", f"resume is an object of at most {MAX_RESUMED_TOPICS} topics")
    positions = {}
    for label, pair in resume.items():
        match pair:
            case [str(epoch), int(seq)] if not isinstance(seq, bool):
                # A position that cannot be is an honest question with the answer `recovered: false` (contract 5.3).
                possible = 0 <= seq <= MAX_SEQ and len(epoch) <= MAX_ID_CHARACTERS
                positions[label] = Position(epoch, seq) if possible else Position("", 0)
            case _:
                raise Violation("bad_hello", f'a position is ["<epoch>", seq], not {str(pair)[:60]}')
    return positions


def _was(was: object) -> str | None:
    if was is None or is_connection_id(was):
        return was
    raise Violation("bad_hello", f'"was" is the id of a connection, as "ready" told it, not {str(was)[:60]!r}')


def _id(fields: dict[str, Any]) -> int | str | None:
    match fields.get("id"):
        case bool():
            return None
        case int(id) if abs(id) <= MAX_SEQ:
            return id
        case str(id) if len(id) <= MAX_ID_CHARACTERS:
            return id
        case _:
            return None


def _send(fields: dict[str, Any], text: str) -> Send:
    id = _id(fields)
    if id is None and fields.get("id") is not None:
        raise Violation(
            "bad_id", f"an id is a whole number up to 2^53 or a text of up to {MAX_ID_CHARACTERS} characters"
        )
    payloads = [key for key in ("data", "text", "b64") if key in fields]
    if len(payloads) != 1:
        raise Violation("bad_send", 'a send has exactly one of "data", "text" and "b64"', id)
    value = fields[payloads[0]]
    if payloads[0] == "data":
        message = Message(Kind.JSON, value)
    elif not isinstance(value, str):
        raise Violation("bad_send", f'"{payloads[0]}" is a string', id)
    elif payloads[0] == "text":
        message = Message(Kind.TEXT, value)
    else:
        try:
            message = Message(Kind.BINARY, b64decode(value, validate=True))
        except ValueError:
            raise Violation("bad_send", '"b64" is not base64', id) from None
    if "\\ud" in text.lower() and not _encodable(value):  # only an escape can bring a lone surrogate in
        raise Violation("bad_send", "a lone surrogate cannot be carried", id)
    return Send(message, id)


def _encodable(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True
