"""The clauses of the contract, by number."""

from typing import Final

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

ELSEWHERE: Final[dict[str, str]] = {
    "8.2": "that flips arrive is looked at with a deadline, the 250 ms are a measurement",
}
"""Clauses that the state machine does not look at, or not at all of them, and why: hand-written tests do."""
