"""What an orchestrator may ask a process: is it alive, does it take new connections (architecture, decision 8)?

Liveness never measures load: a process that is slow is not dead, and one that is killed for being slow sends its
clients to the others, which are slow next. So `livez` says yes for as long as anything is said at all, and `readyz`
says no only while the process is stopping (contract 9.1).

Both are views, in `shim.urls`. The applications of the backends answer them by themselves, before Django does: so a
probe waits for no middleware, no database and no thread that a slow view holds, and `ALLOWED_HOSTS`, which does not
know a pod's address, is not asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from django.core.signals import setting_changed
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, reverse


class Readiness:
    """Whether this process takes new connections. One for each process; safe from any thread.

    Attributes:
        is_ready: False while it is stopping.
    """

    def __init__(self) -> None:
        self.is_ready = True

    def withdraw(self) -> None:
        """The process is stopping: nothing new should be sent to it."""
        self.is_ready = False

    def restore(self) -> None:
        """Undo `withdraw`; for tests, since who stops does not come back."""
        self.is_ready = True


readiness: Final = Readiness()


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a probe: an HTTP status, and a word in plain text."""

    status: int
    word: str


def livez(request: HttpRequest) -> HttpResponse:  # noqa: ARG001  # a view
    """200: the process answers."""
    return _response(_alive())


def readyz(request: HttpRequest) -> HttpResponse:  # noqa: ARG001  # a view
    """200, or 503 while the process is stopping."""
    return _response(_ready())


def answer(path: str) -> Answer | None:
    """The answer to a probe, None for any other path.

    Args:
        path: of the request, decoded.
    """
    match _probes().get(path):
        case "livez":
            return _alive()
        case "readyz":
            return _ready()
        case _:
            return None


HEADERS: Final = (("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"))


def _alive() -> Answer:
    return Answer(200, "alive")


def _ready() -> Answer:
    return Answer(200, "ready") if readiness.is_ready else Answer(503, "stopping")


def _response(answer: Answer) -> HttpResponse:
    return HttpResponse(answer.word, status=answer.status, headers=dict(HEADERS))


@lru_cache(maxsize=1)
def _probes() -> Mapping[str, str]:
    """Where the project has put `shim.urls`: path to probe."""
    try:
        return {reverse(f"realtime:{name}"): name for name in ("livez", "readyz")}
    except NoReverseMatch:
        return {}


@receiver(setting_changed)
def _forget(*, setting: str, **_: object) -> None:
    if setting == "ROOT_URLCONF":
        _probes.cache_clear()
