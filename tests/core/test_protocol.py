import base64
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Opcode
from websockets.protocol import CLIENT
from websockets.protocol import Protocol as WebsocketsProtocol

from shim.core.errors import InvalidPayload, MessageTooLarge
from shim.core.message import Kind, Message
from shim.core.protocol import (
    MAX_RESUMED_TOPICS,
    PING_FRAME,
    Delivery,
    Frame,
    Hello,
    Pong,
    Protocol,
    Send,
    Violation,
    ack_frame,
    direct_frame,
    error_frame,
    frame_limit,
    gap_frame,
    label_json,
    parse,
    ready_frame,
)
from shim.core.wire import MAX_SEQ, Position, Record

texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
messages = st.one_of(
    st.builds(Message, st.just(Kind.TEXT), texts),
    st.builds(Message, st.just(Kind.BINARY), st.binary()),
    st.builds(Message, st.just(Kind.JSON), json_values),
)
epochs = st.text("0123456789abcdef", min_size=1, max_size=16)
positions = st.builds(Position, epochs, st.integers(0, MAX_SEQ))


def fields_of(frame: Frame) -> dict[str, Any]:
    assert frame.text
    fields: dict[str, Any] = json.loads(frame.string)
    return fields


def message_in(fields: dict[str, Any]) -> Message:
    """The message in a `msg` frame, read as a client would."""
    (key,) = fields.keys() & {"data", "text", "b64"}
    if key == "data":
        return Message(Kind.JSON, fields[key])
    return Message.of(fields[key] if key == "text" else base64.b64decode(fields[key], validate=True))


class TestFrame:
    @given(st.binary(max_size=200) | st.integers(120, 130).map(bytes) | st.integers(65_530, 65_540).map(bytes))
    @example(bytes(1_500_000))
    def test_another_implementation_reads_what_is_written(self, data: bytes) -> None:
        # RFC 6455, section 5.2
        parser = WebsocketsProtocol(CLIENT, max_size=None)
        parser.receive_data(Frame(data, text=False).wire + Frame(b"end", text=True).wire)
        (read, end) = parser.events_received()
        assert (read.opcode, read.data, read.fin) == (Opcode.BINARY, data, True)  # type: ignore[union-attr]
        assert (end.opcode, end.data) == (Opcode.TEXT, b"end")  # type: ignore[union-attr]

    def test_its_forms_are_made_once(self) -> None:
        frame = Frame("é".encode(), text=True)
        assert frame.wire is frame.wire
        assert frame.string is frame.string
        assert (frame.string, len(frame)) == ("é", 2)


class TestDelivery:
    @given(messages, st.none() | positions, texts)
    @example(Message(Kind.TEXT, '"}\0\u2028\x7f'), None, 'group:"}')
    def test_v1_frames_carry_any_message(self, message: Message, position: Position | None, label: str) -> None:
        # contract 4.1
        record = Record(message.kind, message.body(), position)
        fields = fields_of(Delivery(record, label_json(label)).frame(Protocol.V1))
        assert (fields["op"], fields["topic"]) == ("msg", label)
        assert fields["pos"] == (None if position is None else list(position))
        assert message_in(fields) == message
        assert fields.keys() - {"data", "text", "b64"} == {"op", "topic", "pos"}

    @given(messages, positions)
    def test_raw_frames_are_the_bare_payload(self, message: Message, position: Position) -> None:
        # contract 4.1
        frame = Delivery(Record(message.kind, message.body(), position), b'"user"').frame(Protocol.RAW)
        assert frame.data == message.body()
        assert frame.text == (message.kind is not Kind.BINARY)

    @pytest.mark.parametrize("protocol", Protocol)
    def test_is_encoded_once_for_each_protocol(self, protocol: Protocol) -> None:
        delivery = Delivery(Record(Kind.TEXT, b"hi"), b'"user"')
        assert delivery.frame(protocol) is delivery.frame(protocol)

    @given(messages)
    def test_a_handlers_own_message_has_no_topic(self, message: Message) -> None:
        fields = fields_of(direct_frame(Protocol.V1, message, 10_000))
        assert (fields["topic"], fields["pos"]) == (None, None)
        assert message_in(fields) == message
        raw = direct_frame(Protocol.RAW, message, 10_000)
        assert (raw.data, raw.text) == (message.body(), message.kind is not Kind.BINARY)

    @pytest.mark.parametrize("protocol", Protocol)
    def test_a_handlers_message_is_checked(self, protocol: Protocol) -> None:
        # contract 4.2
        with pytest.raises(MessageTooLarge):
            direct_frame(protocol, Message.of("four+"), 4)
        with pytest.raises(InvalidPayload):
            direct_frame(protocol, Message.of({"x": float("nan")}), 4)


