"""The WSGI application: HTTP, and WebSockets by the legacy backend."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings.legacy")
_django = get_wsgi_application()

from legacy_ws4redis.application import WebsocketApplication  # noqa: E402 - its modules need Django's settings

application = WebsocketApplication(_django)
