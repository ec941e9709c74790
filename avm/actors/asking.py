"""Asking: a request, its deadline and its reply (S13-S18).

`ask_from` is the quick way, for a ref or pid with nothing out of the ordinary; it writes out in one frame what
`_ask_slowly` does by the general functions. An ask that would close a ring of waiting actors fails at once.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from avm.actors import limits
from avm.actors.delivery import seal_message, show
from avm.actors.destination import nobody, receivers
from avm.actors.direct import handle_at_once
from avm.actors.ending import refuse_dead
from avm.actors.event import seal_event
from avm.actors.ref import DEFAULT_TIMEOUT
from avm.actors.state import DEAD, IDLE, READY
from avm.actors.timers import check_seconds
from avm.errors import AskCycle, AskTimeout, CallingSelf, EventError, VMError

if TYPE_CHECKING:
    from avm.actors.cell import Answer, Cell, Letter
    from avm.actors.destination import Destination
    from avm.actors.kernel import Kernel

DIRECT_IN_A_ROW = 64
"""How many requests may be handled in the askers' own tasks before one has to take its turn."""


async def ask_from(
    kernel: Kernel, sender: Cell | None, dest: Destination, request: Any, timeout: float | None
) -> Any:
    """Send a request and wait for the reply, as `sender` if it is given; see `Actor.ask`."""
    if timeout is DEFAULT_TIMEOUT:
        timeout = kernel.ask_timeout
    elif timeout is not None:
        check_seconds(timeout, "timeout")
    try:
        target = dest.cell  # type: ignore[union-attr]
        plain = request.__avm_plain__()
    except (AttributeError, TypeError):
        return await _ask_slowly(kernel, sender, dest, request, timeout)
    if not target.quick or (target.state != IDLE and (target.state == DEAD or target.limit is not None)):
        return await _ask_slowly(kernel, sender, dest, request, timeout)
    handles = None
    if not plain:
        request, handles = seal_event(request, kernel.put)
    future: Answer = kernel.loop.create_future()
    letter = (request, sender, future, handles)
    if sender is not None:
        if sender.state == DEAD or target is sender or target.asking is not None or target.more is not None:
            _check_cycle(sender, target)
        if sender.more is not None or sender.asking is not None:
            return await _ask_beside(sender, target, letter, timeout)
        sender.asking = target
    if target.state == IDLE:
        # Once in a while it has to take its turn, so that who only asks does not keep the loop to himself.
        if kernel.direct_left and handle_at_once(target, letter):
            kernel.direct_left -= 1
            if future.done():
                if sender is not None:
                    sender.asking = None
                return future.result()
        else:
            kernel.direct_left = DIRECT_IN_A_ROW
            target.letter = letter
            target.state = READY
            target.queue.append(target)
            if target.scheduler.active is None:
                target.scheduler.wake()
    else:
        target.receive(letter)
    if timeout is not None:
        kernel.deadlines.add(timeout, future, _too_late, target, request.__class__)
    try:
        return await future
    except BaseException:
        # The error holds this frame, and they the error: without the circle it goes when nobody wants it any more.
        del future, letter
        raise
    finally:
        if sender is not None:
            sender.asking = None


def ask_blocking(kernel: Kernel, dest: Destination, request: Any, timeout: float | None) -> Any:
    """Ask from another thread and block it until the reply is there (S101).

    Raises:
        VMError: called on the loop's own thread, which it would block for ever.
    """
    if threading.get_ident() == kernel.thread:
        raise VMError(
            "ask_blocking on the VM's own thread would wait for itself; use `await ask(...)` there."
        )
    asked = ask_from(kernel, None, dest, request, timeout)
    return asyncio.run_coroutine_threadsafe(asked, kernel.loop).result()


async def _ask_slowly(
    kernel: Kernel, sender: Cell | None, dest: Destination, request: Any, timeout: float | None
) -> Any:
    refuse_dead(sender)
    request, handles = seal_message(kernel, request)
    target = _only_receiver(kernel, dest, request)
    if sender is not None:
        _check_cycle(sender, target)
    if target.behaviour.overflow == "block" and target.limit is not None:
        await _room_in_time(target, timeout)
        if not target.is_alive():
            raise nobody(kernel, target.pid)
    if kernel.taps:
        show(kernel, target, sender, request)
    letter = (request, sender, kernel.loop.create_future(), handles)
    if sender is not None:
        return await _ask_beside(sender, target, letter, timeout)
    return await _send_and_wait(target, letter, timeout)


