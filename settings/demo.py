"""The demo on one machine: both kinds of process, its publisher, and whoever starts Python with what `READY` tells.

Not for production: DEBUG is on, and signing in takes one click.
"""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from settings.base import *  # noqa: F403
from settings.base import DATABASES, VAR_DIR


def _secret_key(file: Path) -> str:
    """A key for this checkout alone, made by whoever comes first; several processes may come at once."""
    with suppress(FileNotFoundError):
        return file.read_text()
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent) as fresh:  # mode 0600
        fresh.write(secrets.token_urlsafe(50))
        fresh.flush()
        with suppress(FileExistsError):
            os.link(fresh.name, file)
    return file.read_text()


DEBUG = True
SECRET_KEY = _secret_key(VAR_DIR / "secret-key")
ALLOWED_HOSTS = ["127.0.0.1", "localhost", ".localhost"]
WSGI_APPLICATION = "demo.wsgi.application"
ASGI_APPLICATION = "demo.asgi.application"
REALTIME_PACE = {
    "drain": 1.0,  # nobody waits for ten seconds after Ctrl-C
    "fleet_moves": 60.0,  # servers, clients and Redis share one machine (docs/explanation/pacing.md)
}
REALTIME_HISTORY_SIZE = 1_000  # who is away for a minute while much is said gets all of it all the same
if not os.environ.get("DJANGO_DATABASE"):
    DATABASES["default"]["NAME"] = VAR_DIR / "demo.sqlite3"
