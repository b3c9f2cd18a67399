"""Frames: the client reads what the server's own code writes, and the server what the client writes."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.client.frames import (
    PONG_FRAME,
    Ack,
    FrameError,
    Missing,
    Move,
    Ping,
    Ready,
    Received,
    Refusal,
    Skip,
    hello_frame,
    parse,
    send_frame,
)
from shim.core import protocol
from shim.core.errors import MessageTooLarge
from shim.core.message import Kind, Message
from shim.core.wire import MAX_SEQ, Position, Record

texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
messages = st.one_of(
    st.builds(Message, st.just(Kind.TEXT), texts),
    st.builds(Message, st.just(Kind.BINARY), st.binary()),
    st.builds(Message, st.just(Kind.JSON), json_values),
)
positions = st.builds(Position, st.text("0123456789abcdef", min_size=1), st.integers(0, MAX_SEQ))


@given(messages, st.none() | positions, texts)
def test_messages_arrive_as_they_were_published(message: Message, position: Position | None, label: str) -> None:
    """contract 4.1."""
    record = Record(message.kind, message.body(), position)
    sent = protocol.Delivery(record, protocol.label_json(label)).frame(protocol.Protocol.V1)
    assert parse(sent.string) == Received(label, position, message)


@given(messages, positions, texts)
def test_in_the_place_of_an_own_message_stands_its_position(message: Message, position: Position, label: str) -> None:
    """contract 6.5."""
    delivery = protocol.Delivery(Record(message.kind, message.body(), position, "me"), protocol.label_json(label))
    assert delivery.skip is not None
    assert parse(delivery.skip.string) == Skip(label, position)
    assert delivery.skip is delivery.skip
    assert protocol.Delivery(Record(message.kind, message.body(), None, "me"), b'"user"').skip is None


@given(messages, st.integers(1, MAX_SEQ))
def test_the_server_reads_what_is_sent(message: Message, id: int) -> None:
    assert protocol.parse(send_frame(id, message)) == protocol.Send(message, id)


@given(st.dictionaries(texts, positions, max_size=5), st.none() | st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True))
def test_the_server_reads_hello(resume: dict[str, Position], was: str | None) -> None:
    assert protocol.parse(hello_frame(resume, was)) == protocol.Hello(resume, was)
    assert protocol.parse(PONG_FRAME) == protocol.Pong()


def test_the_rest_of_what_a_server_writes() -> None:
    at = Position("e", 3)
    told = {"base_ms": 1, "cap_ms": 2, "spread_ms": 3}
    ready = protocol.ready_frame(
        connection="c", backend="legacy", topics={"user": at}, recovered={"user": True}, heartbeat=25, reconnect=told
    )
    assert parse(ready.string) == Ready("c", "legacy", {"user": at}, {"user": True}, 25.0, told)
    assert parse(protocol.ack_frame(7).string) == Ack(7)
    assert parse(protocol.error_frame("bad_id", "why").string) == Refusal(None, "bad_id", "why")
    assert parse(protocol.error_frame("forbidden", "why", "x").string) == Refusal("x", "forbidden", "why")
    assert parse(protocol.gap_frame("user", at).string) == Missing("user", at)
    assert parse(protocol.PING_FRAME.string) == Ping()
    direct = protocol.direct_frame(protocol.Protocol.V1, Message.of("hi"), 100)
    assert parse(direct.string) == Received(None, None, Message.of("hi"))
    # contract, frames
    move = '{"op":"move","backend":"channels","url":"ws://h/","within_ms":4000}'
    assert parse(move) == Move("channels", "ws://h/", 4.0)


keys = st.sampled_from(
    "op pos topic id data text topics connection backend recovered within_ms url code heartbeat".split()  # noqa: SIM905
)
ops = st.sampled_from(["msg", "ready", "ack", "error", "gap", "move"])
objects = st.dictionaries(keys, json_values | ops, max_size=6)


@given(st.text() | st.binary() | json_values.map(json.dumps) | objects.map(json.dumps))
def test_anything_else_is_an_error_and_nothing_worse(data: str | bytes) -> None:
    with suppress(FrameError):
        parse(data)


@pytest.mark.parametrize(
    "frame",
    [
        '{"op":"msg","topic":"user","pos":["e",-1],"data":1}',
        '{"op":"msg","topic":"user","pos":["e",true],"data":1}',
        '{"op":"msg","topic":"user","pos":["",1],"data":1}',
        '{"op":"msg","topic":"user","pos":["e",1.5],"data":1}',
        '{"op":"msg","topic":null,"pos":["e",1],"data":1}',
        '{"op":"msg","topic":"user","pos":["e",1],"text":1}',
        '{"op":"msg","topic":"user","pos":["e",1],"b64":"?"}',
        '{"op":"msg","topic":"user","pos":["e",1],"data":NaN}',
        '{"op":"msg","topic":"user","pos":["e",1],"data":1,"text":"1"}',
        '{"op":"gap","topic":"user","pos":null}',
        '{"op":"ack"}',
        '{"op":"ready","connection":"c","backend":"b","topics":{"user":1}}',
        '{"op":"ready","connection":"c","backend":"b","topics":{},"recovered":{"user":1}}',
        '{"op":"ready","connection":"c","backend":"b","topics":{},"heartbeat":"25"}',
        '{"op":"move","backend":"b","url":"u","within_ms":-1}',
        "[" * 100_000,
    ],
)
def test_what_is_not_v1(frame: str) -> None:
    with pytest.raises(FrameError):
        parse(frame)


def test_the_views_of_a_message() -> None:
    def received(value: Any) -> Received:
        return Received(None, None, Message.of(value))

    assert received("[1]").text == "[1]"
    assert received("[1]").json == [1]
    assert received([1]).json == [1]
    assert received(b"\0").bytes == b"\0"
    for value, view in (("a", "bytes"), (b"a", "text"), (b"a", "json"), ([1], "text"), ([1], "bytes")):
        with pytest.raises(TypeError, match=r"look at \.kind"):
            getattr(received(value), view)


def test_what_is_too_long_is_not_sent() -> None:
    with pytest.raises(MessageTooLarge):
        send_frame(1, Message.of("x" * 11), 10)
