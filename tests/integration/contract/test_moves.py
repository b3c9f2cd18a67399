"""Contract 7.5, 8, 1.4: who has to go, who may stay, and what it costs. The flag is everybody's: it is put back."""

import asyncio
import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from shim import Group, User, realtime
from shim.client import AsyncClient
from shim.core.cohorts import Snapshot, Subject, cohort
from tests.integration.contract.cluster import MAIN, PATIENCE, Cluster, Place, wait_until
from tests.integration.contract.places import everywhere
from tests.integration.contract.wire import V1, end_of, opened, raw, v1

pytestmark = pytest.mark.servers

FLAG = "realtime_channels"
MOVED = (1012, "moved: reconnect")


def cookie(session: str) -> dict[str, str]:
    return {"Cookie": f"sessionid={session}"}


def is_here(websocket: ClientConnection) -> bool:
    """It answers: it has not been closed, and nothing was sent to it before."""
    websocket.send('{"do":"echo","value":"here"}')
    return websocket.recv(PATIENCE) == "here"


# 7.5: signing out


def test_signing_out_ends_a_users_connections(both: list[Place], name: str) -> None:
    # contract 7.5: on every process of both backends, and nobody else's
    ana = both[0].ask("person", name=name)
    session = cookie(ana["session"])
    ben = cookie(both[0].ask("person", name=f"{name}-ben")["session"])
    with ExitStack() as stack:
        hers, others = [], []
        for place in both:
            for number in range(4):
                hers.append(stack.enter_context(raw(place, headers=session, note=f"{name}-{place.name}-{number}")))
                hers.append(stack.enter_context(v1(place, headers=session))[0])
            others.append(stack.enter_context(raw(place, headers=ben, listen=[])))
            others.append(stack.enter_context(raw(place, listen=[["u", name]])))  # who only listens is not her
        both[1].ask("sign-out", session)
        for websocket in hers:
            assert end_of(websocket) == (4500, "signed out")
        assert all(is_here(websocket) for websocket in others)
    for place in both:
        for number in range(4):
            assert place.ended(f"{name}-{place.name}-{number}") == [4500]
        with v1(place, headers=session) as (_, ready):  # her session is over
            assert set(ready["topics"]) == {"everyone"}


def test_throwing_somebody_out(both: list[Place], name: str) -> None:
    # contract 7.5: with a code of the application's choice; whatever the name
    who = f"{name}:{{*}}\n\0é"
    session = cookie(both[0].ask("person", name=who)["session"])
    with raw(both[0], headers=session) as one, raw(both[1], headers=session) as other:
        realtime.disconnect(User(name))
        realtime.disconnect(User(who), code=4503)
        assert end_of(one) == end_of(other) == (4503, "signed out")


# 8.1, 8.2, 8.4: a flip


def test_everybody_goes_and_comes_back(both: list[Place], turn: Callable[..., None], name: str) -> None:
    # contract 8.4, 8.6
    legacy, channels = both
    with ExitStack() as stack:
        old = [stack.enter_context(raw(legacy, listen=[], note=f"{name}-{number}")) for number in range(8)]
        early = [stack.enter_context(raw(channels, listen=[])) for _ in range(4)]  # contract 1.4
        turn(everyone=True)
        for websocket in old:
            assert end_of(websocket) == MOVED
        assert all(is_here(websocket) for websocket in early)
        turn(everyone=False)
        for websocket in early:
            assert end_of(websocket) == MOVED
    for number in range(8):
        assert legacy.ended(f"{name}-{number}") == [1012]


def test_a_listed_user_goes(both: list[Place], turn: Callable[..., None], name: str) -> None:
    legacy, channels = both
    ana = legacy.ask("person", name=name)
    ben = legacy.ask("person", name=f"{name}-ben")
    with ExitStack() as stack:
        hers = [stack.enter_context(raw(legacy, headers=cookie(ana["session"]), listen=[])) for _ in range(4)]
        his = [stack.enter_context(raw(legacy, headers=cookie(ben["session"]), listen=[])) for _ in range(4)]
        nobodys = [stack.enter_context(raw(legacy, listen=[])) for _ in range(4)]
        turn(users=[ana["pk"]])
        for websocket in hers:
            assert end_of(websocket) == MOVED
        assert all(is_here(websocket) for websocket in (*his, *nobodys))
        there = stack.enter_context(raw(channels, headers=cookie(ana["session"]), listen=[]))
        turn(everyone=False, users=[ana["pk"]])  # beats the list
        assert end_of(there) == MOVED


def test_a_share_goes(both: list[Place], turn: Callable[..., None], name: str) -> None:
    # contract 8.1: by a rule that anybody can work out
    legacy = both[0]
    goes: dict[str, bool] = {}
    for number in range(24):
        id = f"{name}-{number}"
        snapshot = Snapshot(FLAG, exists=True, percent=50_000)
        goes[id] = cohort(snapshot, Subject(anonymous=id)) == "channels"
    assert 3 < sum(goes.values()) < 21
    with ExitStack() as stack:
        clients = {
            id: stack.enter_context(raw(legacy, headers={"Cookie": f"realtime_anonymous={id}"}, listen=[]))
            for id in goes
        }
        turn(percent=50)
        for id, websocket in clients.items():
            if goes[id]:
                assert end_of(websocket) == MOVED
        assert all(is_here(websocket) for id, websocket in clients.items() if not goes[id])


