"""The upgraded half of the fleet: Django as pinned, both backends, on ws4redis's wire."""

import os

from contract_tests.project.settings import *  # noqa: F403

SECRET_KEY = "not-a-secret: of the mixed fleet alone"  # the old processes have it, too: sessions are shared
ROOT_URLCONF = "contract_tests.project.urls"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "waffle",
    "shim",
    "tests.mixed.newsite",
]
REALTIME_WIRE = os.environ.get("REALTIME_WIRE", "ws4redis")
WS4REDIS_PREFIX = os.environ.get("OLD_PREFIX", "")
