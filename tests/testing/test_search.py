"""Searching for orders in which a test fails, and making them simple; Hypothesis does as well."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from avm import Actor, ChildSpec, child, on, supervisor
from avm.testing import Choices, Deviations, Drawn, Seeded, simulate
from avm.testing.search import find_failure, search
from tests.testing.shop import CarefulClerk, CarelessClerk, Get, Note, Put, Sell, Shelf, shop


@pytest.fixture(autouse=True)
def failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AVM_FAILURES", str(tmp_path))
    return tmp_path


class Till(Actor):
    """Answers, which takes a while."""

    @on(Get)
    def get(self, request: Get) -> int:
        return 0


class LateClerk(Actor):
    """Asks at the till three times before it counts, so that the other clerk has usually finished."""

    @on(Sell)
    async def sell(self, order: Sell) -> None:
        for _ in range(3):
            await self.ask("till", Get())
        n = await self.ask("shelf", Get())
        self.tell("shelf", Put(n + 1))


def staggered() -> ChildSpec:
    """Two clerks of whom one loses an update, but only if the other is much faster than usual."""
    children = [
        child("shelf", Shelf),
        child("till", Till),
        child("clerk0", CarelessClerk),
        child("clerk1", LateClerk),
    ]
    return supervisor("shop", children=children)


def no_update_is_lost(choices: Choices) -> None:
    with simulate(staggered(), choices=choices) as sim:
        for n in range(2):
            sim.send(f"clerk{n}", Sell())
        sim.settle()
        assert sim.ask("shelf", Get()) == 2


class Relay(Actor):
    """Sends on what it is sent."""

    @on(Note)
    def relay(self, note: Note) -> None:
        self.tell("door", note)


class Door(Actor):
    """Opens and closes, and must not be closed first."""

    def __init__(self) -> None:
        self.is_open = False

    @on(Note)
    def turn(self, note: Note) -> None:
        if note.text == "close" and not self.is_open:
            raise ValueError("it is closed already")
        self.is_open = note.text == "open"


def the_door_is_opened_first(choices: Choices) -> None:
    """Two senders and one receiver: nothing says who is first (S2)."""
    relays = [child(f"relay{n}", Relay) for n in range(4)]
    with simulate(supervisor("top", children=[child("door", Door), *relays]), choices=choices) as sim:
        for n, text in enumerate(("open", "open", "close", "open")):
            sim.send(f"relay{n}", Note(text))
        sim.settle()
        assert not sim.crashes()


@pytest.mark.parametrize("test", [no_update_is_lost, the_door_is_opened_first])
def test_a_planted_ordering_bug_is_found_and_shrinks(test: object) -> None:
    assert callable(test)
    test(Deviations())

    found = find_failure(test, seeds=range(300))

    assert found is not None
    assert 1 <= len(found.deviations) <= 10
    with pytest.raises(AssertionError):
        test(Deviations(found.deviations))


def test_nothing_can_be_left_out_of_what_was_found() -> None:
    found = find_failure(no_update_is_lost, seeds=range(300))
    assert found is not None

    for number in found.deviations:
        rest = {at: choice for at, choice in found.deviations.items() if at != number}
        no_update_is_lost(Deviations(rest))


def test_hypothesis_finds_and_shrinks_it_too() -> None:
    def fails(deviations: dict[int, int]) -> bool:
        try:
            the_door_is_opened_first(Deviations(deviations))
        except AssertionError:
            return True
        return False

    plan = st.dictionaries(st.integers(0, 20), st.integers(1, 3), max_size=10)
    found = find(plan, fails, settings=settings(max_examples=2000, database=None, derandomize=True))

    assert 1 <= len(found) <= 10


@given(data=st.data())
@settings(max_examples=10)
def test_hypothesis_may_draw_every_choice(data: st.DataObject) -> None:
    with simulate(shop(CarefulClerk), choices=Drawn(lambda n: data.draw(st.integers(0, n - 1)))) as sim:
        for n in range(2):
            sim.send(f"clerk{n}", Sell())
        sim.settle()
        assert sim.ask("shelf", Get()) == 2


def test_search_fails_with_the_simplest_order_and_says_which() -> None:
    with pytest.raises(AssertionError) as caught:
        search(the_door_is_opened_first)

    notes = "\n".join(caught.value.__notes__)
    assert "Found with seed" in notes
    assert "choices=Deviations({" in notes
    assert "avm replay" in notes


def test_search_passes_if_no_order_fails() -> None:
    def holds(choices: Choices) -> None:
        with simulate(shop(CarefulClerk), choices=choices) as sim:
            sim.tell("clerk0", Sell())

    search(holds, seeds=range(20))


def test_a_bug_in_every_order_needs_no_deviation() -> None:
    def fails(choices: Choices) -> None:
        with simulate(shop(CarefulClerk), choices=choices):
            raise ValueError("always")

    found = find_failure(fails)

    assert found is not None
    assert found.deviations == {}
    assert found.attempts == 1


def test_deviations_count_too_large_choices_from_the_start() -> None:
    choices = Deviations({0: 5, 2: 1})

    assert [choices.choose(3), choices.choose(3), choices.choose(2)] == [2, 0, 1]


def test_seeded_choices_are_the_same_in_every_process() -> None:
    seeded = Seeded(7)

    assert [seeded.choose(10) for _ in range(8)] == [3, 1, 6, 0, 5, 3, 0, 5]
