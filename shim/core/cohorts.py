"""Cohorts: which backend serves whom, as a pure function of the flag and the subject (contract 8.1).

waffle is where operators set the flag; the decision is made here, because waffle's own is random per request
and may come from a cache that is minutes old (facts, "django-waffle"). The flag's fields are frozen into a
`Snapshot`; every process that holds the same snapshot gives the same answer for the same `Subject`, whatever
its hash seed, clock or host.

Rules, the first that applies decides:

1. no such flag: legacy;
2. `everyone` Yes: channels; `everyone` No: legacy, which beats all that follows, listed users and superusers
   too;
3. signed-in subjects: `superusers`, `staff`, `authenticated`, listed users, listed groups: channels;
4. `percent`: channels if the subject's bucket lies under it. The bucket is a salted hash of the subject, so
   raising the percentage only adds people, lowering it only removes the last added, and two flags cut the
   people differently;
5. else legacy.

Three fields of a waffle flag are not used, because they say something about a request and not about a person:
two requests of one person could get two answers, and an open connection could not be asked again. They are
`languages` (the language of the request), `testing` (a query argument or cookie lets the client choose) and
`rollout` (how long waffle's random answer is kept in a cookie).
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final, Literal, Self

from shim.core.errors import WireError, shown

type Cohort = Literal["legacy", "channels"]
type Version = tuple[str, int]

LEGACY: Final = "legacy"
CHANNELS: Final = "channels"

BUCKETS: Final = 100_000
"""Steps of the percentage: one is 0.001 %."""

MAX_LISTED: Final = 10_000
"""Users that a snapshot lists at most, and groups.

