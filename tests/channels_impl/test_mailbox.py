"""The mailbox and the gate: as asyncio's queue and event, also where who waits is cancelled."""

import asyncio
from typing import Any

import pytest

from channels_impl.mailbox import Gate, Mailbox


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class TestMailbox:
    async def run(self) -> None:
        box = Mailbox()
        assert box.empty()
        box.put_nowait(1)
        box.put_nowait(2)
        assert not box.empty()
        assert [await box.get(), await box.get()] == [1, 2]
        assert box.empty()

    def test_gives_events_in_their_order(self) -> None:
        asyncio.run(self.run())

    def test_who_waits_gets_what_comes(self) -> None:
        async def run() -> list[Any]:
            box = Mailbox()
            waiting = [asyncio.create_task(box.get()) for _ in range(3)]
            await settled()
            for number in range(3):
                box.put_nowait(number)
            return await asyncio.wait_for(asyncio.gather(*waiting), 5)

        assert asyncio.run(run()) == [0, 1, 2]

    @pytest.mark.parametrize("is_woken", [False, True])
    def test_who_is_cancelled_takes_nothing_along(self, is_woken: bool) -> None:
        async def run() -> Any:
            box = Mailbox()
            first, second = (asyncio.create_task(box.get()) for _ in range(2))
            await settled()
            if is_woken:
                box.put_nowait("event")
            first.cancel()
            await settled()
            assert first.cancelled()
            if not is_woken:
                box.put_nowait("event")
            assert await asyncio.wait_for(second, 5) == "event"
            box.put_nowait("next")
            return await asyncio.wait_for(box.get(), 5)

        assert asyncio.run(run()) == "next"


class TestGate:
    def test_all_go_through_when_it_opens(self) -> None:
        async def run() -> None:
            gate = Gate()
            await asyncio.wait_for(gate.wait(), 5)
            gate.clear()
            waiting = [asyncio.create_task(gate.wait()) for _ in range(3)]
            await settled()
            assert not any(task.done() for task in waiting)
            waiting[0].cancel()
            gate.set()
            assert gate.is_set()
            await asyncio.wait_for(asyncio.gather(*waiting[1:]), 5)

        asyncio.run(run())

    def test_who_gave_up_is_not_kept(self) -> None:
        # a consumer may try again and again to send to a client that takes nothing any more
        async def run() -> None:
            gate = Gate()
            gate.clear()
            for _ in range(100):
                waiting = asyncio.create_task(gate.wait())
                await settled()
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                assert waiting.cancelled()
            assert not gate._waiters

        asyncio.run(run())
