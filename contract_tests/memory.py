"""The in-memory backend as a driver: no servers, no sockets, and time passes only when somebody waits.

It has to keep the contract like the real ones: applications' tests trust it (`shim.testing`). Here it is two processes
of each backend on one Redis in memory, with flips, so it is what `mixed` is.
"""

from collections.abc import Hashable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast
from urllib.parse import unquote

from django.test.client import Client as HttpClient
from django.test.utils import override_settings

from contract_tests.client import SUBPROTOCOL, Client, Seen
from contract_tests.driver import ENDPOINT, Capability, Driver, overridden
from contract_tests.flag import Flag
from contract_tests.project.servers import ContractServers
from contract_tests.servers import BACKENDS, WORKERS
from contract_tests.wire import BINARY, TEXT, Head, handshake_headers
from shim.core.cohorts import Cohort
from shim.door import Handshake
from shim.testing import InMemory, MemoryServer, Refused
from shim.testing import MemoryClient as Line

if TYPE_CHECKING:
    from contract_tests.link import Link

HOST: Final = "localhost"
_STEP: Final = 0.05  # seconds that pass while somebody waits
_ABNORMAL: Final = 1006


class NoServers(ContractServers):
    """The database, and processes that are objects."""

    world: InMemory

    def __init__(self, directory: Path) -> None:
        super().__init__(1, directory=directory, redis_url="memory://", backends=())
        self.processes: dict[str, list[MemoryServer]] = {}
        self._overrides = ExitStack()

    def start(self) -> None:
        """See `Servers`."""
        super().start()
        self.world = InMemory()
        self.world.__enter__()
        self.serve()

    def serve(self) -> None:
        """Start the processes of both backends."""
        self.processes = {name: [self._process(name) for _ in range(WORKERS)] for name in BACKENDS}

    def replace(self, process: MemoryServer) -> None:
        """Another one takes the place of one that is dead."""
        self.world.servers.remove(process)
        processes = self.processes[process.backend]
        processes[processes.index(process)] = self._process(process.backend)

    def _process(self, name: Cohort) -> MemoryServer:
        process = self.world.serve(name)
        process.poll_flag()  # as a real one does that finds none on Redis
        return process

    def override(self, overrides: Mapping[str, Any]) -> None:
        """Settings for processes that start from now on; of earlier ones nothing is left."""
        self._overrides.close()
        self._overrides.enter_context(override_settings(**overrides))

    def stop(self) -> None:
        """See `Servers`."""
        self._overrides.close()
        if self.processes:
            self.processes = {}
            self.world.__exit__(None, None, None)
        super().stop()


