"""What the doctor says: one finding for each thing that is left to do, or to know."""

from dataclasses import dataclass
from typing import Final, Literal

type Level = Literal["error", "warning", "note"]

LEVELS: Final[tuple[Level, ...]] = ("error", "warning", "note")
"""From what must be mended before anything works, to what is only to be known."""

CHECKS: Final = "docs/reference/checks.md"
DEPLOY: Final = "docs/how-to/deploy.md"
DOCTOR: Final = "docs/reference/doctor.md"
GUIDE: Final = "docs/how-to/from-ws4redis.md"
SETTINGS: Final = "docs/reference/settings.md"
WIRE: Final = "docs/reference/wire.md"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is left to do, or to know.

    Attributes:
        level: see `LEVELS`. id: of the system check, or of the doctor's own.
        what: a sentence with the value. why: what comes of it. remedy: what to do. doc: the page that says more.
    """

    level: Level
    id: str
    what: str
    why: str
    remedy: str
    doc: str


def found(level: Level, id: str, what: str, why: str, remedy: str, doc: str = DOCTOR) -> Finding:
    """A finding of the doctor's own; its `id` is listed in docs/reference/doctor.md."""
    return Finding(level, f"realtime.{id}", what, why, remedy, doc)
