"""The flag on its way to the processes: pushed over Redis, polled as a fallback (contract 8.1, 8.2, 8.6).

Theory of operation. Operators change a waffle flag; the processes that serve connections must know within
250 ms, and within 10 s even without Redis. So:

* a change made through the ORM (admin, `waffle_flag` command, application code) fires signals; after its
  commit `push` sends the whole flag to every process and leaves a copy on Redis for processes that start
  later;
* a change that fires no signal (`queryset.update`, SQL, a migration), or one made while Redis was down,
  is found by `poll`, which each process's timer calls every 5 s or so;
* which of the two is believed when they cross is decided by `shim.core.cohorts.FlagState`.

The order of pushes needs no clock. A push takes a number from Redis, *then* reads the database, and it
runs after its own commit. Take two pushes with numbers 4 and 5. The change of 4 was committed before 4
took its number, which was before 5 took its own, which was before 5 read. So the read of 5 has seen the
change of 4: the highest number has seen every change that any lower one has, however slowly each was read
and sent. Hence also: a push that read its lists just before another change is followed by that change's
own.

waffle's cache is never read: it may hold the old value for minutes (facts, "django-waffle").
"""

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import connections, models, router, transaction
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save

from shim.api import sync_bus
from shim.bus.commands import new_epoch
from shim.bus.flag import flag_key, number_command, number_from, publish_command, stored_command, stored_from
from shim.complaints import Complaints
from shim.conf import conf
from shim.core.cohorts import MAX_LISTED, FlagState, Snapshot
from shim.core.errors import RealtimeUnavailable, WireError
from shim.core.names import control_channel
from shim.flag import LISTS, flag_list, flag_model, flag_rows, read_snapshot

logger = logging.getLogger(__name__)

POLL_INTERVAL: Final = 5.0
"""Seconds between two polls, on average: with jitter and a slow answer within the 10 s of contract 8.2."""

LOOK_INTERVAL: Final = 0.25
"""Seconds for which `current` trusts what it knows: contract 8.2's 250 ms, for those who get no pushes."""

_POLL_JITTER: Final = 0.2  # of the interval, either way: processes that start together do not poll together
_ATTEMPTS: Final = 3  # of a push whose number was lost together with Redis's data


_complaints = Complaints()


def _too_long(what: str) -> None:
    if _complaints.allow(what):
        logger.error(
            "The flag %r lists more than %d %s: the others stay on legacy. List a group, or use the percentage.",
            conf().flag,
            MAX_LISTED,
            what,
        )


# Pushing


def push(*, hurry: bool = False) -> Snapshot:
    """Tell every process how the flag stands, and leave a copy on Redis for those that start later.

    Call it after the change is committed; the module's head says why the order of the steps matters.

    Args:
        hurry: whoever has to move by it, or is still to be moved, does so at the hurried pace (contract 8.5). Heard by
            processes that Redis reaches; one that learns of the flag from the database alone takes its usual pace.

    Returns:
        What was told, or what was read where a newer push was faster.

    Raises:
        RealtimeUnavailable: Redis did not answer in time (contract 7.3); the poll will find the change.
        django.db.Error: the database did not answer.
    """
    bus, prefix, name = sync_bus(), conf().prefix, conf().flag
    for _ in range(_ATTEMPTS):
        version = number_from(bus.execute(*number_command(prefix, new_epoch())))
        snapshot = read_snapshot(name, version=version, too_long=_too_long)
        said = bus.execute(*publish_command(prefix, control_channel(prefix), snapshot, hurry=hurry))
        if said == 1 or (said == 0 and not hurry):  # 0: a newer push was faster, and it did not say "hurry"
            return snapshot
    raise RealtimeUnavailable(
        f"Redis lost the key {flag_key(prefix)!r} {_ATTEMPTS} times while the flag {name!r} was pushed: does it evict "
        "keys for lack of memory, or does somebody flush it?"
    )


