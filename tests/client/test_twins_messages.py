"""What comes and goes: both clients against a scripted server, on real sockets."""

import pytest

from shim.client import (
    Connected,
    ConnectionClosed,
    Gap,
    Hole,
    Moving,
    NotConnected,
    SendRefused,
    ServerError,
    State,
)
from shim.core.errors import InvalidPayload
from shim.core.message import Kind, Message
from shim.core.wire import Position
from tests.client.conftest import MakeClient
from tests.client.drivers import of_kind, values
from tests.client.scripted import DEADLINE, Peer, Server, closing, stay


def test_from_discovery_to_messages_of_every_kind(make_client: MakeClient) -> None:
    def script(peer: Peer) -> object:
        resume = peer.hello()
        peer.ready({"user": ["e", 4], "group:ü:1": ["f", 0]}, backend="channels")
        peer.message(5)
        peer.say(op="msg", topic="group:ü:1", pos=["f", 1], text="a\0ü")
        peer.say(op="msg", topic="user", pos=None, b64="AP8=")
        peer.say(op="msg", topic=None, pos=None, data=None)
        peer.until_closed()
        return resume

    server = Server(script)
    with server.running(), make_client(server.endpoint, facility="calls") as client:
        assert (client.state, client.backend) == (State.OPEN, "channels")
        got = [client.receive(DEADLINE) for _ in range(4)]
        assert [(m.topic, m.position, m.kind, m.value) for m in got] == [
            ("user", Position("e", 5), Kind.JSON, 5),
            ("group:ü:1", Position("f", 1), Kind.TEXT, "a\0ü"),
            ("user", None, Kind.BINARY, b"\0\xff"),
            (None, None, Kind.JSON, None),
        ]
        assert (got[0].json, got[1].text, got[2].bytes) == (5, "a\0ü", b"\0\xff")
        assert client.positions == {"user": ("e", 5), "group:ü:1": ("f", 1)}
        client.close()
        assert server.result() == {}  # the first hello resumes nothing
        assert server.asked[0].path == "/endpoint?facility=calls"
        assert server.handshakes[0].path == "/ws/calls"
        (connected,) = of_kind(client, Connected)
        assert connected.connection == client.connection_id
        assert connected.topics == {"user": ("e", 4), "group:ü:1": ("f", 0)}


def test_the_client_says_1000_when_it_leaves(make_client: MakeClient) -> None:
    def script(peer: Peer) -> object:
        peer.hello()
        peer.ready({})
        return peer.until_closed()

    server = Server(script)
    with server.running(), make_client(url=server.url) as client:
        client.close()
        assert server.result() == (1000, "")
        assert list(client) == []
        with pytest.raises(ConnectionClosed):
            client.receive(0)
        with pytest.raises(RuntimeError, match="opened once"):
            client.open()


def test_it_comes_back_and_resumes_where_it_was(make_client: MakeClient) -> None:
    """contract 5.3, close code 1012."""

    def first(peer: Peer) -> object:
        resume = peer.hello()
        peer.ready({"user": ["e", 40], "everyone": ["x", 7]})
        peer.message(41)
        peer.message(42)
        peer.close(1012, "moved: reconnect")
        return resume

    def second(peer: Peer) -> object:
        resume = peer.hello()
        peer.ready({"user": ["e", 44], "everyone": ["x", 7]}, {"user": True, "everyone": True}, backend="channels")
        for seq in (43, 44, 45):
            peer.message(seq)
        peer.until_closed()
        return resume

    server = Server(first, second)
    with server.running(), make_client(server.endpoint, facility="calls") as client:
        assert values(client, 5) == [41, 42, 43, 44, 45]
        assert client.backend == "channels"
        client.close()
        assert server.result() == {}
        assert server.result() == {"user": ["e", 42], "everyone": ["x", 7]}
        assert len(server.asked) == 2, "1012 begins with fresh discovery"
        counters = client.counters
        assert (counters.duplicates_dropped, counters.holes, counters.gaps, counters.protocol_errors) == (0, 0, 0, 0)
        assert (counters.received, counters.connects, counters.losses) == (5, 2, 2)


def test_what_cannot_be_recovered_is_a_gap(make_client: MakeClient) -> None:
    """contract 5.3: recovered false."""

    def second(peer: Peer) -> object:
        resume = peer.hello()
        peer.ready({"user": ["new", 3]}, {"user": False})
        peer.message(4, epoch="new")
        peer.say(op="gap", topic="user", pos=["new", 9])
        peer.message(10, epoch="new")
        peer.until_closed()
        return resume

    server = Server(closing(1011), second)
    with server.running(), make_client(url=server.url) as client:
        assert values(client, 2) == [4, 10]
        assert of_kind(client, Gap) == [
            Gap("user", Position("new", 3), Position("e", 0)),
            Gap("user", Position("new", 9), Position("new", 4)),
        ]
        assert client.counters.holes == 0


