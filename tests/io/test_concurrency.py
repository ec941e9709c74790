"""The number of calls under way: less after trouble, more after every window without."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.errors import SpecError
from avm.io.concurrency import Concurrency


def test_it_begins_at_its_cap() -> None:
    assert Concurrency(100).allowed == 100


def test_trouble_leaves_seven_tenths() -> None:
    concurrency = Concurrency(100)

    concurrency.troubled(serial=1, newest=1)

    assert concurrency.allowed == 70


def test_trouble_of_calls_that_were_under_way_together_counts_once() -> None:
    concurrency = Concurrency(100)

    for serial in range(1, 51):
        concurrency.troubled(serial, newest=50)
    together = concurrency.allowed
    concurrency.troubled(serial=51, newest=60)

    assert (together, concurrency.allowed) == (70, 49)


def test_a_window_without_trouble_adds_one() -> None:
    concurrency = Concurrency(100)
    concurrency.troubled(serial=1, newest=10)

    for serial in range(2, 11):
        concurrency.answered(serial, newest=20)
    before = concurrency.allowed
    for serial in range(11, 21):
        concurrency.answered(serial, newest=40)

    assert (before, concurrency.allowed) == (70, 71)


def test_it_grows_to_its_cap_and_no_further() -> None:
    concurrency = Concurrency(10)
    concurrency.troubled(1, 1)

    for serial in range(2, 30):
        concurrency.answered(serial, newest=serial)

    assert concurrency.allowed == 10


def test_one_call_may_always_be_under_way() -> None:
    concurrency = Concurrency(3)

    for serial in range(1, 20):
        concurrency.troubled(serial, newest=serial)

    assert concurrency.allowed == 1


def test_a_cap_below_one_is_refused() -> None:
    with pytest.raises(SpecError, match="cap must be a number of calls of 1 or more, got 0"):
        Concurrency(0)


@given(cap=st.integers(1, 50), ends=st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=200))
def test_it_stays_between_one_and_its_cap(cap: int, ends: list[tuple[bool, int]]) -> None:
    concurrency = Concurrency(cap)

    for newest, (good, before) in enumerate(ends, start=10):
        (concurrency.answered if good else concurrency.troubled)(newest - before, newest)
        assert 1 <= concurrency.allowed <= cap
