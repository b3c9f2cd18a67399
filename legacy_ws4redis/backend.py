"""The legacy backend, as `REALTIME["legacy"]["BACKEND"]` names it."""

from typing import ClassVar

from shim.backends import BaseBackend
from shim.core.cohorts import LEGACY, Cohort


class LegacyBackend(BaseBackend):
    """WebSocket on WSGI: uWSGI with gevent first, gunicorn and `runserver` too."""

    cohort: ClassVar[Cohort] = LEGACY
