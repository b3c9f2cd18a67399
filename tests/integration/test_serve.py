"""`make serve`, as the README promises it, through real sockets: any WebSocket client, any Python process."""

import base64
import http.client
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from shim.bus.embedded import EmbeddedValkey
from shim.client import Client
from tests.integration.conftest import free_ports
from tests.integration.served import PATIENCE, Served, alive, wait_until

pytestmark = pytest.mark.servers

BACKENDS = ["legacy", "channels"]
TIMEOUT = 10.0


@contextmanager
def raw(url: str, **options: Any) -> Iterator[ClientConnection]:
    with connect(url, open_timeout=TIMEOUT, close_timeout=2, proxy=None, **options) as websocket:
        yield websocket


@contextmanager
def v1(url: str, resume: dict[str, Any] | None = None, **options: Any) -> Iterator[tuple[ClientConnection, Any]]:
    with raw(url, subprotocols=[Subprotocol("realtime.v1")], **options) as websocket:
        websocket.send(json.dumps({"op": "hello", "resume": resume or {}}))
        yield websocket, json.loads(websocket.recv(TIMEOUT))


def publish(served: Served, *messages: str) -> None:
    """Each is Python source: facility, audience, message."""
    lines = "\n".join(f"print(realtime.publish({message}).position)" for message in messages)
    served.python(f"from shim import *\n{lines}")


def pid_of(served: Served, backend: str) -> int:
    connection = http.client.HTTPConnection(served.ready["http"][backend].removeprefix("http://"), timeout=TIMEOUT)
    try:
        connection.request("GET", "/health", headers={"Connection": "close"})
        return int(json.loads(connection.getresponse().read())["pid"])
    finally:
        connection.close()


def busiest_of(served: Served, backend: str) -> int:
    """The worker with the most sockets: of some clients, at least one is surely its own."""
    workers: set[int] = set()

    def all_have_answered() -> bool:
        workers.add(pid_of(served, backend))
        return len(workers) == 2

    wait_until(all_have_answered, 30, f"one worker of {backend} answers everything")
    return max(workers, key=lambda pid: len(list(Path(f"/proc/{pid}/fd").iterdir())))


# The line


