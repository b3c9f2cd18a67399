"""What ws4redis's documentation has uWSGI run under `--gevent` to serve WebSockets."""

import os
from base64 import b64encode
from hashlib import sha1

import gevent.socket
import redis.connection
import uwsgi

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.mixed.oldsite.settings")
redis.connection.socket = gevent.socket  # type: ignore[attr-defined]

import django  # noqa: E402

django.setup()

from ws4redis.uwsgi_runserver import uWSGIWebsocketServer  # noqa: E402


def websocket_handshake(key: str, origin: str = "", protocol: str = "") -> None:
    """uWSGI's own, which the wheels leave out: they are built without OpenSSL, and it takes SHA-1 from there."""
    accept = b64encode(sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())  # RFC 6455, 4.2.2
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    os.write(uwsgi.connection_fd(), b"%bSec-WebSocket-Accept: %b\r\n\r\n" % (head, accept))


uwsgi.websocket_handshake = websocket_handshake

application = uWSGIWebsocketServer()
