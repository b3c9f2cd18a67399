"""The whole machines: which rules go with which driver."""

from typing import Any

from contract_tests.acts import Acts
from contract_tests.driver import Driver
from contract_tests.drivers import driver_named
from contract_tests.flips import Flips
from contract_tests.frames import Frames
from contract_tests.machine import Basics
from contract_tests.misbehaviour import Misbehaviour
from contract_tests.outages import Outages
from contract_tests.project.servers import ContractServers


def driver_on(name: str, servers: ContractServers) -> Driver:
    """A driver on servers that have been started."""
    driver = driver_named(name)(servers, servers.notebook)
    driver.begin()
    return driver


def machine_for(driver: Driver) -> type[Any]:
    """The machine of a driver: every rule that its backends can have, and that its servers may suffer."""
    rules: list[type[Basics]] = [Misbehaviour, Acts if driver.servers.are_ours else Outages]
    if "frames on a wire" not in driver.missing:
        rules.append(Frames)
    if driver.flips:
        rules.append(Flips)
    return type("Machine", tuple(rules), {"driver": driver})
