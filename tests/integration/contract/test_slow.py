"""Contract 7.2: clients that take nothing cost nobody else anything."""

import struct
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from shim import Group, realtime
from tests.integration.contract.cluster import Cluster, Place
from tests.integration.contract.wire import BINARY, CLOSE, CONT, PING, TEXT, Wire, close_frame, frame

pytestmark = pytest.mark.servers

SLOW = 6
CHUNK, CHUNKS = "x" * 131_072, 160  # 20 MiB, far over what the kernel holds for one client


def memory_of(pids: set[int]) -> int:
    """Resident bytes."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4_096 for pid in pids)


def test_a_slow_client(place: Place, cluster: Cluster, name: str) -> None:
    # contract 7.2: 4001 at 1 MiB of backlog; others get everything meanwhile; memory stays bounded
    listen = [["g", name]]
    with ExitStack() as stack:
        stalled = []
        for number in range(SLOW):
            wire = stack.enter_context(Wire(place, receive_buffer=4_096))
            wire.opened(
                place.path(listen=listen, note=f"{name}-{number}"), protocol="realtime.v1" if number % 2 else None
            )
            stalled.append(wire.hello() if number % 2 else wire)
        quick = stack.enter_context(Wire(place)).opened(place.path(listen=listen))
        before = memory_of(cluster.pids(place.name))
        for number in range(CHUNKS):
            realtime.publish("contract", Group(name), f"{number}:{CHUNK}")
            assert quick.read()[1].startswith(f"{number}:".encode())  # at once, whatever the others do
        grown = memory_of(cluster.pids(place.name)) - before
        assert grown < 40 * 1_048_576, f"{grown} bytes for {SLOW} stalled clients"
        # One wakes up in time to read why; the others never do, and are cut.
        opcode, payload = stalled[0].read()
        while opcode != CLOSE:
            opcode, payload = stalled[0].read()
        assert struct.unpack("!H", payload[:2])[0] == 4001
        stalled[0].send(close_frame(4001))
        assert stalled[0].end() is None
        for number, wire in enumerate(stalled):
            assert place.ended(f"{name}-{number}") == [4001]
            place.let_go_of(wire.port)
        quick.send(frame(TEXT, b'{"do":"echo","value":"here"}'))
        assert quick.read() == (TEXT, b"here")


def test_a_client_that_asks_and_never_listens(place: Place, cluster: Cluster, name: str) -> None:
    # contract 7.2: what the server answers by itself counts, too
    ping = frame(PING, b"x" * 125) * 1_000
    with Wire(place, receive_buffer=4_096).opened(place.path(listen=[], note=name)) as wire:
        before = memory_of(cluster.pids(place.name))
        wire.socket.settimeout(1.0)
        with suppress(OSError):
            for _ in range(400):  # 50 MB
                wire.send(ping)
        assert place.ended(name) == [4001]
        grown = memory_of(cluster.pids(place.name)) - before
        assert grown < 20 * 1_048_576, f"{grown} bytes for one client"
        place.let_go_of(wire.port)


def test_a_message_in_a_million_pieces(place: Place, cluster: Cluster, name: str) -> None:
    # contract 6.3: within the limit of a message, whatever it is cut into
    with Wire(place).opened(place.path(listen=[], note=name)) as wire:
        before = memory_of(cluster.pids(place.name))
        wire.send(frame(BINARY, b"", fin=False))
        for _ in range(20):
            wire.send((frame(CONT, b"", fin=False) * 4 + frame(CONT, b"x", fin=False)) * 5_000)
        wire.send(frame(CONT, b"!"))
        wire.send(frame(TEXT, b'{"do":"echo","value":"here"}'))
        assert wire.read() == (TEXT, b"here")
        grown = memory_of(cluster.pids(place.name)) - before
        assert grown < 16 * 1_048_576, f"{grown} bytes for 100 kB"
    assert place.notes.read(name, "receive")[0]["value"] == (b"x" * 100_000 + b"!").hex()
