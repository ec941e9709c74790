"""ActorMachine: finds what must not be, and lets what may be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from avm.actors import Actor, Request, event, on
from avm.errors import ActorExited, AskCycle, AskTimeout, NoProc
from avm.supervision import ChildSpec, child, supervisor
from avm.testing.invariants import Order, breaches
from avm.testing.simulate import simulate
from avm.testing.stateful import ActorMachine

PATHS = st.sampled_from(("shop/till", "shop/stock"))


@event(tag="machine.Move")
class Move(Request[int]):
    n: int


class Box(Actor):
    """Keeps a sum; asks its neighbour now and then, and cannot take a seven."""

    def __init__(self, neighbour: str) -> None:
        self.neighbour = neighbour
        self.sum = 0

    @on(Move)
    async def move(self, order: Move) -> int:
        if order.n == 7:
            raise ValueError("seven")
        if order.n < 0:
            self.sum += await self.ask(self.neighbour, Move(-order.n), 5.0)
        self.sum += order.n
        return self.sum


class Shop(ActorMachine):
    """Two boxes, told and asked anything, crashed and killed at any time."""

    def tree(self) -> ChildSpec:
        boxes = [child("till", Box, "shop/stock"), child("stock", Box, "shop/till")]
        return supervisor("shop", max_restarts=20, max_seconds=1.0, children=boxes)

    @rule(n=st.integers(-7, 7), where=PATHS)
    def ask_a_box(self, n: int, where: str) -> None:
        self.ask(where, Move(n), fails=(ActorExited, NoProc, AskTimeout, AskCycle))

    @rule(n=st.integers(-7, 7), where=PATHS)
    def tell_a_box(self, n: int, where: str) -> None:
        self.tell(where, Move(n))

    @precondition(lambda self: self.is_up())
    @rule(n=st.integers(-7, 7), where=PATHS)
    def ask_a_box_and_go_on(self, n: int, where: str) -> None:
        self.ask_soon(where, Move(n))


FEW = settings(max_examples=15, stateful_step_count=20)
Shop.TestCase.settings = FEW
TestShop = Shop.TestCase


def breaks(machine: type[ActorMachine], *words: str) -> None:
    """Check that a machine fails, and in these words."""
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(machine, settings=settings(FEW, phases=[Phase.generate], print_blob=False))
    text = str(caught.value)
    assert all(word in text for word in words), text


@pytest.mark.slow
def test_a_dead_holder_of_a_name_is_found() -> None:
    class Broken(Shop):
        @precondition(lambda self: self.is_up() and bool(self.actors()))
        @rule(name=st.sampled_from(("a", "b")))
        def forget_the_end(self, name: str) -> None:
            cell = self.actors()[-1]
            self.sim.kernel.names._holders[str, name] = cell
            self.sim.kernel.names._names.setdefault(cell, []).append(name)
            names = dict(self.sim.kernel.names._holders)
            self.sim.kill(cell.pid)
            self.sim.kernel.names._holders.update(names)

    breaks(Broken, "has ended (S79)")


@pytest.mark.slow
def test_an_ask_that_nobody_will_answer_is_found() -> None:
    class Silent(Actor):
        @on(Move)
        def move(self, order: Move) -> Any:
            cell: Any = self._cell
            # A kernel that forgets the reply.
            cell.letter = (cell.letter[0], cell.letter[1], None, None)
            cell.extras().deferred = cell.alert = True

    class Broken(Shop):
        def tree(self) -> ChildSpec:
            return supervisor("shop", children=[child("till", Box, "shop/stock"), child("stock", Silent)])

        @precondition(lambda self: self.is_up())
        @rule()
        def ask_for_ever(self) -> None:
            self.ask_soon("shop/till", Move(-1), None)
            self.ask_soon("shop/stock", Move(1), None)

    breaks(Broken, "lost ask")


def test_a_negative_account_is_found() -> None:
    with simulate(child("box", Box, "")) as sim:
        assert breaches(sim.kernel) == []
        sim.cell("box").extras().mail_bytes = -1

        (found,) = breaches(sim.kernel)
        sim.cell("box").extras().mail_bytes = 0

    assert "less than nothing" in found


def test_a_link_that_goes_one_way_is_found() -> None:
    with simulate(supervisor("top", children=[child("a", Box, ""), child("b", Box, "")])) as sim:
        sim.cell("a").links[sim.cell("b")] = None  # type: ignore[index]

        (found,) = breaches(sim.kernel)
        del sim.cell("a").links[sim.cell("b")]  # type: ignore[union-attr]

    assert "(S41)" in found


def test_an_event_that_overtakes_is_found() -> None:
    with simulate(child("box", Box, "")) as sim:
        order = Order(sim.trace)
        sim.kernel.suspend("app/box")
        for n in (1, 2, 3):
            sim.kernel.tell("app/box", Move(n))
        mailbox = sim.cell("box").mailbox
        assert mailbox is not None
        mailbox.reverse()
        sim.kernel.resume("app/box")
        sim.settle()

        found = order.breaches()

    assert found
    assert "handled Move before Move, which the test had sent before it (S1)" in found[0]


def test_an_event_that_was_postponed_may_be_overtaken_by_those_after_it() -> None:
    class Patient(Actor):
        ready = False

        @on(Move)
        def move(self, order: Move) -> None:
            if order.n == 0:
                self.ready = True
                self.state_changed()
            elif not self.ready:
                self.postpone()

    with simulate(child("patient", Patient)) as sim:
        order = Order(sim.trace)
        for n in (1, 2, 0, 3):
            sim.kernel.tell("app/patient", Move(n))
        sim.settle()

        assert order.breaches() == []
