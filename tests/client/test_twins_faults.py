"""What goes wrong, on either side: both clients against a scripted server, on real sockets."""

import socket
import threading
import time
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed as WebSocketClosed

from shim.client import (
    ClientError,
    Connected,
    ConnectionClosed,
    Lost,
    NotConnected,
    ProtocolError,
    State,
)
from shim.core.message import Kind
from tests.client.conftest import MakeClient
from tests.client.drivers import AsyncDriver, Driven, of_kind
from tests.client.scripted import DEADLINE, Peer, Server, http


def test_a_server_that_never_says_ready(make_client: MakeClient) -> None:
    def mute(peer: Peer) -> object:
        peer.hello()
        return peer.until_closed()

    server = Server(mute)
    with server.running(), make_client(url=server.url, connect_timeout=0.2) as client:
        assert server.result() == (4002, "no ready within 0.2 s")
        assert client.counters.connects == 1


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("not json", "not JSON"),
        ("[]", "not a JSON object"),
        (b"\0", "binary"),
        ('{"op":"dance"}', "no such op"),
        ('{"op":"msg","topic":"user","pos":["e"],"data":1}', "a position is"),
        ('{"op":"msg","topic":"user","pos":["e",2]}', "exactly one of"),
        ('{"op":"msg","topic":"user","data":1}', 'without "pos"'),
        ('{"op":"msg","topic":"group:other","pos":["x",1],"data":1}', "contract 3.3"),
        ('{"op":"msg","topic":"user","pos":["new",1],"data":1}', "a new epoch without gap"),
        ('{"op":"gap","topic":"user","pos":["e",0]}', "goes back"),
        ('{"op":"ready","connection":"c","backend":"b","topics":{}}', "second"),
    ],
)
def test_frames_that_v1_does_not_have(make_client: MakeClient, frame: str | bytes, reason: str) -> None:
    def script(peer: Peer) -> object:
        peer.hello()
        peer.ready({"user": ["e", 1]})
        peer.websocket.send(frame)
        return peer.until_closed()

    server = Server(script)
    with server.running(), make_client(url=server.url) as client:
        code, said = server.result()
        assert code == 1002
        assert reason[:20] in said
        client.until(lambda c: c.counters.connects == 2)
        (error,) = of_kind(client, ProtocolError)
        assert reason in error.reason
        assert client.counters.protocol_errors == 1


