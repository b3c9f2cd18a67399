"""A real WebSocket and HTTP server that does what a script says: one script for each connection, in order.

It checks the client, so it must not share code with it or with the backends: frames are written out as JSON here.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from queue import Queue
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server as WebSocketServer
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

DEADLINE = 10.0  # seconds after which a wait has failed


class Peer:
    """The server's end of one connection."""

    def __init__(self, websocket: ServerConnection) -> None:
        self.websocket = websocket

    @property
    def headers(self) -> Headers:
        assert self.websocket.request is not None
        return self.websocket.request.headers

    def read(self) -> dict[str, Any]:
        frame = json.loads(self.websocket.recv(timeout=DEADLINE))
        assert isinstance(frame, dict)
        return frame

    def hello(self) -> dict[str, Any]:
        frame = self.read()
        assert frame["op"] == "hello"
        resume = frame["resume"]
        assert isinstance(resume, dict)
        return resume

    def say(self, **frame: object) -> None:
        self.websocket.send(json.dumps(frame))

    def ready(
        self,
        topics: Mapping[str, object],
        recovered: Mapping[str, bool] | None = None,
        *,
        backend: str = "legacy",
        heartbeat: float = 25,
        reconnect: Mapping[str, int] | None = None,
    ) -> None:
        self.say(
            op="ready",
            connection=str(self.websocket.id),
            backend=backend,
            topics=topics,
            recovered=recovered or {},
            heartbeat=heartbeat,
            reconnect=reconnect or {"base_ms": 20, "cap_ms": 100, "spread_ms": 50},
        )

    def message(self, seq: int, *, topic: str = "user", epoch: str = "e") -> None:
        self.say(op="msg", topic=topic, pos=[epoch, seq], data=seq)

    def close(self, code: int, reason: str = "") -> None:
        self.websocket.close(code, reason)

    def until_closed(self) -> tuple[int, str]:
        """Read until the client has closed; what it sent with it."""
        try:
            while True:
                self.websocket.recv(timeout=DEADLINE)
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")


type Script = Callable[[Peer], object]


def stay(peer: Peer) -> None:
    """A script: greet, and be there until the client leaves."""
    resume = peer.hello()
    peer.ready({"user": ["e", 0]}, dict.fromkeys(resume, True))
    peer.until_closed()


def closing(code: int, reason: str = "") -> Script:
    """A script: greet, and end the connection."""

    def script(peer: Peer) -> None:
        peer.hello()
        peer.ready({"user": ["e", 0]})
        peer.close(code, reason)

    return script


class Server:
    """What the scripts run on.

    Attributes:
        results: what each script returned or raised, in order of their ends.
        asked: the requests for `/endpoint`. handshakes: those for `/ws/…`.
        answers: what `/endpoint` answers, in order; the right answer when there is none.
        refusals: what handshakes are refused with, in order; none when there is none.
    """

    def __init__(self, *scripts: Script) -> None:
        self.scripts: list[Script] = list(scripts)
        self.results: Queue[object] = Queue()
        self.asked: list[Request] = []
        self.handshakes: list[Request] = []
        self.answers: list[Response] = []
        self.refusals: list[Response] = []
        self.endpoint_cookies: list[str] = []
        self.handshake_cookies: list[str] = []
        self.fields: dict[str, object] = {}
        self._lock = threading.Lock()
        self._server: WebSocketServer | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        port = self._server.socket.getsockname()[1]
        assert isinstance(port, int)
        return port

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/endpoint"

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/calls"

    def result(self) -> Any:
        """What the next script that ends returns."""
        result = self.results.get(timeout=DEADLINE)
        if isinstance(result, BaseException):
            raise result
        return result

    def _handle(self, websocket: ServerConnection) -> None:
        with self._lock:
            script = self.scripts.pop(0) if self.scripts else stay
        try:
            self.results.put(script(Peer(websocket)))
        except BaseException as error:
            self.results.put(error)
            raise

    def _process_request(self, _: ServerConnection, request: Request) -> Response | None:
        with self._lock:
            if request.path.startswith("/endpoint"):
                self.asked.append(request)
                return self.answers.pop(0) if self.answers else self._endpoint_answer()
            self.handshakes.append(request)
            return self.refusals.pop(0) if self.refusals else None

    def _process_response(self, _: ServerConnection, request: Request, response: Response) -> None:
        if request.path.startswith("/ws/"):
            for cookie in self.handshake_cookies:
                response.headers["Set-Cookie"] = cookie

    def _endpoint_answer(self) -> Response:
        reconnect = {"base_ms": 20, "cap_ms": 100, "spread_ms": 50}
        fields = {"backend": "legacy", "url": self.url, "protocol": "realtime.v1", "reconnect": reconnect}
        answer = http(200, json.dumps({**fields, **self.fields}))
        for cookie in self.endpoint_cookies:
            answer.headers["Set-Cookie"] = cookie
        return answer

    @contextmanager
    def running(self, *, raw: bool = False, port: int = 0) -> Iterator["Server"]:
        with serve(
            self._handle,
            "127.0.0.1",
            port,
            process_request=self._process_request,
            process_response=self._process_response,
            subprotocols=None if raw else [Subprotocol("realtime.v1")],
            compression=None,
            ping_interval=None,
            close_timeout=1,
        ) as server:
            self._server = server
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join(DEADLINE)


def http(status: int, body: str = "", **headers: str) -> Response:
    """An HTTP answer; `retry_after="1"` is a header."""
    fields = Headers({name.replace("_", "-").title(): value for name, value in headers.items()})
    fields["Content-Length"] = str(len(body.encode()))
    return Response(status, "Because", fields, body.encode())
