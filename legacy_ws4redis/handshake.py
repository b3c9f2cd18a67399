"""Taking a connection over from the WSGI server: its descriptor, what it had read too far, and the 101.

Theory of operation. A WSGI server that accepted a request still has the client's socket, and each supported server
offers it publicly. We duplicate the descriptor, so that ours lives and dies by our rules and the server's close by its
own. The 101 goes through `start_response` and its `write` wherever the server allows it: then the server knows that its
response has begun, writes nothing of its own at the end, and logs the request as a 101 (uWSGI logs 500 otherwise).

=========  ==========================================  ===============================================================
server     where the socket is                         bytes that a client sent behind the request, before our 101
=========  ==========================================  ===============================================================
uWSGI      ``uwsgi.connection_fd()``                   its parser keeps them where no API gives them back raw; noticed,
                                                       and the handshake is refused with 400
gunicorn   ``environ["gunicorn.socket"]``              in the request's ``Unreader``, taken from there
runserver  ``environ["legacy_ws4redis.socket"]``       in the handler's ``rfile``, taken from there
=========  ==========================================  ===============================================================

Such bytes break RFC 6455 section 4.1 ("the client MUST wait for a response from the server before sending any further
data"), so refusing them is correct; losing them in silence would not be. One place is out of reach: uWSGI's own HTTP
router (`--http`) drops them in its process when they come together with the head of the request.
"""

import contextlib
import ctypes
import importlib
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Final, Protocol, cast
from wsgiref.types import StartResponse, WSGIEnvironment

from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol

STATUS: Final = "101 Switching Protocols"
RUNSERVER: Final = "legacy_ws4redis.socket"
SUPPORTED: Final = (
    "uWSGI (--http-socket or --http with --http-websockets; --gevent N --gevent-monkey-patch, or --threads N), "
    "gunicorn (--worker-class gevent, or gthread with --threads N) "
    "and Django's runserver with 'legacy_ws4redis' in INSTALLED_APPS"
)
_HEADERS: Final = ("CONNECTION", "UPGRADE", "SEC_WEBSOCKET_KEY", "SEC_WEBSOCKET_PROTOCOL", "SEC_WEBSOCKET_VERSION")
_USUAL_CONNECTIONS: Final = frozenset(("Upgrade", "upgrade", "keep-alive, Upgrade"))
_USUAL_KEY: Final = re.compile("[A-Za-z0-9+/]{22}==")  # 16 bytes
_USUAL_SUBPROTOCOLS: Final = re.compile(r"[A-Za-z0-9._-]+(, ?[A-Za-z0-9._-]+)*")
_EPOLL_CTL_DEL: Final = 2
_HEADER_BYTES: Final = frozenset(range(0x20, 0x7F)) | frozenset(range(0x80, 0x100)) | {0x09}  # RFC 9110 5.5


class NoSocket(RuntimeError):
    """The WSGI server offers no socket that can be taken over: a setting of the deployment, not the client's fault."""


