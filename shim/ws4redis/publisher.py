"""ws4redis's publisher, for views and tasks."""

from typing import Any

from shim.core.names import Everyone, Group, Session, Topic, User
from shim.ws4redis.connection import StoreConnection
from shim.ws4redis.session import groups_of, is_authenticated
from shim.ws4redis.store import RedisStore


class RedisPublisher(RedisStore):
    """Publishes to those who are named; without names it can fetch.

    Args:
        connection: as for `RedisStore`.
        facility: name of the facility.
        broadcast: everyone.
        users, groups, sessions: lists of names; `SELF` in them is whoever makes `request`.
        request: the request of a view.

    Raises:
        ValueError: a wrong type, or a name that cannot be carried (contract 4.2).
    """

    def __init__(self, connection: Any = None, **kwargs: Any) -> None:
        super().__init__(connection)
        self._publishers.update(self._get_message_channels(**kwargs))

    def fetch_message(self, request: Any, facility: str, audience: str = "any") -> bytes | None:
        """The last message that is kept for whoever makes a request.

        Args:
            request: of a view; None is nobody.
            facility: name of the facility.
            audience: `session`, `user`, `group`, `broadcast`, or `any`: the first of these, in this order, with one.

        Raises:
            RealtimeUnavailable: Redis did not answer in time (contract 7.3).
        """
        topics: list[Topic] = []
        if audience in ("session", "any") and (key := _session_key(request)):
            topics.append(Topic(facility, Session(key)))
        if audience in ("user", "any") and is_authenticated(request):
            topics.append(Topic(facility, User(str(request.user.get_username()))))
        if audience in ("group", "any"):
            topics += [Topic(facility, Group(name)) for name in groups_of(request)]
        if audience in ("broadcast", "any"):
            topics.append(Topic(facility, Everyone()))
        return StoreConnection().last(topics)


def _session_key(request: Any) -> str | None:
    key: str | None = getattr(getattr(request, "session", None), "session_key", None)
    return key
