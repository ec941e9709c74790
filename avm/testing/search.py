"""Searching for an order in which a test fails, and making it as simple as it can be.

    def no_update_is_lost(choices):
        with simulate(tree, choices=choices) as sim:
            ...
    search(no_update_is_lost, seeds=range(500))

A failing schedule is a list of choices, most of which do not matter. What counts are its deviations, the decisions in
which not the first in line was taken. They are left out one after the other, by halves first, as long as the test goes
on failing in the same way; what is left is told. It works for any test that is a function of its choices, and needs no
Hypothesis; under Hypothesis, draw `Deviations` as a dictionary, which shrinks as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from avm.testing.choices import Choices, Deviations, Seeded

Test = Callable[[Choices], object]

ATTEMPTS = 400
"""How often a failing test is run again, at most, to make it simpler."""


@attrs.frozen
class Failure:
    """A failure that was found.

    Attributes:
        seed: with which it was found; deviations: what is left of that order, by the number of the decision.
        error: what the test fails with under these.
        attempts: how often the test was run for it.
    """

    seed: int
    deviations: dict[int, int]
    error: BaseException
    attempts: int


class _Noted:
    """Choices that are noted as they are made."""

    def __init__(self, source: Choices) -> None:
        self._source = source
        self.taken: list[int] = []

    def choose(self, n: int) -> int:
        chosen = self._source.choose(n)
        self.taken.append(chosen)
        return chosen


def search(test: Test, seeds: Iterable[int] = range(200)) -> None:
    """Run a test under many orders; if it fails under one, fail with the simplest order in which it does.

    Raises:
        Exception: what the test raised under that order, with a note that says which.
    """
    found = find_failure(test, seeds)
    if found is not None:
        found.error.add_note(
            f"Found with seed {found.seed}. {len(found.deviations)} decisions are not first come, first served: "
            f"choices=Deviations({found.deviations!r})."
        )
        raise found.error


def find_failure(test: Test, seeds: Iterable[int] = range(200)) -> Failure | None:
    """Run a test under many orders and return the first failure, made simple; None if it always passes."""
    for tried, seed in enumerate(seeds, 1):
        noted = _Noted(Seeded(seed))
        error = _error_of(test, noted)
        if error is not None:
            return _simplest(test, seed, noted.taken, error, tried)
    return None


def _error_of(test: Test, choices: Choices) -> BaseException | None:
    try:
        test(choices)
    except Exception as error:
        return error
    return None


# First without any deviation, then by halves, quarters and so on, as delta debugging does; then the smallest choices.
def _simplest(test: Test, seed: int, taken: list[int], error: BaseException, tried: int) -> Failure:
    runs = 0

    def fails(deviations: dict[int, int]) -> bool:
        nonlocal error, runs
        if runs >= ATTEMPTS:
            return False
        runs += 1
        found = _error_of(test, Deviations(deviations))
        if type(found) is not type(error):
            return False
        assert found is not None
        error = found
        return True

    kept = {number: chosen for number, chosen in enumerate(taken) if chosen}
    if fails({}):
        kept = {}
    kept = _without(kept, fails)
    for number in kept:
        for smaller in range(1, kept[number]):
            if fails({**kept, number: smaller}):
                kept[number] = smaller
                break
    # The last run was perhaps one that passed: the failure file is to tell of the simplest that fails.
    runs = 0
    fails(kept)
    return Failure(seed, kept, error, tried)


def _without(kept: dict[int, int], fails: Callable[[dict[int, int]], bool]) -> dict[int, int]:
    size = len(kept)
    while size:
        start = 0
        while start < len(kept):
            numbers = list(kept)
            gone = set(numbers[start : start + size])
            rest = {number: chosen for number, chosen in kept.items() if number not in gone}
            if fails(rest):
                kept = rest
            else:
                start += size
        size //= 2
    return kept
