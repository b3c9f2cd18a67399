"""The middleware that sets the cohort cookie (contract 8.4): optional, for sites whose front door routes by it.

```python
MIDDLEWARE = [
    …,
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "shim.middleware.CohortCookieMiddleware",  # below it: who is signed in is known there
]
```
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import monotonic
from typing import Any, ClassVar, Final, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from shim.conf import conf
from shim.core.cohorts import LEGACY, Cohort, FlagState, Subject, cohort
from shim.rollout import current
from shim.routing import anonymous, name_visitor, tell
from shim.visitor import anonymous_id, subject_of

logger = logging.getLogger("realtime")

_QUIET: Final = 60.0  # seconds between two complaints

type GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


class CohortCookieMiddleware:
    """Sets the cohort cookie on the first response after a visitor's cohort was changed.

    So a page that opens a raw WebSocket finds the right backend at once, and a flip finds its way back to who only
    loads pages. Without it the wrong backend's handshake reply does the same, one connection later.

    Rules:
        * Nobody is looked up while the flag says the same of everybody. Where it does not, visitors without a session
          cost no query; of the others it takes what `request.user` says, which most views have loaded anyway, and their
          groups where the flag lists groups.
        * Visitors without a session get an anonymous id where the flag has a percentage, or they could not be drawn.
        * A response that shared caches may keep (`Cache-Control: public`, `s-maxage`) is left alone.
        * It never fails a response: what it cannot find out is logged once a minute, and the cookie stays as it was.
    """

    sync_capable: ClassVar[bool] = True
    async_capable: ClassVar[bool] = True

    def __init__(self, get_response: GetResponse) -> None:
        """Made by Django."""
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        self._complains_at = 0.0
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Serve a request."""
        if self._is_async:
            return self._acall(request)
        response = cast("HttpResponseBase", self._get_response(request))
        self._tell(request, response)
        return response

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        response = await cast("Awaitable[HttpResponseBase]", self._get_response(request))
        await sync_to_async(self._tell)(request, response)
        return response

    def _tell(self, request: HttpRequest, response: HttpResponseBase) -> None:
        name = conf().cohort_cookie
        if name is None or name in response.cookies or _is_shared(response):
            return
        try:
            home, fresh = _decided(request, current())
        except Exception:
            if (now := monotonic()) >= self._complains_at:
                self._complains_at = now + _QUIET
                logger.exception("cannot tell whose response this is: the cohort cookie stays as it was")
            return
        if fresh is not None:
            name_visitor(response, request, fresh)
        if home is not None:
            tell(response, request, home)


def _decided(request: HttpRequest, state: FlagState) -> tuple[Cohort | None, Subject | None]:
    """The visitor's cohort, None if nobody knows; and a subject that was made for them just now."""
    if state.force is not None:
        return state.force, None
    flag = state.current
    if flag is None:
        return None, None
    if flag.everybodys is not None:
        return flag.everybodys, None
    subject, user = _visitor(request)
    if subject.key is None:
        if not flag.percent:
            return LEGACY, None
        fresh = anonymous(subject)
        return cohort(flag, fresh), fresh
    home = cohort(flag, subject)
    if home == LEGACY and flag.groups and user is not None and hasattr(user, "groups"):
        groups = frozenset(str(pk) for pk in user.groups.values_list("pk", flat=True))
        home = cohort(flag, replace(subject, groups=groups))  # groups only ever add somebody
    return home, None


def _visitor(request: HttpRequest) -> tuple[Subject, Any]:
    """Who a handshake with this browser's cookies would be, and the Django user; see `shim.visitor.identify`."""
    session: Any = getattr(request, "session", None)
    cookie = anonymous_id(request.COOKIES)
    if session is None or session.session_key is None:  # not even loaded: it has no cookie
        return Subject(anonymous=cookie), None
    user: Any = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        session.get("")  # loads it, if nothing has: a key that does not exist, or has expired, becomes None
        return Subject(session=session.session_key, anonymous=cookie), None
    return subject_of(user, session.session_key, cookie), user


def _is_shared(response: HttpResponseBase) -> bool:
    said = response.headers.get("Cache-Control", "").lower()
    return any(word.strip().partition("=")[0] in ("public", "s-maxage") for word in said.split(","))
