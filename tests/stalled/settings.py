"""What the servers of these runs have: the demo's settings, and the backlog limit that is asked for."""

import os

from settings.demo import *  # noqa: F403
from settings.demo import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "contract_tests.app"]  # its facility lets a client say what it listens to
CONTRACT_NOTES = os.environ["STALLED_NOTES"]

REALTIME_PACE = {"drain": 1.0, "admissions": 10_000.0, "admission_burst": 10_000.0}
REALTIME_MAX_BACKLOG_BYTES = int(os.environ.get("STALLED_BACKLOG", "1048576"))
REALTIME_LIMITS = {
    "heartbeat": 600.0
}  # who takes nothing is silent, too: it is to be closed for the one, not the other
