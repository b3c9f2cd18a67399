"""The other peer's way: a greenlet, a socket and a Redis connection with its own subscription for each connection.

`python -m benchmarks.servers.one_each PORT REDIS_URL`. This is how ws4redis 0.6 is built (its issue #295); it is
written anew here because the package itself needs Django 3 and an old Python.
"""

import select
import sys
from typing import Any

from gevent import monkey

monkey.patch_all()

import redis  # noqa: E402  # after the patch
from gevent.server import StreamServer  # noqa: E402

from benchmarks.servers.floor import answer, frame  # noqa: E402

URL = sys.argv[2] if len(sys.argv) > 2 else ""


def serve(connection: Any, _: object) -> None:
    """One connection: subscribe, answer, then pass on what either side says."""
    client: Any = redis.Redis.from_url(URL)
    subscription = client.pubsub()
    subscription.subscribe("ws4redis:broadcast:bench")
    if not answer(connection):
        return
    theirs = subscription.connection._sock.fileno()  # noqa: SLF001  # redis-py offers no other
    ready = select.poll()  # `select.select`, which it uses, knows no descriptor over 1023
    for descriptor in (theirs, connection.fileno()):
        ready.register(descriptor, select.POLLIN)
    while True:
        readable = {descriptor for descriptor, _ in ready.poll()}
        if theirs in readable:
            while (message := subscription.get_message()) is not None:
                if message["type"] == "message":
                    connection.sendall(frame(message["data"]))
        if connection.fileno() in readable and not connection.recv(4096):
            subscription.close()
            return


if __name__ == "__main__":
    StreamServer(("127.0.0.1", int(sys.argv[1])), serve, backlog=2048).serve_forever()
