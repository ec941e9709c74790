"""When the breaker opens and closes, and what calls are told while it is open."""

from __future__ import annotations

import pytest

from avm.errors import (
    NotAuthorized,
    ProviderError,
    ProviderFailed,
    ProviderTimeout,
    ProviderUnavailable,
    SpendLimitReached,
)
from avm.io.breaker import PROBE_SECONDS, Breaker

FAILED = ProviderFailed("HTTP 500", "acme", "tiny-1", "req_7")


def opened(error: ProviderError = FAILED, now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(0, error, now)
    return breaker


def test_four_failures_in_a_row_do_not_open_it_and_the_fifth_does() -> None:
    breaker = Breaker()

    states = []
    for _ in range(5):
        breaker.failed(breaker.generation, FAILED, 0.0)
        states.append(breaker.state)

    assert states == ["closed"] * 4 + ["open"]
    assert breaker.ready(1.0) == 5.0


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker()

    for _ in range(10):
        breaker.failed(0, FAILED, 0.0)
        breaker.worked(0)

    assert breaker.state == "closed"


def test_when_its_time_is_over_exactly_one_call_goes_as_a_probe() -> None:
    breaker = opened()

    assert breaker.ready(4.9) == 5.0
    assert breaker.ready(5.0) == 5.0
    assert breaker.sent(5.0)
    assert (breaker.state, breaker.ready(6.0)) == ("half-open", 5.0 + PROBE_SECONDS)


def test_a_probe_that_works_closes_it_and_failures_count_from_the_start() -> None:
    breaker = opened()
    breaker.sent(5.0)

    breaker.worked(breaker.generation)
    for _ in range(4):
        breaker.failed(breaker.generation, FAILED, 6.0)

    assert breaker.state == "closed"
    assert not breaker.sent(6.0)


def test_each_probe_that_fails_doubles_the_time_up_to_a_minute() -> None:
    breaker, now, seconds = opened(), 0.0, []
    for _ in range(6):
        seconds.append(breaker.ready(now) - now)
        now = breaker.ready(now)
        breaker.sent(now)
        breaker.failed(breaker.generation, FAILED, now)

    assert seconds == [5, 10, 20, 40, 60, 60]


def test_after_it_has_been_closed_the_time_begins_at_five_seconds_again() -> None:
    breaker = opened()
    for _ in range(3):
        breaker.sent(100.0)
        breaker.failed(breaker.generation, FAILED, 100.0)
    breaker.sent(200.0)
    breaker.worked(breaker.generation)

    for _ in range(5):
        breaker.failed(breaker.generation, FAILED, 200.0)

    assert breaker.ready(200.0) == 205.0


def test_calls_sent_before_it_opened_neither_open_nor_close_nor_lengthen_it() -> None:
    breaker = opened()

    breaker.worked(0)
    breaker.failed(0, FAILED, 4.0)
    still = breaker.ready(4.0)
    breaker.sent(5.0)
    breaker.worked(0)
    breaker.failed(0, FAILED, 6.0)
    half_open = breaker.state
    breaker.worked(breaker.generation)
    for _ in range(50):
        breaker.failed(0, FAILED, 7.0)

    assert (still, half_open, breaker.state) == (5.0, "half-open", "closed")


def test_a_probe_that_was_given_up_makes_way_for_the_next_one() -> None:
    breaker = opened()
    breaker.sent(5.0)

    breaker.dropped(breaker.generation, 6.0)

    assert breaker.ready(6.0) == 6.0
    assert breaker.sent(6.0)


def test_a_probe_that_hangs_makes_way_for_the_next_one() -> None:
    breaker = opened()
    breaker.sent(5.0)

    after = breaker.ready(5.0)
    is_probe = breaker.sent(after)
    breaker.worked(breaker.generation)

    assert (after, is_probe, breaker.state) == (5.0 + PROBE_SECONDS, True, "closed")


def test_probes_that_hang_come_no_faster_than_those_that_fail() -> None:
    breaker, now = opened(), 5.0
    for _ in range(2):
        breaker.sent(now)
        breaker.failed(breaker.generation, FAILED, now)
        now = breaker.ready(now)
    breaker.sent(now)

    assert breaker.ready(now) == now + 20.0


def test_the_late_answer_of_a_probe_that_hung_closes_it_even_after_the_next_one_failed() -> None:
    breaker = opened()
    breaker.sent(5.0)
    first = breaker.generation
    breaker.sent(15.0)
    breaker.failed(breaker.generation, FAILED, 16.0)
    still = breaker.state

    breaker.worked(first)

    assert (still, breaker.state, breaker.ready(17.0)) == ("open", "closed", 17.0)


def test_the_late_answer_of_a_probe_does_not_close_it_if_the_account_was_refused_meanwhile() -> None:
    breaker = opened()
    breaker.sent(5.0)
    first = breaker.generation
    breaker.sent(15.0)
    breaker.failed(breaker.generation, SpendLimitReached("500 USD"), 16.0)

    breaker.worked(first)

    assert (breaker.state, breaker.ready(17.0)) == ("open", 616.0)


@pytest.mark.parametrize(
    "error, seconds", [(NotAuthorized("wrong key"), 60.0), (SpendLimitReached("500 USD"), 600.0)]
)
def test_a_refused_key_and_a_spend_limit_open_it_at_once(error: ProviderError, seconds: float) -> None:
    breaker = Breaker()

    breaker.failed(0, error, 0.0)

    assert (breaker.state, breaker.ready(0.0)) == ("open", seconds)


def test_a_late_call_that_knows_the_real_reason_gives_it() -> None:
    breaker = opened(ProviderTimeout("no answer in 60 s"))

    breaker.failed(0, SpendLimitReached("500 USD"), 2.0)
    breaker.failed(0, SpendLimitReached("500 USD"), 4.0)

    refusal = breaker.refusal(4.0)
    assert refusal is not None
    assert isinstance(refusal.__cause__, SpendLimitReached)
    assert breaker.ready(4.0) == 602.0


def refused(error: ProviderError) -> ProviderUnavailable:
    breaker = opened(error)
    refusal = breaker.refusal(1.0)
    assert refusal is not None
    return refusal


def test_while_it_is_open_calls_are_told_what_failed_and_when_it_is_tried_again() -> None:
    refusal = refused(FAILED)

    assert refusal.__cause__ is FAILED
    assert (refusal.provider, refusal.model, refusal.request_id) == ("acme", "tiny-1", "req_7")
    assert str(refusal) == (
        "acme is not asked for tiny-1 now: 5 calls in a row failed, the last with ProviderFailed: HTTP 500. It is "
        "asked again in 4.0 s. Wait, or name other models in fallbacks=."
    )


def test_a_refused_key_says_so_and_what_to_do() -> None:
    assert str(refused(NotAuthorized("invalid x-api-key", "acme", "tiny-1"))) == (
        "acme refuses the key for tiny-1 (invalid x-api-key). Check that the key is right and may use the model. It is "
        "asked again in 59.0 s."
    )


def test_a_spend_limit_says_so_and_what_to_do() -> None:
    assert str(refused(SpendLimitReached("500 USD this month"))) == (
        "the provider serves calls no more: the account's spending limit is reached (500 USD this month). Raise the "
        "limit with the provider, or use another account. It is asked again in 599.0 s."
    )


def test_nobody_is_refused_who_may_be_the_probe_or_can_wait_for_it() -> None:
    breaker = opened()

    assert Breaker().refusal(0.0) is None
    assert breaker.refusal(5.0) is None
    breaker.sent(5.0)
    assert breaker.refusal(6.0) is None
