"""The pause after a 429, and the ramp after the pause."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.io.pause import Pause


def paused(seconds: float | None = 10.0, seed: int = 1) -> Pause:
    """One that began at 0, with the 429 of the first call."""
    pause = Pause(Random(seed))
    pause.begin(serial=1, newest=1, retry_after=seconds, now=0.0)
    return pause


def sendings(pause: Pause, limit: int, until: float) -> list[float]:
    """When calls go that all want to go at once."""
    now, times = 0.0, []
    while now < until:
        ready = pause.ready(now, limit, 0, 100)
        if ready > now:
            now = ready
            continue
        times.append(now)
        pause.sent(now, limit)
        if not pause._ramps:
            break
    return times


def test_without_a_429_nobody_waits() -> None:
    pause = Pause(Random(1))

    pause.sent(1.0, 60)

    assert pause.ready(1.0, 60, 50, 100) == 1.0


@pytest.mark.parametrize("said, seconds", [(10.0, 10.0), (0.0, 0.05), (-3.0, 0.05), (3_600.0, 60.0)])
def test_it_lasts_as_long_as_the_provider_says_within_bounds(said: float, seconds: float) -> None:
    assert paused(said).ready(0.01, 60, 0, 100) == seconds


def test_if_the_provider_does_not_say_it_doubles_with_each_429_in_a_row() -> None:
    pause, now = Pause(Random(1)), 0.0
    for serial, whole in enumerate([1, 2, 4, 8, 16, 32, 60, 60], start=1):
        pause.begin(serial, serial, None, now)
        assert 0.75 * whole <= pause.until - now <= whole
        now = pause.until


def test_an_answer_to_a_call_sent_after_the_pause_ends_the_row() -> None:
    pause = paused(None)
    pause.begin(2, 2, None, 10.0)

    pause.answered(2)  # sent before the second pause
    pause.begin(3, 3, None, 20.0)
    in_a_row = pause.until - 20.0
    pause.answered(4)
    pause.begin(5, 5, None, 30.0)

    assert in_a_row > 2.0
    assert pause.until - 30.0 <= 1.0


def test_late_429s_of_calls_sent_before_it_do_not_lengthen_it() -> None:
    pause = Pause(Random(1))
    pause.begin(serial=1, newest=50, retry_after=None, now=0.0)
    until = pause.until

    for serial in range(2, 51):
        pause.begin(serial, 50, None, 0.2)

    assert pause.until == until


def test_late_429s_lengthen_it_to_what_they_say() -> None:
    pause = Pause(Random(1))
    pause.begin(serial=1, newest=50, retry_after=2.0, now=0.0)

    pause.begin(2, 50, 1.0, 0.5)
    shorter = pause.until
    pause.begin(3, 50, 4.0, 0.5)

    assert (shorter, pause.until) == (2.0, 4.5)


def test_after_it_the_rate_begins_at_a_tenth_and_doubles_every_second() -> None:
    times = sendings(paused(), limit=6_000, until=30.0)

    def in_second(n: int) -> int:
        return sum(10.0 + n <= time < 11.0 + n for time in times)

    # A tenth of 100 a second, doubling in 0.8 to 1.2 s.
    assert times[0] == 10.0
    assert 11 <= in_second(0) <= 21
    assert all(1.6 <= in_second(n + 1) / in_second(n) <= 2.6 for n in range(5))


def test_a_small_limit_does_not_make_the_ramp_long() -> None:
    pause = paused()

    assert sendings(pause, limit=5, until=60.0)[1] < 19.0


def test_the_ramp_ends_when_it_is_no_constraint() -> None:
    pause = paused()

    assert pause.ready(23.0, 60, 0, 100) == 23.0
    pause.sent(23.0, 60)
    assert pause.ready(23.0, 60, 1, 100) == 23.0


def test_where_no_rate_is_known_the_number_of_calls_under_way_grows() -> None:
    pause = paused()

    assert pause.ready(10.0, None, 9, 100) == 10.0
    later = pause.ready(10.0, None, 39, 100)
    assert 11.6 <= later <= 12.4
    assert pause.ready(later + 0.001, None, 39, 100) == later + 0.001
    assert pause.ready(15.0, None, 99, 100) == 15.0


def test_one_call_may_go_at_the_start_of_the_ramp_however_few_are_allowed() -> None:
    assert paused().ready(10.0, None, 0, 1) == 10.0


@given(seed=st.integers(), other=st.integers())
def test_jitter_comes_from_the_random_source_given(seed: int, other: int) -> None:
    def times(of: int) -> list[float]:
        return sendings(paused(None, of), limit=60, until=12.0)

    assert times(seed) == times(seed)
    assert seed == other or times(seed) != times(other) or Random(seed).random() == Random(other).random()