class TestOtherFrames:
    # contract: realtime.v1 frames

    def test_ready(self) -> None:
        frame = ready_frame(
            connection="c1",
            backend="legacy",
            topics={"user": Position("e", 44), 'group:"a"': Position("e", 0)},
            recovered={"user": True},
            heartbeat=25.0,
            reconnect={"base_ms": 500},
        )
        assert fields_of(frame) == {
            "op": "ready",
            "connection": "c1",
            "backend": "legacy",
            "topics": {"user": ["e", 44], 'group:"a"': ["e", 0]},
            "recovered": {"user": True},
            "heartbeat": 25.0,
            "reconnect": {"base_ms": 500},
        }

    @pytest.mark.parametrize(
        ("frame", "fields"),
        [
            (ack_frame(7), {"op": "ack", "id": 7}),
            (ack_frame("\ud800"), {"op": "ack", "id": "\ud800"}),
            (PING_FRAME, {"op": "ping"}),
            (gap_frame("user", Position("e", 60)), {"op": "gap", "topic": "user", "pos": ["e", 60]}),
            (error_frame("c", "why", 7), {"op": "error", "id": 7, "code": "c", "reason": "why"}),
            (error_frame("c", "why"), {"op": "error", "id": None, "code": "c", "reason": "why"}),
        ],
    )
    def test_the_small_ones(self, frame: Frame, fields: dict[str, Any]) -> None:
        assert fields_of(frame) == fields

    def test_v1_is_chosen_where_it_is_offered(self) -> None:
        assert Protocol.chosen(["chat", "realtime.v1"]) is Protocol.V1
        assert Protocol.chosen(["REALTIME.V1"]) is Protocol.RAW  # RFC 6455: case-sensitive
        assert Protocol.chosen([]) is Protocol.RAW

    @given(st.integers(1, 3_000_000))
    def test_the_longest_message_fits_into_the_longest_frame(self, size: int) -> None:
        # contract 4.2, 6.3: base64 is the longest form, beside JSON that the client wastes bytes on
        envelope = len(json.dumps({"op": "send", "id": "x" * 64, "b64": ""}))
        assert 4 * -(-size // 3) + envelope <= frame_limit(size)


def tried(text: str) -> Hello | Send | Pong | Violation:
    try:
        return parse(text)
    except Violation as error:
        return error


def violation(text: str) -> Violation:
    with pytest.raises(Violation) as caught:
        parse(text)
    return caught.value


class TestParse:
    # contract 6.3

    @given(st.text())
    @example("[" * 100_000)
    @example('{"op":' * 100_000)
    @example('{"op":"send","data":' + "[" * 2_000 + '"\\ud800"' + "]" * 2_000 + "}")
    @example('{"op":"send","data":' + "9" * 5_000 + "}")
    @example('{"op":"hello","resume":{"user":["e",1e400]}}')
    @example('\ufeff{"op":"pong"}')
    def test_garbage_is_a_violation_or_allowed_and_nothing_else(self, text: str) -> None:
        found = tried(text)
        if isinstance(found, Violation):
            assert found.code.isidentifier()
            assert 0 < len(found.reason) < 250

    @given(
        st.dictionaries(st.sampled_from(["op", "id", "data", "text", "b64", "resume", "x"]), json_values, max_size=5),
        st.sampled_from([None, "hello", "send", "pong", "msg"]),
    )
    def test_any_object_is_a_violation_or_allowed_and_nothing_else(self, fields: dict[str, Any], op: object) -> None:
        text = json.dumps({**fields, "op": op} if op else fields)
        found = tried(text)
        if isinstance(found, Violation):
            given_id = fields.get("id")
            assert found.id is None or (found.id == given_id and not isinstance(given_id, bool))
        else:
            assert {Hello: "hello", Send: "send", Pong: "pong"}[type(found)] == json.loads(text)["op"]

    @given(messages, st.none() | st.integers(-MAX_SEQ, MAX_SEQ) | st.text(max_size=64))
    def test_a_send_arrives_as_it_went(self, message: Message, id: int | str | None) -> None:
        # contract 4.1
        payload: dict[str, Any]
        match message.kind:
            case Kind.JSON:
                payload = {"data": message.value}
            case Kind.TEXT:
                payload = {"text": message.value}
            case Kind.BINARY:
                payload = {"b64": base64.b64encode(message.value).decode()}
        for ensure_ascii in (True, False):
            frame = json.dumps({"op": "send", "id": id, **payload}, ensure_ascii=ensure_ascii)
            assert parse(frame) == Send(message, id)

    @pytest.mark.parametrize("text", ["", "null", "[]", '"pong"', "1", "{", '{"op":"pong"} x', "{'op':'pong'}", "NaN"])
    def test_a_frame_is_one_json_object(self, text: str) -> None:
        assert violation(text).code in ("bad_json", "bad_frame")

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5_000])
    def test_numbers_that_json_cannot_carry_on_are_refused(self, number: str) -> None:
        # contract 4.2: a handler could not send them to anybody
        assert violation(f'{{"op":"send","data":[{number}]}}').code == "bad_json"

    @pytest.mark.parametrize("op", ["null", '"msg"', '"HELLO"', "7", "[]", "{}", '"\\ud800"'])
    def test_unknown_ops(self, op: str) -> None:
        found = violation(f'{{"op":{op},"id":9}}')
        assert (found.code, found.id) == ("unknown_op", 9)

    @pytest.mark.parametrize("id", ["true", "1.5", "[]", "{}", str(2**53), f"{-(2**53)}", f'"{"x" * 65}"'])
    def test_ids_that_could_not_be_given_back(self, id: str) -> None:
        assert violation(f'{{"op":"send","id":{id},"data":1}}').code == "bad_id"

    @pytest.mark.parametrize(
        "payload",
        [
            "",
            ',"data":1,"text":"a"',
            ',"text":1',
            ',"text":null',
            ',"b64":null',
            ',"b64":"é"',
            ',"b64":"YQ"',
            ',"b64":"Y Q="',
        ],
    )
    def test_a_send_holds_one_payload(self, payload: str) -> None:
        found = violation(f'{{"op":"send","id":"a"{payload}}}')
        assert (found.code, found.id) == ("bad_send", "a")

    @pytest.mark.parametrize("payload", ['"text":"a\\ud800"', '"data":["\\uDFFF"]', '"data":{"\\ud800":1}'])
    def test_lone_surrogates_are_refused(self, payload: str) -> None:
        # contract 4.1: Unicode scalar values only
        assert violation(f'{{"op":"send",{payload}}}').code == "bad_send"

    def test_a_pair_of_surrogates_is_a_character(self) -> None:
        assert parse('{"op":"send","text":"\\ud83d\\ude00"}') == Send(Message(Kind.TEXT, "\U0001f600"))