def test_a_client_continues_where_another_one_was(make_client: MakeClient) -> None:
    def script(peer: Peer) -> object:
        resume = peer.hello()
        peer.ready({"user": ["e", 9]}, {"user": True})
        peer.message(9)
        peer.until_closed()
        return resume

    server = Server(script)
    with server.running(), make_client(url=server.url, positions={"user": Position("e", 8)}) as client:
        assert values(client, 1) == [9]
        client.close()
        assert server.result() == {"user": ["e", 8]}


def test_duplicates_are_dropped_and_holes_are_counted(make_client: MakeClient) -> None:
    def script(peer: Peer) -> None:
        peer.hello()
        peer.ready({"user": ["e", 1]})
        for seq in (1, 2, 2, 1, 3, 6, 5, 7):
            peer.message(seq)
        peer.until_closed()

    server = Server(script)
    with server.running(), make_client(url=server.url) as client:
        assert values(client, 4) == [2, 3, 6, 7]
        assert (client.counters.duplicates_dropped, client.counters.holes) == (4, 1)
        assert of_kind(client, Hole) == [Hole("user", Position("e", 6), Position("e", 3))]


def test_cookies_travel(make_client: MakeClient) -> None:
    """contract 8.1, 8.4: what discovery and a handshake set comes along from then on."""
    server = Server(closing(1012), stay)
    server.endpoint_cookies = ["realtime_anonymous=a1; Path=/; HttpOnly", "gone=1", "gone=; Max-Age=0"]
    server.handshake_cookies = ["realtime_cohort=channels; Path=/"]
    with (
        server.running(),
        make_client(server.endpoint, facility="calls", cookies={"sessionid": "s"}, headers={"X-Tag": "t"}) as client,
    ):
        client.until(lambda c: c.counters.connects == 2)
        sent = [
            request.headers["Cookie"] for pair in zip(server.asked, server.handshakes, strict=True) for request in pair
        ]
        assert sent == [
            "sessionid=s",
            "sessionid=s; realtime_anonymous=a1",
            "sessionid=s; realtime_anonymous=a1; realtime_cohort=channels",
            "sessionid=s; realtime_anonymous=a1; realtime_cohort=channels",
        ]
        assert {request.headers["X-Tag"] for request in server.asked + server.handshakes} == {"t"}


def test_params_narrow_the_subscription(make_client: MakeClient) -> None:
    server = Server()
    server.fields["url"] = ""
    with server.running():
        server.fields["url"] = server.url + "?v=1"
        with make_client(server.endpoint, facility="calls", params=("subscribe-user", "echo")):
            assert server.handshakes[0].path == "/ws/calls?v=1&subscribe-user&echo"  # contract 1.3


def test_sending_and_acks(make_client: MakeClient) -> None:
    def script(peer: Peer) -> object:
        peer.hello()
        peer.ready({})
        got = [peer.read()]
        got.append(peer.read())
        peer.say(op="ack", id=got[1]["id"])
        got.append(peer.read())
        peer.say(op="error", id=got[2]["id"], code="forbidden", reason="closed by default")
        got.append(peer.read())
        peer.close(1011)
        return got

    server = Server(script)
    with server.running(), make_client(url=server.url) as client:
        assert client.send({"a": "ü"}) == 1
        assert client.send("text\n", ack_timeout=DEADLINE) == 2
        with pytest.raises(SendRefused, match="forbidden: closed by default"):
            client.send(b"\0\xff", ack_timeout=DEADLINE)
        with pytest.raises(NotConnected, match="before the ack of message 4: 1011"):
            client.send(Message(Kind.JSON, "json"), ack_timeout=DEADLINE)
        assert server.result() == [
            {"op": "send", "id": 1, "data": {"a": "ü"}},
            {"op": "send", "id": 2, "text": "text\n"},
            {"op": "send", "id": 3, "b64": "AP8="},
            {"op": "send", "id": 4, "data": "json"},
        ]
        assert of_kind(client, ServerError) == [ServerError(3, "forbidden", "closed by default")]
        client.until(lambda c: c.counters.connects == 2)
        with pytest.raises(TimeoutError, match="no ack of message 5"):
            client.send("ignored", ack_timeout=0.01)
        with pytest.raises(InvalidPayload):
            client.send(float("nan"))
        client.close()
        with pytest.raises(NotConnected):
            client.send("too late")


def test_ping_is_answered_while_nothing_is_taken(make_client: MakeClient) -> None:
    """contract 7.1."""

    def script(peer: Peer) -> object:
        peer.hello()
        peer.ready({})
        peer.say(op="ping")
        return peer.read()

    server = Server(script)
    with server.running(), make_client(url=server.url):
        assert server.result() == {"op": "pong"}


def test_move_is_told(make_client: MakeClient) -> None:
    """contract 8.3: the server closes with 1012 at the end of the window."""

    def script(peer: Peer) -> None:
        peer.hello()
        peer.ready({})
        peer.say(op="move", backend="channels", url="ws://elsewhere/ws/calls", within_ms=4000)
        peer.close(1012)

    server = Server(script)
    with server.running(), make_client(url=server.url) as client:
        client.until(lambda c: c.counters.connects == 2)
        assert of_kind(client, Moving) == [Moving("channels", "ws://elsewhere/ws/calls", 4.0)]
