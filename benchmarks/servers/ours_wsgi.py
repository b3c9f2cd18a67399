"""Ours on WSGI, for uWSGI with gevent."""

from django.core.wsgi import get_wsgi_application

_django = get_wsgi_application()

from legacy_ws4redis.application import WebsocketApplication  # noqa: E402  # its modules need Django's settings

application = WebsocketApplication(_django)
