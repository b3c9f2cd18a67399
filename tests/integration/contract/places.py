"""Which servers a test is for."""

import pytest

from tests.integration.contract.cluster import ALL

everywhere = pytest.mark.parametrize("place", ALL, indirect=True)
"""On every kind of server: what depends on how a server hands over sockets, or on who waits for whom."""

with_line = pytest.mark.parametrize("place", [name for name in ALL if name != "uvicorn"], indirect=True)
"""Where our own code sees the bytes: everywhere but on uvicorn alone with its own protocol (`channels_impl.line`)."""
