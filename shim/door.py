"""The door: who may come in. One set of rules, asked by both backends in the same order (contract 1).

`look` does no I/O at all, so that an overloaded process refuses before any session or database work; `identified`
reads the session and the database.
"""

import errno
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import DisallowedHost, PermissionDenied, TooManyFieldsSent
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, QueryDict, parse_cookie
from django.http.request import validate_host

from shim.backends import backend
from shim.complaints import Complaints
from shim.conf import Conf, conf
from shim.core.cohorts import CHANNELS, LEGACY
from shim.core.connection import Connection as CoreConnection
from shim.core.connection import Elsewhere
from shim.core.errors import RealtimeUnavailable, shown
from shim.core.limits import TextHeartbeat
from shim.core.member import Sink
from shim.core.names import Topic
from shim.core.node import Node, Refusal
from shim.core.protocol import TEXT_HEARTBEAT, Protocol
from shim.doorway import Crowded, doorway
from shim.facility import Facility, facility
from shim.visitor import Connection, Identity, identify

logger = logging.getLogger("realtime")

_complaints = Complaints()
_FULL: Final = (errno.EMFILE, errno.ENFILE)
_IN_DEBUG: Final = [".localhost", "127.0.0.1", "[::1]"]  # what Django allows in DEBUG without ALLOWED_HOSTS


@dataclass(frozen=True, slots=True)
class Handshake:
    """A request for a WebSocket, as either kind of server gives it.

    Args:
        path: decoded, with what the server strips from it (SCRIPT_NAME, root_path) in front.
        query: without the question mark.
        headers: names in lower case, values joined with a comma where there were several (`cookie`: a semicolon).
        secure: it came to this server by TLS.
        client: the address that it came from; a proxy's, where there is one.
    """

    path: str
    query: str
    headers: Mapping[str, str]
    secure: bool = False
    client: str = ""
    _cookies: list[Mapping[str, str]] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def cookies(self) -> Mapping[str, str]:
        """What the `Cookie` header says; read when it is asked for: who is refused at the door is not asked."""
        if not self._cookies:
            self._cookies.append(parse_cookie(self.headers.get("cookie", "")))
        return self._cookies[0]

    @property
    def subprotocols(self) -> list[str]:
        """What the client offers, in its order of preference."""
        return [part.strip() for part in self.headers.get("sec-websocket-protocol", "").split(",") if part.strip()]

    @property
    def is_upgrade(self) -> bool:
        """Whether the request asks for a WebSocket at all."""
        tokens = self.headers.get("connection", "").lower().split(",")
        return self.headers.get("upgrade", "").lower() == "websocket" and "upgrade" in map(str.strip, tokens)


def malformed(method: str, headers: Mapping[str, str]) -> Refusal | None:
    """Look at what the WebSocket parser of either backend does not see, or says in other words (contract 1.1).

    Args:
        method: GET, one hopes. headers: names in lower case.
    """
    if method != "GET":
        return Refusal(400, f"a WebSocket handshake is a GET request, not {shown(method)}")
    if "transfer-encoding" in headers or headers.get("content-length", "0").strip("0"):
        return Refusal(400, "a WebSocket handshake has no body")
    return None


def look(handshake: Handshake, node: Node, conf: Conf, now: float) -> Facility | Refusal:
    """Look at a handshake without doing any work for it (contract 1.1)."""
    if not handshake.is_upgrade:
        return NOT_AN_UPGRADE
    name = handshake.path.removeprefix(conf.ws_path)
    found = facility(name) if wants_websocket(handshake, conf) else None
    if found is None:
        return Refusal(404, f"there is no facility {shown(name)}")
    if (reason := _wrong_origin(handshake, conf)) is not None:
        return Refusal(403, reason)
    return node.admit(now) or found


NOT_AN_UPGRADE: Final = Refusal(426, "this address speaks WebSocket: send an Upgrade request")


def wants_websocket(handshake: Handshake, conf: Conf) -> bool:
    """Whether a request is for us: everything under `REALTIME_WS_PATH` is."""
    return handshake.path.startswith(conf.ws_path)


def _wrong_origin(handshake: Handshake, conf: Conf) -> str | None:
    origin = handshake.headers.get("origin")
    if origin is None:
        return None  # only browsers send it, and no page can make a browser leave it out
    try:
        host = urlsplit(origin).hostname
    except ValueError:
        host = None
    allowed = conf.origins
    if allowed is None:
        allowed = tuple(settings.ALLOWED_HOSTS) or (tuple(_IN_DEBUG) if settings.DEBUG else ())
    if host and validate_host(f"[{host}]" if ":" in host else host, allowed):
        return None
    return f"origin {shown(origin)} is not allowed: see REALTIME_ALLOWED_ORIGINS"


def identified(
    handshake: Handshake, found: Facility, backend: str, conf: Conf, known: Identity | None = None
) -> Connection | Refusal:
    """Find out who is there, and make the connection that the facility's handlers will see (contract 1.2).

    Reads the session store and the database, unless it is known; runs in a thread that may block.
    """
    try:
        query = QueryDict(handshake.query[:8_192])
    except TooManyFieldsSent:
        return Refusal(400, "too many arguments in the query: see DATA_UPLOAD_MAX_NUMBER_FIELDS")
    try:
        identity = known or _identity(handshake, found, conf)
    except PermissionDenied as denied:
        return Refusal(403, str(denied) or "the facility refused this connection")
    except Exception:
        logger.exception("cannot tell who is there: the session store or the database failed (%s)", found.name)
        return Refusal(503, "cannot tell who you are just now", 10)
    return Connection(
        id=secrets.token_urlsafe(12),
        facility=found.name,
        identity=identity,
        protocol=Protocol.chosen(handshake.subprotocols),
        backend=backend,
        query=query,
        headers=handshake.headers,
        cookies=handshake.cookies,
        max_message=conf.max_message,
        echo=found.echo or "echo" in query,
    )


