"""Coming back: which ends of a connection mean what, and how long to wait (contract, close codes; 8.5).

Pure: randomness and the time of day are arguments.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Final, Self

LONGEST_WAIT: Final = 600.0  # seconds; no server can send a client away for longer
LONGEST_RETRY_AFTER: Final = 60.0
SHORTEST_BASE: Final = 0.01  # a server that tells 0 would make a client spin


class Verdict(Enum):
    """What to do when a connection, or an attempt at one, is over."""

    STAY_AWAY = auto()
    SPREAD = auto()
    """Come back within the spread that was told."""
    BACKOFF = auto()


_OURS_TO_MEND: Final = frozenset({1000, 1002, 1003, 1007, 1008, 1009})
_WORTH_ANOTHER_TRY: Final = frozenset({408, 425, 429})


def verdict_of_close(code: int) -> Verdict:
    """What a close code of the server means for the client (contract, close codes).

    Codes that the contract does not name are lost connections like 1006.
    """
    if code in _OURS_TO_MEND or 4500 <= code <= 4999:
        return Verdict.STAY_AWAY
    return Verdict.SPREAD if code == 1012 else Verdict.BACKOFF


def verdict_of_status(status: int) -> Verdict:
    """What an HTTP status in place of a connection means (contract 1.1): only 4xx says that asking again is no use."""
    refused = 400 <= status <= 499 and status not in _WORTH_ANOTHER_TRY
    return Verdict.STAY_AWAY if refused else Verdict.BACKOFF


@dataclass(frozen=True, slots=True)
class Pace:
    """How to come back, in seconds: full jitter from `base` to `cap`, and the `spread` for 1012."""

    base: float = 0.5
    cap: float = 30.0
    spread: float = 5.0

    def told(self, reconnect: object) -> Self:
        """This pace with what a server told: `{"base_ms": …, "cap_ms": …, "spread_ms": …}`.

        What is missing, or is not a number of 0 or more, stays as it is; what is extreme is bounded.
        """
        told = reconnect if isinstance(reconnect, dict) else {}
        base = min(max(_seconds(told.get("base_ms"), self.base), SHORTEST_BASE), LONGEST_WAIT)
        cap = min(max(_seconds(told.get("cap_ms"), self.cap), base), LONGEST_WAIT)
        spread = min(_seconds(told.get("spread_ms"), self.spread), LONGEST_WAIT)
        return type(self)(base, cap, spread)


def _seconds(value: object, otherwise: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        return otherwise
    return value / 1000


def retry_after(value: str | None, now: datetime) -> float | None:
    """The seconds that a `Retry-After` header asks for, at most 60; None when it says nothing that can be read.

    Args:
        value: the header: seconds, or an HTTP date (RFC 9110, section 10.2.3).
        now: the time of day, with a time zone; only a date needs it.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), LONGEST_RETRY_AFTER)
