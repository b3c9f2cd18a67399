"""The ASGI application: WebSockets are served by the consumer, HTTP by the application that it wraps.

```python
application = RealtimeApplication(get_asgi_application())
```
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from channels.routing import ProtocolTypeRouter

from channels_impl.consumer import Receive, RealtimeConsumer, Scope, handshake_of
from channels_impl.outbox import Send
from channels_impl.process import process
from shim.conf import conf
from shim.door import NOT_AN_UPGRADE, wants_websocket

logger = logging.getLogger("realtime")

type Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class RealtimeApplication(ProtocolTypeRouter):  # type: ignore[misc]  # channels has no types
    """A `ProtocolTypeRouter` with realtime WebSockets under `REALTIME_WS_PATH`, and other applications elsewhere.

    Args:
        http: serves HTTP, usually Django's `get_asgi_application()`.
        websocket: serves WebSockets of other paths, for projects with consumers of their own; None refuses them (404).
    """

    def __init__(self, http: Application, websocket: Application | None = None) -> None:
        """Wrap applications."""
        consumer: Application = RealtimeConsumer.as_asgi()
        self._http = http
        self._consumer = consumer
        self._other = websocket or consumer  # which says 404 to a path that is not its own
        super().__init__({"http": self._serve_http, "websocket": self._serve_websocket, "lifespan": _lifespan})

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not wants_websocket(handshake_of(scope), conf()):
            await self._http(scope, receive, send)
            return
        body = NOT_AN_UPGRADE.reason.encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"upgrade", b"websocket"),
        ]
        await send({"type": "http.response.start", "status": NOT_AN_UPGRADE.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = wants_websocket(handshake_of(scope), conf())
        await (self._consumer if ours else self._other)(scope, receive, send)


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Start the process's subscription before the first connection, end it after the last."""
    while True:
        event: dict[str, Any] = await receive()
        if event["type"] == "lifespan.startup":
            await process()
            await send({"type": "lifespan.startup.complete"})
        elif event["type"] == "lifespan.shutdown":
            await (await process()).close()
            await send({"type": "lifespan.shutdown.complete"})
            return
