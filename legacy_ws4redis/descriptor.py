"""One descriptor behind two Python sockets: one whose calls wait, one whose calls never do.

Theory of operation. Whether a descriptor blocks (O_NONBLOCK) belongs to the open file description, which every
duplicate shares, the server's too. So no descriptor is ever in blocking mode here: a Python socket with a finite
time-out keeps O_NONBLOCK set and waits with poll(2) on its own (no FD_SETSIZE, unlike select(2)), and one with time-out
zero never waits. gevent's sockets follow the same rules, with the hub in place of poll. Both objects stand on one
descriptor, so exactly one of them may close it.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

READ_SIZE: Final = 16_384  # bytes; the smallest frames make 2,700 of them, 20 ms of work before others get a turn
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


class Descriptor:
    """A connected stream socket that is ours.

    Args:
        fd: an open descriptor; it belongs to this object from now on.

    Raises:
        OSError: not a socket.
    """

    def __init__(self, fd: int) -> None:
        try:
            self._waiting = socket.socket(fileno=fd)
        except BaseException:
            os.close(fd)
            raise
        self._instant = socket.socket(fileno=fd)
        self._timeout = -1.0

    def has_left(self) -> bool:
        """Whether the peer has hung up; asked while the server may still want the socket to block."""
        self._instant.setblocking(False)
        try:
            return not self._instant.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self._instant.setblocking(True)

    def unblock(self) -> None:
        """From now on nobody else uses the socket: the server has written its last byte, and expected it to block."""
        self._instant.setblocking(False)
        if self._instant.family in (socket.AF_INET, socket.AF_INET6):
            # A chat message must not wait for the acknowledgement of the one before it.
            self._instant.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __del__(self) -> None:
        # Two objects that close one descriptor would close somebody else's the second time.
        if hasattr(self, "_instant"):
            self.close()

    def fileno(self) -> int:
        """The descriptor; -1 after `close`."""
        return self._instant.fileno()

    def read_now(self) -> bytes:
        """What is there; empty at the end of the stream.

        Raises:
            BlockingIOError: nothing is there.
            OSError: the connection broke.
        """
        return self._instant.recv(READ_SIZE)

    def read(self, timeout: float) -> bytes:
        """Wait up to `timeout` seconds for bytes; empty at the end of the stream.

        Raises:
            TimeoutError: nothing came.
            OSError: the connection broke.
        """
        if timeout != self._timeout:  # a system call
            self._waiting.settimeout(timeout)
            self._timeout = timeout
        return self._waiting.recv(READ_SIZE)

    def write_now(self, frame: bytes | memoryview) -> int:
        """How many bytes the kernel took.

        Raises:
            BlockingIOError: none.
            OSError: the connection broke.
        """
        return self._instant.send(frame)

    def write_many_now(self, frames: Sequence[bytes | memoryview]) -> int:
        """`write_now` of several frames in one system call."""
        return self._instant.sendmsg(frames)

    def end_writing(self) -> None:
        """Send FIN: the peer reads the end of the stream, and we can still read."""
        self._shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """End both directions, for every duplicate; a reader that waits wakes up.

        Linux still hands out what had arrived before, and resets the connection if more arrives (tcp_rcv_state_process,
        RFC 1122 4.2.2.13). So after this the server, whose duplicate lives on, can read nothing from it but the end of
        the stream, and cannot take a client's last bytes for a new HTTP request.
        """
        self._shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            while self._instant.recv(READ_SIZE):
                pass

    def reset(self) -> None:
        """Throw away what the kernel still holds for a peer that does not read (RST at the last close)."""
        with contextlib.suppress(OSError):
            self._instant.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        self._instant.detach()
        self._waiting.close()

    def _shutdown(self, how: int) -> None:
        with contextlib.suppress(OSError):  # already disconnected
            self._instant.shutdown(how)
