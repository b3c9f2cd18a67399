"""What both shells know about `websockets` and sockets: options, how an attempt failed, how a connection ended."""

import errno
import os
import selectors
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from websockets.exceptions import ConnectionClosed as WebSocketClosed
from websockets.exceptions import InvalidStatus, InvalidURI

from shim.client.errors import ClientError, DiscoveryError, HandshakeRefused
from shim.client.reconnect import Verdict, retry_after, verdict_of_status

CLOSE_TIMEOUT: Final = 2.0  # seconds for the other side's part of the closing handshake
SEND_TIMEOUT: Final = 10.0  # seconds for which a send waits for room in the socket
MAX_QUEUED_FRAMES: Final = 16  # in `websockets`, before it stops reading the socket
_MAX_REASON: Final = 300


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that came to nothing; the arguments of `Session.failed`."""

    reason: str
    status: int | None = None
    retry_after: float | None = None
    error: ClientError | None = None


def failure_of(error: Exception, url: str, *, ever_open: bool) -> Failure:
    """Sort out why an attempt failed.

    Args:
        error: what was raised.
        url: what was tried.
        ever_open: it has worked before. Then an answer that is not ours at all is a passing fault of
            something in between; on the first attempt the address is wrong, and trying it again hides that.
    """
    now = datetime.now(UTC)
    match error:
        case DiscoveryError(status=int(status)) if status >= 400:
            return Failure(str(error), status, retry_after(error.retry_after, now), error)
        case DiscoveryError(foreign=True) if not ever_open:
            return Failure(str(error), error=error)
        case InvalidStatus():
            response = error.response
            body = bytes(response.body or b"")[:_MAX_REASON].decode(errors="replace")
            refused = HandshakeRefused(response.status_code, body, url=url)
            wait = retry_after(response.headers.get("Retry-After"), now)
            final = verdict_of_status(response.status_code) is Verdict.STAY_AWAY
            return Failure(str(refused), response.status_code, wait, refused if final else None)
        case InvalidURI():
            return Failure(str(error), error=DiscoveryError(str(error), url=url))
        case DiscoveryError():
            return Failure(str(error))
        case _:
            return Failure(f"{url}: {type(error).__name__}: {error}"[:_MAX_REASON])


def end_of(error: WebSocketClosed) -> tuple[int, str, bool]:
    """Close code, reason, and whether `websockets` itself ended it for a fault of the server's."""
    if error.sent is not None and not error.rcvd_then_sent:
        return error.sent.code, error.sent.reason, True
    if error.rcvd is not None:
        return error.rcvd.code, error.rcvd.reason, False
    return 1006, str(error.__cause__ or "lost without a close frame")[:_MAX_REASON], False


class Line:
    """A TCP connection in the making, which another thread can cut at any moment: name lookup excepted.

    It keeps a duplicate of the descriptor: `shutdown` on that reaches the connection whatever wraps it (TLS), and
    never a descriptor that was closed and given to somebody else meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._cut = False

    def dial(self, host: str, port: int, timeout: float) -> socket.socket:
        """Connect, trying each address of the host in turn.

        Args:
            host: name or address.
            port: its port.
            timeout: seconds for all of it.

        Raises:
            OSError: none could be reached (TimeoutError: in time), or the line was cut.
        """
        deadline = time.monotonic() + timeout
        last: OSError = OSError(f"{host} has no address")
        for family, kind, proto, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, proto)
            try:
                self._connect(sock, address, deadline - time.monotonic())
                # `websockets` sends in blocking mode with a lock held: without this a peer that does not read could
                # hold every other call of the connection for ever.
                limit = struct.pack("ll", int(SEND_TIMEOUT), 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            except OSError as error:
                sock.close()
                last = error
            else:
                return sock
        raise last

    def cut(self) -> None:
        """End it now, and everything that is dialled later."""
        with self._lock:
            self._cut = True
            if self._handle is not None:
                with suppress(OSError):  # not connected any more
                    self._handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection without touching it. Idempotent."""
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    def _connect(self, sock: socket.socket, address: Any, timeout: float) -> None:
        with self._lock:
            # Begun under the lock, so that a cut finds it either not begun or under way, where `shutdown` ends it.
            self._check()
            if self._handle is not None:
                self._handle.close()
            self._handle = sock.dup()
            sock.setblocking(False)
            begun = sock.connect_ex(address)
        if begun not in (0, errno.EINPROGRESS):
            raise OSError(begun, os.strerror(begun))
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_WRITE)
            if not selector.select(max(timeout, 0.001)):
                raise TimeoutError(f"no connection to {address[0]} port {address[1]} in time")
        failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise OSError(failed, os.strerror(failed))  # becomes ConnectionRefusedError and the like
        with self._lock:
            self._check()
        sock.settimeout(max(timeout, 0.001))

    def _check(self) -> None:
        if self._cut:
            raise ConnectionAbortedError("cut by close()")
