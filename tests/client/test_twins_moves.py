"""Make-before-break: both clients against two scripted servers, on real sockets."""

# contract 8.3

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed as WebSocketClosed

from shim.client import (
    ClientError,
    Connected,
    Connecting,
    Event,
    Gap,
    Lost,
    Moved,
    MoveFailed,
    Moving,
    NotConnected,
    ProtocolError,
    SendRefused,
    ServerError,
    State,
)
from tests.client.conftest import MakeClient
from tests.client.drivers import Driven, of_kind, values
from tests.client.scripted import DEADLINE, Peer, Script, Server, http

AWAY = (Moving, Moved, MoveFailed)


class Old:
    """A script for the old connection: `ready`, then what the test says, until the client leaves."""

    def __init__(self, *, n: int = 0) -> None:
        self.peer: Peer | None = None
        self.is_there = threading.Event()
        self._n = n

    def __call__(self, peer: Peer) -> tuple[int, str]:
        peer.hello()
        peer.ready({"user": ["e", 0]})
        for seq in range(1, self._n + 1):
            peer.message(seq)
        self.peer = peer
        self.is_there.set()
        return peer.until_closed()

    def __getattr__(self, name: str) -> Any:
        assert self.is_there.wait(DEADLINE)
        return getattr(self.peer, name)

    def move(self, url: str, within_ms: int = 5_000, backend: str = "channels") -> None:
        self.say(op="move", backend=backend, url=url, within_ms=within_ms)


class New:
    """A script for the new connection: stops after `hello` and after `ready` until the test lets it go on."""

    def __init__(self, at: int = 0, *, recovered: bool = True, waits: bool = False) -> None:
        self.peer: Peer | None = None
        self.resume: dict[str, Any] = {}
        self.asked = threading.Event()
        self.go = threading.Event()
        self.is_ready = threading.Event()
        self.at = at
        self._recovered = recovered
        if not waits:
            self.go.set()

    def __call__(self, peer: Peer) -> tuple[int, str]:
        self.resume = peer.hello()
        self.peer = peer
        self.asked.set()
        assert self.go.wait(DEADLINE)
        recovered = dict.fromkeys(self.resume, self._recovered)
        with suppress(WebSocketClosed):  # where the client did not wait for it
            peer.ready({"user": ["e", self.at]}, recovered, backend="channels")
            self.is_ready.set()
        return peer.until_closed()

    def __getattr__(self, name: str) -> Any:
        assert self.is_ready.wait(DEADLINE)
        return getattr(self.peer, name)


@contextmanager
def two(old: Script, new: Script | None) -> Iterator[tuple[Server, Server]]:
    """The server where the client is, and the one to which it is told to move."""
    first, second = Server(old), Server(*([new] if new else []))
    with first.running(), second.running():
        yield first, second


def told(client: Driven) -> list[type[Event]]:
    return [type(event) for event in client.events]


def settled(client: Driven) -> None:
    client.until(lambda c: c.counters.moved + c.counters.moves_failed > 0)


def failure(client: Driven) -> str:
    settled(client)
    (failed,) = of_kind(client, MoveFailed)
    assert failed.backend == "channels"
    return failed.reason


def test_it_moves_without_a_break(make_client: MakeClient) -> None:
    old, new = Old(n=2), New(2)
    with two(old, new) as (first, second), make_client(url=first.url) as client:
        assert values(client, 2) == [1, 2]
        old.move(second.url)
        settled(client)
        assert first.result() == (1000, "")
        assert new.resume == {"user": ["e", 2]}
        assert (client.backend, client.state) == ("channels", State.OPEN)
        new.message(3)
        assert values(client, 1) == [3]
        assert client.positions == {"user": ("e", 3)}
        assert told(client) == [Connecting, Connected, Moving, Moved]
        (moved,) = of_kind(client, Moved)
        assert (moved.backend, moved.url, moved.topics) == ("channels", second.url, {"user": ("e", 2)})
        assert moved.connection == client.connection_id
        counters = client.counters
        assert (counters.losses, counters.moved, counters.moves_told, counters.duplicates_dropped) == (0, 1, 1, 0)


