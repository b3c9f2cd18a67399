"""Where Redis is: a checked URL that can be shown without its password, and what to say when it cannot be used."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

import redis.exceptions as redis_errors
from redis.connection import AbstractConnection

from shim.core.errors import RealtimeUnavailable, shown

SCHEMES: Final = ("redis", "rediss", "unix")

_OPTIONS: Final = frozenset({"db", "username", "password", "client_name"})
# Two round trips less for each new connection. Older releases have one parameter for each of the two.
_QUIET: Final[dict[str, Any]] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)

_REFUSALS: Final[Mapping[str, type[redis_errors.RedisError]]] = {
    "LOADING": redis_errors.BusyLoadingError,
    "NOAUTH": redis_errors.AuthenticationError,
    "NOPERM": redis_errors.NoPermissionError,
    "NOSCRIPT": redis_errors.NoScriptError,
    "OOM": redis_errors.OutOfMemoryError,
    "READONLY": redis_errors.ReadOnlyError,
    "WRONGPASS": redis_errors.AuthenticationError,
    "ERR AUTH ": redis_errors.AuthenticationError,
    "ERR max number of clients": redis_errors.ConnectionError,
}

CONNECTION_OPTIONS: Final[dict[str, Any]] = {
    **_QUIET,
    "protocol": 2,  # a RESP3 push needs another reader, and hides nothing that we want
    "decode_responses": False,
    # No `retry`: redis-py's *connections* do not retry by themselves (its clients do, ten times since 6.0), and a
    # retried publish can arrive twice (contract 3.1).
}
"""What every connection of redis-py's is made with, over whatever the URL says."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A Redis URL: ``redis://``, ``rediss://`` (TLS), ``unix://``, or ``memory://`` (`shim.bus.memory`).

    Options in the query: ``db``, ``username``, ``password``, ``client_name`` and redis-py's ``ssl_*``. Time-outs and
    retries are not among them: they belong to the contract (7.3, 3.1) and to `REALTIME_TIMEOUT`.
    """

    url: str = field(repr=False)
    shown: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Check a URL.

        Raises:
            ValueError: not one of ours; the message never holds the password.
        """
        if not isinstance(url, str):
            raise ValueError(f"REALTIME_REDIS_URL is a str, not {type(url).__name__}")
        if re.fullmatch(r"memory://[A-Za-z0-9_-]*", url):
            return cls(url, url)
        scheme, separator, _ = url.partition("://")
        public = _without_password(url) if separator else "(not a URL)"
        if scheme not in SCHEMES or not separator:
            raise ValueError(
                f"REALTIME_REDIS_URL {shown(public)} is not supported: use redis://host:port/db, rediss:// (TLS) "
                "or unix:///path/to/socket. Sentinel and cluster URLs are not supported yet."
            )
        try:
            parts = urlsplit(url)
            port = parts.port
            host = parts.hostname
        except ValueError:
            raise ValueError(
                f"REALTIME_REDIS_URL {shown(public)} cannot be read: is a '/', '#', '?' or '@' in its password "
                "that should be percent-encoded?"
            ) from None
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(name for name in options if name not in _OPTIONS and not name.startswith("ssl_"))
        if unknown:
            raise ValueError(
                f"REALTIME_REDIS_URL {shown(public)} has unknown options {', '.join(unknown)}: known are "
                f"{', '.join(sorted(_OPTIONS))} and ssl_*; for time-outs there is REALTIME_TIMEOUT"
            )
        db = options.get("db", "" if scheme == "unix" else parts.path.strip("/")) or "0"
        if not (db.isascii() and db.isdigit()):
            raise ValueError(f"REALTIME_REDIS_URL {shown(public)}: the database is a number, not {shown(db)}")
        if scheme == "unix":
            if host or not parts.path:
                raise ValueError(
                    f"REALTIME_REDIS_URL {shown(public)}: a socket has an absolute path, as in unix:///run/redis.sock"
                )
            return cls(url, f"unix://{parts.path}" + (f"?db={db}" if db != "0" else ""))
        name = host or "localhost"
        return cls(url, f"{scheme}://{f'[{name}]' if ':' in name else name}:{port or 6379}/{db}")

    def unavailable(self, what: str, error: BaseException, timeout: float) -> RealtimeUnavailable:
        """The error to raise, `from` the one that was met.

        Args:
            what: what was tried, as the first words of the message.
            error: what came of it.
            timeout: the seconds that were allowed.
        """
        if isinstance(error, RealtimeUnavailable):
            return error
        said = str(error) or type(error).__name__
        happened, remedy = _reading(error, timeout)
        return RealtimeUnavailable(f"{what}: Redis at {self.shown} {happened} ({shown_error(said)}). {remedy}")


