"""URLs of the suite's own servers."""

import os

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path


def health(request: HttpRequest) -> HttpResponse:
    """Which process answers."""
    return JsonResponse({"server": "channels" if hasattr(request, "scope") else "legacy", "pid": os.getpid()})


urlpatterns = [path("health", health), path("realtime/", include("shim.urls"))]
