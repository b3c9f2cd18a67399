"""ws4redis's script and ours in its place, in a real browser: a page of its time, unchanged, on both backends."""

# contract 2.1, 3.1, 5.2, 5.3, 6.5, 8.3

import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.integration.served import descendants
from tests.js.bundle import BUNDLE, bundled
from tests.js.chromium import Chromium, Page, wait_for
from tests.js.tools import CHROMIUM, ROOT
from tests.legacy_ws4redis.newsroom import HOST, Browser, Newsroom, fresh
from tests.mixed.old import CannotBeHad, environment

SERVERS: Final = ("uwsgi", "channels")
OURS, OURS_WITH_JQUERY, ORIGINAL = SCRIPTS = ("ours", "ours with jQuery", "the original with jQuery")
JQUERY: Final = "3.7.1"
FLIP: Final = "from waffle.models import Flag; f = Flag.objects.get(); f.everyone = %s; f.save()"

browser_test = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"{CHROMIUM} is not there: old pages are NOT tested (apt-get install chromium)"
)

WATCH = """(() => {
  Object.assign(window, { got: [], calls: [] });
  const note = name => () => calls.push(name);
  window.mine = new WS4Redis({
    uri: socketUri, receive_message: text => got.push(text),
    connecting: note("connecting"), connected: note("connected"), disconnected: note("disconnected"),
  });
})()"""


def test_the_script_is_made_of_its_parts() -> None:
    assert BUNDLE.read_text() == bundled(), "make it anew: python -m tests.js.bundle"


@cache
def original() -> str:
    """The script of the original package, from where the tests of mixed fleets have it; skips without it."""
    try:
        home = environment().parent
    except CannotBeHad as error:
        pytest.skip(f"the original script is NOT tested, because it cannot be had: {error}")
    (path,) = home.glob("lib/python*/site-packages/ws4redis/static/js/ws4redis.js")
    return path.read_text()


@cache
def jquery() -> str:
    """jQuery, which the original needs; fetched once with npm. Skips without it."""
    folder = ROOT / "var" / "test-cache"
    script = folder / f"jquery-{JQUERY}.js"
    if not script.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed, so jQuery cannot be had: pages with it are NOT tested")
        folder.mkdir(parents=True, exist_ok=True)
        words = (npm, "pack", "--silent", f"jquery@{JQUERY}")
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            pytest.skip(f"jQuery cannot be had, so pages with it are NOT tested: {done.stderr[-300:]}")
        with tarfile.open(folder / f"jquery-{JQUERY}.tgz") as archive:
            found = archive.extractfile("package/dist/jquery.min.js")
            assert found is not None
            script.write_bytes(found.read())
    return script.read_text()


@pytest.fixture(scope="module")
def newsroom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newsroom]:
    with Newsroom(tmp_path_factory.mktemp("newsroom")) as newsroom:
        yield newsroom


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


def opened(chromium: Chromium, browser: Browser, script: str) -> Page:
    """The page as the browser's person sees it, with one of the scripts behind its `<script src>`."""
    page = chromium.page(f"http://{HOST}:{browser.port}/login/")
    for cookie in browser.jar:
        page.call("Network.setCookie", name=cookie.name, value=cookie.value, url=f"http://{HOST}:{browser.port}/")
    page.call("Page.enable")
    page.call("Network.enable")
    if script != OURS:
        # When it is first asked for: now the document would still be empty, and jQuery cannot begin with that.
        page.call(
            "Page.addScriptToEvaluateOnNewDocument",
            source=f"""Object.defineProperty(window, "jQuery", {{ configurable: true, get() {{
              delete window.jQuery;
              (0, eval)({json.dumps(jquery())});
              return window.jQuery;
            }} }})""",
        )
    if script == ORIGINAL:
        page.call("Page.addScriptToEvaluateOnNewDocument", source=original())
        page.call("Network.setBlockedURLs", urls=["*ws4redis.js*"])
    show(page, browser)
    return page


def show(page: Page, browser: Browser) -> None:
    """Load it, or load it again."""
    page.call("Page.navigate", url=f"http://{HOST}:{browser.port}/wire/")
    page.wait_until("location.pathname == '/wire/' && document.readyState == 'complete' && socket.is_connected()")


def items(page: Page) -> list[str]:
    found: list[str] = page.evaluate("[...document.querySelectorAll('#wire li')].map(item => item.textContent)")
    return found


def say(page: Page, text: str) -> None:
    page.evaluate(f"say.text.value = {text!r}; say.requestSubmit()")


