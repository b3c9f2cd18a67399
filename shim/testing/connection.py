"""Connections for applications' tests: what a client sends and gets, without frames, unless one wants to see them."""

import json
from asyncio import _get_running_loop  # exported for those who implement event loops
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.test import Client

from shim.core.cohorts import Cohort
from shim.core.message import Kind, Message
from shim.core.protocol import Close, Frame, Protocol
from shim.core.wire import Position
from shim.testing.client import MemoryClient
from shim.testing.memory import InMemory, Published, active
from shim.testing.server import MemoryServer, Refused, handshake

PAUSE: Final = 0.01
"""Seconds that each `connect` and `send` of a test takes: so it stays under the rates that limit real clients."""


def outbox() -> list[Published]:
    """What this test has published so far, in order; with `on_commit=True` that is after the commit.

    It is a list of the test's own: clear it as you like.

    Raises:
        RuntimeError: the test is not in memory.
    """
    return active().outbox


def connect(
    facility: str,
    *,
    user: Any = None,
    session: SessionBase | str | None = None,
    client: Client | None = None,
    protocol: Literal["v1", "raw"] = "v1",
    query: str | Mapping[str, Any] = "",
    cookies: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    resume: Mapping[str, Position] | None = None,
    was: str | None = None,
    backend: Cohort = "legacy",
    raise_exceptions: bool = True,
) -> "TestConnection":
    """Connect to a facility, through the same door as a client of a real server (contract 1).

    Who connects is told by one of `user`, `session` and `client`; without any it is somebody anonymous.

    Args:
        facility: its name.
        user: signed in with Django's test client, as `force_login` does.
        session: a browser session, or its key. client: a Django test client; its cookies are sent.
        protocol: `v1` keeps the kind of each message; `raw` gets bare frames, JSON as text, and on connecting the
            last message of each topic (contract 5.2).
        query: the query string, or a dict to make one of: `{"subscribe-user": ""}`.
        cookies, headers: sent besides.
        resume: `positions` of an earlier connection: what was missed arrives first (contract 5.3; v1 alone).
        was: `client.id` of the connection that this one continues, as clients say it after a move or a loss (v1 alone).
        backend: `legacy` or `channels`: facilities need not care.
        raise_exceptions: raise what a handler raised, here and from `send` and `close`, as Django's test client does
            with views. False: as in production, a refusal with 500 or a close with 1011.

    Raises:
        Refused: it was not let in, with the HTTP status and the reason that a real client gets.
        RuntimeError: the test is not in memory, or is in an event loop (`aconnect` is for that).
    """
    _not_in_a_loop("aconnect")
    if sum(each is not None for each in (user, session, client)) > 1:
        raise TypeError("connect() takes one of user, session and client: they all say who connects")
    if (resume is not None or was is not None) and protocol != "v1":
        raise TypeError("connect() takes resume and was with protocol='v1' alone: raw clients have no positions")
    memory = active()
    memory.clock.move(PAUSE)
    server = memory.server(backend)
    sent = {**_cookies_of(user, session, client), **(cookies or {})}
    request = handshake(facility, query=query, cookies=sent, headers=headers, protocol=protocol)
    memory.settle()
    server.failures.clear()
    try:
        opened = server.connect(request)
    except Refused:
        if raise_exceptions and server.failures:
            raise server.failures.pop() from None
        raise
    return TestConnection(memory, server, opened, resume=resume, was=was, raise_exceptions=raise_exceptions)


async def aconnect(facility: str, **options: Any) -> "TestConnection":
    """Connect from an `async def` test, with the arguments of `connect`.

    The result serves in `async with`.
    """
    return await sync_to_async(connect)(facility, **options)


