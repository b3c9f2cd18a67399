"""One driver's run, in a process of its own: `python -m contract_tests.run '{"driver": "legacy", …}'`.

What it has to say are JSON objects, one a line: how far it is, what failed, what it found in the end.
"""

import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.reporting import with_reporter
from hypothesis.stateful import run_state_machine_as_test

from contract_tests.drivers import driver_named
from contract_tests.running import RunningServers

LONG: Final = 20  # steps; Hypothesis makes some lives shorter, which do not count as examples
ROUND: Final = 200  # examples of one search: longer ones repeat themselves, and remember too much
TOLD_EVERY: Final = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done.

    Attributes:
        driver: its name. examples, steps: so many lives of so many steps (`LONG` will do). seed: of chance.
        acts: so often what takes seconds is done, see `contract_tests.acts`.
        directory: for servers' files. database: of examples that failed, to begin with; None remembers nothing.
        redis_url: None starts a Valkey. running: on servers that run already: see `contract_tests.running`.
    """

    driver: str
    examples: int
    steps: int
    acts: int
    seed: int
    directory: str
    database: str | None = None
    redis_url: str | None = None
    running: bool = False


def run(order: Order) -> bool:
    """Carry out an order; whether the contract held."""
    kind, directory = driver_named(order.driver), Path(order.directory)
    with (
        RunningServers(directory, kind.places)
        if order.running
        else kind.servers_in(directory, order.redis_url) as servers
    ):
        from contract_tests.acts import play  # noqa: PLC0415  # they need Django to be set up
        from contract_tests.machines import driver_on, machine_for  # noqa: PLC0415
        from contract_tests.model import Broken  # noqa: PLC0415
        from contract_tests.replay import test_of  # noqa: PLC0415
        from contract_tests.tour import go  # noqa: PLC0415

        driver = driver_on(order.driver, servers)
        teller = _Teller()
        driver.on_life = lambda: teller.progress(driver.examples, driver.steps)
        driver.least = min(LONG, order.steps)
        machine = machine_for(driver)
        steady = [partial(go, machine)]
        if servers.are_ours:
            steady += [partial(play, driver, machine, order.seed + number) for number in range(order.acts)]
        number = 0
        while driver.examples < order.examples >= number and not driver.has_failed:
            seed(order.seed + number)(machine)
            try:
                with with_reporter(_nothing):
                    run_state_machine_as_test(machine, settings=_settings(order, order.examples - driver.examples))
            except Exception:
                if not driver.has_failed:
                    raise
            number += 1
        for each in steady:
            if not driver.has_failed:
                try:
                    each()
                except Exception:
                    if not driver.has_failed:
                        raise
        if (failure := driver.failure) is not None:
            broken = failure.error
            teller.say(
                failure={
                    "clause": broken.clause if isinstance(broken, Broken) else "",
                    "text": f"{type(broken).__name__}: {broken}" if not isinstance(broken, Broken) else str(broken),
                    "program": test_of(order.driver, failure.program),
                    "logs": str(servers.directory),
                }
            )
        teller.say(lives=driver.examples, steps=driver.steps)
        teller.say(done={"held": dict(driver.held)})
        return driver.failure is None


class _Teller:
    """Says things on the standard output, progress not too often."""

    def __init__(self) -> None:
        self._next = 0.0

    def progress(self, lives: int, steps: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + TOLD_EVERY
            self.say(lives=lives, steps=steps)

    def say(self, **what: Any) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


def _settings(order: Order, left: int) -> settings:
    return settings(
        max_examples=min(left, ROUND),
        stateful_step_count=order.steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.reuse, Phase.generate, Phase.shrink],
        # one for each: lives of one driver mean nothing to another, whose machine has other rules and the same name
        database=DirectoryBasedExampleDatabase(Path(order.database) / order.driver) if order.database else None,
        verbosity=Verbosity.normal,
        print_blob=False,
        report_multiple_bugs=False,
    )


def _nothing(_: object) -> None:
    """Hypothesis's own report: ours says more."""


if __name__ == "__main__":
    sys.exit(0 if run(Order(**json.loads(sys.argv[1]))) else 1)
