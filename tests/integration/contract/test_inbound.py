"""Contract 6: coming in. What handlers see, and how a connection ends, is the same on both backends."""

import json
import re
import socket
import struct
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from shim.core.protocol import frame_limit
from tests.integration.contract.cluster import PATIENCE, Place, wait_until
from tests.integration.contract.places import at_once, everywhere, with_line
from tests.integration.contract.wire import (
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Wire,
    close_frame,
    end_of,
    frame,
    raw,
    said,
    v1,
)

pytestmark = pytest.mark.servers

FACILITIES = ("contract", "contract-async")
V1 = "realtime.v1"


def values(place: Place, note: str) -> list[Any]:
    return [each["value"] for each in place.notes.read(note, "receive")]


# 6.1: one at a time, in order, kind kept


@pytest.mark.parametrize("facility", FACILITIES)
@everywhere
def test_in_order_and_kind_kept(place: Place, facility: str, name: str) -> None:
    # contract 6.1, 4.1
    sent: list[str | bytes] = ["a", b"b", "", b"", "\0", b"\0\xff", "é\U0001f600", "--heartbeat--", "x" * 100_000]
    with raw(place, facility, note=name, listen=[]) as websocket:
        for value in sent:
            websocket.send(value)
        websocket.send(["fragmented ", "t\u00e9", "", "xt"])
        websocket.send([b"frag", b"", b"ments"])
        websocket.send('{"do":"echo","value":"end"}')
        assert websocket.recv(PATIENCE) == "end"
    wanted = [value.hex() if isinstance(value, bytes) else value for value in sent]
    assert values(place, name)[:-1] == [*wanted, "fragmented téxt", b"fragments".hex()]
    kinds = [each["kind"] for each in place.notes.read(name, "receive")]
    assert kinds[: len(sent)] == ["binary" if isinstance(value, bytes) else "text" for value in sent]


@pytest.mark.parametrize("facility", FACILITIES)
@everywhere
def test_one_at_a_time(place: Place, facility: str, name: str) -> None:
    # contract 6.1: the second waits for the first; another connection does not
    with (
        raw(place, facility, note=name, listen=[]) as websocket,
        raw(place, facility, note=f"{name}-other", listen=[]) as other,
    ):
        websocket.send(json.dumps({"do": "wait", "gate": name}))
        websocket.send("second")
        wait_until(partial(place.notes.read, name, "receive"))
        other.send('{"do":"echo","value":"not held up"}')
        assert other.recv(PATIENCE) == "not held up"
        assert len(values(place, name)) == 1
        place.notes.open_gate(name)
        wait_until(lambda: len(place.notes.read(name, "received")) == 2)
    events = [each["event"] for each in place.notes.read(name)]
    assert events[:5] == ["audiences", "receive", "received", "receive", "received"]


@pytest.mark.parametrize("facility", FACILITIES)
@everywhere
def test_v1_messages(place: Place, facility: str, name: str) -> None:
    with v1(place, facility, note=name, listen=[]) as (websocket, _):
        payloads: list[dict[str, Any]] = [{"data": {"é": [None]}}, {"data": None}, {"text": "\0"}, {"b64": "AP8="}]
        for id, payload in enumerate(payloads):
            websocket.send(json.dumps({"op": "send", "id": id, **payload}))
            assert said(websocket) == {"op": "ack", "id": id}
        websocket.send('{"op":"send","text":"no id, no ack"}')
        websocket.send('{"op":"pong"}')
        websocket.send('{"op":"send","id":"end","text":""}')
        assert said(websocket) == {"op": "ack", "id": "end"}
    seen = [(each["kind"], each["value"]) for each in place.notes.read(name, "receive")]
    assert seen == [
        ("json", {"é": [None]}),
        ("json", None),
        ("text", "\0"),
        ("binary", "00ff"),
        ("text", "no id, no ack"),
        ("text", ""),
    ]


@pytest.mark.parametrize("facility", FACILITIES)
@everywhere
def test_handlers_may_use_the_orm(place: Place, facility: str, name: str) -> None:
    with raw(place, facility, note=name, listen=[]) as websocket:
        for _ in range(3):
            websocket.send('{"do":"query"}')
            assert "users" in json.loads(websocket.recv(PATIENCE))


# 6.2: a handler that raises


