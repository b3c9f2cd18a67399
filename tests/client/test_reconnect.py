"""Coming back: what was told, bounded (contract 8.5, 1.1). The close-code table is in `test_protocol.py`."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.client.reconnect import LONGEST_RETRY_AFTER, LONGEST_WAIT, SHORTEST_BASE, Pace, retry_after

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def test_what_a_server_tells() -> None:
    told = {"base_ms": 100, "cap_ms": 2000, "spread_ms": 3000}
    assert Pace().told(told) == Pace(0.1, 2.0, 3.0)
    assert Pace().told({"spread_ms": 0}) == Pace(spread=0.0)
    assert Pace().told({"cap_ms": 1}) == Pace(cap=Pace().base)


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
names = st.sampled_from(["base_ms", "cap_ms", "spread_ms"])


@given(values | st.lists(values) | st.dictionaries(names, values))
def test_nothing_told_is_out_of_bounds(told: object) -> None:
    pace = Pace().told(told)
    assert SHORTEST_BASE <= pace.base <= pace.cap <= LONGEST_WAIT
    assert 0 <= pace.spread <= LONGEST_WAIT


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("5", 5.0),
        (" 0 ", 0.0),
        ("86400", LONGEST_RETRY_AFTER),
        ("9" * 400, LONGEST_RETRY_AFTER),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("Sun, 22 Nov 2026 12:00:20 GMT", 20.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
        ("Sun, 22 Nov 2026 23:00:00 -0000", LONGEST_RETRY_AFTER),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds


@given(st.text())
def test_retry_after_reads_anything(header: str) -> None:
    seconds = retry_after(header, NOW)
    assert seconds is None or 0 <= seconds <= LONGEST_RETRY_AFTER
