"""Handling a request at once, in the task of whoever asked it: nobody waits at an idle actor, so why switch tasks.

A handler that is a plain function cannot suspend: it just runs. A coroutine is begun as the task of an idle worker: the
worker's task is made the current one for the first step (`_enter_task` and `_leave_task`, which asyncio documents for
those who write tasks of their own), and the step runs in the worker's context. So whatever the handler begins, a
timeout, a task group, a cancel scope, belongs to the worker from the first line. Nearly always the coroutine is done
after that step. If not, the worker is woken with it and goes on where it stands.
"""

from __future__ import annotations

from asyncio import CancelledError, current_task
from asyncio.tasks import _enter_task as enter_task
from asyncio.tasks import _leave_task as leave_task
from collections.abc import Callable, Coroutine, Generator
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any

from avm.actors.ending import die, has_preparations
from avm.actors.reasons import reason_of
from avm.actors.reply import answer, refuse
from avm.actors.running import Unbegun, after, rested
from avm.actors.state import DEAD, READY
from avm.errors import Refuse

if TYPE_CHECKING:
    from avm.actors.behaviour import Handler
    from avm.actors.cell import Cell, Letter

MAX_DEPTH = 8
"""How many handlers may be begun within each other; chains of asks longer than this switch tasks."""


class Begun:
    """A coroutine after its first step, and what it then waits for (a future, or None for a turn of the loop)."""

    __slots__ = ("coroutine", "waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self.coroutine = coroutine
        self.waits_for = waits_for


def handle_at_once(cell: Cell, letter: Letter) -> bool:
    """Handle a request of an idle actor here and now if that can be; false if it has to take its turn.

    The reply is in the letter's future when this returns, unless the handler waits for something.
    """
    plain = cell.behaviour.direct.get(letter[0].__class__)
    if plain is not None:
        run_plain(cell, plain, letter)
        return True
    handler = cell.table.get(letter[0].__class__)
    if handler is None or not cell.scheduler.idle or cell.kernel.depth >= MAX_DEPTH:
        return False
    return begin(cell, handler, letter)


def run_plain(cell: Cell, handler: Handler, letter: Letter) -> None:
    kernel = cell.kernel
    cell.state = READY
    cell.letter = letter
    outer, kernel.inside = kernel.inside, cell
    cell.handled += 1
    try:
        result = cell.scheduler.context.copy().run(handler, cell.actor, letter[0])
    except BaseException as error:
        kernel.inside = outer
        _failed(cell, error, letter)
        return
    kernel.inside = outer
    if result.__class__ is CoroutineType:
        # No coroutine function, but it gave a coroutine, none of which has run: a worker takes it from here.
        cell.letter = (Unbegun(result), letter[1], letter[2], letter[3])
        cell.join_queue()
    else:
        _done(cell, letter, result)


def begin(cell: Cell, handler: Handler, letter: Letter) -> bool:
    here = current_task()
    if here is None:
        return False
    kernel, scheduler = cell.kernel, cell.scheduler
    worker = scheduler.idle.pop()
    loop, task, context = kernel.loop, worker.task, worker.context
    cell.state = READY
    cell.letter = letter
    cell.worker = worker
    worker.runnable = cell
    outer, kernel.inside = kernel.inside, None
    kernel.depth += 1
    cell.handled += 1
    failure: BaseException | None = None
    result: Any = None
    leave_task(loop, here)
    enter_task(loop, task)
    try:
        result = context.run(_first_step, handler, cell.actor, letter[0])
    except BaseException as error:
        failure = error
    finally:
        leave_task(loop, task)
        enter_task(loop, here)
        kernel.depth -= 1
        kernel.inside = outer
    if result.__class__ is Begun:
        worker.handed = (letter, result)
        worker.look = True
        worker.release()
        return True
    worker.runnable = None
    if worker.spoiled or context != scheduler.context:
        # It was cancelled, or its context was changed: it must not be used again.
        worker.spoiled = worker.look = True
        worker.release()
    else:
        scheduler.idle.append(worker)
    if failure is not None:
        _failed(cell, failure, letter)
    else:
        _done(cell, letter, result)
    return True


def _first_step(handler: Handler, actor: Any, event: Any) -> Any:
    result = handler(actor, event)
    if result.__class__ is CoroutineType:
        try:
            return Begun(result, result.send(None))
        except StopIteration as stop:
            return stop.value
    return result


def _done(cell: Cell, letter: Letter, result: Any) -> None:
    reply = letter[2]
    try:
        if reply is not None and not cell.alert:
            answer(cell, reply, result)
    except BaseException as error:
        _failed(cell, error, letter)
        return
    if cell.alert:
        if not after(cell, letter, reply, result):
            cell.letter = None
            cell.join_queue()
    elif cell.mailbox is None:
        cell.letter = None
        cell.state = cell.rest
        if cell.rest:
            rested(cell)
    else:
        cell.letter = None
        cell.join_queue()


# Let a worker do what is left: the mailbox, or the end.
def _failed(cell: Cell, error: BaseException, letter: Letter) -> None:
    if cell.state == DEAD:
        return
    if isinstance(error, Refuse):
        refuse(cell, letter[2], error)
        cell.letter = None
        cell.join_queue()
        return
    kernel = cell.kernel
    if cell.ending is None or not isinstance(error, (CancelledError, GeneratorExit)):
        cell.ending = reason_of(kernel, error)
    if has_preparations(cell):
        cell.alert = True
        cell.join_queue()
        return
    # The event still is the one being handled, not one that waits.
    outer, kernel.inside = kernel.inside, cell
    try:
        die(cell, cell.ending)
    finally:
        kernel.inside = outer


@coroutine
def rest_of(begun: Begun) -> Generator[Any, Any, Any]:
    """Await the rest of a coroutine that was begun elsewhere; returns what it returns."""
    rest, waits_for = begun.coroutine, begun.waits_for
    step: Callable[[Any], Any]
    while True:
        try:
            value = yield waits_for
        except BaseException as error:
            step, given = rest.throw, error
        else:
            step, given = rest.send, value
        try:
            waits_for = step(given)
        except StopIteration as stop:
            return stop.value
