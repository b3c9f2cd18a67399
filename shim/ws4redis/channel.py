"""ws4redis's channels: the names that topics had on Redis, and the topics that such names mean now.

A channel was called ``[prefix:]broadcast:facility`` or ``[prefix:]user:name:facility``, with `group` and `session` in
the same way. Application code sees such names, compares them and makes them, so they go on existing here; on Redis a
topic is called otherwise (`shim.core.names`), because these run together when a name holds a colon (contract 3.3).
"""

from collections.abc import Callable
from typing import Final, Self

from shim.core.names import Audience, Everyone, Group, Session, Topic, User

CUSTOM: Final = "ws4redis:channels"
"""The facility of channels that an application's own subscriber has invented. No URL leads to it."""

_KINDS: Final[dict[str, Callable[[str], Audience]]] = {"user": User, "group": Group, "session": Session}
_WORDS: Final = {"u": "user", "g": "group", "s": "session"}


class Channel(str):
    """The old name of a topic, which knows its topic."""

    __slots__ = ("topic",)
    topic: Topic

    def __new__(cls, topic: Topic, prefix: str) -> Self:
        """Take a topic, and the prefix with its colon."""
        channel = super().__new__(cls, prefix + _name(topic))
        channel.topic = topic
        return channel


def topic_of(channel: str, prefix: str) -> Topic:
    """The topic of a channel, whoever has made its name.

    Where the name could be read in two ways, the audience is as short as can be. A name of another form is a topic of
    its own, the same for all facilities.

    Args:
        prefix: with its colon.

    Raises:
        InvalidAudience: empty, or too long.
    """
    if isinstance(channel, Channel):
        return channel.topic
    kind, _, rest = channel.removeprefix(prefix).partition(":")
    if kind == "broadcast" and rest:
        return Topic(rest, Everyone())
    name, _, facility = rest.partition(":")
    if kind in _KINDS and name and facility:
        return Topic(facility, _KINDS[kind](name))
    return Topic(CUSTOM, Group(channel))


def _name(topic: Topic) -> str:
    audience: Audience = topic.audience
    match audience:
        case Everyone():
            return f"broadcast:{topic.facility}"
        case Session(key):
            return f"session:{key}:{topic.facility}"
        case User(name) | Group(name):
            return f"{_WORDS[audience.kind]}:{name}:{topic.facility}"
