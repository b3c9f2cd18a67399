"""`ws4redis.context_processors`: what a page needs to open a WebSocket."""

import json
import logging
from typing import Any

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import SafeString, mark_safe

from shim.backends import backend
from shim.conf import conf
from shim.core.cohorts import LEGACY
from shim.rollout import current
from shim.visitor import identify
from shim.ws4redis.settings import ws4redis

logger = logging.getLogger("realtime")


def default(request: HttpRequest) -> dict[str, Any]:
    """`WEBSOCKET_URI`, to which a page adds facility and words, and `WS4REDIS_HEARTBEAT`, a JavaScript value.

    Where `REALTIME` gives the two backends addresses of their own, the URI is that of the visitor's backend.
    """
    return {
        "WEBSOCKET_URI": SimpleLazyObject(lambda: _uri(request)),  # many pages do not use it
        "WS4REDIS_HEARTBEAT": _javascript(ws4redis().heartbeat),
    }


def _uri(request: HttpRequest) -> str:
    if not any(entry.url for entry in conf().backends.values()):
        scheme = "wss" if request.is_secure() else "ws"
        return f"{scheme}://{request.get_host()}{conf().ws_path}"
    state = current()
    cohort = state.force
    if cohort is None:
        try:
            cohort = state.cohort(identify(request.COOKIES).subject)
        except Exception:  # whatever the session store or the database raises: a page without a socket is still a page
            logger.exception("cannot tell whose page this is: the session store or the database failed")
    return backend(cohort or LEGACY).url("", request)


def _javascript(value: str | None) -> SafeString:
    text = json.dumps(value).replace("<", "\\u003C").replace(">", "\\u003E").replace("&", "\\u0026")
    return mark_safe(text)  # noqa: S308  # nothing in it can end the script
