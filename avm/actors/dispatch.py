"""Dispatch: the inner loop of the runtime. Takes ready cells and runs their handlers in place in a worker's task.

This is the one place where speed decides the shape: the common case, one event for an actor that then is idle again,
is written out here in a single frame. Whatever is out of the ordinary (signals, more than one event, an end) is left
to `running.run`.
"""

from __future__ import annotations

import asyncio
from itertools import repeat
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING

from avm.actors.direct import rest_of
from avm.actors.ending import fail, fail_at_once
from avm.actors.reply import answer, refuse
from avm.actors.running import after, handler_of, rested, run
from avm.errors import Refuse
from avm.scheduler import Worker, one_turn

if TYPE_CHECKING:
    from avm.actors.cell import Cell, Letter
    from avm.actors.direct import Begun
    from avm.actors.kernel import Kernel
    from avm.scheduler import Scheduler

MESSAGES_PER_SLICE = 64
"""How many events an actor may handle before others get their turn, and how many when more than `CROWD` are ready."""

MESSAGES_WHEN_CROWDED = 8
CROWD = 256

BATCH_SECONDS = 0.004
MAX_SLICES = 256


class Dispatcher:
    """Runs batches of slices for the scheduler."""

    __slots__ = ("_kernel", "_slices")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        # How many slices a batch has, so that it takes about BATCH_SECONDS.
        self._slices = 32

    async def work(self, me: Worker, scheduler: Scheduler) -> None:
        """The life of a worker: run slices while it owns the queue, park when there is nothing to do.

        Returns when it must not be used again: it was cancelled, or a handler changed its context.
        """
        queue = scheduler.queue
        user, normal, background = queue.user, queue.normal, queue.background
        mine, clean = me.context, scheduler.context
        loop, turn = scheduler.loop, scheduler.turn
        began = 0.0
        slices = self._slices
        cell: Cell
        while True:
            for _ in repeat(None, slices):
                try:
                    cell = (user or normal or background).popleft()  # type: ignore[assignment]
                except IndexError:
                    break
                me.runnable = cell
                letter = cell.letter
                if letter is not None and not cell.alert:
                    event, _, reply, _ = letter
                    try:
                        try:
                            handler = cell.table[event.__class__]
                        except KeyError:
                            handler = handler_of(cell, event)
                        result = handler(cell.actor, event)
                        if result.__class__ is CoroutineType:
                            if not scheduler.armed:
                                scheduler.armed = True
                                loop.call_soon(turn, me)
                            result = await result
                        if reply is not None and not cell.alert:
                            answer(cell, reply, result)
                    except Refuse as refusal:
                        refuse(cell, reply, refusal)
                        cell.letter = None
                        await self._run(cell, me)
                    except BaseException as error:
                        cell.handled += 1
                        if not fail_at_once(cell, error):
                            await self._failed(cell, error, me)
                    else:
                        cell.handled += 1
                        if cell.alert:
                            if not after(cell, letter, reply, result):
                                cell.letter = None
                                await self._run(cell, me)
                        elif cell.mailbox is None:
                            cell.letter = None
                            rest = cell.state = cell.rest
                            if rest:
                                rested(cell)
                        else:
                            cell.letter = None
                            await self._run(cell, me)
                else:
                    await self._run(cell, me)
                if me.look:
                    if me.spoiled or me.task.cancelling():
                        # Cancelled, perhaps by somebody outside of avm, and the handler did not let it through (S102).
                        return
                    me.look = False
                    if scheduler.active is None:
                        # Back from a handler that waited, and nobody took the queue meanwhile.
                        scheduler.active = me
                    elif scheduler.active is not me and (
                        mine != clean or not await self._parked(me, scheduler)
                    ):
                        return
                if mine != clean:
                    return
            else:
                # The batch is over.
                me.runnable = None
                now = perf_counter()
                queue.age(now, slices)
                slices = self._next_batch(now - began if began else BATCH_SECONDS)
                await one_turn()
                began = perf_counter()
                continue
            # Nothing is ready. What it did last must not be kept alive by a worker that does nothing.
            scheduler.active = None
            cell = letter = event = reply = result = handler = None  # type: ignore[assignment]
            if not await self._parked(me, scheduler):
                return
            slices = self._slices
            began = 0.0

    # Waits until the queue is this worker's; finishes what it is handed meanwhile. False: it must not be used again.
    async def _parked(self, me: Worker, scheduler: Scheduler) -> bool:
        while True:
            try:
                if not await scheduler.park(me):
                    return False
            except asyncio.CancelledError:
                if me.handed is None:
                    raise
                # Meant for the handler that was just handed over: let it come again where that waits.
                me.task.uncancel()
                scheduler.loop.call_soon(me.task.cancel)
            if me.handed is None:
                return not me.spoiled
            letter, begun = me.handed
            me.handed = None
            await self.take_over(me, letter, begun)
            letter = begun = None
            if me.spoiled or me.context != scheduler.context or me.task.cancelling():
                return False
            me.look = False
            if scheduler.active is None:
                scheduler.active = me
                return True

    async def take_over(self, me: Worker, letter: Letter, begun: Begun) -> None:
        """Go on with a handler that was begun in this worker's name and waits for something."""
        cell: Cell = me.runnable  # type: ignore[assignment]
        reply = letter[2]
        try:
            result = await rest_of(begun)
            if reply is not None and not cell.alert:
                answer(cell, reply, result)
        except Refuse as refusal:
            refuse(cell, reply, refusal)
        except BaseException as error:
            await self._failed(cell, error, me)
            return
        else:
            if cell.alert and after(cell, letter, reply, result):
                return
        cell.letter = None
        await self._run(cell, me)

    # A batch of slices ended: make the next as long as fits BATCH_SECONDS.
    def _next_batch(self, took: float) -> int:
        if took > BATCH_SECONDS:
            self._slices = max(1, self._slices // 2)
        elif took < BATCH_SECONDS / 4:
            self._slices = min(MAX_SLICES, self._slices * 2)
        return self._slices

    # The runtime's own code has one guard here: a bug in it is told and stops the system, it is not silent (S99).
    async def _run(self, cell: Cell, me: Worker) -> None:
        try:
            crowded = len(cell.scheduler.queue) > CROWD
            await run(cell, me, MESSAGES_WHEN_CROWDED if crowded else MESSAGES_PER_SLICE)
        except BaseException as error:
            if not (isinstance(error, asyncio.CancelledError) and me.spoiled):
                self._kernel.bug(error)
            me.spoiled = me.look = True

    async def _failed(self, cell: Cell, error: BaseException, me: Worker) -> None:
        try:
            await fail(cell, error, me)
        except BaseException as bug:
            if not (isinstance(bug, asyncio.CancelledError) and me.spoiled):
                self._kernel.bug(bug)
            me.spoiled = me.look = True