@pytest.mark.parametrize("facility", FACILITIES)
@everywhere
def test_a_handler_that_raises(place: Place, facility: str, name: str) -> None:
    # contract 6.2: that connection only, 1011, and one line with all that tells whose it is
    person = place.ask("person", name=name, groups=[f"{name}-g\nforged"])
    headers = {"Cookie": f"sessionid={person['session']}"}
    with (
        v1(place, facility, note=name, headers=headers) as (websocket, ready),
        raw(place, facility, note=f"{name}-other", listen=[]) as other,
    ):
        websocket.send('{"op":"send","id":1,"data":{"do":"raise"}}')
        with suppress(ConnectionClosed):
            websocket.send('{"op":"send","id":2,"data":"after"}')
        assert end_of(websocket) == (1011, "the handler failed")
        assert place.ended(name) == [1011]
        other.send('{"do":"echo","value":"goes on"}')
        assert other.recv(PATIENCE) == "goes on"
    assert values(place, name) == [{"do": "raise"}]
    lines = [line for line in place.log.read_text().splitlines() if ready["connection"] in line]
    assert len(lines) == 1
    line = lines[0].partition("realtime: ")[2]
    assert re.fullmatch(
        rf"{facility}\.receive\(\) failed: connection={ready['connection']} user='{name}' "
        rf"topics='everyone,user,group:{name}-g\\nforged,session' backend={place.backend} cohort=legacy",
        line,
    ), line


@everywhere
def test_an_end_that_raises(place: Place, name: str) -> None:
    with raw(place, note=name, fail_at_the_end="", listen=[]) as websocket:
        websocket.send("x")
    assert place.ended(name) == [1000]
    wait_until(lambda: "contract.disconnected() failed: connection=" in place.log.read_text())


@pytest.mark.parametrize("facility", FACILITIES)
def test_what_a_handler_forbids(place: Place, facility: str, name: str) -> None:
    # contract 6.3: an `error` frame, then 1008 when repeated; raw clients know no error frames
    with v1(place, facility, note=name, listen=[]) as (websocket, _):
        websocket.send('{"op":"send","id":1,"data":{"do":"deny","reason":"not you"}}')
        assert said(websocket) == {"op": "error", "id": 1, "code": "forbidden", "reason": "not you"}
        websocket.send('{"op":"send","id":2,"data":{"do":"deny"}}')
        assert said(websocket) == {"op": "error", "id": 2, "code": "forbidden", "reason": "not allowed"}
        assert end_of(websocket) == (1008, "again: forbidden: not allowed")
    assert place.ended(name) == [1008]
    with raw(place, facility, note=f"{name}-raw", listen=[]) as websocket:
        websocket.send('{"do":"deny","reason":"not you"}')
        assert end_of(websocket) == (1008, "not you")
    assert place.ended(f"{name}-raw") == [1008]


@pytest.mark.parametrize("facility", FACILITIES)
def test_a_handler_closes(place: Place, facility: str, name: str) -> None:
    # After what it has sent; what the client sends from then on reaches nobody.
    with raw(place, facility, note=name, listen=[]) as websocket:
        for number in range(20):
            websocket.send(json.dumps({"do": "echo", "value": number}))
        websocket.send('{"do":"close","code":4123,"reason":"enough \u00e9"}')
        websocket.send("late")
        assert [json.loads(websocket.recv(PATIENCE)) for _ in range(20)] == list(range(20))
        assert end_of(websocket) == (4123, "enough é")
    assert place.ended(name) == [4123]
    assert len(values(place, name)) == 21


# 6.3: bad frames


def text(value: bytes, **options: Any) -> bytes:
    return frame(TEXT, value, **options)


