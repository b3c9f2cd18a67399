"""What happens to a client besides messages: small frozen values for `on_event`."""

from collections.abc import Mapping
from dataclasses import dataclass

from shim.core.wire import Position


@dataclass(frozen=True, slots=True)
class Connecting:
    """A connection is about to be tried; `attempt` counts from 0 since the last one that lived."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Connected:
    """Messages can come: `ready` (v1) or the handshake (raw) is here (contract 2.1).

    Attributes:
        backend: `legacy` or `channels`; None for a raw client with a fixed URL, which is not told.
        connection: the server's id of it; None on raw. url: where.
        topics: where each topic stands at the server. recovered: for each topic asked for in `hello`.
    """

    backend: str | None
    url: str
    connection: str | None
    topics: Mapping[str, Position]
    recovered: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Lost:
    """A connection, or an attempt at one, is over.

    Attributes:
        code: the close code (1006 without a close frame); None when no connection was made.
        status: the HTTP status of a refusal, if that was it. reason: a sentence.
        delay: seconds until the next attempt; None when the client stays away.
    """

    code: int | None
    reason: str
    delay: float | None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Moving:
    """The server wants this connection on another backend within so many seconds (contract 8.3).

    `Moved` or `MoveFailed` follows, unless the client is closed first.
    """

    backend: str
    url: str
    within: float


@dataclass(frozen=True, slots=True)
class Moved:
    """The connection to the other backend carries the messages from here on; the old one is being left.

    The client was connected all the time: there is neither `Lost` nor `Connected`. Attributes as of `Connected`.
    """

    backend: str
    url: str
    connection: str
    topics: Mapping[str, Position]
    recovered: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class MoveFailed:
    """The client stays where it is: the other address is dead, refuses or is slow, or this connection ended first.

    The server closes the connection with 1012 when the time it gave is over; the client then comes back by discovery.
    """

    backend: str
    reason: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages of a topic after `previous` and up to `position` may be missing for good (contract 5.3, 7.4)."""

    topic: str
    position: Position
    previous: Position | None


@dataclass(frozen=True, slots=True)
class Hole:
    """A message came whose `seq` does not follow the last one, and no `gap` was said: the server is wrong."""

    topic: str
    position: Position
    previous: Position


@dataclass(frozen=True, slots=True)
class ServerError:
    """The server did not take something of ours: an `error` frame (contract 6.3). `id` is the message's, if known."""

    id: int | str | None
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProtocolError:
    """The server said something that its protocol does not allow; the connection is dropped with 1002.

    Attributes:
        reason: which rule. excerpt: the beginning of what it said.
    """

    reason: str
    excerpt: str


type Event = Connecting | Connected | Lost | Moving | Moved | MoveFailed | Gap | Hole | ServerError | ProtocolError
