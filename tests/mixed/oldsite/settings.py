import os

SECRET_KEY = "not-a-secret: of the mixed fleet alone"  # the upgraded processes have it, too: sessions are shared
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "ws4redis"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DJANGO_DATABASE", ":memory:"),
        "OPTIONS": {"timeout": 20},
    }
}

WEBSOCKET_URL = "/ws/"
WS4REDIS_CONNECTION = {"host": "127.0.0.1", "port": int(os.environ.get("OLD_REDIS_PORT", "6379")), "db": 0}
WS4REDIS_PREFIX = os.environ.get("OLD_PREFIX", "")
WS4REDIS_EXPIRE = 60
