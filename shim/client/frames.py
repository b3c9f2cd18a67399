"""`realtime.v1` from the client's side: what the server may say, and what is said to it (contract, "frames").

Written independently of `shim.core.protocol`, on purpose: the client is what tests look through, and a mistake that
both sides share would be invisible. Unknown keys are ignored; an unknown `op` is not v1, which is a versioned name.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shim.core.errors import shown
from shim.core.message import MAX_MESSAGE_BYTES, Kind, Message
from shim.core.wire import MAX_SEQ, Position

_PAYLOADS: Final = {"data": Kind.JSON, "text": Kind.TEXT, "b64": Kind.BINARY}


class FrameError(ValueError):
    """Not a frame that a `realtime.v1` server may send."""


@dataclass(frozen=True, slots=True)
class Received:
    """One message as it came.

    Attributes:
        topic: `everyone`, `user`, `session` or `group:<name>`; None on raw, and for what a handler sends to this
            connection alone.
        position: None on raw, and for a message that is not kept in history.
        message: kind and value.
    """

    topic: str | None
    position: Position | None
    message: Message

    @property
    def kind(self) -> Kind:
        """The message's kind; raw has no JSON frames, so there JSON comes as TEXT (contract 4.1)."""
        return self.message.kind

    @property
    def value(self) -> Any:
        """The message's value: `str`, `bytes`, or what `json` can carry."""
        return self.message.value

    @property
    def text(self) -> str:
        """The value of a text message.

        Raises:
            TypeError: it is of another kind.
        """
        if self.kind is not Kind.TEXT:
            raise self._not("text")
        return str(self.value)

    @property
    def bytes(self) -> bytes:
        """The value of a binary message.

        Raises:
            TypeError: it is of another kind.
        """
        if self.kind is not Kind.BINARY:
            raise self._not("binary")
        return bytes(self.value)

    @property
    def json(self) -> Any:
        """The value of a JSON message, or what a text message holds when read as JSON (raw).

        Raises:
            TypeError: it is binary. ValueError: it is text that is not JSON.
        """
        if self.kind is Kind.BINARY:
            raise self._not("JSON")
        return self.value if self.kind is Kind.JSON else json.loads(self.value)

    def _not(self, wanted: str) -> TypeError:
        return TypeError(f"this is a {self.kind.name} message, not {wanted}; look at .kind: {shown(self.value)}")


@dataclass(frozen=True, slots=True)
class Ready:
    """`ready`: the subscriptions stand. `reconnect` is in milliseconds, as told."""

    connection: str
    backend: str
    topics: Mapping[str, Position | None]
    recovered: Mapping[str, bool]
    heartbeat: float | None
    reconnect: object


@dataclass(frozen=True, slots=True)
class Ack:
    """`ack`: the handler took our message."""

    id: int | str


@dataclass(frozen=True, slots=True)
class Refusal:
    """`error`: something of ours was not taken."""

    id: int | str | None
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ping:
    """`ping`."""


@dataclass(frozen=True, slots=True)
class Skip:
    """`skip`: the message at this position is one of ours, and is not brought (contract 6.5)."""

    topic: str
    position: Position


@dataclass(frozen=True, slots=True)
class Missing:
    """`gap`: what is up to this position will not come."""

    topic: str
    position: Position


@dataclass(frozen=True, slots=True)
class Move:
    """`move`: go to another backend. `within` is in seconds."""

    backend: str
    url: str
    within: float


type Frame = Ready | Received | Skip | Ack | Refusal | Ping | Missing | Move


def parse(data: str | bytes) -> Frame:
    """Read one frame of a `realtime.v1` server.

    Raises:
        FrameError: it is none.
    """
    if isinstance(data, bytes):
        raise FrameError("a binary frame; realtime.v1 has text frames only")
    try:
        fields = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise FrameError("not a JSON object")
    match fields.get("op"):
        case "msg":
            return _message(fields)
        case "ready":
            return _ready(fields)
        case "ack":
            return Ack(_id(fields["id"]) if fields.get("id") is not None else _missing("ack", "id"))
        case "error":
            id = fields.get("id")
            return Refusal(None if id is None else _id(id), _text(fields, "code"), str(fields.get("reason") or ""))
        case "ping":
            return Ping()
        case "skip":
            return Skip(_text(fields, "topic"), _position(fields.get("pos")))
        case "gap":
            return Missing(_text(fields, "topic"), _position(fields.get("pos")))
        case "move":
            return Move(_text(fields, "backend"), _text(fields, "url"), _number(fields.get("within_ms")) / 1000)
        case op:
            raise FrameError(f"no such op: {shown(op)}")


