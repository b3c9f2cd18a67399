"""Facilities: the realtime endpoints of an application, declared in each app's `realtime.py`.

```python
class Calls(Facility):
    name = "calls"

    def receive(self, connection, message):
        connection.send({"got": message.value})
```

There is one instance of each facility in a process, shared by all connections: keep no state on it.
"""

from collections.abc import Awaitable, Iterable
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules

from shim.conf import conf
from shim.core.errors import InvalidAudience, PublishingClosed, shown
from shim.core.history import History
from shim.core.message import Message
from shim.core.names import Audience, Everyone, Topic
from shim.visitor import Connection


class Facility:
    """One realtime endpoint, `<ws prefix>/<name>`. Subclass it; declaring the subclass registers it.

    Each method may be `def` or `async def`, on both backends (contract 6.1). A `def` may block and use the ORM.

    Attributes:
        name: the last part of the URL, and the `facility` argument of `realtime.publish`.
        history: what is kept of each topic (contract 5.1); None means the project's default.
        echo: a sender gets back what is published with `sender=connection`, like everybody. False is ws4redis's rule
            (contract 6.5): a sender gets it only where it has connected with `?echo`.
    """

    name: ClassVar[str]
    history: ClassVar[History | None] = None
    echo: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register the subclass by its name; one without a name of its own is a base class."""
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            _register(cls)

    def audiences(self, connection: Connection) -> Iterable[Audience] | Awaitable[Iterable[Audience]]:
        """Say who this connection listens to (contract 1.3). The client can only narrow it.

        Must not send to the connection: it is not accepted yet.

        Args:
            connection: who is there; `connection.usual_audiences()` is the default answer.

        Returns:
            Audiences, in any order; duplicates do not count.

        Raises:
            PermissionDenied: refuse this connection (403, contract 1.1).
        """
        return connection.usual_audiences()

    def receive(self, connection: Connection, message: Message) -> Awaitable[None] | None:
        """Take what a client sent: one message at a time, in the order sent (contract 6.1).

        Raises:
            PublishingClosed: the default: clients may send nothing here (contract 1.3).
            PermissionDenied: this client may not do that: an `error` frame (v1), or 1008.
            Exception: anything else closes this connection with 1011 and is logged (contract 6.2).
        """
        raise PublishingClosed(f"{self.name} takes nothing from clients")

    def disconnected(self, connection: Connection, code: int) -> Awaitable[None] | None:
        """Note that an accepted connection has ended: called exactly once (contract 6.4).

        Args:
            code: the close code, ours or the client's; 1006 when the line just broke, 1005 when none was given.
        """
        return None


_facilities: dict[str, Facility] = {}


def _register(kind: type[Facility]) -> None:
    try:
        Topic(kind.name, Everyone())
    except InvalidAudience as error:
        raise ImproperlyConfigured(f"{kind.__qualname__}.name: {error}") from None
    taken = _facilities.get(kind.name)
    if taken is not None and _where(type(taken)) != _where(kind):
        raise ImproperlyConfigured(
            f"two facilities are named {kind.name!r}: {_where(type(taken))} and {_where(kind)}; rename one"
        )
    _facilities[kind.name] = kind()


def _where(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def facility(name: str) -> Facility | None:
    """The facility of that name, or None. In the compatible mode every name that can be one has a facility."""
    found = _facilities.get(name)
    if found is None and conf().ws4redis is not None:
        from shim.ws4redis.facility import compatible  # noqa: PLC0415  # it stands on this module

        return compatible(name)
    return found


def facilities() -> tuple[Facility, ...]:
    """All facilities, by name."""
    return tuple(_facilities[name] for name in sorted(_facilities))


def discover() -> None:
    """Import each installed app's `realtime` module, as Django does with `admin`."""
    autodiscover_modules("realtime")


def history_of(name: str, default: History) -> History:
    """The history of a facility's topics where a publish does not say (contract 5.1)."""
    found = _facilities.get(name)
    return found.history if found is not None and found.history is not None else default


def topics_of(connection: Connection, audiences: Iterable[Audience]) -> tuple[Topic, ...]:
    """The topics that a connection listens to: what the facility allows, narrowed by the client (contract 1.3).

    The client narrows with `?subscribe-everyone`, `subscribe-user`, `subscribe-group`, `subscribe-session` (and
    ws4redis's `subscribe-broadcast`); without any of them it gets all.

    Raises:
        InvalidAudience: the facility gave something that is not an audience.
    """
    if connection.topics is not None:
        return connection.topics
    wanted = {kind for word, kind in _NARROWING.items() if word in connection.query}
    topics: dict[str, Topic] = {}
    for audience in audiences:
        topic = Topic(connection.facility, audience)
        if topic.label in topics and topics[topic.label] != topic:
            raise InvalidAudience(
                f"{connection.facility}.audiences() gave two audiences that a client knows as {topic.label!r}: "
                f"{shown(topics[topic.label].audience)} and {shown(audience)}; use groups"
            )
        topics[topic.label] = topic
    return tuple(topic for topic in topics.values() if not wanted or topic.audience.kind in wanted)


_NARROWING = {
    "subscribe-everyone": "e",
    "subscribe-broadcast": "e",
    "subscribe-user": "u",
    "subscribe-group": "g",
    "subscribe-session": "s",
}
