"""Clients that ask for what is not theirs, or for too much (contract 1.3, 3.3, 8.3)."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from shim import Audience, Group, Session, User, realtime
from tests.integration.contract.cluster import PATIENCE, Place
from tests.integration.contract.wire import end_of, raw, said, v1

pytestmark = pytest.mark.servers

CROWD = 100


def test_positions_of_topics_that_are_somebody_elses(place: Place, name: str) -> None:
    # contract 1.3, 3.3, 5.3: a label means one's own topic, or nothing at all, whatever is known of the other's
    secret = place.ask("person", name=name)["session"]
    eve = {"Cookie": f"sessionid={place.ask('person', name=f'{name}-eve')['session']}"}
    hers: dict[str, Audience] = {
        "user": User(name),
        "session": Session(secret),
        f"group:{name}": Group(name),
    }
    resume: dict[str, object] = {}
    for label, audience in hers.items():
        receipt = realtime.publish("contract", audience, "begin")
        assert receipt.position is not None
        resume[label] = list(receipt.position)
        realtime.publish("contract", audience, "secret")
    resume |= {label: ["", 0] for label in ("group:", "control", "contract:u:", "everyone\n", "x" * 60_000)}
    with v1(place, headers=eve, resume=resume) as (websocket, ready):
        assert set(ready["topics"]) == {"everyone", "user", "session"}  # her own
        assert ready["recovered"] == {"user": False, "session": False}
        for audience in hers.values():
            realtime.publish("contract", audience, "secret, too")
        realtime.publish("contract", User(f"{name}-eve"), "hers")
        assert said(websocket)["text"] == "hers"


@pytest.mark.parametrize("backwards", [False, True], ids=["to channels", "to legacy"])
def test_a_client_that_opens_a_hundred_connections_while_it_moves(
    both: list[Place], turn: Callable[..., None], name: str, backwards: bool
) -> None:
    # contract 8.3, 3.1, 6.4: each is a connection like any other, one of them gets the state, and others feel nothing
    here, there = reversed(both) if backwards else both
    headers = {"Cookie": f"realtime_anonymous={name}"}
    listen = [["g", name]]
    if backwards:
        turn(everyone=True)
    with ExitStack() as stack:
        old, ready = stack.enter_context(v1(here, headers=headers, listen=listen, note=f"{name}-old"))
        start = ready["topics"]
        old.send('{"op":"send","id":1,"data":{"do":"keep","value":42}}')
        assert said(old) == {"op": "ack", "id": 1}
        turn(everyone=not backwards)
        assert said(old)["op"] == "move"
        other = stack.enter_context(raw(there, listen=listen))
        realtime.publish("contract", Group(name), "first")

        def come(number: int) -> ClientConnection | int:
            come = v1(
                there, headers=headers, listen=listen, note=f"{name}-{number}", resume=start, was=ready["connection"]
            )
            try:
                websocket, told = stack.enter_context(come)
            except InvalidStatus as refused:
                return refused.response.status_code
            assert told["recovered"] == {f"group:{name}": True}
            return websocket

        with ThreadPoolExecutor(20) as threads:
            came = list(threads.map(come, range(CROWD)))
        crowd = [websocket for websocket in came if not isinstance(websocket, int)]
        assert {status for status in came if isinstance(status, int)} <= {503}
        assert len(crowd) > CROWD / 2
        realtime.publish("contract", Group(name), "second")
        kept: Counter[Any] = Counter()
        for websocket in crowd:
            assert [said(websocket)["text"] for _ in range(2)] == ["first", "second"]
            websocket.send('{"op":"send","data":{"do":"kept"}}')
            kept[said(websocket)["data"]["kept"]] += 1
        assert kept == {42: 1, None: len(crowd) - 1}
        assert [said(old)["text"] for _ in range(2)] == ["first", "second"]  # it stays, until its time is over
        assert end_of(old)[0] == 1012
        assert [other.recv(PATIENCE) for _ in range(2)] == ["first", "second"]
        other.send('{"do":"echo","value":"here"}')
        assert other.recv(PATIENCE) == "here"
    for number, result in enumerate(came):
        if not isinstance(result, int):
            assert there.ended(f"{name}-{number}") == [1000]
    assert here.ended(f"{name}-old") == [1012]
