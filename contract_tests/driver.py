"""A driver: what a life needs to know of the system under test, and how it gets at it.

This class gets at servers through sockets, which suits every backend that is a server. This module and the other
drivers' can be imported before Django is set up.
"""

import http.client
import json
import os
import select
import signal
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, cast

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction
from hypothesis.errors import HypothesisException

from contract_tests.app.notes import Notes
from contract_tests.client import Client
from contract_tests.flag import Flag
from contract_tests.project.servers import OVERRIDES, ContractServers
from contract_tests.servers import free_ports
from contract_tests.sockets import SocketClient
from shim.api import sync_bus
from shim.conf import conf
from shim.flag import flag_model

if TYPE_CHECKING:
    from contract_tests.link import Link

PATIENCE: Final = 20.0
"""Seconds for what happens at once on a machine that has nothing else to do: a deadline, never a wait."""

SHRINKING_PATIENCE: Final = 3.0
SHRINKING_SECONDS: Final = 60.0

ENDPOINT: Final = "/realtime/endpoint?facility=contract"

type Capability = Literal["frames on a wire", "handlers that wait"]
"""What a backend may lack: frames that clients can cut, mix and spoil; handlers that wait while other things happen."""

type Program = Sequence[tuple[str, Mapping[str, Any]]]
"""The steps of a life: rules and their arguments."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A life that broke the contract."""

    program: Program
    error: Exception


def overridden(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, where those that are dicts say only what is different."""
    return {
        name: {**getattr(settings, name, {}), **value} if isinstance(value, Mapping) else value
        for name, value in overrides.items()
    }


def _nothing() -> None:
    """Nobody wants to know."""


@dataclass(slots=True)
class Driver:
    """A system under test, for all lives of a run.

    Attributes:
        name: as `BACKENDS=` says it. places: the backends that connections are made to.
        flips: whether the flag changes while they are open. everyone: what the flag says before that.
        missing: what its backends cannot have, and why: rules that need it are left out, and the run says so.
        margin: seconds by which `now` and the clock that history expires by may differ.
        notes: what the servers wrote down. held: how often each clause was looked at and held.
        overrides: settings that servers run with beside their own.
        lives, steps: so many have begun. least: steps of a life that counts. examples: so many of those have ended.
        failure: the last that was found. on_life: called at the end of each.
        shaken_until: see `Life.shaken`.
    """

    name: ClassVar[str]
    places: ClassVar[tuple[str, ...]]
    flips: ClassVar[bool] = False
    everyone: ClassVar[bool | None] = None
    missing: ClassVar[Mapping[Capability, str]] = {}
    margin: ClassVar[float] = 0.05

    servers: ContractServers
    notes: Notes
    held: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    least: int = 1
    examples: int = 0
    steps: int = 0
    shaken_until: float = 0.0
    failure: Failure | None = None
    shrinks_until: float = 0.0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    on_life: Callable[[], None] = _nothing

    # The run

    @classmethod
    def servers_in(cls, directory: Path, redis_url: str | None = None) -> ContractServers:
        """What has to run: a context manager; Django is set up once it is entered."""
        return ContractServers(free_ports(), directory=directory, redis_url=redis_url, backends=cls.places)

    def begin(self) -> None:
        """Before the first life."""
        self.turn(Flag(conf().flag, self.everyone))

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

    # Time

    def now(self) -> float:
        """The time by which the system under test goes, in seconds; deadlines are moments of it."""
        return time.time()

    def wait(self, clients: Iterable[Client], timeout: float) -> None:
        """Wait until one of the clients has something to `pump`, at most so many seconds."""
        readable = select.poll()
        for client in clients:
            if not client.over:
                readable.register(cast("SocketClient", client).socket, select.POLLIN)
        readable.poll(timeout * 1_000)

    # What operators and clients do

    def turn(self, flag: Flag) -> None:
        """Set the roll-out flag, as an operator does: every process hears of it (contract 8.2)."""
        with transaction.atomic():
            found = flag_model()._default_manager.update_or_create(  # noqa: SLF001  # documented by Django
                name=flag.name, defaults={"everyone": flag.everyone, "percent": flag.percent, "superusers": False}
            )[0]
            listed: Any = found
            listed.users.set(get_user_model().objects.filter(username__in=flag.users))

    def knock(
        self, place: str, path: str, *, v1: bool, headers: Mapping[str, str], receive_buffer: int | None = None
    ) -> Client:
        """Send a handshake to a backend; `Client.open` waits for the answer.

        Args:
            path: with its query, quoted. headers: besides the usual ones.
            receive_buffer: bytes that lie unread on the client's side at most, for one that will stop reading.

        Raises:
            OSError: nobody is there.
        """
        return SocketClient(self.address(place), path, v1=v1, headers=headers, receive_buffer=receive_buffer)

    def where(self, place: str, cookie: Mapping[str, str]) -> str | None:
        """Ask a backend over HTTP where somebody belongs (contract 8.1); None: it does not answer with that."""
        connection = http.client.HTTPConnection(*self.address(place), timeout=PATIENCE)
        try:
            connection.request("GET", ENDPOINT, headers={**cookie, "Connection": "close"})
            response = connection.getresponse()
            body = response.read()
            return json.loads(body)["backend"] if response.status == 200 else None
        except OSError:
            return None
        finally:
            connection.close()

    def address(self, place: str) -> tuple[str, int]:
        """Where a backend listens."""
        return self.servers.address(place)

    # Faults

    def process_of(self, link: "Link") -> Hashable:
        """What serves a connection: connections with the same one end together when it is killed."""
        return int(self.notes.read(link.note, "audiences")[-1]["pid"])  # the last: a refused handshake wrote one, too

    def kill(self, process: Hashable) -> None:
        """Kill it, without warning; another one takes its place."""
        os.kill(cast("int", process), signal.SIGKILL)

    @property
    def can_stop_redis(self) -> bool:
        """Whether Redis is ours to take away."""
        return self.servers.are_ours and self.servers.valkey is not None

    def stop_redis(self, how: str) -> None:
        """Take Redis away: `silent`: it answers nothing; `saved`, `lost`: it ends, and its data are kept or not."""
        valkey = self.servers.valkey
        assert valkey is not None  # noqa: S101  # for the type checker: see `can_stop_redis`
        if how == "silent":
            os.kill(valkey.pid, signal.SIGSTOP)
            return
        if how == "saved":
            sync_bus().execute("SAVE")
        valkey.stop()
        if how == "lost":
            self.servers.forget()

    def start_redis(self, how: str) -> None:
        """Bring it back."""
        valkey = self.servers.valkey
        assert valkey is not None  # noqa: S101  # for the type checker
        if how == "silent":
            os.kill(valkey.pid, signal.SIGCONT)
        else:
            valkey.start()

    def stop_servers(self) -> None:
        """Ask all servers to stop (SIGTERM); returns at once (contract 9.1)."""
        self.servers.terminate()

    def start_servers(self, overrides: Mapping[str, Any]) -> None:
        """When they have ended, start them again, with these settings beside their own; returns when they answer."""
        self.overrides = overridden(overrides)
        self.servers.restart({OVERRIDES: json.dumps(self.overrides)})

    def hang_up(self) -> None:
        """Cut all servers' subscriptions to Redis; they connect again by themselves (contract 7.4)."""
        sync_bus().execute("CLIENT", "KILL", "TYPE", "pubsub")
