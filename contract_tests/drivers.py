"""The drivers, by name. A third backend gets the whole suite by writing one more, which is named by its dotted path.

A driver says its `name`, its `places` and, where there are two, `flips`. Where its servers are not started by
`ContractServers`, or are none, it overrides how they are reached: see `Memory`. What cannot exist on a backend is
declared (`missing`) with the reason, and `contract_tests.machines` leaves out the rules that need it.
"""

from importlib import import_module
from typing import Final

from contract_tests.driver import Driver
from contract_tests.memory import Memory


class Legacy(Driver):
    """Everybody on uWSGI."""

    name = "legacy"
    places = ("legacy",)


class Channels(Driver):
    """Everybody on gunicorn with uvicorn; the flag says so too."""

    name = "channels"
    places = ("channels",)
    everyone = True


class Mixed(Driver):
    """The same topics shared by connections on both, with flips in the middle."""

    name = "mixed"
    places = ("legacy", "channels")
    flips = True


DRIVERS: Final[dict[str, type[Driver]]] = {kind.name: kind for kind in (Legacy, Channels, Mixed, Memory)}


def driver_named(name: str) -> type[Driver]:
    """The driver of a name, or of a dotted path such as `mysite.contract.Mine`.

    Raises:
        LookupError: there is none. What the module itself raises is raised here, too.
    """
    if name in DRIVERS:
        return DRIVERS[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        raise LookupError(f"there is no driver {name}: {', '.join(DRIVERS)}, or the dotted path of a class")
    try:
        found = getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        found = None
    if not (isinstance(found, type) and issubclass(found, Driver)):
        raise LookupError(f"{name} is no class that inherits contract_tests.driver.Driver, or cannot be imported")
    return found
