"""What runs beside the mailbox of an actor: owned tasks, threads, async generators that a handler began (S97)."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from avm.actors.delivery import send
from avm.actors.ending import order_end, refuse_dead
from avm.actors.reasons import reason_of
from avm.errors import ActorDead

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.kernel import Kernel

T = TypeVar("T")


def own(cell: Cell, work: Coroutine[Any, Any, T], *, fatal: bool = True) -> asyncio.Task[T]:
    """Run a coroutine as a task that belongs to an actor and ends with it (S97).

    Args:
        fatal: its failure ends the actor.

    Raises:
        ActorDead: the actor has ended; `work` is closed.
    """
    if not cell.is_alive():
        work.close()
        refuse_dead(cell)
    kernel = cell.kernel
    task = kernel.loop.create_task(_shielded(work))
    cell.extras().tasks[task] = fatal
    kernel.owners[task] = cell
    task.add_done_callback(partial(_ended, cell, work))
    return task


def _ended(cell: Cell, work: Coroutine[Any, Any, Any], task: asyncio.Task[Any]) -> None:
    # It may not have begun.
    work.close()
    cell.kernel.owners.pop(task, None)
    fatal = cell.extras().tasks.pop(task, False)
    if task.cancelled():
        return
    error = task.exception()
    if isinstance(error, Escaped):
        error = error.error
    if error is not None and fatal and cell.is_alive():
        order_end(cell, reason_of(cell.kernel, error))


class Escaped(Exception):
    """What may not leave a task as it is: SystemExit and KeyboardInterrupt would stop the whole loop (S98, S99).

    And a CancelledError of something the task waited for, when nobody cancelled the task, would seem to be no failure.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


async def _shielded(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise Escaped(error) from error
    except asyncio.CancelledError as error:
        if _is_cancelled():
            raise
        raise Escaped(error) from error


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def pipe(
    cell: Cell,
    work: Awaitable[Any],
    into: Callable[[Any], object] | None,
    on_error: Callable[[BaseException], object] | None,
) -> asyncio.Task[None]:
    """Run something beside the mailbox and send what comes of it to the actor; see `Actor.pipe`."""

    async def run() -> None:
        try:
            result = await work
        except (Exception, asyncio.CancelledError) as error:
            if on_error is None or (isinstance(error, asyncio.CancelledError) and _is_cancelled()):
                raise
            event = on_error(error)
        else:
            event = into(result) if into is not None else result
        if event is not None and cell.is_alive():
            send(cell.kernel, cell, cell.pid, event)

    try:
        task = own(cell, run())
    except ActorDead:
        _close(work)
        raise
    # It may not have begun.
    task.add_done_callback(lambda _: _close(work))
    return task


def _close(work: Awaitable[Any]) -> None:
    if isinstance(work, Coroutine):
        work.close()


def run_blocking(kernel: Kernel, function: Callable[..., T], *args: Any) -> Awaitable[T]:
    """Run a function in a thread of the kernel's own pool, with the caller's context variables."""
    if kernel.threads is None:
        kernel.threads = ThreadPoolExecutor(thread_name_prefix="avm-blocking")
    context = contextvars.copy_context()
    return kernel.loop.run_in_executor(kernel.threads, partial(context.run, _in_thread, function, *args))


# A future does not take a StopIteration: whoever waits for it would wait for ever.
def _in_thread(function: Callable[..., T], *args: Any) -> T:
    try:
        return function(*args)
    except StopIteration as error:
        raise RuntimeError("a blocking function raised StopIteration") from error


async def cancel_all(kernel: Kernel) -> None:
    """Cancel the owned tasks of all actors and wait a second for them."""
    tasks = list(kernel.owners)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1.0)
