"""A client of either kind, and the proof that it leaves nothing behind."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from tests.client.drivers import AsyncDriver, Driven, SyncDriver
from tests.client.scripted import DEADLINE

type MakeClient = Callable[..., Driven]


@pytest.fixture(params=["sync", "asyncio"])
def make_client(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    """Makes clients with a list of their events and dice that always show 0; closes them, and looks for leftovers."""
    before = set(threading.enumerate())
    made: list[SyncDriver | AsyncDriver] = []  # each is a Driven; AsyncDriver by __getattr__, which mypy cannot see

    def make(*args: Any, **options: Any) -> Driven:
        kind = SyncDriver if request.param == "sync" else AsyncDriver
        client = kind.make(*args, **options)
        made.append(client)
        return cast("Driven", client)

    yield make
    for client in made:
        client.close()
        if isinstance(client, AsyncDriver):
            left = client.tasks()
            client.stop()
            assert not left, f"tasks are left: {left}"
    # The server's own threads end with its connections; the client's must be gone with `close`.
    deadline = time.monotonic() + DEADLINE
    for thread in set(threading.enumerate()) - before:
        assert thread.name != "shim-client", "the client's thread is left"
        thread.join(max(deadline - time.monotonic(), 0))
        assert not thread.is_alive(), f"a thread is left: {thread}"
