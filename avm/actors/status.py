"""Looking at a running kernel: what an actor does, what it waits for, how much there is of everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from avm.actors.asking import asked_by
from avm.actors.signals import Other, Reply, WaitReason
from avm.actors.state import READY, STATES
from avm.scheduler import SchedulerStatistics

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.kernel import Kernel


@attrs.frozen(slots=True)
class KernelStatistics:
    """Counts of one kernel.

    Attributes:
        actors: that live now. zombies, timers: that are there now.
        started, crashed, restarts, late_replies: since the kernel began.
        dead_letters: since it began, by reason.
    """

    actors: int
    started: int
    crashed: int
    restarts: int
    zombies: int
    timers: int
    late_replies: int
    dead_letters: dict[str, int]
    scheduler: SchedulerStatistics


def statistics(kernel: Kernel) -> KernelStatistics:
    """Count everything."""
    return KernelStatistics(
        actors=len(kernel.tree),
        started=kernel.started,
        crashed=kernel.crashed,
        restarts=kernel.restarts,
        zombies=len(kernel.zombies),
        timers=len(kernel.timers),
        late_replies=kernel.late_replies,
        dead_letters=dict(kernel.dead_letters),
        scheduler=kernel.scheduler.statistics(),
    )


def state_of(cell: Cell) -> str:
    """Name the state of an actor: starting, idle, ready, running, waiting, suspended, stopping, dead."""
    scheduler = cell.scheduler
    if cell.state == READY and scheduler.worker_of(cell) is not None:
        return "running" if cell is scheduler.current() else "waiting"
    return STATES[cell.state]


def wait_of(cell: Cell) -> tuple[WaitReason, float | None] | None:
    """Return what the handler of an actor waits for and since when (VM clock, None if not known); None if not."""
    if state_of(cell) != "waiting":
        return None
    more = cell.more
    if more is not None and more.waiting:
        return more.waiting[-1]
    asked = asked_by(cell)
    if asked:
        return (Reply(asked[0].path), None)
    return (Other(), None)
