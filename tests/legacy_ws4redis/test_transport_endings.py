"""The transport on real servers: how it ends, clients that are slow, and what the server is left with."""

import contextlib
import itertools
import re
import threading
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.legacy_ws4redis.echo import CLOSE_TIMEOUT
from tests.legacy_ws4redis.rawclient import (
    CLOSE,
    CONT,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    RawClient,
    frame,
    opened,
)
from tests.legacy_ws4redis.servers import Server, serving

pytestmark = pytest.mark.servers


# Endings


@pytest.mark.parametrize(("payload", "code"), [(b"", 1005), (b"\x03\xe9", 1001), (b"\x0f\xa0why", 4000)])
def test_the_client_closes(server: Server, name: str, payload: bytes, code: int) -> None:
    with opened(server, name) as client:
        client.send(frame(CLOSE, payload))
        assert client.read() == (CLOSE, payload)
        assert client.socket.recv(1) == b""
    assert server.control(name, "ended") == {"finished": True, "code": code, "reason": payload[2:].decode()}


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_the_client_vanishes(server: Server, name: str, how: str) -> None:
    with opened(server, name) as client:
        client.send(frame(TEXT, b"x"))
        client.read()
        if how == "RST":
            client.reset()
    assert server.control(name, "ended") == {"finished": True, "code": 1006, "reason": ""}


def test_the_client_vanishes_inside_of_a_frame(server: Server, name: str) -> None:
    with opened(server, name) as client:
        client.send(frame(TEXT, b"x" * 100)[:50])
    assert server.control(name, "ended")["code"] == 1006


def test_we_close(server: Server, name: str) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/ws/{name}", compression=None) as client:
        server.control(name, "state", wait="reading")
        server.control(name, "close", code=1012, reason="ż" * 100)
        server.control(name, "close", code=4500)  # only the first counts
        started = time.monotonic()
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=10)
    assert time.monotonic() - started < CLOSE_TIMEOUT / 2  # both have said it: nothing to wait for
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1012, "ż" * 61)  # the 123 bytes of RFC 6455 5.5
    assert server.control(name, "ended")["code"] == 1012


def test_we_close_and_the_client_says_nothing(server: Server, name: str) -> None:
    with opened(server, name) as client:
        server.control(name, "state", wait="reading")
        started = time.monotonic()
        server.control(name, "close", code=1012)
        assert client.read() == (CLOSE, b"\x03\xf4")
        assert server.control(name, "ended") == {"finished": True, "code": 1012, "reason": ""}
        assert CLOSE_TIMEOUT * 0.9 < time.monotonic() - started < CLOSE_TIMEOUT + 1


def test_we_close_and_the_client_never_stops_talking(server: Server, name: str) -> None:
    with opened(server, name) as client:
        server.control(name, "state", wait="reading")
        server.control(name, "close", code=1008)
        done = threading.Event()

        def talk() -> None:
            try:
                while not done.is_set():
                    client.send(frame(TEXT, b"x" * 1_000))
            except OSError:
                pass

        talker = threading.Thread(target=talk)
        talker.start()
        try:
            assert server.control(name, "ended")["code"] == 1008
        finally:
            done.set()
            talker.join()


def test_we_abort(server: Server, name: str) -> None:
    with opened(server, name) as client:
        server.control(name, "state", wait="reading")
        server.control(name, "abort")
        assert server.control(name, "ended")["code"] == 1006
        with pytest.raises((EOFError, ConnectionResetError)):
            client.read()


def test_a_client_cannot_slip_a_request_in_behind_its_websocket(server: Server, name: str) -> None:
    # A server that kept the connection alive would answer, or at least run, what stands there.
    # Twice: with the close frame, and when the server has hung up.
    smuggled = f"GET /control/{name}/ended HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with opened(server, name) as client:
        client.send(frame(CLOSE, b"\x03\xe8") + smuggled)
        assert client.close_code() == 1000
        with contextlib.suppress(OSError):
            for _ in range(5):
                client.send(smuggled)
                server.control("-", "pid")
    assert f"/control/{name}/ended" not in server.log.read_text()


# Life


def test_pings_and_what_is_heard(server: Server, name: str) -> None:
    with opened(server, name) as client:
        client.send(frame(PING, b"are you there"))
        assert client.read() == (PONG, b"are you there")
        server.control(name, "ping")
        assert client.read() == (PING, b"")
        time.sleep(0.3)
        before = server.control(name, "state", wait="reading")
        assert before["reading"]
        assert before["silent"] > 0.2
        client.send(frame(PONG))  # contract 7.1: anything received counts as life
        client.send(frame(PING))
        client.read()
        assert server.control(name, "state", wait="reading")["silent"] < 0.2


def test_a_reader_inside_of_a_handler_is_not_reading(server: Server, name: str) -> None:
    with opened(server, name) as client:
        client.send(frame(TEXT, b"sleep"))
        assert not server.control(name, "state", wait="sleeping")["reading"]
        server.control(name, "close", code=4500)  # its close frame goes out all the same
        assert client.read() == (CLOSE, b"\x11\x94")
        started = time.monotonic()
        with pytest.raises((EOFError, ConnectionResetError)):  # cut in time, though the handler goes on
            client.read()
        assert time.monotonic() - started < CLOSE_TIMEOUT + 1
    server.control(name, "wake")
    assert server.control(name, "ended")["code"] == 4500


