"""When calls may go, and what their endings change."""

from __future__ import annotations

import math
from random import Random

import pytest

from avm.errors import (
    AVMError,
    BadOutput,
    ContextOverflow,
    InvalidRequest,
    NotAuthorized,
    Overloaded,
    ProviderConnection,
    ProviderError,
    ProviderFailed,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    Refused,
    SpecError,
    SpendLimitReached,
)
from avm.io.breaker import PROBE_SECONDS
from avm.io.governor import Cost, Governor, GovernorStatistics, Reservation, is_retryable
from avm.io.limits import Allowance, Limits, RateLimits
from avm.io.request import Usage

LIMITS = Limits(requests=60, input_tokens=6_000, output_tokens=600)
COST = Cost(input=1_000, output=100)


def govern(limits: Limits = LIMITS, concurrency: int = 100, now: float = 0.0) -> Governor:
    return Governor(limits, concurrency, Random(1), now)


def send(governor: Governor, now: float = 0.0, cost: Cost = COST) -> Reservation:
    admitted = governor.admit(cost, now)
    assert isinstance(admitted, Reservation)
    return admitted


def fail(governor: Governor, error: ProviderError, now: float = 0.0, times: int = 1) -> None:
    for reservation in [send(governor, now, Cost(0, 0)) for _ in range(times)]:
        governor.failed(reservation, error, None, now)


def levels(statistics: GovernorStatistics) -> tuple[float | None, float | None, float | None]:
    return statistics.requests_level, statistics.input_level, statistics.output_level


# Sending.


def test_a_call_that_has_room_goes_and_is_under_way() -> None:
    governor = govern()

    reservation = send(governor, 2.0)

    assert (reservation.cost, reservation.at, reservation.is_probe) == (COST, 2.0, False)
    assert governor.in_flight == 1
    assert levels(governor.statistics(2.0)) == (59, 5_000, 500)


def test_a_call_without_room_is_told_when_to_ask_again_and_then_goes() -> None:
    governor = govern()
    for _ in range(6):
        send(governor)

    again = governor.admit(COST, 0.0)

    assert again == pytest.approx(10.0)
    assert isinstance(again, float)
    send(governor, again)


def test_a_call_larger_than_a_minutes_worth_goes_when_the_bucket_is_full() -> None:
    governor = govern()
    send(governor)

    again = governor.admit(Cost(50_000, 10), 0.0)

    assert again == pytest.approx(10.0)
    send(governor, 10.0, Cost(50_000, 10))
    assert governor.statistics(10.0).input_level == pytest.approx(-44_000)


def test_no_more_calls_are_under_way_than_may_be_and_the_next_waits_for_one_to_end() -> None:
    governor = govern(Limits(), concurrency=2)
    first = send(governor)
    send(governor)

    full = governor.admit(COST, 1.0)
    governor.answered(first, None, None, 1.0)

    assert full == math.inf
    send(governor, 1.0)


def test_the_configured_concurrency_is_a_cap_too() -> None:
    governor = govern(Limits(concurrency=1), concurrency=10)

    send(governor)

    assert governor.admit(COST, 0.0) == math.inf


def test_a_concurrency_below_one_is_refused() -> None:
    with pytest.raises(SpecError):
        govern(concurrency=0)


# Endings.


def test_what_a_call_used_takes_the_place_of_what_was_expected_and_cache_reads_do_not_count() -> None:
    governor = govern()
    usage = Usage(input_tokens=200, output_tokens=150, cache_read_tokens=9_000, cache_write_tokens=300)

    governor.answered(send(governor), usage, None, 0.0)

    statistics = governor.statistics(0.0)
    assert levels(statistics) == (59, 5_500, 450)
    assert (statistics.input_tokens, statistics.output_tokens, statistics.answered) == (500, 150, 1)


def test_a_reply_without_usage_is_taken_to_have_used_what_was_expected() -> None:
    governor = govern()

    governor.answered(send(governor), None, None, 0.0)

    assert levels(governor.statistics(0.0)) == (59, 5_000, 500)