@browser_test
@pytest.mark.servers
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("server", SERVERS)
def test_the_page_works(newsroom: Newsroom, chromium: Chromium, server: str, script: str) -> None:
    newsroom.python(FLIP % (True if server == "channels" else None))
    browser = Browser(newsroom.ports[server]).signed_in("ana")
    page = opened(chromium, browser, script)
    assert page.evaluate("typeof jQuery") == ("undefined" if script == OURS else "function")
    headline, mine = fresh("headline <&>"), fresh("mine")
    browser.post("/wire/", text=headline)
    page.wait_until(f"document.querySelector('#wire').lastChild?.textContent == {headline!r}")
    say(page, mine)
    page.wait_until(f"document.querySelector('#wire').lastChild.textContent == {mine!r}")  # it asked for its echo
    shown = items(page)
    assert len(shown) == len(set(shown))
    show(page, browser)
    page.wait_until("document.querySelectorAll('#wire li').length")
    assert items(page) == [mine]  # the last message, once
    page.evaluate("socket.close()")
    page.wait_until("socket.is_closed()")


def published(browser: Browser, n: int) -> list[str]:
    """So many headlines, one after the other."""
    texts = [fresh("news") for _ in range(n)]
    for text in texts:
        browser.post("/wire/", text=text)
    return texts


@browser_test
@pytest.mark.servers
@pytest.mark.parametrize("script", [OURS, ORIGINAL])
def test_flips_and_killed_workers(newsroom: Newsroom, chromium: Chromium, script: str) -> None:
    newsroom.python(FLIP % None)
    browser = Browser(newsroom.ports["uwsgi"]).signed_in("ana")
    page = opened(chromium, browser, script)
    uri = page.evaluate("document.scripts[document.scripts.length - 1].textContent.match(/uri: '(.*)'/)[1]")
    page.evaluate(f"socket.close(); socketUri = {uri!r}")
    page.evaluate(WATCH)
    page.wait_until("mine.is_connected()")
    texts = published(browser, 3)
    page.wait_until(f"got.at(-1) == {texts[-1]!r}")
    page.evaluate("calls.length = 0")

    for everyone in (True, None):
        newsroom.python(FLIP % everyone)
        texts += published(browser, 20)
        if script == ORIGINAL:  # closed with 1012, and back at its one address
            page.wait_until("calls.at(-1) == 'connected'")
            texts += published(browser, 1)
        page.wait_until(f"got.at(-1) == {texts[-1]!r}")
    if script == OURS:
        assert page.evaluate("calls") == []  # nobody noticed

    other = Browser(newsroom.ports["channels"])
    wait_for(lambda: kill_and_look(newsroom, page), "the page to lose its server")  # it may be on its way back yet
    texts += published(other, 5)
    page.wait_until("mine.is_connected()")
    texts += published(other, 1)
    page.wait_until(f"got.at(-1) == {texts[-1]!r}")
    got = [text for text in page.evaluate("got") if text in texts]
    if script == OURS:
        assert got == texts, "lost, doubled or out of order"
    else:
        assert set(got) <= set(texts)  # as ever: what came while it was away is gone, but for the last
    page.evaluate("mine.close()")
    page.wait_until("calls.at(-1) == 'disconnected' && mine.get_state() == 3")


def kill_and_look(newsroom: Newsroom, page: Page) -> bool:
    """Kill uWSGI's workers; whether the page has noticed."""
    kill_workers(newsroom, "uwsgi")
    time.sleep(0.5)
    return bool(page.evaluate("calls.includes('disconnected')"))


def kill_workers(newsroom: Newsroom, name: str) -> None:
    part = next(part for part in newsroom._parts if part.name == name)
    for worker in descendants(part.pid) - {part.pid}:
        os.kill(worker, signal.SIGKILL)


@browser_test
@pytest.mark.servers
@pytest.mark.parametrize("server", SERVERS)
def test_kinds_and_heartbeats(newsroom: Newsroom, chromium: Chromium, server: str) -> None:
    # contract 4.1, 7.1: binary as a Blob, as a WebSocket gives it; heartbeats are no messages
    browser = Browser(newsroom.ports[server]).signed_in("ana")
    page = opened(chromium, browser, OURS)
    name = fresh("kinds")
    page.evaluate(f"""
      socketUri = 'ws://{HOST}:{newsroom.ports[server]}/ws/{name}?subscribe-user&publish-user&echo';
      {WATCH}
    """)
    page.wait_until("mine.is_connected()")
    page.evaluate("""
      mine.send_message("--heartbeat--");
      mine.send_message("text");
      mine.send_message(new Blob(["blob"]));
      mine.send_message(new Uint8Array([0, 255]));
    """)
    page.wait_until("got.length >= 3 && got.length")
    got = page.evaluate("""Promise.all(got.map(async each => typeof each == "string" ? each
      : [...new Uint8Array(await each.arrayBuffer())]))""")
    assert [each for each in got if each != "--heartbeat--"] == ["text", [*b"blob"], [0, 255]]


def test_both_are_where_old_pages_look() -> None:
    assert Path("static/js/ws4redis.js") == BUNDLE.relative_to(ROOT / "legacy_ws4redis")
