"""The whole machines: which rules go with which driver."""

from contract_tests.acts import Acts
from contract_tests.app.notes import Notes
from contract_tests.driver import Driver
from contract_tests.drivers import DRIVERS
from contract_tests.flips import Flips
from contract_tests.frames import Frames
from contract_tests.machine import Basics
from contract_tests.misbehaviour import Misbehaviour
from contract_tests.project.servers import ContractServers


def driver_on(name: str, servers: ContractServers) -> Driver:
    """A driver on servers that have been started."""
    driver = DRIVERS[name](servers, Notes(servers.notes))
    driver.begin()
    return driver


def machine_for(driver: Driver) -> type[Acts]:
    """The machine of a driver: every rule that its backends can have."""
    rules: list[type[Basics]] = [Misbehaviour, Acts]
    if driver.has_frames:
        rules.append(Frames)
    if driver.flips:
        rules.append(Flips)
    made: type[Acts] = type("Machine", tuple(rules), {"driver": driver})
    return made
