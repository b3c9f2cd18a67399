"""`ws4redis.uwsgi_runserver`: WebSockets under uWSGI, as a project's `wsgi.py` imports it."""

from legacy_ws4redis.wsgi_server import WebsocketWSGIServer

__all__ = ["uWSGIWebsocketServer"]


class uWSGIWebsocketServer(WebsocketWSGIServer):  # noqa: N801  # ws4redis's name
    """The same as its base class, which knows uWSGI among others."""
