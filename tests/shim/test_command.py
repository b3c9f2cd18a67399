"""`manage.py realtime`: rollbacks that may hurry, and what it says where something is away."""

# contract 8.5, 8.6

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.test import override_settings
from waffle.models import Flag

from shim import rollout
from shim.core.cohorts import Snapshot
from shim.core.names import control_channel
from shim.core.wire import decode
from shim.flag import read_snapshot

NAME = "realtime_channels"


class Ear:
    """Hears what is said to all processes."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url, socket_timeout=5.0)
        self._pubsub: Any = self._redis.pubsub()  # type: ignore[no-untyped-call] # redis-py's
        self._pubsub.subscribe(control_channel("rt"))
        assert self._pubsub.get_message(timeout=5.0)["type"] == "subscribe"

    def all(self) -> list[tuple[bool | None, bool]]:
        """For each flag that was said: `everyone`, and whether it hurries."""
        self._redis.publish(control_channel("rt"), b"end")
        said = []
        while (data := self._pubsub.get_message(timeout=5.0)["data"]) != b"end":
            fields = json.loads(decode(data).body)
            said.append((fields["snapshot"]["everyone"], fields.get("hurry", False)))
        return said

    def close(self) -> None:
        self._pubsub.close()
        self._redis.close()


@pytest.fixture
def ear(bus_settings: str, database: None) -> Iterator[Ear]:
    made = Ear(bus_settings)
    yield made
    made.close()


@pytest.fixture
def flag(ear: Ear) -> Flag:
    made = Flag(name=NAME, percent=50, superusers=False)
    made.save()
    ear.all()
    return made


def realtime(*arguments: str) -> str:
    out = StringIO()
    call_command("realtime", *arguments, stdout=out)
    return out.getvalue()


def test_a_rollback_says_no_for_everyone(flag: Flag, ear: Ear) -> None:
    assert "brought back to legacy" in realtime("rollback")
    assert ear.all() == [(False, False)]
    flag.refresh_from_db()
    assert flag.everyone is False


def test_a_rollback_that_hurries(flag: Flag, ear: Ear) -> None:
    assert "3 times as fast" in realtime("rollback", "--hurry")
    assert ear.all() == [(False, False), (False, True)]


def test_a_rollback_may_be_told_to_hurry_afterwards(flag: Flag, ear: Ear) -> None:
    realtime("rollback")
    realtime("rollback", "--hurry")
    realtime("hurry")
    assert ear.all() == [(False, False), (False, True), (False, True)]


def test_a_change_made_by_waffles_own_command_may_hurry(flag: Flag, ear: Ear) -> None:
    call_command("waffle_flag", NAME, "--everyone")
    assert {hurry for _, hurry in ear.all()} == {False}
    realtime("hurry")
    assert ear.all() == [(True, True)]


def test_without_a_flag_there_is_nothing_to_roll_back(ear: Ear) -> None:
    assert "on legacy already" in realtime("rollback", "--hurry")
    assert ear.all() == []


def test_what_it_can_do_is_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command("realtime", "--help")
    said = capsys.readouterr().out
    assert "rollback" in said
    assert "hurry" in said


@contextmanager
def database_down() -> Iterator[None]:
    def refuse(*_: object) -> None:
        raise OperationalError("the database has gone away")

    with connection.execute_wrapper(refuse):
        yield


def test_without_the_database_it_names_what_works_without_it(flag: Flag) -> None:
    with database_down(), pytest.raises(CommandError, match="REALTIME_FORCE_BACKEND"):
        realtime("rollback")


def test_without_redis_the_flag_is_changed_and_nobody_hurries(flag: Flag) -> None:
    with (
        override_settings(REALTIME_REDIS_URL="redis://127.0.0.1:1/0"),
        pytest.raises(CommandError, match="within 10 s"),
    ):
        realtime("rollback", "--hurry")
    flag.refresh_from_db()
    assert flag.everyone is False


def test_a_hurry_that_was_overtaken_is_said_again(flag: Flag, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Callable[..., Snapshot] = read_snapshot
    others: list[None] = []

    def overtaken(name: str, **options: Any) -> Snapshot:
        found = read(name, **options)
        if not others:
            others.append(None)
            rollout.push()
        return found

    monkeypatch.setattr(rollout, "read_snapshot", overtaken)
    rollout.push(hurry=True)
    assert ear.all() == [(None, False), (None, True)]
