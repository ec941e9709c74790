"""The scheduler: an elastic set of worker tasks over one ready queue, on one event loop.

One worker at a time owns the queue: it takes what is ready and runs it in place, so a handler that never suspends
costs no task switch. When a handler suspends, its worker is simply busy; a callback on the next turn of the loop
finds that out and gives the queue to an idle worker, or hires one. So there are as many tasks as handlers waiting
right now, and one more. A worker is an ordinary `asyncio.Task`: any asyncio or anyio library works inside a handler.

What a worker does with the queue is handed in as `work`. A worker whose context variables were changed by a handler,
or that was cancelled, retires: nothing leaks from one runnable to the next.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol

import attrs

from avm.scheduler.queue import ReadyQueue

MAX_IDLE_WORKERS = 32
"""Workers kept for the next handlers that wait; those beyond retire."""


class Runnable(Protocol):
    """What the scheduler runs. `worker` is where it waits, set when it turns out to wait."""

    worker: Worker | None


class Worker:
    """One task that runs slices. `runnable` is what it is inside of right now, None between batches."""

    __slots__ = ("context", "handed", "look", "parked", "runnable", "spoiled", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None]
        self.runnable: Runnable | None = None
        self.context: contextvars.Context
        self.parked: asyncio.Future[None] | None = None
        # Something that was begun in this worker's name and is to be finished by it.
        self.handed: Any = None
        # Set by whoever cancels the task: a cancelled task may not be used for anything else.
        self.spoiled = False
        # Something happened to it while it was inside a runnable: it lost the queue, or it is spoiled.
        self.look = False

    def release(self) -> None:
        """Let it go on from where it is parked."""
        parked = self.parked
        if parked is not None and not parked.done():
            parked.set_result(None)


Work = Callable[[Worker, "Scheduler"], Coroutine[Any, Any, None]]
"""The life of a worker: runs the queue while it owns it, parks when there is nothing, returns to retire."""


@attrs.frozen(slots=True)
class SchedulerStatistics:
    """Ready runnables, workers in being, workers without work, and workers ever hired."""

    ready: int
    workers: int
    idle_workers: int
    hired: int


@types.coroutine
def one_turn() -> Generator[None, None, None]:
    """Let the loop go round once."""
    yield


class Scheduler:
    """One loop, one ready queue. Who makes something ready appends it to a lane and, if `active` is None, calls `wake`.

    Args:
        work: the life of a worker.
        on_bug: takes what escaped a worker.
    """

    __slots__ = (
        "_closed",
        "_hired",
        "_on_bug",
        "_work",
        "active",
        "armed",
        "context",
        "idle",
        "loop",
        "queue",
        "workers",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, work: Work, on_bug: Callable[[BaseException], None]
    ) -> None:
        self.loop = loop
        self.queue: ReadyQueue[Runnable] = ReadyQueue()
        self.active: Worker | None = None
        # A callback to `turn` is on its way.
        self.armed = False
        self.idle: list[Worker] = []
        self.workers: dict[asyncio.Task[None], Worker] = {}
        self._work = work
        self._on_bug = on_bug
        self._hired = 0
        self._closed = False
        # Workers start from the context of whoever made the scheduler, never from that of a handler.
        self.context = contextvars.copy_context()

    def wake(self) -> None:
        """Give the queue to a worker. Only when `active` is None."""
        if self.idle:
            worker = self.idle.pop()
            self.active = worker
            worker.release()
        elif not self._closed:
            self._hire()

    def arm(self, worker: Worker) -> None:
        """A coroutine is about to run in place in the owner's task: look on the next turn whether it suspended."""
        if not self.armed and self.active is worker:
            self.armed = True
            self.loop.call_soon(self.turn, worker)

    def turn(self, worker: Worker) -> None:
        """On the turn after a coroutine began: if its worker is still inside, the queue needs another owner."""
        self.armed = False
        runnable = worker.runnable
        if runnable is not None:
            runnable.worker = worker
            if self.active is worker:
                worker.look = True
                self.active = None
                if self.queue:
                    self.wake()

    async def park(self, worker: Worker) -> bool:
        """Wait until there is something to do and the queue is this worker's; false if there are idle ones enough."""
        worker.runnable = None
        if len(self.idle) >= MAX_IDLE_WORKERS:
            return False
        self.idle.append(worker)
        worker.parked = self.loop.create_future()
        await worker.parked
        return True

    def worker_of(self, runnable: Runnable) -> Worker | None:
        """Return the worker that is inside a runnable now, None if none is."""
        worker = runnable.worker
        if worker is None or worker.runnable is not runnable:
            worker = self.active
        return worker if worker is not None and worker.runnable is runnable else None

    def is_quiet(self) -> bool:
        """Tell whether nothing is ready and nobody runs (handlers that wait do not count)."""
        return self.active is None and not self.queue

    def current(self) -> Runnable | None:
        """Return what the current task runs a slice of, or None if the task is not a worker."""
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return None
        worker = self.workers.get(task) if task is not None else None
        return worker.runnable if worker is not None else None

    def statistics(self) -> SchedulerStatistics:
        """Count queue and workers."""
        return SchedulerStatistics(len(self.queue), len(self.workers), len(self.idle), self._hired)

    async def close(self) -> None:
        """Cancel all workers and wait for them; those inside a handler that swallows the cancel are left behind."""
        self._closed = True
        here = asyncio.current_task()
        tasks = [t for t in self.workers if t is not here]
        for task in tasks:
            self.workers[task].spoiled = True
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    def _hire(self) -> None:
        worker = Worker()
        self._hired += 1
        self.active = worker
        worker.context = self.context.copy()
        worker.task = self.loop.create_task(self._work(worker, self), context=worker.context)
        worker.task.add_done_callback(self._retired)
        self.workers[worker.task] = worker

    def _retired(self, task: asyncio.Task[None]) -> None:
        worker = self.workers.pop(task)
        worker.runnable = None
        if worker in self.idle:
            self.idle.remove(worker)
        if self.active is worker:
            self.active = None
            if self.queue:
                self.wake()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_bug(error)
