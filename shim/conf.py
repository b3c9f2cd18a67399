"""The project's settings, read once, checked, frozen.

One set of rules serves two readers. `conf()` raises `ImproperlyConfigured` where anything is wrong; the system checks
(`shim.checks`) report every `Fault` by its id, with a hint. Defaults are those of the contract.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import inf, isfinite
from threading import RLock
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver

from shim.bus.commands import Commands
from shim.bus.endpoint import Endpoint
from shim.core.cohorts import CHANNELS, LEGACY, Cohort
from shim.core.errors import shown
from shim.core.history import History
from shim.core.limits import Limits
from shim.core.message import MAX_MESSAGE_BYTES
from shim.core.node import Pace
from shim.core.wires import RealtimeWire, Sent, Wire, Ws4redisWire
from shim.ws4redis import settings as ws4redis_settings
from shim.ws4redis.settings import Ws4redis

BACKENDS: Final[tuple[Cohort, ...]] = (LEGACY, CHANNELS)

DEFAULTS: Final[Mapping[str, Any]] = {
    "REALTIME": {},
    "REALTIME_REDIS_URL": None,
    "REALTIME_PREFIX": "rt",
    "REALTIME_WIRE": "realtime",
    "REALTIME_TIMEOUT": 2.0,
    "REALTIME_FLAG": "realtime_channels",
    "REALTIME_FORCE_BACKEND": None,
    "REALTIME_WS_PATH": "/ws/",
    "REALTIME_COHORT_COOKIE": "realtime_backend",
    "REALTIME_ALLOWED_ORIGINS": None,
    "REALTIME_MAX_MESSAGE_BYTES": MAX_MESSAGE_BYTES,
    "REALTIME_MAX_BACKLOG_BYTES": 1_048_576,
    "REALTIME_HISTORY_SIZE": History().size,
    "REALTIME_HISTORY_TTL": History().ttl,
    "REALTIME_LIMITS": {},
    "REALTIME_PACE": {},
    "REALTIME_WS4REDIS": False,
}
"""Every setting, and what it is where a project does not say (docs/reference/settings.md)."""

WIRES: Final = ("realtime", "ws4redis")
"""What `REALTIME_WIRE` may be."""

MAX_FLAG_CHARACTERS: Final = 100  # of the name of a waffle flag

# Bounds of numbers, from and to. What is divided by, or would never end, is over 0.
_LIMITS: Final = {
    "heartbeat": (0.01, 3_600.0),
    "answer": (0.01, 3_600.0),
    "hello": (0.01, 3_600.0),
    "inbound_rate": (0.001, inf),
    "inbound_burst": (1.0, inf),
    "violations": (0.0, 3_600.0),
}
_PACE: Final = {
    "admissions": (0.001, inf),
    "admission_burst": (1.0, inf),
    "fleet_moves": (0.001, inf),
    "moves": (0.001, inf),
    "hurry": (1.0, inf),
    "move_least": (0.0, 3_600.0),
    "move_most": (0.001, 3_600.0),
    "move_within": (0.0, 600.0),
    "stale": (0.0, 3_600.0),
    "arrival": (0.0, 86_400.0),
    "arrival_spread": (0.0, 86_400.0),
    "drain": (0.0, 30.0),  # contract 9.1
    "retry_after": (0.0, 3_600.0),
}
_COOKIE_NAME: Final = re.compile(r"\w{1,64}", re.ASCII)  # nginx reads it as `$cookie_<name>`
_MAY_BE_NONE: Final = frozenset({"fleet_moves"})
_RECONNECT: Final = ("base_ms", "cap_ms", "spread_ms")
_ENTRY: Final = ("BACKEND", "URL", "OPTIONS")


@dataclass(frozen=True, slots=True)
class BackendConf:
    """One entry of `REALTIME`."""

    name: str
    path: str
    url: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conf:
    """Every `REALTIME…` setting.

    Attributes:
        backends: by name, `legacy` and `channels` (`REALTIME`).
        redis_url: None means the embedded Valkey, in DEBUG only (`REALTIME_REDIS_URL`).
        prefix: first part of all Redis names (`REALTIME_PREFIX`).
        wire: how messages travel on Redis (`REALTIME_WIRE`).
        timeout: seconds for anything asked of Redis (`REALTIME_TIMEOUT`, contract 7.3).
        flag: name of the waffle flag (`REALTIME_FLAG`).
        force_backend: the backend for everybody, above the flag (`REALTIME_FORCE_BACKEND`, contract 8.6).
        ws_path: path under which facilities are served (`REALTIME_WS_PATH`).
        cohort_cookie: name of the cookie that a front door routes by, None for none (`REALTIME_COHORT_COOKIE`, 8.4).
        max_message: bytes (`REALTIME_MAX_MESSAGE_BYTES`, contract 4.2).
        max_backlog: bytes that may wait for one connection (`REALTIME_MAX_BACKLOG_BYTES`, contract 7.2).
        history: the default for facilities (`REALTIME_HISTORY_SIZE`, `REALTIME_HISTORY_TTL`, contract 5.1).
        origins: allowed `Origin` hosts, as in ALLOWED_HOSTS; None means ALLOWED_HOSTS (`REALTIME_ALLOWED_ORIGINS`).
        limits: what one connection may do (`REALTIME_LIMITS`). pace: how fast a process moves (`REALTIME_PACE`).
        ws4redis: ws4redis's settings in the compatible mode, None outside of it (`REALTIME_WS4REDIS`).
    """

    backends: Mapping[str, BackendConf]
    redis_url: str | None
    prefix: str
    wire: Wire
    timeout: float
    flag: str
    force_backend: Cohort | None
    ws_path: str
    cohort_cookie: str | None
    max_message: int
    max_backlog: int
    history: History
    origins: tuple[str, ...] | None
    limits: Limits
    pace: Pace
    ws4redis: Ws4redis | None


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one setting: the id of its system check, a sentence with the value, and the remedy."""

    id: str
    message: str
    hint: str


