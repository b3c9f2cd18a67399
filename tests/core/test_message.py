import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.core.errors import InvalidPayload, MessageTooLarge
from shim.core.message import MAX_MESSAGE_BYTES, Kind, Message

texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


class TestKinds:
    # contract 4.1

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            ("", Kind.TEXT),
            ("é\0\n\U0001f600", Kind.TEXT),
            (b"", Kind.BINARY),
            (bytes(range(256)), Kind.BINARY),
            (None, Kind.JSON),
            (False, Kind.JSON),
            (0, Kind.JSON),
            ({}, Kind.JSON),
            ([], Kind.JSON),
            (("a", 1), Kind.JSON),
        ],
    )
    def test_a_plain_value_has_one(self, value: object, kind: Kind) -> None:
        assert Message.of(value) == Message(kind, value)

    @pytest.mark.parametrize("value", [bytearray(b"ab"), memoryview(b"ab")])
    def test_bytes_of_any_sort_are_copied(self, value: bytearray | memoryview) -> None:
        message = Message.of(value)
        assert message == Message(Kind.BINARY, b"ab")
        if isinstance(value, bytearray):
            value.clear()
        assert message.value == b"ab"

    def test_a_message_is_itself(self) -> None:
        message = Message(Kind.JSON, "a JSON string")
        assert Message.of(message) is message
        assert message.body() == b'"a JSON string"'

    def test_a_subclass_of_str_is_text(self) -> None:
        class Marked(str):
            __slots__ = ()

        assert Message.of(Marked("hi")).body() == b"hi"


class TestRoundTrip:
    # contract 4.1

    @given(texts)
    def test_text(self, text: str) -> None:
        assert Message.from_body(Kind.TEXT, Message.of(text).body()) == Message(Kind.TEXT, text)

    @given(st.binary())
    def test_binary(self, data: bytes) -> None:
        assert Message.of(data).body() == data
        assert Message.from_body(Kind.BINARY, data) == Message(Kind.BINARY, data)

    @given(json_values)
    def test_json(self, value: Any) -> None:
        body = Message(Kind.JSON, value).body()
        assert Message.from_body(Kind.JSON, body) == Message(Kind.JSON, value)
        assert b"\n" not in body

    @given(json_values)
    def test_json_is_as_short_as_it_can_be(self, value: Any) -> None:
        assert Message(Kind.JSON, value).body() == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class TestWhatCannotBeCarried:
    # contract 4.2

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (float("nan"), "JSON cannot carry"),
            ({"deep": [float("inf")]}, "JSON cannot carry"),
            (object(), "not JSON serializable"),
            ({"when": {1, 2}}, "not JSON serializable"),
            ({(1, 2): 3}, "keys must be"),
            (nested(200_000), "JSON cannot carry"),
            (10**5000, "JSON cannot carry"),
            ("a\ud800", "lone surrogate"),
            ({"a": "\udfff"}, "lone surrogate"),
            ({"\ud800": 1}, "lone surrogate"),
        ],
        ids=lambda value: str(type(value)),
    )
    def test_is_refused_with_the_reason(self, value: object, reason: str) -> None:
        with pytest.raises(InvalidPayload, match=reason) as caught:
            Message.of(value).body()
        assert len(str(caught.value)) < 400

    def test_a_circle_is_refused(self) -> None:
        circle: list[Any] = []
        circle.append(circle)
        with pytest.raises(InvalidPayload, match="Circular"):
            Message.of(circle).body()

    @pytest.mark.parametrize(
        ("kind", "value"), [(Kind.TEXT, b"x"), (Kind.TEXT, None), (Kind.BINARY, "x"), (Kind.BINARY, bytearray())]
    )
    def test_a_value_of_another_kind_is_refused(self, kind: Kind, value: object) -> None:
        with pytest.raises(InvalidPayload, match=f"a {kind.name} message cannot hold a"):
            Message(kind, value).body()

    @pytest.mark.parametrize(
        ("exact", "over"),
        [
            ("x" * 10, "x" * 11),
            ("é" * 5, "é" * 5 + "x"),
            (b"\0" * 10, b"\0" * 11),
            (["x" * 6], ["x" * 7]),
        ],
    )
    def test_the_limit_is_in_bytes_and_exact(self, exact: object, over: object) -> None:
        assert len(Message.of(exact).body(10)) == 10
        with pytest.raises(MessageTooLarge, match=r"11 bytes is over the limit of 10 \(REALTIME_MAX_MESSAGE_BYTES\)"):
            Message.of(over).body(10)

    def test_the_default_limit_is_a_mebibyte(self) -> None:
        assert MAX_MESSAGE_BYTES == 1_048_576
        Message.of("x" * MAX_MESSAGE_BYTES).body()
        with pytest.raises(MessageTooLarge) as caught:
            Message.of(b"x" * (MAX_MESSAGE_BYTES + 1)).body()
        assert len(str(caught.value)) < 300  # the value is shown, cut

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            (Kind.TEXT, b"\xff"),
            (Kind.TEXT, b"\xed\xa0\x80"),
            (Kind.JSON, b""),
            (Kind.JSON, b"{"),
            (Kind.JSON, b"\xff"),
            (Kind.JSON, b"[" * 200_000),
        ],
    )
    def test_a_body_of_another_kind_is_refused(self, kind: Kind, body: bytes) -> None:
        with pytest.raises(InvalidPayload, match=f"not a {kind.name} body"):
            Message.from_body(kind, body)
