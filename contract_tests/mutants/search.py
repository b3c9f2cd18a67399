"""The search for a clause that breaks: the suite's own machine, model and rules. The first life that fails ends it.

Nothing is made smaller here: that a mutant was found is all that is asked.
"""

from collections.abc import Sequence
from typing import Any, Final

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.reporting import with_reporter
from hypothesis.stateful import run_state_machine_as_test

from contract_tests.driver import Driver
from contract_tests.drivers import DRIVERS
from contract_tests.machine import Basics
from contract_tests.machines import machine_for
from contract_tests.model import Broken
from contract_tests.mutants.mutant import Step
from contract_tests.mutants.order import Order
from contract_tests.project.servers import ContractServers
from contract_tests.replay import test_of

PATIENCE: Final = 6.0  # seconds until what must come is missed: the control shows that it is enough


def search(order: Order, servers: ContractServers) -> dict[str, Any]:
    """Live lives until one fails, or all have been lived.

    Returns:
        `clause` and `text` of what broke (no clause: the suite itself failed), `lives` and `steps`,
        `program`: the life that failed, as a test.
    """
    driver = _hasty(DRIVERS[order.driver])(servers, servers.notebook)
    driver.begin()
    machine = machine_for(driver)
    for start in order.starts():
        if not driver.has_failed:
            _live(driver, machine, start)
    if not driver.has_failed:
        _search(order, driver, machine)
    failure = driver.failure
    error = None if failure is None else failure.error
    return {
        "clause": error.clause if isinstance(error, Broken) else "",
        "text": "" if error is None else f"{type(error).__name__}: {error}",
        "lives": driver.lives,
        "steps": driver.steps,
        "program": "" if failure is None else test_of(order.driver, failure.program),
    }


def _hasty(kind: type[Driver]) -> type[Driver]:
    return type(kind.__name__, (kind,), {"patience": property(lambda _: PATIENCE)})


def _live(driver: Driver, machine: type[Basics], start: Sequence[Step]) -> None:
    life = machine()
    try:
        for name, arguments in start:
            getattr(life, name)(**arguments)
    except Exception:
        if not driver.has_failed:
            raise
    finally:
        try:
            life.teardown()
        except Exception:
            if not driver.has_failed:
                raise


def _search(order: Order, driver: Driver, machine: type[Basics]) -> None:
    def stop() -> None:
        driver.shrinks_until = 0.0  # from a failure on, lives do nothing

    driver.on_life = stop
    seed(order.seed)(machine)
    chosen = settings(
        max_examples=order.examples,
        stateful_step_count=order.steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
    )
    try:
        with with_reporter(_nothing):
            run_state_machine_as_test(machine, settings=chosen)
    except Exception:
        if not driver.has_failed:
            raise


def _nothing(_: object) -> None:
    """Hypothesis's own report."""