A push goes to every process at once: 10,000 integer keys are about 90 kB of JSON, so 500 processes take 45 MB
from Redis, which is as much as 8.2's 250 ms carry on a link of 1.5 Gbit/s. Who needs more lists a group (one
entry, however many members) or uses the percentage.
"""

UNVERSIONED: Final[Version] = ("", 0)
"""The version of a snapshot that no push has numbered: read from the database alone."""

_FORMAT: Final = 1
_FLAGS: Final = ("exists", "superusers", "staff", "authenticated")


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose cohort is asked.

    Args:
        user: `str(user.pk)`, or None when nobody is signed in.
        session: the session key.
        anonymous: the id from the anonymous cookie.
        staff: the user's `is_staff`.
        superuser: the user's `is_superuser`.
        groups: `str(group.pk)` of the user's groups.
    """

    user: str | None = None
    session: str | None = field(default=None, repr=False)  # a session key is a credential: never in a log
    anonymous: str | None = None
    staff: bool = False
    superuser: bool = False
    groups: frozenset[str] = frozenset()

    @property
    def key(self) -> str | None:
        """What the bucket is drawn from: the user, else the session, else the anonymous id, else nothing."""
        if self.user:
            return f"user:{self.user}"
        if self.session:
            return f"session:{self.session}"
        if self.anonymous:
            return f"anonymous:{self.anonymous}"
        return None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The flag, frozen: all that a cohort depends on.

    Args:
        name: the flag's name; it salts the buckets, so a renamed flag is another draw.
        exists: whether there is such a flag.
        everyone: waffle's Yes, No, or None for "look at the rest".
        percent: thousandths of a per cent, 0 to 100,000.
        superusers, staff, authenticated: channels for all of them.
        users: `str(user.pk)` of the listed users, at most `MAX_LISTED`.
        groups: `str(group.pk)` of the listed groups, at most `MAX_LISTED`.
        version: the epoch of the flag's counter on Redis, and the counter; see `FlagState`.

    Raises:
        ValueError: a percentage out of range, or a list too long.
    """

    name: str
    exists: bool = False
    everyone: bool | None = None
    percent: int = 0
    superusers: bool = False
    staff: bool = False
    authenticated: bool = False
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    version: Version = UNVERSIONED

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= BUCKETS:
            raise ValueError(f"percent is 0 to {BUCKETS} thousandths of a per cent: {shown(self.percent)}")
        for what, listed in (("users", self.users), ("groups", self.groups)):
            if len(listed) > MAX_LISTED:
                raise ValueError(
                    f"the flag {shown(self.name)} lists {len(listed)} {what}, the limit is {MAX_LISTED}: "
                    "list a group, or use the percentage"
                )

    @property
    def digest(self) -> str:
        """16 hex digits that stand for the contents without the version: equal contents, equal digest."""
        text = json.dumps(self._contents(), sort_keys=True, separators=(",", ":"))
        return sha256(text.encode()).hexdigest()[:16]

    @property
    def everybodys(self) -> Cohort | None:
        """The cohort of every subject, so that nobody need be looked up; None where it depends on the subject."""
        if self.exists and self.everyone is not None:
            return CHANNELS if self.everyone else LEGACY
        asks = self.percent or self.superusers or self.staff or self.authenticated or self.users or self.groups
        return None if self.exists and asks else LEGACY

    def to_json(self) -> dict[str, Any]:
        """A JSON object that carries this snapshot; plain types only, lists sorted."""
        return {**self._contents(), "version": list(self.version)}

    @classmethod
    def from_json(cls, data: str | bytes | Mapping[str, Any]) -> Self:
        """Read a snapshot back, from JSON text or from the object that it holds.

        Keys that this version does not know are passed over, so that a field can be added.

        Raises:
            WireError: not a snapshot, or one of a format that this version cannot read.
        """
        try:
            found: Any = json.loads(data) if isinstance(data, (str, bytes)) else data
            _is_format(found["format"])
            epoch, number = found["version"]
            return cls(
                name=_is(str, found["name"]),
                everyone=None if found["everyone"] is None else _is(bool, found["everyone"]),
                percent=_is(int, found["percent"]),
                users=_keys(found["users"]),
                groups=_keys(found["groups"]),
                version=(_is(str, epoch), _is(int, number)),
                **{name: _is(bool, found[name]) for name in _FLAGS},
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise WireError(
                f"not a flag snapshot ({error!r}): {shown(data)}; does something else write under this "
                "prefix, or a newer version of realtime shim?"
            ) from None

    def _contents(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "name": self.name,
            "everyone": self.everyone,
            "percent": self.percent,
            "users": sorted(self.users),
            "groups": sorted(self.groups),
            **{name: getattr(self, name) for name in _FLAGS},
        }


def _is[T](kind: type[T], value: object) -> T:
    if type(value) is not kind:  # bool is an int to isinstance()
        raise TypeError(f"{shown(value)} is not {kind.__name__}")
    return value


def _is_format(value: object) -> None:
    if value != _FORMAT:
        raise ValueError(f"format {shown(value)}, this version reads {_FORMAT}")


def _keys(values: Iterable[object]) -> frozenset[str]:
    return frozenset(_is(str, value) for value in _is(list, values))


def bucket(name: str, key: str) -> int:
    """The subject's place in the draw of one flag: 0 to `BUCKETS` - 1, each as likely.

    SHA-256 of flag name, NUL, subject: the same in every process, and in any language that wants to know it.
    64 bits of it are reduced, which prefers no bucket by more than one part in 10^14.
    """
    digest = sha256(f"{name}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def cohort(snapshot: Snapshot, subject: Subject) -> Cohort:
    """Which backend serves a subject under a flag (contract 8.1): the rules at the head of this module."""
    return CHANNELS if _chosen(snapshot, subject) else LEGACY


def _chosen(flag: Snapshot, subject: Subject) -> bool:
    if not flag.exists:
        return False
    if flag.everyone is not None:
        return flag.everyone
    if subject.user and (
        flag.authenticated
        or (flag.superusers and subject.superuser)
        or (flag.staff and subject.staff)
        or subject.user in flag.users
        or not flag.groups.isdisjoint(subject.groups)
    ):
        return True
    key = subject.key
    return key is not None and bucket(flag.name, key) < flag.percent


class FlagState:
    """The flag as one process knows it: snapshots come by push and by poll, and the newest stays.

    A push is numbered on Redis *before* its database read, so the higher number has seen every change
    that the lower ones have; a poll has no number. Hence:

    * a push is taken if its number is higher, or its epoch another (Redis lost its data and counts anew;
      a push checks its epoch as it is published, so none of an older epoch can come later);
    * a poll is taken only if no push came while it read, and keeps the number that was held. It cannot
      bring an old value back over a newer push, it can only find what was never pushed
      (`queryset.update`, Redis down).

    Where the two still cross (a push that read before a change which was not pushed), or where Redis fell back
    to lower numbers of the same epoch (a fail-over to a replica that was behind), the next poll puts it right,
    within contract 8.2's 10 s.

    Args:
        name: the flag, `REALTIME_FLAG`; pushes about another are passed over (two settings on one Redis).
        force: `REALTIME_FORCE_BACKEND`: the answer for everybody, whatever the flag says (contract 8.6).
        lock: held while a snapshot is taken, where pushes and polls run in different threads.
    """

    __slots__ = ("_current", "_lock", "force", "name")

    def __init__(
        self, name: str, *, force: Cohort | None = None, lock: AbstractContextManager[Any] | None = None
    ) -> None:
        self.name = name
        self.force = force
        self._current: Snapshot | None = None
        self._lock = lock or nullcontext()

    @property
    def current(self) -> Snapshot | None:
        """The newest snapshot, or None while the flag store was never reached."""
        return self._current

    @property
    def version(self) -> Version | None:
        """The version of `current`: give it to `polled` as it was before the poll read anything."""
        return self._current.version if self._current else None

    def pushed(self, snapshot: Snapshot) -> bool:
        """Take a snapshot that came over Redis; an older one, or another flag's, is passed over.

        Returns:
            Whether the contents changed: the process then looks at its connections again (contract 8.2).
        """
        if snapshot.name != self.name:
            return False
        with self._lock:
            held = self.version
            if held is not None and held[0] == snapshot.version[0] and held[1] >= snapshot.version[1]:
                return False
            return self._take(snapshot)

    def polled(self, snapshot: Snapshot, started: Version | None) -> bool:
        """Take a snapshot that was read from the database, unless a push came since the reading began.

        Args:
            snapshot: what was read; its version is not looked at.
            started: `version` as it was before the reading began.

        Returns:
            Whether the contents changed.
        """
        with self._lock:
            if self.version != started:
                return False
            return self._take(replace(snapshot, version=started or UNVERSIONED))

    def cohort(self, subject: Subject) -> Cohort | None:
        """The subject's cohort, or None while it is unknown because the flag store was never reached.

        Unknown moves nobody (contract 8.2: an outage moves nobody), and counts as legacy for who comes in.
        """
        if self.force is not None:
            return self.force
        return cohort(self._current, subject) if self._current else None

    def _take(self, snapshot: Snapshot) -> bool:
        changed = self._current is None or self._current.digest != snapshot.digest
        self._current = snapshot
        return changed
