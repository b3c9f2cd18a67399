"""`make demo HEADLESS=1`, and the dispatch room through its pages."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from demo.browser import Answered, Browser
from demo.stack import BACKENDS, ROOT, Stack
from shim.client import Client
from tests.integration.conftest import free_ports
from tests.integration.served import PATIENCE, Served, alive, clean_environment, descendants, wait_until

pytestmark = pytest.mark.servers

KEYS = [
    "clients",
    "published",
    "expected",
    "delivered",
    "lost",
    "duplicated",
    "out_of_order",
    "flips",
    "moved",
    "rollback_new_ms",
    "rollback_all_ms",
]


@contextmanager
def demo(**env: str) -> Iterator[subprocess.Popen[str]]:
    base = free_ports()
    process = subprocess.Popen(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env=clean_environment() | {"HEADLESS": "1", "PORT_BASE": str(base), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
        shutil.rmtree(ROOT / "var" / f"demo-{base}", ignore_errors=True)


def test_headless() -> None:
    with demo(DURATION="12") as process:
        output, _ = process.communicate(timeout=PATIENCE + 60)
    line = output.splitlines()[-1]
    assert line.startswith("DEMO {"), output
    told = json.loads(line.removeprefix("DEMO "))
    assert list(told) == KEYS
    assert (told["lost"], told["duplicated"], told["out_of_order"]) == (0, 0, 0), output
    assert process.returncode == 0, output
    assert told["clients"] >= 60
    assert told["flips"] == 3
    assert told["moved"] > told["clients"] // 2  # up, and back; fewer where a busy machine takes long for a move
    assert told["expected"] == told["delivered"] > told["published"] > 100
    assert 0 < told["rollback_new_ms"] <= told["rollback_all_ms"]


def test_faults() -> None:
    # contract 6.4, 7.3, 7.4, 8.3: what `make demo HEADLESS=1 FAULTS=1` does in a minute, as short as it can be
    with demo(DURATION="15", FAULTS="1", CLIENTS="40+20") as process:
        output, _ = process.communicate(timeout=PATIENCE + 60)
        told = json.loads(output.splitlines()[-1].removeprefix("DEMO "))
    assert list(told) == [*KEYS, "killed", "redis_restarted", "cut", "refused", "gaps"]
    assert process.returncode == 0, output
    assert (told["lost"], told["duplicated"], told["out_of_order"], told["gaps"]) == (0, 0, 0, 0), output
    assert (told["flips"], told["killed"], told["redis_restarted"]) == (5, 2, 1)
    assert told["expected"] == told["delivered"] > told["published"] > 100
    assert told["cut"] > 0  # the workers that were killed served somebody
    assert told["refused"] > 0  # what was published while Redis was away was told to have failed (contract 7.3)


def test_ended_in_the_middle() -> None:
    with demo(DURATION="60") as process:
        assert process.stdout is not None
        while "traffic" not in process.stdout.readline():
            assert process.poll() is None
        family = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        wait_until(lambda: not alive(family), 10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DURATION", "3"),
        ("DURATION", "long"),
        ("PORT_BASE", "70000"),
        ("REALTIME_FORCE_BACKEND", "legacy"),
        ("CLIENTS", "many"),
        ("CLIENTS", "0+5"),
    ],
)
def test_bad_variables_are_one_sentence(name: str, value: str) -> None:
    with demo(**{name: value}) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert len(output.splitlines()) == 1
    assert name in output


def test_faults_are_for_our_own_redis_alone() -> None:
    with demo(FAULTS="1", REDIS_URL="redis://127.0.0.1:1/0") as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert output.count("\n") == 1
    assert "unset REDIS_URL" in output


def test_a_wrong_setting_is_told(serve: Callable[..., Served]) -> None:
    served = serve(REALTIME_FORCE_BACKEND="nonsense")
    _, err = served.process.communicate(timeout=PATIENCE)
    assert served.process.returncode == 1
    assert "'nonsense'" in err
    assert "Traceback" not in err


def test_a_forced_backend_is_served(serve: Callable[..., Served]) -> None:
    # contract 8.6
    served = serve(REALTIME_FORCE_BACKEND="channels")
    served.wait_until_ready()
    with Client(f"{served.ready['http']['legacy']}/realtime/endpoint", facility="lobby") as client:
        assert client.backend == "channels"


# The room


@pytest.fixture
def room(stack: Stack) -> dict[str, Browser]:
    """Ana on one server, Ben on the other."""
    browsers = {name: Browser(stack.ports[backend]) for name, backend in zip(("ana", "ben"), BACKENDS, strict=True)}
    for name, browser in browsers.items():
        browser.sign_in(name)
    return browsers


@contextmanager
def listening(stack: Stack, browser: Browser, backend: str) -> Iterator[Client]:
    cookies = {"sessionid": browser.cookies["sessionid"]}
    with Client(url=f"{stack.ws[backend]}calls", cookies=cookies) as client:
        yield client


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_is_rung_and_taken(stack: Stack, room: dict[str, Browser], backend: str) -> None:
    ana, ben = room["ana"], room["ben"]
    with listening(stack, ana, backend) as interpreter, listening(stack, ben, backend) as caller:
        call = ben.post("/calls/ring", language="Español")["call"]
        rung = interpreter.receive(10)
        assert (rung.topic, rung.json["event"], rung.json["call"]) == ("group:Español", "ring", call)
        assert caller.receive(10).json["event"] == "ringing"
        assert call in {one["call"] for one in ana.get("/calls")["calls"]}

        ana.post(f"/calls/{call}/take")
        taken = caller.receive(10)
        assert (taken.topic, taken.json["interpreter"]) == ("user", "ana")
        assert {interpreter.receive(10).json["event"] for _ in range(2)} == {"taken", "stop"}
        with pytest.raises(Answered, match="not ringing any more") as refused:
            ana.post(f"/calls/{call}/take")
        assert refused.value.status == 409

        ben.post(f"/calls/{call}/hang-up")
        assert [client.receive(10).json["event"] for client in (interpreter, caller)] == ["ended", "ended"]
        assert call not in {one["call"] for one in ana.get("/calls")["calls"]}


def test_only_those_who_may(stack: Stack, room: dict[str, Browser]) -> None:
    for browser, path, status in [
        (room["ana"], "/calls/ring", 403),
        (room["ben"], "/calls/1/take", 403),
        (room["ben"], "/calls/999999/hang-up", 409),
        (room["ben"], "/chat", 409),
        (Browser(stack.ports["legacy"]), "/calls/ring", 403),
    ]:
        with pytest.raises(Answered) as refused:
            browser.post(path, language="Español")
        assert refused.value.status == status


def test_chat_and_notes(stack: Stack, room: dict[str, Browser]) -> None:
    with listening(stack, room["ana"], "legacy") as ana, listening(stack, room["ben"], "channels") as ben:
        room["ana"].post("/chat", text="hello ✓")
        room["ana"].post("/chat", text="you alone", to="ben")
        room["ana"].post("/note", text="remember")
        assert [ben.receive(10).json["text"] for _ in range(2)] == ["hello ✓", "you alone"]
        got = {message.topic: message.json["text"] for message in (ana.receive(10) for _ in range(2))}
        assert got == {"everyone": "hello ✓", "session": "remember"}


def test_the_flag_moves_one_person(stack: Stack, room: dict[str, Browser]) -> None:
    # contract 8.1: a user on the flag's list
    endpoint = "/realtime/endpoint?facility=calls"
    assert room["ana"].get(endpoint)["backend"] == "legacy"
    try:
        assert room["ana"].post("/flag/me", on="true") == {"percent": 0.0, "me": True}
        wait_until(lambda: room["ana"].get(endpoint)["backend"] == "channels", 5)
        assert room["ben"].get(endpoint)["backend"] == "legacy"
    finally:
        room["ana"].post("/flag/me", on="false")
    wait_until(lambda: room["ana"].get(endpoint)["backend"] == "legacy", 5)
    for wrong in ("-1", "101", "x", "NaN"):
        with pytest.raises(Answered) as refused:
            room["ana"].post("/flag/set", percent=wrong)
        assert refused.value.status == 400


def test_signing_out_ends_the_connections(stack: Stack, room: dict[str, Browser]) -> None:
    # contract 7.5
    with listening(stack, room["ben"], "legacy") as one, listening(stack, room["ben"], "channels") as other:
        room["ben"]._ask("POST", "/sign-out", {})
        for client in (one, other):
            client.wait_until(lambda c: c.error is not None, 10)
            assert "4500" in str(client.error)


def test_the_page(stack: Stack, room: dict[str, Browser]) -> None:
    page = room["ben"]._ask("GET", "/", None)
    assert "ben" in page
    assert "http://localhost:" in page
    assert "http" not in page.replace("http://localhost", "").replace(
        "http://www.w3.org/2000/svg", ""
    )  # self-contained
