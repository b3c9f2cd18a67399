"""The errors of the client. Whose fault, the value, the remedy.

```
ClientError
├── DiscoveryError     the endpoint did not say where to connect: wrong address, not ours, or down
├── HandshakeRefused   a backend answered the WebSocket handshake with an HTTP status            (contract 1.1)
├── ConnectionClosed   the connection is over, and its close code says to stay away              (contract, close codes)
├── NotConnected       there is no connection just now, or none in time
└── SendRefused        the server did not take a message of ours                                 (contract 6.3)
```
"""

from shim.core.errors import RealtimeError, shown


class ClientError(RealtimeError):
    """Base class of what the client raises on purpose."""


class DiscoveryError(ClientError):
    """The discovery endpoint did not say where to connect.

    Attributes:
        url: what was asked. status: the HTTP status, None when there was no answer. body: its beginning.
        retry_after: the `Retry-After` header as it came, if any.
        foreign: what answered is not a discovery endpoint at all.
    """

    def __init__(
        self,
        reason: str,
        *,
        url: str,
        status: int | None = None,
        body: str = "",
        retry_after: str | None = None,
        foreign: bool = False,
    ) -> None:
        answered = "" if status is None else f" answered HTTP {status} {shown(body)}"
        super().__init__(f"{url}{answered}: {reason}")
        self.url = url
        self.status = status
        self.body = body
        self.retry_after = retry_after
        self.foreign = foreign


class HandshakeRefused(ClientError):
    """A backend refused the WebSocket handshake in a way that trying again cannot mend (contract 1.1).

    Attributes:
        status: the HTTP status. reason: the text that came with it. url: what was asked.
    """

    def __init__(self, status: int, reason: str, *, url: str) -> None:
        super().__init__(f"{url} refused the WebSocket handshake with HTTP {status}: {shown(reason)}")
        self.status = status
        self.reason = reason
        self.url = url


class ConnectionClosed(ClientError):
    """The connection is over and the client stays away (contract, close codes).

    Attributes:
        code: the close code. reason: the text that came with it.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code} {shown(reason)}; this code means: stay away")
        self.code = code
        self.reason = reason


class NotConnected(ClientError):
    """There is no connection just now, or there was none within the time given.

    From `send`, when it happens while an `ack` is awaited: the message may or may not have been taken.
    """


class SendRefused(ClientError):
    """The server answered a message with an `error` frame (contract 6.3).

    Attributes:
        code: the server's word for it. reason: the server's sentence.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"not taken: {code}: {reason}")
        self.code = code
        self.reason = reason
