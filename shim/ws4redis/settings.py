"""ws4redis's own settings, under their old names.

They have a meaning in the compatible mode (`REALTIME_WS4REDIS`), and for whoever uses the old Python names without it.
Three of them stand in for settings of ours that a project does not have: `INHERITED`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any, Final
from urllib.parse import quote, urlencode

from django.conf import settings

from shim.core.errors import shown

DEFAULTS: Final[Mapping[str, Any]] = {
    "WEBSOCKET_URL": "/ws/",
    "WS4REDIS_CONNECTION": {},
    "WS4REDIS_PREFIX": None,
    "WS4REDIS_EXPIRE": 3_600,
    "WS4REDIS_SUBSCRIBER": "ws4redis.subscriber.RedisSubscriber",
    "WS4REDIS_HEARTBEAT": None,
    "WS4REDIS_ALLOWED_CHANNELS": None,
    "WS4REDIS_PROCESS_REQUEST": None,
}
"""Every setting of ws4redis 0.6.0, and what it is where a project does not say."""

INHERITED: Final[Mapping[str, str]] = {
    "REALTIME_REDIS_URL": "WS4REDIS_CONNECTION",
    "REALTIME_PREFIX": "WS4REDIS_PREFIX",
    "REALTIME_WS_PATH": "WEBSOCKET_URL",
}
"""Settings of ours, and those of ws4redis that they are taken from in the compatible mode."""

SUBSCRIBERS: Final = (DEFAULTS["WS4REDIS_SUBSCRIBER"], "legacy_ws4redis.subscriber.RedisSubscriber")
"""Names of ws4redis's own subscriber."""

type Hook = Callable[..., Any] | str | None
"""A function, its dotted path, or none."""

# Of redis-py's own: they are about its connections, which are no longer used. Time-outs are REALTIME_TIMEOUT.
_PASSED_OVER: Final = frozenset(
    {
        "charset",
        "decode_responses",
        "encoding",
        "encoding_errors",
        "errors",
        "health_check_interval",
        "max_connections",
        "retry_on_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "socket_keepalive_options",
        "socket_timeout",
    }
)


@dataclass(frozen=True, slots=True)
class Ws4redis:
    """The values of ws4redis's settings.

    Attributes:
        websocket_url: path under which facilities are served (`WEBSOCKET_URL`).
        prefix: first part of the old names on Redis, often empty (`WS4REDIS_PREFIX`).
        expire: seconds for which the last message is kept, 0 for not at all (`WS4REDIS_EXPIRE`).
        subscriber: dotted path of the subscriber's class (`WS4REDIS_SUBSCRIBER`).
        heartbeat: the text heartbeat, or None (`WS4REDIS_HEARTBEAT`).
        allowed_channels, process_request: the callbacks (`WS4REDIS_ALLOWED_CHANNELS`, `WS4REDIS_PROCESS_REQUEST`).
    """

    websocket_url: str
    prefix: str
    expire: float
    subscriber: str
    heartbeat: str | None
    allowed_channels: Hook
    process_request: Hook


@lru_cache(maxsize=1)
def ws4redis() -> Ws4redis:
    """The values, with the default in place of each wrong one; system checks tell which are wrong."""
    return read()[0]


def read() -> tuple[Ws4redis, Sequence[str]]:
    """The values, and a sentence about each wrong one."""
    wrong: list[str] = []

    def value(name: str, is_right: Callable[[Any], bool], what: str) -> Any:
        found = getattr(settings, name, DEFAULTS[name])
        if is_right(found):
            return found
        wrong.append(f"{name} is {what}, not {shown(found)}.")
        return DEFAULTS[name]

    found = Ws4redis(
        websocket_url=value("WEBSOCKET_URL", _is_path, "a path that begins and ends with a slash"),
        prefix=value("WS4REDIS_PREFIX", lambda it: it is None or isinstance(it, str), "a text or None") or "",
        expire=value("WS4REDIS_EXPIRE", _is_seconds, "a number of seconds, 0 for none"),
        subscriber=value("WS4REDIS_SUBSCRIBER", lambda it: isinstance(it, str) and "." in it, "a dotted path"),
        heartbeat=value("WS4REDIS_HEARTBEAT", lambda it: it is None or isinstance(it, str), "a text or None") or None,
        allowed_channels=value("WS4REDIS_ALLOWED_CHANNELS", _is_hook, "a function, its dotted path, or None"),
        process_request=value("WS4REDIS_PROCESS_REQUEST", _is_hook, "a function, its dotted path, or None"),
    )
    try:
        redis_url()
    except ValueError as error:
        wrong.append(f"{error}.")
    return found, wrong


def inherited() -> Mapping[str, Any]:
    """Values for those settings of ours that have one in ws4redis's (`INHERITED`); a wrong one is left out."""
    values = ws4redis()
    found: dict[str, Any] = {"REALTIME_WS_PATH": values.websocket_url}
    if values.prefix:  # two systems that only their prefix has kept apart must stay apart (contract 3.3)
        found["REALTIME_PREFIX"] = f"rt:{values.prefix}"
    try:
        found["REALTIME_REDIS_URL"] = redis_url()
    except ValueError:
        found["REALTIME_REDIS_URL"] = None
    return found


def redis_url() -> str:
    """`WS4REDIS_CONNECTION` as a URL; as in redis-py, what it does not say is `localhost`, 6379 and 0.

    Raises:
        ValueError: it is no dict, or says something that a URL cannot.
    """
    told = getattr(settings, "WS4REDIS_CONNECTION", DEFAULTS["WS4REDIS_CONNECTION"])
    if not isinstance(told, Mapping):
        raise ValueError(f"WS4REDIS_CONNECTION is a dict, not a {type(told).__name__}")
    options = {str(name): value for name, value in told.items() if name not in _PASSED_OVER and value is not None}
    host, port, db = options.pop("host", "localhost"), options.pop("port", 6_379), options.pop("db", 0)
    user, password = (quote(str(options.pop(name, "")), safe="") for name in ("username", "password"))
    scheme = "rediss" if options.pop("ssl", False) else "redis"
    path = options.pop("unix_socket_path", None)
    tls = {name: options.pop(name) for name in list(options) if name.startswith("ssl_")}
    if options:
        raise ValueError(
            f"WS4REDIS_CONNECTION has {', '.join(map(repr, sorted(options)))}, which REALTIME_REDIS_URL has to say"
        )
    login = f"{user}:{password}@" if user or password else ""
    if path is not None:
        return f"unix://{login}{path}?{urlencode({'db': db})}"
    name = f"[{host}]" if ":" in str(host) else str(host)
    return f"{scheme}://{login}{name}:{port}/{db}" + (f"?{urlencode(tls)}" if tls else "")


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value.startswith("/") and value.endswith("/")


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value) and value >= 0


def _is_hook(value: object) -> bool:
    return value is None or callable(value) or (isinstance(value, str) and "." in value)
