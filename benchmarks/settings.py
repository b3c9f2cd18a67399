"""Django's settings for the processes of a benchmark: as a project has them, and what the environment says."""

import json
import os

from settings.base import *  # noqa: F403  # the same apps, sessions and database options as the servers'

SECRET_KEY = "not-a-secret: of the benchmarks alone"  # noqa: S105  # and it says so
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
REALTIME_REDIS_URL = os.environ["REALTIME_REDIS_URL"]
LOGGING["root"]["level"] = "WARNING"  # type: ignore[index]  # noqa: F405
INSTALLED_APPS = [*INSTALLED_APPS, "benchmarks.servers"]  # noqa: F405
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [REALTIME_REDIS_URL]},
    }
}
# Everybody comes at once, and stays where they come to.
REALTIME_PACE = {"admissions": 100_000.0, "admission_burst": 100_000.0, "arrival": 3_600.0}
# Clients that only count bytes answer no pings: no server sends any meanwhile.
REALTIME_LIMITS = {"heartbeat": 3_600.0}

globals().update(json.loads(os.environ.get("BENCH_SETTINGS", "{}")))
