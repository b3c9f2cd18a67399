"""For applications' tests: realtime in this process's memory, without servers, sockets or waiting.

`RealtimeTestMixin` (or `InMemory`, in a fixture) makes it so for one test; `connect` opens connections and `outbox`
says what was published. What a connection meets is what it meets on a server: the same door, facility, hub and state
machine; only the socket and the Redis are not there. See docs/how-to/test-your-facility.md.

`MemoryServer` is the layer below, for tests of realtime shim itself: one server process, as pure as it gets.
"""

from shim.testing.client import MemoryClient
from shim.testing.connection import TestConnection, aconnect, connect, outbox
from shim.testing.memory import Clock, InMemory, Published, RealtimeTestMixin
from shim.testing.server import MemoryServer, Refused, handshake

__all__ = [
    "Clock",
    "InMemory",
    "MemoryClient",
    "MemoryServer",
    "Published",
    "RealtimeTestMixin",
    "Refused",
    "TestConnection",
    "aconnect",
    "connect",
    "handshake",
    "outbox",
]
