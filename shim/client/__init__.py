"""The Python client: for services, for tests, for load. It needs `websockets`, and no Django settings.

`Client` is for threads, `AsyncClient` for asyncio; they are twins. Both find their backend by discovery, resume where
they were (contract 5.3), move without a break (8.3), come back by the close-code table within the spread they were told
(8.5), and drop nothing silently: what is double, missing or wrong is counted and told to `on_event`.
"""

from shim.client.asyncio import AsyncClient
from shim.client.effects import Counters, State
from shim.client.errors import (
    ClientError,
    ConnectionClosed,
    DiscoveryError,
    HandshakeRefused,
    NotConnected,
    SendRefused,
)
from shim.client.events import (
    Connected,
    Connecting,
    Event,
    Gap,
    Hole,
    Lost,
    Moved,
    MoveFailed,
    Moving,
    ProtocolError,
    ServerError,
)
from shim.client.frames import Received
from shim.client.sync import Client

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Connected",
    "Connecting",
    "ConnectionClosed",
    "Counters",
    "DiscoveryError",
    "Event",
    "Gap",
    "HandshakeRefused",
    "Hole",
    "Lost",
    "MoveFailed",
    "Moved",
    "Moving",
    "NotConnected",
    "ProtocolError",
    "Received",
    "SendRefused",
    "ServerError",
    "State",
]
