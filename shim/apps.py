"""The Django app."""

import logging
from typing import Any

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_out

logger = logging.getLogger("realtime")


class ShimConfig(AppConfig):
    """`INSTALLED_APPS = [..., "shim"]`: discovers facilities, watches the flag and sign-outs, adds system checks."""

    name = "shim"
    label = "realtime_shim"
    verbose_name = "realtime shim"

    def ready(self) -> None:
        """Called by Django once all apps are loaded."""
        from shim import checks, facility, rollout  # noqa: F401, PLC0415  # they need the app registry

        facility.discover()
        rollout.connect_signals()
        user_logged_out.connect(_signed_out, dispatch_uid="realtime-signed-out")


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
