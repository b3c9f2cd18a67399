r"""The record of one message on Redis: a short text header, a newline, the bare body.

``1j 5f0c2a9b41d7e683 45 -\n{"event":"ring"}``: version 1, kind JSON, epoch, seq, origin. The publish script writes
epoch and seq (contract 3.2); nothing is decoded on the way to a client. A message without history has epoch ``-``
and seq 0. The origin is the id of the connection that caused the message, or ``-``; only the echo rule
(contract 6.5) reads it. The same record stands in the history log, so there is one format.
"""

from typing import Final, NamedTuple

from shim.core.errors import WireError, shown
from shim.core.message import Kind

VERSION: Final = "1"
NOBODY: Final = "-"
MAX_SEQ: Final = 2**53 - 1  # Redis's Lua counts in doubles

_BARE: Final = {kind: f"{VERSION}{kind} {NOBODY} 0 {NOBODY}\n".encode() for kind in Kind}
_BARE_KINDS: Final = {header.removesuffix(b"\n"): kind for kind, header in _BARE.items()}
_KINDS: Final = {f"{VERSION}{kind}".encode(): kind for kind in Kind}


class Position(NamedTuple):
    """Where a message stands in its topic: dense `seq`, and the `epoch` that changes when history was lost."""

    epoch: str
    seq: int


class Record(NamedTuple):
    """One message as it travels on Redis.

    `position` is None for a message published without history.
    """

    kind: Kind
    body: bytes
    position: Position | None = None
    origin: str | None = None


def encode_bare(kind: Kind, body: bytes, origin: str | None) -> bytes:
    """The bytes of a record without history."""
    return (_BARE[kind] + body) if origin is None else encode(Record(kind, body, None, origin))


def encode(record: Record) -> bytes:
    """The bytes of a record, as the publish script would write them."""
    epoch, seq = record.position or (NOBODY, 0)
    return f"{VERSION}{record.kind} {epoch} {seq} {record.origin or NOBODY}\n".encode() + record.body


def decode(data: bytes) -> Record:
    """Read a record back.

    Raises:
        WireError: not a record of this version.
    """
    header, newline, body = data.partition(b"\n")
    try:
        if not newline:
            raise ValueError("no header")
        if (bare := _BARE_KINDS.get(header)) is not None:
            return Record(bare, body)
        version_kind, epoch, seq, origin = header.split(b" ")
        if not (epoch and origin and seq.isdigit()):  # int() also takes signs and underscores
            raise ValueError("not a position")
        return Record(
            _KINDS[version_kind],
            body,
            None if epoch == b"-" else Position(epoch.decode("ascii"), int(seq)),
            None if origin == b"-" else origin.decode("ascii"),
        )
    except (ValueError, KeyError):
        raise WireError(
            f"not a version {VERSION} record: {shown(data)}; does something else publish under this prefix, "
            "or a newer version of realtime shim?"
        ) from None
