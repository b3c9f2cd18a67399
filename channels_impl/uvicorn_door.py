"""uvicorn's door: who is refused because too many are coming is refused before anything is made (contract 1.1).

Theory of operation. In a storm most handshakes are refused, and each of them comes back. Before uvicorn asks an
application, it has made an HTTP parser, a scope, a WebSocket parser, a queue and a task, and has read the head twice.
So while nobody would be let in (a look at the process's `Node`, nothing else), this reads the head itself. It knows one
form of it: the plain handshake of a browser or a client library, whole and in one piece. Whatever else comes, and
whatever comes while there is room, is handed to uvicorn's own protocol as if it had come there.

The rules are those of everybody, in their order: `shim.door.look` says what is wrong, and a head that a parser would
find fault with is not plain, so the parser does. Without this class (`uvicorn` alone) the same are refused with the
same words, later.
"""

import asyncio
import logging
import re
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.server import ServerState

from channels_impl.process import running
from shim.conf import conf
from shim.core.node import Refusal
from shim.door import Handshake, look

logger = logging.getLogger("uvicorn.error")

MAX_HEAD: Final = 8_192
"""Bytes of a head that is looked at here; parsers have limits of their own."""

_HEAD: Final = re.compile(rb"GET (/[!-~]*) HTTP/1\.1\r\n((?:[A-Za-z0-9-]+:[ -~]*\r\n)+)\r\n")
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")
_SUBPROTOCOLS: Final = re.compile(r"[A-Za-z0-9._-]+(?:, ?[A-Za-z0-9._-]+)*")
_NOT_PLAIN: Final = frozenset(("content-length", "transfer-encoding", "sec-websocket-extensions", "expect"))
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class RealtimeDoor(asyncio.Protocol):
    """A connection until its first bytes; uvicorn makes it, with the arguments of its own HTTP protocols."""

    __slots__ = ("_app_state", "_config", "_loop", "_state", "_transport")

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._state = server_state
        self._app_state = app_state
        self._loop = _loop
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody is there."""
        self._transport = cast("asyncio.Transport", transport)
        self._state.connections.add(cast("Any", self))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio calls it so
        """They have left, or were refused."""
        self._state.connections.discard(cast("Any", self))
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Refuse who cannot come in, or hand the connection to uvicorn."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        refusal = _refused(data)
        if refusal is not None:
            if logger.isEnabledFor(logging.INFO):  # as uvicorn logs handshakes
                logger.info(
                    '%s - "WebSocket" %d %s', transport.get_extra_info("peername"), refusal.status, refusal.reason
                )
            transport.write(_answer(refusal))
            transport.close()
            return
        self._state.connections.discard(cast("Any", self))
        inside: Any = AutoHTTPProtocol  # typed as any protocol's class
        protocol = inside(config=self._config, server_state=self._state, app_state=self._app_state, _loop=self._loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)

    def shutdown(self) -> None:
        """The server stops: whoever has said nothing yet is not waited for."""
        if self._transport is not None:
            self._transport.close()


def _refused(data: bytes) -> Refusal | None:
    """Why a plain handshake cannot come in just now; None for all others."""
    served, now = running(), time.monotonic()
    if served is None or served.node.has_room(now):
        return None
    handshake = _plain(data)
    if handshake is None or not handshake.path.startswith(conf().ws_path):
        return None
    found = look(handshake, served.node, conf(), now)
    return found if isinstance(found, Refusal) else None


def _plain(data: bytes) -> Handshake | None:
    """The handshake that is the whole of these bytes, if no parser could find fault with it."""
    head = _HEAD.fullmatch(data) if len(data) <= MAX_HEAD else None
    if head is None:
        return None
    path, _, query = head[1].decode().partition("?")
    lines = head[2].decode().split("\r\n")
    headers: dict[str, str] = {}
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    is_plain = (
        "%" not in path
        and "#" not in path
        and len(headers) == len(lines) - 1  # each once
        and headers.get("sec-websocket-version") == "13"
        and _KEY.fullmatch(headers.get("sec-websocket-key", ""))
        and _SUBPROTOCOLS.fullmatch(headers.get("sec-websocket-protocol", "none"))
        and _NOT_PLAIN.isdisjoint(headers)
    )
    headers.pop("cookie", None)  # `look` does not read them
    return Handshake(path, query, headers) if is_plain else None


def _answer(refusal: Refusal) -> bytes:
    body = refusal.reason.encode()
    lines = [
        f"HTTP/1.1 {refusal.status} {_REASONS[refusal.status]}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in refusal.headers()),
        f"Date: {formatdate(usegmt=True)}",
        "Connection: close",
        "\r\n",
    ]
    return "\r\n".join(lines).encode("latin-1") + body
