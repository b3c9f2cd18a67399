"""Facilities, audiences and topics, and the names they get on Redis.

A topic is one facility and one audience (contract, "Words"). Its *tag* is the text that stands for it in
channel and key names. The encoding is injective, so no name can reach another's topic (contract 3.3):

* ASCII letters, digits, ``_``, ``-``, ``.`` and ``@`` stand for themselves;
* every other byte of the UTF-8 form is ``%XX``;
* a name whose encoded form is longer than 120 characters is ``~`` and its SHA-256 in hex (``~`` is never
  produced by the rules above), which bounds key length;
* session keys are always hashed: they are credentials, and key names show up in MONITOR and in logs.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import ClassVar, Final

from shim.core.errors import InvalidAudience, shown

MAX_NAME_BYTES: Final = 65_536
"""Longest user, group, session or facility name, in bytes of UTF-8."""

_LONGEST_PLAIN: Final = 120
_LONGEST_KEPT: Final = 256  # characters: longer names are encoded anew each time, so the caches stay under 4 MiB
_ESCAPED: Final = re.compile(rb"[^A-Za-z0-9_.@-]")


def _checked(name: object, what: str) -> str:
    if not isinstance(name, str):
        raise InvalidAudience(f"a {what} name is a str, not {type(name).__name__}: {shown(name)}")
    if not name:
        raise InvalidAudience(f"a {what} name is empty: give the name of one {what}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidAudience(
            f"a {what} name holds a lone surrogate, which UTF-8 cannot carry: {shown(name)}"
        ) from None
    if size > MAX_NAME_BYTES:
        raise InvalidAudience(f"a {what} name is {size} bytes long, the limit is {MAX_NAME_BYTES}: {shown(name)}")
    return name


def _encoded(name: str) -> str:
    return _kept_encoded(name) if len(name) <= _LONGEST_KEPT else _encode(name)


def _hashed(name: str) -> str:
    return "~" + sha256(name.encode()).hexdigest()


def _encode(name: str) -> str:
    plain = _ESCAPED.sub(lambda match: b"%%%02X" % match[0][0], name.encode()).decode("ascii")
    return plain if len(plain) <= _LONGEST_PLAIN else _hashed(name)


_kept_encoded = lru_cache(maxsize=4096)(_encode)


@dataclass(frozen=True, slots=True)
class Everyone:
    """All connections of a facility."""

    kind: ClassVar[str] = "e"

    @property
    def label(self) -> str:
        """The topic's name on the client's side (contract, v1 frames)."""
        return "everyone"

    @property
    def encoded(self) -> str:
        """The audience's part of a topic's tag."""
        return ""


@dataclass(frozen=True, slots=True)
class User:
    """The connections of one signed-in user, by user name (`get_username()`).

    Raises:
        InvalidAudience: the name is not a str, is empty, holds a lone surrogate or is over 64 KiB (contract 4.2).
    """

    name: str
    kind: ClassVar[str] = "u"

    def __post_init__(self) -> None:
        _checked(self.name, "user")

    @property
    def label(self) -> str:
        """The topic's name on the client's side: each client has one user at most."""
        return "user"

    @property
    def encoded(self) -> str:
        """The audience's part of a topic's tag."""
        return _encoded(self.name)


@dataclass(frozen=True, slots=True)
class Group:
    """The connections of the members of one Django group, by group name.

    Raises:
        InvalidAudience: as for `User`.
    """

    name: str
    kind: ClassVar[str] = "g"

    def __post_init__(self) -> None:
        _checked(self.name, "group")

    @property
    def label(self) -> str:
        """The topic's name on the client's side."""
        return f"group:{self.name}"

    @property
    def encoded(self) -> str:
        """The audience's part of a topic's tag."""
        return _encoded(self.name)


@dataclass(frozen=True, slots=True)
class Session:
    """The connections of one browser session, by session key.

    Raises:
        InvalidAudience: as for `User`.
    """

    key: str
    kind: ClassVar[str] = "s"

    def __post_init__(self) -> None:
        _checked(self.key, "session")

    def __repr__(self) -> str:
        return f"Session({self.key[:4]!r}…)"  # a session key is a credential: never whole in a log

    @property
    def label(self) -> str:
        """The topic's name on the client's side: each client has one session at most."""
        return "session"

    @property
    def encoded(self) -> str:
        """The audience's part of a topic's tag."""
        return _hashed(self.key)


type Audience = Everyone | User | Group | Session


@dataclass(frozen=True, slots=True)
class Topic:
    """One facility and one audience: the unit of order, history and subscription.

    Raises:
        InvalidAudience: the facility's name is bad, or `audience` is not an audience (contract 4.2).
    """

    facility: str
    audience: Audience

    def __post_init__(self) -> None:
        _checked(self.facility, "facility")
        if not isinstance(self.audience, (Everyone, User, Group, Session)):
            raise InvalidAudience(
                f"an audience is Everyone(), User(name), Group(name) or Session(key), not {shown(self.audience)}"
            )

    @property
    def label(self) -> str:
        """The topic's name on the client's side: `everyone`, `user`, `session` or `group:<name>`."""
        return self.audience.label

    @property
    def tag(self) -> str:
        """The topic's part of Redis names: `facility:kind:name`, each part encoded."""
        return f"{_encoded(self.facility)}:{self.audience.kind}:{self.audience.encoded}"

    def channel(self, prefix: str) -> str:
        """The Redis channel of this topic, and the stem of its keys; the tag is a cluster hash tag."""
        return f"{prefix}:{{{self.tag}}}"


CONTROL: Final = "control"
"""The tag of the topic by which processes are told what is no message: sign-outs, flips. No facility's has no colon."""


def control_channel(prefix: str) -> str:
    """The Redis channel of the control topic, and the stem of its keys."""
    return f"{prefix}:{{{CONTROL}}}"
