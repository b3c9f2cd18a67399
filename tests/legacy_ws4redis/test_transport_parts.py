"""The transport's parts where no server is needed: the flusher's survival, limits, what a server's offer lacks."""

import itertools
import logging
import os
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_ws4redis import flusher as flusher_module
from legacy_ws4redis import handshake
from legacy_ws4redis.descriptor import Descriptor
from legacy_ws4redis.flusher import Flusher, flusher
from legacy_ws4redis.handshake import RUNSERVER, NoSocket, Offer, Refused
from legacy_ws4redis.outbox import Outbox
from legacy_ws4redis.transport import Transport
from tests.legacy_ws4redis.rawclient import BINARY, CLOSE, CONT, KEY, PING, TEXT, frame

ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_UPGRADE": "websocket",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_KEY": KEY,
    "wsgi.url_scheme": "http",
    "wsgi.multithread": True,
    "wsgi.input": None,
}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's and a client's end."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def writer() -> Iterator[Flusher]:
    """A flusher of one's own, so that a test may break it."""
    writer = Flusher()
    yield writer
    if writer._thread is None:  # nothing ever had to wait; a thread that runs keeps them for good
        writer._sleeping.close()
        writer._waking.close()


def opened(ours: socket.socket, writer: Flusher, *, max_backlog: int = 1_000_000) -> Outbox:
    descriptor = Descriptor(os.dup(ours.fileno()))
    descriptor.unblock()
    outbox = Outbox(max_backlog, writer)
    outbox.open(descriptor)
    return outbox


def stuffed(ours: socket.socket, writer: Flusher) -> tuple[Outbox, int]:
    """An outbox with a backlog, and how many bytes were put into it."""
    outbox, total = opened(ours, writer), 0
    while outbox.backlog < 100_000:
        assert outbox.put(b"x" * 10_000)
        total += 10_000
    return outbox, total


def received(theirs: socket.socket, size: int) -> int:
    while size > 0:
        size -= len(theirs.recv(65_536))
    return size


# The flusher