def is_memory(url: str) -> bool:
    """Whether a URL names a Redis in this process's memory (`shim.bus.memory`), for tests and DEBUG."""
    return url.startswith("memory://")


def shown_error(said: str) -> str:
    """What Redis or redis-py said, on one line and not too long."""
    line = " ".join(said.split())
    return line if len(line) <= 300 else line[:300] + "…"


def _reading(error: BaseException, timeout: float) -> tuple[str, str]:
    """What an error means, and what to do about it."""
    for known in (error, error.__cause__):  # redis-py wraps some in a ConnectionError
        match known:
            case redis_errors.AuthenticationError() | redis_errors.NoPermissionError():
                return "refused us", "Check the user and password in REALTIME_REDIS_URL, and the user's ACL."
            case redis_errors.BusyLoadingError():
                return "is still loading its data", "It will be there when it has."
            case redis_errors.MaxConnectionsError():
                return "was not asked", "Raise max_connections, or publish less at once."
            case redis_errors.OutOfMemoryError():
                return "is out of memory", "Raise its maxmemory, or keep less history (REALTIME_HISTORY_SIZE)."
            case redis_errors.ReadOnlyError():
                return "is a replica", "Point REALTIME_REDIS_URL at the primary."
            case redis_errors.InvalidResponse():
                return "gave an answer that is none of its protocol", "Is it a Redis 7+ or a Valkey 8+?"
            case redis_errors.ResponseError() if "WRONGTYPE" in str(known):
                return (
                    "has a key of another type under a name of ours",
                    "Give REALTIME_PREFIX a value that nothing else on this Redis begins its keys with.",
                )
            case redis_errors.ResponseError() if "OOM" in str(known):
                return "is out of memory", "Raise its maxmemory, or keep less history (REALTIME_HISTORY_SIZE)."
            case redis_errors.ResponseError() if "READONLY" in str(known):
                return "is a replica", "Point REALTIME_REDIS_URL at the primary."
            case redis_errors.ResponseError():
                return "refused the command", "Realtime shim needs Redis 7+ or Valkey 8+."
            case redis_errors.TimeoutError() | TimeoutError():
                return (
                    f"did not answer within {timeout:g} s",
                    "Check that it is up and not overloaded (SLOWLOG); REALTIME_TIMEOUT sets how long to wait.",
                )
    return "cannot be reached", "Check REALTIME_REDIS_URL, and that Redis is up."


def _without_password(url: str) -> str:
    """As much of a URL, well-formed or not, as can be shown."""
    scheme, _, rest = url.partition("://")
    rest = rest.rpartition("@")[2]
    return f"{scheme}://{rest.partition('?')[0]}"


def refusal(text: str) -> redis_errors.RedisError:
    """The exception for an error reply, of the class that redis-py gives it."""
    for start, kind in _REFUSALS.items():
        if text.startswith(start):
            return kind(text.removeprefix(f"{start} ") if start.isalpha() else text)
    return redis_errors.ResponseError(text)


def client_name(name: str) -> str:
    """A name as CLIENT LIST takes it: visible ASCII."""
    return re.sub(r"[^!-~]", "-", name)
