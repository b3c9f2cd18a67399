"""Somebody new every now and then, in a process of its own: how long each waits to be let in.

    python -m tests.load.visitor PAUSE URL URL

Says a line for each, `<monotonic time> <port> <milliseconds> <HTTP status>`, until its input ends; status 0: no answer.
"""

import select
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle
from typing import Final
from urllib.parse import urlsplit

TIMEOUT: Final = 30.0
AT_ONCE: Final = 200


def visit(url: str, name: str) -> int:
    """Come in: the handshake, `hello`, `ready`. Returns the HTTP status."""
    target = urlsplit(url)
    request = (
        f"GET {target.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: realtime.v1\r\nCookie: realtime_anonymous={name}\r\n\r\n"
    )
    with socket.create_connection((target.hostname, target.port), TIMEOUT) as line:
        line.sendall(request.encode())
        got = b""
        while b"\r\n\r\n" not in got:
            got += _more(line)
        status = int(got.split(b" ", 2)[1])
        if status == 101:
            line.sendall(b'\x81\x8e\x00\x00\x00\x00{"op":"hello"}')
            while b'{"op":"ready"' not in got:
                got += _more(line)
            line.sendall(b"\x88\x82\x00\x00\x00\x00\x03\xe8")
    return status


def _more(line: socket.socket) -> bytes:
    data = line.recv(65_536)
    if not data:
        raise ConnectionError("the server hung up")
    return data


def main(pause: float, urls: list[str]) -> None:
    """Let one come after the other, at fixed times, however long those before them take."""
    next_at = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, url in zip(count(), cycle(urls)):
            next_at += pause
            if select.select([sys.stdin], [], [], max(0.0, next_at - time.monotonic()))[0]:
                return
            pool.submit(tell, next_at, url, f"visitor-{number}")


def tell(at: float, url: str, name: str) -> None:
    """Visit, and say how it was."""
    began = time.monotonic()
    try:
        status = visit(url, name)
    except OSError:
        status = 0
    taken = time.monotonic() - began
    sys.stdout.write(f"{at:.6f} {urlsplit(url).port} {taken * 1000:.3f} {status}\n")


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
