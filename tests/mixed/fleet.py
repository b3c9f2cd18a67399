"""The whole mixed fleet: the old site's processes and ours, both backends, on one Redis and one database."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from contract_tests.servers import Servers, free_ports
from tests.mixed.old import ROOT, OldFleet

PREFIX: Final = "site"
PATIENCE: Final = 20.0  # seconds for what happens at once on a machine that has nothing else to do


class NewServers(Servers):
    """Our half: uWSGI and gunicorn, two workers each, on ws4redis's wire."""

    settings: ClassVar[str] = "tests.mixed.settings"
    wsgi: ClassVar[str] = "contract_tests.project.wsgi"
    asgi: ClassVar[str] = "contract_tests.project.asgi:application"
    root: ClassVar[Path] = ROOT
    facility: ClassVar[str] = "chat"

    session_key = ""

    def seed(self) -> None:
        """Make the database, with a user who is signed in."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.mixed.seed"],
            env=self.process_env,
            cwd=ROOT,
            text=True,
            capture_output=True,
            check=True,
            timeout=60,
        )
        self.session_key = done.stdout.strip()


class Fleet:
    """All of it; a context manager.

    Attributes:
        new: our servers. old: the old site's. session_key: the session of `ana`, who is in the group `team`.
    """

    def __init__(self, directory: Path) -> None:
        base = free_ports(4)
        self.new = NewServers(
            base,
            directory=directory / "new",
            env={"OLD_PREFIX": PREFIX, "REALTIME_WIRE": "ws4redis", "REALTIME_FORCE_BACKEND": ""},
        )
        assert self.new.valkey is not None
        self.old = OldFleet(
            base + 3,
            redis_port=self.new.valkey.port,
            directory=directory,
            database=self.new.env["DJANGO_DATABASE"],
            prefix=PREFIX,
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            stack.enter_context(self.new)
            stack.enter_context(self.old)
            self._stack = stack.pop_all()
        with self.client(self.old.ws):
            pass  # it answers
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def session_key(self) -> str:
        return self.new.session_key

    def flag(self, *arguments: str) -> None:
        """`manage.py waffle_flag realtime_channels …`, in a process of ours."""
        subprocess.run(
            [sys.executable, "-m", "django", "waffle_flag", "realtime_channels", "--create", *arguments],
            env=self.new.process_env,
            cwd=ROOT,
            check=True,
            timeout=60,
        )

    def client(self, base: str, *, v1: bool = False, query: str = "", facility: str = "chat") -> "Socket":
        """A client that is signed in as `ana`; on the old server it asks for all that ours gives by itself."""
        return Socket(base + facility, query=query or EVERYTHING, session=self.session_key, v1=v1)


EVERYTHING: Final = "subscribe-broadcast&subscribe-user&subscribe-group&subscribe-session"


class Socket:
    """One WebSocket, read by a thread of its own; a context manager.

    Attributes:
        texts: the messages that came, in order. code: how the server has closed it.
    """

    def __init__(self, url: str, *, query: str, session: str, v1: bool) -> None:
        self.url = f"{url}?{query}"
        self.texts: list[str] = []
        self.ready: dict[str, Any] | None = None
        self.code: int | None = None
        self._v1 = v1
        self._headers = {"Cookie": f"sessionid={session}"}

    def __enter__(self) -> Self:
        self._socket = self._connected()
        if self._v1:
            self._socket.send('{"op":"hello"}')
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        if self._v1:
            wait_until(lambda: self.ready, "no ready came")
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._thread.join(PATIENCE)

    def send(self, text: str) -> None:
        """Send a message."""
        self._socket.send(json.dumps({"op": "send", "text": text}) if self._v1 else text)

    def _connected(self) -> ClientConnection:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                made: ClientConnection = connect(
                    self.url,
                    additional_headers=self._headers,
                    subprotocols=[Subprotocol("realtime.v1")] if self._v1 else None,
                    compression=None,
                    proxy=None,
                    close_timeout=1.0,
                    legacy=True,
                )
            except (OSError, InvalidHandshake, InvalidMessage):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)  # the old server is not there yet, and has nothing else to be asked by
            else:
                return made

    def _read(self) -> None:
        try:
            for message in self._socket:
                self._take(message)
        except ConnectionClosed as closed:
            self.code = closed.rcvd.code if closed.rcvd else None

    def _take(self, message: str | bytes) -> None:
        if not self._v1:
            self.texts.append(message if isinstance(message, str) else repr(message))
            return
        frame = json.loads(message)
        if frame["op"] == "ready":
            self.ready = frame
        elif frame["op"] == "msg":
            assert frame["pos"] is None
            self.texts.append(frame["text"])


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition.

    Raises:
        AssertionError: it did not come true in time.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