class TestConnection:
    """A client's connection. Everything has happened when a method returns; nothing waits.

    Use it as a context manager (`with`, or `async with`): it is closed at the end. In an event loop's thread use the
    twins that call handlers there: `asend`, `aclose`; `receive` and the properties serve both.

    Attributes:
        client: the layer below.
        ready: the `ready` frame (v1), else None.
        told: other frames that are no messages, as they came: `ack`, `error`, `gap`, `skip`, `move`, `ping` (v1).
        positions: where each topic stands, by label, for `connect(resume=…)` (v1).
    """

    __test__ = False  # pytest: not a test case

    def __init__(
        self,
        memory: InMemory,
        server: MemoryServer,
        client: MemoryClient,
        *,
        resume: Mapping[str, Position] | None = None,
        was: str | None = None,
        raise_exceptions: bool = True,
    ) -> None:
        self.client = client
        self.ready: dict[str, Any] | None = None
        self.told: list[dict[str, Any]] = []
        self.positions: dict[str, Position] = dict(resume or {})
        self._memory = memory
        self._server = server
        self._raise_exceptions = raise_exceptions
        self._messages: deque[Any] = deque()
        self._sent = 0
        if client.protocol is Protocol.V1:
            client.send(json.dumps({"op": "hello", "resume": resume or {}, "was": was}))
        self._look()

    def __repr__(self) -> str:
        return f"<TestConnection {self.client.id} {self.client.protocol} closed={self.client.closed}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.client.close()  # its handler's error must not hide the test's

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await sync_to_async(self.__exit__)(kind, error, trace)

    # Sending

    def send(self, value: object) -> None:
        """Send a message; the facility's `receive` has taken it, or refused it, when this returns (contract 6.1).

        What it refused is in `errors` (v1), or has closed the connection with 1008 (raw).

        Args:
            value: as for `realtime.publish`. On raw, JSON is sent as text, which is what `receive` then gets.

        Raises:
            Exception: what `receive` raised, see `raise_exceptions`.
            RuntimeError: in an event loop: `asend` is for that.
        """
        _not_in_a_loop("asend")
        message = Message.of(value)
        body = message.body()
        if self.client.protocol is Protocol.RAW:
            self.send_frame(body if message.kind is Kind.BINARY else body.decode())
            return
        self._sent += 1
        match message.kind:
            case Kind.JSON:
                payload = {"data": message.value}
            case Kind.TEXT:
                payload = {"text": message.value}
            case Kind.BINARY:
                payload = {"b64": b64encode(body).decode()}
        self.send_frame(json.dumps({"op": "send", "id": self._sent, **payload}))

    async def asend(self, value: object) -> None:
        """Like `send`, awaited."""
        await sync_to_async(self.send)(value)

    def send_frame(self, data: str | bytes) -> None:
        """Send a frame as it is, for what `send` would never say."""
        _not_in_a_loop("asend")
        self._memory.clock.move(PAUSE)
        self._memory.settle()
        self._server.failures.clear()
        self.client.send(data)
        self._look()
        self._raise_failure()

    def close(self, code: int = Close.NORMAL) -> None:
        """Leave; the facility's `disconnected` has run when this returns. Idempotent.

        Raises:
            Exception: what `disconnected` raised, see `raise_exceptions`.
            RuntimeError: in an event loop: `aclose` is for that.
        """
        _not_in_a_loop("aclose")
        self._memory.settle()
        self._server.failures.clear()
        self.client.close(code)
        self._look()
        self._raise_failure()

    async def aclose(self, code: int = Close.NORMAL) -> None:
        """Like `close`, awaited."""
        await sync_to_async(self.close)(code)

    # Accidents

    def pause(self) -> None:
        """Stop reading: what is sent from now on waits, up to a limit (contract 7.2)."""
        self._look()
        self.client.pause()

    def resume(self) -> None:
        """Read what has waited, and on."""
        self._memory.settle()
        self.client.resume()

    def cut(self) -> None:
        """Break the line: nobody says goodbye, and `disconnected` gets 1006."""
        self._look()
        self.client.cut()

    # Receiving

    def receive(self) -> Any:
        """The next message: a `str`, `bytes`, or what the JSON holds (v1); a frame's `str` or `bytes` (raw).

        Raises:
            AssertionError: there is none. What will come has come: there is nothing to wait for.
        """
        self._look()
        if not self._messages:
            raise AssertionError(self._why_nothing())
        return self._messages.popleft()

    def receive_json(self) -> Any:
        """The next message, read as JSON: for raw connections, where JSON is a text frame.

        Raises:
            AssertionError: there is none. ValueError: it is not JSON.
        """
        value = self.receive()
        return json.loads(value) if self.client.protocol is Protocol.RAW else value

    def receive_all(self) -> list[Any]:
        """All messages that were not taken yet."""
        self._look()
        taken = list(self._messages)
        self._messages.clear()
        return taken

    def receive_nothing(self) -> None:
        """Check that no message is there.

        Raises:
            AssertionError: one is.
        """
        self._look()
        if self._messages:
            raise AssertionError(f"{self!r} was to receive nothing, but got {list(self._messages)!r}")

    @property
    def closed(self) -> int | None:
        """The close code, or None while it is open; 1006 when the line broke."""
        self._look()
        return self.client.closed

    @property
    def close_reason(self) -> str:
        """What came with the close code."""
        self._look()
        return self.client.close_reason

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The `error` frames so far, with `code` and `reason` (v1; contract 6.3)."""
        self._look()
        return [frame for frame in self.told if frame["op"] == "error"]

    @property
    def recovered(self) -> dict[str, bool]:
        """For each topic that was resumed, whether everything that was missed came (v1; contract 5.3)."""
        self._look()
        return dict(self.ready["recovered"]) if self.ready is not None else {}

    # Inside

    def _look(self) -> None:
        self._memory.settle()
        while self.client.frames:
            self._take(self.client.frames.popleft())

    def _take(self, frame: Frame) -> None:
        if self.client.protocol is Protocol.RAW:
            self._messages.append(frame.string if frame.text else frame.data)
            return
        fields: dict[str, Any] = json.loads(frame.data)
        match fields:
            case {"op": "msg", "topic": topic, "pos": pos}:
                if pos is not None:
                    self.positions[topic] = Position(*pos)
                self._messages.append(_value(fields))
            case {"op": "ready", "topics": topics}:
                self.ready = fields
                self.positions = {label: Position(*pos) for label, pos in topics.items() if pos is not None}
            case {"op": "skip" | "gap", "topic": topic, "pos": pos}:
                self.positions[topic] = Position(*pos)
                self.told.append(fields)
            case _:
                self.told.append(fields)

    def _why_nothing(self) -> str:
        state = "is open" if self.client.closed is None else f"was closed: {self.client.closed} {self.close_reason}"
        errors = "".join(f"; error {frame['code']}: {frame['reason']}" for frame in self.errors)
        published = ", ".join(f"{each.facility} {each.audience!r}" for each in self._memory.outbox[-5:]) or "nothing"
        return f"no message for {self!r}, which {state}{errors}. Published last: {published}"

    def _raise_failure(self) -> None:
        if self._raise_exceptions and self._server.failures:
            raise self._server.failures.popleft()


def _value(fields: Mapping[str, Any]) -> Any:
    if "data" in fields:
        return fields["data"]
    return fields["text"] if "text" in fields else b64decode(fields["b64"])


def _cookies_of(user: Any, session: SessionBase | str | None, client: Client | None) -> dict[str, str]:
    if user is not None:
        client = Client()
        client.force_login(user)
    if client is not None:
        return {name: morsel.value for name, morsel in client.cookies.items()}
    if isinstance(session, SessionBase):
        if session.session_key is None:
            session.create()
        session = session.session_key
    return {settings.SESSION_COOKIE_NAME: session} if session is not None else {}


def _not_in_a_loop(twin: str) -> None:
    if _get_running_loop() is not None:
        raise RuntimeError(f"an event loop runs in this thread, where handlers may block: await {twin}(…) instead")
