"""The floor: one process that answers handshakes with the least that a browser accepts, and writes ready frames.

`python -m benchmarks.servers.floor PORT REDIS_URL`: one Redis subscription; each message becomes one frame, which is
given to each socket with `send`, in a loop. No protocol, no user, no back-pressure: what no server can do without.
"""

import base64
import hashlib
import selectors
import socket
import sys
from typing import Any, Final

import redis

GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def frame(body: bytes) -> bytes:
    """A text frame."""
    size = len(body)
    return b"\x81" + (bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2)) + body


def accept_for(key: bytes) -> bytes:
    """The answer to a handshake (RFC 6455, section 1.3)."""
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())  # noqa: S324  # the protocol's choice
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept
        + b"\r\n\r\n"
    )


def main(port: int, redis_url: str) -> None:
    """Serve until killed."""
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    client: Any = redis.Redis.from_url(redis_url)
    subscription = client.pubsub(ignore_subscribe_messages=True)
    subscription.subscribe("floor")
    subscription.get_message(timeout=5)
    sockets: list[socket.socket] = []
    with selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        ready.register(subscription.connection._sock, selectors.EVENT_READ)  # noqa: SLF001  # redis-py offers no other
        while True:
            for key, _ in ready.select():
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    if answer(connection):
                        sockets.append(connection)
                    continue
                while (message := subscription.get_message()) is not None:
                    data = frame(message["data"])
                    for each in sockets:
                        each.send(data)


def answer(connection: socket.socket) -> bool:
    """Take a handshake, and accept it; whether one came."""
    head = b""
    while b"\r\n\r\n" not in head:
        got = connection.recv(4096)
        if not got:
            return False
        head += got
    key = next(
        line.split(b":")[1].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")
    )
    connection.sendall(accept_for(key))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return True


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
