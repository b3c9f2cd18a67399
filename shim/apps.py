"""The Django app."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.contrib.auth.signals import user_logged_in, user_logged_out

logger = logging.getLogger("realtime")


class ShimConfig(AppConfig):
    """`INSTALLED_APPS = [..., "shim"]`: discovers facilities, watches the flag and sign-outs, adds system checks."""

    name = "shim"
    label = "realtime_shim"
    verbose_name = "realtime shim"

    def __init__(self, app_name: str, app_module: Any) -> None:
        """Made while Django goes through INSTALLED_APPS; `ws4redis` may be one of the next."""
        super().__init__(app_name, app_module)
        if getattr(settings, "REALTIME_WS4REDIS", False) is True:
            _let_backends_offer_names()

    def ready(self) -> None:
        """Called by Django once all apps are loaded."""
        from shim import checks, facility, rollout  # noqa: F401, PLC0415  # they need the app registry
        from shim.ws4redis import checks as _  # noqa: F401, PLC0415  # likewise
        from shim.ws4redis import session, wire  # noqa: F401, PLC0415

        facility.discover()
        rollout.connect_signals()
        user_logged_out.connect(_signed_out, dispatch_uid="realtime-signed-out")
        user_logged_in.connect(session.remember_groups, dispatch_uid="realtime-ws4redis-groups")


def _let_backends_offer_names() -> None:
    """Import the packages that `REALTIME` names: one of them makes `import ws4redis` possible."""
    entries = getattr(settings, "REALTIME", None)
    for entry in entries.values() if isinstance(entries, Mapping) else ():
        with suppress(ImportError, TypeError, AttributeError, KeyError, ValueError):  # system checks tell what is wrong
            import_module(entry["BACKEND"].partition(".")[0])


def _signed_out(*, user: Any, **_: object) -> None:
    """Signing out ends the user's connections everywhere (contract 7.5)."""
    from shim.api import realtime  # noqa: PLC0415  # as above
    from shim.core.errors import RealtimeError  # noqa: PLC0415
    from shim.core.names import User  # noqa: PLC0415

    if user is None:
        return
    try:
        realtime.disconnect(User(str(user.get_username())))
    except RealtimeError:
        logger.exception("%r signed out, but realtime connections could not be told to end", user.get_username())
