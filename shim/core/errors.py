"""The errors that applications see. Whose fault, the value, the remedy.

```
RealtimeError
├── InvalidAudience      the caller's fault: a facility or audience name that cannot be carried   (contract 4.2)
├── InvalidPayload       the caller's fault: a value that cannot be carried                       (contract 4.2)
├── MessageTooLarge      the caller's fault: over MAX_MESSAGE_BYTES                                (contract 4.2)
├── PublishingClosed     a client sent to a facility that takes nothing from clients               (contract 1.3)
├── WireError            a record on Redis that this version cannot read
└── RealtimeUnavailable  nobody's fault: Redis did not answer in time                              (contract 7.3)
```
"""

from typing import Final

SHOWN: Final = 80  # characters of an offending value that an error shows


def shown(value: object) -> str:
    """The `repr` of a value, cut to a length that suits a log line."""
    if isinstance(value, (str, bytes)) and len(value) > SHOWN:
        return f"{value[:SHOWN]!r}… ({len(value)} long)"
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  # an object that cannot even be shown must not hide the error about it
        text = f"<{type(value).__name__} whose repr() raised {type(error).__name__}>"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} long)"


class RealtimeError(Exception):
    """Base class of every error that realtime shim raises on purpose."""


class InvalidAudience(RealtimeError, ValueError):
    """A facility or audience name cannot be carried; nothing was sent (contract 4.2)."""


class InvalidPayload(RealtimeError, ValueError):
    """A message cannot be carried; nothing was sent (contract 4.2). Or a connection's state; it is as before."""


class MessageTooLarge(RealtimeError, ValueError):
    """A message is over `REALTIME_MAX_MESSAGE_BYTES`; nothing was sent (contract 4.2)."""


class PublishingClosed(RealtimeError):
    """A client sent something to a facility that takes nothing from clients (contract 1.3)."""


class WireError(RealtimeError):
    """A record found on Redis is not one that this version of realtime shim can read."""


class RealtimeUnavailable(RealtimeError):
    """Redis could not be reached, or did not answer, within the time-out (contract 7.3).

    The message may or may not have been sent: a time-out cannot tell. It is never retried here,
    because a retry could send it twice (contract 3.1).
    """
