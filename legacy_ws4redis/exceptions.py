"""`ws4redis.exceptions`: names that application code may catch. Nothing raises them any more."""

from django.http import BadHeaderError


class WebSocketError(OSError):
    """An open WebSocket met a problem; now it ends with a close code (contract 6.3)."""


class FrameTooLargeException(WebSocketError):
    """A client's frame was too large; now the connection ends with 1009."""


class HandshakeError(BadHeaderError):
    """A handshake was wrong; now it is answered with 400 (contract 1.1)."""


class UpgradeRequiredError(HandshakeError):
    """A handshake asked for no WebSocket; now it is answered with 426 (contract 1.1)."""
