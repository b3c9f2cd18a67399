"""How it ends, and whether it comes back: both clients against a scripted server, on real sockets."""

import socket
from collections.abc import Callable

import pytest

from shim.client import (
    ClientError,
    ConnectionClosed,
    DiscoveryError,
    HandshakeRefused,
    Lost,
    NotConnected,
    Received,
    State,
)
from tests.client.conftest import MakeClient
from tests.client.drivers import of_kind
from tests.client.scripted import Peer, Server, closing, http


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 4500, 4503])
def test_codes_that_mean_stay_away(make_client: MakeClient, code: int) -> None:
    """contract, close codes."""

    def script(peer: Peer) -> None:
        peer.hello()
        peer.ready({"user": ["e", 0]})
        peer.message(1)
        peer.close(code, "go")

    server = Server(script)
    with server.running(), make_client(url=server.url) as client:
        got: list[Received] = []
        with pytest.raises(ConnectionClosed, match=f"{code} 'go'") as raised:
            got.extend(iter(client))
        assert [message.value for message in got] == [1], "what came before the end is not lost"
        assert (raised.value.code, client.state, client.error) == (code, State.CLOSED, raised.value)
        assert of_kind(client, Lost) == [Lost(code, "go", None)]


def test_1000_of_the_server_ends_the_iteration(make_client: MakeClient) -> None:
    server = Server(closing(1000))
    with server.running(), make_client(url=server.url) as client:
        assert list(client) == []
        assert isinstance(client.error, ConnectionClosed)


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013, 4001, 4002, 4003, 3000])
def test_codes_that_mean_come_back(make_client: MakeClient, code: int) -> None:
    """contract, close codes."""
    server = Server(closing(code))
    with server.running(), make_client(url=server.url) as client:
        client.until(lambda c: c.counters.connects == 2)
        assert of_kind(client, Lost)[0].code == code


def test_a_lost_connection_comes_back(make_client: MakeClient) -> None:
    def script(peer: Peer) -> None:
        peer.hello()
        peer.ready({})
        peer.websocket.socket.shutdown(socket.SHUT_RDWR)

    server = Server(script)
    with server.running(), make_client(url=server.url) as client:
        client.until(lambda c: c.counters.connects == 2)
        assert of_kind(client, Lost)[0].code == 1006


def test_503_is_obeyed_and_tried_again(make_client: MakeClient) -> None:
    """contract 1.1, on the handshake and on discovery."""
    server = Server()
    server.answers = [http(503, "draining", retry_after="0")]
    server.refusals = [http(503, "draining", retry_after="0"), http(503, "again")]
    with server.running(), make_client(server.endpoint, facility="calls") as client:
        assert [lost.status for lost in of_kind(client, Lost)] == [503, 503, 503]
        assert "draining" in of_kind(client, Lost)[1].reason
        assert client.state is State.OPEN


@pytest.mark.parametrize("status", [400, 403, 404, 426])
def test_refusals_that_mean_stay_away(make_client: MakeClient, status: int) -> None:
    """contract 1.1."""
    server = Server()
    server.refusals = [http(status, "no such facility")]
    with server.running():
        client = make_client(url=server.url)
        with pytest.raises(HandshakeRefused, match=f"HTTP {status}: 'no such facility'") as raised:
            client.open()
        assert raised.value.status == status
        assert client.state is State.CLOSED


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (lambda: http(404, "<h1>Not Found</h1>"), "HTTP 404 '<h1>Not Found</h1>'"),
        (lambda: http(200, "<html>login</html>"), "HTTP 200 '<html>login</html>': not JSON"),
        (lambda: http(200, '{"url": 1}'), "not what an endpoint says"),
        (lambda: http(200, '{"backend": "legacy", "url": "http://x/"}'), "bad URL"),
        (lambda: http(302, "", location="/login/"), "redirects to: '/login/'"),
        (lambda: http(200, "x" * 100_000), "over 65536 bytes"),
    ],
)
def test_an_endpoint_that_is_none(make_client: MakeClient, answer: Callable[[], object], match: str) -> None:
    server = Server()
    with server.running():
        server.answers = [answer()] * 100  # type: ignore[list-item]  # the lambdas make responses
        client = make_client(server.endpoint, facility="calls", open_timeout=0.5)
        with pytest.raises(ClientError, match=match) as raised:
            client.open()
        assert server.endpoint in str(raised.value)


def test_a_strange_page_later_on_is_passing(make_client: MakeClient) -> None:
    """An answer that is not ours ends a client that never worked, not one that did."""
    server = Server(closing(1012))
    with server.running(), make_client(server.endpoint, facility="calls") as client:
        server.answers = [http(200, "<html>maintenance</html>")]
        client.until(lambda c: c.counters.connects == 2)
        assert client.error is None


def test_a_dead_address(make_client: MakeClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = make_client(f"http://127.0.0.1:{port}/endpoint", facility="calls", open_timeout=0.3)
    with pytest.raises(NotConnected, match=r"within 0\.3 s; last: .*ConnectionRefusedError"):
        client.open()
    assert client.state is State.CLOSED


def test_a_server_that_starts_later(make_client: MakeClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = make_client(url=f"ws://127.0.0.1:{port}/", open_timeout=0)
    client.open()
    client.until(lambda c: c._session.failure != "nothing was tried")
    with Server().running(port=port):
        client.until(lambda c: c.connected)
        client.close()


@pytest.mark.parametrize(
    "url", ["", "ws:/x", "http://127.0.0.1:99999/", "ftp://host/", "http://a b/", "//host", "http://u:p@h/"]
)
def test_bad_urls(make_client: MakeClient, url: str) -> None:
    with pytest.raises(DiscoveryError, match="no URL"):
        make_client(url, facility="calls")
    with pytest.raises(DiscoveryError, match="no URL"):
        make_client(url=url)
