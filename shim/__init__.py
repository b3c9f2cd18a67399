"""realtime shim: one realtime (WebSocket) API for Django with two interchangeable backends.

Everything an application needs is importable from here; nothing here needs configured settings to be imported.
"""

from shim.api import Realtime, Receipt, realtime
from shim.core.errors import (
    InvalidAudience,
    InvalidPayload,
    MessageTooLarge,
    PublishingClosed,
    RealtimeError,
    RealtimeUnavailable,
)
from shim.core.history import History
from shim.core.message import Kind, Message
from shim.core.names import Audience, Everyone, Group, Session, User
from shim.core.wire import Position
from shim.facility import Facility
from shim.visitor import Connection

__version__ = "0.1.0"

__all__ = [
    "Audience",
    "Connection",
    "Everyone",
    "Facility",
    "Group",
    "History",
    "InvalidAudience",
    "InvalidPayload",
    "Kind",
    "Message",
    "MessageTooLarge",
    "Position",
    "PublishingClosed",
    "Realtime",
    "RealtimeError",
    "RealtimeUnavailable",
    "Receipt",
    "Session",
    "User",
    "__version__",
    "realtime",
]
