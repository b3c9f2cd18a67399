"""`GET <http prefix>/endpoint?facility=calls`: where a client connects now (contract, "`realtime.v1` frames")."""

import secrets

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
from shim.visitor import ANONYMOUS_COOKIE, identify

_A_YEAR = 365 * 86_400


@require_GET
def endpoint(request: HttpRequest) -> HttpResponse:
    """Say which backend serves whoever asks, and how to come back when a connection is lost.

    Somebody without a session gets a cookie with a random id, so that the answer stays the same (contract 8.1).
    """
    name = request.GET.get("facility", "")
    if facility(name) is None:
        known = ", ".join(found.name for found in facilities())
        reason = f"there is no facility {shown(name)}: ask for one of {known}" if settings.DEBUG else "no such facility"
        return JsonResponse({"error": reason}, status=404)
    cookies = dict(request.COOKIES)
    fresh = None
    if not (cookies.get(settings.SESSION_COOKIE_NAME) or cookies.get(ANONYMOUS_COOKIE)):
        fresh = cookies[ANONYMOUS_COOKIE] = secrets.token_urlsafe(12)
    cohort = current().cohort(identify(cookies).subject) or LEGACY
    response = JsonResponse(
        {
            "backend": cohort,
            "url": backend(cohort).url(name, request),
            "protocol": SUBPROTOCOL,
            "reconnect": dict(conf().limits.reconnect),
        }
    )
    response["Cache-Control"] = "no-store"  # a kept answer would send people where they no longer belong
    response["Expires"] = http_date(0)
    if fresh is not None:
        response.set_cookie(
            ANONYMOUS_COOKIE, fresh, max_age=_A_YEAR, httponly=True, samesite="Lax", secure=request.is_secure()
        )
    return response
