from bisect import bisect_left
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.core.pacing import TokenBucket, backoff, between, moments, spread

times = st.floats(min_value=0, max_value=1e6)
dice = st.randoms(use_true_random=False)


class TestBackoff:
    @given(st.integers(0, 10**6), st.floats(0, 100), st.floats(0, 1000), dice)
    def test_lies_between_nothing_and_the_cap(self, attempt: int, base: float, cap: float, random: Random) -> None:
        wait = backoff(attempt, base=base, cap=cap, random=random.random)
        assert 0 <= wait <= min(cap, base * 2.0 ** min(attempt, 64))

    def test_doubles_until_the_cap(self) -> None:
        highest = [backoff(n, base=0.5, cap=5, random=lambda: 1.0) for n in range(6)]
        assert highest == [0.5, 1, 2, 4, 5, 5]

    def test_a_huge_attempt_does_not_overflow(self) -> None:
        assert backoff(10**9, base=0.1, cap=30, random=lambda: 1.0) == 30

    def test_is_full_jitter(self) -> None:
        random = Random(1)
        waits = sorted(backoff(9, base=1, cap=10, random=random.random) for _ in range(1000))
        assert waits[0] < 0.2
        assert 4.5 < waits[500] < 5.5
        assert waits[-1] > 9.8

    @pytest.mark.parametrize(("attempt", "base", "cap"), [(-1, 1, 1), (0, -1, 1), (0, 1, -1)])
    def test_refuses_what_makes_no_sense(self, attempt: int, base: float, cap: float) -> None:
        with pytest.raises(ValueError, match="0 or more"):
            backoff(attempt, base=base, cap=cap, random=lambda: 0.5)


class TestTokenBucket:
    def test_grants_its_burst_then_its_rate(self) -> None:
        bucket = TokenBucket(rate=2, burst=3, now=100)
        assert [bucket.take(100) for _ in range(4)] == [True, True, True, False]
        assert bucket.wait(100) == 0.5
        assert not bucket.take(100.4)
        assert bucket.take(100.5)
        assert not bucket.take(100.5)

    @given(
        st.floats(0.1, 1000),
        st.floats(1, 100),
        st.lists(st.tuples(st.floats(0, 2), st.floats(0, 5)), max_size=60),
    )
    def test_never_more_than_burst_and_rate_in_any_window(
        self, rate: float, burst: float, asked: list[tuple[float, float]]
    ) -> None:
        bucket = TokenBucket(rate, burst, now=0)
        now = 0.0
        granted: list[tuple[float, float]] = []
        for step, n in asked:
            now += step
            if bucket.take(now, n):
                granted.append((now, n))
        for i, (begin, _) in enumerate(granted):
            total = 0.0
            for end, n in granted[i:]:
                total += n
                assert total <= burst + rate * (end - begin) + 1e-6

    @given(st.floats(0.01, 1000), st.floats(1, 50), st.lists(st.floats(0, 3), max_size=50), times)
    def test_after_the_wait_the_token_is_there(
        self, rate: float, burst: float, steps: list[float], start: float
    ) -> None:
        bucket = TokenBucket(rate, burst, now=start)
        now = start
        for step in steps:
            now += step
            bucket.take(now)
        pause = bucket.wait(now)
        assert 0 <= pause <= 1 / rate + 1e-9
        assert bucket.take(now + pause + 1e-9 * (1 + now / rate))  # the clock's own rounding, late in its life

    def test_a_clock_that_steps_back_neither_grants_nor_takes(self) -> None:
        bucket = TokenBucket(rate=1, burst=1, now=100)
        assert bucket.take(100)
        assert not bucket.take(50)
        assert not bucket.take(100.5)
        assert bucket.take(101)

    def test_more_than_the_burst_is_never_there(self) -> None:
        bucket = TokenBucket(rate=1, burst=5, now=0)
        assert not bucket.take(1000, 6)
        assert bucket.take(1000, 5)

    @pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0.5), (float("nan"), 1)])
    def test_refuses_what_would_never_grant(self, rate: float, burst: float) -> None:
        with pytest.raises(ValueError, match="a rate is over 0"):
            TokenBucket(rate, burst, now=0)


class TestSpread:
    @given(st.integers(0, 10**6), st.floats(0.1, 1e4), st.floats(0, 30), st.floats(0, 300))
    def test_lies_between_least_and_most(self, n: int, rate: float, least: float, more: float) -> None:
        window = spread(n, rate=rate, least=least, most=least + more)
        assert window == 0 if n == 0 else least <= window <= least + more

    def test_keeps_to_the_rate_while_the_window_allows(self) -> None:
        assert spread(1000, rate=50, most=30) == 20
        assert spread(1000, rate=10, most=30) == 30  # contract 9.1
        assert spread(3, rate=50, least=2, most=30) == 2
        assert spread(0, rate=50, least=2, most=30) == 0

    @pytest.mark.parametrize(("n", "rate", "least", "most"), [(-1, 1, 0, 1), (1, 0, 0, 1), (1, 1, 2, 1), (1, 1, -1, 1)])
    def test_refuses_what_makes_no_sense(self, n: int, rate: float, least: float, most: float) -> None:
        with pytest.raises(ValueError, match="no window"):
            spread(n, rate=rate, least=least, most=most)


class TestMoments:
    @given(st.integers(0, 500), st.floats(0, 300), times, dice)
    def test_all_in_order_and_inside_the_window(self, n: int, window: float, now: float, random: Random) -> None:
        turns = moments(n, window, now, random.random)
        assert len(turns) == n
        assert turns == sorted(turns)
        assert all(now <= turn <= now + window + 1e-6 for turn in turns)

    @given(st.integers(1, 2000), st.floats(1, 200), dice)
    def test_never_over_the_rate_in_any_second(self, n: int, rate: float, random: Random) -> None:  # contract 8.5
        turns = moments(n, spread(n, rate=rate, most=1e9), 0, random.random)
        for i, turn in enumerate(turns):
            # one second touches at most rate + 2 slots, and each slot holds one moment
            assert bisect_left(turns, turn + 1) - i <= rate + 2

    def test_two_processes_do_not_keep_in_step(self) -> None:
        one = moments(50, 10, 0, Random(1).random)
        other = moments(50, 10, 0, Random(2).random)
        assert not set(one) & set(other)

    def test_refuses_a_negative_window(self) -> None:
        with pytest.raises(ValueError, match="window"):
            moments(1, -1, 0, lambda: 0.5)


class TestBetween:
    @given(st.integers(0, 200), st.floats(0.1, 60), dice)
    def test_newcomers_alone_have_a_slot_each(self, n: int, window: float, random: Random) -> None:
        found = between([], n, window, 1_000.0, random.random)
        slot = window / max(n, 1)
        assert len(found) == n
        for number, moment in enumerate(found):
            assert number * slot - 1e-6 <= moment - 1_000.0 <= (number + 1) * slot + 1e-6

    @given(st.integers(0, 100), st.lists(st.floats(-5, 10, exclude_max=True), max_size=100), dice)
    def test_newcomers_take_what_others_leave_free(self, n: int, others: list[float], random: Random) -> None:
        found = between(others, n, 10.0, 0.0, random.random)
        assert len(found) == n
        assert found == sorted(found)
        slot = 10.0 / max(n + len(others), 1)
        for number, moment in enumerate(found):
            assert moment <= 10.0 + 1e-6
            # Whoever had a turn before it had a slot of their own before it.
            earlier = number + sum(other <= moment - slot for other in others)
            assert earlier <= moment / slot + 1 + 1e-6
