"""The demo's views: synchronous, as in any Django project; the same code runs under WSGI and ASGI."""

import os
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import wraps
from typing import Any, Concatenate, cast

from django.conf import settings
from django.contrib.auth import get_user_model, login, logout
from django.contrib.auth.models import User as Account
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_POST
from waffle.models import Flag

from demo import dispatch
from demo.people import LANGUAGES, OPERATOR, PEOPLE
from shim import RealtimeUnavailable
from shim.conf import conf

type View[**P] = Callable[Concatenate[HttpRequest, P], HttpResponse]


def signed_in[**P](view: View[P]) -> View[P]:
    """For people who are signed in; what the room refuses becomes an answer that the page can show."""

    @wraps(view)
    def wrapped(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if not request.user.is_authenticated:
            return JsonResponse({"error": "sign in first"}, status=403)
        try:
            return view(request, *args, **kwargs)
        except PermissionDenied as error:
            return JsonResponse({"error": str(error)}, status=403)
        except dispatch.Refused as error:
            return JsonResponse({"error": str(error)}, status=409)
        except RealtimeUnavailable as error:
            return JsonResponse({"error": str(error)}, status=503)

    return wrapped


def _account(request: HttpRequest) -> Account:
    return cast("Account", request.user)  # `signed_in` has looked


def _served_by(request: HttpRequest) -> str:
    return "channels" if isinstance(request, ASGIRequest) else "legacy"


# The page, and who is looking at it


@require_GET
@ensure_csrf_cookie
def room(request: HttpRequest) -> HttpResponse:
    host, _, port = request.get_host().partition(":")
    other = "localhost" if host == "127.0.0.1" else "127.0.0.1"
    groups = list(request.user.groups.values_list("name", flat=True)) if request.user.is_authenticated else []
    context = {
        "me": {"name": request.user.get_username() or None, "groups": groups},
        "languages": LANGUAGES,
        "other": f"http://{other}:{port or 80}/",
        "served_by": _served_by(request),
    }
    return render(request, "demo/room.html", context)


@require_POST
def sign_in(request: HttpRequest) -> HttpResponse:
    """One click, no password: the demo's people only, and only in DEBUG."""
    if not settings.DEBUG:
        raise PermissionDenied("signing in with one click is for DEBUG")
    name = request.POST.get("name", "")
    if name not in {OPERATOR, *(person.name for person in PEOPLE)}:
        raise PermissionDenied("not one of the demo's people")
    account = get_object_or_404(get_user_model(), username=name)
    login(request, account, backend="django.contrib.auth.backends.ModelBackend")
    goal = request.POST.get("next", "/")
    return HttpResponseRedirect(goal if url_has_allowed_host_and_scheme(goal, {request.get_host()}) else "/")


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """Ends this person's realtime connections everywhere, too (contract 7.5): `shim` listens to the signal."""
    logout(request)
    return HttpResponseRedirect("/")


# Calls


def _answer(sent: list[dispatch.Sent], **fields: Any) -> JsonResponse:
    return JsonResponse({**fields, "sent": [list(one) for one in sent]})


@require_GET
@signed_in
def calls(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"calls": dispatch.open_calls(_account(request))})


@require_POST
@signed_in
def ring(request: HttpRequest) -> HttpResponse:
    call, sent = dispatch.ring(_account(request), request.POST.get("language", ""))
    return _answer(sent, call=call.pk)


@require_POST
@signed_in
def take(request: HttpRequest, pk: int) -> HttpResponse:
    call, sent = dispatch.take(_account(request), pk)
    return _answer(sent, call=call.pk)


@require_POST
@signed_in
def hang_up(request: HttpRequest, pk: int) -> HttpResponse:
    call, sent = dispatch.hang_up(_account(request), pk)
    return _answer(sent, call=call.pk)


@require_POST
@signed_in
def chat(request: HttpRequest) -> HttpResponse:
    return _answer(dispatch.say(_account(request), request.POST.get("text", ""), request.POST.get("to", "")))


@require_POST
@signed_in
def note(request: HttpRequest) -> HttpResponse:
    return _answer(dispatch.note(request.session.session_key or "", request.POST.get("text", "")))


# The flag, for whoever looks at the page: it is theirs alone, on this machine


def _flag_answer(request: HttpRequest) -> JsonResponse:
    flag = Flag.objects.get(name=conf().flag)
    listed = request.user.is_authenticated and flag.users.filter(pk=request.user.pk).exists()
    return JsonResponse({"percent": 100.0 if flag.everyone else float(flag.percent or 0), "me": listed})


@require_GET
def flag(request: HttpRequest) -> HttpResponse:
    return _flag_answer(request)


@require_POST
def set_flag(request: HttpRequest) -> HttpResponse:
    """What an operator does in the admin: one save."""
    try:
        percent = Decimal(request.POST.get("percent", ""))
        if not 0 <= percent <= 100:
            raise InvalidOperation
    except InvalidOperation:
        return JsonResponse({"error": "percent is a number from 0 to 100"}, status=400)
    found = Flag.objects.get(name=conf().flag)
    found.everyone = True if percent == 100 else None  # waffle's percentage ends at 99.9: all is "everyone"
    found.percent = None if percent == 100 else percent.quantize(Decimal("0.1"))
    found.save()
    return _flag_answer(request)


@require_POST
@signed_in
def move_me(request: HttpRequest) -> HttpResponse:
    """Put whoever asks on the flag's list of users, or take them off."""
    listed = Flag.objects.get(name=conf().flag).users
    if request.POST.get("on") == "true":
        listed.add(_account(request))
    else:
        listed.remove(_account(request))
    return _flag_answer(request)


@require_GET
def health(request: HttpRequest) -> HttpResponse:
    """Which process answers: the stack waits for this, and tests look for workers with it."""
    return JsonResponse({"server": _served_by(request), "pid": os.getpid()})