@pytest.mark.parametrize(
    "error, left",
    [
        (NotAuthorized("401"), (60, 6_000, 600)),
        (SpendLimitReached("spent"), (60, 6_000, 600)),
        (Overloaded("529"), (59, 6_000, 600)),
        (ProviderFailed("500"), (59, 6_000, 600)),
        (InvalidRequest("400"), (59, 6_000, 600)),
        (ProviderTimeout("slow"), (59, 5_000, 600)),
        (ProviderConnection("cut"), (59, 5_000, 600)),
    ],
)
def test_a_failure_gives_back_what_the_provider_does_not_count(
    error: ProviderError, left: tuple[float, ...]
) -> None:
    governor = govern()
    reservation = send(governor)

    governor.failed(reservation, error, None, 0.0)

    assert governor.in_flight == 0
    assert levels(governor.statistics(0.0)) == left


def test_a_429_gives_everything_back_but_shows_that_one_bucket_has_less_than_was_thought() -> None:
    governor = govern()
    send(governor, cost=Cost(0, 300))

    governor.failed(send(governor), RateLimited("429", retry_after=5.0), None, 0.0)

    # 100 output tokens in 5 s, at 10 a second.
    assert levels(governor.statistics(0.0)) == (59, 6_000, 50)


@pytest.mark.parametrize("sent, left", [(False, (60, 6_000, 600)), (True, (59, 5_000, 600))])
def test_a_call_that_is_given_up_gives_back_what_did_not_reach_the_provider(
    sent: bool, left: tuple[float, ...]
) -> None:
    governor = govern()

    governor.cancelled(send(governor), 0.0, sent=sent)

    assert governor.in_flight == 0
    assert levels(governor.statistics(0.0)) == left


def test_a_call_can_end_only_once() -> None:
    governor = govern()
    reservation = send(governor)
    governor.answered(reservation, None, None, 0.0)

    with pytest.raises(AVMError, match="call 1 has ended already"):
        governor.cancelled(reservation, 0.0, sent=True)
    assert governor.in_flight == 0


def test_limits_in_responses_take_the_place_of_the_configured_ones() -> None:
    governor = govern(Limits(requests=60))
    said = RateLimits(requests=Allowance(600, 20), output_tokens=Allowance(1_000, 400))

    governor.answered(send(governor), None, said, 0.0)

    statistics = governor.statistics(0.0)
    assert statistics.limits == Limits(requests=600, output_tokens=1_000)
    assert levels(statistics) == (20, None, 400)


# The pause.


def test_a_429_pauses_everybody_and_the_call_is_tried_again_when_that_ends() -> None:
    governor = govern()
    error = RateLimited("429", retry_after=7.0)

    fail(governor, error, 1.0)

    assert governor.admit(COST, 2.0) == 8.0
    assert governor.retry_at(error, 1, 2.0) == 8.0
    assert (governor.paused_until, governor.statistics(2.0).paused_until) == (8.0, 8.0)
    assert governor.statistics(8.0).paused_until is None


def test_after_the_pause_calls_go_one_by_one_at_first() -> None:
    governor = govern(Limits(requests=600))
    fail(governor, RateLimited("429", retry_after=5.0))

    send(governor, 5.0)

    again = governor.admit(COST, 5.0)
    # A tenth of ten a second.
    assert isinstance(again, float)
    assert 5.4 < again < 6.0


def test_a_429_takes_the_emptiest_bucket_down_so_that_the_same_call_fits_when_told() -> None:
    governor = govern()
    send(governor, cost=Cost(3_000, 10))
    fresh = send(governor)

    governor.failed(fresh, RateLimited("429", retry_after=4.0), None, 0.0)

    # 1000 tokens in 4 s, at 100 a second.
    assert governor.statistics(0.0).input_level == pytest.approx(600)


def test_429s_without_any_numbers_reduce_the_calls_under_way() -> None:
    governor = govern(Limits(), concurrency=10)

    fail(governor, RateLimited("429"), times=5)

    assert governor.statistics(0.0).concurrency == 7


def test_429s_with_numbers_leave_the_calls_under_way_alone() -> None:
    governor = govern(Limits(), concurrency=10)

    fail(governor, RateLimited("429", retry_after=1.0))

    assert governor.statistics(0.0).concurrency == 10


def test_an_answer_in_between_makes_the_next_429_the_first_in_a_row() -> None:
    governor = govern(Limits())
    now = 0.0
    for _ in range(5):
        now += 30.0
        fail(governor, RateLimited("429"), now)
        assert governor.paused_until is not None
        assert governor.paused_until <= now + 1.0
        governor.answered(send(governor, now + 20.0), None, None, now + 20.0)


