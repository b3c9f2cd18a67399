"""The peer with heartbeats: the stock consumer with a task for each connection, which says `ping` and sleeps."""

import asyncio
from typing import Any

from benchmarks.servers import stock

SECONDS = 25.0


class Beating(stock.Bench):
    """As a Channels application does it that wants to know whether its clients are there."""

    async def connect(self) -> None:
        """Come in, then begin to ask."""
        await super().connect()
        self.beats = asyncio.create_task(self._beat())

    async def disconnect(self, code: int) -> None:
        """Stop asking."""
        self.beats.cancel()
        await super().disconnect(code)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:  # noqa: ARG002
        """A pong: the client is there."""
        self.heard = asyncio.get_running_loop().time()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(SECONDS)
            await self.send(text_data="ping")


_beating: Any = Beating.as_asgi()
application = stock.stack(_beating)