BAD: dict[str, tuple[list[bytes], int]] = {
    "a reserved opcode": ([frame(0x3, b"x")], 1002),
    "a reserved control opcode": ([frame(0xB, b"x")], 1002),
    "a reserved bit": ([text(b"x", reserved=4)], 1002),
    "not masked": ([text(b"x", masked=False)], 1002),
    "a stray continuation": ([frame(CONT, b"x")], 1002),
    "a message inside of a message": ([text(b"x", fin=False), text(b"y")], 1002),
    "a fragmented ping": ([frame(PING, b"x", fin=False)], 1002),
    "a long ping": ([frame(PING, b"x" * 126)], 1002),
    "a close frame of one byte": ([frame(CLOSE, b"\x03")], 1002),
    "a close code that nobody may send": ([close_frame(1005)], 1002),
    "a close code that does not exist": ([close_frame(999)], 1002),
    "a close code from nowhere": ([close_frame(2999)], 1002),
    "a close reason that is no text": ([close_frame(1000, b"\xff")], 1007),
    "a close frame inside of a message": ([text(b"x", fin=False), close_frame(1000)], 1002),
    "bad UTF-8": ([text(b"\xff")], 1007),
    "UTF-8 cut short": ([text(b"\xc3")], 1007),
    "a surrogate": ([text(b"\xed\xa0\x80")], 1007),
    "bad UTF-8 over two frames": ([text(b"\xc3", fin=False), frame(CONT, b"\x28")], 1007),
    "a length of 2^63": ([b"\x81\xff" + b"\xff" * 8 + b"mask"], 1009),
    "a frame over the limit": ([b"\x82\xff" + struct.pack("!Q", frame_limit(1_048_576) + 126) + b"mask"], 1009),
    "fragments over the limit": (
        [frame(0x2, b"x" * 700_000, fin=False), frame(CONT, b"x" * 710_000, fin=False)],
        1009,
    ),
}


@pytest.mark.parametrize("case", BAD)
@with_line
def test_a_bad_frame(place: Place, case: str, name: str) -> None:
    # contract 6.3; and what was sent before it counts, however TCP cuts the stream
    frames, code = BAD[case]
    good = [text(b'{"do":"echo","value":1}'), text(b'{"do":"echo","value":2}')]
    with Wire(place).opened(place.path(note=name, listen=[])) as wire:
        wire.send(b"".join((*good, frame(PING, b"!"), *frames, text(b"after"))))
        got = []
        while True:
            opcode, payload = wire.read()
            if opcode == CLOSE:
                break
            got.append((opcode, payload))
        assert struct.unpack("!H", payload[:2])[0] == code
        assert [each for each in got if each[0] == TEXT] == [(TEXT, b"1"), (TEXT, b"2")]
        assert wire.end() is None
    assert place.ended(name) == [code]
    assert len(values(place, name)) == 2


@everywhere
def test_a_message_that_is_too_big(place: Place, name: str) -> None:
    # contract 6.3: 1 MiB of UTF-8 is taken, one byte more is not
    with raw(place, note=name, listen=[]) as websocket:
        websocket.send(b"x" * 1_048_576)
        websocket.send("é" * 524_288)
        websocket.send("é" * 524_288 + "x")
        assert end_of(websocket) == (1009, "over 1048576 bytes")
    assert place.ended(name) == [1009]
    assert len(values(place, name)) == 2
    with v1(place, note=f"{name}-v1", listen=[]) as (websocket, _):
        websocket.send(json.dumps({"op": "send", "id": 1, "text": "x" * 1_048_576}))
        assert said(websocket) == {"op": "ack", "id": 1}
        websocket.send(json.dumps({"op": "send", "id": 2, "text": "x" * 1_048_577}))
        assert end_of(websocket) == (1009, "over 1048576 bytes")


@pytest.mark.parametrize("protocol", ["raw", "v1"])
def test_too_many_messages(place: Place, protocol: str, name: str) -> None:
    # contract 6.3: over the inbound rate
    with Wire(place).opened(place.path(note=name, listen=[]), protocol=V1 if protocol == "v1" else None) as wire:
        if protocol == "v1":
            wire.hello()
        one = b"x" if protocol == "raw" else b'{"op":"send","text":"x"}'
        wire.send(text(one) * 2_000)
        opcode, payload = wire.read()
        assert (opcode, payload) == (CLOSE, struct.pack("!H", 1008) + b"over 100 messages a second: slow down")
    assert place.ended(name) == [1008]
    assert 200 <= len(values(place, name)) < 2_000


