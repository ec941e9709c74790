"""What a VM leaves behind when it has ended: actors that did not let go, timers, tasks, content of the store.

A `Watch` is put on a running VM. It looks at the kernel at the last moment, when everything was stopped in order and
nothing is thrown away yet, and at the store when the VM is gone.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Collection
from typing import Any

from avm.errors import SpecError
from avm.memory import Roots, Store
from avm.vm.machine import VM

KINDS = ("actors", "timers", "tasks", "blobs")
"""What may be left: the kinds of leak that a test may be allowed."""

TURNS = 10
"""Turns of the loop that cancelled tasks get to end."""


class Watch:
    """Looks at what one VM leaves behind.

    Args:
        vm: runs now.
        allowed: kinds of leak that are none.
    """

    def __init__(self, vm: VM, allowed: Collection[str] = ()) -> None:
        self.allowed = check_kinds(allowed)
        self._kernel = vm.kernel
        self._store = vm.store
        self._left: list[str] = []
        # Called when all trees have stopped, and before the kernel is closed.
        vm._running._resources.callback(self._look)

    # The kernel has timers of its own: deadlines of asks, one for each length of time, and one for each such handler.
    def _look(self) -> None:
        kernel, found = self._kernel, self._left
        if "actors" not in self.allowed:
            living = sorted(cell.pid_text for cell in kernel.cells())
            if living:
                found.append(f"actors that did not end when they were told to: {', '.join(living)}")
            if len(kernel.zombies):
                found.append(f"{len(kernel.zombies)} handlers of killed actors that still wait")
        timers = len(kernel.timers) - len(kernel.deadlines._lanes) - len(kernel.zombies)
        if timers > 0 and "timers" not in self.allowed:
            found.append(f"{timers} timers that nobody cancelled, and whose actor has ended")

    def left(self) -> list[str]:
        """Say what was left, now that the VM has ended; nothing is what there should be."""
        if self._store is None or "blobs" in self.allowed:
            return self._left
        # What agents committed is kept for their next incarnation, and there will be none.
        roots = self._kernel.services.get("roots")
        if isinstance(roots, Roots):
            roots.release_all()
        if _content(self._store):
            # A crash holds the frames it went through, in a circle.
            gc.collect()
        content = _content(self._store)
        return (
            [*self._left, f"content of the store that something holds: {content}"] if content else self._left
        )


def _content(store: Store) -> str:
    counts = store.statistics()
    kinds = {
        "blobs": sum(counts.blobs.values()),
        "pages": sum(counts.pages.values()),
        "conversations": counts.conversations,
    }
    return ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)


async def tasks_left() -> list[str]:
    """Return the tasks of this loop that are not done, but for the one that asks."""
    left: set[asyncio.Task[Any]] = set()
    for _ in range(TURNS):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            return []
        await asyncio.sleep(0)
    return sorted(f"{task.get_name()} ({task.get_coro()!r})" for task in left)


def check_kinds(kinds: Collection[str]) -> frozenset[str]:
    """Return kinds of leak as a set.

    Raises:
        SpecError: there is no such kind.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise SpecError(f"what may be left behind is among {', '.join(KINDS)}; got {unknown[0]!r}.")
    return frozenset(kinds)


__all__ = ["KINDS", "Watch", "check_kinds", "tasks_left"]