@lru_cache(maxsize=1)
def conf() -> Conf:
    """The settings of this process.

    Raises:
        ImproperlyConfigured: a wrong value; the message names the setting, the value and what is allowed.
    """
    found, faults = read()
    if faults:
        first, *others = faults
        more = f" ({len(others)} more: see `manage.py check`)" if others else ""
        raise ImproperlyConfigured(f"{first.message} {first.hint}{more}")
    return found


def read() -> tuple[Conf, Sequence[Fault]]:
    """The settings with the default in place of each wrong value, and what was wrong."""
    reader = _Reader()
    max_message = reader.whole("REALTIME_MAX_MESSAGE_BYTES")
    limits = reader.numbers("REALTIME_LIMITS", _LIMITS, others=("reconnect",))
    if "reconnect" in limits:
        limits["reconnect"] = reader.reconnect(limits["reconnect"])
    pace = Pace(**reader.numbers("REALTIME_PACE", _PACE))
    if pace.move_least > pace.move_most:
        reader.fault("E016", f"REALTIME_PACE: move_least {pace.move_least!r} is over move_most {pace.move_most!r}.")
        pace = Pace()
    prefix = reader.prefix()
    found = Conf(
        backends=reader.backends(),
        redis_url=reader.redis_url(),
        prefix=prefix,
        wire=reader.wire(prefix),
        timeout=reader.seconds("REALTIME_TIMEOUT"),
        flag=reader.flag(),
        force_backend=reader.force_backend(),
        ws_path=reader.ws_path(),
        cohort_cookie=reader.cohort_cookie(),
        max_message=max_message,
        max_backlog=reader.whole("REALTIME_MAX_BACKLOG_BYTES"),
        history=reader.history(),
        origins=reader.origins(),
        limits=replace(Limits(**limits), max_message=max_message),
        pace=pace,
        ws4redis=reader.ws4redis(),
    )
    return found, reader.faults


@receiver(setting_changed)
def _forget(*, setting: str, **_: object) -> None:
    if setting.startswith("REALTIME") or setting in ws4redis_settings.DEFAULTS:
        ws4redis_settings.ws4redis.cache_clear()
        conf.cache_clear()


_HINTS: Final = {
    "E001": "REALTIME is {'legacy': {'BACKEND': 'dotted.path', 'URL': …, 'OPTIONS': {…}}, 'channels': {…}}.",
    "E002": "REALTIME_FORCE_BACKEND is 'legacy', 'channels' or None, which leaves it to the flag.",
    "E004": "Give a whole URL, 'wss://rt.example.com/ws/', or '' for the host that the client asked.",
    "E005": "Give redis://host:6379/0, rediss://… (TLS) or unix:///run/redis.sock.",
    "E008": "All processes of one system have the same one; two systems on one Redis have two.",
    "E009": "Leave the setting out to get the contract's value.",
    "E010": f"Give the name of a waffle flag, 1 to {MAX_FLAG_CHARACTERS} characters.",
    "E012": "REALTIME_WS_PATH begins and ends with a slash, like '/ws/'.",
    "E013": "For at-most-once delivery without history give REALTIME_HISTORY_SIZE = 0.",
    "E014": "Give hosts as in ALLOWED_HOSTS: ['example.com', '.example.org'], without scheme and port.",
    "E015": f"It may have {', '.join((*_LIMITS, 'reconnect'))}; see docs/reference/settings.md.",
    "E016": f"It may have {', '.join(_PACE)}; see docs/reference/settings.md.",
    "E021": "Give up to 64 ASCII letters, digits and '_', and no name that Django uses; or None for no cookie.",
    "E022": "ws4redis's own settings mean what they did; docs/reference/ws4redis.md has them all.",
    "E025": "Give 'ws4redis' while processes with django-websocket-redis use the same Redis, else leave it out.",
}