class Memory(Driver):
    """Everybody in memory, on both backends."""

    name = "memory"
    places = BACKENDS
    flips = True
    missing: ClassVar[Mapping[Capability, str]] = {
        "frames on a wire": "messages are handed over whole, there is nothing between client and protocol",
        "handlers that wait": "a handler runs inside of what calls it",
    }
    margin: ClassVar[float] = 0.001  # one clock, and Redis counts milliseconds

    @classmethod
    def servers_in(cls, directory: Path, redis_url: str | None = None) -> ContractServers:
        """See `Driver`; a Redis is not needed."""
        return NoServers(directory)

    @property
    def _servers(self) -> NoServers:
        return cast("NoServers", self.servers)

    @property
    def world(self) -> InMemory:
        """What there is in memory."""
        return self._servers.world

    def now(self) -> float:
        """See `Driver`."""
        return self.world.clock.now

    def wait(self, clients: Iterable[Client], timeout: float) -> None:
        """See `Driver`: time passes, and all that is due by then happens."""
        self.world.advance(min(timeout, _STEP))

    def turn(self, flag: Flag) -> None:
        """See `Driver`. Operators are slower than a reconnect."""
        self.world.settle()
        super().turn(flag)

    def knock(
        self, place: str, path: str, *, v1: bool, headers: Mapping[str, str], receive_buffer: int | None = None
    ) -> Client:
        """See `Driver`. Nothing is kept for one that does not read."""
        self.world.outbox.clear()  # nobody looks at it
        processes = self._servers.processes[place]
        processes.append(processes.pop(0))  # each takes its turn
        name, _, query = path.partition("?")
        sent = handshake_headers(HOST, subprotocol=SUBPROTOCOL if v1 else None, headers=headers)
        request = Handshake(unquote(name), query, {key.lower(): value for key, value in sent.items()})
        return MemoryClient(self, processes[0], request, v1=v1)

    def where(self, place: str, cookie: Mapping[str, str]) -> str | None:
        """See `Driver`."""
        response = HttpClient(headers={"Host": HOST, **cookie}).get(ENDPOINT)
        return response.json()["backend"] if response.status_code == 200 else None

    def process_of(self, link: "Link") -> Hashable:
        """See `Driver`."""
        return cast("MemoryClient", link.client).server

    def kill(self, process: Hashable) -> None:
        """See `Driver`."""
        killed = cast("MemoryServer", process)
        killed.kill()
        self._servers.replace(killed)

    @property
    def can_stop_redis(self) -> bool:
        """See `Driver`."""
        return True

    def stop_redis(self, how: str) -> None:
        """See `Driver`. Nothing in memory is silent: it is there or not."""
        self.world.redis.stop()
        if how == "lost":
            self.world.redis.flush()

    def start_redis(self, how: str) -> None:
        """See `Driver`."""
        self.world.redis.start()

    def stop_servers(self) -> None:
        """See `Driver`."""
        for server in self.world.servers:
            server.drain()

    def start_servers(self, overrides: Mapping[str, Any]) -> None:
        """See `Driver`."""
        self.world.settle()
        for server in self.world.servers:
            server.kill()
        self.world.servers.clear()
        self._servers.override({})  # what is said below is beside the project's own settings
        self.overrides = overridden(overrides)
        self._servers.override(self.overrides)
        self._servers.serve()

    def hang_up(self) -> None:
        """See `Driver`."""
        for server in self.world.servers:
            server.cut()
            server.restore()


class MemoryClient:
    """A `Client` in front of one of `shim.testing`, which knows payloads where this suite looks at what came.

    Attributes:
        server: the process that it is connected to.
    """

    def __init__(self, driver: Memory, server: MemoryServer, request: Handshake, *, v1: bool) -> None:
        self.v1 = v1
        self.over = False
        self.server = server
        self._driver = driver
        self._request = request
        self._line: Line | None = None

    def open(self, timeout: float) -> tuple[Head, list[Seen]]:
        """See `Client`."""
        try:
            self._line = self.server.connect(self._request)
        except Refused as refused:
            self.over = True
            headers = {} if refused.retry_after is None else {"retry-after": str(refused.retry_after)}
            return Head(refused.status, headers, refused.reason.encode()), []
        return Head(101, {}), self.pump()

    def pump(self) -> list[Seen]:
        """See `Client`."""
        line = self._line
        if line is None or self.over:
            return []
        self._driver.world.settle()
        seen: list[Seen] = []
        while line.frames:
            frame = line.frames.popleft()
            what = Seen.message(self.v1, TEXT if frame.text else BINARY, frame.data)
            if what.op != "ping":  # the line has answered it
                seen.append(what)
        if line.closed is not None:
            self.over = True
            seen.append(Seen("closed", code=None if line.closed == _ABNORMAL else line.closed))
        return seen

    def wait(self, timeout: float = 1.0) -> None:
        """See `Client`."""
        self._driver.wait([self], timeout)

    def say(self, opcode: int, payload: bytes) -> None:
        """See `Client`."""
        if self._line is not None:
            self._line.send(payload if opcode == BINARY else payload.decode())

    def leave(self, code: int | None) -> None:
        """See `Client`."""
        if self._line is not None:
            self._line.close(1005 if code is None else code)

    def stall(self) -> None:
        """See `Client`."""
        if self._line is not None:
            self._line.pause()

    def end(self, *, abrupt: bool = False) -> None:
        """See `Client`."""
        self.over = True
        if self._line is not None:
            self._line.cut()
