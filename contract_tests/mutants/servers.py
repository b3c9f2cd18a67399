"""The suite's servers with a mistake in them."""

from pathlib import Path
from typing import ClassVar

from contract_tests.drivers import DRIVERS
from contract_tests.mutants.order import Order
from contract_tests.project.servers import ContractServers


class WrongServers(ContractServers):
    """`CONTRACT_MUTANT` of this process's environment says which mistake; see `contract_tests.mutants.loading`."""

    wsgi: ClassVar[str] = "contract_tests.mutants.wsgi"

    def _gunicorn(self) -> list[str]:
        command = super()._gunicorn()
        command[command.index("channels_impl.worker.RealtimeWorker")] = "contract_tests.mutants.worker.RealtimeWorker"
        return command


def wrong_servers(order: Order) -> ContractServers:
    """What an order needs to run; without a mutant it makes no mistake. In memory this very process makes it."""
    servers = DRIVERS[order.driver].servers_in(Path(order.directory), order.redis_url)
    if not servers.backends:
        return servers
    return WrongServers(
        servers.port_base, directory=servers.directory, redis_url=order.redis_url, backends=servers.backends
    )
