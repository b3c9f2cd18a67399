"""The groups that ws4redis keeps in a session, under a name that application code knows."""

from typing import Any, Final

from shim.conf import conf

MEMBER_OF: Final = "ws4redis:memberof"


def remember_groups(*, user: Any, request: Any, **_: object) -> None:
    """Note a user's groups in the session; a receiver of `user_logged_in`, in the compatible mode."""
    session = getattr(request, "session", None)
    if conf().ws4redis is not None and session is not None and hasattr(user, "groups"):
        session[MEMBER_OF] = list(user.groups.order_by("name").values_list("name", flat=True))


def groups_of(request: Any) -> list[str]:
    """The groups of whoever makes a request: those that the session knows, as ws4redis went by.

    A session without them began before the swap, or without a sign-in: then the database tells.
    """
    if not is_authenticated(request):
        return []
    user: Any = request.user
    session = getattr(request, "session", None)
    known = session.get(MEMBER_OF) if session is not None else None
    if isinstance(known, (list, tuple)):
        return [str(name) for name in known]
    if hasattr(user, "groups"):
        return [str(name) for name in user.groups.order_by("name").values_list("name", flat=True)]
    return []


def is_authenticated(request: Any) -> bool:
    """Whether somebody is signed in."""
    user: Any = getattr(request, "user", None)
    return bool(user) and bool(user.is_authenticated)
