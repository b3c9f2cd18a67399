"""Django's development server, offering its sockets.

Theory of operation. `runserver` serves each connection with a request handler, in a thread of its own. Ours puts an
`Offer` for the connection's socket into the WSGI environment of every request (PEP 3333 allows servers to add such
keys). When an application takes it, the handler leaves the connection alone: the application's iterable is closed
unread, nothing is written, no further request is read, and the line in the log says 101.

Without threads one WebSocket would stop the whole server, so under `--nothreading` nothing is offered.

`application` is ws4redis's: `WSGI_APPLICATION = "ws4redis.django_runserver.application"`. It is made when it is asked
for, which is when a server loads its application. Under `runserver` that is just before the server is made; so with
this setting another app's `runserver` offers its sockets, too, wherever `ws4redis` stands in INSTALLED_APPS.
"""

import io
import socket
import socketserver
import threading
from collections.abc import Iterable
from typing import Any, cast
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from django.core.management.commands import runserver
from django.core.servers import basehttp
from django.core.wsgi import get_wsgi_application

from legacy_ws4redis.handshake import RUNSERVER, Offer


class WSGIRequestHandler(basehttp.WSGIRequestHandler):
    """Django's handler, which offers its socket."""

    def get_environ(self) -> WSGIEnvironment:
        """Django's environment, with the offer."""
        environ: WSGIEnvironment = super().get_environ()
        if isinstance(self.server, socketserver.ThreadingMixIn):
            environ[RUNSERVER] = Offer(cast("socket.socket", self.connection), self._read_ahead, self._leave)
        return environ

    def _read_ahead(self) -> bytes:
        """What `rfile`'s buffer holds behind the request; never waits."""
        connection, rfile = cast("socket.socket", self.connection), cast("io.BufferedReader", self.rfile)
        timeout = connection.gettimeout()
        connection.settimeout(0)
        try:
            return rfile.read(len(rfile.peek()))  # peek() reads the socket at most once
        finally:
            connection.settimeout(timeout)

    def _leave(self) -> None:
        self.close_connection = True
        self.log_request(101, "-")


class WSGIServer(basehttp.WSGIServer):
    """Django's server, with the handler above."""

    def __init__(self, server_address: Any, _handler_class: Any, **options: Any) -> None:
        """As Django's, whatever handler it names: `runserver` has no setting for it."""
        super().__init__(server_address, WSGIRequestHandler, **options)

    def set_app(self, application: WSGIApplication | None) -> None:
        """Serve an application."""
        super().set_app(None if application is None else _Hands(application))


class _Hands:
    """An application whose response is dropped when it took the socket."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        result = self._application(environ, start_response)
        offer = environ.get(RUNSERVER)
        if offer is None or not offer.is_taken:
            return result
        if hasattr(result, "close"):
            result.close()
        # wsgiref.handlers.BaseHandler.run() ends a request on this without a word and without a response.
        raise ConnectionAbortedError("the socket was taken over")


def __getattr__(name: str) -> WSGIApplication:
    if name != "application":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _making:
        if "application" not in globals():
            django_application = get_wsgi_application()
            # It stands on models, which are there from here on.
            from legacy_ws4redis.application import WebsocketApplication  # noqa: PLC0415

            if runserver.Command.server_cls is basehttp.WSGIServer:
                runserver.Command.server_cls = WSGIServer
            globals()["application"] = WebsocketApplication(django_application)
    made: WSGIApplication = globals()["application"]
    return made


_making = threading.Lock()
