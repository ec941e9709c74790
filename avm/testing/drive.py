"""Driving a simulation: running its loop until something holds, is done, or so much virtual time has passed."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from avm.actors.kernel import Destination
from avm.errors import SimulationEndless, SimulationError
from avm.supervision import ChildSpec
from avm.testing.choices import Halt
from avm.testing.look import Onlooker
from avm.testing.world import World

T = TypeVar("T")

WITHIN = 3600.0
"""Virtual seconds that the waiting calls wait at most, unless told otherwise."""


class Driver(Onlooker):
    """The side of a simulation that lets it go on. In between nothing moves."""

    def __init__(self, tree: ChildSpec | None, world: World) -> None:
        super().__init__(tree, world)
        # It was stopped in the middle of something: it can be looked at, and only end.
        self._halted = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop of the simulation and return its result; then settle.

        Raises:
            SimulationStuck: it waits for what will never come.
        """

        def complete() -> T:
            result: T = self.world.loop.run_until_complete(work)
            self.world.loop.settle()
            return result

        try:
            return self._drive(complete)
        finally:
            work.close()

    def settle(self) -> None:
        """Let everything happen that happens at this moment; no time passes."""
        self._drive(self.world.loop.settle)

    def advance(self, seconds: float) -> None:
        """Let virtual time pass, and everything happen that is due; each at its own time."""
        if not seconds >= 0:
            raise SimulationError(f"time cannot go back: seconds must be 0 or more, got {seconds!r}.")
        self._advance_to(self.now + seconds)

    def _advance_to(self, when: float) -> None:
        self._drive(lambda: self.world.loop.run_until(when))

    # Everything that runs the loop goes through here.
    def _drive(self, step: Callable[[], T]) -> T:
        if self._halted:
            raise SimulationError("this simulation was stopped in the middle of something and cannot go on.")
        try:
            return step()
        except Halt as halt:
            self._halted = True
            raise halt.error from None
        except SimulationEndless:
            self._halted = True
            raise
        finally:
            refused = self.world.loop.guard.refused
            if refused:
                first = refused[0]
                refused.clear()
                raise first

    def run_until_idle(self, limit: float = WITHIN) -> None:
        """Run until no actor is ready and no handler waits, or all wait for what will never come.

        Timers alone keep nobody busy: a restart that waits for its backoff happens when time passes (`advance`).

        Raises:
            SimulationError: they are still busy after `limit` virtual seconds.
        """
        end = self.now + limit
        self.settle()
        while self.is_busy():
            deadline = self.world.loop.next_deadline()
            if deadline is None:
                return
            if deadline > end:
                raise SimulationError(f"still busy after {limit:g} s: {self._busy_text()}.")
            self._advance_to(deadline)

    def is_busy(self) -> bool:
        """Tell whether an actor is ready, or inside a handler that waits."""
        scheduler = self.kernel.scheduler
        return not scheduler.is_quiet() or any(
            worker.runnable is not None and worker.runnable.is_alive()  # type: ignore[attr-defined]
            for worker in scheduler.workers.values()
        )

    def eventually(self, condition: Callable[[], object], within: float = WITHIN) -> None:
        """Run until a condition holds; it is looked at after each moment in which something happens.

        Raises:
            AssertionError: it does not hold after `within` virtual seconds.
        """
        if not self._holds(condition, within):
            what = getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"{what} did not hold within {within:g} s (virtual): {self._busy_text()}.")

    def await_down(self, dest: Destination, within: float = WITHIN) -> object:
        """Run until an actor has ended and return its reason; at once if it has ended already.

        Raises:
            AssertionError: it still lives after `within` virtual seconds.
        """
        cell = self.cell(dest)
        if not self._holds(lambda: not cell.is_alive(), within):
            raise AssertionError(
                f"{cell.pid_text} still lives after {within:g} s (virtual): {self._doing(cell)}."
            )
        return cell.reason

    def _holds(self, condition: Callable[[], object], within: float) -> bool:
        end = self.now + within
        self.settle()
        while not condition():
            deadline = self.world.loop.next_deadline()
            if self.now >= end or deadline is None:
                return False
            self._advance_to(min(deadline, end))
        return True
