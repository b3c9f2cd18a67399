"""Which servers a test is for."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.contract.cluster import ALL, Place

everywhere = pytest.mark.parametrize("place", ALL, indirect=True)
"""On every kind of server: what depends on how a server hands over sockets, or on who waits for whom."""

with_line = pytest.mark.parametrize("place", [name for name in ALL if name != "asgi"], indirect=True)
"""Where our own code sees the bytes: everywhere but where there is nothing but ASGI (`channels_impl.line`)."""


def at_once(test: Callable[[Place, str], None]) -> Callable[[list[Place], str], None]:
    """Turn a test that mostly waits into one that waits on both backends at the same time."""

    def run(both: list[Place], name: str) -> None:
        with ThreadPoolExecutor(len(both)) as threads:
            list(threads.map(test, both, (f"{name}-{place.name}" for place in both)))

    run.__name__ = test.__name__
    return run
