"""Who a connection belongs to, and the connection as a facility's handlers see it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user
from django.http import QueryDict

from shim.core.cohorts import Subject
from shim.core.kept import Kept
from shim.core.limits import TextHeartbeat
from shim.core.message import Message
from shim.core.names import Audience, Everyone, Group, Session, Topic, User
from shim.core.protocol import SUBPROTOCOL, Frame, Protocol, direct_frame

ANONYMOUS_COOKIE: Final = "realtime_anonymous"
_ANONYMOUS_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is there (contract 1.2). `user` is a Django user, perhaps anonymous; `groups` are names."""

    user: Any
    session_key: str | None = field(repr=False)  # a credential: never in a log
    groups: tuple[str, ...]
    subject: Subject

    @property
    def user_name(self) -> str | None:
        """The user name, or None when nobody is signed in."""
        return str(self.user.get_username()) if self.user.is_authenticated else None


class _BorrowedSession:
    """A session as `django.contrib.auth.get_user` wants it, which reads but writes nothing.

    `get_user` gives the session a new key where SECRET_KEY was rotated, and empties it where the password was changed.
    The browser would have to be sent a new cookie then, which a handshake does not do: it would be signed out.
    """

    def __init__(self, store: Any) -> None:
        self.is_over = False
        self._store = store

    def __getitem__(self, key: str) -> Any:
        return self._store[key]

    def __setitem__(self, key: str, value: object) -> None:
        """Passed over, see above."""

    def get(self, key: str, default: Any = None) -> Any:
        return self._store.get(key, default)

    def cycle_key(self) -> None:
        """Passed over, see above."""

    def flush(self) -> None:
        self.is_over = True


@dataclass(slots=True)
class _SessionHolder:
    """The one thing that `get_user` looks at in a request."""

    session: _BorrowedSession


def identify(cookies: Mapping[str, str]) -> Identity:
    """Find out who sent these cookies: session → user → groups. Reads the session store and the database.

    Both backends call this very function, so both decide alike (contract 1.2). A session that does not exist or has
    expired is nobody; a session store that does not answer is an error, never an anonymous user.

    Raises:
        Exception: whatever the session store or the database raises.
    """
    user, session = who(cookies)
    return identity_of(user, None if session is None else session.session_key, cookies)


def who(cookies: Mapping[str, str]) -> tuple[Any, Any]:
    """The user and the session that these cookies mean: perhaps anonymous, perhaps empty, None without any.

    Raises:
        Exception: whatever the session store or the database raises.
    """
    key = cookies.get(settings.SESSION_COOKIE_NAME)
    if not key:
        return _anonymous(), None
    store = import_module(settings.SESSION_ENGINE).SessionStore
    session = store(key)
    session.get("")  # loads it: a key that does not exist, or has expired, becomes None
    if session.session_key is None:
        return _anonymous(), session
    borrowed = _BorrowedSession(session)
    user = get_user(_SessionHolder(borrowed))  # type: ignore[arg-type]  # it reads .session alone
    return user, store() if borrowed.is_over else session


def _anonymous() -> Any:
    from django.contrib.auth.models import AnonymousUser  # noqa: PLC0415  # it needs the app registry

    return AnonymousUser()


def nobody() -> Any:
    """An anonymous user that is false: ws4redis's callbacks got None where there was no session at all."""
    return _nobody_kind()()


@cache
def _nobody_kind() -> Any:
    return type("Nobody", (type(_anonymous()),), {"__bool__": lambda _: False})


def identity_of(user: Any, session_key: str | None, cookies: Mapping[str, str]) -> Identity:
    """What is to be known of a user, with a session or without. Reads the database.

    Raises:
        Exception: whatever the database raises.
    """
    members: list[tuple[Any, str]] = []
    if user.is_authenticated and hasattr(user, "groups"):
        members = list(user.groups.order_by("name").values_list("pk", "name"))
    return identity_with(user, session_key, members, cookies)


def identity_with(
    user: Any, session_key: str | None, members: Sequence[tuple[Any, str]], cookies: Mapping[str, str]
) -> Identity:
    """The same, where the groups are known: primary key and name of each, by name."""
    groups = frozenset(str(pk) for pk, _ in members)
    subject = subject_of(user, session_key, anonymous_id(cookies), groups)
    return Identity(user, session_key, tuple(name for _, name in members), subject)


def subject_of(
    user: Any, session_key: str | None, anonymous: str | None, groups: frozenset[str] = frozenset()
) -> Subject:
    """Whose cohort is asked, from what Django knows."""
    return Subject(
        user=str(user.pk) if user.is_authenticated else None,
        session=session_key,
        anonymous=anonymous,
        staff=bool(getattr(user, "is_staff", False)),
        superuser=bool(getattr(user, "is_superuser", False)),
        groups=groups,
    )


def anonymous_id(cookies: Mapping[str, str]) -> str | None:
    """The id in the anonymous cookie; None where there is none, or none of ours."""
    found = cookies.get(ANONYMOUS_COOKIE, "")
    return found if _ANONYMOUS_ID.fullmatch(found) else None


