"""What the processes of both backends do alike: when they begin, and when they ask for their share of moves."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic

import pytest
from django.test import override_settings

from channels_impl import process as channels
from legacy_ws4redis import process as legacy
from shim.bus.memory_redis import MemoryRedis, install
from shim.core.cohorts import FlagState, Snapshot
from shim.core.fleet import Announcement


def learned(state: FlagState) -> bool:
    return state.polled(Snapshot(state.name), state.version)


def never(_: float) -> None:
    pytest.fail("learning the flag is no flip: who comes to a fresh process would be moved within a second")


@override_settings(REALTIME_REDIS_URL="memory://processes")
def test_a_fresh_legacy_process_learns_the_flag_without_a_flip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "stored", lambda: None)
    monkeypatch.setattr(legacy, "poll", learned)
    process = legacy.Process()
    monkeypatch.setattr(process.node, "flipped", never)
    process._learn_flag()
    assert process.node.flag.current is not None


@override_settings(REALTIME_REDIS_URL="memory://processes")
def test_a_fresh_channels_process_learns_the_flag_without_a_flip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "stored", lambda: None)
    monkeypatch.setattr(channels, "poll", learned)

    async def run() -> None:
        process = channels.Process()
        monkeypatch.setattr(process.node, "flipped", never)
        await process._learn_flag()
        assert process.node.flag.current is not None

    asyncio.run(run())


@override_settings(REALTIME_REDIS_URL="memory://processes")
def test_one_request_keeps_the_server_for_all_visits() -> None:
    process = legacy.Process()
    forgotten = threading.Event()
    process.hold_server(forgotten.set)  # nobody is there: it does not wait
    forgotten.clear()
    process.come()
    process.come()
    holder = threading.Thread(target=process.hold_server, args=(forgotten.set,))
    holder.start()
    assert forgotten.wait(5)  # its own client may be the first to leave
    process.hold_server(pytest.fail)  # it is held: this one may go, and its server's descriptor with it
    process.go()
    assert holder.is_alive()
    process.go()
    holder.join(5)
    assert not holder.is_alive()
    assert not process._is_server_held


class Over(Exception):
    """A test has seen enough of a loop."""


class Announcements:
    """What a process announces, in place of the queue that its timer fills."""

    def __init__(self, *said: Announcement) -> None:
        self.said = list(said)

    def get(self) -> Announcement:
        if not self.said:
            raise Over
        return self.said.pop(0)


class AsyncAnnouncements(Announcements):
    async def get(self) -> Announcement:  # type: ignore[override]
        return super().get()


@pytest.fixture
def away() -> Iterator[MemoryRedis]:
    """A Redis that has gone."""
    made = MemoryRedis()
    install("memory://away", made)
    made.stop()
    with override_settings(REALTIME_REDIS_URL="memory://away"):
        yield made
    install("memory://away", None)


def test_a_legacy_process_goes_by_its_own_rate_while_redis_is_away(
    away: MemoryRedis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # contract 8.5
    process = legacy.Process()
    for wanted, is_alone in ((5, True), (5, True), (3, False)):
        if not is_alone:
            away.start()
        said = process.node._fleet.announce(wanted, 200.0, monotonic())
        assert said is not None
        monkeypatch.setattr(process, "_announcements", Announcements(said))
        with suppress(Over):
            process._announce()
        assert process.node.is_alone is is_alone
    assert [record.message[:27] for record in caplog.records] == ["the fleet's rate is not kno"]  # once


def test_a_channels_process_goes_by_its_own_rate_while_redis_is_away(
    away: MemoryRedis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # contract 8.5
    async def run() -> None:
        process = channels.Process()
        for wanted, is_alone in ((5, True), (5, True), (3, False)):
            if not is_alone:
                away.start()
            said = process.node._fleet.announce(wanted, 200.0, monotonic())
            assert said is not None
            monkeypatch.setattr(process, "_announcements", AsyncAnnouncements(said))
            with suppress(Over):
                await process._announce()
            assert process.node.is_alone is is_alone
        await process.bus.close()

    asyncio.run(run())
    assert [record.message[:27] for record in caplog.records] == ["the fleet's rate is not kno"]  # once
