"""`ws4redis.wsgi_server`: the WSGI application for WebSockets alone, beside which a project puts Django's own.

`legacy_ws4redis.application.WebsocketApplication` serves both, and is the better choice in new code.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIEnvironment

import django
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

from legacy_ws4redis.application import WebsocketApplication
from legacy_ws4redis.exceptions import HandshakeError, UpgradeRequiredError, WebSocketError
from shim.ws4redis.facility import subscriber_kind
from shim.ws4redis.settings import ws4redis

__all__ = ["HandshakeError", "UpgradeRequiredError", "WebSocketError", "WebsocketWSGIServer"]

_REPLACED: Final = {
    "process_request": "set WS4REDIS_PROCESS_REQUEST to a function of the request, which both backends call",
    "process_subscriptions": "set WS4REDIS_ALLOWED_CHANNELS or WS4REDIS_SUBSCRIBER, which both backends go by",
    "upgrade_websocket": "any WSGI server that realtime shim supports is found by itself",
    "select": "any WSGI server that realtime shim supports is found by itself",
    "assure_protocol_requirements": "the handshake is checked by the rules of the contract (1.1)",
}
"""What subclasses may have overridden, and what there is for it."""


class WebsocketWSGIServer:
    """Serves WebSockets under `WEBSOCKET_URL`, and 404 elsewhere. Sets Django up where nobody has.

    Args:
        redis_connection: not used any more; tests gave one.

    Raises:
        ImproperlyConfigured: a subclass overrides what is not called any more. Authentication that silently is not
            asked would be worse.
    """

    def __init__(self, redis_connection: object = None) -> None:
        del redis_connection
        for name, remedy in _REPLACED.items():
            if hasattr(type(self), name):
                raise ImproperlyConfigured(
                    f"{type(self).__qualname__}.{name}() would never be called: {remedy} (docs/reference/ws4redis.md)"
                )
        if not apps.ready:
            django.setup(set_prefix=False)
        kind = subscriber_kind(ws4redis().subscriber)
        self.possible_channels = [*kind.subscription_channels, *kind.publish_channels]
        self._application: Callable[..., Any] = WebsocketApplication(_nothing_else)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request; a WebSocket is served until it ends."""
        served: Iterable[bytes] = self._application(environ, start_response)
        return served


def _nothing_else(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body = b"this address serves WebSockets alone"
    start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
