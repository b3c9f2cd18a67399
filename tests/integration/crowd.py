"""Forty clients of one server, raw and v1, and what became of each of them."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response
from websockets.typing import Subprotocol

RAW: Final = 20
V1: Final = 20
PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class End:
    """How a connection ended: the code of the server's close frame, None when the line just broke; a monotonic time."""

    code: int | None
    at: float


class Crowd:
    """Clients that listen until they are sent away; an async context manager.

    Args:
        url: of the facility `contract`.
        note: the name under which the servers note what happens to them.
    """

    def __init__(self, url: str, note: str) -> None:
        self.url = f"{url}?{urlencode({'note': note})}"
        self.ends: list[End] = []
        self.clients: list[ClientConnection] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.clients = list(await asyncio.gather(*(self._enter(n < V1) for n in range(V1 + RAW))))
        self._tasks = [asyncio.create_task(self._listen(client)) for client in self.clients]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(client.close() for client in self.clients), *self._tasks, return_exceptions=True)

    async def _enter(self, is_v1: bool) -> ClientConnection:
        subprotocols = [Subprotocol("realtime.v1")] if is_v1 else None
        client = await connect(self.url, subprotocols=subprotocols, proxy=None, open_timeout=PATIENCE)
        if is_v1:
            await client.send('{"op":"hello"}')
            assert '"ready"' in str(await asyncio.wait_for(client.recv(), PATIENCE))
        return client

    async def _listen(self, client: ClientConnection) -> None:
        try:
            while True:
                await client.recv()
        except ConnectionClosed as closed:
            self.ends.append(End(closed.rcvd.code if closed.rcvd else None, time.monotonic()))

    async def until(self, ended: int) -> None:
        """Wait until so many have been sent away."""
        deadline = time.monotonic() + PATIENCE
        while len(self.ends) < ended:
            assert time.monotonic() < deadline, f"{len(self.ends)} of {ended} have ended: {self.ends}"
            await asyncio.sleep(0.01)

    async def refusal(self) -> Response:
        """How further handshakes are refused; the processes of a server do not all learn in the same instant."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                async with connect(self.url.partition("?")[0], proxy=None, open_timeout=PATIENCE):
                    pass
            except InvalidStatus as refused:
                return refused.response
        raise AssertionError("handshakes are not refused")


def codes(ends: list[End]) -> list[Any]:
    """The codes of all ends, without repetitions."""
    return sorted({end.code for end in ends}, key=str)
