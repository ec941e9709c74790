"""Stopping others: the order to end, and waiting for the end (S35)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avm.actors.destination import cell_of, nobody, resolve
from avm.actors.ending import exit_signal, kill_below, order_end
from avm.actors.reasons import describe
from avm.actors.signals import Normal, Shutdown, is_abnormal
from avm.actors.timers import check_seconds
from avm.errors import ActorDead, AskTimeout, CallingSelf, StopError

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.destination import Destination
    from avm.actors.kernel import Kernel


def send_exit(kernel: Kernel, sender: Cell | None, dest: Destination, reason: object) -> None:
    """Send an exit signal (S36); nothing happens if nobody is there.

    Raises:
        ActorDead: the sender has ended.
    """
    target = resolve(kernel, dest)
    if target is not None:
        if sender is not None and not sender.is_alive():
            raise ActorDead(f"{sender.pid_text} has ended; its handler may not send exit signals any more.")
        exit_signal(target, sender, reason, via_link=False)


async def stop_living(kernel: Kernel, dest: Destination, reason: object, timeout: float | None) -> None:
    """End an actor that lives, and be sure that it ended as it was told; see `Kernel.stop_actor`."""
    target = resolve(kernel, dest)
    if target is None:
        raise nobody(kernel, dest)
    wanted = Normal() if reason is None else reason
    found = await stop_and_wait(kernel, kernel.current(), target.pid, wanted, timeout)
    if is_abnormal(found) and found != wanted:
        cause = found if isinstance(found, BaseException) else None
        raise StopError(
            f"{target.pid_text} ended with {describe(found)} when told to stop.", found
        ) from cause


async def stop_and_wait(
    kernel: Kernel, sender: Cell | None, dest: Destination, reason: object, timeout: float | None
) -> object:
    """Order an end and wait for it, `timeout` seconds or for ever; return the reason. See `Actor.stop_actor`."""
    if timeout is not None:
        check_seconds(timeout, "timeout")
    target = cell_of(kernel, dest)
    if target is sender:
        raise CallingSelf(f"{target.pid_text} waits for its own end; use self.stop().", (target.pid_text,))
    if target.is_alive():
        order_end(target, reason)
    if not target.is_alive():
        return target.reason
    waiter = _waiter(target)
    if timeout is not None:
        kernel.deadlines.add(timeout, waiter, _too_late, target)
    return await waiter


async def wait_stopped(kernel: Kernel, dest: Destination) -> object:
    """Wait for the end of an actor and return its reason; at once if it has ended.

    Raises:
        CallingSelf: its own handler waits for it. A task beside its mailbox may: that ends with it.
    """
    target = cell_of(kernel, dest)
    if target is kernel.current() and kernel.owners.get(asyncio.current_task()) is None:  # type: ignore[arg-type]
        raise CallingSelf(f"{target.pid_text} waits for its own end; use self.stop().", (target.pid_text,))
    return target.reason if not target.is_alive() else await _waiter(target)


async def stop_all(kernel: Kernel, timeout: float) -> None:
    """End all actors, youngest first and in order; kill what has not ended in `timeout` seconds (S102)."""
    for child in reversed(list((kernel.root.children or {}).values())):
        order_end(child, Shutdown())
    deadline = kernel.loop.time() + timeout
    while (left := list(kernel.tree)) and kernel.loop.time() < deadline:
        waiters = [_waiter(cell) for cell in left]
        await asyncio.wait(waiters, timeout=deadline - kernel.loop.time())
    kill_below(kernel.root)
    while orphans := list(kernel.tree.orphans):
        for orphan in orphans:
            kill_below(orphan)
            orphan.kill()


def _waiter(cell: Cell) -> asyncio.Future[object]:
    waiter: asyncio.Future[object] = cell.kernel.loop.create_future()
    cell.extras().waiters.append(waiter)
    return waiter


def _too_late(timeout: float, target: Cell, _: object) -> AskTimeout:
    return AskTimeout(f"{target.pid_text} has not ended in {timeout} s; the order stands.")
