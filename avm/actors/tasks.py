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
    task.add_done_callback(partial(_ended, cell))
    return task


def _ended(cell: Cell, task: asyncio.Task[Any]) -> None:
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
    """What would stop the whole loop if it left a task: SystemExit or KeyboardInterrupt (S98, S99)."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


async def _shielded(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise Escaped(error) from error


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
        except Exception as error:
            if on_error is None:
                raise
            event = on_error(error)
        else:
            event = into(result) if into is not None else result
        if event is not None and cell.is_alive():
            send(cell.kernel, cell, cell.pid, event)

    return own(cell, run())


def run_blocking(kernel: Kernel, function: Callable[..., T], *args: Any) -> Awaitable[T]:
    """Run a function in a thread of the kernel's own pool, with the caller's context variables."""
    if kernel.threads is None:
        kernel.threads = ThreadPoolExecutor(thread_name_prefix="avm-blocking")
    context = contextvars.copy_context()
    return kernel.loop.run_in_executor(kernel.threads, partial(context.run, function, *args))


async def cancel_all(kernel: Kernel) -> None:
    """Cancel the owned tasks of all actors and wait a second for them."""
    tasks = list(kernel.owners)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1.0)
