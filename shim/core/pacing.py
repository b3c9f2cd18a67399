"""Pacing: when to try again, how much to let in, and over how long to spread what must happen to many.

A storm is what many clients make when they do the same thing at the same moment. Three tools against it,
all pure (the clock and the dice are arguments):

* `backoff`: one side cannot see the others, so it waits at random;
* `TokenBucket`: one process can see what comes to it, so it lets in what it can carry;
* `spread` and `moments`: one process does something to many connections (a move, contract 8.5; a drain,
  contract 9.1), so it deals the work out evenly.

How long a spread must be at least follows from what a handshake costs (facts, "Storms"): `D` connections
that come back, `h` CPU-seconds for each, `S` processes that take them, each busy for the share `u'` with
other things, need ``W = D·h / (S·(1−u'))`` seconds. So a fleet takes ``S·(1−u')/h`` connections a second,
and the rate to give to `spread` is ``ρ·S·(1−u')/h`` divided by the processes that are spreading, `ρ`
under 1 being what is dared.
"""

from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

_DOUBLINGS: Final = 64  # more would only overflow: every cap is reached long before
_ROUNDING: Final = 1e-9  # tokens: a caller that slept for `wait()` seconds must find its token


def backoff(attempt: int, *, base: float, cap: float, random: Callable[[], float]) -> float:
    """How long to wait before a further attempt: full jitter, anything from 0 to `min(cap, base·2^attempt)`.

    Full jitter alone does not tame a storm (facts, "Storms": 4 % of users connected in the end): a client
    also keeps to the spread it was told, and the server to its admission rate.

    Args:
        attempt: failed attempts so far, 0 before the first; any size.
        base: the longest wait before the first retry, in seconds.
        cap: the longest wait at all, in seconds.
        random: a number in [0, 1) at each call, as `random.random`.

    Returns:
        Seconds, under `cap`.

    Raises:
        ValueError: a negative attempt, base or cap.
    """
    if attempt < 0 or base < 0 or cap < 0:
        raise ValueError(f"attempt, base and cap are 0 or more, not {attempt!r}, {base!r}, {cap!r}")
    return min(cap, base * 2.0 ** min(attempt, _DOUBLINGS)) * random()


class TokenBucket:
    """A rate with a burst: in any `w` seconds it grants at most `burst + rate·w` tokens.

    Serves the inbound rate (contract 6.3) and the admission rate (contract 1.1). A clock that steps back
    grants nothing extra and takes nothing away.

    Args:
        rate: tokens a second, over 0.
        burst: tokens it holds at most, and at the start; at least 1.
        now: the time at the start, in seconds of any clock.

    Raises:
        ValueError: a rate that is not over 0, or a burst under 1 (it would never grant anything).
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        if not rate > 0 or not burst >= 1:
            raise ValueError(f"a rate is over 0 and a burst at least 1, not {rate!r} and {burst!r}")
        self._rate = float(rate)
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float, n: float = 1.0) -> bool:
        """Take `n` tokens if they are there; take none if they are not. More than `burst` are never there."""
        self._refill(now)
        if self._tokens < n - _ROUNDING:
            return False
        self._tokens = max(0.0, self._tokens - n)
        return True

    def wait(self, now: float) -> float:
        """Seconds until one token is there, 0 if it is there now: what `Retry-After` may say; takes none."""
        self._refill(now)
        return max(0.0, (1.0 - self._tokens) / self._rate)

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now


def spread(n: int, *, rate: float, least: float = 0.0, most: float) -> float:
    """The window over which `n` connections are moved or closed.

    As long as `rate` asks for, but never longer than `most`: past it a drained process is killed anyway
    (contract 9.1: 30 s), and an operator who rolls back wants it done. So `most` beats `rate`, and `rate`
    beats `least`.

    Args:
        n: connections.
        rate: connections a second that the other side can take, over 0 (see the module's formula).
        least: the shortest window, in seconds; spreads even a few, since other processes do the same just
            now.
        most: the longest window, in seconds; at least `least`.

    Returns:
        Seconds; 0 when there is nothing to spread.

    Raises:
        ValueError: a negative count, a rate that is not over 0, or `least` and `most` the wrong way round.
    """
    if n < 0 or not rate > 0 or not 0 <= least <= most:
        raise ValueError(f"no window for n={n!r}, rate={rate!r}, least={least!r}, most={most!r}")
    return min(most, max(least, n / rate)) if n else 0.0


def moments(n: int, window: float, now: float, random: Callable[[], float]) -> list[float]:
    """When each of `n` connections has its turn: in order, jittered, and in no clump.

    The window is cut into `n` equal slots and each slot gets one moment, anywhere in it. So any `w`
    seconds hold at most `w·n/window + 2` moments, while independent dice over the whole window would
    clump; and two processes that begin at once do not keep in step.

    Args:
        n: connections.
        window: seconds, as `spread` gave them.
        now: the time at which the window opens.
        random: a number in [0, 1) at each call, as `random.random`.

    Returns:
        `n` times of the clock of `now`, ascending, from `now` to `now + window`.

    Raises:
        ValueError: a negative window.
    """
    if window < 0:
        raise ValueError(f"a window is 0 seconds or more, not {window!r}")
    return [now + window * (slot + random()) / n for slot in range(n)]


def between(others: Collection[float], n: int, window: float, now: float, random: Callable[[], float]) -> list[float]:
    """When each of `n` newcomers has its turn in a window in which others have theirs already.

    The window has a slot for each of both, and newcomers get those that are free. So the rate is that of the window
    even where the others stand close together: two in one slot use up the next free one as well.

    Args:
        others: their times; one that is over counts as one at once.
        n: newcomers.
        window, now, random: as for `moments`.

    Returns:
        `n` times of the clock of `now`, ascending.
    """
    if not n:
        return []
    slot = window / (n + len(others))
    taken = Counter(max(0, int((moment - now) / slot)) if slot else 0 for moment in others)
    found: list[float] = []
    surplus = number = 0
    while len(found) < n:
        surplus += taken[number]
        if surplus:
            surplus -= 1
        else:
            found.append(now + slot * (number + random()))
        number += 1
    return found
