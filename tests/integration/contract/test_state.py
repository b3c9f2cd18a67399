"""Contract 8.3: what a facility keeps with a connection goes with its client, on both backends and between them."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
from redis import Redis
from websockets.sync.client import ClientConnection

from shim.client import AsyncClient
from tests.integration.contract.cluster import PATIENCE, Cluster, Place, wait_until
from tests.integration.contract.wire import raw, said, v1

pytestmark = pytest.mark.servers

FACILITIES = ["contract", "contract-async"]


def cookie(name: str) -> dict[str, str]:
    """Somebody without a session, as the endpoint knows him."""
    return {"Cookie": f"realtime_anonymous={name}"}


def told(websocket: ClientConnection, **what: object) -> Any:
    """Tell the handler something, and give what it sends before its ack."""
    websocket.send(json.dumps({"op": "send", "id": 1, "data": what}))
    answer = None
    while (frame := said(websocket))["op"] != "ack":
        answer = frame
    return answer


def kept(websocket: ClientConnection) -> Any:
    """The connection's state, as its handler sees it."""
    return told(websocket, do="kept")["data"]["kept"]


@contextmanager
def connected(
    place: Place, name: str, facility: str = "contract", **options: Any
) -> Iterator[tuple[ClientConnection, str]]:
    """A v1 connection of somebody, and its id."""
    with v1(place, facility, headers=cookie(name), listen=[], **options) as (websocket, ready):
        yield websocket, ready["connection"]


def cut(websocket: ClientConnection) -> None:
    """Break the line without a close frame."""
    websocket.socket.close()


def lost(place: Place, name: str, facility: str = "contract", value: object = 42, **query: object) -> str:
    """A connection with a state whose line broke; its id. `disconnected` has run."""
    with connected(place, name, facility, note=name, **query) as (websocket, id):
        told(websocket, do="keep", value=value)
        cut(websocket)
    wait_until(lambda: place.notes.read(name, "disconnected"))
    return id


@pytest.mark.parametrize("facility", FACILITIES)
def test_who_comes_back_finds_it(both: list[Place], name: str, facility: str) -> None:
    # on the same backend and on the other; once; before the first `receive`
    for number, (here, there) in enumerate([*zip(both, both, strict=True), both, both[::-1]]):
        who = f"{name}-{number}"
        value = {"call": 42, "text": "é\0 \U0001f600", "of": [None, 1.5]}
        was = lost(here, who, facility, value)
        with connected(there, who, facility, was=was) as (websocket, id):
            assert kept(websocket) == value
            told(websocket, do="keep", value="next")
            cut(websocket)
        with connected(there, who, facility, was=was) as (websocket, _):
            assert kept(websocket) is None
        wait_until(partial(finds, here, who, facility, id, "next"))


def finds(place: Place, who: str, facility: str, was: str, value: object) -> bool:
    """Whether a connection that continues another finds this. Asked again, where the other may not have ended yet."""
    with connected(place, who, facility, was=was) as (websocket, _):
        return bool(kept(websocket) == value)


@pytest.mark.parametrize("do", ["leave", "raise", "throw out"])
def test_who_leaves_for_good_leaves_nothing(place: Place, name: str, do: str) -> None:
    with connected(place, name, note=name) as (websocket, was):
        told(websocket, do="keep", value=42)
        if do == "leave":
            websocket.close(1000)
        elif do == "raise":
            websocket.send('{"op":"send","data":{"do":"raise"}}')
        else:
            websocket.send('{"op":"send","data":{"do":"close","code":4503}}')
        place.ended(name)
    with connected(place, name, was=was) as (websocket, _):
        assert kept(websocket) is None


def test_what_disconnected_makes_of_it_counts(place: Place, name: str) -> None:
    was = lost(place, name, keep_at_the_end="at the end")
    wait_until(partial(finds, place, name, "contract", was, "at the end"))


# Bad input


