"""The flag on Redis: one hash, ``<prefix>:flag``. Pure: commands and what their answers mean.

Fields: ``epoch``, a name drawn when there is none, so that it changes when Redis loses its data;
``number``, counted up by each push; ``published`` and ``snapshot``, number and contents of the newest
push, for processes that start.
"""

import json
from typing import Final

from shim.bus.commands import Command
from shim.core.cohorts import Snapshot, Version
from shim.core.errors import RealtimeUnavailable, shown
from shim.core.message import Kind
from shim.core.wire import Record, encode

NUMBER: Final = """\
redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1])
return {redis.call('HGET', KEYS[1], 'epoch'), redis.call('HINCRBY', KEYS[1], 'number', 1)}
"""
"""KEYS: the hash. ARGV: an epoch, used if there is none."""

PUBLISH: Final = """\
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return -1 end
if tonumber(redis.call('HGET', KEYS[1], 'published') or '0') >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'published', ARGV[2], 'snapshot', ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
"""
"""KEYS: the hash. ARGV: epoch, number, snapshot, channel, message.

Nothing is said under an epoch that is over (-1), so that a process may take any epoch that it does not
know for a newer one; and nothing after a higher number (0), which has seen all that this one has.
"""


def flag_key(prefix: str) -> str:
    """The hash's name."""
    return f"{prefix}:flag"


def number_command(prefix: str, epoch: str) -> Command:
    """Take the next number; `epoch` is a name that nobody has used, for the case that there is none."""
    return ("EVAL", NUMBER, 1, flag_key(prefix), epoch)


def number_from(reply: object) -> Version:
    """The version that `number_command` took.

    Raises:
        RealtimeUnavailable: not an answer to it.
    """
    match reply:
        case [bytes(epoch), int(number)]:
            return epoch.decode(), number
        case _:
            raise RealtimeUnavailable(f"Redis gave no number for the flag, but {shown(reply)}")


def publish_command(prefix: str, channel: str, snapshot: Snapshot, *, hurry: bool = False) -> Command:
    """Say a snapshot on the control channel and leave a copy; answers 1, or 0 or -1 as told above.

    Args:
        hurry: also say that its moves hurry (contract 8.5). The copy does not: a process that starts moves nobody.
    """
    epoch, number = snapshot.version
    fields = snapshot.to_json()
    copy = json.dumps(fields, separators=(",", ":"))
    said = {"op": "flag", "snapshot": fields, **({"hurry": True} if hurry else {})}
    body = json.dumps(said, separators=(",", ":")).encode()
    message = encode(Record(Kind.JSON, body))  # without history: whoever misses it finds the copy, or the database
    return ("EVAL", PUBLISH, 1, flag_key(prefix), epoch, number, copy, channel, message)


def stored_command(prefix: str) -> Command:
    """Ask for the copy of the newest push."""
    return ("HGET", flag_key(prefix), "snapshot")


def stored_from(reply: object) -> Snapshot | None:
    """The snapshot that `stored_command` found, None if nothing was pushed yet.

    Raises:
        WireError: something that this version cannot read.
    """
    return Snapshot.from_json(reply) if isinstance(reply, (str, bytes)) else None