VIOLATIONS: dict[str, tuple[str | bytes, str, Any]] = {
    "no JSON": ("x", "bad_json", None),
    "NaN": ('{"op":"send","data":NaN}', "bad_json", None),
    "deep": ("[" * 100_000, "bad_json", None),
    "no object": ("[]", "bad_frame", None),
    "no op": ("{}", "unknown_op", None),
    "an unknown op": ('{"op":"subscribe","id":3,"topic":"user"}', "unknown_op", 3),
    "a second hello": ('{"op":"hello"}', "second_hello", None),
    "no payload": ('{"op":"send","id":3}', "bad_send", 3),
    "two payloads": ('{"op":"send","id":3,"text":"","data":1}', "bad_send", 3),
    "no text": ('{"op":"send","id":3,"text":1}', "bad_send", 3),
    "no base64": ('{"op":"send","id":3,"b64":"!"}', "bad_send", 3),
    "a lone surrogate": ('{"op":"send","id":3,"text":"\\ud800"}', "bad_send", 3),
    "a bad id": ('{"op":"send","id":[],"text":""}', "bad_id", None),
    "binary": (b"{}", "binary", None),
}


@pytest.mark.parametrize("case", VIOLATIONS)
def test_what_v1_does_not_allow(place: Place, case: str, name: str) -> None:
    # contract 6.3: an `error` frame, then 1008 when repeated
    value, code, id = VIOLATIONS[case]
    with v1(place, note=name, listen=[]) as (websocket, _):
        websocket.send(value)
        error = said(websocket)
        assert (error["op"], error["code"], error["id"]) == ("error", code, id)
        websocket.send('{"op":"send","id":1,"text":"still here"}')
        assert said(websocket) == {"op": "ack", "id": 1}
        websocket.send(value)
        assert said(websocket) == error
        closed = end_of(websocket)
        assert closed[0] == 1008
        assert str(closed[1]).startswith(f"again: {code}")
    assert place.ended(name) == [1008]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ('{"op":"send","id":9,"text":"x"}', "no_hello"),
        ('{"op":"hello","resume":[]}', "bad_hello"),
        ('{"op":"hello","resume":{"user":["x"]}}', "bad_hello"),
        ('{"op":"hello","resume":{"user":["x",true]}}', "bad_hello"),
    ],
)
def test_what_v1_does_not_allow_first(place: Place, value: str, code: str, name: str) -> None:
    with Wire(place).opened(place.path(note=name, listen=[]), protocol=V1) as wire:
        wire.send(text(value.encode()))
        assert json.loads(wire.read()[1])["code"] == code
        wire.send(text(b'{"op":"hello"}'))
        assert json.loads(wire.read()[1])["op"] == "ready"
    assert place.ended(name) == [1006]


# 6.4: `disconnected` runs once


def close_with_code(wire: Wire) -> None:
    wire.send(close_frame(4321, b"bye"))
    assert wire.read() == (CLOSE, struct.pack("!H", 4321) + b"bye")
    assert wire.end() is None


def close_without_code(wire: Wire) -> None:
    wire.send(close_frame())
    assert wire.read() == (CLOSE, b"")
    assert wire.end() is None


def close_and_reset(wire: Wire) -> None:
    wire.send(close_frame(1001))
    wire.reset()


def close_twice(wire: Wire) -> None:
    wire.send(close_frame(1000) + close_frame(1001) + frame(0x3))
    assert wire.end() == 1000


def hang_up(wire: Wire) -> None:
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.end() is None


def hang_up_inside_of_a_frame(wire: Wire) -> None:
    wire.send(text(b"x" * 100)[:50])
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.end() is None


def told_to_close(wire: Wire) -> None:
    wire.send(text(b'{"do":"close","code":4999}'))
    assert wire.end() == 4999


def told_to_close_and_answers_otherwise(wire: Wire) -> None:
    wire.send(text(b'{"do":"close","code":4999}') + close_frame(1000))
    assert wire.end() == 4999


def told_to_raise(wire: Wire) -> None:
    wire.send(text(b'{"do":"raise"}'))
    assert wire.end() == 1011


def bad_frame(wire: Wire) -> None:
    wire.send(frame(0x3))
    assert wire.end() == 1002


ENDINGS: dict[str, tuple[Any, int]] = {
    "with a code": (close_with_code, 4321),
    "without a code": (close_without_code, 1005),
    "and a reset": (close_and_reset, 1001),
    "twice": (close_twice, 1000),
    "by reset": (Wire.reset, 1006),
    "by FIN": (Wire.close, 1006),
    "by FIN, half open": (hang_up, 1006),
    "by FIN, inside of a frame": (hang_up_inside_of_a_frame, 1006),
    "by the handler": (told_to_close, 4999),
    "by both at once": (told_to_close_and_answers_otherwise, 4999),
    "by an error": (told_to_raise, 1011),
    "by a bad frame": (bad_frame, 1002),
}


