"""The garbage collector is tuned while a VM runs, and put back."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from avm.vm.collector import YOUNG, CollectorTuning


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_the_collector_is_put_back_when_the_last_holder_leaves() -> None:
    gc.set_threshold(700, 10, 10)
    tuning = CollectorTuning()

    tuning.hold()
    tuning.hold()
    assert gc.get_threshold()[0] == YOUNG
    assert gc.get_freeze_count() > 0
    tuning.release()
    assert gc.get_threshold()[0] == YOUNG
    tuning.release()

    assert gc.get_threshold() == (700, 10, 10)
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("chosen", [(0, 10, 10), (YOUNG * 2, 10, 10)])
def test_a_choice_of_the_program_is_kept(chosen: tuple[int, int, int]) -> None:
    gc.set_threshold(*chosen)
    tuning = CollectorTuning()

    tuning.hold()

    assert gc.get_threshold() == chosen
    tuning.release()
    assert gc.get_threshold() == chosen


def test_what_the_program_froze_stays_frozen() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    tuning = CollectorTuning()

    tuning.hold()
    tuning.release()

    assert gc.get_freeze_count() == frozen
