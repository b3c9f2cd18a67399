"""The suite's own servers: this project on both backends."""

import os
from pathlib import Path
from typing import Any, ClassVar, Final

import django
from django.core.management import call_command

from contract_tests.app.notes import Notes
from contract_tests.servers import HOST, Servers
from shim.bus.embedded import EmbeddedValkey

_DUMP: Final = "dump.rdb"

OVERRIDES: Final = "CONTRACT_SETTINGS"
"""The variable with settings, as JSON, that servers run with beside their own."""


class ContractServers(Servers):
    """The process that starts them judges them: it shares their settings and their database, which it makes."""

    settings: ClassVar[str] = "contract_tests.project.settings"
    wsgi: ClassVar[str] = "contract_tests.project.wsgi"
    asgi: ClassVar[str] = "contract_tests.project.asgi:application"
    root: ClassVar[Path] = Path(__file__).resolve().parents[2]
    facility: ClassVar[str] = "contract"
    are_ours: ClassVar[bool] = True  # to stop, to kill, to cut off

    def __init__(self, port_base: int, **others: Any) -> None:
        super().__init__(port_base, **others)
        if self.valkey is not None:  # it saves its data when it is told to, and only then
            self.valkey = EmbeddedValkey(self.valkey.port, config={"dir": str(self.directory), "dbfilename": _DUMP})

    def address(self, place: str) -> tuple[str, int]:
        """Where a backend listens."""
        return HOST, self.ports[place]

    @property
    def notebook(self) -> Notes:
        """What they write down."""
        return Notes(self.notes)

    def forget(self) -> None:
        """Of a Redis that has ended nothing is left."""
        (self.directory / _DUMP).unlink(missing_ok=True)

    @property
    def notes(self) -> Path:
        """The directory of what the servers write down."""
        return self.directory / "notes"

    def seed(self) -> None:
        """Set Django up in this process, and make the tables."""
        self.notes.mkdir()
        self.env["CONTRACT_NOTES"] = str(self.notes)
        os.environ.update(self.env)
        django.setup()
        call_command("migrate", verbosity=0, interactive=False)