def test_a_change_that_nobody_tells(both: list[Place], turn: Callable[..., None]) -> None:
    # contract 8.2: `queryset.update` fires no signal; found within 10 s from the database alone
    with raw(both[0], listen=[]) as websocket:
        turn(everyone=True, silent=True)
        assert end_of(websocket) == MOVED
    turn(everyone=True)  # told, so that the other backend knows it, too, before it is changed again
    with raw(both[1], listen=[]) as websocket:
        wait_until(lambda: is_here(websocket))
        turn(everyone=None, silent=True)
        assert end_of(websocket) == MOVED


# 8.3: v1 clients lose nothing


def test_v1_clients_lose_nothing(both: list[Place], turn: Callable[..., None], name: str) -> None:
    # contract 8.3, 5.3, 3.1: flips under traffic
    endpoint = f"http://127.0.0.1:{both[0].port}/realtime/endpoint"
    listen = f"listen={json.dumps([['g', name]])}"

    async def run() -> None:
        clients = [AsyncClient(endpoint, facility="contract", params=(listen,)) for _ in range(6)]
        published = 0
        try:
            await asyncio.gather(*(client.open() for client in clients))
            for told, backend in (({"everyone": True}, "channels"), ({"everyone": False}, "legacy")):
                await asyncio.to_thread(turn, **told)
                while not all(client.connected and client.backend == backend for client in clients):
                    await realtime.apublish("contract", Group(name), published)
                    published += 1
                    await asyncio.sleep(0.01)
                    assert published < 3_000, [repr(client) for client in clients]
            await realtime.apublish("contract", Group(name), "end")
            for client in clients:
                got: list[Any] = []
                while not got or got[-1] != "end":
                    got.append((await client.receive(PATIENCE)).value)
                assert got == [*range(published), "end"]
                assert client.duplicates_dropped == client.holes == client.counters.gaps == 0
        finally:
            await asyncio.gather(*(client.close() for client in clients))

    asyncio.run(run())


# 8.4: the cohort cookie


@everywhere
def test_the_handshakes_reply_tells_the_right_backend(place: Place, turn: Callable[..., None]) -> None:
    # contract 8.4: on every kind of server; what it costs to forge is in tests/deploy
    turn(everyone=place.backend == "legacy")
    home = "channels" if place.backend == "legacy" else "legacy"

    def told(cookie: str, **options: Any) -> list[str]:
        with opened(place.url(listen=[]), headers={"Cookie": f"realtime_backend={cookie}"}, **options) as websocket:
            assert websocket.response is not None
            return websocket.response.headers.get_all("Set-Cookie")

    wait_until(lambda: told(place.backend), what="the flag was not heard of")
    for options in ({}, {"subprotocols": [V1]}):
        (line,) = told(place.backend, **options)
        name, *attributes = line.split("; ")
        assert name == f"realtime_backend={home}"
        assert {"HttpOnly", "Path=/", "SameSite=Lax", "Max-Age=31536000"} <= set(attributes)
        assert told(home, **options) == []  # that did not help: it is told nothing, and moved as late as ever


# 1.4, 8.6: other settings


def test_who_comes_to_the_wrong_backend(cluster: Cluster, both: list[Place], turn: Callable[..., None]) -> None:
    # contract 1.4: accepted, and moved
    env = {"CONTRACT_PACE": '{"arrival": 0.2, "arrival_spread": 0.2}'}
    base = cluster.stack.port_base
    legacy = cluster.more("gthread", "hasty-gthread", base + 12, env)
    channels = cluster.more("uvicorn", "hasty-uvicorn", base + 13, env)
    with raw(legacy, listen=[]) as right, raw(channels, listen=[]) as wrong:
        assert end_of(wrong) == MOVED
        assert is_here(right)
    turn(everyone=True)
    wait_until(lambda: both[0].get("/realtime/endpoint?facility=contract").body.count(b'"channels"') == 1)
    with raw(channels, listen=[]) as right, raw(legacy, listen=[]) as wrong:
        assert end_of(wrong) == MOVED
        assert is_here(right)


def test_the_backend_is_forced(cluster: Cluster, turn: Callable[..., None]) -> None:
    # contract 8.6: above the flag
    env = {"REALTIME_FORCE_BACKEND": "legacy", "CONTRACT_PACE": '{"arrival": 0.2, "arrival_spread": 0.2}'}
    base = cluster.stack.port_base
    legacy = cluster.more("gthread", "forced-gthread", base + 14, env)
    channels = cluster.more("uvicorn", "forced-uvicorn", base + 15, env)
    with raw(legacy, listen=[]) as stays:
        turn(everyone=True)
        with raw(channels, listen=[]) as goes:
            assert end_of(goes) == MOVED
        for place in (legacy, channels):
            answer = json.loads(place.get("/realtime/endpoint?facility=contract").body)
            assert answer["backend"] == "legacy"
        assert is_here(stays)


@pytest.mark.parametrize("name_of", MAIN)
def test_the_endpoint(cluster: Cluster, both: list[Place], turn: Callable[..., None], name_of: str) -> None:
    place = cluster.place(name_of)
    answer = place.get("/realtime/endpoint?facility=contract")
    told = json.loads(answer.body)
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    assert "realtime_anonymous=" in answer.headers["set-cookie"]
    assert (told["backend"], told["protocol"]) == ("legacy", "realtime.v1")
    assert set(told["reconnect"]) == {"base_ms", "cap_ms", "spread_ms"}
    with opened(f"{told['url']}?listen=[]") as websocket:
        assert is_here(websocket)
    assert place.get("/realtime/endpoint?facility=nowhere").status == 404
