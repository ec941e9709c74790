"""What the headers of a response say of limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.io.limits import Allowance, RateLimits
from avm.io.providers.headers import read_limits, read_retry_after

DATE = "Mon, 23 Nov 2026 12:00:00 GMT"


def test_a_response_that_says_nothing_has_no_limits() -> None:
    assert read_limits({"content-type": "application/json", "date": DATE}) is None


def test_all_three_limits_are_read_and_resets_count_from_the_responses_own_date() -> None:
    headers = {"date": DATE}
    for kind, limit, left, reset in (
        ("requests", "50", "49", "2026-11-23T12:00:01Z"),
        ("input-tokens", "30000", "29000", "2026-11-23T12:00:02.5Z"),
        ("output-tokens", "8000", "0", "2026-11-23T13:00:00+01:00"),
    ):
        headers[f"anthropic-ratelimit-{kind}-limit"] = limit
        headers[f"anthropic-ratelimit-{kind}-remaining"] = left
        headers[f"anthropic-ratelimit-{kind}-reset"] = reset

    assert read_limits(headers) == RateLimits(
        requests=Allowance(50, 49, 1.0),
        input_tokens=Allowance(30000, 29000, 2.5),
        output_tokens=Allowance(8000, 0, 0.0),
    )


def test_without_a_date_of_the_response_a_reset_that_is_a_date_is_not_known() -> None:
    headers = {
        "anthropic-ratelimit-requests-remaining": "3",
        "anthropic-ratelimit-requests-reset": "2026-11-23T12:00:01Z",
    }

    assert read_limits(headers) == RateLimits(requests=Allowance(None, 3, None))


@pytest.mark.parametrize(
    "reset, seconds",
    [
        ("12", 12.0),
        ("0.5", 0.5),
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("1d", 86400.0),
        ("5m", 300.0),
        ("soon", None),
        ("", None),
        ("-5", 0.0),
        ("nan", None),
    ],
)
def test_openais_names_and_spans_of_time_are_read(reset: str, seconds: float | None) -> None:
    headers = {
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-reset-requests": reset,
        "x-ratelimit-limit-tokens": "10000",
    }

    assert read_limits(headers) == RateLimits(
        requests=Allowance(500, 499, seconds), input_tokens=Allowance(10000, None, None)
    )


def test_tokens_of_no_kind_are_input_unless_input_has_its_own() -> None:
    tokens = {"anthropic-ratelimit-tokens-remaining": "7"}

    assert read_limits(tokens) == RateLimits(input_tokens=Allowance(None, 7))
    assert read_limits({**tokens, "anthropic-ratelimit-input-tokens-remaining": "5"}) == RateLimits(
        input_tokens=Allowance(None, 5)
    )


@pytest.mark.parametrize("said", ["many", "1e3", "", "9" * 5000])
def test_numbers_that_cannot_be_read_are_not_said(said: str) -> None:
    assert read_limits({"anthropic-ratelimit-requests-limit": said}) is None


def test_below_zero_is_nothing_left() -> None:
    assert read_limits({"anthropic-ratelimit-requests-remaining": "-3"}) == RateLimits(
        requests=Allowance(None, 0)
    )


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({}, None),
        ({"retry-after": "17"}, 17.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "17", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "17", "retry-after-ms": "?"}, 17.0),
        ({"retry-after": "Mon, 23 Nov 2026 12:00:30 GMT", "date": DATE}, 30.0),
        ({"retry-after": "Mon, 23 Nov 2026 11:00:30 GMT", "date": DATE}, 0.0),
        ({"retry-after": "Mon, 23 Nov 2026 12:00:30 GMT"}, None),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "later"}, None),
    ],
)
def test_how_long_to_wait_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert read_retry_after(headers) == seconds


@pytest.mark.slow
@given(wait=st.integers(0, 10**6), wrong=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))
def test_a_servers_clock_may_be_wrong_by_any_amount(wait: int, wrong: datetime) -> None:
    """Law: a reset is as far away as the server says, whatever time the server believes it is."""
    now = wrong.replace(microsecond=0, tzinfo=UTC)
    headers = {
        "date": format_datetime(now, usegmt=True),
        "anthropic-ratelimit-requests-remaining": "1",
        "anthropic-ratelimit-requests-reset": (now + timedelta(seconds=wait)).isoformat(),
        "retry-after": format_datetime(now + timedelta(seconds=wait), usegmt=True),
    }

    found = read_limits(headers)

    assert found is not None
    assert found.requests == Allowance(None, 1, float(wait))
    assert read_retry_after(headers) == float(wait)


@pytest.mark.slow
@given(said=st.text(max_size=40), date=st.text(max_size=40))
def test_headers_of_any_text_are_read_or_left_out_and_never_an_error(said: str, date: str) -> None:
    """Law: what a server puts into headers cannot crash a call."""
    headers = {
        "date": date,
        "retry-after": said,
        "anthropic-ratelimit-requests-limit": said,
        "anthropic-ratelimit-requests-remaining": "1",
        "anthropic-ratelimit-requests-reset": said,
    }

    found = read_limits(headers)
    wait = read_retry_after(headers)

    assert found is not None
    assert found.requests is not None
    assert found.requests.reset is None or found.requests.reset >= 0
    assert wait is None or wait >= 0