class Connection:
    """One accepted WebSocket, as a facility's handlers see it.

    `send` and `close` may be called from any thread or coroutine; they do not block.

    Attributes:
        id: unguessable and unique.
        facility: the facility's name.
        user: the Django user, an `AnonymousUser` where nobody is signed in.
        session_key: key of the browser's session, or None.
        groups: names of the user's groups.
        protocol: `raw` or `v1`.
        backend: `legacy` or `channels`: for logs, not for decisions.
        query: the query string of the handshake.
        cookies: the cookies of the handshake.
        headers: the headers of the handshake, names in lower case.
        echo: whether it gets back what is published with it as the sender (contract 6.5).
        audiences: what the connection listens to; set once `Facility.audiences` has said so.
        topics: in place of those audiences' topics, where not None; a compatible facility's (`shim.ws4redis`).
        text_heartbeat: in place of `--heartbeat--`, where not None; likewise.
        subprotocol: what the handshake's reply names: ours for v1, else None, unless a compatible facility says more.
    """

    def __init__(
        self,
        *,
        id: str,
        facility: str,
        identity: Identity,
        protocol: Protocol,
        backend: str,
        query: QueryDict,
        headers: Mapping[str, str],
        cookies: Mapping[str, str],
        max_message: int,
        echo: bool = True,
    ) -> None:
        """Made by the backends; applications receive it."""
        self.id = id
        self.facility = facility
        self.identity = identity
        self.user = identity.user
        self.session_key = identity.session_key
        self.groups = identity.groups
        self.protocol = protocol
        self.backend = backend
        self.query = query
        self.headers = headers
        self.cookies = cookies
        self.echo = echo
        self.audiences: tuple[Audience, ...] = ()
        self.topics: tuple[Topic, ...] | None = None
        self.text_heartbeat: TextHeartbeat | None = None
        self.subprotocol = SUBPROTOCOL if protocol is Protocol.V1 else None
        self._max_message = max_message
        self.kept = Kept()
        self._send: Callable[[Frame], None] | None = None
        self._close: Callable[[int, str], None] | None = None
        self._keep: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.id} {self.facility} user={self.identity.user_name!r} {self.protocol}>"

    def open(
        self,
        send: Callable[[Frame], None],
        close: Callable[[int, str], None],
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        """Connect the handlers' side to the socket's side. For backends."""
        self._send, self._close, self._keep = send, close, keep

    @property
    def state(self) -> Any:
        """What the facility keeps with this connection: None at first, or any JSON value of at most 4 KiB.

        Set it anew to change it: what is changed inside of the value that it gives is not kept. A v1 client that moves
        to the other backend, or comes back within five minutes after its line was lost, finds it on its next connection
        of this facility, before the first `receive`: where it has the same user, or the same session or anonymous
        cookie. Then what `audiences` has set is replaced. It is lost with a process that is killed, after a handler's
        error (1011), and where Redis is away; a raw client's ends with its connection.

        Raises:
            InvalidPayload: JSON cannot carry the value, or it is over 4 KiB; the state is as before.
        """
        return self.kept.value

    @state.setter
    def state(self, value: object) -> None:
        if self.kept.put(value) and self._keep is not None:
            self._keep()

    def send(self, value: object) -> None:
        """Send something to this connection alone: no topic, no position, no history.

        Args:
            value: text (`str`), binary (`bytes`), anything `json` can carry, or a `Message`.

        Raises:
            InvalidPayload, MessageTooLarge: it cannot be carried (contract 4.2).
            RuntimeError: the connection is not accepted yet.
        """
        frame = direct_frame(self.protocol, Message.of(value), self._max_message)
        if self._send is None:
            raise RuntimeError("a connection takes messages once it is accepted, not inside audiences()")
        self._send(frame)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End this connection, after what has been sent.

        Args:
            code: 1000, 1008, 1011, 1013 or 4000 to 4999 (see the contract's close codes).
            reason: at most 123 bytes of UTF-8.

        Raises:
            ValueError: another code, or a longer reason.
            RuntimeError: the connection is not accepted yet; raise `PermissionDenied` there instead.
        """
        if code not in (1000, 1008, 1011, 1013) and not 4000 <= code <= 4999:
            raise ValueError(f"a close code is 1000, 1008, 1011, 1013 or 4000 to 4999, not {code!r}")
        if len(reason.encode()) > 123:
            raise ValueError(f"a close reason has at most 123 bytes: {reason[:40]!r}…")
        if self._close is None:
            raise RuntimeError("a connection can be closed once it is accepted: raise PermissionDenied instead")
        self._close(code, reason)

    def usual_audiences(self) -> Iterable[Audience]:
        """Everyone, the user, the user's groups and the session: what `Facility.audiences` gives by default."""
        yield Everyone()
        if (name := self.identity.user_name) is not None:
            yield User(name)
        for group in self.groups:
            yield Group(group)
        if self.session_key is not None:
            yield Session(self.session_key)
