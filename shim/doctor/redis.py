"""What Redis says of itself, and who listens there."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from shim.api import sync_bus
from shim.bus.endpoint import is_memory
from shim.conf import Conf
from shim.core.errors import RealtimeUnavailable
from shim.core.wires import Ws4redisWire
from shim.doctor.finding import DEPLOY, SETTINGS, WIRE, Finding, found
from shim.ws4redis.settings import ws4redis

LEAST_REDIS: Final = 7
LEAST_VALKEY: Final = 8

type _Ask = Callable[..., str]


def redis(conf: Conf) -> Iterator[Finding]:
    """Whether it answers, whether it is new enough, what it forgets, and who else listens."""
    if conf.redis_url is None or is_memory(conf.redis_url):
        return  # E006 and E020 say what is wrong with that; and an embedded Valkey is not started by a doctor
    bus = sync_bus()
    try:
        bus.ping()
    except RealtimeUnavailable as error:
        yield found(
            "error",
            "D016",
            f"{error}",
            "Nothing can be published or received, and every handshake is refused with 503.",
            "Let it answer to this machine, too.",
            f"{SETTINGS}#for-every-project",
        )
        return
    for part in (_version, _eviction, partial(_old_listeners, conf)):
        try:
            yield from part(partial(_text, bus.execute))
        except RealtimeUnavailable as error:
            yield found(
                "note",
                "D017",
                f"Redis could not be asked everything: {error}",
                "Version, memory and listeners are looked at; a user with few rights may not ask.",
                "Nothing, where that is meant.",
            )


def _text(execute: Callable[..., Any], *command: str) -> str:
    reply = execute(*command)
    if isinstance(reply, list):
        return "\n".join(each.decode(errors="replace") for each in reply)
    return reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)


def _fields(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _version(ask: _Ask) -> Iterator[Finding]:
    info = _fields(ask("INFO", "server"))
    valkey = info.get("valkey_version")
    version, least = (valkey, LEAST_VALKEY) if valkey else (info.get("redis_version", ""), LEAST_REDIS)
    major = re.match(r"\d+", version or "")
    if major and int(major[0]) < least:
        yield found(
            "error",
            "D018",
            f"{'Valkey' if valkey else 'Redis'} {version} is too old.",
            "Its scripts and streams are not those that are used.",
            f"Redis {LEAST_REDIS} or later, or Valkey {LEAST_VALKEY} or later.",
            f"{SETTINGS}#for-every-project",
        )


def _eviction(ask: _Ask) -> Iterator[Finding]:
    info = _fields(ask("INFO", "memory"))
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory", "0") != "0" and policy != "noeviction":
        yield found(
            "warning",
            "D019",
            f"Redis may evict keys when its memory is full ({policy}).",
            "A topic whose keys go loses its history and its numbers: clients are told a gap.",
            "maxmemory-policy noeviction, on a Redis that is not a cache.",
            DEPLOY,
        )


def _old_listeners(conf: Conf, ask: _Ask) -> Iterator[Finding]:
    """Processes that still listen to ws4redis's channels, whichever wire is ours."""
    if isinstance(conf.wire, Ws4redisWire):
        lines = ask("CLIENT", "LIST", "TYPE", "pubsub").splitlines()
        others = [line for line in lines if "name=realtime-" not in line]
        if not others:
            yield found(
                "note",
                "D020",
                "REALTIME_WIRE is 'ws4redis', and nobody but our own processes subscribes to anything on this Redis.",
                "The old processes seem to be gone, or nobody is connected to them just now.",
                "If they are gone: take REALTIME_WIRE out, and restart all processes at once.",
                f"{WIRE}#from-one-wire-to-the-other",
            )
        return
    prefix = re.sub(r"([\\*?\[\]^-])", r"\\\1", f"{ws4redis().prefix}:" if ws4redis().prefix else "")
    channels = [
        channel
        for pattern in ("broadcast:*", "user:*:*", "group:*:*", "session:*:*")
        for channel in ask("PUBSUB", "CHANNELS", prefix + pattern).split("\n")
        if channel
    ]
    if channels:
        named = re.sub(r"(\bsession:.{,4})[^:]*", r"\1…", channels[0])  # the key is a credential
        yield found(
            "warning",
            "D021",
            f"Somebody listens to {len(channels)} channels with names of ws4redis, {named!r} for one.",
            "Processes with the original package, or ours with REALTIME_WIRE = 'ws4redis', hear nothing of what is "
            "published here.",
            "Stop the old processes, or set REALTIME_WIRE = 'ws4redis' as long as there are any.",
            f"{WIRE}#from-one-wire-to-the-other",
        )
