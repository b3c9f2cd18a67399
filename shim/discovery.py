"""`GET <http prefix>/endpoint?facility=calls`: where a client connects now (contract, "`realtime.v1` frames")."""

import logging
import random

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.http import http_date
from django.views.decorators.http import require_GET

from shim.backends import backend
from shim.conf import conf
from shim.core.cohorts import LEGACY
from shim.core.errors import shown
from shim.core.protocol import SUBPROTOCOL
from shim.facility import facilities, facility
from shim.rollout import current
from shim.routing import anonymous, name_visitor, tell
from shim.visitor import identify

logger = logging.getLogger("realtime")


@require_GET
def endpoint(request: HttpRequest) -> HttpResponse:
    """Say which backend serves whoever asks, and how to come back when a connection is lost.

    Somebody without a user or session gets a cookie with a random id, so that the answer stays the same (contract 8.1),
    and everybody the cookie that a front door routes by, where theirs says something else (8.4).
    """
    name = request.GET.get("facility", "")
    if facility(name) is None:
        known = ", ".join(found.name for found in facilities())
        reason = f"there is no facility {shown(name)}: ask for one of {known}" if settings.DEBUG else "no such facility"
        return JsonResponse({"error": reason}, status=404)
    state = current()
    fresh = None
    if (cohort := state.force) is None:  # forced: no database is asked, it may be what is down (contract 8.6)
        try:
            subject = identify(request.COOKIES).subject
        except Exception:  # whatever the session store or the database raises
            logger.exception("cannot tell who asks for the endpoint: the session store or the database failed")
            return _unavailable()
        if subject.key is None:
            subject = fresh = anonymous(subject)
        cohort = state.cohort(subject) or LEGACY
    response = JsonResponse(
        {
            "backend": cohort,
            "url": backend(cohort).url(name, request),
            "protocol": SUBPROTOCOL,
            "reconnect": dict(conf().limits.reconnect),
        }
    )
    _not_kept(response)
    if fresh is not None:
        name_visitor(response, request, fresh)
    tell(response, request, cohort)
    return response


def _unavailable() -> HttpResponse:
    response = JsonResponse({"error": "cannot tell who you are just now"}, status=503)
    response["Retry-After"] = str(random.randint(5, 10))  # spread, so that all do not come back together
    return _not_kept(response)


def _not_kept(response: HttpResponse) -> HttpResponse:
    """A kept answer would send people where they no longer belong."""
    response["Cache-Control"] = "no-store"
    response["Expires"] = http_date(0)
    return response
