"""Contract 5: the past. One message of it on raw; on v1 all that was missed, or none of it."""

import json
from contextlib import ExitStack
from typing import Any

import pytest
from redis import Redis
from websockets.exceptions import ConnectionClosed

from shim import Group, History, realtime
from shim.core.names import Topic
from tests.integration.contract.cluster import PATIENCE, Cluster, Place, wait_until
from tests.integration.contract.wire import raw, said, v1

pytestmark = pytest.mark.servers


def publish(name: str, *values: object, history: History | None = None) -> list[Any]:
    """Publish to a group; where each of them stands."""
    receipts = [realtime.publish("contract", Group(name), value, history=history) for value in values]
    return [list(receipt.position) if receipt.position else None for receipt in receipts]


def log_of(cluster: Cluster, name: str) -> str:
    """The key of a topic's log."""
    return Topic("contract", Group(name)).channel(cluster.stack.env["REALTIME_PREFIX"]) + ":log"


@pytest.fixture
def redis(cluster: Cluster) -> Any:
    with Redis.from_url(cluster.redis_url) as redis:
        yield redis


# 5.1: how much is kept


def test_the_last_100_are_kept(place: Place, name: str) -> None:
    given = publish(name, *range(103))
    label = f"group:{name}"
    with v1(place, listen=[["g", name]], resume={label: given[2]}) as (websocket, ready):
        assert ready["recovered"] == {label: True}
        assert [said(websocket)["data"] for _ in range(100)] == list(range(3, 103))
    with v1(place, listen=[["g", name]], resume={label: given[1]}) as (websocket, ready):
        assert ready["recovered"] == {label: False}
        publish(name, "live")
        assert said(websocket)["text"] == "live"  # and nothing of the 100 before it


def test_without_history_there_is_no_past(place: Place, name: str) -> None:
    assert publish(name, "gone", history=History(size=0)) == [None]
    with raw(place, listen=[["g", name]]) as one, v1(place, listen=[["g", name]]) as (other, _):
        publish(name, "live", history=History(size=0))
        assert one.recv(PATIENCE) == "live"
        assert said(other) == {"op": "msg", "topic": f"group:{name}", "pos": None, "text": "live"}


def test_a_history_of_ones_own(place: Place, name: str) -> None:
    given = publish(name, "a", "b", "c", history=History(size=2, ttl=60))
    label = f"group:{name}"
    with v1(place, listen=[["g", name]], resume={label: given[0]}) as (websocket, ready):
        assert ready["recovered"] == {label: True}
        assert [said(websocket)["text"] for _ in range(2)] == ["b", "c"]
    with v1(place, listen=[["g", name]], resume={label: [given[0][0], 0]}) as (_, ready):
        assert ready["recovered"] == {label: False}


# 5.2: raw


def test_raw_gets_the_last_message_once_and_first(place: Place, name: str) -> None:
    # contract 5.2
    other = f"{name}-other"
    publish(name, "old", "last")
    publish(other, b"last of the other")
    with raw(place, listen=[["g", name], ["g", other], ["g", f"{name}-empty"]]) as websocket:
        publish(name, "live")
        got = [websocket.recv(PATIENCE) for _ in range(3)]
        assert set(got) == {"last", b"last of the other", "live"}
        assert got.index("last") < got.index("live")
        publish(name, "end")
        assert websocket.recv(PATIENCE) == "end"


def test_raw_gets_nothing_that_has_expired(place: Place, name: str, redis: Any, cluster: Cluster) -> None:
    publish(name, "old", history=History(ttl=0.05))
    wait_until(lambda: not redis.exists(log_of(cluster, name)))
    with raw(place, listen=[["g", name]]) as websocket:
        publish(name, "live")
        assert websocket.recv(PATIENCE) == "live"


def test_raw_gets_it_once_while_it_is_published(both: list[Place], name: str) -> None:
    # contract 5.2, 3.1: whatever falls together with the opening comes once, and in order
    with ExitStack() as stack:
        clients = []
        for number in range(30):
            publish(name, number)
            clients.append(stack.enter_context(raw(both[number % 2], listen=[["g", name]])))
        publish(name, "end")
        for number, websocket in enumerate(clients):
            got: list[Any] = []
            while not got or got[-1] != "end":
                text = str(websocket.recv(PATIENCE))
                got.append(text if text == "end" else json.loads(text))
            assert got == [*range(number, 30), "end"]


# 5.3: v1


def test_v1_gets_no_past_unless_it_asks(place: Place, name: str) -> None:
    given = publish(name, "old")
    with v1(place, listen=[["g", name]]) as (websocket, ready):
        assert ready["topics"] == {f"group:{name}": given[0]}
        assert ready["recovered"] == {}
        live = publish(name, "live")
        frame = said(websocket)
        assert (frame["text"], frame["pos"]) == ("live", live[0])


