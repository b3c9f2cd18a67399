"""What the processes of both backends do alike when they begin."""

import asyncio

import pytest
from django.test import override_settings

from channels_impl import process as channels
from legacy_ws4redis import process as legacy
from shim.core.cohorts import FlagState, Snapshot


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
