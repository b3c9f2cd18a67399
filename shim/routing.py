"""What a front door routes by: the cohort cookie (contract 8.4), and the anonymous id that it may hang on (8.1).

Theory of operation. A raw client knows one address and asks nobody where to go. So a front door (deploy/nginx.conf)
looks at a cookie that names a backend, and these set it: the middleware, on any HTTP response; the endpoint; and the
reply to a handshake that came to the wrong backend. The cookie is a hint. Whoever is led astray by it, because it is
old, or forged, or was thrown away, is served where they came to (1.4), told better, and closed with 1012.

When that close comes depends on whether coming back will help:

* quickly, where there is a front door that routes by the cookie (it says so in a header), or the client has shown that
  it sends such cookies: the next handshake goes to the right backend;
* late (`arrival`), where the cookie names the right backend already, so that nobody routes by it; where nothing shows
  that anybody does; and for those who have come wrong `QUICK_MOVES` times since the flag was changed, because they do
  not keep cookies. A client that cannot be told a better address must not be sent round in circles.

The count of those times is on Redis, since each attempt may meet another process. Who wants to fool it (by another
address in `X-Forwarded-For`, say) gains that their own connections are closed sooner.
"""

import secrets
from dataclasses import dataclass, replace
from typing import Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

from shim.bus.commands import Command
from shim.bus.tally import tally_command, tally_from
from shim.conf import Conf, conf
from shim.core.cohorts import LEGACY, Cohort, Subject
from shim.core.node import Node
from shim.core.protocol import Protocol
from shim.door import Handshake, request_of
from shim.visitor import ANONYMOUS_COOKIE, Connection

FRONT_DOOR: Final = "x-realtime-front-door"
"""The header by which a front door says that it routes by the cookie. Forged, it costs the forger a few reconnects."""

ABSENT: Final = LEGACY
"""Where a front door sends those who have no cookie."""

QUICK_MOVES: Final = 10
"""Times that one visitor is moved quickly under one state of the flag: more than the windows that most have open."""

QUICK_MOVES_OF_AN_ADDRESS: Final = 100
"""The same of those of whom nothing is known but an address, which many share: no user, no session, no anonymous id."""

TALLY_SECONDS: Final = 180.0
"""How long a visitor is remembered: longer than the slow way round, so who is slow stays slow."""

_A_YEAR: Final = 365 * 86_400


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes with the reply to a handshake.

    Attributes:
        headers: more for the response.
        tally: what to ask Redis before the connection may be moved quickly; None where it may not at all.
        most: the highest answer that allows it.
    """

    headers: tuple[tuple[str, str], ...] = ()
    tally: Command | None = None
    most: int = 0

    def is_quick(self, answer: object) -> bool:
        """Whether Redis's answer to `tally` allows a quick move.

        Raises:
            RealtimeUnavailable: not an answer.
        """
        return tally_from(answer) <= self.most


def reply_to(handshake: Handshake, visitor: Connection, node: Node, conf: Conf) -> Reply:
    """The reply to a handshake that will be accepted, in which the wrong backend tells the right one."""
    subject, name = visitor.identity.subject, conf.cohort_cookie
    home = node.flag.cohort(subject)
    if name is None or home is None or home == node.backend or handshake.cookies.get(name) == home:
        return Reply()
    told = HttpResponse()
    _set(told, name, home, secure=bool(request_of(handshake).is_secure()))
    headers = (("Set-Cookie", told.cookies[name].OutputString()),)
    is_routed = name in handshake.cookies or FRONT_DOOR in handshake.headers
    if visitor.protocol is not Protocol.RAW or not is_routed:
        return Reply(headers)
    who, most = subject.key, QUICK_MOVES
    if who is None:
        address = handshake.headers.get("x-forwarded-for") or handshake.client
        who, most = f"address:{address}", QUICK_MOVES_OF_AN_ADDRESS
    return Reply(headers, tally_command(conf.prefix, f"{node.flag.version} {home} {who}", TALLY_SECONDS), most)


def tell(response: HttpResponseBase, request: HttpRequest, home: Cohort) -> None:
    """Let an HTTP response set the cohort cookie, where the request's leads elsewhere."""
    name = conf().cohort_cookie
    if name is not None and request.COOKIES.get(name, ABSENT) != home:
        _set(response, name, home, secure=request.is_secure())
        patch_vary_headers(response, ("Cookie",))


def anonymous(subject: Subject) -> Subject:
    """Somebody who is nobody yet, with an anonymous id of their own (contract 8.1); `name_visitor` makes it last."""
    return replace(subject, anonymous=secrets.token_urlsafe(12))


def name_visitor(response: HttpResponseBase, request: HttpRequest, subject: Subject) -> None:
    """Let an HTTP response keep the anonymous id of a subject."""
    _set(response, ANONYMOUS_COOKIE, subject.anonymous or "", secure=request.is_secure())
    patch_vary_headers(response, ("Cookie",))


def _set(response: HttpResponseBase, name: str, value: str, *, secure: bool) -> None:
    """A cookie that goes wherever the session's goes, because a handshake needs both; no script has to read it."""
    response.set_cookie(
        name,
        value,
        max_age=_A_YEAR,
        path=settings.SESSION_COOKIE_PATH,
        domain=settings.SESSION_COOKIE_DOMAIN,
        secure=secure or settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite=settings.SESSION_COOKIE_SAMESITE,
    )
