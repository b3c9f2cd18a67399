"""Counting on Redis over all processes what one visitor has done lately. Pure: a command and what its answer means.

A count is a key of its own, which is forgotten when it has not grown for a while.
"""

from hashlib import sha256
from typing import Final

from shim.bus.commands import Command, ms
from shim.core.errors import RealtimeUnavailable, shown

COUNT: Final = """\
local count = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return count
"""
"""KEYS: the count. ARGV: milliseconds after which it is forgotten."""


def tally_command(prefix: str, what: str, ttl: float) -> Command:
    """Count one more.

    Args:
        prefix: `REALTIME_PREFIX`.
        what: whose doings; hashed, so it may be long, and may be a credential.
        ttl: seconds after which a count that does not grow is forgotten.
    """
    name = sha256(what.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return ("EVAL", COUNT, 1, f"{prefix}:tally:{name}", ms(ttl))


def tally_from(reply: object) -> int:
    """How many there are now, the one of `tally_command` included.

    Raises:
        RealtimeUnavailable: not an answer to it.
    """
    if isinstance(reply, int):
        return reply
    raise RealtimeUnavailable(f"Redis did not count, but said {shown(reply)}")
