"""The end of an actor: how it is asked for, ordered, prepared and made.

An end ordered in time (S95) interrupts the handler under way at its next `await` and runs `stopping`. The end itself is
one synchronous step (S32, S94), `die`: dead for everyone, then names, groups and timers released, then asks failed,
then links and monitors fired. A killed actor's handler may still be inside an `await`: it is a zombie, its worker is
cancelled again and again (S95), and whatever it does through avm is refused, because its cell is dead.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from avm.actors.crash import crash_report
from avm.actors.dead_letters import undelivered
from avm.actors.reasons import describe, reason_of
from avm.actors.reply import answer
from avm.actors.signals import Cancelled, Exit, Kill, Killed, Normal, is_abnormal
from avm.actors.state import DEAD, HELD, IDLE, READY, RESTING, STARTING, STOPPING
from avm.errors import ActorDead, ActorExited, StartError

if TYPE_CHECKING:
    from avm.actors.cell import Cell, Letter
    from avm.actors.extras import Extras
    from avm.scheduler import Worker

TASK_GRACE = 5.0
"""Seconds that the owned tasks of an actor have to end after they were cancelled."""


# What asks for it.


def exit_signal(cell: Cell, sender: Cell | None, reason: object, *, via_link: bool) -> None:
    """Receive an exit signal; the table of S36, and S39 for the parent's."""
    if cell.state == DEAD:
        return
    if isinstance(reason, Kill) and not via_link:
        kill(cell)
        return
    from_parent = sender is not None and sender is cell.parent
    traps = cell.actor is not None and cell.actor.trap_exit
    if traps and not from_parent:
        cell.overtake((Exit(sender.pid if sender is not None else None, reason), sender, None, None))
        return
    if isinstance(reason, Normal):
        to_itself = sender is cell and not via_link
        if not to_itself and not (traps and from_parent):
            return
    order_end(cell, reason)


def parent_ended(cell: Cell, reason: object) -> None:
    """The parent is gone: nobody outlives it (S39, S62)."""
    order_end(cell, Killed() if isinstance(reason, Kill) else reason)


def order_end(cell: Cell, reason: object, *, interrupt: bool = True) -> None:
    """End in order: a handler under way is interrupted at its next `await`, `stopping` runs, then the end (S95)."""
    state = cell.state
    if state in (DEAD, STOPPING) or cell.ending is not None:
        return
    if reason is None:
        reason = Normal()
    inside = cell.scheduler.worker_of(cell) if state in (READY, STARTING) else None
    here = inside is not None or cell.kernel.inside is cell
    if not here and state != STARTING and not has_preparations(cell):
        die(cell, reason)
        return
    cell.ending = reason
    cell.alert = True
    if state in (IDLE, RESTING, HELD):
        cell.make_ready()
    elif interrupt and inside is not None:
        _interrupt(cell, inside)


def has_preparations(cell: Cell) -> bool:
    """Tell whether something has to be awaited before the end: `stopping`, owned tasks, open generators."""
    more = cell.more
    return cell.behaviour.has_stopping or (more is not None and bool(more.tasks or more.generators))


def kill(cell: Cell) -> None:
    """End now, with reason Killed, whatever it is doing (S94)."""
    if cell.state == DEAD:
        return
    worker = cell.scheduler.worker_of(cell)
    die(cell, Killed())
    if worker is not None:
        cell.kernel.zombies.add(cell, worker)
        _interrupt(cell, worker)


def kill_below(cell: Cell) -> None:
    """Kill all descendants of an actor, the lowest first."""
    below: list[Cell] = []
    pending = list((cell.children or {}).values())
    while pending:
        found = pending.pop()
        below.append(found)
        pending.extend((found.children or {}).values())
    for one in reversed(below):
        kill(one)


# Cancel what runs in a worker of this cell, again at each later `await` until it is left.
def _interrupt(cell: Cell, worker: Worker) -> None:
    worker.spoiled = worker.look = True
    _cancel(cell, worker, 0.0)


def _cancel(cell: Cell, worker: Worker, delay: float) -> None:
    if worker.runnable is not cell or worker.task.done():
        return
    if cell.more is None or not cell.more.protected or cell.state == DEAD:
        worker.task.cancel()
    cell.kernel.loop.call_later(delay, _cancel, cell, worker, min(0.1, delay * 2 + 0.001))


