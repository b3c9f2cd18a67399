"""The clauses of the contract, by number."""

from typing import Final, NamedTuple

CLAUSES: Final[dict[str, str]] = {
    "1.1": "refused before it is accepted, with the same status and reason",
    "1.2": "who the user is",
    "1.3": "what a connection listens to is the server's decision",
    "1.4": "the wrong backend accepts, and moves",
    "2.1": "everything after the handshake is delivered",
    "3.1": "exactly once",
    "3.2": "in order",
    "3.3": "nobody else",
    "3.4": "publishing does not depend on the backend",
    "4.1": "kind and value as sent",
    "4.2": "what cannot be carried is refused at the call",
    "4.3": "publishing on commit",
    "5.1": "history",
    "5.2": "raw: the last message, once",
    "5.3": "v1: all that was missed, or nothing of it",
    "6.1": "one at a time, in order, kind kept",
    "6.2": "a handler that raises closes its connection only",
    "6.3": "close codes of the client's faults",
    "6.4": "disconnected() exactly once",
    "6.5": "the echo rule",
    "7.1": "heartbeats",
    "7.2": "a slow client is closed, nobody waits for it",
    "7.3": "Redis gone: connections stay, publishing raises in time",
    "7.4": "Redis back: no gap, no duplicate",
    "7.5": "signing out ends connections everywhere",
    "8.1": "cohorts are a pure function",
    "8.2": "a flip reaches every process",
    "8.3": "v1 moves lose nothing",
    "8.4": "raw moves",
    "8.5": "moves are paced",
    "8.6": "rollback is one change of the flag",
    "9.1": "stopping",
}


class Elsewhere(NamedTuple):
    """A part of a clause that the state machine does not look at, and a test that does."""

    what: str
    test: str


ELSEWHERE: Final[dict[str, Elsewhere]] = {
    "1.1": Elsewhere("too many at once", "tests/integration/contract/test_opening.py::test_too_many_at_once"),
    "3.4": Elsewhere("the same bytes", "tests/bus/test_bus.py::test_both_put_the_same_bytes_on_redis"),
    "6.2": Elsewhere(
        "what is logged", "tests/shim/test_handlers.py::test_failed_is_logged_once_with_all_that_tells_whose_it_is"
    ),
    "7.2": Elsewhere("memory", "tests/integration/contract/test_slow.py::test_a_slow_client"),
    "8.1": Elsewhere("who is removed first", "tests/core/test_cohorts.py::test_lowering_removes_the_last_added"),
    "8.2": Elsewhere(
        "from the database alone", "tests/integration/contract/test_moves.py::test_a_change_that_nobody_tells"
    ),
    "8.4": Elsewhere("the cookie", "tests/deploy/test_nginx.py::test_flips_and_rollback"),
    "8.5": Elsewhere(
        "the rates", "tests/integration/test_pacing.py::test_all_processes_together_keep_to_the_fleets_rate"
    ),
    "9.1": Elsewhere("readiness, and the spread", "tests/integration/test_shutdown.py::test_sigterm"),
}
"""By clause. Of all others the state machine looks at everything that a client can see."""

UNCITED: Final[dict[str, str]] = {}
"""Clauses that no test cites, and why not: none."""
