"""What is sent and how it is named, as Hypothesis strategies: with what breaks things, and short to print."""

from typing import Any, Final

from hypothesis import strategies as st

from shim import Kind, Message


class FilledText(str):
    """A long text that is printed short."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"filled({str.__repr__(self[:1])}, {len(self)})"


class FilledBytes(bytes):
    """Long bytes that are printed short."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"filled({bytes.__repr__(self[:1])}, {len(self)})"


def filled(what: str | bytes, size: int) -> str | bytes:
    """One character or byte, many times."""
    return FilledText(what * size) if isinstance(what, str) else FilledBytes(what * size)


class DeepList(list[Any]):
    """Lists in lists that are printed short."""

    def __init__(self, depth: int) -> None:
        inner: list[Any] = []
        for _ in range(depth - 1):
            inner = [inner]
        super().__init__([inner])
        self.depth = depth

    def __repr__(self) -> str:
        return f"DeepList({self.depth})"


class Huge(int):
    """Ten to a power, printed short; Python refuses to print over 4,300 digits."""

    power: int

    def __new__(cls, power: int) -> "Huge":  # noqa: D102  # the class says it
        huge = super().__new__(cls, 10**power)
        huge.power = power
        return huge

    def __repr__(self) -> str:
        return f"Huge({self.power})"


def said_as_json(value: Any) -> Message:
    """A value as JSON, where a plain `str` would be text."""
    return Message(Kind.JSON, value)


LIMIT: Final = 1_048_576
DEPTH: Final = 1_000  # levels of JSON

_text: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_odd_texts: Final = st.sampled_from(
    [
        "",
        "\0",
        "a\0b",
        "\N{GRINNING FACE}",
        "e\N{COMBINING ACUTE ACCENT}",
        "\u2028\r\n",
        '"\\',
        "null",
        "{}",
        "--heartbeat--",
    ]
)
_scalars: Final = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), _text
)
_json: Final = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)
_objects: Final = st.one_of(
    st.lists(_json, max_size=3),
    st.dictionaries(_text.filter(lambda key: key != "do"), _json, max_size=3),
    st.integers(),
    st.sampled_from([2**53 + 1, -(2**63) - 1, 2**64, 10**400, 1.7976931348623157e308, 5e-324, -0.0]),
    st.none(),
    st.booleans(),
    _scalars.map(said_as_json),
    st.just(DeepList(DEPTH)),
)

VALUES: Final = st.one_of(_text, _odd_texts, st.binary(max_size=60), _objects)
"""Payloads of all three kinds."""

BIG: Final = st.sampled_from(
    [
        filled("x", 125),
        filled("x", 126),
        filled("é", 40_000),
        filled(b"\xff", 65_535),
        filled(b"\0", 65_536),
        filled("x", LIMIT),
        filled(b"\x80", LIMIT),
    ]
)
"""Payloads around the sizes where frames change, and the largest."""

SENT: Final = st.one_of(
    _text.filter(lambda text: not text.startswith('{"do":')),
    _odd_texts,
    st.binary(max_size=60),
    st.lists(_json, max_size=3),
    st.just(DeepList(DEPTH)),
)
"""What a client sends: no command."""

UNCARRIABLE: Final = st.sampled_from(
    [
        ("MessageTooLarge", filled("x", LIMIT + 1)),
        ("MessageTooLarge", filled(b"x", LIMIT + 1)),
        ("InvalidPayload", float("nan")),
        ("InvalidPayload", [float("inf")]),
        ("InvalidPayload", "\ud800"),
        ("InvalidPayload", {"a": "\udfff"}),
        ("InvalidPayload", Huge(5_000)),
        ("InvalidPayload", DeepList(100_000)),
        ("InvalidPayload", {1, 2}),
        ("InvalidPayload", object),
    ]
)
"""What a publish refuses (contract 4.2), and how."""

NAMES: Final = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.sampled_from(
        [
            "a:b",
            "a%3Ab",
            "{a}",
            "*",
            "a\nb",
            "a b",
            "~a",
            "a/b",
            "..",
            "\0",
            "É",
            "E\N{COMBINING ACUTE ACCENT}",
            "x" * 100,
        ]
    ),
)
"""Names of people and groups."""

HISTORIES: Final = st.sampled_from(
    [None, None, None, (100, 300.0), (0, 300.0), (0, 300.0), (1, 300.0), (2, 300.0), (100, 0.001), (10, 0.01)]
)
"""What is kept of a publish: as the facility says, all, nothing, little, not for long."""
