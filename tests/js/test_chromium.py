"""`realtime.js` in a real browser, over the real servers: nothing lost, nothing doubled, whatever happens."""

# contract 3.1, 5.3, 7.4, 8.3

import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from demo.browser import Browser
from demo.stack import BACKENDS, CHANNELS, LEGACY, Stack
from shim.bus.sync import SyncBus
from shim.core.errors import RealtimeUnavailable
from shim.core.history import History
from shim.core.message import Kind
from shim.core.names import Everyone, Topic
from tests.integration.conftest import free_ports
from tests.integration.served import descendants
from tests.js.chromium import PATIENCE, Chromium, Page, wait_for
from tests.js.tools import CHROMIUM
from tests.project.pages import DOCS, block

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        not CHROMIUM.exists(),
        reason=f"{CHROMIUM} is not there: the browser client is NOT tested in a browser (apt-get install chromium)",
    ),
]

PAUSE = 0.02  # seconds between two messages
LISTEN = """(async () => {
  const { RealtimeClient } = await import("/static/realtime/realtime.js");
  Object.assign(window, { got: [], gaps: [], events: [], froze: 0 });
  document.addEventListener("freeze", () => froze++);
  window.client = new RealtimeClient({
    facility: "lobby",
    onMessage: message => got.push(Number(message.value)),
    onGap: gap => gaps.push({ ...gap, after: got.at(-1) }),
    onEvent: event => events.push(event),
  });
  await client.opened;
  return client.backend;
})()"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Servers of this file's own: it kills some of their processes."""
    with Stack(free_ports(), directory=tmp_path_factory.mktemp("stack") / "run") as stack:
        yield stack


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


@pytest.fixture
def turn(stack: Stack) -> Iterator[Callable[[int], object]]:
    browser = Browser(stack.ports[LEGACY])

    def turn(percent: int) -> object:
        return browser.post("/flag/set", percent=percent)

    turn(0)
    yield turn
    turn(0)


class Publisher:
    """Counts to everyone in the lobby, until it is stopped; a context manager.

    Attributes:
        last: the last number that Redis took.
        unsure: numbers that it may have taken or not; nobody counts on them (contract 7.3).
    """

    def __init__(self, stack: Stack) -> None:
        self.last = 0
        self.unsure: set[int] = set()
        self._bus = SyncBus(stack.redis_url, prefix=stack.env["REALTIME_PREFIX"], timeout=1.0)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._publish)

    def __enter__(self) -> "Publisher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(PATIENCE)
        self._bus.close()

    def more(self, n: int) -> None:
        """Wait until so many more have been published."""
        goal = self.last + n
        wait_for(lambda: self.last >= goal, f"{n} more messages")

    def _publish(self) -> None:
        for number in itertools.count(1):
            if self._is_over.wait(PAUSE):
                return
            try:
                self._bus.publish(Topic("lobby", Everyone()), Kind.TEXT, str(number).encode(), History(1000, 60))
            except RealtimeUnavailable:
                self.unsure.add(number)
            else:
                self.last = number


def check(page: Page, publisher: Publisher, *, gaps: int = 0) -> None:
    """All that was published since the page's first message is there, once, in order, and as many gaps as were told."""
    page.wait_until(f"got.at(-1) >= {publisher.last}")
    got = page.evaluate("got")
    assert got[0] <= 2  # the first may have been published before the page was there
    sure = [number for number in range(got[0], publisher.last + 1) if number not in publisher.unsure]
    assert [number for number in got if number not in publisher.unsure] == sure, "lost, doubled or out of order"
    assert got == sorted(set(got))
    counters = page.evaluate("client.counters")
    assert {name: counters[name] for name in ("duplicates", "holes", "protocolErrors")} == dict.fromkeys(
        ("duplicates", "holes", "protocolErrors"), 0
    )
    assert [gap["topic"] for gap in page.evaluate("gaps")] == ["everyone"] * gaps
    assert counters["gaps"] == gaps


def restart_redis(stack: Stack, page: Page, publisher: Publisher) -> None:
    """Everything that Redis knew is lost. Connections stay, and the page is told of the gap (contract 7.3, 7.4).

    Nothing is missing, since all that was published before had come: but the server cannot know that any more.
    """
    assert stack.valkey is not None
    told, lost = page.evaluate("gaps.length"), page.evaluate("client.counters.losses")
    stack.valkey.stop()
    wait_for(lambda: publisher.unsure and max(publisher.unsure) > publisher.last, "a publish that fails")
    stack.valkey.start()
    publisher.more(20)
    page.wait_until(f"gaps.length == {told + 1} && got.at(-1) >= {publisher.last}")
    assert page.evaluate("gaps.at(-1).position[0] != gaps.at(-1).known[0]")  # another epoch
    assert page.evaluate("client.counters.losses") == lost  # it was connected all the time


