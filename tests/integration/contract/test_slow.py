"""Contract 7.2: clients that take nothing cost nobody else anything."""

import struct
from contextlib import ExitStack
from pathlib import Path

import pytest

from shim import Group, realtime
from tests.integration.contract.cluster import Cluster, Place
from tests.integration.contract.wire import CLOSE, TEXT, Wire, close_frame, frame

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
