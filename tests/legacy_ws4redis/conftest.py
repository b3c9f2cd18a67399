"""Each kind of server, started once for all the tests of the transport."""

import itertools
import time
from collections.abc import Iterator

import pytest

from tests.legacy_ws4redis.rawclient import RawClient, opened
from tests.legacy_ws4redis.servers import Server, serving

_numbers = itertools.count()


@pytest.fixture(scope="session", params=["uwsgi", "gunicorn-gthread", "gunicorn-gevent", "runserver"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each server in turn. Nothing that clients do may put a traceback or a write error into its log."""
    with serving(request.param, tmp_path_factory.mktemp("server")) as running:
        yield running
        log = running.log.read_text()
    for trouble in ("Traceback", "Exception", "rror:", "Broken pipe", "write error", "WORKER TIMEOUT"):
        assert trouble not in log, log


@pytest.fixture(scope="session")
def old_client(server: Server) -> Iterator[tuple[RawClient, float, int]]:
    """A connection as old as its server, with the time and the worker that it began with."""
    with opened(server, "old") as client:
        yield client, time.monotonic(), server.control("-", "pid")


@pytest.fixture
def name() -> str:
    """A connection's name, never used before."""
    return f"c{next(_numbers)}"
