"""The threads at the door: order, errors, connections, forks."""

import asyncio
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import DEFAULT_DB_ALIAS, connection, connections

from shim import doorway as doorways
from shim.doorway import BATCH, Crowded, Doorway, _Room, _Ticket
from shim.facility import Facility
from shim.handlers import acall, acall_at_door, call, call_at_door
from tests.bus.waiting import until


def by_thread(doorway: Doorway, function: Callable[..., Any], *args: Any) -> Any:
    return doorway.ask(function, *args)


def by_loop(doorway: Doorway, function: Callable[..., Any], *args: Any) -> Any:
    return asyncio.run(doorway.aask(function, *args))


@pytest.fixture(params=[by_thread, by_loop], ids=["legacy", "channels"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    found: Callable[..., Any] = request.param
    return found


def test_a_call_runs_in_another_thread(ask: Callable[..., Any]) -> None:
    assert ask(Doorway(), lambda a, b: a - b, 3, 2) == 1
    assert ask(Doorway(), threading.get_ident) != threading.get_ident()


def test_what_it_raises_comes_out_and_the_next_is_served(ask: Callable[..., Any]) -> None:
    doorway = Doorway(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            ask(doorway, lambda: 1 // 0)
    assert ask(doorway, lambda: "in") == "in"


def test_no_more_threads_than_it_has_and_in_order() -> None:
    doorway, order, threads = Doorway(1), list[int](), set[int]()

    def come(number: int) -> None:
        order.append(number)
        threads.add(threading.get_ident())

    async def crowd() -> None:
        await asyncio.gather(*(doorway.aask(come, number) for number in range(100)))

    asyncio.run(crowd())
    assert order == list(range(100))
    assert len(threads) == 1


def test_who_came_while_a_thread_was_started_does_not_wait_for_the_first() -> None:
    room = _Room()
    slow, quick, last = (_Ticket(lambda: None, (), lambda: None) for _ in range(3))
    assert [room.put(ticket, 2) for ticket in (slow, quick, last)] == [True, False, False]
    assert room.take({}, 0) == [slow]
    assert [room.grow(2), room.grow(2)] == [True, False]  # one is on its way
    assert room.take({}, 0) == [quick]
    assert not room.grow(2)  # no more than it has


def test_a_machine_without_threads_fails_those_who_come_then(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    doorway = Doorway()

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            ask(doorway, lambda: "out")
    assert ask(doorway, lambda: "in") == "in"


def test_who_does_not_wait_any_more_harms_nobody() -> None:
    doorway, go = Doorway(1), threading.Event()

    async def leave() -> str:
        waiting = asyncio.create_task(doorway.aask(go.wait, 20))
        behind = asyncio.create_task(doorway.aask(lambda: "in"))
        await asyncio.sleep(0)
        waiting.cancel()
        go.set()
        found: str = await behind
        return found

    assert asyncio.run(leave()) == "in"


def test_a_connection_serves_all_that_wait_and_is_given_back(database: None) -> None:
    Group.objects.create(name="a")
    doorway, go, used = Doorway(1), threading.Event(), list[tuple[Any, object]]()

    def count() -> None:
        assert Group.objects.count() == 1
        used.append((connections[DEFAULT_DB_ALIAS], connection.connection))

    async def crowd() -> None:
        first = asyncio.create_task(doorway.aask(go.wait, 20))
        others = [asyncio.create_task(doorway.aask(count)) for _ in range(20)]
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(first, *others)

    asyncio.run(crowd())
    assert len({id(opened) for _, opened in used}) == 1
    until(lambda: used[0][0].connection is None)


def test_those_who_wait_for_the_same_are_served_together() -> None:
    doorway, go, crowds = Doorway(1), threading.Event(), list[list[int]]()

    def double(number: int) -> int:
        crowds.append([number])
        return 2 * number

    def doubles(everybody: Sequence[tuple[Any, ...]]) -> list[int]:
        crowds.append([number for (number,) in everybody])
        return [2 * number for (number,) in everybody]

    async def crowd() -> list[Any]:
        waiting = [asyncio.create_task(doorway.aask(go.wait, 20))]
        for number in range(100):
            waiting.append(asyncio.create_task(doorway.aask(double, number)))
            waiting.append(asyncio.create_task(doorway.aask(str, number)))
        await asyncio.sleep(0)
        go.set()
        return (await asyncio.gather(*waiting))[1:]

    doorway.gather(double, doubles)
    found = asyncio.run(crowd())
    assert found[0::2] == [2 * number for number in range(100)]
    assert found[1::2] == [str(number) for number in range(100)]
    assert crowds == [list(range(BATCH)), list(range(BATCH, 100))]
    assert doorway.ask(double, 5) == 10
    assert crowds[-1] == [5]


def test_who_is_woken_in_a_rush_lets_others_in_first(monkeypatch: pytest.MonkeyPatch) -> None:
    # Under gevent nobody else runs before a thread at the door waits: a storm was served one by one.
    room, now, others = _Room(), 100.0, list[_Ticket]()

    def pause(_: float) -> None:
        nonlocal now
        now += 0.001
        if len(others) < 5:
            others.append(_Ticket(print, (), lambda: None))
            assert not room.put(others[-1], 2)  # nobody else is woken

    monkeypatch.setattr(doorways, "time", SimpleNamespace(sleep=pause, monotonic=lambda: now))
    alone, first = (_Ticket(print, (), lambda: None) for _ in range(2))
    assert room.put(alone, 2)
    assert room.take({print}, 0) == [alone]
    room.finished()
    assert not others
    room.put(first, 2)
    assert room.take({print}, 0) == [first, *others]
    room.finished()
    assert len(others) == 5
    room.put(alone := _Ticket(print, (), lambda: None), 2)
    assert room.take({}, 0) == [alone]  # who is served alone anyway waits for nobody


def test_who_comes_while_one_thread_asks_for_many_is_in_its_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    # Threads that take one or two each ask ten times as often; the quicker the machine, the more.
    monkeypatch.setattr(doorways, "SLOW_SECONDS", 60.0)
    doorway, crowds, go, asked = Doorway(4), list[list[int]](), threading.Event(), threading.Event()

    def double(number: int) -> int:
        return doubled([(number,)])[0]

    def doubled(crowd: Sequence[tuple[Any, ...]]) -> list[int]:
        crowds.append([number for (number,) in crowd])
        asked.set()
        assert go.wait(20)
        return [2 * number for (number,) in crowd]

    doorway.gather(double, doubled)

    async def crowd() -> list[Any]:
        waiting = [asyncio.create_task(doorway.aask(double, 0))]
        await asyncio.to_thread(asked.wait, 20)
        for number in range(1, 20):
            waiting.append(asyncio.create_task(doorway.aask(double, number)))
            await asyncio.sleep(0.001)
        assert await doorway.aask(str, "something else") == "something else"  # that waits for nobody
        assert await doorway.aask(str, "again") == "again"
        go.set()
        return await asyncio.gather(*waiting)

    assert asyncio.run(crowd()) == [2 * number for number in range(20)]
    assert crowds == [[0], list(range(1, 20))]


def test_where_one_thread_asks_for_long_another_asks_for_those_who_came_meanwhile() -> None:
    doorway, crowds, go, asked = Doorway(4), list[list[int]](), threading.Event(), threading.Event()

    def double(number: int) -> int:
        crowds.append([number])
        asked.set()
        if number == 0:
            assert go.wait(20)
        return 2 * number

    def doubled(crowd: Sequence[tuple[Any, ...]]) -> list[int]:
        crowds.append([number for (number,) in crowd])
        return [2 * number for (number,) in crowd]

    doorway.gather(double, doubled)

    async def crowd() -> list[Any]:
        first = asyncio.create_task(doorway.aask(double, 0))
        await asyncio.to_thread(asked.wait, 20)
        others = await asyncio.gather(*(doorway.aask(double, number) for number in range(1, 20)))
        go.set()
        return [await first, *others]

    assert asyncio.run(crowd()) == [2 * number for number in range(20)]
    assert crowds[0] == [0]
    assert sorted(number for batch in crowds for number in batch) == list(range(20))


def test_one_who_spoils_it_for_all_does_so_for_nobody_else() -> None:
    doorway, go = Doorway(1), threading.Event()

    def inverse(number: int) -> float:
        return 1 / number

    async def crowd() -> list[Any]:
        waiting = [asyncio.create_task(doorway.aask(go.wait, 20))]
        waiting += [asyncio.create_task(doorway.aask(inverse, number)) for number in (1, 0, 2)]
        await asyncio.sleep(0)
        go.set()
        return (await asyncio.gather(*waiting, return_exceptions=True))[1:]

    doorway.gather(inverse, lambda everybody: [inverse(number) for (number,) in everybody])
    one, none, half = asyncio.run(crowd())
    assert (one, half) == (1.0, 0.5)
    assert isinstance(none, ZeroDivisionError)


def test_a_fork_has_threads_of_its_own() -> None:
    doorway = Doorway()
    assert doorway.ask(lambda: "in") == "in"
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is what is tried here
        pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, doorway.ask(lambda: b"in"))
        finally:
            os._exit(0)
    os.close(writing)
    assert os.read(reading, 10) == b"in"
    os.close(reading)
    os.waitpid(pid, 0)


def test_what_a_facility_inherits_is_just_called() -> None:
    class Quiet(Facility):
        pass

    class Busy(Facility):
        def disconnected(self, connection: Any, code: int) -> Any:
            return threading.get_ident()

    here, visitor = threading.get_ident(), Any
    assert call(Quiet().disconnected, visitor, 1000) is None
    assert asyncio.run(acall(Quiet().disconnected, visitor, 1000)) is None
    assert asyncio.run(acall(Busy().disconnected, visitor, 1000)) != here
    for found in (
        call_at_door(Busy().disconnected, visitor, 1),
        asyncio.run(acall_at_door(Busy().disconnected, visitor, 1)),
    ):
        assert found != here


def test_whose_turn_does_not_come_is_sent_away(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # contract 1.1: a database that hangs must not keep everybody waiting without end
    monkeypatch.setattr(doorways, "TURN_SECONDS", 0.2)
    monkeypatch.setattr(doorways, "LINE", 3)
    doorway, go, called = Doorway(1), threading.Event(), list[int]()
    slow = threading.Thread(target=doorway.ask, args=(go.wait, 20))
    slow.start()
    until(lambda: doorway._room is not None and not doorway._room._waiting)
    for number in range(3):
        with pytest.raises(Crowded, match="nobody was free"):
            ask(doorway, called.append, number)
    with pytest.raises(Crowded, match="3 are waiting already"):
        ask(doorway, called.append, 3)
    go.set()
    slow.join()  # who is being served is not sent away, however long it takes
    until(lambda: ask(doorway, lambda: "in") == "in")
    assert called == []
