"""ActorMachine: a system of actors under a Hypothesis state machine, with what must always hold checked at every step.

    class Shop(ActorMachine):
        def tree(self):
            return supervisor("shop", max_restarts=100, children=[child("till", Till), child("stock", Stock)])

        @rule(n=st.integers(1, 3))
        def sell(self, n):
            self.ask("till", Sell(n), fails=(ActorExited, NoProc))

        @invariant()
        def nothing_is_sold_twice(self):
            ...

    TestShop = Shop.TestCase

Hypothesis calls the rules in any order, on a live VM in a simulation. Besides those of the subclass there are rules
that let time pass and that crash or kill any actor of the tree. After each step all that `avm.testing.invariants`
knows is checked; at the end the VM is stopped, and every actor that was started must have ended, and every ask too.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from avm.actors.cell import Cell
from avm.actors.kernel import Destination
from avm.actors.ref import DEFAULT_TIMEOUT
from avm.supervision import ChildSpec
from avm.testing.choices import Choices
from avm.testing.faults import Fault
from avm.testing.invariants import Order, breaches
from avm.testing.simulate import Simulation, simulate
from avm.testing.strategies import moments, schedules
from avm.vm.parts import SYSTEM

PATIENCE = 3600.0
"""Virtual seconds that open asks get at the end."""


class ActorMachine(RuleBasedStateMachine):
    """Subclass it, give it a `tree`, and add rules; `ActorMachine.TestCase` of the subclass is the test.

    Class attributes:
        crashes: whether actors of the tree are crashed and killed by rules of the machine's own.
        schedule: strategy of the order in which actors run.
        faults: strategy of lists of faults, as `fault_plans`; none by default.
        may_end: the tree may give up; the remaining steps then do nothing.
        options: further arguments of `simulate`, such as a provider.
    """

    crashes: ClassVar[bool] = True
    schedule: ClassVar[st.SearchStrategy[Any]] = schedules()
    faults: ClassVar[st.SearchStrategy[list[Fault]]] = st.just([])
    may_end: ClassVar[bool] = True
    options: ClassVar[dict[str, Any]] = {}

    sim: Simulation

    def __init__(self) -> None:
        super().__init__()
        self._running = False
        self._asks: list[tuple[object, asyncio.Task[Any]]] = []
        self._order: Order | None = None

    def tree(self) -> ChildSpec | None:
        """Return the tree to run; may be drawn by an `@initialize` rule of the subclass that calls `begin` itself."""
        return None

    # Beginning and end.

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Start the simulation."""
        choices: Choices = data.draw(self.schedule, label="schedule")
        faults: list[Fault] = data.draw(self.faults, label="faults")
        self.sim = simulate(self.tree(), choices=choices, faults=faults, may_end=self.may_end, **self.options)
        self.sim.__enter__()
        self._running = True
        self._order = Order(self.sim.trace)

    def teardown(self) -> None:
        """Stop the VM; nobody may be left, and no ask without an answer."""
        if not self._running:
            return
        self._running = False
        failed: BaseException | None = None
        try:
            if self.is_up():
                self.sim.eventually(lambda: all(task.done() for _, task in self._asks), within=PATIENCE)
        except BaseException as error:
            failed = error
            raise
        finally:
            self.sim.__exit__(type(failed) if failed is not None else None, failed, None)
        self._check_end()

    def _check_end(self) -> None:
        open_asks = [request for request, task in self._asks if not task.done()]
        assert not open_asks, f"asks without an answer at the end: {open_asks!r} (S13)"
        living = [cell.pid_text for cell in self.sim.kernel.cells()]
        assert not living, f"actors that live after the end of the VM: {', '.join(living)} (S62)"
        started = {entry.actor for entry in self.sim.trace if entry.kind == "start"}
        ended = {entry.actor for entry in self.sim.trace if entry.kind == "end"}
        left = sorted(cell.pid_text for cell in started - ended if cell is not None)
        assert not left, f"actors that were started and never ended: {', '.join(left)} (S62)"

    def is_up(self) -> bool:
        """Tell whether the VM runs; its tree may have given up."""
        return self._running and self.sim.ended is None and self.sim.kernel.root.is_alive()

    # For rules of the subclass.

    def tell(self, dest: Destination, event: object) -> None:
        """Send an event, and let happen what follows at once."""
        if self.is_up():
            self.sim.tell(dest, event)

    def ask(
        self,
        dest: Destination,
        request: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        fails: tuple[type[BaseException], ...] = (),
    ) -> Any:
        """Ask and return the reply, or the error if it is one of `fails`; None if the VM has ended."""
        if not self.is_up():
            return None
        try:
            return self.sim.ask(dest, request, timeout)
        except fails as error:
            return error

    def ask_soon(
        self, dest: Destination, request: Any, timeout: float | None = DEFAULT_TIMEOUT
    ) -> asyncio.Task[Any]:
        """Begin to ask; the next steps happen meanwhile. The task must be done at the end, one way or another."""
        task = self.sim.loop.create_task(_settled(self.sim.kernel.ask(dest, request, timeout)))
        self._asks.append((request, task))
        self.sim.settle()
        return task

    def actors(self) -> list[Cell]:
        """List the living actors but for the VM's own, in the order of their start."""
        found = [cell for cell in self.sim.kernel.cells() if cell.path.split("/")[0] != SYSTEM]
        return sorted(found, key=lambda cell: cell.serial)

    # The machine's own steps.

    @precondition(lambda self: self.is_up())
    @rule(seconds=moments())
    def time_passes(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.sim.advance(seconds)

    @precondition(lambda self: self.is_up() and self.crashes and bool(self.actors()))
    @rule(which=st.integers(0, 30), killed=st.booleans())
    def an_actor_ends(self, which: int, killed: bool) -> None:
        """Crash or kill somebody."""
        living = self.actors()
        cell = living[which % len(living)]
        (self.sim.kill if killed else self.sim.crash)(cell.pid)

    @invariant()
    def everything_holds(self) -> None:
        """Check what must always hold."""
        if self._order is None or not self._running:
            return
        self.sim.settle()
        found = [*breaches(self.sim.kernel), *self._order.breaches()]
        assert not found, "; ".join(found)


# A task whose error nobody takes would complain; the error is its result.
async def _settled(asking: Any) -> Any:
    try:
        return await asking
    except Exception as error:
        return error


__all__ = ["ActorMachine"]
