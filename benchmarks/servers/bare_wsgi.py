"""A floor: uWSGI with a greenlet that accepts every WebSocket on the server's descriptor, and waits for its end."""

import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

import uwsgi

from benchmarks.servers.floor import accept_for


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Serve one connection."""
    key = environ.get("HTTP_SEC_WEBSOCKET_KEY")
    if key is None:
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]
    with socket.socket(fileno=os.dup(uwsgi.connection_fd())) as connection:
        connection.sendall(accept_for(key.encode()))
        while connection.recv(4096):
            pass
    return []