def hello_frame(positions: Mapping[str, Position], was: str | None = None) -> str:
    """`hello`, the first frame: what to resume after (contract 5.3), and which connection this one continues."""
    resume = {topic: [position.epoch, position.seq] for topic, position in positions.items()}
    continued = {} if was is None else {"was": was}
    return json.dumps({"op": "hello", "resume": resume, **continued}, separators=(",", ":"))


def send_frame(id: int, message: Message, limit: int = MAX_MESSAGE_BYTES) -> str:
    """`send`: a message for the facility's handler.

    Raises:
        InvalidPayload, MessageTooLarge: it cannot be carried (contract 4.2).
    """
    body = message.body(limit)
    match message.kind:
        case Kind.JSON:
            payload = f'"data":{body.decode()}'
        case Kind.TEXT:
            payload = f'"text":{json.dumps(body.decode(), ensure_ascii=False)}'
        case Kind.BINARY:
            payload = f'"b64":"{b64encode(body).decode()}"'
    return f'{{"op":"send","id":{id},{payload}}}'


PONG_FRAME: Final = '{"op":"pong"}'


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _missing(op: str, key: str) -> Any:
    raise FrameError(f'"{op}" without "{key}"')


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise FrameError(f'"{fields["op"]}" needs a text "{key}", not {shown(value)}')
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e12:
        raise FrameError(f"not a number of 0 or more: {shown(value)}")
    return float(value)


def _id(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise FrameError(f"not an id: {shown(value)}")
    return value


def _position(value: object) -> Position:
    match value:
        case [str(epoch), int(seq)] if epoch and not isinstance(seq, bool) and 0 <= seq <= MAX_SEQ:
            return Position(epoch, seq)
        case _:
            raise FrameError(f'a position is ["<epoch>", seq], not {shown(value)}')


def _message(fields: Mapping[str, Any]) -> Received:
    payloads = [key for key in _PAYLOADS if key in fields]
    if len(payloads) != 1:
        raise FrameError('a "msg" has exactly one of "data", "text" and "b64"')
    value = fields[payloads[0]]
    kind = _PAYLOADS[payloads[0]]
    if kind is not Kind.JSON and not isinstance(value, str):
        raise FrameError(f'"{payloads[0]}" is a string, not {shown(value)}')
    if kind is Kind.BINARY:
        try:
            value = b64decode(value, validate=True)
        except ValueError:
            raise FrameError(f'"b64" is not base64: {shown(value)}') from None
    if "pos" not in fields:
        raise FrameError('"msg" without "pos"; a message that is not kept says null')
    position = None if fields["pos"] is None else _position(fields["pos"])
    topic = None if fields.get("topic") is None else _text(fields, "topic")
    if topic is None and position is not None:
        raise FrameError('a "msg" with a position belongs to a topic')
    return Received(topic, position, Message(kind, value))


def _ready(fields: Mapping[str, Any]) -> Ready:
    topics = fields.get("topics")
    recovered = fields.get("recovered", {})
    if not isinstance(topics, dict) or not isinstance(recovered, dict):
        raise FrameError('"ready" needs objects "topics" and "recovered"')
    if not all(isinstance(value, bool) for value in recovered.values()):
        raise FrameError(f'"recovered" holds true or false: {shown(recovered)}')
    heartbeat = fields.get("heartbeat")
    return Ready(
        connection=_text(fields, "connection"),
        backend=_text(fields, "backend"),
        topics={topic: None if value is None else _position(value) for topic, value in topics.items()},
        recovered=recovered,
        heartbeat=None if heartbeat is None else _number(heartbeat),
        reconnect=fields.get("reconnect"),
    )
