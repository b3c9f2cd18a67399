"""The demo's servers behind a front door."""

from settings.demo import *  # noqa: F403
from settings.demo import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.deploy"]

# Short, so that a test sees what comes after it. A late move keeps its 30 s, so that it is not taken for a quick one.
REALTIME_PACE = {"drain": 1.0, "move_least": 0.3}
