"""rediss://, with a certificate of the test's own making."""

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.bus.embedded import EmbeddedValkey
from shim.core.errors import RealtimeUnavailable
from shim.core.history import History
from shim.core.message import Kind
from shim.core.names import Topic, User
from tests.bus.conftest import Driver
from tests.bus.waiting import until

TOPIC = Topic("calls", User("ana"))
OPENSSL = shutil.which("openssl")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if OPENSSL is None:
        pytest.skip("no openssl program to make a certificate with")
    place = tmp_path_factory.mktemp("tls")
    key, cert = place / "key.pem", place / "cert.pem"
    made_of = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    command = [OPENSSL, "req", "-x509", *made_of, *names, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return key, cert


@pytest.fixture(scope="module")
def tls_port(certificate: tuple[Path, Path]) -> Iterator[int]:
    """A TLS door in front of a Valkey, whose build need not know TLS."""
    key, cert = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    with EmbeddedValkey(config={"requirepass": "s3cret"}) as valkey:

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(65_536):
                    writer.write(data)
                    await writer.drain()
            writer.close()

        async def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", valkey.port)
            await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer))

        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(asyncio.start_server(enter, "127.0.0.1", 0, ssl=context))
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        yield server.sockets[0].getsockname()[1]

        async def leave() -> None:
            server.close()
            await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(leave(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def test_both_drivers_speak_tls(driver: Driver, tls_port: int, certificate: tuple[Path, Path]) -> None:
    url = f"rediss://:s3cret@127.0.0.1:{tls_port}/0?ssl_ca_certs={certificate[1]}"
    bus = driver.bus(url)
    it = driver.subscription(url, [TOPIC.channel("rt")])
    it.start_and_wait()
    for body in (b"x", b"x" * 1_048_576):
        assert bus.publish(TOPIC, Kind.TEXT, body, History()) is not None
    until(lambda: len(it.heard.messages) == 2)
    assert it.heard.messages[1].endswith(b"x" * 1_048_576)


def test_a_certificate_that_nobody_vouches_for_is_refused(driver: Driver, tls_port: int) -> None:
    bus = driver.bus(f"rediss://:s3cret@127.0.0.1:{tls_port}/0")
    with pytest.raises(RealtimeUnavailable, match=r"(?i)certificate"):
        bus.ping()


def test_no_tls_where_it_is_asked_for_is_said(driver: Driver, tls_port: int) -> None:
    bus = driver.bus(f"redis://:s3cret@127.0.0.1:{tls_port}/0", timeout=1.0)
    with pytest.raises(RealtimeUnavailable, match=f"redis://127.0.0.1:{tls_port}/0"):
        bus.ping()
