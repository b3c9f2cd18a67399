"""A real browser for tests: Debian's chromium without a screen, driven by the Chrome DevTools Protocol.

The protocol is JSON over a WebSocket, for which there is a client here already; what a driver's package would add is
a browser of its own, which nobody needs beside Debian's.
"""

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from websockets.sync.client import connect

from tests.js.tools import CHROMIUM

PATIENCE: Final = 30.0  # seconds


class Chromium:
    """One browser with a profile of its own; a context manager.

    Args:
        directory: where the profile goes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ids = itertools.count(1)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                str(CHROMIUM),
                *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
                f"--user-data-dir={self._directory}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with ExitStack() as opened:
            opened.callback(self._end)
            port, path = wait_for(self._address, "chromium's address")
            url = f"ws://127.0.0.1:{port}{path}"
            self._line = opened.enter_context(
                connect(url, proxy=None, open_timeout=PATIENCE, max_size=64 * 2**20, ping_interval=None)
            )
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def page(self, url: str) -> "Page":
        """Open a page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        page.call("Page.navigate", url=url)
        wait_for(lambda: page.evaluate("location.href != 'about:blank' && document.readyState == 'complete'"), url)
        return page

    def call(self, method: str, *, session: str | None = None, **params: object) -> dict[str, Any]:
        """One command and its answer; what else the browser tells is passed over."""
        id = next(self._ids)
        self._line.send(
            json.dumps({"id": id, "method": method, "params": params} | ({"sessionId": session} if session else {}))
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            said: dict[str, Any] = json.loads(self._line.recv(max(deadline - time.monotonic(), 0.0)))
            if said.get("id") == id:
                assert "error" not in said, said
                result: dict[str, Any] = said["result"]
                return result

    def _address(self) -> list[str] | None:
        assert self._process.poll() is None, f"{CHROMIUM} has ended with {self._process.returncode}"
        with suppress(OSError):
            lines = (self._directory / "DevToolsActivePort").read_text().split()
            return lines if len(lines) == 2 else None
        return None

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)


class Page:
    """One tab."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """A command to this tab."""
        return self._browser.call(method, session=self._session, **params)

    def evaluate(self, code: str) -> Any:
        """What an expression gives; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_until(self, code: str) -> Any:
        """Wait until an expression gives something true."""
        return wait_for(lambda: self.evaluate(code), code)


def wait_for[T](condition: Callable[[], T | None], what: str) -> T:
    """Wait for something that is true, and give it back."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s for: {what}"
        time.sleep(0.02)
    return found
