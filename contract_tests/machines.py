"""The whole machines: which rules go with which driver."""

from contract_tests.app.notes import Notes
from contract_tests.drivers import DRIVERS, Driver
from contract_tests.flips import Flips
from contract_tests.machine import Basics
from contract_tests.misbehaviour import Misbehaviour
from contract_tests.outages import Outages
from contract_tests.project.servers import ContractServers


class Machine(Misbehaviour, Outages):
    """Every rule of a single backend."""


class FlippingMachine(Machine, Flips):
    """And the flag's, where there are two."""


def driver_on(name: str, servers: ContractServers) -> Driver:
    """A driver on servers that have been started."""
    driver = DRIVERS[name](servers, Notes(servers.notes))
    driver.begin()
    return driver


def machine_for(driver: Driver) -> type[Basics]:
    """The machine of a driver."""
    base = FlippingMachine if driver.flips else Machine
    return type(base.__name__, (base,), {"driver": driver})