def test_v1_resumes_from_any_position(place: Place, name: str) -> None:
    # contract 5.3
    label = f"group:{name}"
    given = publish(name, *range(5))
    for missed in range(6):
        position = [given[0][0], 5 - missed]
        with v1(place, listen=[["g", name]], resume={label: position}) as (websocket, ready):
            assert (ready["recovered"], ready["topics"]) == ({label: True}, {label: given[-1]})
            frames = [said(websocket) for _ in range(missed)]
            assert [frame["data"] for frame in frames] == list(range(5 - missed, 5))
            assert [frame["pos"] for frame in frames] == given[5 - missed :]
            live = publish(name, 5)
            frame = said(websocket)
            assert (frame["data"], frame["pos"]) == (5, live[0])
        name = f"{name}x"
        label = f"group:{name}"
        given = publish(name, *range(5))


def test_what_cannot_be_completed_is_not_begun(place: Place, name: str, redis: Any, cluster: Cluster) -> None:
    # contract 5.3: trimmed, expired, of another epoch, or never true: `recovered: false`, and never part of it
    label = f"group:{name}"
    given = publish(name, *range(5))
    epoch = given[0][0]
    redis.xtrim(log_of(cluster, name), maxlen=2, approximate=False)
    cases: list[tuple[Any, bool]] = [
        ([epoch, 0], False),  # trimmed
        ([epoch, 2], False),
        ([epoch, 3], True),
        ([epoch, 5], True),
        ([epoch, 6], False),  # ahead of what there is
        ([epoch, 2**53], False),
        (["", 0], False),
        (["forged", 5], False),
        ([epoch + "x", 5], False),
        ([epoch, 2**60], False),
        (["x" * 1_000, 5], False),
    ]
    for position, recovered in cases:
        with v1(place, listen=[["g", name]], resume={label: position}) as (websocket, ready):
            assert ready["recovered"] == {label: recovered}, position
            assert ready["topics"] == {label: given[-1]}
            if recovered:
                assert [said(websocket)["data"] for _ in range(5 - position[1])] == list(range(position[1], 5))
    with v1(place, listen=[["g", name]], resume={label: [epoch, 0]}) as (websocket, _):
        publish(name, "live")
        assert said(websocket)["text"] == "live"
    redis.delete(log_of(cluster, name))  # as when it has expired
    with v1(place, listen=[["g", name]], resume={label: [epoch, 3]}) as (websocket, ready):
        assert ready["recovered"] == {label: False}
        assert ready["topics"] == {label: [epoch, 6]}


def test_topics_are_recovered_each_for_itself(place: Place, name: str) -> None:
    one, other = publish(name, "a", "b"), publish(f"{name}-other", "a", "b")
    listen = [["g", name], ["g", f"{name}-other"]]
    resume = {f"group:{name}": one[0], f"group:{name}-other": ["forged", 1], "group:of-somebody-else": other[0]}
    with v1(place, listen=listen, resume=resume) as (websocket, ready):
        assert ready["recovered"] == {f"group:{name}": True, f"group:{name}-other": False}
        assert set(ready["topics"]) == {f"group:{name}", f"group:{name}-other"}  # a client cannot ask for a topic
        frame = said(websocket)
        assert (frame["topic"], frame["text"]) == (f"group:{name}", "b")


def test_a_resume_meets_live_messages(both: list[Place], name: str) -> None:
    # contract 5.3, 3.1: many come back while others publish: no gap and no duplicate
    label = f"group:{name}"
    first = publish(name, 0)[0]
    with ExitStack() as stack:
        clients = []
        for number in range(1, 40):
            publish(name, number)
            resume = {label: [first[0], max(1, number - 7)]}
            clients.append(stack.enter_context(v1(both[number % 2], listen=[["g", name]], resume=resume)))
        end = publish(name, "end")[0]
        for number, (websocket, ready) in enumerate(clients, 1):
            assert ready["recovered"] == {label: True}
            seqs: list[int] = []
            while not seqs or seqs[-1] != end[1]:
                seqs.append(said(websocket)["pos"][1])
            assert seqs == list(range(max(1, number - 7) + 1, end[1] + 1))


def test_a_large_past_is_not_a_slow_client(place: Place, name: str) -> None:
    # contract 5.3, 7.2: what was missed may be over the backlog limit
    label = f"group:{name}"
    first = publish(name, "first")[0]
    big = "x" * 900_000
    publish(name, *(f"{number}{big}" for number in range(6)))
    with v1(place, listen=[["g", name]], resume={label: first}) as (websocket, ready):
        assert ready["recovered"] == {label: True}
        try:
            assert [said(websocket)["text"][0] for _ in range(6)] == list("012345")
        except ConnectionClosed as closed:
            raise AssertionError(f"closed: {closed}") from None