def test_an_overloaded_provider_gets_fewer_calls_and_then_one_more_each_window() -> None:
    governor = govern(Limits(), concurrency=10)
    fail(governor, Overloaded("529"), times=10)
    fewer = governor.statistics(0.0).concurrency

    for _ in range(2):
        governor.answered(send(governor), None, None, 0.0)

    assert (fewer, governor.statistics(0.0).concurrency) == (7, 9)
    assert governor.paused_until is None


# Passing one that waits for tokens.


def test_small_calls_that_pass_a_large_one_get_half_of_what_comes_in_until_it_goes() -> None:
    governor = govern(Limits(input_tokens=6_000), 10_000)
    send(governor, cost=Cost(6_000, 1))
    large, small = Cost(4_000, 1), Cost(50, 1)
    now, passed = 0.0, 0
    while not isinstance(governor.admit(large, now), Reservation):
        while isinstance(governor.admit(small, now, passes=True), Reservation):
            passed += 1
        now += 1.0

    # Alone it would wait 40 s.
    assert now == pytest.approx(80.0, abs=1.0)
    assert passed * 50 == pytest.approx(4_000, abs=100)


def test_a_call_of_more_than_fits_is_not_passed_for_ever() -> None:
    governor = govern(Limits(input_tokens=6_000), 10_000)
    send(governor, cost=Cost(6_000, 1))
    now = 0.0
    while not isinstance(governor.admit(Cost(10_000, 1), now), Reservation):
        while isinstance(governor.admit(Cost(10, 1), now, passes=True), Reservation):
            pass
        now += 0.5

    assert now == pytest.approx(120.0, abs=1.0)


def test_a_call_that_may_not_pass_yet_is_told_a_time_at_which_it_may() -> None:
    governor = govern(Limits(input_tokens=6_000), 10_000)
    send(governor, cost=Cost(6_000, 1))
    governor.admit(Cost(4_000, 1), 0.0)

    again = governor.admit(Cost(100, 1), 1.0, passes=True)

    assert again == pytest.approx(2.0)
    assert isinstance(governor.admit(Cost(100, 1), 2.0, passes=True), Reservation)


def test_when_the_call_that_waited_is_gone_nothing_is_kept_from_the_next() -> None:
    governor = govern(Limits(input_tokens=6_000), 10_000)
    send(governor, cost=Cost(6_000, 1))
    governor.admit(Cost(4_000, 1), 0.0)

    send(governor, 10.0, Cost(1_000, 1))
    send(governor, 20.0, Cost(1_000, 1))
    governor.admit(Cost(4_000, 1), 20.0)

    assert governor.admit(Cost(100, 1), 21.0, passes=True) == pytest.approx(22.0)


# What is heard before a call ends.


def test_what_a_response_says_when_it_begins_counts_before_it_ends() -> None:
    governor = govern(Limits(requests=60, input_tokens=6_000))
    reservation = send(governor)
    said = RateLimits(input_tokens=Allowance(limit=6_000, remaining=500))

    governor.heard(reservation, said, 1.0)

    assert governor.statistics(1.0).input_level == pytest.approx(600, abs=100)


def test_a_limit_heard_of_twice_counts_once() -> None:
    governor = govern(Limits(requests=60, input_tokens=6_000))
    reservation = send(governor)
    said = RateLimits(input_tokens=Allowance(limit=6_000, remaining=500))
    governor.heard(reservation, said, 1.0)

    governor.answered(reservation, Usage(input_tokens=1_000), said, 21.0)

    assert governor.statistics(21.0).input_level == pytest.approx(2_600, abs=100)


# The breaker.


@pytest.mark.parametrize(
    "error", [ProviderFailed("500"), ProviderConnection("refused"), ProviderTimeout("-")]
)
def test_five_failures_in_a_row_open_the_breaker_until_a_probe_works(error: ProviderError) -> None:
    governor = govern()

    fail(governor, error, times=5)
    refusal = governor.refusal(1.0)
    waits = governor.admit(COST, 1.0)
    probe = send(governor, 5.0)
    beside = governor.admit(COST, 6.0)
    governor.answered(probe, None, None, 7.0)

    assert isinstance(refusal, ProviderUnavailable)
    assert refusal.__cause__ is error
    assert (waits, beside, probe.is_probe) == (5.0, 5.0 + PROBE_SECONDS, True)
    assert not send(governor, 7.0).is_probe
    assert governor.refusal(7.0) is None


