"""A raw client with one address that comes back whenever it is told to, as a page with a WebSocket does."""

import threading
import time
from dataclasses import dataclass, field
from typing import Final, Self

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

from shim.client.discovery import Cookies

PATIENCE: Final = 20.0  # seconds
PAUSE: Final = 0.05  # before it comes back


@dataclass(frozen=True, slots=True)
class Visit:
    """One connection: who served it, and the cookies that its handshake set."""

    backend: str
    told: tuple[str, ...]


@dataclass(slots=True)
class Visitor:
    """A client that runs in a thread; a context manager.

    Args:
        url: its one address.
        cookies: what it has already. keeps_cookies: whether it learns from Set-Cookie, as browsers do.
    """

    url: str
    cookies: dict[str, str] = field(default_factory=dict)
    keeps_cookies: bool = True
    visits: list[Visit] = field(default_factory=list)
    codes: list[int | None] = field(default_factory=list)
    refusals: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join(PATIENCE)

    @property
    def backend(self) -> str | None:
        """Who serves it now."""
        return self.visits[-1].backend if len(self.visits) > len(self.codes) else None

    def wait_for(self, backend: str) -> None:
        """Wait until somebody serves it."""
        deadline = time.monotonic() + PATIENCE
        while self.backend != backend:
            assert time.monotonic() < deadline, f"not at {backend}: {self.visits} {self.codes} {self.refusals}"
            time.sleep(0.01)

    def stays(self, seconds: float) -> bool:
        """Whether it has the same connection for so long."""
        before = len(self.visits)
        return not self._over.wait(seconds) and len(self.visits) == before and len(self.codes) == before - 1

    def _run(self) -> None:
        jar = Cookies(self.cookies)
        while not self._over.is_set():
            try:
                self._visit(jar)
            except (OSError, InvalidHandshake, TimeoutError):
                self.refusals += 1
            self._over.wait(PAUSE)

    def _visit(self, jar: Cookies) -> None:
        with connect(self.url, additional_headers=jar.headers(), proxy=None, open_timeout=PATIENCE) as websocket:
            assert websocket.response is not None
            told = tuple(websocket.response.headers.get_all("Set-Cookie"))
            if self.keeps_cookies:
                jar.learn(told)
            websocket.send("where?")
            backend = websocket.recv(PATIENCE)
            assert isinstance(backend, str)
            self.visits.append(Visit(backend, told))
            while not self._over.is_set():
                try:
                    websocket.recv(0.05)
                except TimeoutError:
                    continue
                except ConnectionClosed as closed:
                    self.codes.append(closed.rcvd.code if closed.rcvd else None)
                    return
