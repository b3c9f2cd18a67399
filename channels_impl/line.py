"""What ASGI does not offer of a connection, and the contract needs: an extension that our uvicorn protocol provides.

Under another server there is none. Then the server pings by its own rules, says 1011 where the contract says 4002, and
holds a client that takes nothing any more until TCP gives up.
"""

from collections.abc import Mapping
from typing import Any, Final, cast
from typing import Protocol as Interface

EXTENSION: Final = "realtime.line"
"""In the scope's `extensions`: `{"line": Line}`."""


class Line(Interface):
    """The bytes below one connection. For use in its event loop alone; nothing blocks.

    Attributes:
        last_heard: monotonic time of the last bytes that came, of whatever frame.
    """

    @property
    def last_heard(self) -> float:
        """See above."""

    def take_over(self) -> None:
        """From now on the application says when to ping, and what silence means: the server does not."""

    def write(self, frame: bytes) -> bool:
        """Send a ready frame, unmasked and with its header, after all that was sent before.

        Returns:
            False: nothing was sent, because the socket is full or the connection ends. The ASGI send waits, or raises.
        """

    def ping(self) -> None:
        """Ask for a sign of life; `last_heard` shows it."""

    def cut(self) -> None:
        """End the connection now, with what the kernel still holds for it."""


def line_of(scope: Mapping[str, Any]) -> Line | None:
    """The line below a connection, None where the server offers none."""
    extension = (scope.get("extensions") or {}).get(EXTENSION)
    return cast("Line", extension["line"]) if extension else None