def test_an_error_in_one_outbox_ends_that_one_alone(
    pair: tuple[socket.socket, socket.socket], writer: Flusher, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = pair
    good, total = stuffed(ours, writer)
    bad_ours, bad_theirs = socket.socketpair()
    with bad_ours, bad_theirs:
        bad, _ = stuffed(bad_ours, writer)
        until(lambda: bad in writer._writing)

        def explode() -> bool:
            raise RuntimeError("a bug")

        bad.flush = explode  # type: ignore[method-assign]
        bad_theirs.recv(1_000_000)  # wakes the flusher
        until(lambda: bad not in writer._known)
    assert "cutting it" in caplog.text
    received(theirs, total)
    until(lambda: good.backlog == 0)
    good.release()
    bad.release()


def test_an_error_of_the_loop_starts_it_again_with_all_it_knew(
    pair: tuple[socket.socket, socket.socket],
    writer: Flusher,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = pair
    outbox, total = stuffed(ours, writer)
    until(lambda: outbox in writer._writing)
    failures = iter([OSError("no more descriptors"), OSError("still none")])
    waiting = Flusher._wait

    def failing(self: Flusher, selector: Any) -> set[Outbox]:
        for failure in failures:
            raise failure
        return waiting(self, selector)

    monkeypatch.setattr(Flusher, "_wait", failing)
    writer.watch(outbox)
    until(lambda: caplog.text.count("writing backlogs failed") == 2)
    received(theirs, total)
    until(lambda: outbox.backlog == 0)
    outbox.release()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_replaced(
    pair: tuple[socket.socket, socket.socket],
    writer: Flusher,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = pair
    outbox, total = stuffed(ours, writer)
    thread = writer._thread
    assert thread is not None
    with monkeypatch.context() as patch:

        def die(*_: object) -> set[Outbox]:
            raise SystemExit

        patch.setattr(writer, "_wait", die)
        writer.watch(outbox)
        until(lambda: not thread.is_alive())
    with caplog.at_level(logging.ERROR):
        writer.watch(outbox)
    assert "starting another" in caplog.text
    received(theirs, total)
    until(lambda: outbox.backlog == 0)
    outbox.release()


def test_a_process_that_was_forked_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flusher_module, "_flusher", None)
    mine = flusher()
    assert flusher() is mine
    monkeypatch.setattr(os, "getpid", lambda: mine.pid + 1)
    theirs = flusher()
    assert theirs is not mine
    for one in (mine, theirs):
        one._sleeping.close()
        one._waking.close()


def test_a_deadline_is_kept_while_bytes_wait(
    pair: tuple[socket.socket, socket.socket], writer: Flusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legacy_ws4redis.outbox.CLOSE_TIMEOUT", 0.1)
    outbox, _ = stuffed(pair[0], writer)
    outbox.end(b"last", 1012, "")
    until(lambda: outbox.backlog == 0)  # thrown away
    outbox.release()


def test_a_descriptor_beyond_the_reach_of_select(pair: tuple[socket.socket, socket.socket], writer: Flusher) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3_000:
        pytest.skip("this machine allows no descriptor above 1,023")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3_000), hard))
    try:
        high = os.dup2(pair[0].fileno(), 2_500, inheritable=False)
        descriptor = Descriptor(high)
        descriptor.unblock()
        outbox = Outbox(1_000_000, writer)
        outbox.open(descriptor)
        with pytest.raises(TimeoutError):
            descriptor.read(0.01)
        total = 0
        while outbox.backlog < 100_000:
            outbox.put(b"x" * 10_000)
            total += 10_000
        received(pair[1], total)
        until(lambda: outbox.backlog == 0)
        outbox.release()
        until(lambda: descriptor.fileno() == -1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_threads_write_whole_frames(pair: tuple[socket.socket, socket.socket], writer: Flusher) -> None:
    ours, theirs = pair
    outbox = opened(ours, writer, max_backlog=100_000_000)
    threads = [
        threading.Thread(target=lambda letter=letter: [outbox.put(letter * 1_000) for _ in range(500)])
        for letter in (b"a", b"b", b"c", b"d")
    ]
    for thread in threads:
        thread.start()
    stream = theirs.makefile("rb")
    seen = [stream.read(1_000) for _ in range(2_000)]
    for thread in threads:
        thread.join()
    assert all(len(set(chunk)) == 1 for chunk in seen)
    outbox.release()


def test_the_descriptor_is_closed_once_and_by_whoever_is_last(
    pair: tuple[socket.socket, socket.socket], writer: Flusher
) -> None:
    outbox, _ = stuffed(pair[0], writer)
    until(lambda: outbox in writer._writing)
    outbox.release()
    outbox.release()
    until(lambda: outbox.fileno() == -1)
    until(lambda: outbox not in writer._known)


def test_a_client_that_hangs_up_wakes_nobody(pair: tuple[socket.socket, socket.socket]) -> None:
    watched = list[Outbox]()
    outbox, descriptor = Outbox(1_000, SimpleNamespace(watch=watched.append)), Descriptor(os.dup(pair[0].fileno()))
    descriptor.unblock()
    outbox.open(descriptor)
    outbox.end(None, 1006, "")
    outbox.release()
    assert outbox.deadline is not None
    assert (watched, outbox.fileno()) == ([], -1)


# The protocol, without a server in between: what a real one cannot be made to do


def accepted(ours: socket.socket, **limits: int) -> Transport:
    offer = Offer(ours, lambda: b"", lambda: None)
    sizes = {"max_message": 1_000, "max_backlog": 1_000_000} | limits
    transport = Transport(ENVIRON | {RUNSERVER: offer}, **sizes)
    transport.accept(lambda *_: lambda _: None)
    return transport


def test_the_limit_of_a_message_is_exact(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    transport = accepted(ours, max_message=3)
    theirs.sendall(frame(BINARY, b"abc") + frame(PING, b"much longer") + frame(TEXT, b"a", fin=False))
    theirs.sendall(frame(CONT, b"bc") + frame(BINARY, b"abcd"))
    assert [transport.receive(), transport.receive()] == [b"abc", "abc"]
    theirs.shutdown(socket.SHUT_WR)
    assert transport.receive() is None
    assert transport.close_code == 1009
    transport.finish()


def test_a_broken_rule_decides_even_when_a_close_frame_follows_at_once(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    transport = accepted(ours)
    theirs.sendall(frame(TEXT, b"\xff") + frame(TEXT, b"not seen") + frame(CLOSE, b"\x03\xe8"))
    theirs.shutdown(socket.SHUT_WR)
    assert transport.receive() is None
    assert transport.close_code == 1007  # contract 6.3, however TCP cut the stream
    transport.finish()


PIECES = [
    *(frame(TEXT, b"one"), frame(BINARY, b"\0"), frame(TEXT, "€".encode()), frame(PING, b"?"), frame(TEXT)),
    *(frame(TEXT, b"a", fin=False), frame(CONT, b"b", fin=False), frame(CONT, b"c"), frame(BINARY, bytes(999))),
    *(frame(CLOSE), frame(CLOSE, b"\x03\xe8bye"), frame(TEXT, b"\xff"), frame(BINARY, bytes(1_001)), frame(3), b"\x01"),
]


def heard(data: bytes, cuts: list[int]) -> tuple[list[str | bytes], int | None, bytes]:
    """What a handler and the client see when TCP cuts a stream at these places."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = accepted(ours)
        edges = [0, *sorted(cuts), len(data)]
        segments = iter([data[start:end] for start, end in itertools.pairwise(edges) if start < end])
        transport._descriptor.read_now = lambda: next(segments, b"")  # type: ignore[method-assign, union-attr]
        transport._descriptor.read = lambda _: next(segments, b"")  # type: ignore[method-assign, union-attr]
        messages = []
        while (message := transport.receive()) is not None:
            messages.append(message)
        transport.finish()
        return messages, transport.close_code, theirs.recv(65_536)


@given(st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join), st.lists(st.integers(0, 1_200), max_size=8))
def test_nothing_depends_on_how_tcp_cuts_the_stream(data: bytes, cuts: list[int]) -> None:
    whole = heard(data, [])
    assert heard(data, [min(cut, len(data)) for cut in cuts]) == whole  # contract 6.1, 6.3
    if len(data) < 100:
        assert heard(data, list(range(len(data)))) == whole


def test_after_our_close_nothing_is_handed_out(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    transport = accepted(ours)
    theirs.sendall(frame(TEXT, b"first") + frame(TEXT, b"second") + frame(CLOSE, b"\x03\xe8"))
    assert transport.receive() == "first"
    transport.close(4500)
    theirs.shutdown(socket.SHUT_WR)
    assert transport.receive() is None
    assert transport.close_code == 4500
    transport.finish()


def test_a_flood_of_pings_from_a_client_that_reads_no_pong_is_bounded(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legacy_ws4redis.outbox.CLOSE_TIMEOUT", 0.2)
    ours, theirs = pair
    transport = accepted(ours, max_backlog=50_000)
    pings = frame(PING, b"p" * 125) * 500

    def flood() -> None:
        try:
            while True:
                theirs.sendall(pings)
        except OSError:
            pass

    thread = threading.Thread(target=flood)
    thread.start()
    assert transport.receive() is None
    assert transport.close_code == 4001  # contract 7.2
    transport.finish()
    thread.join()


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_a_code_that_must_not_be_sent(pair: tuple[socket.socket, socket.socket], code: int) -> None:
    transport = accepted(pair[0])
    with pytest.raises(ValueError, match=str(code)):
        transport.close(code)
    assert transport.close_code is None
    transport.finish()
    assert transport.close_code == 1006


def test_a_transport_that_was_never_accepted_holds_nothing() -> None:
    with socket.socket() as connection:
        offer = Offer(connection, lambda: b"", lambda: None)
        transport = Transport(ENVIRON | {RUNSERVER: offer}, max_message=1, max_backlog=1)
        transport.send(b"x")
        assert transport.finish() == ()


# What a server's offer lacks


def test_an_unknown_server_is_named_with_those_that_work() -> None:
    with pytest.raises(NoSocket, match=r"waitress.*uWSGI.*gunicorn.*runserver"):
        handshake.server(ENVIRON | {"SERVER_SOFTWARE": "waitress"})


def test_a_socket_with_tls_inside_the_server() -> None:
    with socket.socket() as plain:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        with context.wrap_socket(plain, do_handshake_on_connect=False) as secure, pytest.raises(NoSocket, match="TLS"):
            handshake.server(ENVIRON | {"gunicorn.socket": secure})


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/2.0", ""])
def test_a_handshake_needs_http_1_1(protocol: str) -> None:
    with pytest.raises(Refused, match=r"HTTP/1\.1"):
        handshake.key(ENVIRON | {"SERVER_PROTOCOL": protocol})


def test_the_accept_value_of_the_rfc(pair: tuple[socket.socket, socket.socket]) -> None:
    accepted(pair[0]).finish()
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in pair[1].recv(4096)  # RFC 6455 section 1.3


USUAL = {name: ENVIRON[name] for name in ENVIRON if name.startswith("HTTP_")}
NEARLY = st.sampled_from(
    [
        *("", "13", "8", "13, 13", "websocket", "WebSocket", "websocket, h2c", "Upgrade", "upgrade", "close, Upgrade"),
        *("keep-alive, Upgrade", "realtime.v1", "realtime.v1, ", "a,,b", "a b", "a/b", "\x00", "=" * 24, "A" * 24),
        *("A" * 22 + "==", "A" * 21 + "===", "A" * 21 + "-==", KEY + "\n", KEY + "," + KEY, "A" * 23 + "="),
    ]
)


@given(st.dictionaries(st.sampled_from([*USUAL, "HTTP_SEC_WEBSOCKET_PROTOCOL"]), NEARLY | st.text(max_size=30)))
def test_what_is_accepted_at_once_websockets_would_accept(changed: dict[str, str]) -> None:
    # contract 1.1: both backends refuse the same requests
    environ = ENVIRON | changed
    if handshake._is_usual(environ):
        handshake._judge(environ)  # raises nothing


@pytest.mark.parametrize("connection", ["Upgrade", "upgrade", "keep-alive, Upgrade"])
@pytest.mark.parametrize("offer", [None, "realtime.v1", "realtime.v1,other", "realtime.v1, a, b-c"])
def test_what_clients_send_is_seen_at_once(connection: str, offer: str | None) -> None:
    environ = ENVIRON | {"HTTP_CONNECTION": connection}
    if offer is not None:
        environ["HTTP_SEC_WEBSOCKET_PROTOCOL"] = offer
    assert handshake._is_usual(environ)


@pytest.mark.parametrize("header", [("X", "a\r\nY: b"), ("X\nY", "a"), ("X:Y", "a"), ("", "a"), ("X", "\0")])
def test_a_header_that_would_split_the_response(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="forbids"):
        handshake.response_headers("x", None, [header])
