"""The ASGI application: HTTP, and WebSockets by the channels backend."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings.channels")
_django = get_asgi_application()

from channels_impl.application import RealtimeApplication  # noqa: E402 - its modules need Django's settings

application = RealtimeApplication(_django)