def stored() -> Snapshot | None:
    """The flag as the last push left it on Redis: what a starting process knows without the database.

    Returns:
        None if nothing was pushed yet, or only another flag, or in a format that this version cannot read.

    Raises:
        RealtimeUnavailable: Redis did not answer in time.
    """
    return _ours(sync_bus().execute(*stored_command(conf().prefix)))


def _ours(reply: object) -> Snapshot | None:
    try:
        snapshot = stored_from(reply)
    except WireError as error:
        if _complaints.allow("stored"):
            logger.warning("The flag's copy on Redis is of no use, the database will be asked: %s", error)
        return None
    return snapshot if snapshot is not None and snapshot.name == conf().flag else None


# Polling


def new_state() -> FlagState:
    """What a process that serves connections knows of the flag, under `REALTIME_FORCE_BACKEND`.

    Feed it with `stored` at the start, with what the control channel says, and with `poll` from a timer.
    """
    return FlagState(conf().flag, force=conf().force_backend, lock=threading.Lock())


def poll(state: FlagState) -> bool:
    """Read the flag from the database, for what no push has told.

    Never raises: a flag store that is away moves nobody (contract 8.2), and is complained about once a
    minute. Keeps the thread's database connection by Django's rules (`CONN_MAX_AGE`), so that a thread
    that lives long never holds a stale one. Waits as long as the database driver does: call it from a
    thread (greenlet) that may wait, not from the one that walks the connections.

    Returns:
        Whether the flag changed by it: the process then looks at its connections again.
    """
    _close_stale_connections()
    try:
        return _poll(state)
    finally:
        _close_stale_connections()


def poll_delay(random: Callable[[], float]) -> float:
    """Seconds until the next poll: `POLL_INTERVAL`, give or take a fifth; `random` is a number in [0, 1)."""
    return POLL_INTERVAL * (1 + _POLL_JITTER * (2 * random() - 1))


def _close_stale_connections() -> None:
    for each in connections.all(initialized_only=True):
        if not each.in_atomic_block:  # somebody's transaction, in a test or a command, would be lost
            each.close_if_unusable_or_obsolete()


def _poll(state: FlagState) -> bool:
    started = state.version
    try:
        snapshot = read_snapshot(state.name, too_long=_too_long)
    except Exception:  # whatever it is: a timer that died of one bad poll would never see a rollback
        if _complaints.allow("database"):
            logger.warning(
                "The flag %r cannot be read from the database: everybody stays where they are "
                "(REALTIME_FORCE_BACKEND=legacy rolls back without it).",
                state.name,
                exc_info=True,
            )
        return False
    return state.polled(snapshot, started)


# Asking


class _Asked:
    """The flag for those who serve no connections.

    Not the state that a node holds, on purpose: a node must be the first to learn of a change in its own,
    or it would move nobody for it.
    """

    def __init__(self) -> None:
        self.conf = conf()
        self.state = new_state()
        self._look_at = self._poll_at = 0.0  # moments of the monotonic clock

    def refresh(self) -> None:
        now = monotonic()
        if now >= self._look_at:
            # Set before the wait for Redis: of many threads one asks, and the others use what is known.
            self._look_at = now + LOOK_INTERVAL
            try:
                snapshot = stored()
            except RealtimeUnavailable:
                self._look_at = monotonic() + POLL_INTERVAL
            else:
                if snapshot is not None:
                    self.state.pushed(snapshot)
        if now >= self._poll_at:
            self._poll_at = now + POLL_INTERVAL
            _poll(self.state)


_asked: _Asked | None = None


