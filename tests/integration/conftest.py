"""A whole system for tests: servers in processes of their own, and a Redis that a test may stop and start."""

import random
import socket
from collections.abc import Callable, Iterator

import pytest

from demo.stack import Stack
from shim.bus.embedded import EmbeddedValkey
from tests.integration.served import Served


def free_ports(n: int = 3) -> int:
    """The first of so many free ports in a row, below the range that the system takes clients' ports from."""
    for base in random.sample(range(15_000, 32_000 - n), 200):
        probes = [socket.socket() for _ in range(n)]
        try:
            for port, probe in enumerate(probes, base):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
        return base
    raise AssertionError("no free ports")


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedValkey]:
    """The Redis of `served`."""
    with EmbeddedValkey() as valkey:
        yield valkey


@pytest.fixture(scope="session")
def served(valkey: EmbeddedValkey) -> Iterator[Served]:
    """`make serve` on a given Redis, for all tests that leave it as they found it."""
    served = Served(free_ports(2), {"REDIS_URL": valkey.url})
    try:
        served.wait_until_ready()
        yield served
    finally:
        served.end()
        served.tidy()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The demo's stack, started from here."""
    with Stack(free_ports(), directory=tmp_path_factory.mktemp("stack") / "run") as stack:
        yield stack


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Starts a `make serve` of the test's own, not waited for."""
    started: list[Served] = []

    def start(port_base: int | None = None, **env: str) -> Served:
        started.append(Served(free_ports() if port_base is None else port_base, env))
        return started[-1]

    yield start
    for each in started:
        each.end()
        each.tidy()
