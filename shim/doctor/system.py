"""What the system checks say, and the database that they take for granted."""

from collections.abc import Iterator
from typing import Final

from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import connections, router

from shim.checks import TAG
from shim.doctor.finding import CHECKS, Finding, Level, found
from shim.flag import flag_model, flag_rows

_REFUSED: Final = "A process that needs the setting does not start."
WHY: Final = {
    "E003": "Its clients have nowhere to connect.",
    "E006": "Nothing can be published or received.",
    "E007": "Nothing can be published or received.",
    "E011": "The flag decides who is on which backend.",
    "E017": "Every handshake asks who is there.",
    "E018": "Every handshake asks who is there.",
    "E019": "Earlier versions let one slow client fill the memory, or lack what is used.",
    "E020": "What one process publishes reaches no other.",
    "E023": "Compatible connections are refused as long as it cannot be used.",
    "E024": "An import of ws4redis may give either, and the original one serves no current Django.",
    "E026": "Messages for a user could reach another one's facility, so they are refused.",
    "W001": "Whoever the flag sends there is lost.",
    "W002": "There is nothing to turn yet: the first step up makes it.",
    "W003": "Your own flag_is_active() may answer with the old value for minutes, in other processes.",
    "W004": "Who has signed in with one process is somebody else to another, and there are two backends.",
    "W005": "Session(…) loses people whenever their session changes.",
    "W006": "Developers get no WebSockets.",
    "W007": "A misspelt setting does nothing, and nobody notices.",
    "W008": "Cross-site WebSocket hijacking: any page may speak in the name of its visitors.",
    "W009": "Processes of this installation cannot serve that backend.",
    "W010": "ws4redis let anybody publish anywhere; here it is so in the compatible mode alone.",
    "W011": "What those methods did is not done any more.",
    "W012": "The cookie would be set by who the visitor was a moment ago.",
    "W013": "The old wire has no positions, so messages are lost in every reconnect.",
    "W014": "Half of the fleet does not hear the other.",
    "W015": "A flip while Redis is away would be a storm of reconnects.",
}


def system_checks() -> Iterator[Finding]:
    """All of realtime shim's own, those about production too unless DEBUG is on."""
    messages = checks.run_checks(
        tags=[TAG], include_deployment_checks=not settings.DEBUG, databases=_reachable_databases()
    )
    for message in messages:
        if message.is_silenced():
            continue
        id = str(message.id).removeprefix("realtime.")
        level: Level = "error" if message.level >= checks.ERROR else "warning"
        section = "errors" if level == "error" else "warnings"
        why = WHY.get(id, _REFUSED)
        yield Finding(level, str(message.id), message.msg, why, message.hint or "See the page.", f"{CHECKS}#{section}")


def _reachable_databases() -> list[str]:
    found = []
    for alias in connections:
        try:
            connections[alias].ensure_connection()
        except DatabaseError:
            continue
        found.append(alias)
    return found


def database() -> Iterator[Finding]:
    """What the check for the flag's row passes over: a database without an answer, or without tables."""
    try:
        flag_rows("", router.db_for_write(flag_model())).exists()
    except DatabaseError as error:
        yield found(
            "error",
            "D001",
            f"The flags' table cannot be read: {error}.",
            "The flag decides who is on which backend, and handshakes ask the database who is there.",
            "Let the database answer; where it does, run `manage.py migrate`.",
        )
    except ImproperlyConfigured:
        return  # E011 says so
