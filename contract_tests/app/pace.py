"""The pace at which servers have to work for the suite: `REALTIME_PACE = PACE`. Imports nothing, so settings may."""

from typing import Final

# A flip's moves take a moment instead of a minute; nobody is refused, because hundreds come in each second; and who
# comes to the wrong address stays until the flag says something (contract 1.4 is another test's).
PACE: Final[dict[str, float | None]] = {
    "admissions": 100_000.0,
    "admission_burst": 100_000.0,
    "fleet_moves": None,
    "moves": 10_000.0,
    "move_least": 0.05,
    "move_most": 0.2,
    "arrival": 3_600.0,
    "arrival_spread": 0.0,
    "drain": 1.0,
}
