"""A real nginx for tests: Debian's, without privileges, on the configuration that is shipped."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from contract_tests.servers import CHANNELS, HOST, LEGACY
from demo.stack import ROOT

NGINX: Final = Path("/usr/sbin/nginx")  # Debian's
SHIPPED: Final = ROOT / "deploy" / "nginx.conf"
PATIENCE: Final = 20.0  # seconds

# What stands around the shipped file, in place of a distribution's nginx.conf: all that is written goes to one folder.
_AROUND: Final = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/realtime.conf;
}}
"""


def with_ports(text: str, port: int, ports: dict[str, int]) -> str:
    """The shipped file with other ports and nothing else changed."""
    legacy, channels = f"{HOST}:{ports[LEGACY]}", f"{HOST}:{ports[CHANNELS]}"
    assert [text.count(f"server {HOST}:{n} ") for n in (8000, 8001)] == [2, 1]
    assert text.count(f"listen {HOST}:80;") == 1
    return (
        text.replace(f"server {HOST}:8000 ", f"server {legacy} ")
        .replace(f"server {HOST}:8001 ", f"server {channels} ")
        .replace(f"listen {HOST}:80;", f"listen {HOST}:{port};")
    )


class Nginx:
    """A front door; a context manager.

    Args:
        port: where it listens. ports: of the two backends.
    """

    def __init__(self, port: int, ports: dict[str, int]) -> None:
        self.port = port
        self.http = f"http://{HOST}:{port}"
        self.ws = f"ws://{HOST}:{port}/ws/"
        self._ports = ports

    def __enter__(self) -> Self:
        # Not below pytest's folder: root's is closed to the user that nginx runs as.
        self._folder = Path(tempfile.mkdtemp(prefix="nginx-"))
        (self._folder / "realtime.conf").write_text(with_ports(SHIPPED.read_text(), self.port, self._ports))
        (self._folder / "nginx.conf").write_text(_AROUND.format(folder=self._folder))
        command = [str(NGINX), "-e", str(self._folder / "error.log"), "-c", str(self._folder / "nginx.conf")]
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self._output = (self._folder / "output").open("wb")
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT, **user
        )
        deadline = time.monotonic() + PATIENCE
        while not (self._folder / "nginx.pid").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = self.log()
                self.__exit__(None, None, None)
                raise AssertionError(f"nginx does not run: {log}")
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._output.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def log(self) -> str:
        """What it has complained about."""
        return "\n".join(
            (self._folder / name).read_text() for name in ("output", "error.log") if (self._folder / name).exists()
        )
