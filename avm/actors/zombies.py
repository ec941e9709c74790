"""Zombies: handlers of killed actors that have not let go yet (S94). Dead to everyone; counted and reported."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs

from avm.actors.hooks import ZombieReport

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.kernel import Kernel
    from avm.scheduler import Worker

GRACE = 5.0


@attrs.frozen(slots=True, eq=False)
class Zombie:
    """One of them, and since when (VM clock)."""

    cell: Cell
    worker: Worker
    since: float

    def is_gone(self) -> bool:
        """Tell whether the handler has been left."""
        return self.worker.runnable is not self.cell or self.worker.task.done()

    def stack(self) -> str:
        """Where the handler is, innermost call last; empty if it has no Python frame to show."""
        frames = self.worker.task.get_stack()
        return "\n".join(f"{f.f_code.co_filename}:{f.f_lineno} in {f.f_code.co_name}" for f in frames)


class Zombies:
    """All zombies of a kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        # By the task they hold; an entry may be gone already, see `list`.
        self.kept: dict[asyncio.Task[None], Zombie] = {}

    def add(self, cell: Cell, worker: Worker) -> None:
        """Keep one, and report it if it is still there after the grace time."""
        zombie = Zombie(cell, worker, self._kernel.now())
        self.kept[worker.task] = zombie
        timer = self._kernel.timers.after(GRACE, lambda: self._look(zombie))

        def let_go(task: asyncio.Task[None]) -> None:
            self.kept.pop(task, None)
            self._kernel.timers.cancel(timer)

        worker.task.add_done_callback(let_go)

    def list(self) -> list[Zombie]:
        """Return those that are still there."""
        return [z for z in self.kept.values() if not z.is_gone()]

    def __len__(self) -> int:
        return len(self.list())

    def _look(self, zombie: Zombie) -> None:
        if zombie.is_gone():
            return
        kernel = self._kernel
        age = kernel.now() - zombie.since
        kernel.log(f"{zombie.cell.pid_text} was killed {age:.0f} s ago and its handler still runs")
        kernel.report_limit(
            lambda at: ZombieReport(at=at, path=zombie.cell.path, age=age, stack=zombie.stack())
        )
