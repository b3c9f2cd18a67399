"""uWSGI: what the installed one can do, and what an ini file makes of it, as far as WebSockets care."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Self

from shim.conf import Conf
from shim.doctor.finding import DEPLOY, Finding, found

TIMEOUT: Final = 10.0  # seconds for uWSGI to say what it can do

_PAGE: Final = f"{DEPLOY}#wsgi-the-legacy-backend"

type Fault = tuple[str, str, str]
"""What, why, and the remedy."""


@dataclass(frozen=True, slots=True)
class Ini:
    """The options in an ini file's section `[uwsgi]`: of several values the last one. Other files are not followed."""

    options: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            OSError, UnicodeDecodeError: it cannot be read.
        """
        options: dict[str, str] = {}
        is_ours = False
        for line in path.read_text().splitlines():
            text = line.strip()
            if text.startswith("["):
                is_ours = text == "[uwsgi]"
            elif is_ours and text and text[0] not in ";#":
                name, _, value = text.partition("=")
                options[name.strip().replace("_", "-")] = value.strip()
        return cls(options)

    def has(self, *names: str) -> bool:
        """Whether one of these is set, and not to false."""
        return any(self.options.get(name, "false").lower() not in ("false", "0", "off", "no") for name in names)


def uwsgi(conf: Conf, ini: Path | None) -> Iterator[Finding]:
    """Look at the file that it is started with, if one is named, and at what is installed."""
    if ini is not None:
        try:
            faults = list(faults_of(Ini.read(ini)))
        except (OSError, UnicodeDecodeError) as error:
            faults = []
            yield found("error", "D012", f"{ini} cannot be read: {error}.", "It was asked for.", "Name another.")
        for what, why, remedy in faults:
            yield found("warning", "D013", f"{ini}: {what}", why, remedy, _PAGE)
    if "legacy" not in conf.backends or (program := _program()) is None:
        return
    options = _options(program)
    if options is None:
        return
    for option, plugin, why in (
        ("--gevent", "gevent", "Each open WebSocket then takes a whole worker, or a thread."),
        ("--http-websockets", "http", "It then needs a proxy in front that speaks HTTP to its `http-socket`."),
    ):
        if not re.search(rf"{option}\b", options):
            yield found(
                "warning",
                "D014",
                f"{program} has no {plugin} plugin built in.",
                why,
                f"pip install 'realtime-shim[uwsgi]', whose wheel has it; or load it: plugin = {plugin}.",
                _PAGE,
            )
    try:
        metadata.version("gevent")
    except metadata.PackageNotFoundError:
        yield found(
            "warning",
            "D015",
            "uWSGI is installed, and gevent is not.",
            "`uwsgi --gevent` does not start without it.",
            "pip install 'realtime-shim[uwsgi]'; or serve the legacy backend by gunicorn.",
            _PAGE,
        )


def _program() -> str | None:
    beside = Path(sys.executable).parent / "uwsgi"
    return str(beside) if beside.exists() else shutil.which("uwsgi")


def _options(program: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603  # the site's own server
            [program, "--help"], capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout + done.stderr


def faults_of(ini: Ini) -> Iterator[Fault]:
    """What is in the way of WebSockets, or of a clean stop."""
    if not ini.has("gevent"):
        yield (
            "there is no `gevent`.",
            "Each open WebSocket takes a whole worker, or a thread.",
            "gevent = 1000, and gevent-early-monkey-patch = true.",
        )
    elif not ini.has("gevent-monkey-patch", "gevent-early-monkey-patch"):
        yield (
            "there is no `gevent-early-monkey-patch`.",
            "A greenlet that waits then stops all others, and every WebSocket with them.",
            "gevent-early-monkey-patch = true.",
        )
    elif ini.has("threads"):
        yield (
            "it has threads beside gevent.",
            "uWSGI runs either of the two.",
            "Take `threads` out.",
        )
    if not ini.has("http-socket", "http", "http11-socket"):
        yield (
            "it takes no HTTP: neither `http-socket` nor `http`.",
            "A WebSocket begins as an HTTP request; uwsgi's own protocol cannot carry it.",
            "http-socket = 127.0.0.1:8001, and a proxy in front that passes Upgrade on.",
        )
    elif ini.has("http") and not ini.has("http-websockets", "http-socket"):
        yield (
            "its HTTP router has no `http-websockets`.",
            "The router then holds WebSockets back.",
            "http-websockets = true; or http-socket in place of http, which also lets a stop be seen by clients.",
        )
    if ini.has("harakiri"):
        yield (
            "it has `harakiri`.",
            "It kills a worker for a request that takes long, and one lasts as long as there are WebSockets.",
            "Take it out.",
        )
    if not ini.has("die-on-term"):
        yield (
            "there is no `die-on-term`.",
            "SIGTERM then reloads uWSGI in place of stopping it, and a container is killed in the end.",
            "die-on-term = true.",
        )
