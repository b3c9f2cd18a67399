"""The ASGI application: WebSockets are served by the consumer, HTTP by the application that it wraps.

```python
application = RealtimeApplication(get_asgi_application())
```
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, WebSocketScope
from channels.routing import ProtocolTypeRouter

from channels_impl.consumer import RealtimeConsumer, handshake_of
from channels_impl.process import process
from channels_impl.stop import Stop
from shim import probes
from shim.conf import conf
from shim.door import NOT_AN_UPGRADE, wants_websocket

logger = logging.getLogger("realtime")

type Application = Callable[..., Awaitable[None]]


class RealtimeApplication(ProtocolTypeRouter):
    """A `ProtocolTypeRouter` with realtime WebSockets under `REALTIME_WS_PATH`, and other applications elsewhere.

    Args:
        http: serves HTTP, usually Django's `get_asgi_application()`.
        websocket: serves WebSockets of other paths, for projects with consumers of their own; None refuses them (404).
    """

    def __init__(self, http: Application, websocket: Application | None = None) -> None:
        """Wrap applications."""
        consumer: Any = RealtimeConsumer.as_asgi()  # typed for other scopes than it serves
        self._http = http
        self._consumer = consumer
        self._other = websocket or consumer  # which says 404 to a path that is not its own
        super().__init__({"http": self._serve_http, "websocket": self._serve_websocket, "lifespan": _lifespan})

    async def _serve_http(self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if wants_websocket(handshake_of(scope), conf()):
            headers = (("Content-Type", "text/plain; charset=utf-8"), ("Upgrade", "websocket"))
            await _say(send, NOT_AN_UPGRADE.status, NOT_AN_UPGRADE.reason, headers)
        elif (answer := probes.answer(scope["path"])) is not None:
            await _say(send, answer.status, answer.word, probes.HEADERS)
        else:
            await self._http(scope, receive, send)

    async def _serve_websocket(
        self, scope: WebSocketScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        ours = wants_websocket(handshake_of(scope), conf())
        await (self._consumer if ours else self._other)(scope, receive, send)


async def _say(send: ASGISendCallable, status: int, words: str, headers: Iterable[tuple[str, str]]) -> None:
    body = words.encode()
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw, "trailers": False})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _lifespan(_: object, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Start the process's subscription before the first connection, end it after the last."""
    stop: Stop | None = None
    while True:
        event = await receive()
        if event["type"] == "lifespan.startup":
            stop = Stop((await process()).drain)
            stop.hold()
            await send({"type": "lifespan.startup.complete"})
        elif event["type"] == "lifespan.shutdown":
            if stop is not None:
                stop.release()
            await (await process()).close()
            await send({"type": "lifespan.shutdown.complete"})
            return
