"""A floor: a greenlet and a socket for each connection. `python -m benchmarks.servers.greenlets PORT`."""

import sys
from typing import Any

from gevent import monkey

monkey.patch_all()

from gevent.server import StreamServer  # noqa: E402  # after the patch

from benchmarks.servers.floor import answer  # noqa: E402


def serve(connection: Any, _: object) -> None:
    """One connection: the handshake, then whatever comes until it ends."""
    if answer(connection):
        while connection.recv(4096):
            pass


if __name__ == "__main__":
    StreamServer(("127.0.0.1", int(sys.argv[1])), serve, backlog=2048).serve_forever()
