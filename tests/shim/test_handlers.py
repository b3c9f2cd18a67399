import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db import connection

from shim import handlers
from shim.core.cohorts import LEGACY, FlagState
from shim.core.connection import End
from shim.core.errors import PublishingClosed
from shim.core.node import Node, Pace
from shim.core.protocol import Protocol
from shim.handlers import acall, acall_at_door, call, settled
from tests.bus.waiting import until
from tests.core.members import live
from tests.shim.people import visitor

ROOT = Path(__file__).resolve().parents[2]


async def in_loop(function: Callable[..., Any], *args: Any) -> Any:
    return await acall(function, *args)


def by_thread(function: Callable[..., Any], *args: Any) -> Any:
    return call(function, *args)


def by_loop(function: Callable[..., Any], *args: Any) -> Any:
    return asyncio.run(in_loop(function, *args))


type Run = Callable[..., Any]


@pytest.fixture(params=[by_thread, by_loop], ids=["legacy", "channels"])
def run(request: pytest.FixtureRequest) -> Run:
    """Calls a facility's method as either backend does."""
    found: Run = request.param
    return found


class TestCalling:
    # contract 6.1: sync and async on both backends

    def test_def(self, run: Run) -> None:
        assert run(lambda a, b: (a, b), 1, 2) == (1, 2)

    def test_async_def(self, run: Run) -> None:
        async def method(a: int) -> int:
            await asyncio.sleep(0)
            return a + 1

        assert run(method, 1) == 2

    def test_def_that_returns_something_to_await(self, run: Run) -> None:
        async def later(a: int) -> int:
            return a + 1

        def method(a: int) -> Awaitable[int]:
            return later(a)

        assert run(method, 1) == 2

    def test_methods(self, run: Run) -> None:
        class Calls:
            async def receive(self, value: int) -> int:
                return value

            def disconnected(self, value: int) -> int:
                return value

        assert run(Calls().receive, 7) == run(Calls().disconnected, 7) == 7

    @pytest.mark.parametrize("kind", ["def", "async def", "def, then awaited"])
    def test_what_it_raises_comes_out(self, run: Run, kind: str) -> None:
        def method() -> None:
            raise PermissionDenied("no")

        async def amethod() -> None:
            raise PermissionDenied("no")

        def deferred() -> Awaitable[None]:
            return amethod()

        with pytest.raises(PermissionDenied, match="no"):
            run({"def": method, "async def": amethod, "def, then awaited": deferred}[kind])

    def test_one_at_a_time_in_the_order_given(self, run: Run) -> None:
        order: list[int] = []

        async def method(number: int) -> None:
            await asyncio.sleep(0)
            order.append(number)

        async def both() -> None:
            for number in range(20):
                await acall(method if number % 2 else order.append, number)

        if run is by_loop:
            asyncio.run(both())
        else:
            for number in range(20):
                call(method if number % 2 else order.append, number)
        assert order == list(range(20))

    def test_def_never_blocks_an_event_loop(self) -> None:
        ident = threading.get_ident()
        assert by_loop(threading.get_ident) != ident
        assert by_thread(threading.get_ident) == ident

    def test_a_generator_runs_where_it_may_block(self, run: Run, database: None) -> None:
        def audiences() -> Iterator[str]:
            yield from Group.objects.values_list("name", flat=True)

        Group.objects.create(name="a")
        assert tuple(run(audiences)) == ("a",)

    def test_slow_handlers_keep_nobody_out(self) -> None:
        # contract 8 (decisions): the door has threads of its own
        go = threading.Event()

        async def crowd() -> str:
            busy = [asyncio.create_task(acall(go.wait, 20)) for _ in range(handlers.THREADS + 2)]
            found: str = await asyncio.wait_for(acall_at_door(lambda: "in"), 10)
            go.set()
            await asyncio.gather(*busy)
            return found

        assert asyncio.run(crowd()) == "in"


class TestDatabase:
    @pytest.fixture(autouse=True)
    def _groups(self, database: None) -> None:
        Group.objects.create(name="a")

    def test_def(self, run: Run) -> None:
        assert run(Group.objects.count) == 1

    def test_async_def(self, run: Run) -> None:
        async def method() -> tuple[int, int, int]:
            here = await Group.objects.acount()
            in_thread = await sync_to_async(Group.objects.count)()
            anywhere = await sync_to_async(Group.objects.count, thread_sensitive=False)()
            return here, in_thread, anywhere

        assert run(method) == (1, 1, 1)

    def test_a_thread_gives_its_connection_back(self) -> None:
        assert by_thread(Group.objects.count) == 1
        assert connection.connection is None

        def held() -> object:
            Group.objects.count()
            return connection.connection

        assert by_loop(held) is not None

        def left() -> object:
            return connection.connection

        async def all_threads() -> set[object]:
            return set(await asyncio.gather(*(acall(left) for _ in range(50))))

        assert asyncio.run(all_threads()) == {None}

    def test_async_code_gives_its_connection_back(self) -> None:
        async def held() -> object:
            await Group.objects.acount()
            return await sync_to_async(lambda: connection.connection)()

        async def left() -> object:
            return await sync_to_async(lambda: connection.connection)()

        assert by_thread(held) is not None
        until(lambda: by_thread(left) is None)

        async def in_one_loop() -> None:
            assert await acall(held) is not None
            async with asyncio.timeout(10):
                while await acall(left) is not None:
                    pass

        asyncio.run(in_one_loop())

    def test_greenlets_use_it_while_async_handlers_run(self) -> None:
        # decision 5: under gevent all share one thread, and asyncio's running loop is the thread's
        done = subprocess.run(
            [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-m", "tests.shim.greenlets"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


class TestSettled:
    def node(self) -> Node:
        return Node(LEGACY, FlagState("f"), Pace(), now=0.0, random=lambda: 0.5)

    def settle(
        self, error: Exception | None, protocol: Protocol = Protocol.V1
    ) -> tuple[list[Any], list[dict[str, Any]]]:
        core, sink = live(protocol)
        core.received('{"op":"send","id":1,"text":"hi"}', 0.0)
        effects = settled(error, 1, core, visitor(), self.node(), 0.0)
        return effects, sink.said

    def test_taken(self) -> None:
        assert self.settle(None) == ([], [{"op": "ack", "id": 1}])

    @pytest.mark.parametrize("error", [PermissionDenied("not yours"), PublishingClosed("not yours")])
    def test_not_allowed(self, error: Exception) -> None:
        # contract 1.3, 6.3
        effects, said = self.settle(error)
        assert effects == []
        assert said == [{"op": "error", "id": 1, "code": "forbidden", "reason": "not yours"}]
        assert self.settle(error, Protocol.RAW) == ([End(1008, "not yours")], [])

    def test_not_allowed_without_a_word(self) -> None:
        assert self.settle(PermissionDenied())[1][0]["reason"] == "not allowed"

    def test_failed_is_logged_once_with_all_that_tells_whose_it_is(self, caplog: pytest.LogCaptureFixture) -> None:
        # contract 6.2
        effects, said = self.settle(ZeroDivisionError("by zero"))
        assert [effect.code for effect in effects] == [1011]
        assert said == []
        (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
        text = record.getMessage()
        for part in ("calls.receive()", "connection=c1", "user=None", "topics='everyone'", "backend=legacy", "cohort="):
            assert part in text
        assert record.exc_info
        assert record.exc_info[0] is ZeroDivisionError