# Slow clients (contract 7.2)


def test_a_slow_client_gets_everything_once_it_reads(server: Server, name: str) -> None:
    with opened(server, name, receive_buffer=4_096) as client:
        total = 0
        while server.control(name, "state")["backlog"] < 500_000:
            flood = server.control(name, "flood", n=10, size=20_000)
            assert flood["seconds"] < 1
            assert flood["code"] is None
            total += 10
        for number in range(total):
            opcode, payload = client.read()
            assert (opcode, int(payload[:8]), len(payload)) == (TEXT, number % 10, 20_000)
        client.send(frame(TEXT, b"and now"))
        assert client.read() == (TEXT, b"and now")
        assert server.control(name, "state")["backlog"] == 0


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_close_frame_waits_for_what_is_queued(server: Server, name: str, who: str) -> None:
    with opened(server, name, receive_buffer=4_096) as client:
        flood = server.control(name, "flood", n=8, size=1_000_000, batch=1)
        assert flood["backlog"] > 500_000
        if who == "client":
            client.send(frame(CLOSE, b"\x03\xe8"))
        else:
            server.control(name, "close", code=1012)
        client.hurry()  # all of it within CLOSE_TIMEOUT
        for number in range(8):
            assert client.read()[1][:8] == b"%08d" % number
        if who == "server":
            client.send(frame(CLOSE, b"\x03\xf4"))
        assert client.close_code() == {"client": 1000, "server": 1012}[who]


def test_a_client_that_does_not_read_is_closed_and_nobody_waits(server: Server, name: str) -> None:
    with opened(server, f"{name}b") as bystander, opened(server, name, receive_buffer=4_096) as stalled:
        flood = server.control(name, "flood", n=300, size=60_000)  # far more than the kernel's buffers take
        assert flood["seconds"] < 1
        assert flood["code"] == 4001
        assert flood["backlog"] < 61_000  # the rest of one frame, and the close frame
        bystander.send(frame(TEXT, b"not me"))
        assert bystander.read() == (TEXT, b"not me")
        for number in itertools.count():
            opcode, payload = stalled.read()
            if opcode == CLOSE:
                break
            assert (int(payload[:8]), len(payload)) == (number, 60_000)  # whole frames, in order, up to the end
        assert payload[:2] == b"\x0f\xa1"
    assert server.control(name, "ended")["code"] == 4001


def test_a_client_that_never_reads_again_is_cut(server: Server, name: str) -> None:
    with opened(server, name, receive_buffer=4_096) as client:
        server.control(name, "flood", n=300, size=60_000)
        started = time.monotonic()
        assert server.control(name, "ended") == {
            "finished": True,
            "code": 4001,
            "reason": server.control(name, "ended")["reason"],
        }
        assert time.monotonic() - started < CLOSE_TIMEOUT + 1
        with pytest.raises(ConnectionResetError):  # what the kernel held is thrown away, not kept for minutes
            client.drain()


def test_a_batch_may_be_larger_than_the_limit_once(server: Server, name: str) -> None:
    with opened(server, name, receive_buffer=4_096) as client:
        flood = server.control(name, "flood", n=12, size=1_000_000, batch=1)
        assert flood["seconds"] < 1
        assert flood["backlog"] > 3_000_000
        assert server.control(name, "flood", n=10, size=50_000)["code"] is None  # the limit stands on top of the batch
        for number in range(12):
            assert client.read()[1][:8] == b"%08d" % number
        for number in range(10):
            assert client.read()[1][:8] == b"%08d" % number
        assert (
            server.control(name, "flood", n=300, size=60_000)["code"] == 4001
        )  # it has drained: the plain limit again


def test_one_frame_may_be_larger_than_the_limit(server: Server, name: str) -> None:
    with opened(server, name, receive_buffer=4_096) as client:
        assert server.control(name, "flood", n=1, size=12_000_000)["code"] is None
        assert len(client.read()[1]) == 12_000_000


@pytest.mark.parametrize("ending", [False, True])
def test_a_client_that_never_pauses_stops_nobody(server: Server, name: str, *, ending: bool) -> None:
    # Under gevent a greenlet that always finds bytes never waits, so it must give way on its own.
    with opened(server, f"{name}b") as bystander, opened(server, name) as client:
        if ending:
            server.control(name, "close", code=1008)
        pongs, done = frame(PONG, b"x" * 10) * 5_000, threading.Event()

        def talk() -> None:
            with contextlib.suppress(OSError):
                while not done.is_set():
                    client.send(pongs)

        talker = threading.Thread(target=talk)
        talker.start()
        try:
            started = time.monotonic()
            for _ in range(20):
                bystander.send(frame(TEXT, b"my turn"))
                assert bystander.read() == (TEXT, b"my turn")
            assert time.monotonic() - started < 3
        finally:
            done.set()
            talker.join()


# The server


