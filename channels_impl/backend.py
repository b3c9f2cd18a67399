"""The channels backend, as `REALTIME["channels"]["BACKEND"]` names it."""

from collections.abc import Sequence
from typing import ClassVar

from django.core.checks import CheckMessage

from shim.backends import BaseBackend
from shim.core.cohorts import CHANNELS, Cohort
from shim.packages import check_packages


class ChannelsBackend(BaseBackend):
    """WebSocket on ASGI: gunicorn with `channels_impl.worker.RealtimeWorker`; other servers: `channels_impl.line`.

    Attributes:
        sees_http_version: uvicorn hands the request on with a version of its own.
    """

    cohort: ClassVar[Cohort] = CHANNELS
    sees_http_version: ClassVar[bool] = False

    def check(self) -> Sequence[CheckMessage]:
        """What a process that serves it needs."""
        return check_packages(
            self.entry.name, "channels", {"channels": "4.2", "uvicorn": "0.52.1", "websockets": "15.0"}
        )
