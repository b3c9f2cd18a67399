import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import redis
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.db.models.signals import pre_delete
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from waffle.models import Flag

from shim import rollout
from shim.complaints import Complaints
from shim.core.cohorts import CHANNELS, LEGACY, Snapshot, Subject
from shim.core.errors import RealtimeUnavailable
from shim.core.names import control_channel
from shim.core.wire import decode
from shim.flag import _thousandths, read_snapshot
from shim.rollout import connect_signals, current, new_state, poll, poll_delay, push, stored
from tests.flags.models import BareFlag, FlagProxy, TeamFlag

NAME = "realtime_channels"
ANA = Subject(user="1")
DEADLINE = 5.0  # seconds


class Ear:
    """Hears what is said on the control channel."""

    def __init__(self, url: str, prefix: str) -> None:
        self._redis = redis.Redis.from_url(url, socket_timeout=DEADLINE)
        self._channel = control_channel(prefix)
        self._pubsub: Any = self._redis.pubsub()  # type: ignore[no-untyped-call] # redis-py's
        self._pubsub.subscribe(self._channel)
        assert self._next()["type"] == "subscribe"

    def flag(self) -> Snapshot:
        """The next flag that is said."""
        fields = json.loads(decode(self._next()["data"]).body)
        assert fields["op"] == "flag"
        return Snapshot.from_json(fields["snapshot"])

    def nothing(self) -> None:
        """Nothing more was said: order is kept, so the next that is heard is what we say now."""
        self._redis.publish(self._channel, b"end")
        assert self._next()["data"] == b"end"

    def only(self) -> Snapshot:
        """The one flag that was said."""
        snapshot = self.flag()
        self.nothing()
        return snapshot

    def close(self) -> None:
        self._pubsub.close()
        self._redis.close()

    def _next(self) -> dict[str, Any]:
        message = self._pubsub.get_message(timeout=DEADLINE)
        assert message is not None, f"nothing was said within {DEADLINE} s"
        return dict(message)


@pytest.fixture
def ear(bus_settings: str, database: None) -> Iterator[Ear]:
    ear = Ear(bus_settings, "rt")
    yield ear
    ear.close()


@pytest.fixture(autouse=True)
def _complaints_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "_complaints", Complaints())
    monkeypatch.setattr(rollout, "_asked", None)


@pytest.fixture
def flag(ear: Ear) -> Flag:
    made = Flag(name=NAME, superusers=False)
    made.save()
    ear.only()
    return made


@contextmanager
def database_down() -> Iterator[None]:
    def refuse(*_: object) -> None:
        raise OperationalError("the database has gone away")

    with connection.execute_wrapper(refuse):
        yield


@contextmanager
def rolled_back() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