def test_no_descriptor_is_left_behind(server: Server, name: str) -> None:
    def endings(time: str) -> None:
        for index in range(10):
            one = f"{name}{time}{index}"
            with opened(server, one) as client:
                match index % 5:
                    case 0:
                        client.send(frame(CLOSE))
                        client.close_code()
                    case 1:
                        client.reset()
                    case 2:
                        client.send(frame(CONT))
                        client.close_code()
                    case 3:
                        server.control(one, "abort")
                    case 4:
                        server.control(one, "flood", n=300, size=60_000)
            server.control(one, "ended")
        for _ in range(3):
            server.get(f"/ws/{name}", HANDSHAKE | {"Sec-WebSocket-Version": "8"})

    endings("first")
    before = server.control("-", "fds")  # with what a process opens for its first clients, and keeps
    endings("again")
    deadline = time.monotonic() + 10
    while (now := server.control("-", "fds")) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert now <= before


def watched_for_nobody(pid: int) -> list[str]:
    """Entries of a process's epoll sets whose file is not the one that the process knows by that number.

    A number that is closed between two looks may be among them: look again.
    """
    found = []
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        text = ""
        with contextlib.suppress(FileNotFoundError):  # it has been closed meanwhile
            text = entry.read_text()
        for line in text.splitlines():
            if watched := re.match(r"tfd: +(\d+) .* ino:([0-9a-f]+)", line):
                try:
                    known = Path(f"/proc/{pid}/fd/{watched[1]}").stat().st_ino
                except FileNotFoundError:
                    known = -1
                if known != int(watched[2], 16):
                    found.append(line)
    return found


def test_no_event_loop_watches_a_number_that_has_become_anothers(server: Server, name: str) -> None:
    # else libev begins with a new epoll set, and all connections in it, as soon as one of these clients says something
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(opened(server, f"{name}{index}")) for index in range(10)]
        pid = server.control("-", "pid")
        deadline = time.monotonic() + 10
        while (found := watched_for_nobody(pid)) and time.monotonic() < deadline:
            time.sleep(0.05)  # what asked for the pid is being closed; what is wrong stays while these clients do
        assert found == []
        for client in clients:
            client.send(frame(CLOSE))
            client.close_code()


def test_a_thread_comes_free_at_once(server: Server, name: str) -> None:
    """More connections one after the other than the server has threads."""
    for index in range(40):
        with opened(server, f"{name}{index}") as client:
            client.send(frame(CLOSE, b"\x03\xe8"))
            assert client.close_code() == 1000


def test_many_connections_at_once(server: Server, name: str) -> None:
    clients = [opened(server, f"{name}{index}") for index in range(20)]
    for index, client in enumerate(clients):
        client.send(frame(TEXT, b"%d" % index))
    assert [client.read() for client in clients] == [(TEXT, b"%d" % index) for index in range(20)]
    for client in clients:
        with client:
            client.send(frame(CLOSE))
            client.close_code()


def test_a_long_connection_outlives_the_servers_time_outs(
    server: Server, old_client: tuple[RawClient, float, int]
) -> None:
    client, since, pid = old_client
    while time.monotonic() < since + 4:  # twice gunicorn's --timeout here
        time.sleep(0.1)
    client.send(frame(TEXT, b"still here"))
    assert client.read() == (TEXT, b"still here")
    assert server.control("-", "pid") == pid


def test_the_log_calls_it_a_101(server: Server, name: str) -> None:
    with opened(server, name) as client:
        client.send(frame(CLOSE))
        client.close_code()
    server.control(name, "ended")
    deadline = time.monotonic() + 5
    while not (lines := [line for line in server.log.read_text().splitlines() if f"/ws/{name}" in line]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert all("101" in line and " 500" not in line for line in lines), lines


# The other ways to run them


@pytest.mark.parametrize("kind", ["uwsgi-router", "uwsgi-threads"])
def test_other_ways_to_run_uwsgi(kind: str, tmp_path: Path, name: str) -> None:
    with serving(kind, tmp_path) as server:
        with opened(server, name) as client:
            client.send(frame(TEXT, b"x" * 100_000, fin=False) + frame(CONT, b"y"))
            assert client.read() == (TEXT, b"x" * 100_000 + b"y")
            client.send(frame(CONT))
            assert client.close_code() == 1002
        assert server.control(name, "ended")["code"] == 1002
        with opened(server, f"{name}b", receive_buffer=4_096) as client:
            assert server.control(f"{name}b", "flood", n=400, size=60_000)["code"] == 4001
        with opened(server, f"{name}c") as client:
            client.send(frame(CLOSE, b"\x03\xe8"))
            assert client.close_code() == 1000


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("gunicorn-sync", "--worker-class"),
        ("uwsgi-unpatched", "--gevent-monkey-patch"),
        ("runserver-nothreading", "runserver"),
    ],
)
def test_a_server_that_cannot_carry_it_says_what_to_change(kind: str, remedy: str, tmp_path: Path, name: str) -> None:
    with serving(kind, tmp_path) as server:
        status, body = server.get(f"/ws/{name}", HANDSHAKE)
        assert status == 500
        assert remedy in body.decode()