# What a worker does at it.


def fail_at_once(cell: Cell, error: BaseException) -> bool:
    """End for an error without awaiting anything, as most can; false if there is more to do."""
    if (
        cell.ending is not None
        or cell.state != READY
        or cell.more is not None
        or cell.behaviour.has_stopping
        or not isinstance(error, Exception)
        or isinstance(error, ExceptionGroup)
    ):
        return False
    die(cell, error)
    return True


async def fail(cell: Cell, error: BaseException, worker: Worker) -> None:
    """A handler or a callback failed: find out the reason and end. Nothing if the actor is a zombie."""
    if cell.state == DEAD:
        return
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        if cell.ending is None:
            cell.ending = Cancelled()
    else:
        cell.ending = reason_of(cell.kernel, error)
    if isinstance(error, asyncio.CancelledError) and not worker.spoiled:
        await _finish_cancelled(cell, worker)
    else:
        await finish(cell, worker)


# Somebody outside cancelled the worker's task, as asyncio.run does at its end: the actor ends, and then the task.
async def _finish_cancelled(cell: Cell, worker: Worker) -> None:
    while worker.task.cancelling():
        worker.task.uncancel()
    try:
        await finish(cell, worker)
    finally:
        worker.spoiled = worker.look = True


async def finish(cell: Cell, worker: Worker) -> None:
    """The handler is left: run `stopping` and end. A worker that was cancelled cannot do that, a fresh one will."""
    if worker.spoiled:
        cell.alert = True
        if cell.state != STARTING:
            cell.state = READY
        cell.join_queue()
        return
    reason = cell.ending
    started = cell.state != STARTING
    cell.state = STOPPING
    if started and cell.behaviour.has_stopping:
        try:
            await call(cell, worker, cell.actor.stopping, reason)
        except BaseException as error:
            if cell.state == DEAD:
                return
            if not isinstance(error, asyncio.CancelledError):
                reason = reason_of(cell.kernel, error)
            elif not worker.spoiled:
                reason = Cancelled()
                worker.spoiled = worker.look = True
    if cell.more is not None and cell.state != DEAD:
        await _end_tasks(cell.more, worker)
        await _close_generators(cell, cell.more, worker)
    if cell.state != DEAD:
        die(cell, reason)


async def call(cell: Cell, worker: Worker, callback: Callable[..., Any], *args: Any) -> Any:
    """Run a callback that may be sync or async in the worker of a cell."""
    result = callback(*args)
    if inspect.isawaitable(result):
        cell.scheduler.arm(worker)
        result = await result
    return result


async def _end_tasks(more: Extras, worker: Worker) -> None:
    here = asyncio.current_task()
    tasks = [t for t in more.tasks if t is not here]
    for task in tasks:
        more.tasks[task] = False
        task.cancel()
    if tasks:
        try:
            await asyncio.wait(tasks, timeout=TASK_GRACE)
        except asyncio.CancelledError:
            worker.spoiled = worker.look = True


async def _close_generators(cell: Cell, more: Extras, worker: Worker) -> None:
    for weak in list(more.generators):
        generator = weak()
        if generator is not None:
            try:
                await generator.aclose()
            except asyncio.CancelledError:
                # The generator's own, or the worker was cancelled: then it must not be used again.
                worker.spoiled = worker.look = True
            except BaseException as error:
                cell.kernel.log(f"{cell.pid_text}: an async generator failed while it was closed", error)
    more.generators.clear()


# The one step.


def die(cell: Cell, reason: object) -> None:
    """End, in one step (S32). Everything that can see this actor sees it dead when this returns."""
    if cell.state == DEAD:
        return
    kernel = cell.kernel
    report = None
    if is_abnormal(reason):
        kernel.crashed += 1
        if kernel.observers:
            report = crash_report(cell, reason, kernel.now())
    _part(cell, reason)
    if report is not None:
        kernel.emit(report)
    _fail_asks(cell, reason)
    kernel.announcements.add(cell, reason)
    if cell.actor is not None:
        cell.actor._cell = Fence(cell)  # type: ignore[assignment]
        cell.actor = None  # type: ignore[assignment]


