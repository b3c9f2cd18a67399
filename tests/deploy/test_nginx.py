"""deploy/nginx.conf as it is shipped, in a real nginx, before both backends: raw clients find theirs (contract 8.4)."""

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from demo.browser import Browser
from demo.stack import CHANNELS, HOST, LEGACY, Stack
from shim.client import Client
from shim.conf import DEFAULTS
from shim.core.node import Pace
from shim.routing import FRONT_DOOR, QUICK_MOVES
from tests.deploy.nginx import NGINX, PATIENCE, SHIPPED, Nginx
from tests.deploy.visitor import Visitor
from tests.integration.conftest import free_ports
from tests.js.chromium import Chromium
from tests.js.tools import CHROMIUM

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        not NGINX.exists(), reason=f"{NGINX} is not there: deploy/nginx.conf is NOT tested (apt-get install nginx)"
    ),
]

COOKIE = DEFAULTS["REALTIME_COHORT_COOKIE"]
MOVED = 1012
LATE = Pace().arrival  # seconds; who is moved before that was moved quickly


@pytest.fixture(scope="module")
def ports() -> int:
    return free_ports(5)


@pytest.fixture(scope="module")
def stack(ports: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    front = f"ws://{HOST}:{ports + 3}"
    env = {
        "DJANGO_SETTINGS_MODULE": "tests.deploy.settings",
        "REALTIME_LEGACY_URL": f"{front}/legacy/ws/",
        "REALTIME_CHANNELS_URL": f"{front}/channels/ws/",
    }
    with Stack(ports, directory=tmp_path_factory.mktemp("stack") / "run", env=env) as stack:
        yield stack


@pytest.fixture(scope="module")
def nginx(ports: int, stack: Stack) -> Iterator[Nginx]:
    with Nginx(ports + 3, stack.ports) as nginx:
        yield nginx
        assert not nginx.log().strip(), nginx.log()


@pytest.fixture
def turn(stack: Stack) -> Iterator[Callable[[int], None]]:
    def turn(percent: int) -> None:
        Browser(stack.ports[LEGACY]).post("/flag/set", percent=percent)

    turn(0)
    yield turn
    turn(0)


def test_who_comes_for_the_first_time(nginx: Nginx, turn: Callable[[int], None]) -> None:
    # contract 8.4: without any cookie; the handshake's reply sets it
    with Visitor(nginx.ws + "where") as before:
        before.wait_for(LEGACY)
        assert before.visits[0].told == ()  # nobody is given a cookie without need
        turn(100)
        before.wait_for(CHANNELS)
        assert set(before.codes) == {MOVED}
        assert len(before.visits) <= 3
    with Visitor(nginx.ws + "where") as after:
        after.wait_for(CHANNELS)
        assert [visit.backend for visit in after.visits] == [LEGACY, CHANNELS]
        (told,) = after.visits[0].told
        assert told.startswith(f"{COOKIE}=channels; ")
        assert after.visits[1].told == ()
        assert after.codes == [MOVED]


def test_flips_and_rollback(nginx: Nginx, turn: Callable[[int], None]) -> None:
    # contract 8.4, 8.6: raw clients with one address follow the flag up and back, each within its window
    with ExitStack() as opened:
        visitors = [opened.enter_context(Visitor(nginx.ws + "where")) for _ in range(12)]
        for visitor in visitors:
            visitor.wait_for(LEGACY)
        for percent, home in ((100, CHANNELS), (0, LEGACY), (100, CHANNELS)):
            before = [len(visitor.visits) for visitor in visitors]
            started = time.monotonic()
            turn(percent)
            for visitor in visitors:
                visitor.wait_for(home)
            assert time.monotonic() - started < LATE / 3
            # Once where they were, once where the old cookie led them, in a busy window perhaps once more.
            steps = [len(visitor.visits) - n for visitor, n in zip(visitors, before, strict=True)]
            assert max(steps) <= 4, steps
        assert all(set(visitor.codes) == {MOVED} and not visitor.refusals for visitor in visitors)


@pytest.mark.parametrize("forged", ["channels", "chanels", "legacy; x", "%63hannels", "'\"<>"])
def test_a_forged_cookie(nginx: Nginx, forged: str) -> None:
    # contract 8.4: it changes nothing but one extra reconnect
    with Visitor(nginx.ws + "where", {COOKIE: forged.partition(";")[0]}) as visitor:
        visitor.wait_for(LEGACY)
        assert len(visitor.visits) == 1 + (forged == CHANNELS)
        assert visitor.stays(1.0)


def test_who_insists_on_a_forged_cookie(nginx: Nginx) -> None:
    # No loop: moved quickly a few times, whichever process it meets, and then as a client that cannot be told.
    forger = Visitor(nginx.ws + "where", {COOKIE: CHANNELS, "realtime_anonymous": "forger"}, keeps_cookies=False)
    with forger:
        deadline = time.monotonic() + LATE / 2
        while len(forger.visits) <= QUICK_MOVES and time.monotonic() < deadline:
            time.sleep(0.05)
        assert forger.stays(1.0)
        assert len(forger.visits) == QUICK_MOVES + 1
        assert {visit.backend for visit in forger.visits} == {CHANNELS}
        with Visitor(nginx.ws + "where", {COOKIE: CHANNELS}) as other:  # others are not counted with it
            other.wait_for(LEGACY)


def test_who_keeps_no_cookies(nginx: Nginx, turn: Callable[[int], None]) -> None:
    turn(100)
    with Visitor(nginx.ws + "where", {"realtime_anonymous": "jarless"}, keeps_cookies=False) as visitor:
        deadline = time.monotonic() + LATE / 2
        while len(visitor.visits) <= QUICK_MOVES and time.monotonic() < deadline:
            time.sleep(0.05)
        assert visitor.stays(1.0)
        assert len(visitor.visits) == QUICK_MOVES + 1
        assert visitor.backend == LEGACY  # where it gets everything (contract 1.4)


def test_who_comes_without_the_front_door_is_not_sent_round(stack: Stack, turn: Callable[[int], None]) -> None:
    # Nothing shows that anybody routes by the cookie: moved late, as ever.
    for backend, percent in ((LEGACY, 100), (CHANNELS, 0)):
        turn(percent)
        with Visitor(stack.ws[backend] + "where") as visitor:
            visitor.wait_for(backend)
            assert len(visitor.visits[0].told) == 1  # told all the same
            while not visitor.stays(1.0):  # in the window of the flip everybody goes, once or twice
                assert len(visitor.visits) <= 4
            assert visitor.backend == backend


def test_a_page_sets_the_cookie(nginx: Nginx, turn: Callable[[int], None]) -> None:
    # contract 8.4: then the first handshake finds its backend
    browser = Browser(nginx.port)

    def look(home: str) -> None:
        deadline = time.monotonic() + PATIENCE  # contract 8.2: pages know within 250 ms, a process after the other
        while browser.cookies.get(COOKIE, LEGACY) != home:
            assert time.monotonic() < deadline
            browser.get("/health")

    browser.get("/health")
    assert COOKIE not in browser.cookies
    turn(100)
    look(CHANNELS)
    with Visitor(nginx.ws + "where", dict(browser.cookies)) as visitor:
        visitor.wait_for(CHANNELS)
        assert len(visitor.visits) == 1
    turn(0)
    look(LEGACY)


def test_v1_clients_are_told_where_to_go(nginx: Nginx, turn: Callable[[int], None]) -> None:
    # contract 8.3 through the front door: never without a connection
    with Client(f"{nginx.http}/realtime/endpoint", facility="where") as client:
        for percent, home in ((None, LEGACY), (100, CHANNELS), (0, LEGACY)):
            if percent is not None:
                turn(percent)
            deadline = time.monotonic() + LATE / 2
            while client.backend != home:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert client.counters.losses == 0
        assert client.counters.moved >= 2  # or once more: it may have asked just after the flag was turned


@pytest.mark.parametrize("gone", [LEGACY, CHANNELS])
def test_a_backend_that_is_gone_altogether(ports: int, stack: Stack, gone: str) -> None:
    # contract 1.4: the other one serves its raw clients; that is no better address, so nobody is sent round
    other = LEGACY if gone == CHANNELS else CHANNELS
    with (
        Nginx(ports + 4, {**stack.ports, gone: ports + 4 + 1000}) as nginx,
        Visitor(nginx.ws + "where", {COOKIE: gone, "realtime_anonymous": f"without-{gone}"}) as visitor,
    ):
        visitor.wait_for(other)
        if other == LEGACY:  # home, while the flag is off
            assert visitor.stays(1.0)


def test_refusals_come_through(nginx: Nginx) -> None:
    # contract 1.1
    for path, origin, status in (("none", None, 404), ("where", "http://evil.example", 403), ("calls", None, 403)):
        with pytest.raises(InvalidStatus) as refused:
            connect(nginx.ws + path, origin=origin, proxy=None)  # type: ignore[arg-type]  # a str is an Origin
        assert refused.value.response.status_code == status
        assert refused.value.response.body
    connection = http.client.HTTPConnection(HOST, nginx.port, timeout=5.0)
    connection.request("GET", "/ws/where")
    assert connection.getresponse().status == 426
    connection.close()


LISTEN = """(() => {
  Object.assign(window, { visits: [], codes: [] });
  const open = () => {
    const socket = new WebSocket(`ws://${location.host}/ws/where`);
    socket.onopen = () => socket.send("where?");
    socket.onmessage = ({ data }) => visits.push(data);
    socket.onclose = ({ code }) => { codes.push(code); setTimeout(open, 50); };
  };
  open();
})()"""


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not there: no browser has tried it")
def test_a_browsers_page(nginx: Nginx, turn: Callable[[int], None], tmp_path_factory: pytest.TempPathFactory) -> None:
    # A real browser keeps a cookie that comes with a 101, and sends it with the next handshake.
    with Chromium(tmp_path_factory.mktemp("chromium")) as chromium:
        page = chromium.page(f"{nginx.http}/health")
        page.evaluate(LISTEN)
        page.wait_until(f"visits.at(-1) == '{LEGACY}'")
        turn(100)
        page.wait_until(f"visits.at(-1) == '{CHANNELS}'")
        turn(0)
        page.wait_until(f"visits.at(-1) == '{LEGACY}' && visits.length > 2")
        assert page.evaluate("visits.length") <= 6
        assert set(page.evaluate("codes")) == {MOVED}
        assert page.evaluate("document.cookie") == ""  # no script of the page sees it


def test_the_file_and_the_code_have_one_mind() -> None:
    text = SHIPPED.read_text()
    assert f"map $cookie_{COOKIE} " in text
    assert f"proxy_set_header {FRONT_DOOR} " in text.lower()
