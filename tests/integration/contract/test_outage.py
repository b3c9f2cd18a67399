"""Contract 7.3, 7.4: Redis goes and comes back. Servers of this module's own, because it breaks them."""

import os
import signal
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import pytest
from redis import Redis
from websockets.sync.client import ClientConnection

from shim import Group, History, RealtimeUnavailable, User, realtime
from tests.integration.contract.cluster import MAIN, PATIENCE, Cluster, Place, wait_until
from tests.integration.contract.listening import Listener, listeners
from tests.integration.contract.wire import TEXT, V1, Wire, end_of, frame, opened, raw, refused, said, v1

pytestmark = pytest.mark.servers


@pytest.fixture
def both(strained: Cluster) -> list[Place]:
    return [strained.place(name) for name in MAIN]


@pytest.fixture(params=MAIN)
def place(request: pytest.FixtureRequest, strained: Cluster) -> Place:
    return strained.place(request.param)


# 7.4: the subscription is cut


def cut(redis: Any, least: int) -> int:
    """Cut the subscriptions of all processes, at least so many; how many there were: one may have started late."""
    wait_until(lambda: len(redis.client_list(_type="pubsub")) >= least)
    return int(redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))


def has(value: int, client: Listener) -> bool:
    return value < 0 or value in client.values[-90:]


def test_a_lost_subscription_loses_nothing(both: list[Place], strained: Cluster, name: str) -> None:
    # contract 7.4, 3.1, 3.2: cut while messages flow, again and again: no gap and no duplicate, raw and v1
    n = 300
    with Redis.from_url(strained.redis_url) as redis, listeners(both, name) as clients:
        processes = len(redis.client_list(_type="pubsub"))  # each has one; a worker of uWSGI from its first client on
        for number in range(n):
            if number % 60 == 30:  # within the 100 that history keeps: cut, back, and whole again
                for client in clients:
                    client.until(partial(has, number - 60))
                processes = cut(redis, processes)
            realtime.publish("contract", Group(name), number)
        for client in clients:
            client.until(lambda it: len(it.values) >= n)
        realtime.publish("contract", Group(name), n)
        for client in clients:
            client.until(lambda it: it.values[-1] == n)
            assert client.values == list(range(n + 1))
            assert client.others == []  # no `gap`
            assert not client.ended


def test_who_is_signed_out_meanwhile_goes_afterwards(both: list[Place], strained: Cluster, name: str) -> None:
    # contract 7.5, 7.4: said to all processes while none of them hears it
    ana = {"Cookie": f"sessionid={both[0].ask('person', name=name)['session']}"}
    with Redis.from_url(strained.redis_url) as redis, ExitStack() as stack:
        hers = [stack.enter_context(opened(place.url(), headers=ana)) for place in both for _ in range(3)]
        others = [stack.enter_context(opened(place.url())) for place in both]
        assert redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        realtime.disconnect(User(name))
        for websocket in hers:
            assert end_of(websocket) == (4500, "signed out")
        for websocket in others:
            websocket.send('{"do":"echo","value":"here"}')
            assert websocket.recv(PATIENCE) == "here"


def test_own_messages_stay_away_while_a_subscription_heals(both: list[Place], strained: Cluster, name: str) -> None:
    # contract 6.5, 7.4: what comes from history is no echo either, and positions stay dense
    n = 96  # with the end, all are in the history of 100 that heals
    with (
        Redis.from_url(strained.redis_url) as redis,
        listeners(both, name, "contract-quiet") as clients,
    ):
        notes = [f"{name}-{place.name}-{number}" for place in both for number in range(4)]
        ids = [both[0].notes.read(note, "audiences")[0]["id"] for note in notes]
        for number in range(n):
            if number % 40 == 20:
                redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            realtime.publish("contract-quiet", Group(name), number, sender=ids[number % len(ids)])
        realtime.publish("contract-quiet", Group(name), "end")
        for own, client in enumerate(clients):
            client.until(lambda it: it.values and it.values[-1] == "end")
            assert client.numbers == [number for number in range(n) if number % len(ids) != own]
            if client.websocket.subprotocol == V1:
                assert {each["op"] for each in client.others} == {"skip"}
                assert [each["pos"][1] for each in client.others] == list(range(own + 1, n + 1, len(ids)))
            else:
                assert client.others == []


def test_a_loss_that_history_cannot_mend_is_said(both: list[Place], strained: Cluster, name: str) -> None:
    # contract 7.4: `gap` to v1 clients, and what is left is in order and comes once
    n = 200
    with Redis.from_url(strained.redis_url) as redis, listeners(both, name) as clients:
        realtime.publish("contract", Group(name), "begin")
        for client in clients:
            client.until(lambda it: it.values)
        # Everything between two cuts is far more than a history of 3 can give back.
        stop = time.monotonic() + 1.0
        number = 0
        while number < n or time.monotonic() < stop:
            if number % 20 == 0:
                redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            realtime.publish("contract", Group(name), number, history=History(size=3))
            number += 1
        realtime.publish("contract", Group(name), "end", history=History(size=3))
        for client in clients:
            client.until(lambda it: it.values[-1] == "end")
            got = client.numbers
            assert got == sorted(set(got))
            if client.websocket.subprotocol == V1:
                missing = len(got) < number + 1
                assert bool([each for each in client.others if each["op"] == "gap"]) == missing


# 7.3, 7.4: Redis stops