def discard(cell: Cell, reason: object) -> None:
    """Undo a start whose `__init__` failed: it leaves no report beyond the error, for it never was."""
    _part(cell, reason)
    _fail_asks(cell, reason)
    cell.kernel.announcements.add(cell, reason)
    cell.actor = None  # type: ignore[assignment]


# Dead for everyone; place, names, groups, timers and tasks are free before anyone is told (S32).
def _part(cell: Cell, reason: object) -> None:
    cell.state = DEAD
    cell.alert = True
    cell.quick = 0
    cell.reason = reason
    kernel, more = cell.kernel, cell.more
    kernel.tree.forget(cell)
    kernel.names.forget(cell)
    kernel.groups.forget(cell)
    if more is not None:
        for timer in list(more.timers):
            kernel.timers.cancel(timer)
        more.timers.clear()
        if more.idle_timer is not None:
            kernel.timers.cancel(more.idle_timer)
            more.idle_timer = None
        for task in list(more.tasks):
            more.tasks[task] = False
            task.cancel()


# Whoever waits for a reply of this actor hears of its end at once (S14, S31).
def _fail_asks(cell: Cell, reason: object) -> None:
    more, current = cell.more, cell.current
    if current is not None and more is None and cell.mailbox is None and cell.lane is None:
        cell.letter = None
        fail_ask(cell, current, reason)
        return
    waiting = list(cell.letters()) if _has_mail(cell) else ()
    cell.letter = cell.mailbox = cell.lane = None
    if more is not None and more.last_reply is not None:
        reply, result = more.last_reply
        more.last_reply = None
        answer(cell, reply, result)
    elif current is not None:
        fail_ask(cell, current, reason)
    for letter in waiting:
        fail_ask(cell, letter, reason)
        if not isinstance(letter[0], Exit):
            undelivered(cell.kernel, "ended", cell.pid_text, letter)
    if more is not None:
        more.postponed.clear()
        for owed in more.owed:
            _refuse(owed, exited(cell, reason, "the request"))
        more.owed.clear()
        if more.start is not None:
            _refuse(more.start, start_error(cell, reason))


def _has_mail(cell: Cell) -> bool:
    more = cell.more
    return bool(cell.letter or cell.mailbox or cell.lane or (more is not None and more.postponed))


def fail_ask(cell: Cell, letter: Letter, reason: object) -> None:
    """Tell whoever waits for the reply to an event, if anyone, that there will be none."""
    if letter[2] is not None:
        _refuse(letter[2], exited(cell, reason, type(letter[0]).__name__))
        if isinstance(reason, BaseException):
            cell.kernel.deadlines.forget_failed()


# Nobody may be there to take the error, which asyncio would complain of.
def _refuse(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()


def exited(cell: Cell, reason: object, what: str) -> ActorExited:
    """Make the error that somebody gets who asked for `what`."""
    error = ActorExited(f"{cell.pid_text} exited ({describe(reason)}) before it answered {what}.", reason)
    if isinstance(reason, BaseException):
        error.__cause__ = reason
    return error


def start_error(cell: Cell, reason: object) -> StartError:
    """Make the error that whoever started it gets; a StartError of one below goes up as it is (S24)."""
    if isinstance(reason, StartError):
        return reason
    error = StartError(f"{cell.pid_text} did not start: {describe(reason)}.", reason, (cell.path,))
    if isinstance(reason, BaseException):
        error.__cause__ = reason
    return error


# What is left.


class Fence:
    """What the object of an actor that has ended holds instead of its cell: it may look, but not act (S94)."""

    __slots__ = ("_cell", "quick")

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self.quick = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("children", "current", "is_alive", "parent", "path", "pid", "pid_text", "ref"):
            return getattr(self._cell, name)
        raise ActorDead(f"{self._cell.pid_text} has ended; its handler may not act any more.")


def refuse_dead(cell: Cell | None) -> None:
    """Check that an actor may still act.

    Raises:
        ActorDead: it has ended, and what runs is a handler or a task it left behind (S94).
    """
    if cell is not None and cell.state == DEAD:
        raise ActorDead(f"{cell.pid_text} has ended; its handler may not act any more.")
