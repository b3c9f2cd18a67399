"""What the swap adds to a project's settings."""

import os

from newsroom.settings import *  # noqa: F403
from newsroom.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "waffle", "shim"]
REALTIME = {
    "legacy": {
        "BACKEND": "legacy_ws4redis.backend.LegacyBackend",
        "URL": os.environ.get("NEWSROOM_LEGACY_URL", ""),
    },
    "channels": {
        "BACKEND": "channels_impl.backend.ChannelsBackend",
        "URL": os.environ.get("NEWSROOM_CHANNELS_URL", ""),
    },
}
REALTIME_WS4REDIS = True
