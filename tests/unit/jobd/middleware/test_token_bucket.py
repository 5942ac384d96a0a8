"""A rate is kept to, over any time, and whoever kept to it is let through."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobd.middleware.token_bucket import BURST, TokenBucket


@pytest.mark.parametrize("rate", [1, 3, 7, 2000, 0.5])
def test_a_full_bucket_has_a_second_s_worth(rate: float) -> None:
    """Or one, when that is less than one; and then says exactly when there is another."""
    bucket = TokenBucket(100.0)
    at_once = max(int(rate * BURST), 1)
    assert [bucket.take(100.0, rate) for _ in range(at_once)] == [0.0] * at_once
    wait = bucket.take(100.0, rate)
    assert wait == pytest.approx(1 / rate)
    assert bucket.take(100.0 + wait * 0.99, rate) > 0
    assert bucket.take(100.0 + wait, rate) == 0.0


def test_what_is_refused_takes_nothing() -> None:
    """However often somebody asks, the next token comes when it comes."""
    bucket = TokenBucket(0.0)
    bucket.take(0.0, 1)
    assert {bucket.take(0.5, 1) for _ in range(1000)} == {0.5}
    assert bucket.take(1.0, 1) == 0.0


def test_without_a_limit_nothing_is_refused() -> None:
    """Nor is anything remembered: the bucket stays full."""
    bucket = TokenBucket(5.0)
    assert {bucket.take(5.0, math.inf) for _ in range(10_000)} == {0.0}
    assert bucket.full_at == 5.0


def test_it_does_not_hold_more_than_it_holds() -> None:
    """A day without a call gives no day's worth of them."""
    bucket = TokenBucket(0.0)
    assert [bucket.take(86400.0, 2) > 0 for _ in range(4)] == [False, False, True, True]


@given(
    st.lists(st.floats(0, 0.4), min_size=1, max_size=200),
    st.floats(0.5, 50),
)
def test_no_stretch_of_time_has_more_than_the_rate(pauses: list[float], rate: float) -> None:
    """Between any two calls that were let through there are at most a bucketful, and what came meanwhile."""
    bucket, now, taken = TokenBucket(0.0), 0.0, []
    for pause in pauses:
        now += pause
        if bucket.take(now, rate) == 0.0:
            taken.append(now)
    for first, begun in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= max(rate * BURST, 1) + (taken[last] - begun) * rate + 1e-6


@given(st.integers(1, 200), st.floats(0.1, 1000))
def test_whoever_keeps_to_the_rate_is_never_refused(count: int, rate: float) -> None:
    """One call each time that a token comes."""
    bucket = TokenBucket(0.0)
    assert [bucket.take(number / rate, rate) for number in range(count)] == [0.0] * count
