"""Servers that somebody else has started, with a project of their own: what a user's CI runs the suite against.

Django's settings are the project's own (`DJANGO_SETTINGS_MODULE`): its database, its Redis, and the two URLs of
`REALTIME`. Its servers have `contract_tests.app` in INSTALLED_APPS. Nobody's Redis is taken away and nobody's process
is killed here, so the rules that do that are left out.
"""

import socket
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import urlsplit

import django

from contract_tests.app.notes import Notes, notes
from contract_tests.part import StackError
from contract_tests.project.servers import ContractServers

_REACH_SECONDS: Final = 5.0


class RunningServers(ContractServers):
    """A context manager that starts nothing, and sees that all is there.

    Raises:
        StackError: on entering: a server cannot be reached, or its project is not prepared; the message says how.
    """

    are_ours: ClassVar[bool] = False

    def __init__(self, directory: Path, backends: tuple[str, ...]) -> None:
        super().__init__(1, directory=directory, redis_url="redis://", backends=backends)
        self._addresses: dict[str, tuple[str, int]] = {}

    def start(self) -> None:
        """See `Servers`."""
        django.setup()
        from django.apps import apps  # noqa: PLC0415  # Django is set up now
        from django.conf import settings  # noqa: PLC0415

        from shim.conf import conf  # noqa: PLC0415

        self.directory.mkdir(parents=True, exist_ok=True)
        if not apps.is_installed("contract_tests.app"):
            raise StackError(
                f'Add "contract_tests.app" to INSTALLED_APPS of {settings.SETTINGS_MODULE}, and deploy it.'
            )
        self.redis_url = conf().redis_url or ""
        if conf().pace.move_most > 1.0 or conf().pace.admissions < 1_000:
            raise StackError(
                "These settings' REALTIME_PACE is for people: hundreds of handshakes a second would be refused, and a"
                " flip would take longer than the suite waits. Give these servers contract_tests.app.pace.PACE."
            )
        for place in self.backends:
            url = conf().backends[place].url
            self._addresses[place] = _address(place, url)
            self.ws[place] = url
            try:
                self._shake_hands(place)
            except Exception as error:
                raise StackError(
                    f"{place} does not answer at {url} ({type(error).__name__}: {error}). Is it running, with"
                    ' "contract_tests.app" among its INSTALLED_APPS?'
                ) from error

    def stop(self) -> None:
        """See `Servers`: they are left as they are."""

    def address(self, place: str) -> tuple[str, int]:
        """See `ContractServers`."""
        return self._addresses[place]

    @property
    def notebook(self) -> Notes:
        """See `ContractServers`: wherever their settings say."""
        return notes()


def _address(place: str, url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme != "ws" or parts.hostname is None:
        raise StackError(
            f"REALTIME[{place!r}]['URL'] is {url!r}: the suite speaks plain TCP, so give it a ws:// URL of the servers"
            " themselves, behind what ends TLS."
        )
    address = parts.hostname, parts.port or 80
    try:
        socket.create_connection(address, _REACH_SECONDS).close()
    except OSError as error:
        raise StackError(f"{place} cannot be reached at {address[0]}:{address[1]}: {error}") from None
    return address
