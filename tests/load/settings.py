"""What the servers of a load run with: the demo's settings, and the pace that is tried."""

import json
import os

from settings.demo import *  # noqa: F403

REALTIME_PACE = {
    "drain": 1.0,
    "admissions": 10_000.0,  # whether handshakes wait is what is measured: none may be refused in place of it
    "admission_burst": 10_000.0,
    **json.loads(os.environ.get("LOAD_PACE", "{}")),
}