@pytest.mark.parametrize("facility", FACILITIES)
@pytest.mark.parametrize("case", ENDINGS)
@with_line
def test_disconnected_runs_once(place: Place, case: str, facility: str, name: str) -> None:
    # contract 6.4
    end, code = ENDINGS[case]
    with Wire(place).opened(place.path(facility, note=name, listen=[])) as wire:
        end(wire)
    assert place.ended(name) == [code]
    with raw(place, facility, note=f"{name}-fence", listen=[]) as websocket:
        websocket.send("x")
    assert place.ended(f"{name}-fence") == [1000]
    assert place.ended(name) == [code]


@at_once
def test_a_client_that_stays_is_cut(place: Place, name: str) -> None:
    with Wire(place).opened(place.path(note=name, listen=[])) as wire:
        wire.send(text(b'{"do":"close","code":4999}'))
        assert wire.read() == (CLOSE, struct.pack("!H", 4999))
        wire.send(text(b"and goes on") * 1_000)  # and never answers
        assert wire.end() is None
    assert place.ended(name) == [4999]
    assert len(values(place, name)) == 1


@pytest.mark.parametrize("case", ["with a code", "by reset", "by FIN", "by the handler", "by an error"])
@pytest.mark.parametrize("place", ["asgi"], indirect=True)
def test_disconnected_runs_once_by_asgi_alone(place: Place, case: str, name: str) -> None:
    test_disconnected_runs_once(place, case, "contract", name)


@pytest.mark.parametrize("facility", FACILITIES)
@with_line
def test_the_client_closes_while_a_handler_works(place: Place, facility: str, name: str) -> None:
    # contract 6.1, 6.4: what it sent before it closed is handled, and answered; `disconnected` comes after that
    with Wire(place).opened(place.path(facility, note=name, listen=[])) as wire:
        wire.send(text(json.dumps({"do": "wait", "gate": name}).encode()))
        wait_until(partial(place.notes.read, name, "receive"))
        wire.send(text(b'{"do":"echo","value":"answered"}') + close_frame(1000))
        place.notes.open_gate(name)
        assert wire.read() == (TEXT, b"answered")
        assert wire.read() == (CLOSE, struct.pack("!H", 1000))
        assert wire.end() is None
    assert place.ended(name) == [1000]
    events = [each["event"] for each in place.notes.read(name)]
    assert events == ["audiences", "receive", "received", "receive", "received", "disconnected"]


@pytest.mark.parametrize("facility", FACILITIES)
@with_line
def test_the_client_hangs_up_while_a_handler_works(place: Place, facility: str, name: str) -> None:
    with Wire(place).opened(place.path(facility, note=name, listen=[])) as wire:
        wire.send(text(json.dumps({"do": "wait", "gate": name}).encode()))
        wait_until(partial(place.notes.read, name, "receive"))
        wire.send(text(b'{"do":"echo","value":"answered"}'))
        wire.socket.shutdown(socket.SHUT_WR)
        place.notes.open_gate(name)
        assert wire.read() == (TEXT, b"answered")
        assert wire.end() is None
    assert place.ended(name) == [1006]
    assert [each["event"] for each in place.notes.read(name)][-1] == "disconnected"


@pytest.mark.parametrize("protocol", ["raw", "v1"])
def test_a_client_that_never_gets_in(place: Place, protocol: str, name: str) -> None:
    # It leaves right after the handshake reply, before anything else happens.
    with Wire(place).opened(place.path(note=name), protocol=V1 if protocol == "v1" else None) as wire:
        wire.reset()
    assert place.ended(name) == [1006]


def test_pings_are_answered(place: Place) -> None:
    with Wire(place).opened(place.path(listen=[])) as wire:
        wire.send(frame(PING, b"") + frame(PONG, b"unasked") + frame(PING, b"x" * 125))
        assert [wire.read(), wire.read()] == [(PONG, b""), (PONG, b"x" * 125)]
        wire.send(text(b'{"do":', fin=False) + frame(PING, b"between") + frame(CONT, b'"echo","value":1}'))
        assert [wire.read(), wire.read()] == [(PONG, b"between"), (TEXT, b"1")]
