"""Sockets and `websockets`: what an end means, and a line that can be cut."""

import socket
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.frames import Close

from shim.client.errors import DiscoveryError, HandshakeRefused
from shim.client.transport import Line, end_of, failure_of
from tests.client.scripted import http


@pytest.mark.parametrize(
    ("rcvd", "sent", "order", "end"),
    [
        (Close(1012, "moved"), Close(1012, ""), True, (1012, "moved", False)),
        (Close(1012, "moved"), None, None, (1012, "moved", False)),
        (None, None, None, (1006, "lost without a close frame", False)),
        (None, Close(1002, "bad"), None, (1002, "bad", True)),
        (Close(1002, ""), Close(1002, "bad"), False, (1002, "bad", True)),
    ],
)
def test_who_ended_it(rcvd: Close | None, sent: Close | None, order: bool | None, end: tuple[int, str, bool]) -> None:
    assert end_of(ConnectionClosedError(rcvd, sent, order)) == end


def test_failures() -> None:
    def failure(error: Exception, ever_open: bool = False) -> tuple[int | None, float | None, bool]:
        failed = failure_of(error, "ws://h/", ever_open=ever_open)
        return failed.status, failed.retry_after, failed.error is not None

    assert failure(InvalidStatus(http(503, "x", retry_after="3"))) == (503, 3.0, False)
    assert failure(InvalidStatus(http(403, "x"))) == (403, None, True)
    assert isinstance(failure_of(InvalidStatus(http(404)), "ws://h/", ever_open=True).error, HandshakeRefused)
    assert failure(DiscoveryError("x", url="u", status=404, retry_after="1")) == (404, 1.0, True)
    assert failure(DiscoveryError("x", url="u", status=200, foreign=True)) == (None, None, True)
    assert failure(DiscoveryError("x", url="u", status=200, foreign=True), ever_open=True) == (None, None, False)
    assert failure(ConnectionRefusedError(111, "refused")) == (None, None, False)
    assert failure(TimeoutError("handshake")) == (None, None, False)


def test_a_line_can_be_cut_while_it_is_dialled() -> None:
    """A host that drops every packet: the longest wait there is."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]  # a full queue does not answer
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        line = Line()
        failed = threading.Event()

        def dial() -> None:
            with pytest.raises(OSError, match=r"reset|refused|aborted|pipe|connected"):
                line.dial("127.0.0.1", port, 60).close()
            failed.set()

        thread = threading.Thread(target=dial)
        thread.start()
        deadline = time.monotonic() + 5
        while line._handle is None and time.monotonic() < deadline:
            time.sleep(0)
        line.cut()
        assert failed.wait(5)
        thread.join()
        with pytest.raises(OSError, match="cut"):
            line.dial("127.0.0.1", port, 60)
        line.close()
        for filler in fillers:
            filler.close()


def test_a_line_tries_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as dead:
        dead_address = dead.getsockname()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (dead_address, listener.getsockname())
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        line = Line()
        with line.dial("somewhere", 1, 5) as sock:
            assert sock.getpeername() == listener.getsockname()
        line.close()
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            line.dial("somewhere", 1, 5)
        line.close()
