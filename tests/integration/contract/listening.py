"""Clients that read all the time, on both backends, raw and v1, and what each of them got."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.integration.contract.cluster import PATIENCE, Place, wait_until
from tests.integration.contract.wire import V1, opened


@dataclass
class Listener:
    """A client that reads all the time, answers heartbeats, and keeps what it got."""

    websocket: ClientConnection
    values: list[Any] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)
    ended: bool = False

    def until(self, condition: Callable[["Listener"], object]) -> None:
        """Wait for what this client shows."""
        try:
            wait_until(lambda: condition(self), what="it is not so")
        except AssertionError as error:
            end = f"ended with {self.websocket.close_code}" if self.ended else "open"
            raise AssertionError(f"{error}: {len(self.values)} {self.values[-30:]} {self.others} {end}") from None

    @property
    def numbers(self) -> list[int]:
        return [value for value in self.values if isinstance(value, int)]

    def run(self) -> None:
        with suppress(ConnectionClosed):
            while True:
                self.take(self.websocket.recv())
        self.ended = True

    def take(self, data: str | bytes) -> None:
        if self.websocket.subprotocol is None:
            self.values.append(json.loads(data) if str(data).isdigit() else data)
            return
        said = json.loads(data)
        if said["op"] == "msg":
            self.values.append(said.get("data", said.get("text")))
        elif said["op"] == "ping":
            self.websocket.send('{"op":"pong"}')
        else:
            self.others.append(said)


@contextmanager
def listeners(places: list[Place], name: str, facility: str = "contract", **query: Any) -> Iterator[list[Listener]]:
    """Two raw and two v1 clients on each server."""
    with ExitStack() as stack:
        found, threads = [], []
        for place in places:
            for number in range(4):
                note = f"{name}-{place.name}-{number}"
                url = place.url(facility, listen=[["g", name]], note=note, **query)
                websocket = stack.enter_context(opened(url, subprotocols=[V1] if number % 2 else None))
                if number % 2:
                    websocket.send('{"op":"hello"}')
                    assert json.loads(websocket.recv(PATIENCE))["op"] == "ready"
                found.append(Listener(websocket))
        for each in found:
            threads.append(threading.Thread(target=each.run))
            threads[-1].start()
        yield found
        stack.close()
        for thread in threads:
            thread.join()
