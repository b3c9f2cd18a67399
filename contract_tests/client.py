"""A client as this suite sees it: it says bytes, and tells what it saw."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from contract_tests.wire import BINARY, TEXT, Head, ServerFault

SUBPROTOCOL: Final = "realtime.v1"


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that a client got: `op` is `msg`, `pong`, `closed` or another op of realtime.v1.

    Attributes:
        kind, value: of a `msg` (raw cannot tell JSON from text: `text`). code: of `closed`; None without a close frame.
        fields: a v1 frame as it came.
    """

    op: str
    kind: str = ""
    value: Any = None
    code: int | None = None
    fields: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        shown = self.fields if self.fields is not None else (self.kind, self.value)
        if self.op == "closed":
            shown = ("close code", self.code)
        text = f"{self.op} {shown!r}"
        return text if len(text) < 300 else f"{text[:300]}… ({len(text)} long)"

    @classmethod
    def message(cls, v1: bool, opcode: int, payload: bytes) -> "Seen":
        """What a server's message says, in one of the two protocols.

        Raises:
            ServerFault: something that the protocol has not.
        """
        if not v1:
            if opcode == BINARY:
                return cls("msg", "binary", payload)
            return cls("msg", "text", _utf8(payload))
        if opcode != TEXT:
            raise ServerFault(f"realtime.v1 has text frames only: {payload[:80]!r}")
        try:
            fields = json.loads(_utf8(payload))
            return cls(fields["op"], fields=fields)
        except (ValueError, TypeError, KeyError):
            raise ServerFault(f"not a frame of realtime.v1: {payload[:80]!r}") from None


class Client(Protocol):
    """One connection to a system under test: first `open`, then `pump` as often as wanted.

    A system that is reached by sockets has `contract_tests.sockets.SocketClient`, and needs nothing else.

    Attributes:
        v1: which of the two protocols. over: it has ended, and was seen to end.
    """

    v1: bool
    over: bool

    def open(self, timeout: float) -> tuple[Head, list[Seen]]:
        """Wait for the answer: its head (with the body of a refusal), and what came right behind it.

        Raises:
            ServerFault: not an answer to a handshake. OSError: none in time, or nobody is there.
        """

    def pump(self) -> list[Seen]:
        """What has come by now; pings are answered. Never waits."""

    def wait(self, timeout: float = 1.0) -> None:
        """Wait until there is something to `pump`, at most so many seconds."""

    def say(self, opcode: int, payload: bytes) -> None:
        """Send a message, whole; a server that has gone is no error: what it said comes with `pump`."""

    def leave(self, code: int | None) -> None:
        """Close it politely: a close frame with a code; None: without one."""

    def stall(self) -> None:
        """Read nothing more, and answer nothing."""

    def end(self, *, abrupt: bool = False) -> None:
        """Let it go; `abrupt` breaks the line so that the server notices at once. Idempotent."""


def _utf8(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise ServerFault(f"a text frame that is not UTF-8: {payload[:80]!r}") from None
