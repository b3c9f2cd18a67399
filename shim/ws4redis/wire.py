"""System checks of ws4redis's wire (`REALTIME_WIRE = "ws4redis"`); what it is, is in docs/reference/wire.md."""

from typing import Any

from django.conf import settings
from django.core import checks

from shim.bus.endpoint import Endpoint
from shim.checks import TAG, Found
from shim.conf import read
from shim.facility import facilities
from shim.ws4redis.settings import redis_url


@checks.register(TAG)
def check_facilities(**_: Any) -> Found:
    """Names that this wire cannot tell apart: E026 (contract 3.3)."""
    if read()[0].wire.has_positions:
        return []
    return [
        checks.Error(
            f"The facility {each.name!r} has a colon in its name, and REALTIME_WIRE is 'ws4redis'.",
            hint="On that wire only Everyone() of such a facility has a name of its own. Let its audiences() give "
            "nothing else and silence this, or rename it; see docs/reference/wire.md.",
            id="realtime.E026",
        )
        for each in facilities()
        if ":" in each.name
    ]


@checks.register(TAG)
def check_place(**_: Any) -> Found:
    """Whether the old processes are on the same Redis, as far as the settings know: W014."""
    conf = read()[0]
    if conf.wire.has_positions or conf.redis_url is None or not hasattr(settings, "WS4REDIS_CONNECTION"):
        return []
    try:
        there = Endpoint.of(redis_url())
    except ValueError:
        return []  # E022 says so
    here = Endpoint.of(conf.redis_url)
    if there.shown == here.shown:
        return []
    return [
        checks.Warning(
            f"REALTIME_WIRE is 'ws4redis', and WS4REDIS_CONNECTION is {there.shown}, but REALTIME_REDIS_URL "
            f"{here.shown}.",
            hint="Processes with the original package hear only what is published on their own Redis and database. "
            "Give the same to both; if these two are the same under two names, silence this.",
            id="realtime.W014",
        )
    ]


@checks.register(TAG, deploy=True)
def check_switch(**_: Any) -> Found:
    """Whether the switch to our own wire is still to be made: W013."""
    if read()[0].wire.has_positions:
        return []
    return [
        checks.Warning(
            "REALTIME_WIRE is 'ws4redis': no client can resume, and every move is a reconnect.",
            hint="Once no process with django-websocket-redis is left, take the setting out and restart all processes "
            "at once: docs/reference/wire.md.",
            id="realtime.W013",
        )
    ]
