"""System checks of the compatible mode; values of settings are checked by `shim.checks` (E022)."""

from collections.abc import Callable
from importlib.machinery import PathFinder
from typing import Any, Final

from django.core import checks
from django.core.exceptions import ImproperlyConfigured, PermissionDenied

from shim.checks import TAG, Found
from shim.conf import read
from shim.ws4redis.facility import hook, subscriber_kind
from shim.ws4redis.subscriber import UNUSED, RedisSubscriber

OLD_PACKAGE: Final = "ws4redis"


@checks.register(TAG)
def check_callbacks(**_: Any) -> Found:
    """What ws4redis's settings name: E023, W011."""
    values = read()[0].ws4redis
    if values is None:
        return []
    found: Found = []
    for setting, asked in (
        ("WS4REDIS_ALLOWED_CHANNELS", lambda: hook(values.allowed_channels)),
        ("WS4REDIS_PROCESS_REQUEST", lambda: hook(values.process_request)),
        ("WS4REDIS_SUBSCRIBER", lambda: subscriber_kind(values.subscriber)),
    ):
        found += _faults(setting, asked)
    if found:
        return found
    kind = subscriber_kind(values.subscriber)
    overridden = [name for name in UNUSED if getattr(kind, name, None) is not getattr(RedisSubscriber, name)]
    if overridden:
        found.append(
            checks.Warning(
                f"WS4REDIS_SUBSCRIBER's {kind.__qualname__} overrides {', '.join(overridden)}, which nothing calls.",
                hint="Messages reach a client by themselves. What is called is set_pubsub_channels, publish_message "
                "and release: see docs/reference/ws4redis.md.",
                id="realtime.W011",
            )
        )
    return found


def _faults(setting: str, asked: Callable[[], object]) -> Found:
    try:
        asked()
    except (ImproperlyConfigured, PermissionDenied) as error:
        return [
            checks.Error(
                f"{setting} cannot be used: {error}",
                hint="Every compatible connection is refused until it can. (ws4redis let everybody in where a callback "
                "could not be found.)",
                id="realtime.E023",
            )
        ]
    return []


@checks.register(TAG)
def check_original_package(**_: Any) -> Found:
    """Whose `ws4redis` an import would get: E024."""
    if read()[0].ws4redis is None:
        return []
    spec = PathFinder.find_spec(OLD_PACKAGE)
    if spec is None or "legacy_ws4redis" in (spec.origin or ""):  # our own stand-in, on an installed copy
        return []
    return [
        checks.Error(
            f"REALTIME_WS4REDIS is on, and the original ws4redis is installed as well: {spec.origin}.",
            hint="pip uninstall django-websocket-redis. Processes that still need it have an environment of their own.",
            id="realtime.E024",
        )
    ]


@checks.register(TAG, checks.Tags.security, deploy=True)
def check_publishing(**_: Any) -> Found:
    """Who may publish: W010 (contract 1.3)."""
    values = read()[0].ws4redis
    if values is None or values.allowed_channels is not None:
        return []
    return [
        checks.Warning(
            "Any visitor may publish to everyone of every compatible facility: REALTIME_WS4REDIS is on, and "
            "WS4REDIS_ALLOWED_CHANNELS is not set.",
            hint="Let WS4REDIS_ALLOWED_CHANNELS name a function of (request, channels) that returns those channels "
            "that this visitor may use, or raises PermissionDenied.",
            id="realtime.W010",
        )
    ]
