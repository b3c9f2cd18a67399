"""Django's settings of the suite's own servers, and of the process that judges them."""

import json
import os

from contract_tests.app.pace import PACE

SECRET_KEY = "not-a-secret: of the contract suite alone"  # noqa: S105  # and it says so
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
USE_TZ = True
ROOT_URLCONF = "contract_tests.project.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "waffle",
    "shim",
    "contract_tests.app",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DJANGO_DATABASE", ":memory:"),
        "OPTIONS": {
            # Nothing here must outlive a crash of the machine.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
        },
    }
}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}

CONTRACT_NOTES = os.environ.get("CONTRACT_NOTES", ".")

REALTIME = {
    "legacy": {
        "BACKEND": "legacy_ws4redis.backend.LegacyBackend",
        "URL": os.environ.get("REALTIME_LEGACY_URL", ""),
    },
    "channels": {
        "BACKEND": "channels_impl.backend.ChannelsBackend",
        "URL": os.environ.get("REALTIME_CHANNELS_URL", ""),
    },
}
REALTIME_REDIS_URL = os.environ.get("REALTIME_REDIS_URL")
REALTIME_PREFIX = os.environ.get("REALTIME_PREFIX", "rt")
REALTIME_FORCE_BACKEND = os.environ.get("REALTIME_FORCE_BACKEND")
REALTIME_PACE = PACE

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {process} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}

# What an act of the suite wants otherwise (contract_tests.acts).
globals().update(json.loads(os.environ.get("CONTRACT_SETTINGS", "{}")))