def kill_workers(stack: Stack, backend: str) -> None:
    master = stack.parts[backend].pid
    for worker in descendants(master) - {master}:
        os.kill(worker, signal.SIGKILL)


def test_flips_killed_workers_a_restarted_redis_and_a_frozen_page(
    stack: Stack, chromium: Chromium, turn: Callable[[int], object]
) -> None:
    page = chromium.page(f"{stack.http[LEGACY]}/health")
    assert page.evaluate(LISTEN) == LEGACY
    with Publisher(stack) as publisher:
        publisher.more(10)
        for percent, home in ((100, CHANNELS), (0, LEGACY), (100, CHANNELS)):
            turn(percent)
            page.wait_until(f"client.backend == '{home}' && client.state == 'open'")
            publisher.more(10)
        assert page.evaluate("client.counters.moved") == 3
        assert page.evaluate("client.counters.losses") == 0  # it was connected all the time

        restart_redis(stack, page, publisher)
        kill_workers(stack, CHANNELS)
        page.wait_until("client.counters.losses == 1")
        page.wait_until("client.state == 'open'")

        page.call("Page.setWebLifecycleState", state="frozen")
        turn(0)  # a flip that it sleeps through
        publisher.more(100)
        page.call("Page.setWebLifecycleState", state="active")
        page.wait_until(f"client.backend == '{LEGACY}' && client.state == 'open'")
        assert page.evaluate("froze") == 1

        restart_redis(stack, page, publisher)
        kill_workers(stack, LEGACY)
        page.wait_until("events.filter(event => event.type == 'lost').length >= 2 && client.state == 'open'")
        publisher.more(10)
    check(page, publisher, gaps=2)
    page.evaluate("client.close()")


def test_put_away_and_offline(stack: Stack, chromium: Chromium, turn: Callable[[int], object]) -> None:
    page = chromium.page(f"{stack.http[LEGACY]}/health")
    page.evaluate(LISTEN)
    page.evaluate("addEventListener('pageshow', ({ persisted }) => { window.wasKept = persisted; })")
    with Publisher(stack) as publisher:
        publisher.more(10)
        page.call("Page.navigate", url=f"{stack.http[CHANNELS]}/health")
        page.wait_until("!window.got && document.readyState == 'complete'")
        publisher.more(20)
        page.call("Page.navigateToHistoryEntry", entryId=page.call("Page.getNavigationHistory")["entries"][-2]["id"])
        page.wait_until("window.wasKept && client.state == 'open'")  # from the back/forward cache

        connects = page.evaluate("client.counters.connects")
        for offline in (True, False):
            conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
            page.call("Network.emulateNetworkConditions", offline=offline, **conditions)
            page.wait_until(f"navigator.onLine == {'false' if offline else 'true'}")
            publisher.more(10)
        page.wait_until(f"client.counters.connects > {connects} && client.state == 'open'")
    check(page, publisher)
    page.evaluate("client.close()")


def test_the_program_in_the_docs(stack: Stack, chromium: Chromium) -> None:
    page = chromium.page(f"{stack.http[CHANNELS]}/health")
    program = "\n".join(block(DOCS / "how-to" / "write-a-client.md", "browser").lines)
    assert program.count('"calls"') == 1  # for which one would have to sign in
    script = """
      window.shown = [];
      window.show = (topic, value) => shown.push([topic, value]);
      const script = document.createElement("script");
      script.type = "module";
      script.textContent = PROGRAM + "; await client.opened; window.client = client";
      document.body.append(script);
    """
    page.evaluate(script.replace("PROGRAM", json.dumps(program.replace('"calls"', '"lobby"'))))
    page.wait_until("window.client")
    with Publisher(stack) as publisher:
        publisher.more(1)
    page.wait_until(f"shown.length == {publisher.last}")
    assert page.evaluate("shown[0]") == ["everyone", "1"]
    page.evaluate("client.close()")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_demo_page(stack: Stack, chromium: Chromium, turn: Callable[[int], object], backend: str) -> None:
    """Served by either process; a line for every move."""
    page = chromium.page(f"{stack.http[backend]}/")
    shown = "document.getElementById('backend').textContent"
    page.wait_until(f"{shown} == '{LEGACY}'")
    turn(100)
    page.wait_until(f"{shown} == '{CHANNELS}'")
    turn(0)
    page.wait_until(f"{shown} == '{LEGACY}'")
    assert page.evaluate("document.getElementById('moves').textContent") == "2"
    lines = page.evaluate("[...document.querySelectorAll('#log .move')].map(line => line.textContent)")
    assert ["moved from legacy to channels" in lines[0], "moved from channels to legacy" in lines[1]] == [True, True]
    assert len(lines) == 2
    assert page.evaluate("document.querySelectorAll('#log .bad').length") == 0
