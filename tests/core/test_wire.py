import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shim.core.errors import WireError
from shim.core.message import Kind
from shim.core.wire import MAX_SEQ, Position, Record, decode, encode

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30).filter(lambda t: t != "-")
positions = st.builds(Position, words, st.integers(0, MAX_SEQ))
records = st.builds(Record, st.sampled_from(Kind), st.binary(), st.none() | positions, st.none() | words)


@given(records)
@example(Record(Kind.TEXT, b""))
@example(Record(Kind.BINARY, b"\n\n 1j"))
def test_a_record_comes_back_as_it_went(record: Record) -> None:
    # contract 4.1
    assert decode(encode(record)) == record


def test_a_record_looks_as_the_module_says() -> None:
    record = Record(Kind.JSON, b'{"event":"ring"}', Position("5f0c2a9b41d7e683", 45))
    assert encode(record) == b'1j 5f0c2a9b41d7e683 45 -\n{"event":"ring"}'
    assert encode(Record(Kind.TEXT, b"hi", None, "c1")) == b"1t - 0 c1\nhi"


@given(st.binary())
@example(b"1t - 0 -")  # no body's newline
@example(b"2t e 1 -\nhi")  # another version
@example(b"1x e 1 -\nhi")  # no such kind
@example(b"1t e 1\nhi")
@example(b"1t e 1 - -\nhi")
@example(b"1t e -1 -\nhi")
@example(b"1t e +1 -\nhi")
@example(b"1t e 1_0 -\nhi")
@example("1t e ² -\nhi".encode())
@example("1t é 1 -\nhi".encode())
@example(b"1t  1 -\nhi")
@example(b"1t e 1 \nhi")
@example(b"1t e " + b"9" * 5000 + b" -\nhi")
@example(b'{"op":"flag"}')
def test_anything_else_is_a_wire_error(data: bytes) -> None:
    try:
        record = decode(data)
    except WireError:
        return
    assert decode(encode(record)) == record


@pytest.mark.parametrize("data", [b"", b"\n", b"1t - 0 -", b"2t e 1 -\nhi", b"1x e 1 -\nhi", b"1t e x -\nhi"])
def test_the_error_shows_the_record_and_a_cause(data: bytes) -> None:
    with pytest.raises(WireError, match="not a version 1 record") as caught:
        decode(data)
    assert "something else publish under this prefix" in str(caught.value)
    assert len(str(caught.value)) < 300