@dataclass(slots=True)
class _Reader:
    """Reads settings, and notes what is wrong with them instead of stopping at the first."""

    faults: list[Fault] = field(default_factory=list)

    def fault(self, id: str, message: str) -> None:
        self.faults.append(Fault(id, message, _HINTS[id]))

    def backends(self) -> dict[str, BackendConf]:
        entries = _value("REALTIME")
        if not isinstance(entries, Mapping):
            self.fault("E001", f"REALTIME is a dict, not {shown(entries)}.")
            return {}
        found = {}
        for name, entry in entries.items():
            where = f"REALTIME[{name!r}]"
            if name not in BACKENDS:
                self.fault("E001", f"{where}: there is no such backend.")
            elif not isinstance(entry, Mapping):
                self.fault("E001", f"{where} is a dict, not {shown(entry)}.")
            elif not isinstance(path := entry.get("BACKEND"), str) or not path:
                self.fault("E001", f"{where}['BACKEND'] is a dotted path, not {shown(path)}.")
            elif unknown := sorted(str(key) for key in entry if key not in _ENTRY):
                self.fault("E001", f"{where} has {', '.join(map(repr, unknown))}, which means nothing.")
            elif not isinstance(options := entry.get("OPTIONS") or {}, Mapping):
                self.fault("E001", f"{where}['OPTIONS'] is a dict, not {shown(options)}.")
            else:
                found[name] = BackendConf(name, path, self._url(where, entry.get("URL") or ""), options)
        return found

    def redis_url(self) -> str | None:
        url = _value("REALTIME_REDIS_URL") or None
        if url is not None:
            try:
                Endpoint.of(url)
            except ValueError as error:
                self.fault("E005", f"{error}.")
                return None
        return url

    def prefix(self) -> str:
        try:
            return Commands(_value("REALTIME_PREFIX")).prefix
        except ValueError as error:
            self.fault("E008", f"{error}.")
            return str(DEFAULTS["REALTIME_PREFIX"])

    def wire(self, prefix: str) -> Wire:
        name = _value("REALTIME_WIRE")
        if name == "ws4redis":
            values, wrong = ws4redis_settings.read()
            for message in wrong if _value("REALTIME_WS4REDIS") is not True else ():  # there `ws4redis` says so
                self.fault("E022", message)
            return Ws4redisWire(values.prefix, values.heartbeat, Sent(RLock()))
        if name != "realtime":
            self.fault("E025", f"REALTIME_WIRE is {' or '.join(map(repr, WIRES))}, not {shown(name)}.")
        return RealtimeWire(prefix)

    def seconds(self, name: str) -> float:
        return float(self._number(name, _value(name), (0.001, 3_600.0), "E009", DEFAULTS[name]))

    def whole(self, name: str) -> int:
        value = _value(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        self.fault("E009", f"{name} is a whole number over 0, not {shown(value)}.")
        return int(DEFAULTS[name])

    def flag(self) -> str:
        name = _value("REALTIME_FLAG")
        if isinstance(name, str) and 0 < len(name) <= MAX_FLAG_CHARACTERS:
            return name
        self.fault("E010", f"REALTIME_FLAG names no flag: {shown(name)}.")
        return str(DEFAULTS["REALTIME_FLAG"])

    def force_backend(self) -> Cohort | None:
        name = _value("REALTIME_FORCE_BACKEND") or None  # an empty variable of the environment is none
        for backend in BACKENDS:
            if name == backend:
                return backend
        if name is not None:
            self.fault("E002", f"REALTIME_FORCE_BACKEND names no backend: {shown(name)}.")
        return None

    def ws_path(self) -> str:
        path = _value("REALTIME_WS_PATH")
        if isinstance(path, str) and path.startswith("/") and path.endswith("/"):
            return path
        self.fault("E012", f"REALTIME_WS_PATH is no path of that form: {shown(path)}.")
        return str(DEFAULTS["REALTIME_WS_PATH"])

    def cohort_cookie(self) -> str | None:
        name = _value("REALTIME_COHORT_COOKIE") or None
        taken = (settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME, "realtime_anonymous")
        if name is None or (isinstance(name, str) and _COOKIE_NAME.fullmatch(name) and name not in taken):
            return name
        self.fault("E021", f"REALTIME_COHORT_COOKIE is no name for a cookie of its own: {shown(name)}.")
        return str(DEFAULTS["REALTIME_COHORT_COOKIE"])

    def ws4redis(self) -> Ws4redis | None:
        is_on = _value("REALTIME_WS4REDIS")
        if not isinstance(is_on, bool):
            self.fault("E022", f"REALTIME_WS4REDIS is True or False, not {shown(is_on)}.")
        if is_on is not True:
            return None
        found, wrong = ws4redis_settings.read()
        for message in wrong:
            self.fault("E022", message)
        return found

    def history(self) -> History:
        try:
            return History(_value("REALTIME_HISTORY_SIZE"), _value("REALTIME_HISTORY_TTL"))
        except ValueError as error:
            self.fault("E013", f"REALTIME_HISTORY_SIZE, REALTIME_HISTORY_TTL: {error}.")
            return History()

    def origins(self) -> tuple[str, ...] | None:
        hosts = _value("REALTIME_ALLOWED_ORIGINS")
        if hosts is None:
            return None
        if isinstance(hosts, (list, tuple, set, frozenset)):
            wrong = [host for host in hosts if not isinstance(host, str) or not host or _is_more_than_a_host(host)]
            if not wrong:
                return tuple(hosts)
            self.fault("E014", f"REALTIME_ALLOWED_ORIGINS holds what is no host: {shown(wrong[0])}.")
        else:
            self.fault("E014", f"REALTIME_ALLOWED_ORIGINS is a list or None, not {shown(hosts)}.")
        return ()

    def numbers(
        self, setting: str, bounds: Mapping[str, tuple[float, float]], *, others: Iterable[str] = ()
    ) -> dict[str, Any]:
        """The values of a dict of numbers that are as they should be."""
        id = "E015" if setting == "REALTIME_LIMITS" else "E016"
        values = _value(setting)
        if not isinstance(values, Mapping):
            self.fault(id, f"{setting} is a dict, not {shown(values)}.")
            return {}
        found = {}
        for name, value in values.items():
            if name in others:
                found[name] = value
            elif name not in bounds:
                self.fault(id, f"{setting} has {name!r}, which means nothing.")
            elif value is None and name in _MAY_BE_NONE:
                found[name] = None
            else:
                number = self._number(f"{setting}[{name!r}]", value, bounds[name], id, None)
                if number is not None:
                    found[name] = number
        return found

    def reconnect(self, told: object) -> Mapping[str, int]:
        """What clients are told about coming back: the defaults, and over them what the project says."""
        defaults = Limits().reconnect
        what = "REALTIME_LIMITS['reconnect']"
        if not isinstance(told, Mapping) or not set(told) <= set(_RECONNECT):
            self.fault("E015", f"{what} is a dict with some of {', '.join(_RECONNECT)}, not {shown(told)}.")
            return defaults
        for name, value in told.items():
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 3_600_000:
                self.fault("E015", f"{what}[{name!r}] is a whole number of milliseconds up to an hour, not {value!r}.")
                return defaults
        return {**defaults, **told}

    def _number(self, what: str, value: Any, bounds: tuple[float, float], id: str, otherwise: Any) -> Any:
        low, high = bounds
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and isfinite(value) and low <= value <= high:
            return value
        limits = f"from {low:g} on" if high == inf else f"from {low:g} to {high:g}"
        self.fault(id, f"{what} is a number {limits}, not {shown(value)}.")
        return otherwise

    def _url(self, where: str, url: object) -> str:
        if url == "":
            return ""
        try:
            parts = urlsplit(url) if isinstance(url, str) else None
            if parts and parts.scheme in ("ws", "wss") and parts.hostname and not (parts.query or parts.fragment):
                _ = parts.port  # raises for what is no port
                return str(url)
        except ValueError:
            pass
        self.fault("E004", f"{where}['URL'] is no ws:// or wss:// URL: {shown(url)}.")
        return ""


def _value(name: str) -> Any:
    """A setting, or what stands in for it. One that is None counts as missing, where ws4redis has one for it."""
    default = DEFAULTS[name]
    if name in ws4redis_settings.INHERITED and getattr(settings, "REALTIME_WS4REDIS", False) is True:
        inherited = ws4redis_settings.inherited().get(name, default)
        told = getattr(settings, name, None)
        return inherited if told is None else told
    return getattr(settings, name, default)


def _is_more_than_a_host(host: str) -> bool:
    is_ipv6 = host.startswith("[") and host.endswith("]")
    return "/" in host or (":" in host and not is_ipv6)
