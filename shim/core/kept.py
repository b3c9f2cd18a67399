"""What a facility keeps with a connection (`connection.state`), and how the next connection comes by it. Pure.

Theory of operation. A v1 client that was moved, or has lost its line, says in `hello` which connection it continues
(contract 8.3). So a connection's state is put on Redis under its id: before its client is told `move`, at each change
from then on, and when its line ends in a way after which clients come back. The connection that says that it continues
it takes it from there, once.

Whose state it is stands in the name of the key, next to the id: a hash of the facility and of whose connection it is.
So who forges an id looks where nothing is, and takes nothing away either.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from shim.core.cohorts import Subject
from shim.core.errors import InvalidPayload, shown
from shim.core.message import Kind, Message

if TYPE_CHECKING:
    from shim.core.connection import Connection

MAX_STATE_BYTES: Final = 4_096
STATE_SECONDS: Final = 300.0
"""How long a state waits for its client: as long as the messages that it missed, by default (contract 5.1)."""

BATCH: Final = 256
"""Most connections whose states go to Redis in one round trip."""

_UNLIMITED: Final = 2**63
_LEFT_FOR_GOOD: Final = frozenset({1000, 1002, 1003, 1007, 1008, 1009})


def comes_back(code: int) -> bool:
    """Whether the state outlives a connection that ended with this code: its client comes back (contract, close codes).

    Not after 1011: a state with which a handler fails must not make the next one fail.
    """
    return code not in _LEFT_FOR_GOOD and code != 1011 and not 4500 <= code <= 4999


def owner_of(facility: str, subject: Subject) -> str | None:
    """Who may take a state, as part of a key: the user, else the session, else the anonymous cookie's id.

    None where there is none of these: then nobody could prove that it is his.
    """
    for kind, name in (("u", subject.user), ("s", subject.session), ("a", subject.anonymous)):
        if name is not None:
            return sha256(f"{kind}\0{name}\0{facility}".encode()).hexdigest()[:32]
    return None


def state_key(prefix: str, id: str, owner: str) -> str:
    """Where on Redis a connection's state is."""
    return f"{prefix}:state:{id}:{owner}"


class Kept:
    """The state of one connection. Its value may be set by one thread while others look.

    Attributes:
        body: the value as JSON; None when there is none.
        saved: what Redis was last given of it.
        is_followed: each change has to be saved.
        is_due: a change waits to be saved; so does whatever is set until then.
    """

    __slots__ = ("body", "is_due", "is_followed", "saved")

    def __init__(self) -> None:
        self.body: bytes | None = None
        self.saved: bytes | None = None
        self.is_followed = False
        self.is_due = False

    @property
    def value(self) -> Any:
        """The value, new each time: what is changed in it changes nothing here."""
        body = self.body
        return None if body is None else json.loads(body)

    def put(self, value: object) -> bool:
        """Set the value; None forgets it. Returns whether somebody has to be told to save it.

        Raises:
            InvalidPayload: JSON cannot carry it, or it is over 4 KiB; nothing has changed.
        """
        body = None if value is None else Message(Kind.JSON, value).body(_UNLIMITED)  # its own limit says what to do
        if body is not None and len(body) > MAX_STATE_BYTES:
            raise InvalidPayload(
                f"a connection's state is at most {MAX_STATE_BYTES} bytes of JSON, not {len(body)}: "
                f"keep the data in your database, and its key here: {shown(value)}"
            )
        self.body = body  # before the flags are looked at, as `Batch` looks after it has cleared its own
        if not self.is_followed or self.is_due:
            return False
        self.is_due = True
        return True

    def carry(self, body: bytes) -> None:
        """Take over what the connection before has left."""
        try:
            json.loads(body)
        except ValueError:
            return  # not ours
        self.body = body


@dataclass(frozen=True, slots=True)
class Save:
    """Put a state on Redis, or take it away (None). `if_none`: unless there is one."""

    key: str
    body: bytes | None
    if_none: bool = False


@dataclass(frozen=True, slots=True)
class Keeping:
    """A connection whose state is to be saved.

    Attributes:
        since: when that was asked, by a monotonic clock.
        within: then tell the client to move; it has so many seconds from `since`.
        done: called when it is saved, or cannot be.
    """

    connection: "Connection"
    since: float
    within: float | None = None
    done: Callable[[], None] | None = None


class Batch:
    """States that go to Redis together, each as it is when the batch is made.

    Attributes:
        saves: what Redis has to be told, in this order.
    """

    def __init__(self, prefix: str, keepings: Iterable[Keeping]) -> None:
        """Look at the connections, each once."""
        self._keepings = list(keepings)
        self._bodies: dict[Connection, bytes | None] = {}
        self.saves: list[Save] = []
        for keeping in self._keepings:
            connection = keeping.connection
            if connection not in self._bodies:
                connection.kept.is_due = False
                self._bodies[connection] = connection.kept.body
                self.saves += _saves(prefix, connection, connection.kept.body)

    def finished(self, now: float, *, worked: bool) -> None:
        """Redis has them, or could not be reached: go on either way. A state is not worth a connection."""
        if worked:
            for connection, body in self._bodies.items():
                connection.kept.saved = body
        for keeping in self._keepings:
            if keeping.within is not None:
                keeping.connection.told(max(0.0, keeping.within - (now - keeping.since)))
            if keeping.done is not None:
                keeping.done()


def _saves(prefix: str, connection: "Connection", body: bytes | None) -> Iterable[Save]:
    if connection.owner is None:
        return
    if body is not None or connection.kept.saved is not None:
        yield Save(state_key(prefix, connection.id, connection.owner), body)
    if connection.was is not None and connection.may_be_unknown and body is not None:
        # Its client may never have learned that this connection stood, and will name the one before.
        yield Save(state_key(prefix, connection.was, connection.owner), body, if_none=True)
