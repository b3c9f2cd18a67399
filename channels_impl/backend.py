"""The channels backend, as `REALTIME["channels"]["BACKEND"]` names it."""

from typing import ClassVar

from shim.backends import BaseBackend
from shim.core.cohorts import CHANNELS, Cohort


class ChannelsBackend(BaseBackend):
    """WebSocket on ASGI: gunicorn with `channels_impl.worker.RealtimeWorker`; other servers: `channels_impl.line`.

    Attributes:
        sees_http_version: uvicorn hands the request on with a version of its own.
    """

    cohort: ClassVar[Cohort] = CHANNELS
    sees_http_version: ClassVar[bool] = False