def test_the_overlap_is_dropped_and_nothing_is_missed(make_client: MakeClient) -> None:
    """Messages come by the old connection until the new one is ready, and then again by that."""
    old, new = Old(n=2), New(4, waits=True)
    with two(old, new) as (first, second), make_client(url=first.url) as client:
        assert values(client, 2) == [1, 2]
        old.move(second.url)
        assert new.asked.wait(DEADLINE)
        old.message(3)
        old.message(4)
        assert values(client, 2) == [3, 4], "the old one goes on"
        new.go.set()
        for seq in (3, 4, 5):
            new.message(seq)
        assert values(client, 1) == [5]
        new.message(5)  # this is a duplicate in earnest
        new.message(6)
        assert values(client, 1) == [6]
        assert new.resume == {"user": ["e", 2]}
        counters = client.counters
        assert (counters.received, counters.duplicates_dropped, counters.holes, counters.gaps) == (6, 1, 0, 0)


def test_what_has_no_position_comes_once(make_client: MakeClient) -> None:
    """From `hello` on it is the new connection's; what is for one connection alone is taken from both."""
    old, new = Old(), New(waits=True)
    with two(old, new) as (first, second), make_client(url=first.url) as client:
        old.say(op="msg", topic="user", pos=None, text="before")
        assert values(client, 1) == ["before"]
        old.move(second.url)
        assert new.asked.wait(DEADLINE)
        old.say(op="msg", topic="user", pos=None, text="both")
        old.say(op="msg", topic=None, pos=None, text="direct, old")
        assert values(client, 1) == ["direct, old"]
        new.go.set()
        new.say(op="msg", topic="user", pos=None, text="both")
        new.say(op="msg", topic=None, pos=None, text="direct, new")
        assert values(client, 2) == ["both", "direct, new"]


def test_cookies_params_and_the_subprotocol_go_along(make_client: MakeClient) -> None:
    old, new = Old(), New()
    first, second = Server(old), Server(new)
    first.handshake_cookies = ["seen=1"]
    with first.running(), second.running():
        options: dict[str, Any] = {"cookies": {"sessionid": "s"}, "params": ("echo",), "headers": {"X-Trace": "t"}}
        with make_client(url=first.url, **options) as client:
            old.move(second.url)
            settled(client)
            (request,) = second.handshakes
            assert request.path == "/ws/calls?echo"
            assert request.headers["Cookie"] == "sessionid=s; seen=1"
            assert request.headers["X-Trace"] == "t"
            assert request.headers["Sec-WebSocket-Protocol"] == "realtime.v1"


def send_from_elsewhere(client: Driven, outcomes: list[object]) -> threading.Thread:
    def send() -> None:
        try:
            outcomes.append(client.send("hi", ack_timeout=DEADLINE))
        except (ClientError, TimeoutError) as error:
            outcomes.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


