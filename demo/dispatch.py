"""The dispatch room's rules: who is told what when a call is rung, taken or ended. Ordinary synchronous code."""

import secrets
from typing import Any, NamedTuple

from django.contrib.auth.models import User as Account
from django.core.exceptions import PermissionDenied
from django.db.models import Q

from demo.models import Call
from demo.people import CALLERS, INTERPRETERS, LANGUAGES
from shim import Audience, Everyone, Group, Session, User, realtime
from shim.core.names import Topic

FACILITY = "calls"


class Sent(NamedTuple):
    """A message that is on its way: the id inside it, its topic, its position."""

    id: str
    topic: str
    epoch: str
    seq: int


class Refused(Exception):
    """The room does not allow that now; the text says why."""


def ring(caller: Account, language: str) -> tuple[Call, list[Sent]]:
    """A caller asks for an interpreter: all who speak the language are rung.

    Raises:
        Refused, RealtimeUnavailable.
    """
    _require(caller, CALLERS)
    if language not in LANGUAGES:
        raise Refused(f"nobody speaks {language[:40]!r}")
    call = Call.objects.create(caller=caller, language=language)
    return call, tell((Group(language), "ring", call), (User(caller.username), "ringing", call))


def take(interpreter: Account, pk: int) -> tuple[Call, list[Sent]]:
    """The first interpreter who answers has the call; the others stop ringing.

    Raises:
        Refused: somebody was faster. RealtimeUnavailable.
    """
    _require(interpreter, INTERPRETERS)
    # One statement, so of two who take it at once one is refused.
    ringing = Call.objects.filter(pk=pk, state=Call.State.RINGING)
    if not ringing.update(state=Call.State.TAKEN, interpreter=interpreter):
        raise Refused(f"call {pk} is not ringing any more")
    call = Call.objects.select_related("caller", "interpreter").get(pk=pk)
    return call, tell(
        (User(call.caller.username), "taken", call),
        (User(interpreter.username), "taken", call),
        (Group(call.language), "stop", call),
    )


def hang_up(account: Account, pk: int) -> tuple[Call, list[Sent]]:
    """Either side ends the call; a caller can also give up one that still rings.

    Raises:
        Refused, RealtimeUnavailable.
    """
    mine = Call.objects.filter(Q(caller=account) | Q(interpreter=account), pk=pk).exclude(state=Call.State.ENDED)
    call = mine.select_related("caller", "interpreter").first()
    if call is None or not mine.update(state=Call.State.ENDED):
        raise Refused(f"call {pk} is no call of yours that is going on")
    told: list[tuple[Audience, str, Call]] = [(User(call.caller.username), "ended", call)]
    if call.interpreter is not None:
        told.append((User(call.interpreter.username), "ended", call))
    if call.state == Call.State.RINGING:
        told.append((Group(call.language), "stop", call))
    return call, tell(*told)


def say(account: Account, text: str, to: str) -> list[Sent]:
    """A line of chat, to everyone in the room or to one person.

    Raises:
        Refused, RealtimeUnavailable.
    """
    if not 0 < len(text) <= 500:
        raise Refused("a line has 1 to 500 characters")
    audience = User(to) if to else Everyone()
    return publish((audience, {"event": "chat", "from": account.username, "to": to, "text": text}))


def note(session_key: str, text: str) -> list[Sent]:
    """Something for this browser session alone, in all of its tabs.

    Raises:
        RealtimeUnavailable.
    """
    return publish((Session(session_key), {"event": "note", "text": text[:500]}))


def open_calls(account: Account) -> list[dict[str, Any]]:
    """What a page shows when it is loaded: the calls that this person can take or hang up."""
    going_on = Call.objects.exclude(state=Call.State.ENDED).filter(
        Q(caller=account)
        | Q(interpreter=account)
        | Q(state=Call.State.RINGING, language__in=account.groups.values("name"))
    )
    return [_fields(call) for call in going_on.select_related("caller", "interpreter").order_by("-pk")[:20]]


def tell(*told: tuple[Audience, str, Call]) -> list[Sent]:
    """Publish what happened to calls."""
    return publish(*((audience, {"event": event, **_fields(call)}) for audience, event, call in told))


def publish(*messages: tuple[Audience, dict[str, Any]]) -> list[Sent]:
    """Publish messages of the room in one round trip, each with an id of its own.

    Called after the views' statements have been committed one by one. A project with transactions around its views
    says `on_commit=True` here; nobody needs the positions then, which the demo shows and counts.
    """
    ids = [secrets.token_hex(6) for _ in messages]
    receipts = realtime.publish_many(
        [(FACILITY, audience, {"id": id, **body}) for id, (audience, body) in zip(ids, messages, strict=True)]
    )
    return [
        Sent(id, Topic(FACILITY, audience).tag, *receipt.position)
        for id, (audience, _), receipt in zip(ids, messages, receipts, strict=True)
        if receipt.position is not None
    ]


def _require(account: Account, group: str) -> None:
    if not account.groups.filter(name=group).exists():
        raise PermissionDenied(f"only {group} can do that")


def _fields(call: Call) -> dict[str, Any]:
    return {
        "call": call.pk,
        "language": call.language,
        "caller": call.caller.username,
        "interpreter": call.interpreter.username if call.interpreter else None,
        "state": call.state,
    }
