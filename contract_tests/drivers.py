"""The drivers, by name. A third backend gets the whole suite by writing one more, and adding it to `DRIVERS`.

A driver says its `name`, its `places` and, where there are two, `flips`. Where its servers are not started by
`ContractServers`, or are none, it overrides how they are reached: see `Memory`. What cannot exist on a backend is
declared (`has_…`) with the reason, and `contract_tests.machines` leaves out the rules that need it.
"""

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
