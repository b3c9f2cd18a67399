"""One descriptor: reads that wait, and reads and writes that never do.

Theory of operation. Whether a descriptor blocks (O_NONBLOCK) belongs to the open file description, which every
duplicate shares, the server's too. So no descriptor is ever in blocking mode here. Who waits does it in a Python socket
with a finite time-out, which keeps O_NONBLOCK set and waits with poll(2) on its own (no FD_SETSIZE, unlike select(2));
gevent's socket does the same with the hub in place of poll. Who does not wait calls read(2) and write(2) themselves: a
second socket object would be two more watchers of gevent for each connection, 3 KiB.
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
            self._socket = socket.socket(fileno=fd)
        except BaseException:
            os.close(fd)
            raise
        self._timeout = -1.0
        self._fd = fd

    def has_left(self) -> bool:
        """Whether the peer has hung up; asked while the server may still want the socket to block."""
        self._socket.setblocking(False)
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self._socket.setblocking(True)

    def unblock(self) -> None:
        """From now on nobody else uses the socket: the server has written its last byte, and expected it to block."""
        self._socket.setblocking(False)
        if self._socket.family in (socket.AF_INET, socket.AF_INET6):
            # A chat message must not wait for the acknowledgement of the one before it.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """The descriptor; -1 after `close`."""
        return self._fd

    def read_now(self) -> bytes:
        """What is there; empty at the end of the stream.

        Raises:
            BlockingIOError: nothing is there.
            OSError: the connection broke.
        """
        return os.read(self.fileno(), READ_SIZE)

    def read(self, timeout: float) -> bytes:
        """Wait up to `timeout` seconds for bytes; empty at the end of the stream.

        Raises:
            TimeoutError: nothing came.
            OSError: the connection broke.
        """
        if timeout != self._timeout:  # a system call
            self._socket.settimeout(timeout)
            self._timeout = timeout
        return self._socket.recv(READ_SIZE)

    def write_now(self, frame: bytes | memoryview) -> int:
        """How many bytes the kernel took.

        Raises:
            BlockingIOError: none.
            OSError: the connection broke.
        """
        return os.write(self._fd, frame)

    def write_many_now(self, frames: Sequence[bytes | memoryview]) -> int:
        """`write_now` of several frames in one system call."""
        return os.writev(self.fileno(), frames)

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
            while os.read(self.fileno(), READ_SIZE):
                pass

    def reset(self) -> None:
        """Throw away what the kernel still holds for a peer that does not read (RST at the last close)."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        self._fd = -1
        self._socket.close()

    def _shutdown(self, how: int) -> None:
        with contextlib.suppress(OSError):  # already disconnected
            self._socket.shutdown(how)
