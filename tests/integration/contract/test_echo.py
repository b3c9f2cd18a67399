"""Contract 6.5: ws4redis's echo rule. `contract-quiet` is a facility with `echo = False`."""

import json
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from shim import Group, realtime
from tests.integration.contract.cluster import PATIENCE, Place
from tests.integration.contract.wire import V1, opened, raw, said, v1

pytestmark = pytest.mark.servers


def publish(websocket: ClientConnection, name: str, value: object) -> None:
    """Have its handler publish something, as this connection's message."""
    told = {"do": "publish", "to": ["g", name], "value": value}
    websocket.send(json.dumps(told if websocket.subprotocol is None else {"op": "send", "data": told}))


def heard(websocket: ClientConnection) -> Any:
    """The next message: its value; of a skip, its position."""
    if websocket.subprotocol is None:
        return websocket.recv(PATIENCE)
    frame = said(websocket)
    return ("skip", frame["pos"][1]) if frame["op"] == "skip" else frame["text"]


@pytest.mark.parametrize("facility", ["contract-quiet", "contract-quiet-async"])
def test_who_sends_does_not_get_it_back(both: list[Place], name: str, facility: str) -> None:
    # contract 6.5: with the same texts from everybody, on both backends, raw and v1, on several processes of each
    listen = [["g", name]]
    with ExitStack() as stack:
        clients = []
        for place in both * 2:
            clients.append(stack.enter_context(raw(place, facility, listen=listen)))
            clients.append(stack.enter_context(v1(place, facility, listen=listen))[0])
        asked = stack.enter_context(raw(both[0], facility, listen=listen, echo=""))
        asked_v1 = stack.enter_context(v1(both[1], facility, listen=listen, echo=""))[0]
        for position, sender in enumerate((*clients, asked, asked_v1), 1):
            publish(sender, name, "the same")
            for client in clients:
                if client is not sender:
                    assert heard(client) == "the same"
                elif client.subprotocol is not None:
                    assert heard(client) == ("skip", position)
            assert heard(asked) == heard(asked_v1) == "the same"
        realtime.publish(facility, Group(name), "end")
        for client in (*clients, asked, asked_v1):
            assert heard(client) == "end"


def test_on_other_facilities_everybody_gets_it(place: Place, name: str) -> None:
    with (
        raw(place, listen=[["g", name]]) as one,
        v1(place, listen=[["g", name]]) as (other, _),
    ):
        publish(one, name, "one")
        publish(other, name, "other")
        assert {heard(one) for _ in range(2)} == {heard(other) for _ in range(2)} == {"one", "other"}


def test_after_a_move_and_after_a_loss(both: list[Place], name: str) -> None:
    # contract 6.5, 5.3: what the connection before has sent is its own, on the other backend too
    listen = [["g", name]]
    label = f"group:{name}"
    for here, there in (both, both[::-1]):
        with v1(here, "contract-quiet", listen=listen) as (websocket, ready):
            start, id = ready["topics"][label], ready["connection"]
            for text in ("a", "b"):
                publish(websocket, name, text)
                assert heard(websocket)[0] == "skip"
        realtime.publish("contract-quiet", Group(name), "c")
        first = start[1] + 1
        with v1(there, "contract-quiet", listen=listen, resume={label: start}, was=id) as (websocket, ready):
            assert ready["recovered"] == {label: True}
            assert [heard(websocket) for _ in range(3)] == [("skip", first), ("skip", first + 1), "c"]
            publish(websocket, name, "d")
            assert heard(websocket) == ("skip", first + 3)
        with v1(there, "contract-quiet", listen=listen, resume={label: start}) as (websocket, _):
            assert [heard(websocket) for _ in range(4)] == ["a", "b", "c", "d"]  # nobody's own


def test_a_forged_id_hides_messages_from_the_forger_alone(both: list[Place], name: str) -> None:
    listen = [["g", name]]
    with ExitStack() as stack:
        victim, ready = stack.enter_context(v1(both[0], "contract-quiet", listen=listen))
        forger, _ = stack.enter_context(v1(both[0], "contract-quiet", listen=listen, was=ready["connection"]))
        publish(victim, name, "hers")
        assert heard(victim)[0] == heard(forger)[0] == "skip"
        publish(forger, name, "his")
        assert heard(victim) == "his"
        assert heard(forger)[0] == "skip"


def test_the_last_message_is_for_whoever_comes(place: Place, name: str) -> None:
    # contract 5.2: a raw client that comes back is somebody new
    with raw(place, "contract-quiet", listen=[["g", name]]) as websocket:
        publish(websocket, name, "last")
        websocket.send('{"do":"echo","value":"published"}')
        assert heard(websocket) == "published"
    with raw(place, "contract-quiet", listen=[["g", name]]) as websocket:
        assert heard(websocket) == "last"


@pytest.mark.parametrize("was", ['""', "7", '["c1"]', '"a b"', '"é"', f'"{"x" * 65}"', '{"id":"c1"}'])
def test_what_is_no_id_is_a_bad_hello(place: Place, was: str) -> None:
    # contract 6.3
    with opened(place.url(listen=[]), subprotocols=[V1]) as websocket:
        websocket.send(f'{{"op":"hello","was":{was}}}')
        assert said(websocket)["code"] == "bad_hello"
        websocket.send('{"op":"hello","was":null}')
        assert said(websocket)["op"] == "ready"
