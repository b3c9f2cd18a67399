"""The project's settings, read once, checked, frozen.

`conf()` raises `ImproperlyConfigured` on the first wrong value; the system checks (`shim.checks`) name all of them,
with ids and hints. Defaults are those of the contract.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver

from shim.core.cohorts import CHANNELS, LEGACY, Cohort
from shim.core.connection import Limits
from shim.core.history import History
from shim.core.message import MAX_MESSAGE_BYTES
from shim.core.node import Pace

BACKENDS: Final = (LEGACY, CHANNELS)


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
        timeout: seconds for anything asked of Redis (`REALTIME_TIMEOUT`, contract 7.3).
        flag: name of the waffle flag (`REALTIME_FLAG`).
        force_backend: the backend for everybody, above the flag (`REALTIME_FORCE_BACKEND`, contract 8.6).
        ws_path: path under which facilities are served (`REALTIME_WS_PATH`).
        max_message: bytes (`REALTIME_MAX_MESSAGE_BYTES`, contract 4.2).
        max_backlog: bytes that may wait for one connection (`REALTIME_MAX_BACKLOG_BYTES`, contract 7.2).
        history: the default for facilities (`REALTIME_HISTORY_SIZE`, `REALTIME_HISTORY_TTL`, contract 5.1).
        origins: allowed `Origin` hosts, as in ALLOWED_HOSTS; None means ALLOWED_HOSTS (`REALTIME_ALLOWED_ORIGINS`).
        limits: what one connection may do (`REALTIME_LIMITS`). pace: how fast a process moves (`REALTIME_PACE`).
    """

    backends: Mapping[str, BackendConf]
    redis_url: str | None
    prefix: str
    timeout: float
    flag: str
    force_backend: Cohort | None
    ws_path: str
    max_message: int
    max_backlog: int
    history: History
    origins: tuple[str, ...] | None
    limits: Limits
    pace: Pace


@lru_cache(maxsize=1)
def conf() -> Conf:
    """The settings of this process.

    Raises:
        ImproperlyConfigured: a wrong value; the message names the setting, the value and what is allowed.
    """
    force = getattr(settings, "REALTIME_FORCE_BACKEND", None) or None
    if force not in (None, *BACKENDS):
        raise ImproperlyConfigured(f"REALTIME_FORCE_BACKEND is 'legacy', 'channels' or None, not {force!r}")
    ws_path = getattr(settings, "REALTIME_WS_PATH", "/ws/")
    if not (isinstance(ws_path, str) and ws_path.startswith("/") and ws_path.endswith("/")):
        raise ImproperlyConfigured(f"REALTIME_WS_PATH begins and ends with a slash, like '/ws/', not {ws_path!r}")
    prefix = getattr(settings, "REALTIME_PREFIX", "rt")
    if not (isinstance(prefix, str) and prefix.isascii() and prefix.isprintable() and 0 < len(prefix) <= 64):
        raise ImproperlyConfigured(f"REALTIME_PREFIX is 1 to 64 printable ASCII characters, not {prefix!r}")
    if set("{} ") & set(prefix):
        raise ImproperlyConfigured(f"REALTIME_PREFIX has no braces and no spaces: {prefix!r}")
    origins = getattr(settings, "REALTIME_ALLOWED_ORIGINS", None)
    max_message = int(_positive("REALTIME_MAX_MESSAGE_BYTES", MAX_MESSAGE_BYTES))
    return Conf(
        backends=_backends(getattr(settings, "REALTIME", {})),
        redis_url=getattr(settings, "REALTIME_REDIS_URL", None) or None,
        prefix=prefix,
        timeout=_positive("REALTIME_TIMEOUT", 2.0),
        flag=getattr(settings, "REALTIME_FLAG", "realtime_channels"),
        force_backend=force,
        ws_path=ws_path,
        max_message=max_message,
        max_backlog=int(_positive("REALTIME_MAX_BACKLOG_BYTES", 1_048_576)),
        history=_history(),
        origins=None if origins is None else tuple(origins),
        limits=replace(_dataclass(Limits, "REALTIME_LIMITS"), max_message=max_message),
        pace=_dataclass(Pace, "REALTIME_PACE"),
    )


@receiver(setting_changed)
def _forget(*, setting: str, **_: object) -> None:
    if setting.startswith("REALTIME"):
        conf.cache_clear()


def _positive(name: str, default: float) -> float:
    value = getattr(settings, name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ImproperlyConfigured(f"{name} is a number over 0, not {value!r}")
    return value


def _history() -> History:
    size = getattr(settings, "REALTIME_HISTORY_SIZE", History().size)
    ttl = getattr(settings, "REALTIME_HISTORY_TTL", History().ttl)
    try:
        return History(size, ttl)
    except ValueError as error:
        raise ImproperlyConfigured(f"REALTIME_HISTORY_SIZE, REALTIME_HISTORY_TTL: {error}") from None


def _backends(entries: object) -> dict[str, BackendConf]:
    if not isinstance(entries, Mapping):
        raise ImproperlyConfigured(f"REALTIME is a dict with 'legacy' and 'channels', not {type(entries).__name__}")
    backends = {}
    for name, entry in entries.items():
        if name not in BACKENDS:
            raise ImproperlyConfigured(f"REALTIME has 'legacy' and 'channels', not {name!r}")
        if not isinstance(entry, Mapping) or not isinstance(entry.get("BACKEND"), str):
            raise ImproperlyConfigured(f"REALTIME[{name!r}] is a dict with 'BACKEND': a dotted path")
        backends[name] = BackendConf(name, entry["BACKEND"], str(entry.get("URL", "")), entry.get("OPTIONS") or {})
    return backends


def _dataclass[T: (Limits, Pace)](kind: type[T], setting: str) -> T:
    values = getattr(settings, setting, {})
    known = {field.name for field in fields(kind)} - {"max_message"}
    if not isinstance(values, Mapping) or not set(values) <= known:
        raise ImproperlyConfigured(f"{setting} is a dict with some of {sorted(known)}, not {values!r}")
    for name, value in values.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name != "reconnect" and (not is_number or value < 0):
            raise ImproperlyConfigured(f"{setting}[{name!r}] is a number from 0 on, not {value!r}")
    return kind(**values)