def identified_together(everybody: Sequence[tuple[Handshake, Facility, str, Conf]]) -> list[Connection | Refusal]:
    """What `identified` says of each of them, with fewer queries.

    Raises:
        Exception: whatever the database raises.
    """
    from shim.crowd import identify_together  # noqa: PLC0415  # it needs the app registry

    cookies = [
        {} if _asks_who(found, conf) is not None else handshake.cookies for handshake, found, _, conf in everybody
    ]
    return [identified(*args, known) for args, known in zip(everybody, identify_together(cookies), strict=True)]


doorway.gather(identified, identified_together)


def _identity(handshake: Handshake, found: Facility, conf: Conf) -> Identity:
    ask = _asks_who(found, conf)
    return identify(handshake.cookies) if ask is None else ask(handshake)


def _asks_who(found: Facility, conf: Conf) -> Callable[[Handshake], Identity] | None:
    """How a facility finds out by itself who is there; most do not."""
    if conf.ws4redis is None:
        return None
    from shim.ws4redis.facility import CompatibleFacility  # noqa: PLC0415  # it stands on this module

    return found.identify if isinstance(found, CompatibleFacility) else None


def _text_heartbeat(conf: Conf) -> TextHeartbeat:
    return TextHeartbeat(TEXT_HEARTBEAT, conf.limits.heartbeat)


def connection_of(
    visitor: Connection,
    topics: Sequence[Topic],
    sink: Sink,
    *,
    handshake: Handshake,
    node: Node,
    conf: Conf,
    pings: bool,
    now: float,
    random: float,
) -> CoreConnection:
    """The state machine of a connection that is about to be accepted.

    Args:
        topics: what it listens to. sink: its way to the client. handshake: how it came. pings: see `CoreConnection`.
        now: seconds of a monotonic clock. random: 0 to 1.
    """
    return CoreConnection(
        id=visitor.id,
        sink=sink,
        protocol=visitor.protocol,
        facility=visitor.facility,
        topics=topics,
        subject=visitor.identity.subject,
        user=visitor.identity.user_name,
        backend=node.backend,
        limits=conf.limits,
        now=now,
        phase=random,
        pings=pings,
        echo=visitor.echo,
        last="last" in visitor.query,
        kept=visitor.kept,
        text_heartbeat=visitor.text_heartbeat or (_text_heartbeat(conf) if "heartbeat" in visitor.query else None),
        elsewhere=_elsewhere(handshake, visitor.facility, node) if visitor.protocol is Protocol.V1 else None,
    )


def _elsewhere(handshake: Handshake, facility: str, node: Node) -> Elsewhere | None:
    """Where a move would lead (contract 8.3): what discovery says of the other backend; None where it could not.

    Also None where both have one address, behind a front door that routes by a cookie: what sets that cookie is the
    endpoint, which a client asks when it has been closed. And None on a wire without positions, where a client with two
    connections could not tell what the new one repeats.
    """
    if not conf().wire.has_positions:
        return None
    other = LEGACY if node.backend == CHANNELS else CHANNELS
    request = request_of(handshake)
    try:
        there = backend(other).url(facility, request)
        is_here = node.backend in conf().backends and backend(node.backend).url(facility, request) == there
        return None if is_here else Elsewhere(other, there)
    except (KeyError, ImportError, DisallowedHost):  # system checks and discovery complain about these
        return None


def request_of(handshake: Handshake) -> HttpRequest:
    """The handshake as Django sees a request, so that its settings decide about host and scheme behind a proxy."""
    # A name with an underscore would stand for the one with a hyphen, which a proxy may be trusted to have set.
    names = {name: f"HTTP_{name.upper().replace('-', '_')}" for name in handshake.headers if "_" not in name}
    environ = {names[name]: handshake.headers[name] for name in names}
    return WSGIRequest(
        {
            **environ,
            "REQUEST_METHOD": "GET",
            "PATH_INFO": handshake.path.encode().decode("latin-1"),  # as PEP 3333 wants it
            "QUERY_STRING": handshake.query,
            "REMOTE_ADDR": handshake.client,
            "SERVER_NAME": "",
            "SERVER_PORT": "",
            "wsgi.input": BytesIO(),
            "wsgi.url_scheme": "https" if handshake.secure else "http",
        }
    )


def crowded(node: Node) -> Refusal:
    """The refusal of somebody whose turn at the door does not come: a slow database, mostly."""
    return Refusal(503, "too many are coming in at once", node.retry_after())


def refusal_of(error: Exception, connection: Connection, node: Node) -> Refusal:
    """The refusal that an error before acceptance stands for.

    It may be the facility's no, Redis away, no descriptor left, or a bug; the last two are logged.
    """
    if isinstance(error, PermissionDenied):
        return Refusal(403, str(error) or "the facility refused this connection")
    if isinstance(error, RealtimeUnavailable):
        return Refusal(503, "messages cannot be had just now", node.retry_after())
    if isinstance(error, Crowded):
        return crowded(node)
    if isinstance(error, OSError) and error.errno in _FULL:
        if _complaints.allow("full"):
            logger.error("no file descriptor is left for connections: raise the limit, or add processes: %s", error)
        return Refusal(503, "this server has no room for more connections", node.retry_after())
    logger.error("%s.audiences() failed for %r", connection.facility, connection, exc_info=error)
    return Refusal(500, "the facility failed")
