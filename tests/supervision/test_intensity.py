"""The restart window and the backoff, as values of a clock and a random source (S66, S73)."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.errors import SpecError
from avm.supervision import Backoff, RestartWindow


def test_s66_no_restart_is_allowed_with_an_intensity_of_zero() -> None:
    assert not RestartWindow(0, 5.0).add(1.0)


def test_s66_n_decisions_in_the_window_are_allowed_and_the_next_is_not() -> None:
    window = RestartWindow(3, 5.0)

    assert [window.add(t) for t in (1.0, 1.0, 2.0, 2.5)] == [True, True, True, False]
    assert (len(window), window.span) == (4, 1.5)


def test_s66_a_decision_exactly_as_old_as_the_window_still_counts() -> None:
    window = RestartWindow(1, 5.0)

    assert window.add(10.0)
    assert not window.add(15.0)


def test_s66_a_decision_older_than_the_window_is_forgotten() -> None:
    window = RestartWindow(1, 5.0)

    assert window.add(10.0)
    assert window.add(15.001)
    assert len(window) == 1


@given(
    limit=st.integers(0, 5),
    seconds=st.integers(1, 20),
    gaps=st.lists(st.integers(0, 8), max_size=40),
)
def test_s66_the_window_agrees_with_the_rule_written_out(limit: int, seconds: int, gaps: list[int]) -> None:
    window, kept, now = RestartWindow(limit, seconds), list[int](), 0

    for gap in gaps:
        now += gap
        kept = [t for t in kept if not t < now - seconds] + [now]
        assert window.add(now) == (len(kept) <= limit)


def test_s73_the_default_backoff_is_none() -> None:
    assert Backoff().delay(5, Random(1)) == 0


def test_s73_delays_grow_by_the_factor_up_to_the_maximum() -> None:
    backoff = Backoff(min=0.5, max=3.0, factor=2.0)

    assert [backoff.delay(n, Random(1)) for n in (1, 2, 3, 4, 5000)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@given(failures=st.integers(1, 10_000), seed=st.integers(), jitter=st.floats(0, 1))
def test_s73_jitter_only_shortens_and_comes_from_the_random_source_given(
    failures: int, seed: int, jitter: float
) -> None:
    plain = Backoff(min=0.25, max=8.0)
    backoff = Backoff(min=0.25, max=8.0, jitter=jitter)

    delay = backoff.delay(failures, Random(seed))

    whole = plain.delay(failures, Random(seed))
    assert whole * (1 - jitter) <= delay <= whole
    assert delay == backoff.delay(failures, Random(seed))


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"min": -1}, "Backoff: min must be seconds, 0 or more, got -1."),
        ({"min": 5, "max": 1}, "Backoff: max must be seconds, not less than min, got 1."),
        ({"min": 1, "factor": 0.5}, "Backoff: factor must be 1 or more, got 0.5."),
        ({"min": 1, "jitter": 2}, "Backoff: jitter must be between 0 and 1, got 2."),
    ],
)
def test_s73_wrong_backoffs_are_rejected(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError) as caught:
        Backoff(**fields)

    assert str(caught.value) == text