class TestReading:
    def test_no_such_flag(self, database: None) -> None:
        assert read_snapshot(NAME) == Snapshot(NAME)

    def test_every_field_that_counts(self, flag: Flag, ear: Ear) -> None:
        ana = User.objects.create(username="ana")
        team = Group.objects.create(name="team")
        flag.percent, flag.staff, flag.superusers, flag.authenticated = Decimal("12.5"), True, True, True
        flag.languages, flag.testing, flag.rollout = "de", True, True
        flag.save()
        flag.users.add(ana)
        flag.groups.add(team)
        assert read_snapshot(NAME) == Snapshot(
            NAME,
            exists=True,
            percent=12_500,
            superusers=True,
            staff=True,
            authenticated=True,
            users=frozenset({str(ana.pk)}),
            groups=frozenset({str(team.pk)}),
        )

    @pytest.mark.parametrize(("percent", "thousandths"), [(None, 0), ("0.1", 100), ("33.3", 33_300), ("99.9", 99_900)])
    def test_the_percentage_is_exact(self, flag: Flag, percent: str | None, thousandths: int) -> None:
        Flag.objects.update(percent=percent)
        assert read_snapshot(NAME).percent == thousandths

    @pytest.mark.parametrize(
        ("percent", "thousandths"),
        [(0.1, 100), (12, 12_000), (Decimal("0.0019"), 1), (250, 100_000), (-1, 0), (Decimal("NaN"), 0)],
    )
    def test_a_percentage_of_a_field_of_ones_own(self, percent: object, thousandths: int) -> None:
        assert _thousandths(percent) == thousandths

    def test_a_percentage_that_waffles_field_cannot_hold(self, flag: Flag) -> None:
        Flag.objects.update(percent=100)
        assert read_snapshot(NAME).percent == 100_000
        Flag.objects.update(percent=0)
        assert read_snapshot(NAME).percent == 0

    def test_a_bounded_number_of_queries(self, flag: Flag) -> None:
        flag.users.set(User.objects.create(username=f"u{n}") for n in range(30))
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert len(read_snapshot(NAME).users) == 30
        assert len(queries) == 3
        assert not any("auth_user" in query["sql"] for query in queries)  # nor a join for it

    def test_a_decided_flag_costs_one_query_and_carries_no_lists(self, flag: Flag) -> None:
        flag.users.add(User.objects.create(username="ana"))
        Flag.objects.update(everyone=False)
        with CaptureQueriesContext(connection) as queries:
            assert read_snapshot(NAME) == Snapshot(NAME, exists=True, everyone=False)
        assert len(queries) == 1

    def test_waffles_cache_is_never_read(self, flag: Flag) -> None:
        assert Flag.get(NAME).everyone is None  # now it is in the cache
        Flag.objects.update(everyone=True)
        assert Flag.get(NAME).everyone is None  # waffle's answer, for minutes
        assert read_snapshot(NAME).everyone is True

    def test_a_list_too_long_is_cut_the_same_everywhere_and_complained_about(
        self, flag: Flag, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("shim.flag.MAX_LISTED", 3)
        users = [User.objects.create(username=f"u{n}") for n in range(5)]
        flag.users.set(reversed(users))
        state = new_state()
        assert poll(state)
        assert state.current is not None
        assert state.current.users == {str(user.pk) for user in users[:3]}
        poll(state)
        assert len(caplog.records) == 1
        assert "lists more than" in caplog.text
        Flag.objects.update(everyone=False)  # and a rollback still works
        assert poll(state)

    @override_settings(WAFFLE_FLAG_MODEL="flags.BareFlag")
    def test_a_model_without_lists(self, database: None) -> None:
        BareFlag.objects.create(name=NAME, percent=5)
        assert read_snapshot(NAME) == Snapshot(NAME, exists=True, percent=5_000, superusers=True)

    @override_settings(WAFFLE_FLAG_MODEL="flags.TeamFlag")
    def test_a_model_with_fields_of_its_own(self, database: None) -> None:
        TeamFlag(name=NAME, percent=Decimal("0.125"), teams=["x"], is_archived=True).save()
        assert read_snapshot(NAME).percent == 125
        TeamFlag._base_manager.update(percent=Decimal(100))
        assert read_snapshot(NAME).percent == 100_000


class TestPushing:
    def test_a_save_reaches_the_processes(self, flag: Flag, ear: Ear) -> None:  # contract 8.2
        state = new_state()
        flag.everyone = True
        flag.save()
        assert state.pushed(ear.only())
        assert state.cohort(ANA) == CHANNELS
        flag.everyone = False
        flag.save()
        assert state.pushed(ear.only())
        assert state.cohort(ANA) == LEGACY

    @pytest.mark.filterwarnings("ignore:Overriding get_actions")  # waffle's admin, under Django 6.1
    def test_the_admin_pushes_once_for_each_commit(self, flag: Flag, ear: Ear) -> None:
        User.objects.create_superuser("root", password="root")
        ana, team = User.objects.create(username="ana"), Group.objects.create(name="team")
        client = Client()
        assert client.login(username="root", password="root")
        form = {"name": NAME, "everyone": "unknown", "percent": "25", "users": [ana.pk], "groups": [team.pk]}
        form |= {"created_0": "2026-01-01", "created_1": "00:00", "note": "", "languages": ""}
        form |= {"modified_0": "2026-01-01", "modified_1": "00:00"}
        reply = client.post(reverse("admin:waffle_flag_change", args=[flag.pk]), form)
        assert reply.status_code == 302, reply.content.decode()
        told = ear.only()
        assert told.percent == 25_000
        assert told.users == {str(ana.pk)}
        assert told.groups == {str(team.pk)}
        reply = client.post(
            reverse("admin:waffle_flag_changelist"),
            {"action": "disable_for_all", "_selected_action": [flag.pk]},
        )
        assert reply.status_code == 302
        assert ear.only().everyone is False

    def test_waffles_own_command(self, flag: Flag, ear: Ear) -> None:
        call_command("waffle_flag", NAME, "--everyone")
        assert ear.only().everyone is True

    @pytest.mark.parametrize("side", ["flag", "member"])
    @pytest.mark.parametrize("what", ["users", "groups"])
    def test_lists_from_either_side(self, flag: Flag, ear: Ear, what: str, side: str) -> None:
        member: Any = User.objects.create(username="ana") if what == "users" else Group.objects.create(name="team")
        near = getattr(flag, what) if side == "flag" else member.flag_set
        far = member if side == "flag" else flag
        for change, listed in (
            (lambda: near.add(far), {str(member.pk)}),
            (lambda: near.remove(far), set()),
            (lambda: near.set([far]), {str(member.pk)}),
            (near.clear, set()),
        ):
            change()
            assert getattr(ear.only(), what) == listed

    @pytest.mark.parametrize("what", ["users", "groups"])
    def test_a_listed_user_or_group_is_deleted(self, flag: Flag, ear: Ear, what: str) -> None:
        made: list[Any] = [
            User.objects.create(username=f"n{n}") if what == "users" else Group.objects.create(name=f"n{n}")
            for n in range(3)
        ]
        getattr(flag, what).set(made[:2])
        ear.only()
        made[2].delete()
        ear.nothing()
        gone, left = made[0], str(made[1].pk)
        type(gone).objects.filter(pk=gone.pk).delete()
        assert getattr(ear.only(), what) == {left}

    def test_a_user_is_deleted_on_a_database_without_flags(self, flag: Flag, ear: Ear) -> None:
        ana = User.objects.create(username="ana")
        pre_delete.send(User, instance=ana, using="elsewhere")
        ear.nothing()

    def test_a_flag_is_deleted(self, flag: Flag, ear: Ear) -> None:
        flag.delete()
        assert not ear.only().exists
        Flag.objects.create(name=NAME)
        assert ear.only().exists
        Flag.objects.filter(name=NAME).delete()
        assert not ear.only().exists

    def test_a_flag_is_renamed(self, flag: Flag, ear: Ear) -> None:
        flag.name = "set_aside"
        flag.save()
        assert not ear.only().exists
        flag.name = NAME
        flag.save()
        assert ear.only().exists

    def test_other_flags_are_not_pushed(self, flag: Flag, ear: Ear) -> None:
        ana: Any = User.objects.create(username="ana")
        other: Any = Flag.objects.create(name="another", everyone=True)
        other.users.add(ana)
        ana.flag_set.remove(other)
        other.name = "a_third"
        other.save()
        other.delete()
        ear.nothing()

    def test_a_proxy_of_the_model(self, flag: Flag, ear: Ear) -> None:
        proxy = FlagProxy.objects.get(name=NAME)
        proxy.everyone = True
        proxy.save()
        assert ear.only().everyone is True

    @override_settings(WAFFLE_FLAG_MODEL="flags.TeamFlag")
    def test_a_model_of_ones_own(self, ear: Ear) -> None:
        connect_signals()
        connect_signals()
        flag: Any = TeamFlag.objects.create(name=NAME)
        assert ear.only().exists
        flag.users.add(User.objects.create(username="ana"))
        assert len(ear.only().users) == 1

    @override_settings(WAFFLE_FLAG_MODEL="flags.BareFlag")
    def test_a_model_without_lists(self, ear: Ear) -> None:
        connect_signals()
        BareFlag.objects.create(name=NAME)
        assert ear.only().exists


class TestTransactions:
    def test_pushed_at_the_commit_and_once(self, flag: Flag, ear: Ear) -> None:
        with transaction.atomic():
            for percent in (10, 20, 30):
                flag.percent = percent
                flag.save()
            flag.users.add(User.objects.create(username="ana"))
            ear.nothing()
        told = ear.only()
        assert told.percent == 30_000
        assert len(told.users) == 1

    def test_rolled_back_means_never_said(self, flag: Flag, ear: Ear) -> None:
        with rolled_back():
            flag.everyone = True
            flag.save()
        ear.nothing()
        flag.refresh_from_db()
        flag.percent = 5
        flag.save()  # the one rolled back does not count as said
        assert ear.only().percent == 5_000

    def test_a_savepoint_rolled_back_takes_only_its_own(self, flag: Flag, ear: Ear) -> None:
        with transaction.atomic():
            with rolled_back():
                flag.everyone = True
                flag.save()
            flag.everyone = None
            flag.percent = 7
            flag.save()
        told = ear.only()
        assert (told.everyone, told.percent) == (None, 7_000)
        with transaction.atomic():
            flag.percent = 8
            flag.save()
            with rolled_back():
                flag.everyone = True
                flag.save()
        told = ear.only()
        assert (told.everyone, told.percent) == (None, 8_000)

    def test_what_is_not_pushed_is_found_by_the_poll(self, flag: Flag, ear: Ear) -> None:
        state = new_state()
        assert poll(state)
        Flag.objects.filter(name=NAME).update(everyone=True)
        ear.nothing()
        assert state.cohort(ANA) == LEGACY
        assert poll(state)
        assert state.cohort(ANA) == CHANNELS
        assert not poll(state)


class TestVersions:
    def test_each_push_has_a_higher_number(self, flag: Flag, ear: Ear) -> None:
        push()
        push()
        one, two = ear.flag(), ear.flag()
        assert one.version[0] == two.version[0]
        assert one.version[1] < two.version[1]

    def test_a_slower_push_is_not_said_after_a_newer_one(
        self, flag: Flag, ear: Ear, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def slow(name: str, **options: Any) -> Snapshot:
            found = read_snapshot(name, **options)
            monkeypatch.setattr("shim.rollout.read_snapshot", read_snapshot)
            flag.everyone = False
            flag.save()
            return found

        flag.everyone = True
        monkeypatch.setattr("shim.rollout.read_snapshot", slow)
        flag.save()
        told = ear.only()
        assert told.everyone is False
        assert stored() == told

    def test_redis_loses_its_data_in_the_middle_of_a_push(
        self, flag: Flag, ear: Ear, bus_settings: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        push()
        before = ear.only().version

        def flushed(name: str, **options: Any) -> Snapshot:
            monkeypatch.setattr("shim.rollout.read_snapshot", read_snapshot)
            with redis.Redis.from_url(bus_settings) as client:
                client.flushall()
            return read_snapshot(name, **options)

        monkeypatch.setattr("shim.rollout.read_snapshot", flushed)
        push()
        epoch, number = ear.only().version
        assert epoch != before[0]
        assert number == 1

    def test_redis_loses_its_data_each_time(
        self, flag: Flag, bus_settings: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def flushed(name: str, **options: Any) -> Snapshot:
            with redis.Redis.from_url(bus_settings) as client:
                client.flushall()
            return read_snapshot(name, **options)

        monkeypatch.setattr("shim.rollout.read_snapshot", flushed)
        with pytest.raises(RealtimeUnavailable, match=r"lost the key 'rt:flag' 3 times"):
            push()

    def test_many_threads_at_once_end_at_the_newest(self, flag: Flag, ear: Ear) -> None:
        def work(n: int) -> None:
            try:
                for step in range(4):
                    with transaction.atomic():
                        mine = Flag.objects.select_for_update().get(name=NAME)
                        mine.percent = Decimal(n * 10 + step) / 10
                        mine.save()
            finally:
                connection.close()

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        state = new_state()
        newest = stored()
        assert newest is not None
        while state.version != newest.version:
            state.pushed(ear.flag())
        ear.nothing()
        assert state.current == replace(read_snapshot(NAME), version=newest.version)


class TestStored:
    def test_a_new_process_knows_at_once(self, flag: Flag, ear: Ear) -> None:
        flag.everyone = True
        flag.save()
        told = ear.only()
        state = new_state()
        with database_down():
            found = stored()
        assert found == told
        assert state.pushed(found)
        assert state.cohort(ANA) == CHANNELS

    def test_nothing_was_ever_pushed(self, bus_settings: str) -> None:
        assert stored() is None

    @pytest.mark.parametrize("found", [b"", b"{", b'{"format":99}', b"\xff"])
    def test_what_cannot_be_read_is_nothing(
        self, bus_settings: str, found: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        with redis.Redis.from_url(bus_settings) as client:
            client.hset("rt:flag", "snapshot", found)
        assert stored() is None
        assert stored() is None
        assert len(caplog.records) == 1

    def test_another_flag_is_nothing(self, flag: Flag) -> None:
        push()
        with override_settings(REALTIME_FLAG="another"):
            assert stored() is None


class TestOutages:
    def test_redis_down_does_not_break_the_save(self, database: None, caplog: pytest.LogCaptureFixture) -> None:
        with override_settings(REALTIME_REDIS_URL="redis://127.0.0.1:1/0", REALTIME_TIMEOUT=0.5):
            state = new_state()
            with transaction.atomic():
                made: Any = Flag.objects.create(name=NAME, everyone=True)
                made.users.add(User.objects.create(username="ana"))
            assert [record.levelno for record in caplog.records] == [logging.WARNING]
            assert "could not be pushed" in caplog.text
            assert poll(state)  # contract 8.2
            assert state.cohort(ANA) == CHANNELS

    def test_database_down_moves_nobody(  # contract 8.2
        self, flag: Flag, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flag.everyone = True
        flag.save()
        state, fresh = new_state(), new_state()
        poll(state)
        now = 0.0
        monkeypatch.setattr("shim.complaints.monotonic", lambda: now)
        with database_down():
            for now in (0.0, 5.0, 59.0):  # noqa: B007 - the clock reads it
                assert not poll(state)
                assert not poll(fresh)
            assert len(caplog.records) == 1
            assert "REALTIME_FORCE_BACKEND=legacy" in caplog.text
            now = 61.0
            assert not poll(state)
            assert len(caplog.records) == 2
        assert state.cohort(ANA) == CHANNELS
        assert fresh.cohort(ANA) is None

    def test_a_model_that_is_not_there_moves_nobody(self, database: None) -> None:
        with override_settings(WAFFLE_FLAG_MODEL="nowhere.Flag"):
            connect_signals()
            assert not poll(new_state())

    def test_force_needs_neither_database_nor_redis(self, database: None) -> None:  # contract 8.6
        with (
            override_settings(REALTIME_FORCE_BACKEND="legacy", REALTIME_REDIS_URL="redis://127.0.0.1:1/0"),
            database_down(),
        ):
            assert new_state().cohort(ANA) == LEGACY
            assert current().cohort(ANA) == LEGACY

    def test_a_poll_leaves_no_connection_behind_in_its_thread(self, flag: Flag) -> None:
        found: list[object] = []

        def work() -> None:
            found.extend((poll(new_state()), connection.connection))  # CONN_MAX_AGE is 0

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(DEADLINE)
        assert found == [True, None]

    def test_a_kept_connection_that_the_database_has_dropped_is_replaced(self, flag: Flag) -> None:
        found: list[object] = []

        def work() -> None:
            connection.settings_dict = {**connection.settings_dict, "CONN_MAX_AGE": None}
            state = new_state()
            found.append(poll(state))
            Flag.objects.update(everyone=True)
            kept = connection.connection
            connection.errors_occurred = True
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(connection, "is_usable", lambda: False)
                found.append(poll(state))
            found.append(connection.connection is not kept)
            connection.close()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(DEADLINE)
        assert found == [True, True, True]

    def test_a_poll_inside_a_transaction_leaves_it_alone(self, flag: Flag) -> None:
        with transaction.atomic():
            Flag.objects.update(everyone=True)
            state = new_state()
            assert poll(state)
            assert state.cohort(ANA) == CHANNELS
        flag.refresh_from_db()
        assert flag.everyone is True


class TestAsking:
    def test_a_push_is_seen_at_once_and_costs_no_query(self, flag: Flag, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 1000.0
        monkeypatch.setattr("shim.rollout.monotonic", lambda: now)
        assert current().cohort(ANA) == LEGACY
        flag.everyone = True
        flag.save()
        now += 0.25  # contract 8.2
        with CaptureQueriesContext(connection) as queries:
            assert current().cohort(ANA) == CHANNELS
            assert current().cohort(ANA) == CHANNELS
        assert len(queries) == 0
        Flag.objects.update(everyone=False)
        now += 5
        assert current().cohort(ANA) == LEGACY

    def test_redis_down_leaves_the_database(self, database: None, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 1000.0
        monkeypatch.setattr("shim.rollout.monotonic", lambda: now)
        with override_settings(REALTIME_REDIS_URL="redis://127.0.0.1:1/0"):
            assert current().cohort(ANA) == LEGACY
            Flag.objects.create(name=NAME, everyone=True)
            now += 5
            assert current().cohort(ANA) == CHANNELS

    def test_a_change_of_settings_is_another_flag(self, flag: Flag) -> None:
        Flag.objects.create(name="another", everyone=True)
        assert current().cohort(ANA) == LEGACY
        with override_settings(REALTIME_FLAG="another"):
            assert current().cohort(ANA) == CHANNELS
        assert current().cohort(ANA) == LEGACY

    def test_unknown_until_the_store_is_reached(self, database: None) -> None:
        with override_settings(REALTIME_REDIS_URL="redis://127.0.0.1:1/0"), database_down():
            assert current().cohort(ANA) is None


def test_polls_keep_within_the_10_seconds() -> None:  # contract 8.2
    delays = [poll_delay(iter([dice]).__next__) for dice in (0.0, 0.5, 0.999)]
    assert delays == [4.0, 5.0, pytest.approx(6.0, abs=0.01)]
