"""The world of a simulation: what the kernel, the provider and the tools in it ask and tell, in one place.

It holds the schedule, the trace and the faults. Whoever is simulated calls it at the points where something can be
chosen, seen or broken.
"""

from __future__ import annotations

import asyncio
import types
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterable
from functools import partial
from types import CoroutineType
from typing import Any

import attrs

from avm.actors.cell import Cell
from avm.actors.hooks import CrashReport, Report
from avm.actors.kernel import Kernel
from avm.actors.state import IDLE, RESTING
from avm.errors import SimulatedCrash, StartError
from avm.io.dispatch import Work
from avm.io.request import CallTool
from avm.supervision import ProgressReport
from avm.testing.choices import Schedule
from avm.testing.faults import ClockStep, Crash, Fault, FaultPlan, Kill
from avm.testing.loop import SimulatedLoop
from avm.testing.outside import SimulatedTool
from avm.testing.trace import Trace


class World:
    """What one simulation is made of."""

    def __init__(self, schedule: Schedule, loop: SimulatedLoop, faults: Iterable[Fault] = ()) -> None:
        self.schedule = schedule
        self.loop = loop
        self.plan = FaultPlan(faults)
        self.trace = Trace(loop.time, schedule)
        self.reports: list[Report] = []
        self.start_counts: Counter[str] = Counter()
        # Who was taken from the ready queue last, and how many events it had handled then.
        self.runs: tuple[Cell, int] | None = None
        self.kernel: Kernel | None = None
        self._starting: dict[Cell, None] = {}
        self._at_events = self.plan.has("event")
        self._at_waits = self.plan.has("wait")
        self._at_arrivals = self.plan.has("arrival")
        loop.on_answer = lambda what: self.trace.add("call", None, what)
        for step in self.plan.of("clock"):
            assert isinstance(step, ClockStep)
            loop.call_at(step.at, self._step_clock, step)

    # Events.

    def sent(self, path: str, sender: Cell | None, event: object) -> None:
        """An event is on its way to whoever lives at a path."""
        self.trace.add("send", path, event, sender)

    def handle(self, cell: Cell, event: Any, handler: Callable[[Any, Any], Any]) -> Any:
        """An actor handles an event: look, break what is to be broken, and go on."""
        letter = cell.letter
        self.trace.add("handle", cell, event, letter[1] if letter is not None else None)
        if self._at_events:
            for fault in self.reach("event", cell.path):
                if isinstance(fault, Crash):
                    raise SimulatedCrash(f"{cell.pid_text} was made to crash at event {fault.event}.")
                self._strike(cell, fault)
                if not cell.is_alive():
                    raise SimulatedCrash(f"{cell.pid_text} was killed before it handled this.")
        if event.__class__ is Work and isinstance(event.request, CallTool):
            event = self._with_tool(event)
        result = handler(cell.actor, event)
        if self._at_waits and result.__class__ is CoroutineType and self.plan.concerns("wait", cell.path):
            return self._waiting(cell, result)
        return result

    def _with_tool(self, work: Work) -> Work:
        call: Any = work.request
        return Work(work.serial, attrs.evolve(call, tool=SimulatedTool(call.tool, self)), work.asked)

    # Runs a handler as `await` does, and looks at each place where it waits.
    async def _waiting(self, cell: Cell, work: Coroutine[Any, Any, Any]) -> Any:
        return await self._steps(cell, work)

    @types.coroutine
    def _steps(self, cell: Cell, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = lambda: work.send(None)  # noqa: E731
        while True:
            try:
                awaited = step()
            except StopIteration as stop:
                return stop.value
            for fault in self.reach("wait", cell.path):
                self._strike(cell, fault)
            try:
                yield awaited
            except BaseException as error:
                step = _throwing(work, error)
            else:
                step = lambda: work.send(None)  # noqa: E731

    def _strike(self, cell: Cell, fault: Fault) -> None:
        if isinstance(fault, Kill):
            cell.kill()
        elif isinstance(fault, Crash):
            cell.order_end(
                SimulatedCrash(f"{cell.pid_text} was made to crash while it waited ({fault.wait}).")
            )

    # Faults.

    def reach(self, point: str, subject: str) -> list[Fault]:
        """An occasion at a fault point: what is to go wrong."""
        found = self.plan.reach(point, subject)
        for fault in found:
            self.trace.add("fault", subject, fault)
        return found

    def _step_clock(self, step: ClockStep) -> None:
        self.plan.happened.append(step)
        self.trace.add("fault", "clock", step)
        self.loop.leap(step.seconds)

    # Lives.

    def starts_soon(self, cell: Cell) -> None:
        """An actor is about to be made.

        Raises:
            StartError: a fault is that it cannot be.
        """
        if self.plan.has("start") and self.reach("start", cell.path):
            reason = SimulatedCrash(f"{cell.pid_text} was made to fail at its start.")
            raise StartError(f"{cell.pid_text} did not start: {reason}", reason, (cell.path,))
        self._starting[cell] = None

    def started(self, cell: Cell) -> None:
        """An actor is up."""
        self._starting.pop(cell, None)
        self.start_counts[cell.path] += 1
        self.trace.add("start", cell, cell.pid_text)
        if self._at_arrivals and self.plan.concerns("arrival", cell.path):
            self._look_at_arrivals(cell)

    # Events of an idle actor without a limit are let in unseen; one that rests asks its limit.
    def _look_at_arrivals(self, cell: Cell) -> None:
        room = cell.limit if cell.limit is not None else 1 << 60
        cell.limit = LimitByPlan(room, partial(self.reach, "arrival", cell.path))
        cell.rest = RESTING
        if cell.state == IDLE:
            cell.state = RESTING

    def ended(self, cell: Cell) -> None:
        """An actor has ended, or did not start."""
        failed = self._starting.pop(cell, cell) is None
        self.trace.add("failed" if failed else "end", cell, cell.reason)

    def observe(self, report: Report) -> None:
        """Take what the VM reports; starts and ends are in the trace already."""
        self.reports.append(report)
        if not isinstance(report, (CrashReport, ProgressReport)):
            self.trace.add("report", None, report)

    # Outside calls.

    def answered(self, what: str) -> asyncio.Future[None]:
        """Wait for the answer to an outside call."""
        return self.loop.answered(what)


def _throwing(work: Coroutine[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: work.throw(error)


class LimitByPlan(int):
    """How many events may wait in a mailbox; full whenever the plan says so. `found < limit` asks it."""

    _reach: Callable[[], list[Fault]]

    def __new__(cls, room: int, reach: Callable[[], list[Fault]]) -> LimitByPlan:
        limit = super().__new__(cls, room)
        limit._reach = reach
        return limit

    def __gt__(self, found: int) -> bool:
        return not self._reach() and int(self) > found