def test_a_message_before_ready(make_client: MakeClient) -> None:
    """contract 2.1."""

    def script(peer: Peer) -> object:
        peer.hello()
        peer.message(1)
        return peer.until_closed()

    server = Server(script)
    with server.running(), make_client(url=server.url) as client:
        assert server.result()[0] == 1002
        assert 'first frame is "ready"' in of_kind(client, ProtocolError)[0].reason
        with pytest.raises(TimeoutError):
            client.receive(0)


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 8, b"\x81\x02\xc3\x28", b"\x80\x01a", b"HTTP/1.1 502 Bad Gateway\r\n\r\n" * 9]
)
def test_garbage_in_place_of_frames(make_client: MakeClient, garbage: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.hello()
        peer.ready({})
        peer.websocket.socket.sendall(garbage)
        peer.until_closed()

    server = Server(script)
    with server.running(), make_client(url=server.url) as client:
        client.until(lambda c: c.counters.connects == 2)
        assert len(of_kind(client, ProtocolError)) == 1


def test_a_frame_that_is_too_long_ends_it(make_client: MakeClient) -> None:
    """Resuming would only bring it again."""

    def script(peer: Peer) -> None:
        peer.hello()
        peer.ready({"user": ["e", 0]})
        peer.say(op="msg", topic="user", pos=["e", 1], text="x" * 2000)
        peer.until_closed()

    server = Server(script)
    with (
        server.running(),
        make_client(url=server.url, max_frame_bytes=1000) as client,
        pytest.raises(ConnectionClosed, match="1009"),
    ):
        client.receive(DEADLINE)


def test_a_server_that_does_not_speak_v1(make_client: MakeClient) -> None:
    server = Server(Peer.until_closed, Peer.until_closed)
    with server.running(raw=True):
        client = make_client(url=server.url, open_timeout=0.3)
        with pytest.raises(NotConnected, match=r"does not speak realtime\.v1"):
            client.open()


def test_raw(make_client: MakeClient) -> None:
    def script(peer: Peer) -> object:
        peer.websocket.send('{"event": "ring"}')
        peer.websocket.send(b"\0\xff")
        got = [peer.websocket.recv(timeout=DEADLINE) for _ in range(3)]
        peer.close(1012)
        return got

    server = Server(script)
    with server.running(raw=True), make_client(url=server.url, protocol="raw") as client:
        text, binary = client.receive(DEADLINE), client.receive(DEADLINE)
        assert (text.topic, text.position, text.kind, text.json) == (None, None, Kind.TEXT, {"event": "ring"})
        assert binary.bytes == b"\0\xff"
        client.send("ü")
        client.send(b"\0")
        client.send({"a": 1})
        assert server.result() == ["ü", b"\0", '{"a":1}']
        assert "Sec-WebSocket-Protocol" not in server.handshakes[0].headers
        with pytest.raises(ValueError, match="acks"):
            client.send("x", ack_timeout=1)
        client.until(lambda c: c.counters.connects == 2)


def test_a_slow_consumer_holds_the_server_back_and_loses_nothing(make_client: MakeClient) -> None:
    """contract 7.2's other end: the client's memory is bounded, what it does not read stays with the server."""
    total = 300
    stuck = threading.Event()

    def script(peer: Peer) -> None:
        peer.hello()
        peer.ready({"user": ["e", 0]})
        done = threading.Event()

        def flood() -> None:
            for seq in range(1, total + 1):
                peer.say(op="msg", topic="user", pos=["e", seq], text=f"{seq} {'x' * 100_000}")
            done.set()

        thread = threading.Thread(target=flood)
        thread.start()
        if not done.wait(0.5):  # 30 MB: far more than the buffers of two sockets
            stuck.set()
        thread.join()
        peer.until_closed()

    server = Server(script)
    with server.running(), make_client(url=server.url, buffer_messages=10) as client:
        client.until(lambda c: c._inbox.full)
        assert stuck.wait(DEADLINE), "the server could write everything to a client that takes nothing"
        assert len(client._inbox) == 10  # type: ignore[attr-defined]
        assert client.counters.received == 10
        assert client.positions == {"user": ("e", 0)}, "positions are those of what was taken"
        numbers = [int(client.receive(DEADLINE).text.split()[0]) for _ in range(total)]
        assert numbers == list(range(1, total + 1))


def test_close_while_the_buffer_is_full(make_client: MakeClient) -> None:
    def script(peer: Peer) -> object:
        peer.hello()
        peer.ready({"user": ["e", 0]})
        with suppress(WebSocketClosed):
            for seq in range(1, 100):
                peer.message(seq)
        return peer.until_closed()

    server = Server(script)
    with server.running(), make_client(url=server.url, buffer_messages=5) as client:
        client.until(lambda c: c._inbox.full)
        client.close()
        assert server.result() == (1000, "")
        assert client.positions == {"user": ("e", 0)}


def test_close_from_elsewhere_ends_a_blocked_iteration(make_client: MakeClient) -> None:
    server = Server()
    with server.running(), make_client(url=server.url) as client:
        ended = threading.Event()

        def iterate() -> None:
            assert list(client) == []
            ended.set()

        thread = threading.Thread(target=iterate)
        thread.start()
        started = time.monotonic()
        client.close()
        assert ended.wait(1)
        thread.join()
        assert time.monotonic() - started < 1


@pytest.mark.parametrize("phase", ["discovery", "handshake", "ready", "waiting"])
def test_close_interrupts_every_wait(make_client: MakeClient, phase: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # takes connections, and never answers
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        server = Server(lambda peer: (peer.hello(), peer.until_closed()))
        with server.running():
            options = {"open_timeout": 0, "connect_timeout": 60}
            if phase == "discovery":
                client = make_client(f"http://{address}/", facility="calls", **options)
            elif phase == "handshake":
                client = make_client(url=f"ws://{address}/", **options)
            elif phase == "ready":
                client = make_client(url=server.url, **options)
            else:
                server.refusals = [http(503, retry_after="60")]
                client = make_client(url=server.url, **options)
            client.open()
            if phase in ("discovery", "handshake"):
                listener.settimeout(DEADLINE)
                peer, _ = listener.accept()
                assert peer.recv(10) == b"GET / HTTP" if phase == "handshake" else b"GET /?faci"
            else:
                wanted = State.GREETING if phase == "ready" else State.WAITING
                client.until(lambda c: c.state is wanted)
                peer = socket.socket()
            started = time.monotonic()
            client.close()
            assert time.monotonic() - started < 1
            peer.close()
            assert list(client) == []


def test_close_from_on_event(make_client: MakeClient) -> None:
    server = Server()
    with server.running():
        made: list[Driven] = []

        def on_event(event: object) -> None:
            if isinstance(event, Connected):
                client = made[0]
                if isinstance(client, AsyncDriver):
                    client.start(client.client.close())
                else:
                    client.close()

        made.append(make_client(url=server.url, on_event=on_event))
        made[0].open()
        made[0].until(lambda c: c.state is State.CLOSED)


def test_an_on_event_that_raises_is_logged(make_client: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    def on_event(event: object) -> None:
        raise RuntimeError("mine")

    server = Server()
    with server.running(), make_client(url=server.url, on_event=on_event) as client:
        assert client.state is State.OPEN
    assert "on_event raised for Connecting" in caplog.text


@pytest.mark.parametrize("alive", [True, False])
def test_a_silent_server(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, alive: bool) -> None:
    """contract 7.1, from the other side: silence alone is asked about; no answer is the end."""
    monkeypatch.setattr("shim.client.protocol.ANSWER", 0.05)
    monkeypatch.setattr("shim.client.protocol.MARGIN", 0.1)
    asked = threading.Event()

    def script(peer: Peer) -> None:
        peer.hello()
        receive_data = peer.websocket.protocol.receive_data

        def asked_something(data: bytes | bytearray) -> None:
            asked.set()
            if alive:
                receive_data(data)

        peer.websocket.protocol.receive_data = asked_something  # type: ignore[method-assign]
        peer.ready({}, heartbeat=0.05)
        if alive:
            peer.until_closed()
        else:
            peer.websocket.wait_closed(DEADLINE)

    server = Server(script)
    with server.running(), make_client(url=server.url) as client:
        if alive:
            for _ in range(3):
                assert asked.wait(DEADLINE / 5), "asked again and again, as nothing else is heard"
                asked.clear()
            assert client.counters.losses == 0
        else:
            client.until(lambda c: c.counters.connects == 2)
            assert of_kind(client, Lost)[0].code == 4002


def test_a_fault_in_the_client_is_not_silent(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr("shim.client.protocol.Session.opened", broken)
    server = Server(Peer.until_closed)
    with server.running():
        client = make_client(url=server.url)
        with pytest.raises(ClientError, match="a fault in the client: LookupError: a bug"):
            client.open()


def test_many_takers_share_the_messages(make_client: MakeClient) -> None:
    def script(peer: Peer) -> None:
        peer.hello()
        peer.ready({"user": ["e", 0]})
        for seq in range(1, 401):
            peer.message(seq)
        peer.until_closed()

    server = Server(script)
    with server.running(), make_client(url=server.url, buffer_messages=20) as client:
        got: list[int] = []
        threads = [
            threading.Thread(target=lambda: got.extend(client.receive(DEADLINE).value for _ in range(100)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * DEADLINE)
        assert sorted(got) == list(range(1, 401))


def test_wrong_arguments(make_client: MakeClient) -> None:
    for arguments in (
        {},
        {"facility": "calls"},
        {"url": "ws://h/", "facility": "calls"},
        {"url": "ws://h/", "protocol": "v2"},
        {"url": "ws://h/", "headers": {"Cookie": "a=b"}},
        {"url": "ws://h/", "headers": {"X": "a\r\nb"}},
        {"url": "ws://h/", "cookies": {"a;b": "c"}},
        {"url": "ws://h/", "connect_timeout": 0},
        {"url": "ws://h/", "params": "echo"},
    ):
        with pytest.raises((ValueError, TypeError)):
            make_client(**arguments)
    client = make_client(url="ws://h/")
    with pytest.raises(NotConnected, match="not opened"):
        client.receive()
