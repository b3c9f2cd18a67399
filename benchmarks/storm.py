"""11: a storm of handshakes.

What is measured: CPU seconds of the one worker for each handshake with a session, so with the session and the user read
from the database, while thirty-two come at a time; and for each that is refused because too many are coming.

Why it is fair: the same users, sessions and database for all; the peer is the stock consumer in `AuthMiddlewareStack`.
The refused come to a server of ours that admits one connection in ten seconds. The stock server refuses nobody.
"""

from collections.abc import Iterator
from typing import Final

from benchmarks.crowd import Crowd, knock
from benchmarks.field import CHANNELS, LEGACY, OURS, STOCK, field
from benchmarks.people import signed_in
from benchmarks.process import Server
from benchmarks.result import Bound, Result
from benchmarks.world import World

PEOPLE: Final = 400
AT_ONCE: Final = 32
ROUNDS: Final = 3
SHUT: Final = {"REALTIME_PACE": {"admissions": 0.1, "admission_burst": 1.0}}
NAMES: Final = (
    "11 handshakes, channels",
    "11 handshakes, legacy",
    "11 a refused handshake, channels",
    "11 a refused handshake, legacy",
)


def measures(world: World) -> Iterator[Result]:
    """The results."""
    rounds = world.rounds(ROUNDS)
    cookies = [cookie for _, cookie in signed_in(PEOPLE)]
    rates: dict[str, list[float]] = {name: [] for name in (CHANNELS, LEGACY, STOCK)}
    with field(world, rates) as servers, world.step("handshakes", (rounds + 1) * len(rates)) as advance:
        for turn in range(rounds + 1):
            for name, found in rates.items():
                spent = _spent(servers[name], cookies, 101)
                if turn:  # the first one opens the database, and compiles queries
                    found.append(PEOPLE / spent)
                advance()
    refusals: dict[str, float] = {}
    with field(world, OURS, settings=dict.fromkeys(OURS, SHUT)) as servers:
        for name in OURS:
            with Crowd(servers[name].port, ["/ws/bench"], on_open=lambda: None):  # the one that is admitted
                refusals[name] = _spent(servers[name], cookies, 503) / PEOPLE
    for name in OURS:
        yield world.result(
            f"11 handshakes, {name}", "1 / CPU s", rates, name, (STOCK,), None, (Bound("peer", ">=", 1.5),)
        )
    for name in OURS:
        accepted = 1 / sorted(rates[name])[len(rates[name]) // 2]
        yield Result(
            f"11 a refused handshake, {name}",
            "ms of CPU",
            refusals[name] * 1000,
            None,
            accepted * 1000,
            (Bound("floor", "<=", 1 / 20),),
            {"accepted": accepted * 1000, "refused": refusals[name] * 1000},
        )


def _spent(server: Server, cookies: list[str], status: int) -> float:
    before = server.cpu()
    with server.blamed():
        knock(server.port, "/ws/bench", cookies, AT_ONCE, status)
    return server.cpu() - before