def current() -> FlagState:
    """The flag for whoever asks now and gets no pushes: endpoint discovery, a template, a command.

    At most 250 ms old while Redis is up, 5 s from the database alone (contract 8.2). Costs the whole
    process one small Redis read in 250 ms and one database read in 5 s while it is asked; under
    `REALTIME_FORCE_BACKEND` it costs nothing and needs neither (contract 8.6). May wait: not for an event
    loop's thread.
    """
    global _asked  # noqa: PLW0603 - one for each process, made when first asked for
    asked = _asked
    if asked is None or asked.conf is not conf():  # other settings: another flag, another Redis
        asked = _asked = _Asked()
    if asked.state.force is None:
        asked.refresh()
    return asked.state


# Signals


class _Pending(threading.local):
    """The pushes of this thread that wait for a commit, so that one commit pushes once.

    An admin's save fires five signals; with Redis away five pushes would be five time-outs. Counting is
    enough: when the first callback of a commit runs, all that this thread has asked for on that database
    is committed with it, or was rolled back.
    """

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        self._pushed: dict[str, int] = {}

    def ask(self, using: str) -> None:
        number = self._asked[using] = self._asked.get(using, 0) + 1
        transaction.on_commit(lambda: self._push(using, number), using=using, robust=True)

    def _push(self, using: str, number: int) -> None:
        if number <= self._pushed.get(using, 0):
            return
        self._pushed[using] = self._asked[using]
        try:
            push()
        except (RealtimeUnavailable, DatabaseError) as error:
            logger.warning(
                "The flag %r was changed but could not be pushed; every process finds it within 10 s: %s",
                conf().flag,
                error,
            )


_pending = _Pending()


def connect_signals() -> None:
    """Push the flag whenever it changes through the ORM; called when the app is ready. Idempotent.

    Listens to the flag model that waffle is set to, to its lists of users and groups from either side, and to users
    and groups being deleted. Only changes of the flag `REALTIME_FLAG` push, once for each commit.
    """
    try:
        flag_model()
    except ImproperlyConfigured:
        return  # a system check says so, with a hint; raised here, it would keep the checks from running
    for model in _with_subclasses(flag_model()):
        pre_save.connect(_before_save, sender=model)
        post_save.connect(_after_change, sender=model)
        post_delete.connect(_after_change, sender=model)
    for what in LISTS:
        if (field := flag_list(what)) is not None:
            m2m_changed.connect(_after_list_change, sender=getattr(flag_model(), what).through)
            for model in _with_subclasses(field.related_model):
                pre_delete.connect(_before_listed_delete, sender=model)


def _with_subclasses(model: Any) -> list[type[models.Model]]:
    return [each for each in apps.get_models() if issubclass(each, model)]  # a proxy's signals name the proxy


def _before_save(instance: Any, using: str, **_: Any) -> None:
    # Our flag under another name is gone, and once it is saved nothing tells that it was ours.
    name = conf().flag
    if instance.pk is not None and instance.name != name:
        instance.realtime_was_ours = flag_rows(name, using).filter(pk=instance.pk).exists()


def _after_change(instance: Any, using: str, **_: Any) -> None:
    if instance.name == conf().flag or instance.__dict__.pop("realtime_was_ours", False):
        _pending.ask(using)


def _after_list_change(
    instance: Any, action: str, reverse: bool, pk_set: set[Any] | None, using: str, **_: Any
) -> None:
    if not action.startswith("post_"):
        return
    name = conf().flag
    if not reverse:
        is_ours = instance.name == name
    else:  # from a user's or a group's side; without keys all were cleared, and nobody can say any more of what
        is_ours = pk_set is None or flag_rows(name, using).filter(pk__in=pk_set).exists()
    if is_ours:
        _pending.ask(using)


def _before_listed_delete(instance: models.Model, using: str, **_: Any) -> None:
    # The rows that list it go without a signal of their own, and before post_delete.
    if using != router.db_for_write(flag_model()):
        return  # that database need not have the flag's tables
    for what in LISTS:
        field = flag_list(what)
        if field is None or not isinstance(instance, field.related_model):
            continue
        if flag_rows(conf().flag, using).filter(**{what: instance.pk}).exists():
            _pending.ask(using)
