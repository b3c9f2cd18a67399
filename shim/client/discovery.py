"""Asking where to connect: `GET <endpoint>?facility=calls`, without I/O (contract, "frames", last line).

One request on a connection of its own. Both shells move the bytes themselves, because neither `urllib` nor a thread
around it can be interrupted by `close`. Redirects are not followed: they would carry cookies to where nobody sent them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.message import Message as Headers
from http.client import HTTPException, HTTPResponse, IncompleteRead
from io import BytesIO
from socket import socket
from typing import Any, Final, cast
from urllib.parse import quote, urlencode, urlsplit

from shim.client.errors import DiscoveryError
from shim.core.errors import shown
from shim.core.protocol import SUBPROTOCOL

MAX_ANSWER_BYTES: Final = 65_536
MAX_COOKIES: Final = 50
MAX_COOKIE_CHARACTERS: Final = 4_096
_SHOWN_BODY: Final = 300


@dataclass(frozen=True, slots=True)
class Address:
    """Where a URL leads."""

    host: str
    port: int
    tls: bool

    @classmethod
    def of(cls, url: str, schemes: Mapping[str, tuple[int, bool]]) -> "Address":
        """Split a URL; `schemes` gives (default port, TLS) of those allowed.

        Raises:
            DiscoveryError: it is not such a URL.
        """
        try:
            parts = urlsplit(url)
            port, tls = schemes[parts.scheme]
            host = parts.hostname or ""
            host.encode("idna")
            bad = not host or not url.isprintable() or " " in url or parts.username is not None
            address = cls(host, parts.port or port, tls)
        except (ValueError, KeyError, AttributeError, TypeError):
            bad = True
        if bad:
            allowed = " or ".join(f"{scheme}://host[:port]/…" for scheme in schemes)
            raise DiscoveryError(f"this is no URL to connect to; it looks like {allowed}", url=shown(url))
        return address


HTTP: Final = {"http": (80, False), "https": (443, True)}
WEBSOCKET: Final = {"ws": (80, False), "wss": (443, True)}


class Cookies:
    """The cookies of one client: those it was given, and those that the server set since (contract 8.1, 8.4).

    One jar for the endpoint and the backends: they are one site. Domain, path and expiry dates are not looked at;
    a cookie set with `Max-Age=0` or an empty value is deleted.
    """

    def __init__(self, cookies: Mapping[str, str] | None = None) -> None:
        self._values: dict[str, str] = {}
        for name, value in (cookies or {}).items():
            sendable = (name + value).isascii() and (name + value).isprintable() and ";" not in value
            if not name or not sendable or any(c in " ;,=" for c in name):
                raise ValueError(f"not a cookie: {shown(name)} = {shown(value)}")
            self._values[name] = value

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def learn(self, set_cookies: Iterable[str]) -> None:
        """Take the `Set-Cookie` headers of an answer."""
        for header in set_cookies:
            pair, *attributes = header.split(";")
            name, equals, value = pair.strip().partition("=")
            sendable = pair.isascii() and pair.isprintable() and len(pair) <= MAX_COOKIE_CHARACTERS
            if not name or not equals or not sendable:
                continue
            ages = [a.partition("=")[2].strip() for a in attributes if a.strip().lower().startswith("max-age=")]
            if ages[-1:] == ["0"] or (ages and ages[-1].startswith("-")) or value in ("", '""'):
                self._values.pop(name, None)
            elif name in self._values or len(self._values) < MAX_COOKIES:
                self._values[name] = value

    def headers(self) -> dict[str, str]:
        """The `Cookie` header, or nothing."""
        pairs = [f"{name}={value}" for name, value in self._values.items()]
        return {"Cookie": "; ".join(pairs)} if pairs else {}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What discovery says."""

    backend: str
    url: str
    reconnect: object


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Headers
    body: str


def request_for(url: str, facility: str, headers: Mapping[str, str]) -> bytes:
    """The bytes of the request."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode({"facility": facility}))))
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + "?" + query
    host = parts.netloc.encode("idna").decode() if not parts.netloc.isascii() else parts.netloc
    fields = {"Host": host, "Accept": "application/json", **headers, "Connection": "close"}
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def is_complete(data: bytes, url: str) -> bool:
    """Whether the answer is all here, without the end of the stream having been seen.

    Raises:
        DiscoveryError: it is already longer than any honest answer.
    """
    if len(data) > MAX_ANSWER_BYTES:
        raise DiscoveryError(f"the answer is over {MAX_ANSWER_BYTES} bytes", url=url, body=_cut(data), foreign=True)
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return len(body) >= int(value)
        if name.strip().lower() == b"transfer-encoding":
            return body.endswith(b"0\r\n\r\n")
    return False


class _Replay:
    """Bytes that were received, as the socket that `http.client` reads from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> BytesIO:  # noqa: ARG002 - socket's signature
        return BytesIO(self._data)


def read_answer(data: bytes, url: str) -> Answer:
    """Read an answer.

    Raises:
        DiscoveryError: it is not HTTP, or was cut off.
    """
    try:
        response = HTTPResponse(cast("socket", _Replay(data)), method="GET")
        response.begin()
        body = response.read()
    except IncompleteRead:
        raise DiscoveryError("the answer was cut off", url=url, body=_cut(data)) from None
    except (HTTPException, ValueError, OSError) as error:
        reason = f"not an HTTP answer ({type(error).__name__}: {error})" if data else "closed without an answer"
        raise DiscoveryError(reason, url=url, body=_cut(data), foreign=bool(data)) from None
    return Answer(response.status, response.headers, body.decode(errors="replace"))


def read_endpoint(answer: Answer, url: str, *, tls: bool, v1: bool) -> Endpoint:
    """What the endpoint says.

    Args:
        answer: what came.
        url: what was asked.
        tls: it was asked by https.
        v1: what we want to speak.

    Raises:
        DiscoveryError: another status than 200, or not the JSON of a discovery endpoint.
    """

    def error(reason: str) -> DiscoveryError:
        return DiscoveryError(
            reason,
            url=url,
            status=answer.status,
            body=answer.body[:_SHOWN_BODY],
            retry_after=answer.headers.get("Retry-After"),
            foreign=answer.status < 400,
        )

    if 300 <= answer.status <= 399:
        raise error(f"use the address it redirects to: {shown(answer.headers.get('Location'))}")
    if answer.status != 200:
        raise error("no endpoint for this facility and this user")
    try:
        fields = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise error("not JSON: is this the URL of the realtime endpoint?") from None
    match fields:
        case {"backend": str(backend), "url": str(target)}:
            pass
        case _:
            raise error('not what an endpoint says: {"backend":…,"url":…,…}')
    try:
        address = Address.of(target, WEBSOCKET)
    except DiscoveryError as bad:
        raise error(f"it names a bad URL: {bad}") from None
    if tls and not address.tls:
        raise error("an https endpoint has to name a wss URL, or cookies would travel in clear")
    spoken: Any = fields.get("protocol", SUBPROTOCOL)
    if v1 and spoken != SUBPROTOCOL:
        raise error(f"it speaks {shown(spoken)}, and this client {SUBPROTOCOL}")
    return Endpoint(backend, target, fields.get("reconnect"))


def with_params(url: str, params: Iterable[str]) -> str:
    """A URL with these added to its query: `subscribe-user`, `echo`, `name=value` (contract 1.3)."""
    query = "&".join(quote(param, safe="=:@") for param in params)
    if not query:
        return url
    return f"{url}{'&' if urlsplit(url).query else '?'}{query}"


def _cut(data: bytes) -> str:
    return data[:_SHOWN_BODY].decode(errors="replace")