class Refused(Exception):
    """The client's handshake cannot be accepted (contract 1.1); nothing was written.

    Args:
        status: HTTP status to answer with, 400 or 426.
        reason: one short sentence for the body.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


class Server(Protocol):
    """What a WSGI server offers for one request."""

    @property
    def lets_go(self) -> bool:
        """Whether the request may end while the connection goes on, in a greenlet of its own."""

    def forget_client(self) -> None:
        """The request goes on without its client, whose socket the server keeps no longer. Where it `lets_go`."""

    def take(self) -> tuple[int, bytes]:
        """A duplicate of the client's descriptor, and the bytes that the server had read beyond the request.

        Raises:
            Refused: there were such bytes, and this server does not give them back.
            OSError: no descriptor left (EMFILE).
        """

    def respond(self, start_response: StartResponse, headers: list[tuple[str, str]], /) -> None:
        """Write the 101.

        Raises:
            OSError: the client is gone.
        """


def key(environ: WSGIEnvironment) -> str:
    """The `Sec-WebSocket-Key` of a request that can be accepted.

    The rules are those of `websockets`, which uvicorn uses for the other backend, so both refuse the same requests.

    What every browser and library sends is seen at once, since a refusal must cost next to nothing; `websockets` judges
    the rest (a test tries that it agrees).

    Raises:
        Refused: 426 when the request asks for no upgrade to WebSocket, 400 when it asks in a wrong way.
    """
    method, protocol = environ["REQUEST_METHOD"], environ.get("SERVER_PROTOCOL", "")
    if method != "GET":
        raise Refused(400, f"a WebSocket handshake is a GET request, not {method!r:.40}")
    if protocol != "HTTP/1.1":
        raise Refused(400, f"a WebSocket handshake needs HTTP/1.1, not {protocol!r:.40} (nginx: proxy_http_version)")
    if not _is_usual(environ):
        _judge(environ)
    found: str = environ["HTTP_SEC_WEBSOCKET_KEY"]
    return found


def _is_usual(environ: WSGIEnvironment) -> bool:
    return (
        environ.get("HTTP_UPGRADE") == "websocket"
        and environ.get("HTTP_CONNECTION") in _USUAL_CONNECTIONS
        and environ.get("HTTP_SEC_WEBSOCKET_VERSION") == "13"
        and _USUAL_KEY.fullmatch(environ.get("HTTP_SEC_WEBSOCKET_KEY", "")) is not None
        and _USUAL_SUBPROTOCOLS.fullmatch(environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "-")) is not None
    )


def _judge(environ: WSGIEnvironment) -> None:
    headers = Headers()
    for name in _HEADERS:
        if (value := environ.get(f"HTTP_{name}")) is not None:
            headers[name.replace("_", "-")] = value
    # gunicorn and uWSGI join repeated headers with a comma; two keys are no valid base64, hence a 400 as it should be.
    handshake = ServerProtocol()
    response = handshake.accept(Request("/", headers))
    if response.status_code != 101:
        raise Refused(426 if response.status_code == 426 else 400, f"{handshake.handshake_exc}")


def response_headers(accept: str, subprotocol: str | None, extra: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of the 101.

    Raises:
        ValueError: a header that could split the response in two.
    """
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)]
    if subprotocol is not None:
        headers.append(("Sec-WebSocket-Protocol", subprotocol))
    headers.extend(extra)
    for name, value in headers:
        if not _HEADER_BYTES.issuperset(f"{name}{value}".encode("latin-1")) or ":" in name or not name:
            raise ValueError(f"the header {name!r} of a 101 response has a character that HTTP forbids: {value!r}")
    return headers


def server(environ: WSGIEnvironment) -> Server:
    """The server that this request came through.

    Raises:
        NoSocket: it offers no socket, or offers one that cannot be taken over as it is set up.
    """
    if RUNSERVER in environ:
        return cast("Server", environ[RUNSERVER])
    if "gunicorn.socket" in environ:
        return _Gunicorn(environ)
    if "uwsgi.version" in environ:
        return _Uwsgi(environ)
    raise NoSocket(
        f"the WSGI server ({environ.get('SERVER_SOFTWARE') or 'unknown'}) offers no socket to speak WebSocket on; "
        f"run one of: {SUPPORTED}"
    )


class _Gunicorn:
    lets_go = False  # its limit of connections counts requests, and a thread is no cheaper than another

    def forget_client(self) -> None:
        """It never is without it."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._socket: socket.socket = environ["gunicorn.socket"]
        self._input: Any = environ["wsgi.input"]
        if isinstance(self._socket, ssl.SSLSocket):
            raise NoSocket(
                "gunicorn's --certfile/--keyfile put TLS on this socket, so it cannot be handed over; "
                "let a proxy in front of gunicorn end TLS, and remove the two settings"
            )
        if not environ["wsgi.multithread"]:  # the sync worker would serve one client, and be killed after --timeout
            raise NoSocket(
                "gunicorn's sync worker serves one connection at a time; set --worker-class gevent, or gthread "
                "with as many --threads as connections"
            )

    def take(self) -> tuple[int, bytes]:
        # A request without a body has a `Body` over a `LengthReader` over the connection's `Unreader`, which keeps what
        # recv() brought beyond the head. `read()` gives that when there is some; else it would wait for the socket.
        unreader = self._input.reader.unreader
        early: bytes = unreader.read() if unreader.buf.getvalue() else b""
        return os.dup(self._socket.fileno()), early

    def respond(self, start_response: StartResponse, headers: list[tuple[str, str]]) -> None:
        start_response(STATUS, headers)(b"")


@cache
def _gevent() -> tuple[Any, Any]:
    """Finds gevent's hub, and epoll_ctl(2); gevent is there wherever uWSGI runs it, and nothing of ours needs it."""
    return importlib.import_module("gevent").get_hub, ctypes.CDLL(None).epoll_ctl


