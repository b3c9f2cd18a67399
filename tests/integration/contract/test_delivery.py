"""Contract 2, 3, 4: from a publish to a client. The same bytes on both backends."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from shim import Audience, Everyone, Group, Kind, Message, Position, Session, User, realtime
from tests.integration.contract.cluster import PATIENCE, Place
from tests.integration.contract.places import everywhere
from tests.integration.contract.wire import Wire, raw, said, v1

pytestmark = pytest.mark.servers

UGLY = {
    "separators": "a:b/{c}*?[d] \\ \r\n\t'\"&=#%",
    "braces": "}:e:{",
    "newline": "\n",
    "NUL": "\0",
    "emoji": "\U0001f469\u200d\U0001f680 na\u00efve",
    "not normalised": "nai\u0308ve",
    "long": "n\u00e4me:" * 1_700,  # 10 kB
    "longer": "n\u00e4me:" * 1_700 + "x",
    "tilde": "~" + "0" * 64,  # what a hashed name looks like
    "star": "*",
}


@contextmanager
def everybody(both: list[Place], **query: Any) -> Iterator[list[ClientConnection]]:
    """A raw and a v1 client on each backend, several on each, so that several processes serve them."""
    with ExitStack() as stack:
        clients = []
        for place in both * 2:
            clients.append(stack.enter_context(raw(place, **query)))
            clients.append(stack.enter_context(v1(place, **query))[0])
        yield clients


def positions(frames: list[dict[str, Any]]) -> list[int]:
    return [frame["pos"][1] for frame in frames]


# 2.1: the subscription point


@everywhere
def test_nothing_is_lost_after_the_opening(place: Place, name: str) -> None:
    # contract 2.1: published right after the handshake (raw) or `ready` (v1), by another process, while others open
    # and close: the first and the last of a topic come and go.
    rounds = 15 if place.name in ("legacy", "channels") else 5

    def come_and_go(number: int) -> None:
        for turn in range(rounds):
            group = f"{name}-{number if turn % 2 else 'shared'}-{turn}"
            with raw(place, listen=[["g", group]]) as websocket:
                realtime.publish("contract", Group(group), f"raw {number}")
                got = websocket.recv(PATIENCE)
                while got != f"raw {number}":  # another thread's: its last message, or a live one
                    got = websocket.recv(PATIENCE)
            with v1(place, listen=[["g", group]]) as (websocket, _):
                realtime.publish("contract", Group(group), f"v1 {number}")
                while said(websocket)["text"] != f"v1 {number}":
                    pass

    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            come_and_go(number)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# 3.1, 3.2: once, in order


def test_two_publishers_one_order(both: list[Place], name: str) -> None:
    # contract 3.1, 3.2
    group, n = Group(name), 60
    with everybody(both, listen=[["g", name]]) as clients:

        def publish(who: str) -> None:
            for number in range(n):
                realtime.publish("contract", group, {"who": who, "n": number})

        threads = [threading.Thread(target=publish, args=(who,)) for who in ("one", "other")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        realtime.publish("contract", group, "end")
        orders = set()
        for websocket in clients:
            values = []
            while True:
                text = websocket.recv(PATIENCE)
                if str(text).startswith('{"op":'):
                    frame = json.loads(text)
                    value = frame.get("data", frame.get("text"))
                    values.append((frame["pos"][1], value))
                else:
                    value = text if text == "end" else json.loads(text)
                    values.append((len(values) + 1, value))
                if value == "end":
                    break
            assert [seq for seq, _ in values] == list(range(1, 2 * n + 2))
            orders.add(json.dumps([value for _, value in values]))
        assert len(orders) == 1
        values = json.loads(orders.pop())[:-1]
        for who in ("one", "other"):
            assert [value["n"] for value in values if value["who"] == who] == list(range(n))


def test_a_publish_is_one_message_whoever_makes_it(both: list[Place], name: str) -> None:
    # contract 3.4: sync and async code, in either server's process and in one that serves nobody
    with everybody(both, listen=[["g", name]]) as clients:
        told: dict[str, Any] = {"facility": "contract", "to": ["g", name], "value": {"é": [1, None, "\0"]}}
        answers = [both[0].ask("publish", **told), both[1].ask("publish", **told), both[1].ask("apublish", **told)]
        receipt = realtime.publish("contract", Group(name), told["value"])
        clients[0].send(json.dumps({"do": "publish", "to": ["g", name], "value": told["value"]}))
        assert [answer["pos"][1] for answer in answers] == [1, 2, 3]
        assert receipt.position == Position(answers[0]["pos"][0], 4)
        for websocket in clients:
            frames = {websocket.recv(PATIENCE) for _ in range(5)}
            if websocket.subprotocol is None:
                assert frames == {'{"é":[1,null,"\\u0000"]}'}
            else:
                assert {json.dumps(json.loads(frame)["data"]) for frame in frames} == {json.dumps(told["value"])}


def test_publish_many_keeps_its_order(both: list[Place], name: str) -> None:
    with everybody(both, listen=[["g", name], ["e", ""]]) as clients:
        receipts = realtime.publish_many(
            [("contract", Group(name), "a"), ("contract", Group(name), b"b"), ("contract", Group(name), ["c"])]
        )
        assert [receipt.position.seq for receipt in receipts if receipt.position] == [1, 2, 3]
        for websocket in clients:
            if websocket.subprotocol is None:
                assert [websocket.recv(PATIENCE) for _ in range(3)] == ["a", b"b", '["c"]']
            else:
                assert positions([said(websocket) for _ in range(3)]) == [1, 2, 3]


# 3.3: nobody else


def test_names_do_not_leak(both: list[Place], name: str) -> None:
    # contract 3.3: each of these users, groups and sessions gets what is meant for it, and nothing else
    audiences: list[tuple[str, str, Audience]] = []
    for number, ugly in enumerate(UGLY.values()):
        audiences.append(("g", ugly, Group(ugly)))
        audiences.append(("u", ugly, User(ugly)))
        audiences.append(("s", f"{number}{ugly}", Session(f"{number}{ugly}")))
    audiences.append(("e", "", Everyone()))
    with ExitStack() as stack:
        clients = []
        for number, (kind, ugly, audience) in enumerate(audiences):
            facility = "contract" if number % 2 else "contract-async"
            place = both[number // 2 % 2]
            # Names of 10 kB do not fit into a URL: those clients are real users in real groups.
            if len(ugly) > 2_000:
                if kind == "s":
                    continue
                user = ugly if kind == "u" else f"{name}-{number}"
                person = place.ask("person", name=user, groups=[ugly] if kind == "g" else [])
                narrow: dict[str, Any] = {"subscribe_user" if kind == "u" else "subscribe_group": ""}
                headers = {"Cookie": f"sessionid={person['session']}"}
                websocket, ready = stack.enter_context(v1(place, facility, headers=headers, **narrow))
            else:
                websocket, ready = stack.enter_context(v1(place, facility, listen=[[kind, ugly]]))
            assert list(ready["topics"]) == [audience.label]
            clients.append((number, facility, audience, websocket))
        for number, facility, audience, _ in clients:
            realtime.publish(facility, audience, {"for": number})
        for _, facility, audience, _ in clients:
            other = "contract-async" if facility == "contract" else "contract"
            realtime.publish(other, audience, "for the other facility")
            realtime.publish(facility, audience, "end")
        for number, _, audience, websocket in clients:
            frames: list[dict[str, Any]] = []
            while not frames or frames[-1].get("text") != "end":
                frames.append(said(websocket))
            assert [frame.get("data", frame.get("text")) for frame in frames] == [{"for": number}, "end"]
            assert {frame["topic"] for frame in frames} == {audience.label}


# 4.1: kinds and values


PAYLOADS: list[Any] = [
    "text",
    "",
    "\0",
    "\u0000\u001f\u007f\u0080\ufeff\uffff\U0010ffff é \U0001f680 \u2028 </script>",
    "--heartbeat--",
    '{"op":"msg"}',
    "x" * 125,
    "x" * 126,
    "x" * 65_535,
    "x" * 65_536,
    "é" * 524_288,  # 1 MiB
    b"",
    b"\0",
    bytes(range(256)),
    b"\xff" * 65_536,
    b"b" * 1_048_576,
    {},
    [],
    None,
    True,
    0,
    -1.5e300,
    2**70,
    {"é": {"": [None, "\0", [[]]]}, "op": "move"},
    Message(Kind.JSON, ""),
    Message(Kind.JSON, "text"),
]


def test_kind_and_value_arrive_as_sent(both: list[Place], name: str) -> None:
    # contract 4.1
    with everybody(both, listen=[["g", name]]) as clients:
        for payload in PAYLOADS:
            realtime.publish("contract", Group(name), payload)
            message = Message.of(payload)
            for websocket in clients:
                if websocket.subprotocol is None:
                    got = websocket.recv(PATIENCE)
                    if message.kind is Kind.JSON:
                        assert isinstance(got, str)
                        assert json.loads(got) == message.value
                    else:
                        assert got == payload  # str for a text frame, bytes for a binary one
                else:
                    frame = said(websocket)
                    key = {Kind.TEXT: "text", Kind.BINARY: "b64", Kind.JSON: "data"}[message.kind]
                    value = base64.b64decode(frame[key]) if key == "b64" else frame[key]
                    assert set(frame) == {"op", "topic", "pos", key}
                    assert (value, type(value)) == (message.value, type(message.value))


def test_the_bytes_are_the_same(both: list[Place], name: str) -> None:
    # One frame is one frame on both: nothing is fragmented, compressed or masked.
    seen = []
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(place)).opened(place.path(listen=[["g", name]])) for place in both]
        realtime.publish_many([("contract", Group(name), payload) for payload in ("", "é", b"\0", {"a": 1}, "end")])
        for wire in wires:
            frames = [wire.read()]
            while frames[-1] != (1, b"end"):
                frames.append(wire.read())
            seen.append(frames)
    assert seen[0] == seen[1] == [(1, b""), (1, "é".encode()), (2, b"\0"), (1, b'{"a":1}'), (1, b"end")]