class OldThatHears(Old):
    """An old connection that keeps what the client sends."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[dict[str, Any]] = []
        self.has_heard = threading.Event()

    def __call__(self, peer: Peer) -> tuple[int, str]:
        peer.hello()
        peer.ready({"user": ["e", 0]})
        self.peer = peer
        self.is_there.set()
        self.heard.append(peer.read())
        self.has_heard.set()
        return peer.until_closed()


@pytest.mark.parametrize("answer", ["ack", "error"])
def test_an_answer_that_is_owed_is_waited_for(make_client: MakeClient, answer: str) -> None:
    """contract 6.1: the old connection is kept until it has answered; sends go to the new one meanwhile."""
    old, new = OldThatHears(), New()
    outcomes: list[object] = []
    with two(old, new) as (first, second), make_client(url=first.url) as client:
        thread = send_from_elsewhere(client, outcomes)
        assert old.has_heard.wait(DEADLINE)
        old.move(second.url)
        settled(client)
        assert first.results.empty(), "it has left before the answer"
        new_id = client.send("more")
        if answer == "ack":
            old.say(op="ack", id=1)
        else:
            old.say(op="error", id=1, code="forbidden", reason="no")
        thread.join(DEADLINE)
        assert first.result() == (1000, "")
        if answer == "ack":
            assert outcomes == [1]
        else:
            (error,) = outcomes
            assert isinstance(error, SendRefused)
            assert of_kind(client, ServerError) == [ServerError(1, "forbidden", "no")]
        assert [frame["id"] for frame in old.heard] == [1]
        assert new_id == 2


def test_an_answer_that_never_comes_is_waited_for_until_the_deadline(make_client: MakeClient) -> None:
    old, new = OldThatHears(), New()
    outcomes: list[object] = []
    with two(old, new) as (first, second), make_client(url=first.url) as client:
        thread = send_from_elsewhere(client, outcomes)
        assert old.has_heard.wait(DEADLINE)
        began = time.monotonic()
        old.move(second.url, within_ms=400)
        assert first.result() == (1000, "")
        assert time.monotonic() - began >= 0.35
        thread.join(DEADLINE)
        (error,) = outcomes
        assert isinstance(error, NotConnected)
        assert client.counters.losses == 0


def test_an_ack_awaited_on_the_new_connection_does_not_end_with_the_old(make_client: MakeClient) -> None:
    old = OldThatHears()
    heard = threading.Event()

    def new(peer: Peer) -> object:
        resume = peer.hello()
        peer.ready({"user": ["e", 0]}, dict.fromkeys(resume, True), backend="channels")
        frame = peer.read()
        heard.set()
        assert first_is_gone.wait(DEADLINE)
        peer.say(op="ack", id=frame["id"])
        return peer.until_closed()

    first_is_gone = threading.Event()
    outcomes: list[object] = []
    with two(old, new) as (first, second), make_client(url=first.url) as client:
        client.send("owed")
        old.move(second.url)
        settled(client)
        thread = send_from_elsewhere(client, outcomes)
        assert heard.wait(DEADLINE)
        old.say(op="ack", id=1)
        first.result()
        client.until(lambda c: len(c._links) == 1)
        first_is_gone.set()
        thread.join(DEADLINE)
        assert outcomes == [2]


def dead_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"ws://127.0.0.1:{listener.getsockname()[1]}/ws/calls"


def test_a_dead_address(make_client: MakeClient) -> None:
    """The client stays; closed at the end of the window, it comes back by discovery."""
    old = Old()
    server = Server(old)
    with server.running(), make_client(server.endpoint, facility="calls") as client:
        old.move(dead_url())
        assert "ConnectionRefusedError" in failure(client)
        old.message(1)
        assert values(client, 1) == [1]
        old.close(1012)
        client.until(lambda c: c.counters.connects == 2)
        assert len(server.asked) == 2
        assert [lost.code for lost in of_kind(client, Lost)] == [1012]


@pytest.mark.parametrize("url", ["", "http://127.0.0.1/", "ws://", "ws://a b/", "ws://u:p@h/", "x" * 5_000])
def test_an_address_that_is_none(make_client: MakeClient, url: str) -> None:
    old = Old()
    with two(old, None) as (first, _), make_client(url=first.url) as client:
        old.move(url)
        assert "no URL" in failure(client)
        old.message(1)
        assert values(client, 1) == [1]


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_refusal(make_client: MakeClient, status: int) -> None:
    """contract 1.1: even one that would mean to stay away; the present connection is a good one."""
    old = Old()
    first, second = Server(old), Server()
    second.refusals = [http(status, "not here", retry_after="1")]
    with first.running(), second.running(), make_client(url=first.url) as client:
        old.move(second.url)
        assert f"HTTP {status}: 'not here'" in failure(client)
        old.message(1)
        assert values(client, 1) == [1]
        assert client.error is None


def test_another_protocol(make_client: MakeClient) -> None:
    old = Old()
    first, second = Server(old), Server(lambda peer: peer.until_closed())
    with first.running(), second.running(raw=True), make_client(url=first.url) as client:
        old.move(second.url)
        assert "does not speak realtime.v1" in failure(client)
        old.message(1)
        assert values(client, 1) == [1]


def test_a_server_that_takes_too_long_for_ready(make_client: MakeClient) -> None:
    old, new = Old(), New(waits=True)
    with two(old, new) as (first, second), make_client(url=first.url) as client:
        old.move(second.url, within_ms=300)
        assert failure(client) == "not ready in time"
        old.message(1)
        assert values(client, 1) == [1]
        new.go.set()
        second.result()
        client.until(lambda c: len(c._links) == 1)


def test_a_listener_that_never_answers(make_client: MakeClient) -> None:
    old = Old()
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, two(old, None) as (first, _), make_client(url=first.url) as client:
        old.move(f"ws://127.0.0.1:{silent.getsockname()[1]}/", within_ms=300)
        assert "time" in failure(client).lower()
        old.message(1)
        assert values(client, 1) == [1]


def closes(peer: Peer) -> None:
    peer.hello()
    peer.close(1013, "busy")


def says_something_else(peer: Peer) -> object:
    peer.hello()
    peer.message(1)
    return peer.until_closed()


@pytest.mark.parametrize(
    ("new", "reason"), [(closes, "closed with 1013 'busy'"), (says_something_else, 'the first frame is "ready"')]
)
def test_a_new_connection_that_comes_to_nothing(make_client: MakeClient, new: Script, reason: str) -> None:
    old = Old()
    with two(old, new) as (first, second), make_client(url=first.url) as client:
        old.move(second.url)
        assert reason in failure(client)
        old.message(1)
        assert values(client, 1) == [1]
        assert client.counters.losses == 0
        assert len(of_kind(client, ProtocolError)) == (new is says_something_else)


def test_a_second_move_while_one_is_under_way(make_client: MakeClient) -> None:
    old, new = Old(), New(waits=True)
    with two(old, new) as (first, second), make_client(url=first.url) as client:
        old.move(second.url)
        assert new.asked.wait(DEADLINE)
        old.move(second.url)
        old.message(1)
        assert values(client, 1) == [1]
        new.at = 1
        new.go.set()
        settled(client)
        assert first.result() == (1000, "")
        assert len(second.handshakes) == 1
        assert len(of_kind(client, Moving)) == len(of_kind(client, Moved)) == 1
        assert client.counters.moves_told == 2


def test_a_move_after_one_that_failed(make_client: MakeClient) -> None:
    old, new = Old(), New()
    with two(old, new) as (first, second), make_client(url=first.url) as client:
        old.move(dead_url())
        failure(client)
        old.move(second.url)
        client.until(lambda c: c.counters.moved == 1)
        assert [type(e) for e in client.events if isinstance(e, AWAY)] == [Moving, MoveFailed, Moving, Moved]


def test_there_and_back(make_client: MakeClient) -> None:
    """Told to go back while the old connection still owes an answer: one move at a time, two connections at most."""
    old, new, again = OldThatHears(), New(), New()
    first, second = Server(old, again), Server(new)
    with first.running(), second.running(), make_client(url=first.url) as client:
        client.send("owed")
        old.move(second.url)
        settled(client)
        new.say(op="move", backend="legacy", url=first.url, within_ms=5_000)
        new.message(1)
        assert values(client, 1) == [1]
        assert len(first.handshakes) == 1, "a third connection"
        again.at = 1
        old.say(op="ack", id=1)
        client.until(lambda c: c.counters.moved == 2)
        assert [first.result(), second.result()] == [(1000, ""), (1000, "")]
        again.message(2)
        assert values(client, 1) == [2]
        assert client.counters.losses == 0


@pytest.mark.parametrize("waits", [True, False], ids=["dialling", "greeting"])
def test_the_old_connection_ends_under_way(make_client: MakeClient, *, waits: bool) -> None:
    """The move is given up, and the client comes back in the usual way; nothing is lost or doubled."""
    old, new = Old(n=1), New(waits=True)
    again = New(2)
    silent = socket.create_server(("127.0.0.1", 0))
    first, second = Server(old, again), Server(new)
    with silent, first.running(), second.running(), make_client(url=first.url) as client:
        assert values(client, 1) == [1]
        old.move(f"ws://127.0.0.1:{silent.getsockname()[1]}/" if waits else second.url)
        if waits:
            silent.settimeout(DEADLINE)
            accepted, _ = silent.accept()
            accepted.close()
        else:
            assert new.asked.wait(DEADLINE)
        old.close(1012, "moved")
        again.message(2)
        assert values(client, 1) == [2]
        assert again.resume == {"user": ["e", 1]}
        settled(client)
        assert len(of_kind(client, MoveFailed)) == 1
        assert [lost.code for lost in of_kind(client, Lost)] == [1012]
        new.go.set()
        client.until(lambda c: len(c._links) == 1)


def test_signed_out_under_way(make_client: MakeClient) -> None:
    """contract 7.5: the new connection goes too."""
    old, new = Old(), New(waits=True)
    with two(old, new) as (first, second), make_client(url=first.url) as client:
        old.move(second.url)
        assert new.asked.wait(DEADLINE)
        old.close(4500, "signed out")
        client.until(lambda c: c.state is State.CLOSED)
        new.go.set()
        second.result()
        client.until(lambda c: not c._links)


def test_the_new_connection_ends_right_after(make_client: MakeClient) -> None:
    """Then it is an ordinary loss; the old one, which still owes an answer, is not waited for."""
    old, new = OldThatHears(), New()
    first, second = Server(old, New(1)), Server(new)
    with first.running(), second.running(), make_client(url=first.url) as client:
        client.send("owed")
        old.move(second.url)
        settled(client)
        new.close(1011)
        assert first.result() == (1000, "")
        client.until(lambda c: c.counters.connects == 3)
        assert [lost.code for lost in of_kind(client, Lost)] == [1011]


@pytest.mark.parametrize("stage", ["dialling", "greeting", "leaving"])
def test_closing_under_way(make_client: MakeClient, stage: str) -> None:
    old, new = OldThatHears(), New(waits=stage == "greeting")
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, two(old, new) as (first, second), make_client(url=first.url) as client:
        client.send("owed")
        old.move(f"ws://127.0.0.1:{silent.getsockname()[1]}/" if stage == "dialling" else second.url)
        if stage == "dialling":
            client.until(lambda c: len(c._links) == 2)
        elif stage == "greeting":
            assert new.asked.wait(DEADLINE)
        else:
            settled(client)
        began = time.monotonic()
        client.close()
        assert time.monotonic() - began < 5.0
        new.go.set()
        assert first.result() == (1000, "")
        if stage != "dialling":
            assert second.result() == (1000, "")
        assert client.state is State.CLOSED
        assert not of_kind(client, Lost)


def test_a_gap_on_the_new_connection(make_client: MakeClient) -> None:
    """contract 5.3: what the old one has not brought, and the new one cannot bring, is told."""
    old, new = Old(n=2), New(5, recovered=False)
    with two(old, new) as (first, second), make_client(url=first.url) as client:
        assert values(client, 2) == [1, 2]
        old.move(second.url)
        settled(client)
        assert of_kind(client, Gap) == [Gap("user", ("e", 5), ("e", 2))]  # type: ignore[arg-type]  # tuples do
        new.message(6)
        assert values(client, 1) == [6]
        assert (client.counters.gaps, client.counters.holes) == (1, 0)


def test_no_gap_where_the_old_one_has_brought_it(make_client: MakeClient) -> None:
    old, new = Old(n=2), New(3, recovered=False, waits=True)
    with two(old, new) as (first, second), make_client(url=first.url) as client:
        assert values(client, 2) == [1, 2]
        old.move(second.url)
        assert new.asked.wait(DEADLINE)
        old.message(3)
        old.message(4)
        assert values(client, 2) == [3, 4]
        new.go.set()
        new.message(4)
        new.message(5)
        assert values(client, 1) == [5]
        counters = client.counters
        assert (counters.gaps, counters.holes, counters.duplicates_dropped) == (0, 0, 0)


def test_an_old_server_that_is_nonsense_at_the_end(make_client: MakeClient) -> None:
    """After the switch what the old connection says cannot hurt the new one."""
    old, new = OldThatHears(), New()
    with two(old, new) as (first, second), make_client(url=first.url) as client:
        client.send("owed")
        old.move(second.url)
        settled(client)
        old.message(9)
        old.say(op="gap", topic="user", pos=["other", 3])
        old.websocket.send("nonsense")
        assert first.result() == (1000, "")
        new.message(1)
        assert values(client, 1) == [1]
        assert client.counters.protocol_errors == 0


def test_a_full_inbox_does_not_keep_it_from_moving(make_client: MakeClient) -> None:
    old, new = Old(n=50), New(50)
    with two(old, new) as (first, second), make_client(url=first.url, buffer_messages=50) as client:
        client.until(lambda c: len(c._inbox) == 50)
        assert values(client, 10) == list(range(1, 11))
        old.move(second.url)
        settled(client)
        assert first.result() == (1000, "")
        new.message(51)
        assert values(client, 41) == list(range(11, 52))


def test_events_of_two_connections_come_one_at_a_time(make_client: MakeClient) -> None:
    busy = threading.Lock()
    overlaps: list[Event] = []
    seen: list[Event] = []

    def on_event(event: Event) -> None:
        if not busy.acquire(blocking=False):
            overlaps.append(event)
            return
        seen.append(event)
        time.sleep(0.01)  # a slow one
        busy.release()

    old, new = OldThatHears(), New()
    with two(old, new) as (first, second), make_client(url=first.url, on_event=on_event) as client:
        client.send("owed")
        old.move(second.url)
        for n in range(10):
            old.say(op="error", id=None, code=f"c{n}", reason="r")
        settled(client)
        old.say(op="ack", id=1)
        first.result()
        client.until(lambda c: len([e for e in seen if isinstance(e, ServerError)]) == 10)
    assert not overlaps
    assert [e.code for e in seen if isinstance(e, ServerError)] == [f"c{n}" for n in range(10)]


def test_moves_again_and_again(make_client: MakeClient) -> None:
    """Twenty moves, and a message between each two of them."""
    scripts: list[Callable[[Peer], object]] = []
    published = [0]
    urls: list[str] = []

    def script(peer: Peer) -> object:
        resume = peer.hello()
        since = resume["user"][1] if resume else 0
        peer.ready({"user": ["e", published[0]]}, dict.fromkeys(resume, True))
        for seq in range(since + 1, published[0] + 1):
            peer.message(seq)
        published[0] += 1
        peer.message(published[0])
        if published[0] <= 20:
            peer.say(op="move", backend="channels", url=urls[published[0] % 2], within_ms=5_000)
        return peer.until_closed()

    scripts = [script] * 21
    first, second = Server(*scripts), Server(*scripts)
    with first.running(), second.running():
        urls += [first.url, second.url]
        with make_client(url=first.url) as client:
            assert values(client, 21) == list(range(1, 22))
            counters = client.counters
            assert (counters.moved, counters.losses, counters.moves_failed) == (20, 0, 0)
            assert (counters.duplicates_dropped, counters.holes, counters.gaps) == (0, 0, 0)