@pytest.mark.parametrize("error", [Overloaded("529"), RateLimited("429", retry_after=0.1)])
def test_a_provider_that_is_only_busy_does_not_open_the_breaker(error: ProviderError) -> None:
    governor = govern(Limits())

    fail(governor, error, times=20)

    assert governor.statistics(0.0).breaker == "closed"


@pytest.mark.parametrize("error", [InvalidRequest("-"), ContextOverflow("-"), Refused("-"), BadOutput("-")])
def test_a_fault_of_the_request_shows_that_the_provider_works(error: ProviderError) -> None:
    governor = govern(Limits())
    fail(governor, ProviderFailed("500"), times=4)

    fail(governor, error)
    fail(governor, ProviderFailed("500"), times=4)

    assert governor.statistics(0.0).breaker == "closed"


def test_a_probe_that_is_given_up_lets_the_next_call_be_one() -> None:
    governor = govern()
    fail(governor, NotAuthorized("401"))

    governor.cancelled(send(governor, 60.0), 61.0, sent=True)

    assert send(governor, 61.0).is_probe


def test_a_probe_that_finds_the_provider_overloaded_has_found_out_nothing() -> None:
    governor = govern()
    fail(governor, SpendLimitReached("spent"))

    governor.failed(send(governor, 600.0), Overloaded("529"), None, 600.0)

    assert governor.admit(COST, 600.0) == 605.0
    assert isinstance(getattr(governor.refusal(601.0), "__cause__", None), SpendLimitReached)


def test_a_probe_that_gets_a_429_has_found_a_provider_that_works() -> None:
    governor = govern()
    fail(governor, ProviderFailed("500"), times=5)

    governor.failed(send(governor, 5.0), RateLimited("429", retry_after=3.0), None, 5.0)

    assert governor.statistics(5.0).breaker == "closed"
    assert governor.admit(COST, 5.0) == 8.0


# Trying again.


@pytest.mark.parametrize(
    "error, again",
    [
        (RateLimited("-"), True),
        (Overloaded("-"), True),
        (ProviderTimeout("-"), True),
        (ProviderConnection("-"), True),
        (ProviderFailed("-"), True),
        (NotAuthorized("-"), False),
        (SpendLimitReached("-"), False),
        (InvalidRequest("-"), False),
        (ContextOverflow("-"), False),
        (Refused("-"), False),
        (BadOutput("-"), False),
        (ProviderUnavailable("-"), False),
        (ProviderError("-"), False),
        (ValueError("-"), False),
    ],
)
def test_only_what_may_succeed_later_is_tried_again(error: Exception, again: bool) -> None:
    assert is_retryable(error) is again
    assert math.isfinite(govern().retry_at(error, 1, 0.0)) is again


def test_the_wait_before_trying_again_doubles_from_half_a_second_to_eight() -> None:
    governor = govern()

    for attempt, seconds in enumerate([0.5, 1, 2, 4, 8, 8, 8], start=1):
        waited = governor.retry_at(Overloaded("529"), attempt, 10.0) - 10.0
        assert 0.75 * seconds <= waited <= seconds


# Clocks.


def test_a_clock_that_goes_back_stands_still() -> None:
    governor = govern(now=1_000.0)
    for _ in range(6):
        send(governor, 1_000.0)

    again = governor.admit(COST, 400.0)

    assert again == pytest.approx(410.0)
    send(governor, 410.0)


def test_a_pause_lasts_as_long_when_the_clock_goes_back() -> None:
    governor = govern(now=1_000.0)
    fail(governor, RateLimited("429", retry_after=10.0), 1_000.0)

    assert governor.admit(COST, 500.0) == 510.0
    assert governor.paused_until == 510.0


def test_a_clock_that_leaps_forward_fills_the_buckets_and_no_more() -> None:
    governor = govern()
    send(governor)

    assert levels(governor.statistics(1e9)) == (60, 6_000, 600)


def test_statistics_count_what_happened() -> None:
    governor = govern(Limits(), concurrency=10)
    fail(governor, RateLimited("429", retry_after=0.1))
    fail(governor, Overloaded("529"), 20.0)
    fail(governor, ProviderFailed("500"), 20.0)
    governor.answered(send(governor, 20.0), Usage(10, 5), None, 20.0)

    found = governor.statistics(20.0)

    assert (found.rate_limited, found.overloaded, found.failed, found.answered) == (1, 1, 1, 1)
    assert (found.limits, levels(found)) == (Limits(), (None, None, None))
    assert (found.in_flight, found.concurrency, found.breaker) == (0, 8, "closed")
