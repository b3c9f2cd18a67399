"""The embedded Valkey: there when asked for, gone when nobody needs it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import redis

from shim.bus.embedded import EmbeddedValkey, embedded_url
from shim.bus.sync import SyncBus
from shim.core.errors import RealtimeUnavailable
from tests.bus.waiting import until

ROOT = Path(__file__).resolve().parents[2]


def is_there(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def test_it_starts_stops_and_starts_again_on_the_same_port() -> None:
    valkey = EmbeddedValkey()
    valkey.stop()  # nothing happens
    valkey.start()
    first = valkey.url
    valkey.start()  # nothing happens
    with redis.Redis.from_url(first) as client:
        client.set("a", 1)
    valkey.stop()
    assert not is_there(first)
    with valkey:
        assert valkey.url == first
        with redis.Redis.from_url(first) as client:
            assert client.get("a") is None, "nothing is kept"
    assert not is_there(first)


def test_what_it_is_told_to_keep_is_there_again(tmp_path: Path) -> None:
    kept = {"dir": str(tmp_path), "appendonly": "yes", "appendfsync": "always"}
    for patience in (10.0, 0.0):  # told to end, and struck down
        with EmbeddedValkey(config=kept) as valkey, redis.Redis.from_url(valkey.url) as client:
            client.incr("starts")
            valkey.stop(patience)
            valkey.start()
            assert client.incr("starts") == 2
            client.flushall()
    snapshots = {"dir": str(tmp_path), "save": "3600 1"}
    with EmbeddedValkey(config=snapshots) as valkey, redis.Redis.from_url(valkey.url) as client:
        client.set("kept", "by a snapshot at the end")
        valkey.stop(10.0)
        valkey.start()
        assert client.get("kept") == b"by a snapshot at the end"


def test_what_others_left_in_the_shared_directory_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"dir": str(tmp_path), "save": "3600 1"}
    with EmbeddedValkey(config=kept) as valkey, redis.Redis.from_url(valkey.url) as client:
        client.set("left", "behind")
        valkey.stop(10.0)
    assert (tmp_path / "dump.rdb").exists()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with EmbeddedValkey() as valkey, redis.Redis.from_url(valkey.url) as client:
        assert client.get("left") is None


def test_a_stopped_process_can_be_stopped_for_good() -> None:
    with EmbeddedValkey() as valkey:
        pid = valkey.pid
        os.kill(pid, signal.SIGSTOP)
    assert not is_there(valkey.url)


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(RealtimeUnavailable, match=f"Port {port} on 127.0.0.1 is taken.*PORT_BASE"):
            EmbeddedValkey(port).start()


def test_what_it_said_is_shown_when_it_does_not_start() -> None:
    valkey = EmbeddedValkey(config={"maxmemory": "lots"})
    with pytest.raises(RealtimeUnavailable, match="argument must be a memory value"):
        valkey.start()
    valkey.stop()


def test_a_wheel_without_a_program_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "files", lambda name: [])
    with pytest.raises(RealtimeUnavailable, match=r"no server program for this platform.*REALTIME_REDIS_URL"):
        EmbeddedValkey().start()


def test_a_wheel_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def files(name: str) -> object:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", files)
    with pytest.raises(RealtimeUnavailable, match=r"realtime-shim\[embedded\]"):
        EmbeddedValkey().start()


def run(code: str, *, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=10)


def test_it_does_not_outlive_a_killed_owner() -> None:
    owner = run(
        "import sys; from shim.bus.embedded import EmbeddedValkey as E; v = E(); v.start(); print(v.url, flush=True);"
        " sys.stdin.read()"
    )
    url = line(owner)
    assert is_there(url)
    end(owner)
    until(lambda: not is_there(url))


def test_it_can_be_stopped_while_a_forked_child_lives() -> None:
    with EmbeddedValkey() as valkey:
        child = os.fork()
        if not child:
            signal.pause()
            os._exit(0)
    assert not is_there(valkey.url)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A runtime directory of the test's own (of a short name: a socket's path has 107 characters at most)."""
    short = Path(f"/tmp/rt-{os.getpid()}-{abs(hash(tmp_path)) % 10_000}")
    short.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    yield {"XDG_RUNTIME_DIR": str(short)}
    for path in sorted(short.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    short.rmdir()


ASK = "import sys; from shim.bus.embedded import embedded_url as e; print(e({!r}), flush=True); sys.stdin.read()"


def test_processes_of_one_checkout_share_one_that_lives_as_long_as_any(tmp_path: Path, runtime: dict[str, str]) -> None:
    askers = [run(ASK.format(str(tmp_path)), env=runtime) for _ in range(4)]  # all at once
    urls = {line(asker) for asker in askers}
    assert len(urls) == 1
    (url,) = urls
    bus = SyncBus(url, prefix="rt")
    bus.ping()
    identity = bus.execute("CONFIG", "GET", "unixsocket")
    for asker in askers[:-1]:
        end(asker)
        bus.ping()
    assert bus.execute("CONFIG", "GET", "unixsocket") == identity
    end(askers[-1])
    until(lambda: not is_there(url))
    again = run(ASK.format(str(tmp_path)), env=runtime)
    assert line(again) == url, "the address never changes, so all others find the new one"
    bus.ping()
    end(again)
    until(lambda: not is_there(url))
    bus.close()


def test_a_server_that_died_is_replaced_by_the_next_who_asks(tmp_path: Path, runtime: dict[str, str]) -> None:
    asker = run(ASK.format(str(tmp_path)), env=runtime)
    url = line(asker)
    with redis.Redis.from_url(url) as client:
        pid = client.info("server")["process_id"]
        os.kill(pid, signal.SIGKILL)
    until(lambda: not is_there(url))
    other = run(ASK.format(str(tmp_path)), env=runtime)
    assert line(other) == url
    assert is_there(url)
    end(asker)
    assert is_there(url)
    end(other)
    until(lambda: not is_there(url))


def test_checkouts_do_not_share(tmp_path: Path, runtime: dict[str, str]) -> None:
    askers = [run(ASK.format(str(tmp_path / name)), env=runtime) for name in "ab"]
    one, two = (line(asker) for asker in askers)
    assert one != two
    for asker in askers:
        end(asker)
    until(lambda: not is_there(one) and not is_there(two))


def test_asking_twice_is_cheap_and_the_same(tmp_path: Path, runtime: dict[str, str]) -> None:
    asker = run(
        "from shim.bus.embedded import embedded_url as e, _held; "
        f"urls = {{e({str(tmp_path)!r}) for _ in range(20)}}; print(len(urls), len(_held))",
        env=runtime,
    )
    assert line(asker) == "1 1"
    asker.communicate(timeout=10)


def test_a_runtime_directory_that_others_can_write_to_is_refused(tmp_path: Path, runtime: dict[str, str]) -> None:
    own = Path(runtime["XDG_RUNTIME_DIR"]) / f"realtime-shim-{os.getuid()}"
    own.mkdir()
    own.chmod(0o777)
    with pytest.raises(RealtimeUnavailable, match="not a directory of ours alone"):
        embedded_url(tmp_path)
