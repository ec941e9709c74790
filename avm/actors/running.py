"""The running of handlers: what `dispatch` leaves aside of its quick path, which is all that is out of the ordinary.

`run` is called by the scheduler's workers; handlers run in place in their task. After a handler, `alert` says whether
anything is to be looked at: an end, an urgent event, a deferred reply.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Coroutine
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from avm.actors import alarms, limits
from avm.actors.crash import outline
from avm.actors.dead_letters import undelivered
from avm.actors.ending import call, die, fail, fail_ask, finish
from avm.actors.event import seal
from avm.actors.mailbox import shelve
from avm.actors.reasons import reason_of
from avm.actors.reply import answer, refuse
from avm.actors.signals import Ignore, Normal
from avm.actors.state import DEAD, HELD, READY, RESTING, STARTING
from avm.errors import NoHandler, Refuse, StartIgnored

if TYPE_CHECKING:
    from avm.actors.behaviour import Handler
    from avm.actors.cell import Answer, Cell, Letter
    from avm.scheduler import Worker

_log = logging.getLogger("avm.actor")

SLICE_SECONDS = 0.002
"""How long an actor may handle events before others get their turn (S96)."""

SPARE_BOXES = 1024
"""Empty deques that are kept for the next mailboxes."""


async def run(cell: Cell, worker: Worker, budget: int) -> None:
    """Handle up to `budget` events, signals first. Never raises what a handler raised."""
    if cell.state == STARTING:
        if not await _start(cell, worker):
            return
    elif cell.state != READY:
        return
    if cell.ending is None:
        shelve(cell)
        if cell.mailbox is not None and len(cell.mailbox) >= cell.kernel.high_water:
            limits.check_water(cell)
    scheduler, actor, table = cell.scheduler, cell.actor, cell.table
    allowed = budget
    began = 0.0
    try:
        while True:
            if cell.alert:
                letter: Letter | None
                if cell.state != READY:
                    return
                if cell.ending is not None:
                    await finish(cell, worker)
                    return
                if _is_held(cell):
                    return
                letter = await _from_lane(cell, worker)
                if cell.ending is not None or cell.state != READY:
                    continue
            else:
                letter = None
            if letter is None:
                box = cell.mailbox
                if not box:
                    _go_idle(cell, box)
                    return
                letter = box.popleft()
            cell.letter = letter
            event, _, reply, _ = letter
            budget -= 1
            try:
                try:
                    handler = table[event.__class__]
                except KeyError:
                    handler = handler_of(cell, event)
                result = handler(actor, event)
                if result.__class__ is CoroutineType:
                    if not scheduler.armed:
                        scheduler.arm(worker)
                    result = await result
                if reply is not None and not cell.alert:
                    answer(cell, reply, result)
            except Refuse as refusal:
                refuse(cell, reply, refusal)
            except BaseException as error:
                await fail(cell, error, worker)
                return
            else:
                if cell.alert and after(cell, letter, reply, result):
                    return
            if not budget & 7:
                now = perf_counter()
                if began == 0.0:
                    began = now
                if not budget or now - began > SLICE_SECONDS:
                    yield_slice(cell)
                    return
    finally:
        cell.handled += allowed - budget


# Before the first event.


async def _start(cell: Cell, worker: Worker) -> bool:
    start = cell.extras().start
    assert start is not None
    if cell.ending is None:
        try:
            verdict = await call(cell, worker, cell.actor.starting)
        except BaseException as error:
            await fail(cell, error, worker)
            return False
        if cell.state == DEAD:
            return False
        if verdict is Ignore:
            _ignore(cell)
            return False
    if cell.ending is not None:
        await finish(cell, worker)
        return False
    cell.state = READY
    if not start.done():
        start.set_result(None)
    return True


def _ignore(cell: Cell) -> None:
    cell.ending = Normal()
    start = cell.extras().start
    if start is not None and not start.done():
        start.set_exception(
            StartIgnored(f"{cell.pid_text} was not started: starting() answered Ignore.", Ignore)
        )
        start.exception()
    die(cell, Normal())


# Between two events.


def _is_held(cell: Cell) -> bool:
    if cell.more is not None and cell.more.hold:
        cell.state = HELD
        cell.letter = None
        return True
    return False


# The next letter that overtakes; None if there is none, and then nothing is out of the ordinary any more.
async def _from_lane(cell: Cell, worker: Worker) -> Letter | None:
    more = cell.more
    if more is not None and more.hibernating:
        more.hibernating = False
        try:
            await call(cell, worker, cell.actor.waking)
        except BaseException as error:
            await fail(cell, error, worker)
            return None
    if cell.lane:
        if more is not None and more.continuing:
            more.continuing -= 1
        return cell.lane.popleft()
    cell.lane = None
    cell.alert = False
    return None


def after(cell: Cell, letter: Letter, reply: Answer | None, result: Any) -> bool:
    """A handler returned and something is out of the ordinary. True: this slice is over."""
    if cell.state != READY:
        return True
    more = cell.more
    if more is not None:
        if more.postpone:
            more.postpone = more.deferred = False
            more.postponed.append(letter)
            return False
        if more.deferred:
            more.deferred = False
            return False
    if reply is not None:
        try:
            if cell.ending is not None:
                cell.extras().last_reply = (reply, seal(result, cell.kernel.put)[0])
            else:
                answer(cell, reply, result)
        except BaseException as error:
            cell.ending = reason_of(cell.kernel, error)
            fail_ask(cell, letter, cell.ending)
    return False


def yield_slice(cell: Cell) -> None:
    """Join the ready queue again, for others want to run as well (S96)."""
    if cell.state == READY:
        cell.letter = None
        if cell.more is not None and cell.more.over_water:
            limits.check_water(cell)
        cell.join_queue()


def _go_idle(cell: Cell, box: deque[Letter] | None) -> None:
    cell.letter = None
    if box is not None:
        cell.mailbox = None
        if len(cell.kernel.boxes) < SPARE_BOXES:
            cell.kernel.boxes.append(box)
    cell.state = cell.rest
    if cell.more is not None or cell.rest:
        rested(cell)


def rested(cell: Cell) -> None:
    """After it became idle: what only cells with limits, alarms or extras need."""
    if cell.behaviour.max_bytes is not None:
        limits.measure_state(cell)
    more = cell.more
    if more is not None:
        if more.over_water:
            limits.check_water(cell)
        if more.room:
            limits.make_room(cell)
    if cell.rest == RESTING and cell.state == RESTING:
        alarms.rest(cell)


# Which handler.


def handler_of(cell: Cell, event: Any) -> Handler:
    """Find the handler of an event that is not in the table: of a base class, or the one for strangers."""
    if event.__class__ is Unbegun:
        return _coroutine_of
    handler = cell.behaviour.find(event.__class__)
    return handler if handler is not None else _unhandled


class Unbegun:
    """Stands in for an event whose handler, though no coroutine function, gave a coroutine, which is to be awaited."""

    __slots__ = ("coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine


def _coroutine_of(_: Any, unbegun: Unbegun) -> Any:
    return unbegun.coroutine


async def _unhandled(actor: Any, event: Any) -> Any:
    cell: Cell = actor._cell
    if cell.behaviour.has_unhandled:
        result = actor.unhandled(event)
        return await result if isinstance(result, Coroutine) else result
    known = sorted({t.__name__ for t in cell.behaviour.table})
    name = type(event).__name__
    text = (
        f"{cell.pid_text} has no handler for {name}; it handles {', '.join(known) or 'nothing'}. "
        f"Add a method marked @on({name})."
    )
    sender = cell.current[1] if cell.current is not None else None
    undelivered(cell.kernel, "no_handler", cell.pid_text, (event, sender, None, None))
    _log.warning("%s Found: %s", text, outline(event))
    raise Refuse(NoHandler(text))
