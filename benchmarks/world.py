"""What all benchmarks share: a Redis of their own, progress, and results made from rounds."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Final, Self

import django
from django.core.management import call_command
from django.test import override_settings
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.result import Bound, Result
from contract_tests.servers import free_ports
from shim.bus.embedded import EmbeddedValkey

SETTINGS: Final = "benchmarks.settings"


class World:
    """A context manager; Django is set up once it is entered.

    Attributes:
        redis_url: an embedded Valkey that nobody else uses.

    Args:
        rounds: of each benchmark, in place of its own number.
    """

    def __init__(self, progress: Progress | None = None, *, rounds: int | None = None) -> None:
        self.progress = progress or Progress(
            TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._rounds = rounds
        self.valkey = EmbeddedValkey(free_ports(1))
        self.redis_url = self.valkey.url
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")

    def __enter__(self) -> Self:
        self.valkey.start()
        os.environ["REALTIME_REDIS_URL"] = self.redis_url
        os.environ["DJANGO_SETTINGS_MODULE"] = SETTINGS
        os.environ["DJANGO_DATABASE"] = str(Path(self._folder.name) / "bench.sqlite3")
        django.setup()
        call_command("migrate", verbosity=0, interactive=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.valkey.stop()
        self._folder.cleanup()

    def rounds(self, usual: int) -> int:
        """How many rounds to run: so many, if nobody has said another number."""
        return self._rounds or usual

    @property
    def env(self) -> dict[str, str]:
        """For servers: Django's settings and this Redis."""
        return {"DJANGO_SETTINGS_MODULE": SETTINGS, "REALTIME_REDIS_URL": self.redis_url, "PYTHONUNBUFFERED": "1"}

    @staticmethod
    @contextmanager
    def prefix(prefix: str) -> Iterator[None]:
        """Publish under another prefix meanwhile."""
        with override_settings(REALTIME_PREFIX=prefix):
            yield

    @contextmanager
    def step(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """A part of the work, in so many pieces; call what it gives after each."""
        task = self.progress.add_task(what, total=total)
        try:
            yield lambda: self.progress.advance(task)
        finally:
            self.progress.remove_task(task)

    @staticmethod
    def result(
        name: str,
        unit: str,
        rounds: Mapping[str, Sequence[float]],
        ours: str,
        peers: Sequence[str],
        floor: str | None,
        bounds: Sequence[Bound],
    ) -> Result:
        """A result from the rounds of several candidates; the first peer is the one that is compared with."""
        middle = {candidate: median(found) for candidate, found in rounds.items()}
        shown = [ours, *peers, *([floor] if floor else [])]
        return Result(
            name,
            unit,
            middle[ours],
            middle[peers[0]] if peers else None,
            middle[floor] if floor else None,
            bounds,
            details={candidate: round(middle[candidate], 3) for candidate in shown},
            series={candidate: rounds[candidate] for candidate in shown},
        )
