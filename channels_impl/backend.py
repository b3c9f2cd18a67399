"""The channels backend, as `REALTIME["channels"]["BACKEND"]` names it."""

from typing import ClassVar

from shim.backends import BaseBackend
from shim.core.cohorts import CHANNELS, Cohort


class ChannelsBackend(BaseBackend):
    """WebSocket on ASGI: gunicorn with `channels_impl.worker.RealtimeWorker`, or plain uvicorn.

    Attributes:
        pings_raw: ASGI has no ping; uvicorn pings, told to by the worker with the same interval.
    """

    cohort: ClassVar[Cohort] = CHANNELS
    pings_raw: ClassVar[bool] = False