def _only_receiver(kernel: Kernel, dest: Destination, request: object) -> Cell:
    targets = receivers(kernel, dest, request)
    if not targets:
        raise nobody(kernel, dest)
    if len(targets) > 1:
        raise EventError(
            f"an ask has one receiver, but {dest!r} stands for {len(targets)}; use tell, or ask each."
        )
    return targets[0]


async def _room_in_time(target: Cell, timeout: float | None) -> None:
    if timeout is None:
        await limits.room(target)
        return
    kernel = target.kernel
    waiting = kernel.loop.create_task(limits.room(target))
    expired: asyncio.Future[None] = kernel.loop.create_future()
    kernel.deadlines.add(timeout, expired, lambda *_: limits.full(target))
    try:
        await asyncio.wait((waiting, expired), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        expired.cancel()
    if not expired.cancelled():
        raise limits.full(target)


# An ask of an actor that has others under way, or that is made by one of its tasks.
async def _ask_beside(sender: Cell, target: Cell, letter: Letter, timeout: float | None) -> Any:
    more = sender.extras()
    blocking = not (more.tasks and asyncio.current_task() in more.tasks)
    if blocking:
        more.asking.append(target)
    try:
        return await _send_and_wait(target, letter, timeout)
    finally:
        if blocking:
            more.asking.remove(target)


async def _send_and_wait(target: Cell, letter: Letter, timeout: float | None) -> Any:
    future = letter[2]
    assert future is not None
    target.receive(letter)
    if timeout is not None:
        target.kernel.deadlines.add(timeout, future, _too_late, target, letter[0].__class__)
    try:
        return await future
    except BaseException:
        del future, letter
        raise


def _too_late(timeout: float, target: Cell, request: type) -> AskTimeout:
    return AskTimeout(
        f"{target.pid_text} did not answer {request.__name__} in {timeout:g} s; it still may handle it, "
        "and the reply will be dropped. Give ask() a longer timeout=, or look at what it waits for."
    )


# Rings.


# Does `target`'s handler wait, through whatever chain of asks, for `sender`? (S18)
def _check_cycle(sender: Cell, target: Cell) -> None:
    refuse_dead(sender)
    if _is_in_task_of(sender):
        return
    if target is sender:
        raise CallingSelf(
            f"{sender.pid_text} asks itself while it handles an event, and would wait for ever. "
            "Call the method, or use tell().",
            (sender.pid_text,),
        )
    chain: list[tuple[Cell, tuple[Cell, ...]]] = [(target, (sender, target))]
    seen = {target}
    while chain:
        cell, ring = chain.pop()
        for waited in asked_by(cell):
            if waited.more is not None and cell in waited.more.owed.values():
                # It took the reply upon itself, or handed it on: none of its handlers is waited for.
                continue
            if waited is sender:
                raise _cycle(ring)
            if waited not in seen:
                seen.add(waited)
                chain.append((waited, (*ring, waited)))


# A task beside the mailbox waits for itself alone.
def _is_in_task_of(cell: Cell) -> bool:
    if cell.more is None or not cell.more.tasks:
        return False
    try:
        return asyncio.current_task() in cell.more.tasks
    except RuntimeError:
        return False


def asked_by(cell: Cell) -> tuple[Cell, ...]:
    """Return the actors whose replies the handler of an actor waits for."""
    asked: tuple[Cell, ...] = (cell.asking,) if cell.asking is not None else ()
    return (*asked, *cell.more.asking) if cell.more is not None else asked


def _cycle(ring: tuple[Cell, ...]) -> AskCycle:
    names = tuple(cell.pid_text for cell in ring)
    return AskCycle(
        f"this ask closes a ring: {' asks '.join((*names, names[0]))}. "
        "One of them has to use tell(), pipe() or a deferred reply.",
        names,
    )
