"""The legacy backend, as `REALTIME["legacy"]["BACKEND"]` names it."""

from collections.abc import Sequence
from typing import ClassVar

from django.core.checks import CheckMessage

from shim.backends import BaseBackend
from shim.core.cohorts import LEGACY, Cohort
from shim.packages import check_packages


class LegacyBackend(BaseBackend):
    """WebSocket on WSGI: uWSGI with gevent first, gunicorn and `runserver` too."""

    cohort: ClassVar[Cohort] = LEGACY

    def check(self) -> Sequence[CheckMessage]:
        """What a process that serves it needs."""
        return check_packages(self.entry.name, "legacy", {"websockets": "15.0"})
