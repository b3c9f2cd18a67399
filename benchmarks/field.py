"""The servers that are measured side by side: ours, the stock consumer, the floors. Each is one worker process."""

import json
import resource
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.process import Server, gunicorn, uwsgi
from benchmarks.world import World
from contract_tests.servers import free_ports

CHANNELS: Final = "channels"
LEGACY: Final = "legacy"
STOCK: Final = "stock consumer"
TASK_EACH: Final = "a task each"
SOCKETS: Final = "bare sockets"
BARE_ASGI: Final = "bare uvicorn"
BARE_UWSGI: Final = "bare uWSGI greenlets"
BARE_GREENLETS: Final = "bare greenlets"
ONE_EACH: Final = "a Redis connection each"
OURS: Final = (CHANNELS, LEGACY)


def command(name: str, redis_url: str) -> list[str]:
    """What starts a server."""
    commands: Mapping[str, list[str]] = {
        CHANNELS: gunicorn("benchmarks.servers.ours_asgi", "channels_impl.worker.RealtimeWorker"),
        LEGACY: uwsgi("benchmarks.servers.ours_wsgi"),
        STOCK: gunicorn("benchmarks.servers.stock", "benchmarks.servers.worker.StockWorker"),
        TASK_EACH: gunicorn("benchmarks.servers.tasks", "benchmarks.servers.worker.StockWorker"),
        SOCKETS: [sys.executable, "-m", "benchmarks.servers.floor", "{port}", redis_url],
        BARE_ASGI: gunicorn("benchmarks.servers.bare_asgi", "benchmarks.servers.worker.StockWorker"),
        BARE_UWSGI: uwsgi("benchmarks.servers.bare_wsgi"),
        BARE_GREENLETS: [sys.executable, "-m", "benchmarks.servers.greenlets", "{port}"],
        ONE_EACH: [sys.executable, "-m", "benchmarks.servers.one_each", "{port}", redis_url],
    }
    return commands[name]


def prefix(name: str) -> str:
    """The REALTIME_PREFIX of one of ours: they are not to hear each other."""
    return f"rt-{name}"


@contextmanager
def field(
    world: World, names: Iterable[str], *, settings: Mapping[str, Mapping[str, Any]] | None = None
) -> Iterator[dict[str, Server]]:
    """Run these servers, all at the same time.

    Args:
        settings: of Django's, by server, over those of `benchmarks.settings`.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        running: dict[str, Server] = {}
        for name in names:
            env = {**world.env, "BENCH_SETTINGS": json.dumps((settings or {}).get(name, {}))}
            env["REALTIME_PREFIX"] = prefix(name) if name in OURS else "rt"
            log = Path(folder) / f"{len(running)}.log"
            server = Server(name, command(name, world.redis_url), port=free_ports(1), env=env, log=log)
            running[name] = stack.enter_context(server)
        yield running
