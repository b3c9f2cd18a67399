"""What the servers of these tests run with: the demo's settings, the contract app, and what a test asks for."""

import json
import os

from settings.demo import *  # noqa: F403
from settings.demo import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "contract_tests.app"]
ROOT_URLCONF = "tests.integration.contract.urls"
SESSION_ENGINE = "tests.integration.contract.sessions"
CONTRACT_NOTES = os.environ["CONTRACT_NOTES"]

# Clients here know one address, as a client with a fixed address does: it is moved a minute after it arrived. None of
# them has asked where to go, so none is late.
REALTIME_PACE = {"drain": 1.0, "stale": 0.0, **json.loads(os.environ.get("CONTRACT_PACE", "{}"))}
REALTIME_HISTORY_SIZE = 100  # contract 5.1, which the demo exceeds
REALTIME_LIMITS = json.loads(os.environ.get("CONTRACT_LIMITS", "{}"))
REALTIME_MAX_MESSAGE_BYTES = int(os.environ.get("CONTRACT_MAX_MESSAGE_BYTES", "1048576"))