def test_redis_stops(both: list[Place], strained: Cluster, name: str) -> None:
    # contract 7.3, 7.4, 1.1
    valkey = strained.stack.valkey
    assert valkey is not None
    with listeners(both, name) as clients, ExitStack() as stack:
        realtime.publish("contract", Group(name), "before")
        for client in clients:
            client.until(lambda it: it.values == ["before"])
        greeting = [
            stack.enter_context(Wire(place)).opened(place.path(note=f"{name}-{place.name}"), protocol=V1)
            for place in both
        ]
        valkey.stop()
        try:
            for wire in greeting:
                wire.send(frame(TEXT, b'{"op":"hello"}'))
            for place, wire in zip(both, greeting, strict=True):  # accepted already, so it cannot be refused any more
                assert wire.end() == 1013
                assert place.ended(f"{name}-{place.name}") == [1013]
            for call in (
                lambda: realtime.publish("contract", Group(name), "lost"),
                lambda: realtime.disconnect(User(name)),
            ):
                started = time.monotonic()
                with pytest.raises(RealtimeUnavailable):
                    call()
                assert time.monotonic() - started < 2.5
            told = {"facility": "contract", "to": ["g", name], "value": "lost"}
            for place, how in ((both[0], "publish"), (both[1], "publish"), (both[1], "apublish")):
                answer = place.ask(how, None, **told)
                assert answer["error"]
                assert answer["seconds"] < 2.5
            for place in both:
                for facility in ("contract", "contract-async"):
                    answered = refused(place, facility)
                    assert (answered.status, answered.body) == (503, b"messages cannot be had just now")
                    assert 5 <= int(answered.headers["retry-after"]) <= 10
                assert refused(place, "nowhere").status == 404
            # What a client sends still reaches its handler, and heartbeats go on.
            for client in clients[::2]:
                client.websocket.send('{"do":"echo","value":"still here"}')
                client.until(lambda it: it.values[-1] == "still here")
        finally:
            valkey.start()
        # It remembers nothing; what is published from now on comes whole, whoever has found Redis by then.
        for number in range(20):
            realtime.publish("contract", Group(name), number)
        for client in clients:
            client.until(lambda it: it.numbers[-1:] == [19])
            assert client.numbers == list(range(20))
            assert not client.ended
    for place in both:
        wait_until(partial(_opens, place), what="nobody gets in again")


def _opens(place: Place) -> bool:
    with suppress(Exception), opened(place.url(listen=[])):
        return True
    return False


def test_redis_hangs(both: list[Place], strained: Cluster, name: str) -> None:
    # contract 7.3: a Redis that takes connections and says nothing is away, too
    valkey = strained.stack.valkey
    assert valkey is not None
    with listeners(both, name) as clients:
        os.kill(valkey.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(RealtimeUnavailable):
                realtime.publish("contract", Group(name), "perhaps")
            assert time.monotonic() - started < 2.5
            for place in both:
                answered = refused(place, listen=[["g", f"{name}-new"]])
                assert (answered.status, answered.body) == (503, b"messages cannot be had just now")
        finally:
            os.kill(valkey.pid, signal.SIGCONT)
        for number in range(20):
            realtime.publish("contract", Group(name), number)
        for client in clients:
            client.until(lambda it: it.numbers[-1:] == [19])
            assert client.numbers == list(range(20))
            assert not client.ended


# 6.4: kill -9


def test_a_worker_is_killed(place: Place, strained: Cluster, name: str) -> None:
    # contract 6.4: nobody runs `disconnected` for it; others do not notice
    with listeners([place], name) as some, listeners([place], name) as more:
        clients = [*some, *more]
        notes = [f"{name}-{place.name}-{number}" for number in range(4)]
        pids = [each["pid"] for note in notes for each in place.notes.read(note, "audiences")]
        assert len(pids) == 8
        victim, before = pids[0], len(strained.pids(place.name))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: any(client.ended for client in clients))
        realtime.publish("contract", Group(name), 1)
        for client in clients:
            client.until(lambda it: it.ended or it.values == [1])
        assert sum(client.ended for client in clients) == pids.count(victim)
        assert all(client.values == [1] for client in clients if not client.ended)
        wait_until(
            lambda: victim not in (now := strained.pids(place.name)) and len(now) == before, what="no new worker"
        )
        with opened(place.url(listen=[])) as websocket:
            websocket.send('{"do":"echo","value":"a new one"}')
            assert websocket.recv(PATIENCE) == "a new one"


# 8.5, 7.3: a flip while Redis is away


def test_a_flip_while_redis_is_away_cuts_nobody_off(both: list[Place], strained: Cluster) -> None:
    # Nobody would be let in anywhere (2.1): clients are told, may try, and are moved when Redis is back.
    legacy, channels = both
    valkey = strained.stack.valkey
    assert valkey is not None
    with raw(legacy, listen=[]) as one, v1(legacy, listen=[]) as (other, _):
        valkey.stop()
        try:
            channels.ask("flag", None, everyone=True, silent=True)
            assert moved_to(other) == "channels"  # found in the database (8.2)
            assert refused(channels).status == 503
            with pytest.raises(TimeoutError):
                one.recv(1.5)  # `other` has a second to leave (`move_within`), and cannot
            for websocket in (one, other):
                assert is_here(websocket)
        finally:
            valkey.start()
        try:
            assert moved_to(other) == "channels"
            assert end_of(other) == end_of(one) == (1012, "moved: reconnect")
        finally:
            wait_until(partial(_opens, channels), what="nobody gets in again")
            channels.ask("flag", None)


def is_here(websocket: ClientConnection) -> bool:
    """It answers."""
    if websocket.subprotocol is None:
        websocket.send('{"do":"echo","value":"here"}')
        return websocket.recv(PATIENCE) == "here"
    websocket.send('{"op":"send","id":1,"data":{"do":"echo","value":"here"}}')
    return {said(websocket)["op"], said(websocket)["op"]} == {"ack", "msg"}


def moved_to(websocket: ClientConnection) -> str:
    """Where it is told to go, next."""
    while (frame := said(websocket))["op"] != "move":
        pass
    return str(frame["backend"])