def test_a_forged_id_is_of_no_use(both: list[Place], name: str) -> None:
    # nobody else gets it, by an id that he got hold of, and nobody else can take it away
    here, there = both
    was = lost(here, name)
    for place in both:
        with connected(place, f"{name}-other", was=was) as (websocket, _):
            assert kept(websocket) is None
        with connected(place, name, "contract-async", was=was) as (websocket, _):
            assert kept(websocket) is None
        with v1(place, listen=[], was=was) as (websocket, _):
            assert kept(websocket) is None
    ana = {"Cookie": f"{cookie(name)['Cookie']}; sessionid={here.ask('person', name=name)['session']}"}
    with v1(there, headers=ana, listen=[], was=was) as (websocket, _):
        assert kept(websocket) is None  # who has signed in is somebody else
    with connected(there, name, was=was) as (websocket, _):
        assert kept(websocket) == 42


def test_who_is_nobody_leaves_nothing(place: Place, name: str) -> None:
    with v1(place, listen=[], note=name) as (websocket, ready):
        told(websocket, do="keep", value=42)
        cut(websocket)
    place.ended(name)
    with v1(place, listen=[], was=ready["connection"]) as (websocket, _):
        assert kept(websocket) is None


# A move


def is_at(client: AsyncClient, backend: str) -> bool:
    return client.connected and client.backend == backend


def test_it_goes_along_with_a_move(both: list[Place], turn: Callable[..., None], name: str) -> None:
    # a call screen that counts what its user does does not begin anew, wherever it is served
    endpoint = f"http://127.0.0.1:{both[0].port}/realtime/endpoint"

    async def kept(client: AsyncClient) -> Any:
        while True:  # what a handler sends to a connection that is just being left may be lost with it
            await client.send({"do": "kept"}, ack_timeout=PATIENCE)
            return (await client.receive(PATIENCE)).value["kept"]

    async def run() -> None:
        clients = [AsyncClient(endpoint, facility=facility, params=("listen=[]",)) for facility in FACILITIES * 2]
        try:
            await asyncio.gather(*(client.open() for client in clients))
            for client in clients:
                await client.send({"do": "keep", "value": {"count": 0}}, ack_timeout=PATIENCE)
            for flip in range(1, 5):
                goes_to = "channels" if flip % 2 else "legacy"
                await asyncio.to_thread(turn, everyone=goes_to == "channels")
                for client in clients:
                    there = partial(is_at, client, goes_to)
                    await asyncio.to_thread(wait_until, there)
                    assert await kept(client) == {"count": flip - 1}
                    await client.send({"do": "keep", "value": {"count": flip}}, ack_timeout=PATIENCE)
            assert [client.counters.moved for client in clients] == [4] * len(clients)
            assert [client.counters.losses for client in clients] == [0] * len(clients)
        finally:
            await asyncio.gather(*(client.close() for client in clients))

    asyncio.run(run())


# Redis hangs


def test_where_redis_hangs_the_state_is_lost_and_nothing_waits(
    both: list[Place], turn: Callable[..., None], cluster: Cluster, name: str
) -> None:
    # contract 7.3: the others are served, the handlers hear of the end, and who is to move is told all the same
    with Redis.from_url(cluster.redis_url) as redis, ExitStack() as stack:
        others = [stack.enter_context(raw(place, listen=[])) for place in both]
        going = [
            stack.enter_context(connected(place, name, note=f"{name}-{place.name}-{number}"))[0]
            for place in both
            for number in range(3)
        ]
        staying = stack.enter_context(connected(both[0], name))[0]
        for websocket in (*going, staying):
            told(websocket, do="keep", value=42)
        turn(everyone=True)
        redis.execute_command("CLIENT", "PAUSE", 4_000, "ALL")
        for websocket in going:
            cut(websocket)
        for other in others:
            other.send('{"do":"echo","value":"here"}')
            assert other.recv(3.0) == "here"
        for place in both:
            for number in range(3):
                assert place.ended(f"{name}-{place.name}-{number}") == [1006]
        assert said(staying)["op"] == "move"
        assert kept(staying) == 42
        wait_until(redis.ping)
    for place in both:  # each process says so once, whoever it was that lost something
        assert 1 <= place.log.read_text().count("connections lose their state") <= len(cluster.pids(place.name))
