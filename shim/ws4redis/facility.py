"""The facilities that ws4redis had: any name in a URL, with audiences that the query asks for.

`/ws/foobar?subscribe-user&publish-broadcast&echo` listens to its user's messages of the facility `foobar`, publishes
what it sends to everyone there, and gets that back. `WS4REDIS_ALLOWED_CHANNELS` says who may do what; without it
anybody may do anything, as in ws4redis (check `realtime.W010`). Nothing of this depends on a backend.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Final, cast

from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest
from django.utils.module_loading import import_string

from shim.conf import conf
from shim.core.errors import InvalidAudience, shown
from shim.core.limits import TextHeartbeat
from shim.core.message import Message
from shim.core.names import Audience, Everyone, Topic
from shim.core.protocol import Protocol
from shim.door import Handshake, request_of
from shim.facility import Facility
from shim.visitor import Connection, Identity, identity_of, nobody, who
from shim.ws4redis.channel import CUSTOM
from shim.ws4redis.connection import StoreConnection
from shim.ws4redis.message import RedisMessage
from shim.ws4redis.settings import SUBSCRIBERS, Hook, ws4redis
from shim.ws4redis.subscriber import RedisSubscriber

HEARTBEAT_SECONDS: Final = 4.0
"""Between two text heartbeats. ws4redis's client gives up when it has had none for 20 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompatibleIdentity(Identity):
    """Who is there, with the request that ws4redis's callbacks are given."""

    request: HttpRequest = field(repr=False)


class CompatibleFacility(Facility):
    """A facility that no class claims, in the compatible mode. Each handshake has an instance of its own."""

    echo: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        """Take the name in the URL."""
        self.name = name  # type: ignore[misc]  # a class has one name, this has as many as there are URLs
        self._subscriber: RedisSubscriber | None = None

    def identify(self, handshake: Handshake) -> Identity:
        """Find out who is there (contract 1.2): by the session, or as `WS4REDIS_PROCESS_REQUEST` says.

        Raises:
            PermissionDenied: the project's function says no.
            Exception: it failed, or the session store or the database did.
        """
        request: Any = request_of(handshake)
        process_request = hook(ws4redis().process_request)
        if process_request is None:
            user, session = who(handshake.cookies)
            request.session = session
            request.user = user if session is not None else nobody()
        else:
            process_request(request)
            user = getattr(request, "user", None) or nobody()
            session = getattr(request, "session", None)
            if isinstance(session, SessionBase):
                session.get("")  # loads it: a key that does not exist, or has expired, becomes None
        found = identity_of(user, getattr(session, "session_key", None), handshake.cookies)
        return CompatibleIdentity(found.user, found.session_key, found.groups, found.subject, request=request)

    def audiences(self, connection: Connection) -> list[Audience]:
        """Say who this connection listens to: what it asks for, where the project's callback lets it.

        Raises:
            PermissionDenied: the callback, or the subscriber, says no; or this client could not tell its topics apart.
        """
        identity = connection.identity
        request: Any = cast("CompatibleIdentity", identity).request
        kind = subscriber_kind(ws4redis().subscriber)
        possible = {*kind.subscription_channels, *kind.publish_channels}
        words = [word.strip().lower() for word in connection.query]
        channels = [word for word in words if word in possible]
        if (allowed := hook(ws4redis().allowed_channels)) is not None:
            channels = _listed(allowed(request, channels))
        store = StoreConnection(connection)
        subscriber = kind(store)
        subscriber.set_pubsub_channels(request, channels)
        self._subscriber = subscriber
        # Who wants the request has it; a connection that lives for hours does not.
        connection.identity = Identity(identity.user, identity.session_key, identity.groups, identity.subject)
        connection.echo = "echo" in words
        connection.subprotocol = connection.subprotocol or offered(connection)
        connection.topics = store.topics
        if (heartbeat := ws4redis().heartbeat) is not None:
            connection.text_heartbeat = TextHeartbeat(heartbeat, HEARTBEAT_SECONDS)
        try:
            for topic in store.topics:
                conf().wire.channel(topic)
        except InvalidAudience as error:  # a name in a URL is the client's, and no fault of the facility's
            raise PermissionDenied(str(error)) from None
        if connection.protocol is Protocol.V1:
            _tell_apart(store.topics)
        return [topic.audience for topic in store.topics if topic.facility == self.name]

    def receive(self, connection: Connection, message: Message) -> None:  # noqa: ARG002  # the hook's
        """Publish what a client sent, where it said that it would publish; nowhere, if it did not."""
        if not message.value and not conf().wire.has_positions:
            return  # ws4redis published no empty messages, and its wire has none
        received = RedisMessage.received(message)
        if received is not None and self._subscriber is not None:
            self._subscriber.publish_message(received)

    def disconnected(self, connection: Connection, code: int) -> None:  # noqa: ARG002  # the hook's
        """Let the subscriber go."""
        if self._subscriber is not None:
            self._subscriber.release()


def _tell_apart(topics: Iterable[Topic]) -> None:
    """Look whether a v1 client could tell these apart: it goes by labels, and a subscriber may choose any channels."""
    seen: set[str] = set()
    for topic in topics:
        if topic.label in seen:
            raise PermissionDenied(
                f"two of this connection's channels are {topic.label!r} to a v1 client: connect without a subprotocol"
            )
        seen.add(topic.label)


def offered(connection: Connection) -> str | None:
    """The first subprotocol that a client offers, or None. As ws4redis, any will do: browsers want one of theirs."""
    first = connection.headers.get("sec-websocket-protocol", "").partition(",")[0].strip()
    return first or None


def compatible(name: str) -> CompatibleFacility | None:
    """The facility of that name; None where no facility can have it."""
    if name == CUSTOM:
        return None
    try:
        Topic(name, Everyone())
    except InvalidAudience:
        return None
    return CompatibleFacility(name)


@lru_cache(maxsize=8)
def subscriber_kind(path: str) -> type[RedisSubscriber]:
    """The class that `WS4REDIS_SUBSCRIBER` names.

    Raises:
        ImproperlyConfigured: it names none.
    """
    kind = RedisSubscriber if path in SUBSCRIBERS else _imported("WS4REDIS_SUBSCRIBER", path)
    if isinstance(kind, type) and issubclass(kind, RedisSubscriber):
        return kind
    raise ImproperlyConfigured(
        f"WS4REDIS_SUBSCRIBER names {shown(kind)}, and should name a class derived from "
        "ws4redis.subscriber.RedisSubscriber"
    )


def hook(told: Hook) -> Callable[..., Any] | None:
    """The function that a setting names; None where it is not set.

    Raises:
        ImproperlyConfigured: it names no function. ws4redis went on as if there were none.
    """
    if not isinstance(told, str):
        return told
    found = _imported("WS4REDIS_ALLOWED_CHANNELS or WS4REDIS_PROCESS_REQUEST", told)
    if callable(found):
        return cast("Callable[..., Any]", found)
    raise ImproperlyConfigured(f"{told}, which a WS4REDIS_ setting names, is no function: {shown(found)}")


def _imported(setting: str, path: str) -> object:
    try:
        return import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"{setting} names {path!r}, which cannot be imported: {error}") from error


def _listed(allowed: object) -> list[str]:
    if isinstance(allowed, (list, tuple, set, frozenset)):
        return [str(word) for word in allowed]
    raise ImproperlyConfigured(
        f"WS4REDIS_ALLOWED_CHANNELS returned {shown(allowed)}: it returns the list of channels that it allows, "
        "or raises PermissionDenied"
    )
