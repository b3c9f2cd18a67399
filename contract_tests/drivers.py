"""Drivers: what a life needs to know of the system under test. A third backend gets the whole suite by writing one."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from django.contrib.auth import get_user_model
from django.db import transaction
from hypothesis.errors import HypothesisException

from contract_tests.app.notes import Notes
from contract_tests.people import Flag
from contract_tests.servers import HOST, Servers
from shim.backends import BaseBackend, backend
from shim.conf import conf
from shim.flag import flag_model

PATIENCE: Final = 20.0
"""Seconds for what happens at once on a machine that has nothing else to do: a deadline, never a wait."""

SHRINKING_PATIENCE: Final = 3.0
SHRINKING_SECONDS: Final = 60.0


type Program = Sequence[tuple[str, Mapping[str, Any]]]
"""The steps of a life: rules and their arguments."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A life that broke the contract."""

    program: Program
    error: Exception


def _nothing() -> None:
    """Nobody wants to know."""


@dataclass(slots=True)
class Driver:
    """A system under test, for all lives of a run.

    Attributes:
        name: as `BACKENDS=` says it. places: the backends that connections are made to.
        flips: whether the flag changes while they are open.
        notes: what the servers wrote down. held: how often each clause was looked at and held.
        lives, steps: so many have begun. failure: the last that was found. on_life: called at the end of each.
        shaken_until: see `Life.shaken`.
    """

    name: ClassVar[str]
    places: ClassVar[tuple[str, ...]]
    flips: ClassVar[bool] = False
    everyone: ClassVar[bool | None] = None

    servers: Servers
    notes: Notes
    held: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    steps: int = 0
    shaken_until: float = 0.0
    failure: Failure | None = None
    shrinks_until: float = 0.0
    on_life: Callable[[], None] = _nothing

    def failed(self, program: Program, error: BaseException) -> None:
        """A life has shown a failure; the last one stays, which is the smallest when Hypothesis has shrunk it."""
        if isinstance(error, Exception) and not isinstance(error, HypothesisException):
            if self.failure is None:
                self.shrinks_until = time.monotonic() + SHRINKING_SECONDS
            self.failure = Failure(list(program), error)

    @property
    def is_tired(self) -> bool:
        """Whether enough time was spent on making a failure smaller: lives do nothing from then on."""
        return self.has_failed and time.monotonic() > self.shrinks_until

    @property
    def has_failed(self) -> bool:
        """Whether a life has broken the contract."""
        return self.failure is not None

    @property
    def patience(self) -> float:
        """Seconds until what must come is missed; fewer once something was, or shrinking it would take for ever."""
        return SHRINKING_PATIENCE if self.has_failed else PATIENCE

    def begin(self) -> None:
        """Before the first life."""
        self.turn(Flag(conf().flag, self.everyone))

    def turn(self, flag: Flag) -> None:
        """Set the roll-out flag, as an operator does: every process hears of it (contract 8.2)."""
        with transaction.atomic():
            found = flag_model()._default_manager.update_or_create(  # noqa: SLF001  # documented by Django
                name=flag.name, defaults={"everyone": flag.everyone, "percent": flag.percent, "superusers": False}
            )[0]
            listed: Any = found
            listed.users.set(get_user_model().objects.filter(username__in=flag.users))

    def address(self, place: str) -> tuple[str, int]:
        """Where a backend listens."""
        return HOST, self.servers.ports[place]

    def backend(self, place: str) -> BaseBackend:
        """A backend's declared capabilities."""
        return backend(place)


class Legacy(Driver):
    """Everybody on uWSGI."""

    name = "legacy"
    places = ("legacy",)


class Channels(Driver):
    """Everybody on gunicorn with uvicorn; the flag says so too."""

    name = "channels"
    places = ("channels",)
    everyone = True


class Mixed(Driver):
    """The same topics shared by connections on both, with flips in the middle."""

    name = "mixed"
    places = ("legacy", "channels")
    flips = True


# The in-memory backend gets a driver here as soon as it takes connections: its `address` is all that differs.
DRIVERS: Final[dict[str, type[Driver]]] = {kind.name: kind for kind in (Legacy, Channels, Mixed)}
