"""The peer: Channels as its tutorial builds it, session authentication and all, with the pub/sub channel layer."""

from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

_django = get_asgi_application()


class Bench(AsyncWebsocketConsumer):
    """Joins the group of everyone, and one of its own."""

    async def connect(self) -> None:
        """Join, then accept."""
        self.names = ["bench"]
        if own := self.scope["url_route"]["kwargs"].get("own"):
            self.names.append(f"bench.{own}")
        for name in self.names:
            await self.channel_layer.group_add(name, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:  # noqa: ARG002  # Channels calls it so
        """Leave."""
        for name in self.names:
            await self.channel_layer.group_discard(name, self.channel_name)

    async def bench(self, event: dict[str, Any]) -> None:
        """A message of a group."""
        await self.send(text_data=event["text"])


def stack(consumer: Any) -> ProtocolTypeRouter:
    """The application around a consumer."""
    routes: Any = [path("ws/bench", consumer), path("ws/bench/<own>", consumer)]
    return ProtocolTypeRouter({"http": _django, "websocket": AuthMiddlewareStack(URLRouter(routes))})


_bench: Any = Bench.as_asgi()
application = stack(_bench)
