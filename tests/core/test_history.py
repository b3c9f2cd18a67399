from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.core.history import MAX_SIZE, MAX_TTL, History, ReadResult
from shim.core.message import Kind
from shim.core.wire import Position, Record

EPOCHS = ("a", "b")


class TestHistory:
    # contract 5.1

    def test_defaults(self) -> None:
        assert History() == History(100, 300.0)

    @pytest.mark.parametrize(("size", "ttl"), [(0, 0.001), (MAX_SIZE, MAX_TTL), (1, 1)])
    def test_takes_its_bounds(self, size: int, ttl: float) -> None:
        assert History(size, ttl).size == size

    @pytest.mark.parametrize("size", [-1, MAX_SIZE + 1, 1.0, "1", True, None])
    def test_refuses_other_sizes(self, size: object) -> None:
        with pytest.raises(ValueError, match="a history's size is a whole number of messages from 0 to 10000"):
            History(size=size)  # type: ignore[arg-type]  # that is the point

    @pytest.mark.parametrize("ttl", [0, -1, 0.0009, MAX_TTL + 1, inf, nan, "1", True, None])
    def test_refuses_other_ttls(self, ttl: object) -> None:
        with pytest.raises(ValueError, match=r"a history's ttl is 0\.001 to 604800 seconds"):
            History(ttl=ttl)  # type: ignore[arg-type]  # that is the point


def result(epoch: str, seq: int, seqs: list[int]) -> ReadResult:
    records = tuple(Record(Kind.TEXT, b"", Position(epoch, n)) for n in seqs)
    return ReadResult("rt:{f:e:}", Position(epoch, seq), records)


class TestCompletes:
    # contract 5.3: all that was missed, or nothing of it

    @given(
        st.sampled_from(EPOCHS),
        st.integers(0, 8),
        st.sampled_from(EPOCHS),
        st.integers(-1, 9),
        st.lists(st.integers(1, 8), unique=True).map(sorted),
    )
    def test_only_what_leaves_no_gap(self, epoch: str, seq: int, known: str, after: int, seqs: list[int]) -> None:
        missed = list(range(after + 1, seq + 1))
        possible = known == epoch and 0 <= after <= seq
        assert result(epoch, seq, seqs).completes(Position(known, after)) == (possible and seqs == missed)

    def test_a_client_that_missed_nothing_has_all(self) -> None:
        assert result("a", 7, []).completes(Position("a", 7))
        assert result("a", 0, []).completes(Position("a", 0))

    def test_a_client_without_a_position_has_nothing(self) -> None:
        assert not result("a", 0, []).completes(None)

    def test_a_client_ahead_of_redis_has_not(self) -> None:
        assert not result("a", 3, []).completes(Position("a", 4))  # Redis lost messages: nobody knows which
