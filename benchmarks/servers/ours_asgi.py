"""Ours on ASGI, for gunicorn with our worker."""

from django.core.asgi import get_asgi_application

_django = get_asgi_application()

from channels_impl.application import RealtimeApplication  # noqa: E402  # its modules need Django's settings

application = RealtimeApplication(_django)
