"""Servers of every kind, and this process as a publisher to them."""

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.test import override_settings
from websockets.exceptions import ConnectionClosed

from tests.integration.contract.cluster import MAIN, Cluster, Place, free_ports, wait_until
from tests.integration.contract.wire import raw

_numbers = itertools.count()

EXPECTED = ("ToldToFail", "the session store is down")
"""Errors that tests ask for; any other traceback in a server's log is a bug."""


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Servers for all tests that leave them as they found them. This process publishes to them, too."""
    with Cluster(tmp_path_factory.mktemp("contract"), free_ports(16)) as cluster:
        yield cluster
        logs = cluster.logs()
    for name, log in logs.items():
        assert not unexpected(log), f"{name}: {unexpected(log)}"


@pytest.fixture(scope="module")
def redis_config() -> dict[str, str]:
    """What the Redis of `strained` is told; a module may have a fixture of its own instead."""
    return {}


@pytest.fixture(scope="module")
def strained(tmp_path_factory: pytest.TempPathFactory, redis_config: dict[str, str]) -> Iterator[Cluster]:
    """Servers of a module's own, which it may break; patience is short there (contract 7.1)."""
    env = {
        "CONTRACT_LIMITS": '{"heartbeat": 2.0, "answer": 1.9, "hello": 4.0}',
        "CONTRACT_PACE": '{"move_within": 1.0}',
    }
    with Cluster(tmp_path_factory.mktemp("strained"), free_ports(16), env, redis_config) as strained:
        settings = {"REALTIME_REDIS_URL": strained.redis_url, "REALTIME_PREFIX": strained.stack.env["REALTIME_PREFIX"]}
        with override_settings(**settings):
            yield strained
        logs = strained.logs()
    for name, log in logs.items():
        assert not unexpected(log), f"{name}: {unexpected(log)}"


@pytest.fixture(scope="package")
def _publisher(cluster: Cluster) -> Iterator[None]:
    with override_settings(REALTIME_REDIS_URL=cluster.redis_url, REALTIME_PREFIX=cluster.stack.env["REALTIME_PREFIX"]):
        yield


@pytest.fixture(params=MAIN)
def place(request: pytest.FixtureRequest, cluster: Cluster, _publisher: None) -> Place:
    """Each backend on its main server; `everywhere` gives all kinds of servers."""
    return cluster.place(request.param)


@pytest.fixture
def both(cluster: Cluster, _publisher: None) -> list[Place]:
    """Both backends at once."""
    return [cluster.place(name) for name in MAIN]


@pytest.fixture(scope="module")
def _flips_are_over(cluster: Cluster, _publisher: None) -> Iterator[None]:
    """Who comes right after a flip is moved with the others (contract 8.3): the next module's clients are not to be."""
    yield
    wait_until(lambda: _stays(cluster.place("channels")))


def _stays(place: Place) -> bool:
    """Whether somebody who belongs elsewhere is left in peace for longer than a flip's window."""
    with raw(place, listen=[]) as websocket, suppress(ConnectionClosed):
        try:
            websocket.recv(1.5)
        except TimeoutError:
            return True
    return False


@pytest.fixture
def turn(both: list[Place], _flips_are_over: None) -> Iterator[Callable[..., None]]:
    """Sets the flag, which is everybody's; puts it back at the end."""

    def turn(**told: Any) -> None:
        both[0].ask("flag", None, **told)

    yield turn
    turn()


@pytest.fixture
def name() -> str:
    """A name that no test had before, for notes, gates, groups and users."""
    return f"n{next(_numbers)}"


def unexpected(log: str) -> str:
    """The first trouble in a log that no test has asked for."""
    # A traceback ends with its error's line; one that led to another error is part of that one's.
    chained = r"\n\n(?:During handling of|The above exception was)"
    for trouble in re.finditer(r"Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(.+)", log):
        if not re.match(chained, log[trouble.end() :]) and not any(word in trouble[1] for word in EXPECTED):
            return trouble[0]
    found = re.search(
        r".*(?:WORKER TIMEOUT|was never awaited|never retrieved|SIGSEGV|DAMN(?!.*signal 9)|Unhandled exception).*", log
    )
    return found[0] if found else ""
