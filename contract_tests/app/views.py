"""What a test wants done inside of a server process: each takes one JSON object, and answers with one."""

import json
import time
from datetime import timedelta
from typing import Any

from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model, logout
from django.contrib.auth.models import Group
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.http import HttpRequest, JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from contract_tests.app.realtime import AUDIENCES
from shim import RealtimeUnavailable, realtime
from shim.conf import conf
from shim.flag import flag_model


@csrf_exempt
@require_POST
def person(request: HttpRequest) -> JsonResponse:
    """Make a user in some groups, signed in: `{"name","groups","expired"}` → `{"pk","session"}`."""
    told = json.loads(request.body)
    user = get_user_model().objects.create(username=told["name"])
    user.groups.set([Group.objects.get_or_create(name=name)[0] for name in told.get("groups", [])])
    store = SessionStore()
    store[SESSION_KEY] = str(user.pk)
    store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    store[HASH_SESSION_KEY] = user.get_session_auth_hash()
    store.save()
    if told.get("expired"):
        Session.objects.filter(pk=store.session_key).update(expire_date=timezone.now() - timedelta(days=1))
    return JsonResponse({"pk": str(user.pk), "session": store.session_key})


@csrf_exempt
@require_POST
def flag(request: HttpRequest) -> JsonResponse:
    """Set the flag: `{"everyone","percent","users":[pk],"silent"}`; `silent` fires no signal (contract 8.2)."""
    told = json.loads(request.body)
    fields = {name: told.get(name) for name in ("everyone", "percent")}
    found: Any = flag_model()._default_manager.get_or_create(name=conf().flag)[0]  # noqa: SLF001  # documented by Django
    if told.get("silent"):
        type(found)._default_manager.filter(pk=found.pk).update(**fields)  # noqa: SLF001
    else:
        for name, value in fields.items():
            setattr(found, name, value)
        found.save()
        found.users.set(told.get("users", []))
    return JsonResponse({})


@csrf_exempt
@require_POST
def sign_out(request: HttpRequest) -> JsonResponse:
    """Sign out whoever asks (contract 7.5)."""
    logout(request)
    return JsonResponse({})


@csrf_exempt
@require_POST
def publish(request: HttpRequest) -> JsonResponse:
    """Publish from this server: `{"facility","to":[kind,name],"value"}` → `{"pos"}` or `{"error"}`, and `seconds`."""
    told = json.loads(request.body)
    started = time.monotonic()
    try:
        receipt = realtime.publish(told["facility"], _audience(told), told["value"])
    except RealtimeUnavailable as error:
        return JsonResponse({"error": str(error), "seconds": time.monotonic() - started})
    return JsonResponse({"pos": receipt.position, "seconds": time.monotonic() - started})


@csrf_exempt
@require_POST
async def apublish(request: HttpRequest) -> JsonResponse:
    """The twin of `publish` (contract 3.4)."""
    told = json.loads(request.body)
    started = time.monotonic()
    try:
        receipt = await realtime.apublish(told["facility"], _audience(told), told["value"])
    except RealtimeUnavailable as error:
        return JsonResponse({"error": str(error), "seconds": time.monotonic() - started})
    return JsonResponse({"pos": receipt.position, "seconds": time.monotonic() - started})


def _audience(told: dict[str, Any]) -> Any:
    kind, name = told["to"]
    return AUDIENCES[kind](name)
