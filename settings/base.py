"""What every process of this checkout runs Django with; what a deployment decides comes from the environment.

`legacy` and `channels` are the two kinds of server process, `demo` is both of them on one machine, `test` stands alone.
"""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"  # all that is written at run time; not in git


def words(name: str) -> list[str]:
    """A comma-separated variable of the environment, as a list."""
    return [word.strip() for word in os.environ.get(name, "").split(",") if word.strip()]


SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "")  # empty: Django refuses to start, and says so
DEBUG = False
ALLOWED_HOSTS = words("DJANGO_ALLOWED_HOSTS")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "legacy_ws4redis",  # before staticfiles: its `runserver` offers sockets, and serves static files as theirs does
    "django.contrib.staticfiles",
    "waffle",
    "shim",
    "demo",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "shim.middleware.CohortCookieMiddleware",  # for a front door that routes by its cookie
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "demo.urls"
WSGI_APPLICATION = "demo.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "static/"
STATIC_ROOT = VAR_DIR / "static"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# One file for several processes: WAL lets them read while one writes; a transaction takes the write lock at its
# beginning, because SQLite refuses, without waiting, to turn a read into a write while somebody else writes.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DJANGO_DATABASE") or VAR_DIR / "db.sqlite3",
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
        },
    }
}

# waffle's own cache would hold the old flag in other processes; who asks waffle itself reads the database.
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "waffle": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
}
WAFFLE_CACHE_NAME = "waffle"

REALTIME = {
    "legacy": {
        "BACKEND": "legacy_ws4redis.backend.LegacyBackend",
        "URL": os.environ.get("REALTIME_LEGACY_URL", ""),  # empty: the host that was asked, which suits a front door
    },
    "channels": {
        "BACKEND": "channels_impl.backend.ChannelsBackend",
        "URL": os.environ.get("REALTIME_CHANNELS_URL", ""),
    },
}
REALTIME_REDIS_URL = os.environ.get("REALTIME_REDIS_URL")
REALTIME_PREFIX = os.environ.get("REALTIME_PREFIX", "rt")
REALTIME_FLAG = "realtime_channels"
REALTIME_FORCE_BACKEND = os.environ.get("REALTIME_FORCE_BACKEND")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {process} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {"django": {"handlers": ["stderr"], "level": "INFO", "propagate": False}},
}
