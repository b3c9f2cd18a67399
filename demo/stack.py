"""The whole system on one machine, as it runs in earnest: see `contract_tests.servers`. Tests use this too."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from contract_tests.part import Part, StackError
from contract_tests.servers import BACKENDS, CHANNELS, HOST, LEGACY, START_TIMEOUT, Servers
from shim.bus.embedded import EmbeddedValkey

__all__ = ["BACKENDS", "CHANNELS", "HOST", "LEGACY", "ROOT", "Stack"]

ROOT: Final = Path(__file__).resolve().parent.parent


class Stack(Servers):
    """Servers with the demo's applications, database and people.

    Args:
        directory: where database and logs go; None is `var/demo-<port_base>`.
        port_base, redis_url, env: as for `Servers`.
        redis_config: more of the embedded Valkey's configuration; what it keeps on disk goes to `directory`.
    """

    settings: ClassVar[str] = "settings.demo"
    wsgi: ClassVar[str] = "demo.wsgi"
    asgi: ClassVar[str] = "demo.asgi:application"
    root: ClassVar[Path] = ROOT
    facility: ClassVar[str] = "lobby"

    def __init__(
        self,
        port_base: int = 8000,
        *,
        redis_url: str | None = None,
        directory: Path | None = None,
        env: Mapping[str, str] | None = None,
        redis_config: Mapping[str, str] | None = None,
    ) -> None:
        directory = directory or ROOT / "var" / f"demo-{port_base}"
        super().__init__(port_base, directory=directory, redis_url=redis_url, env=env)
        if self.valkey is not None and redis_config:
            self.valkey = EmbeddedValkey(self.valkey.port, config={"dir": str(directory), **redis_config})

    def ready(self) -> dict[str, Any]:
        """What `make serve` says in its READY line."""
        return {"http": self.http, "ws": self.ws, "redis": self.redis_url, "env": self.env}

    def seed(self) -> None:
        """Database, people and flag; done by another process, so that whoever starts a stack needs no Django."""
        log = self.directory / "seed.log"
        seed = Part("seed", [sys.executable, "manage.py", "demo_seed"], env=self.process_env, cwd=ROOT, log=log)
        try:
            seed.start()
            done = seed.wait(START_TIMEOUT)
        finally:
            seed.stop(0.0)
        said = seed.tail()
        if not done:
            raise StackError(f"The database was not ready within {START_TIMEOUT:g} s; see {log}.")
        if not said.endswith("seeded"):
            raise StackError(f"The database could not be made: {_reason(said)} (all of it: {log})")


def _reason(said: str) -> str:
    """What a program said at its end: of a traceback, what follows the last line of code."""
    lines = said.splitlines()
    code = [n for n, line in enumerate(lines) if line.startswith("  ")]
    return "\n".join(lines[code[-1] + 1 :] if code else lines).strip() or said