class TestResume:
    # contract 5.3

    @given(st.dictionaries(texts, positions, max_size=5))
    def test_positions_arrive_as_they_went(self, resume: dict[str, Position]) -> None:
        assert parse(json.dumps({"op": "hello", "resume": resume})) == Hello(resume)

    @pytest.mark.parametrize("text", ['{"op":"hello"}', '{"op":"hello","resume":null}', '{"op":"hello","resume":{}}'])
    def test_none_at_all(self, text: str) -> None:
        assert parse(text) == Hello({})

    @pytest.mark.parametrize(
        "position", ['["e",-1]', f'["e",{2**53}]', f'["{"e" * 65}",1]', '["e",' + "9" * 4_000 + "]"]
    )
    def test_a_position_that_cannot_be_is_an_honest_question(self, position: str) -> None:
        assert parse(f'{{"op":"hello","resume":{{"user":{position}}}}}') == Hello({"user": Position("", 0)})

    @pytest.mark.parametrize(
        "resume",
        [
            *("1", '"user"', "[]", '{"user":1}', '{"user":["e"]}', '{"user":["e","1"]}', '{"user":["e",1.0]}'),
            *('{"user":["e",true]}', '{"user":[1,1]}', '{"user":["e",1,2]}', '{"user":{"e":1}}', '{"user":null}'),
        ],
    )
    def test_what_is_no_position_is_a_violation(self, resume: str) -> None:
        assert violation(f'{{"op":"hello","resume":{resume}}}').code == "bad_hello"

    @pytest.mark.parametrize(
        "was", ['""', "1", "null", '"c1"', f'"{"a" * 64}"', f'"{"a" * 65}"', '"é"', '"a\\n"', '["c1"]']
    )
    def test_which_connection_it_continues(self, was: str) -> None:
        text = f'{{"op":"hello","was":{was}}}'
        value = json.loads(was)
        if value is None or value in ("c1", "a" * 64):
            assert parse(text) == Hello({}, value)
        else:
            assert violation(text).code == "bad_hello"

    def test_the_number_of_topics_is_bounded(self) -> None:
        resume = {f"group:{n}": ["e", 1] for n in range(MAX_RESUMED_TOPICS)}
        found = parse(json.dumps({"op": "hello", "resume": resume}))
        assert isinstance(found, Hello)
        assert len(found.resume) == MAX_RESUMED_TOPICS
        resume["user"] = ["e", 1]
        assert violation(json.dumps({"op": "hello", "resume": resume})).code == "bad_hello"