def _unwatch(fd: int) -> None:
    """Have gevent's loop forget a descriptor of uWSGI's, which waits no more for it.

    libev (ev_epoll.c) leaves a descriptor in the kernel's epoll set when it has stopped watching it, and the kernel
    keeps it there while the connection lives, in our duplicate, whatever becomes of the number. When the client then
    says something, libev is told of a number that it does not know, makes another epoll set, and puts each connection
    of the process into it. That would be milliseconds for each newcomer.
    """
    get_hub, epoll_ctl = _gevent()
    loop = get_hub().loop
    if loop.backend == "epoll":
        epoll_ctl(loop.fileno(), _EPOLL_CTL_DEL, fd, None)  # or it was not in there: no matter


@cache
def _uwsgi() -> tuple[Any, frozenset[str]]:
    """The module, which exists only inside of uWSGI, and the names of the options that are set."""
    uwsgi: Any = importlib.import_module("uwsgi")
    return uwsgi, frozenset(_text(key) for key in uwsgi.opt)


class _Uwsgi:
    __slots__ = ("_uwsgi", "lets_go")

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._uwsgi, options = _uwsgi()
        self.lets_go = "gevent" in options
        if "gevent" in options and not socket.socket.__module__.startswith("gevent"):
            raise NoSocket(
                "uWSGI runs gevent over unpatched sockets, where one connection would stop all others; "
                "add --gevent-monkey-patch"
            )
        if environ["wsgi.url_scheme"] == "https" and "https-socket" in options:
            raise NoSocket(
                "uWSGI's --https-socket puts TLS on this socket, so it cannot be handed over; "
                "use --https with --http-websockets, or let a proxy in front of --http-socket end TLS"
            )
        if "http11-socket" in options:  # it would read the next request from a socket that was ours
            raise NoSocket("uWSGI's --http11-socket keeps connections for itself; use --http-socket")

    def forget_client(self) -> None:
        with contextlib.suppress(OSError):  # no descriptor left: then it lasts as long as the request
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.dup2(nowhere, self._uwsgi.connection_fd(), inheritable=False)
            finally:
                os.close(nowhere)

    def take(self) -> tuple[int, bytes]:
        if self._has_early_bytes():
            raise Refused(400, "bytes were sent before the handshake was answered (RFC 6455 section 4.1)")
        return os.dup(self._uwsgi.connection_fd()), b""

    def respond(self, start_response: StartResponse, headers: list[tuple[str, str]]) -> None:
        start_response(STATUS, headers)(b"")  # uWSGI sends the headers with the first write, even an empty one
        if self.lets_go:
            _unwatch(self._uwsgi.connection_fd())

    def _has_early_bytes(self) -> bool:
        """Whether uWSGI's parser holds something behind the request's head.

        Only uWSGI's own readers of a body see it. `chunked_read_nb` reads it whatever the request's headers say, and
        ends in one of two ways: None when there was nothing (EAGAIN), IOError when what it found is no HTTP chunk,
        which no WebSocket frame is. It tells the two apart by C's `errno` alone (py_uwsgi_chunked_read_nb in
        uwsgi_pymodule.c), and finding bytes sets none, so an old EAGAIN must be overwritten first: EBADF.
        """
        with contextlib.suppress(OSError):
            os.get_blocking(-1)
        try:
            return self._uwsgi.chunked_read_nb() is not None
        except OSError:
            return True


class Offer:
    """Our runserver's side: the socket of a request handler, and the start of its response.

    Args:
        connection: the client's socket.
        read_ahead: gives the bytes that the handler has read beyond the request, without waiting.
        taken: called once when the socket is taken over, so that the handler writes nothing more.
    """

    lets_go = False  # it ends the socket with the request

    def forget_client(self) -> None:
        """See `Server`: it never is without it."""

    def __init__(self, connection: socket.socket, read_ahead: Callable[[], bytes], taken: Callable[[], None]) -> None:
        self._connection = connection
        self._read_ahead = read_ahead
        self._taken = taken
        self.is_taken = False

    def take(self) -> tuple[int, bytes]:
        """See `Server`."""
        early = self._read_ahead()
        return os.dup(self._connection.fileno()), early

    def respond(self, _start_response: StartResponse, headers: list[tuple[str, str]]) -> None:
        """See `Server`. wsgiref refuses Connection and Upgrade in `start_response`, as PEP 3333 wants it to."""
        self.is_taken = True
        self._taken()
        self._connection.sendall(_head(headers))


def _head(headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {STATUS}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _text(key: str | bytes) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else key
