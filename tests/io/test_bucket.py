"""One bucket; three buckets with the charges of calls; and what responses say of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.io.bucket import TICK, Amounts, Bucket, Buckets, Charge
from avm.io.limits import Allowance, Limits, RateLimits


def told(remaining: int, limit: int = 60, reset: float | None = None) -> Allowance:
    return Allowance(limit, remaining, reset)


def correct(bucket: Bucket, said: Allowance, now: float = 0.0, **known: float) -> float:
    """Correct a bucket by the response to a call beside which there are no others, and return its level."""
    named = {"age": 0.0, "later": 0.0, "since": 0.0, "under_way": 0.0} | known
    bucket.correct(said, now=now, **named)
    return bucket.level(now)


def test_a_bucket_is_full_at_first_and_fills_evenly() -> None:
    bucket = Bucket(60, 100.0)

    bucket.take(60, 100.0)

    assert [bucket.level(at) for at in (100.0, 101.0, 110.5, 160.0)] == pytest.approx([0, 1, 10.5, 60])


def test_a_bucket_never_holds_more_than_a_minutes_worth() -> None:
    bucket = Bucket(60, 0.0)

    bucket.take(-20, 0.0)

    assert bucket.level(1e9) == 60


def test_a_time_that_lies_before_the_last_one_adds_nothing() -> None:
    bucket = Bucket(60, 100.0)
    bucket.take(60, 100.0)

    assert bucket.level(50.0) == 0
    assert bucket.level(101.0) == pytest.approx(1)


def test_an_amount_is_ready_when_it_has_been_filled() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(60, 0.0)

    assert bucket.ready(15, 0.0) == pytest.approx(15.0)
    assert bucket.ready(15, 15.0) == 15.0


def test_more_than_fits_in_is_ready_when_the_bucket_is_full() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(1, 0.0)

    assert bucket.ready(1_000, 0.0) == pytest.approx(1.0)
    bucket.take(1_000, 1.0)
    assert bucket.level(1.0) == -940


def test_a_bucket_in_debt_lets_not_even_nothing_go() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(70, 0.0)

    assert bucket.ready(0, 0.0) == pytest.approx(10.0)


def test_without_a_limit_everything_is_ready() -> None:
    bucket = Bucket(None, 0.0)
    bucket.take(10**9, 0.0)

    assert (bucket.ready(10**9, 0.0), bucket.level(0.0)) == (0.0, math.inf)


@given(
    limit=st.integers(1, 10**7),
    now=st.floats(0, 2e9),
    taken=st.floats(0, 2e7),
    amount=st.floats(0, 2e7),
)
def test_what_is_not_ready_is_ready_later_by_a_tick_at_least(
    limit: int, now: float, taken: float, amount: float
) -> None:
    bucket = Bucket(limit, now)
    bucket.take(taken, now)

    ready = bucket.ready(amount, now)

    assert ready == now or ready >= now + TICK * 0.999
    # A clock that far from 0 counts in steps of 2e-7 s.
    assert bucket.ready(amount, ready) <= ready + 2 * TICK


# What a response says.


def test_what_remains_takes_the_level_down_at_once() -> None:
    assert correct(Bucket(60, 0.0), told(10)) == 10


def test_what_remains_has_been_filled_since_the_call_was_sent() -> None:
    bucket = Bucket(60, 0.0)

    assert correct(bucket, told(10), now=5.0, age=5.0) == 15


def test_what_was_sent_later_is_taken_off() -> None:
    bucket = Bucket(60, 0.0)

    assert correct(bucket, told(10), now=20.0, age=20.0, later=12.0) == 18


def test_what_was_sent_later_may_be_counted_in_what_remains_already() -> None:
    """Providers that write their headers at the end of a reply have taken it off themselves."""
    bucket = Bucket(60, 0.0)

    assert correct(bucket, told(10), now=5.0, age=5.0, later=40.0) == 10


def test_more_than_we_think_is_believed_little_by_little_and_with_a_margin() -> None:
    bucket = Bucket(100, 0.0)
    bucket.take(100, 0.0)

    levels = [correct(bucket, told(80, limit=100)) for _ in range(60)]

    assert levels[0] == pytest.approx(79 / 8)
    assert levels == sorted(levels)
    assert levels[-1] == pytest.approx(79, abs=0.1)


def test_more_than_we_think_is_not_believed_if_calls_under_way_may_still_use_it() -> None:
    bucket = Bucket(100, 0.0)
    bucket.take(60, 0.0)

    assert correct(bucket, told(80, limit=100), under_way=45.0) == 40


def test_another_limit_rescales_the_bucket() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(30, 0.0)

    assert correct(bucket, Allowance(120)) == 60
    assert (bucket.limit, bucket.level(60.0)) == (120, 120)


def test_a_limit_nobody_knew_of_is_adopted_less_what_is_under_way() -> None:
    bucket = Bucket(None, 0.0)

    assert correct(bucket, Allowance(100), under_way=30.0) == 70
    assert bucket.ready(80, 0.0) == pytest.approx(6.0)


@pytest.mark.parametrize("said", [Allowance(), Allowance(0), Allowance(-5), Allowance(None, None, 3.0)])
def test_a_response_that_says_nothing_of_use_changes_nothing(said: Allowance) -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(10, 0.0)

    assert correct(bucket, said) == 50
    assert bucket.limit == 60


def test_a_provider_that_keeps_less_than_a_minutes_worth_is_found_out_by_when_all_is_there_again() -> None:
    bucket = Bucket(600, 0.0)

    correct(bucket, told(90, limit=600, reset=1.0))

    # 90 there, and 10 more in the second until it is full; one second of grace.
    assert bucket.capacity == 110
    assert bucket.level(60.0) == 110
    correct(bucket, told(300, limit=600, reset=30.0), now=60.0)
    assert bucket.capacity == 600


# Three buckets.

LIMITS = Limits(requests=60, input_tokens=6_000, output_tokens=600)


def levels(buckets: Buckets, now: float) -> list[float]:
    return [bucket.level(now) for bucket in (buckets.requests, buckets.input, buckets.output)]


def send(buckets: Buckets, serial: int, now: float, amounts: Amounts = (1, 1_000, 100)) -> Charge:
    charge = Charge(serial, now, amounts)
    buckets.charge(charge, now)
    return charge


def test_a_call_is_charged_with_what_it_is_expected_to_use_and_then_with_what_it_used() -> None:
    buckets = Buckets(LIMITS, 0.0)

    charge = send(buckets, 1, 0.0)
    expected = levels(buckets, 0.0)
    buckets.settle(charge, (1, 1_500, 40), 0.0)

    assert expected == [59, 5_000, 500]
    assert levels(buckets, 0.0) == [59, 4_500, 560]
    assert buckets.under_way == (0, 0, 0)


def test_a_call_is_ready_when_all_three_are() -> None:
    buckets = Buckets(LIMITS, 0.0)
    send(buckets, 1, 0.0, (1, 5_500, 590))

    assert buckets.ready((1, 500, 10), 0.0) == 0.0
    assert buckets.ready((1, 500, 40), 0.0) == pytest.approx(3.0)
    assert buckets.ready((1, 1_000, 40), 0.0) == pytest.approx(5.0)


def test_only_calls_that_surely_came_later_are_taken_off_what_remains() -> None:
    buckets = Buckets(LIMITS, 0.0)
    first = send(buckets, 1, 0.4)
    send(buckets, 2, 0.45)  # this and the next may have overtaken the first
    send(buckets, 3, 0.55)
    send(buckets, 4, 10.4)
    buckets.settle(first, first.amounts, 20.4)

    buckets.correct(first, RateLimits(input_tokens=told(2_000, limit=6_000)), 20.4)

    # 2000, and 20 s at 100 tokens, less the fourth call.
    assert levels(buckets, 20.4)[1] == pytest.approx(3_000)


def test_a_response_that_comes_after_one_to_a_later_call_says_nothing_new() -> None:
    buckets = Buckets(LIMITS, 0.0)
    first, second = send(buckets, 1, 0.0), send(buckets, 2, 0.0)
    for charge in (first, second):
        buckets.settle(charge, charge.amounts, 1.0)

    buckets.correct(second, RateLimits(requests=told(58)), 1.0)
    buckets.correct(first, RateLimits(requests=told(3)), 1.0)

    assert levels(buckets, 1.0)[0] == 59


def test_after_a_call_was_turned_away_the_emptiest_bucket_has_room_for_it_when_it_was_told_to_come() -> None:
    buckets = Buckets(LIMITS, 0.0)
    send(buckets, 1, 0.0, (1, 4_000, 100))

    buckets.refused((1, 1_500, 100), 5.0, 0.0)

    assert levels(buckets, 0.0) == [59, 1_000, 500]
    assert buckets.ready((1, 1_500, 100), 0.0) == pytest.approx(5.0)


def test_what_was_sent_long_ago_is_forgotten() -> None:
    """So a provider that never tells of limits costs no memory."""
    buckets = Buckets(Limits(), 0.0)
    for serial in range(2_000):
        charge = send(buckets, serial + 1, float(serial))
        buckets.settle(charge, charge.amounts, float(serial))

    assert len(buckets._slots) <= 601


def test_what_is_believed_can_be_read_as_limits() -> None:
    buckets = Buckets(Limits(requests=60), 0.0)
    buckets.correct(send(buckets, 1, 0.0), RateLimits(output_tokens=told(900, limit=1_000)), 0.0)

    assert buckets.limits(7) == Limits(requests=60, output_tokens=1_000, concurrency=7)