def test_the_line_tells_all(served: Served) -> None:
    assert set(served.ready) == {"http", "ws", "redis", "env"}
    for backend in BACKENDS:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", served.ready["http"][backend])
        assert re.fullmatch(r"ws://127\.0\.0\.1:\d+/ws/", served.ready["ws"][backend])
    assert served.ready["env"]["DJANGO_SETTINGS_MODULE"] == "settings.demo"
    assert all(isinstance(value, str) for value in served.ready["env"].values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_server_has_several_processes(served: Served, backend: str) -> None:
    seen: set[int] = set()

    def two() -> bool:
        seen.add(pid_of(served, backend))
        return len(seen) == 2

    wait_until(two, TIMEOUT)


# Facilities


@pytest.mark.parametrize("backend", BACKENDS)
def test_echo_keeps_the_kind(served: Served, backend: str) -> None:
    # contract 4.1, 6.1
    sent: list[str | bytes] = ["text", b"\x00\xff", "", b"", "\u0000é\U0001f600", "x" * 70_000, b"y" * 100_000]
    with raw(f"{served.ready['ws'][backend]}echo") as one, raw(f"{served.ready['ws'][backend]}echo") as other:
        for message in sent:
            one.send(message)
        assert [one.recv(TIMEOUT) for _ in sent] == sent
        other.send("mine")
        assert other.recv(TIMEOUT) == "mine"  # and nothing of the other's


@pytest.mark.parametrize("backend", BACKENDS)
def test_echo_to_v1(served: Served, backend: str) -> None:
    binary = base64.b64encode(b"\x00\xff").decode()
    payloads: list[dict[str, Any]] = [{"data": {"a": [1, None]}}, {"text": ""}, {"b64": binary}]
    with v1(f"{served.ready['ws'][backend]}echo") as (websocket, ready):
        assert ready["backend"] == backend
        assert ready["topics"] == {}
        for id, payload in enumerate(payloads):
            websocket.send(json.dumps({"op": "send", "id": id, **payload}))
            frames = [json.loads(websocket.recv(TIMEOUT)) for _ in range(2)]
            assert {"op": "ack", "id": id} in frames
            assert {"op": "msg", "topic": None, "pos": None, **payload} in frames


@pytest.mark.parametrize("backend", BACKENDS)
def test_lobby_is_published_to_by_another_process(served: Served, backend: str) -> None:
    url = f"{served.ready['ws'][backend]}lobby"
    with v1(url) as (one, ready), raw(url) as other:
        assert ready["op"] == "ready"
        publish(served, '"lobby", Everyone(), {"n": 1}', '"lobby", Everyone(), b"\\xff"', '"lobby", Everyone(), "end"')
        epoch, seq = ready["topics"]["everyone"] if ready["topics"]["everyone"][1] else (None, 0)
        frames = [json.loads(one.recv(TIMEOUT)) for _ in range(3)]
        assert [frame.get("data") for frame in frames] == [{"n": 1}, None, None]
        assert frames[1]["b64"] == base64.b64encode(b"\xff").decode()
        assert [frame["pos"][1] for frame in frames] == [seq + 1, seq + 2, seq + 3]  # contract 3.2
        assert epoch is None or {frame["pos"][0] for frame in frames} == {epoch}
        live: list[str | bytes] = []
        while not live or live[-1] != "end" or len(live) < 3:  # the last message of the past may come first (5.2)
            live.append(other.recv(TIMEOUT))
        assert live[-3:] == ['{"n":1}', b"\xff", "end"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_lobby_takes_nothing_from_clients(served: Served, backend: str) -> None:
    # contract 1.3
    with v1(f"{served.ready['ws'][backend]}lobby") as (websocket, _):
        websocket.send('{"op":"send","id":7,"text":"hello"}')
        error = json.loads(websocket.recv(TIMEOUT))
    assert (error["op"], error["id"], error["code"]) == ("error", 7, "forbidden")


def test_refusals_are_the_same(served: Served) -> None:
    # contract 1.1
    cases: list[tuple[str, dict[str, Any]]] = [
        ("nowhere", {}),
        ("lobby", {"origin": "https://evil.example"}),
        ("calls", {}),
    ]
    for facility, options in cases:
        answers = []
        for backend in BACKENDS:
            with pytest.raises(InvalidStatus) as refused, raw(f"{served.ready['ws'][backend]}{facility}", **options):
                pass
            answers.append((refused.value.response.status_code, bytes(refused.value.response.body or b"")))
        assert answers[0] == answers[1]
        assert answers[0][0] == (404 if facility == "nowhere" else 403)


def test_a_user_and_a_group_are_reached_on_both_backends(served: Served) -> None:
    # contract 1.2, 3.3
    session = served.python(
        """
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.sessions.backends.db import SessionStore
user = get_user_model().objects.get(username="ana")
store = SessionStore()
store[SESSION_KEY], store[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
store.save()
print(store.session_key)"""
    ).strip()
    headers = {"Cookie": f"sessionid={session}"}
    url = served.ready["ws"]
    with (
        v1(f"{url['legacy']}calls", additional_headers=headers) as (one, ready),
        v1(f"{url['channels']}calls", additional_headers=headers) as (other, same),
    ):
        labels = {"everyone", "user", "session", "group:interpreters", "group:Español"}
        assert set(ready["topics"]) == set(same["topics"]) == labels
        publish(
            served,
            '"calls", User("ben"), "not for ana"',
            '"calls", Group("Español"), "g"',
            '"calls", User("ana"), "u"',
            f'"calls", Session("{session}"), "s"',
        )
        for websocket in (one, other):
            got = {frame["topic"]: frame["text"] for frame in (json.loads(websocket.recv(TIMEOUT)) for _ in range(3))}
            assert got == {"group:Español": "g", "user": "u", "session": "s"}


# When things break


def test_redis_stops_and_starts(served: Served, valkey: EmbeddedValkey) -> None:
    # contract 7.3, 7.4
    urls = [f"{served.ready['ws'][backend]}lobby" for backend in BACKENDS]
    with (
        raw(urls[0]) as raw_legacy,
        raw(urls[1]) as raw_channels,
        v1(urls[0]) as (v1_legacy, _),
        v1(urls[1]) as (
            v1_channels,
            _,
        ),
    ):
        clients = [raw_legacy, raw_channels, v1_legacy, v1_channels]
        valkey.stop()
        try:
            started = time.monotonic()
            said = served.python(
                "from shim import *\ntry:\n realtime.publish('lobby', Everyone(), 'lost')\n"
                "except RealtimeUnavailable as error: print('unavailable', error)"
            )
            assert said.startswith("unavailable")
            assert time.monotonic() - started < PATIENCE / 2
        finally:
            valkey.start()
        # Publish until it flows again: nobody is told by the client when its server has found Redis.
        waiting = set(clients)

        def flows() -> bool:
            publish(served, '"lobby", Everyone(), "again"')
            for websocket in list(waiting):
                try:
                    while "again" not in str(websocket.recv(0.3)):
                        pass
                    waiting.discard(websocket)
                except TimeoutError:
                    continue
            return not waiting

        wait_until(flows, 30, f"{len(waiting)} clients get nothing any more")
        for websocket in clients:  # the very same connections
            websocket.ping().wait(TIMEOUT)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_worker_is_killed(served: Served, backend: str) -> None:
    # contract 5.3: those of the other worker go on, those of the killed one come back and miss nothing
    url = f"{served.ready['ws'][backend]}lobby"
    clients = [Client(url=url) for _ in range(8)]
    try:
        for client in clients:
            client.open()
        victim = busiest_of(served, backend)
        before = [client.connection_id for client in clients]
        publish(served, '"lobby", Everyone(), "before"')
        os.kill(victim, signal.SIGKILL)
        publish(served, '"lobby", Everyone(), "after"')
        for client in clients:
            assert [client.receive(30).value for _ in range(2)] == ["before", "after"]
        assert all(client.holes == client.duplicates_dropped == client.counters.gaps == 0 for client in clients)
        assert any(client.connection_id != id for client, id in zip(clients, before, strict=True))
    finally:
        for client in clients:
            client.close()
    wait_until(lambda: pid_of(served, backend) != victim, TIMEOUT)


# The flag: last, because who connects to the other side soon after a flip is moved with the others


def test_another_process_turns_the_flag(served: Served) -> None:
    # contract 8.1, 8.2, 8.6
    endpoint = f"{served.ready['http']['legacy']}/realtime/endpoint"
    turn = "from waffle.models import Flag; f = Flag.objects.get(name='realtime_channels'); f.everyone = %s; f.save()"
    with Client(endpoint, facility="lobby") as client:
        assert client.backend == "legacy"
        try:
            served.python(turn % True)
            client.wait_until(lambda c: c.connected and c.backend == "channels", 15)
            publish(served, '"lobby", Everyone(), "moved"')
            assert client.receive(TIMEOUT).value == "moved"
        finally:
            served.python(turn % None)
        client.wait_until(lambda c: c.connected and c.backend == "legacy", 15)
        assert client.counters.gaps == client.holes == client.duplicates_dropped == 0


# Starting and ending


def test_a_taken_port_is_one_sentence(serve: Callable[..., Served]) -> None:
    base = free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 1))
        taken.listen()
        served = serve(base)
        out, err = served.process.communicate(timeout=PATIENCE)
    assert served.process.returncode == 1
    assert out == ""
    assert f"Port {base + 1}" in err.splitlines()[-1]
    assert "PORT_BASE" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_redis_that_is_not_there_is_one_sentence(serve: Callable[..., Served]) -> None:
    served = serve(REDIS_URL="redis://127.0.0.1:1/0")
    out, err = served.process.communicate(timeout=PATIENCE)
    assert (served.process.returncode, out) == (1, "")
    assert "127.0.0.1:1" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_nothing_is_left_running(serve: Callable[..., Served], number: int, code: int) -> None:
    served = serve()
    served.wait_until_ready()
    with raw(f"{served.ready['ws']['legacy']}lobby"), raw(f"{served.ready['ws']['channels']}lobby"):
        family = served.family()
        assert len(family) >= 8  # us, three keepers, Valkey, two servers with workers
        assert served.end(number) == code
        wait_until(lambda: not alive(family), 10, f"still running: {alive(family)}")
