"""What publishers and subscribers have in common: whom they mean, and how they publish."""

import warnings
from collections.abc import Iterable
from typing import Any, Final

from shim.core.names import Audience, Everyone, Group, Session, Topic, User
from shim.ws4redis.channel import Channel
from shim.ws4redis.connection import Expire, StoreConnection, prefix
from shim.ws4redis.message import RedisMessage
from shim.ws4redis.session import groups_of, is_authenticated
from shim.ws4redis.settings import ws4redis


class _Self:
    """The type of `SELF`."""

    def __repr__(self) -> str:
        return "SELF"


SELF: Final = _Self()
"""In a list of users, groups or sessions: whoever makes the request. It stands for nobody where nobody is signed in."""

type Names = list[Any] | tuple[Any, ...] | str | bool
"""Users, groups or sessions: a list with names and `SELF`. `True` for `SELF` and a single name are deprecated."""

# How deep inside of us a deprecated argument is found, seen from a publisher's constructor.
_CALLERS_LEVEL: Final = 5


class _Expire:
    """`WS4REDIS_EXPIRE`, for stores that say nothing else."""

    def __get__(self, store: object, owner: object) -> Expire:
        """The setting, read when asked for."""
        return ws4redis().expire


class RedisStore:
    """The base of publishers and subscribers.

    Args:
        connection: a `StoreConnection`. Another one, which a test may have made, is kept and not used.

    Attributes:
        _publishers: the channels that `publish_message` publishes on.
        _expire: the default of `expire`: `WS4REDIS_EXPIRE`, unless a subclass says otherwise.
    """

    _expire: Any = _Expire()

    def __init__(self, connection: Any = None) -> None:
        self._connection = StoreConnection() if connection is None else connection
        self._publishers: set[str] = set()

    def publish_message(self, message: RedisMessage, expire: Expire | None = None) -> None:
        """Publish a message for everybody whom this store means.

        It is an ordinary message of realtime shim: history, moves and both backends are as for `realtime.publish`.

        Args:
            message: a `RedisMessage`.
            expire: seconds for which it is kept, 7 days at most: who connects meanwhile gets it, if it is the last
                (contract 5.2). None is `WS4REDIS_EXPIRE`. With 0 nothing is kept: at most once.

        Raises:
            ValueError: not a `RedisMessage`, or what cannot be carried; nothing was sent (contract 4.2).
            RealtimeUnavailable: Redis did not take it in time (contract 7.3).
        """
        if not isinstance(message, RedisMessage):
            raise ValueError(f"message is a RedisMessage, not a {type(message).__name__}: wrap it in RedisMessage(…)")
        own = self._connection
        store = own if isinstance(own, StoreConnection) else StoreConnection()
        store.send(self._publishers, message, self._expire if expire is None else expire)

    def pipeline_publish_message(self, message: RedisMessage, expire: Expire | None = None) -> None:
        """The same as `publish_message`, which needs one round trip by itself."""
        self.publish_message(message, expire)

    @staticmethod
    def get_prefix() -> str:
        """What names of channels begin with: `WS4REDIS_PREFIX` and a colon, or nothing."""
        return prefix()

    def _get_message_channels(
        self,
        request: Any = None,
        facility: Any = "{facility}",
        broadcast: bool = False,
        groups: Names = (),
        users: Names = (),
        sessions: Names = (),
    ) -> list[str]:
        """The channels of everybody who is named.

        Raises:
            ValueError: a wrong type, or a name that cannot be carried (contract 4.2).
        """
        audiences: list[Audience] = [Everyone()] if broadcast is True else []
        audiences += map(Group, _names("groups", groups, request))
        audiences += map(User, _names("users", users, request))
        audiences += map(Session, _names("sessions", sessions, request))
        return [Channel(Topic(str(facility), audience), prefix()) for audience in audiences]


def _names(argument: str, told: Names, request: Any) -> list[str]:
    """The names in an argument, each once, in a fixed order; nothing is nobody."""
    items: Iterable[Any]
    if isinstance(told, (list, tuple)):
        items = told
    elif told is True:
        _deprecated(f"{argument}=True is [SELF]")
        items = (SELF,)
    elif isinstance(told, str):
        _deprecated(f"a single name is a list with one: {argument}=[{told!r}]")
        items = (told,)
    elif told is False:
        items = ()
    else:
        raise ValueError(f"Argument `{argument}` must be a list or tuple, not a {type(told).__name__}")
    found: set[str] = set()
    for item in items:
        if isinstance(item, _Self):
            found.update(_self(argument, request))
        elif item is not None and str(item):
            found.add(str(item))
    return sorted(found)


def _self(argument: str, request: Any) -> Iterable[str]:
    """Who `SELF` is."""
    if argument == "groups":
        return groups_of(request)
    if argument == "users":
        return [str(request.user.get_username())] if is_authenticated(request) else []
    key = getattr(getattr(request, "session", None), "session_key", None)
    return [key] if key else []


def _deprecated(what: str) -> None:
    warnings.warn(f"ws4redis: {what}", DeprecationWarning, stacklevel=_CALLERS_LEVEL)
