"""The life of one VM: start, what can end it early, stop. `VM` is the face of it.

Whatever ends a VM early goes through `_end_early`: the first cause is kept, whoever waits for the end is
told, and the task inside the block is interrupted. The actors are stopped when the block is left, so that
its own clean-up still finds them; a block that does not let go has as long as stopping may take, then the
actors are stopped anyway.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import cast

from avm.actors.cell import Cell
from avm.actors.kernel import Kernel
from avm.actors.reasons import describe
from avm.actors.ref import Ref
from avm.actors.signals import Shutdown, is_abnormal
from avm.errors import AskTimeout, Interrupted, VMError
from avm.io.pool import NAME as POOL
from avm.io.pool import TOOLS, IoFront
from avm.io.request import PoolStatistics
from avm.memory import Store
from avm.router import Router
from avm.supervision import ChildSpec, start_tree
from avm.supervision.lifecycle import GaveUp
from avm.vm.body import Body
from avm.vm.collector import COLLECTOR
from avm.vm.parts import SYSTEM, Parts
from avm.vm.signals import CURRENT, StopSignals, signal_name
from avm.vm.watchdog import Watchdog

_log = logging.getLogger("avm")


class Life:
    """A VM that has begun. Made by `begin`, ended by `leave`."""

    def __init__(self, parts: Parts, stop_timeout: float, body: Body) -> None:
        self.parts = parts
        self.store: Store | None = parts.make_store()
        self.kernel: Kernel = parts.make_kernel(self.store)
        self.began = self.kernel.now()
        self._body = body
        self._stop_timeout = stop_timeout
        self._resources = AsyncExitStack()
        self._over: asyncio.Future[None] = self.kernel.loop.create_future()
        self._cause: VMError | None = None
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping: asyncio.Task[None] | None = None
        self._impatience: asyncio.TimerHandle | None = None

    @classmethod
    async def begin(cls, parts: Parts, stop_timeout: float, handle_signals: bool) -> Life:
        """Start everything.

        Raises:
            StartError: part of a tree failed; nothing is left, and `path` leads to it (S91).
        """
        task = asyncio.current_task()
        assert task is not None
        life = cls(parts, stop_timeout, Body(task))
        try:
            await life._start(handle_signals)
        except BaseException as error:
            await life.leave(error)
            raise
        return life

    # Starting.

    async def _start(self, handle_signals: bool) -> None:
        COLLECTOR.hold()
        self._resources.callback(COLLECTOR.release)
        kernel, parts = self.kernel, self.parts
        if self.store is not None:
            # After all else: what the last handlers committed is written then.
            self._resources.push_async_callback(self._close_store, self.store)
        await self._resources.enter_async_context(kernel)
        kernel.services["router"] = Router(kernel, store=self.store)
        kernel.on_interrupt = self._interrupted_within
        kernel.on_bug = self._bug
        if parts.watchdog is not None:
            watchdog = Watchdog(kernel, parts.watchdog, parts.runaway)
            watchdog.start()
            self._resources.callback(watchdog.close)
        self._listen(handle_signals)
        await self._start_tree(parts.system_tree(self.store))
        for service, name in (("io", POOL), ("tools", TOOLS)):
            found = kernel.whereis(name)
            assert found is not None
            kernel.services[service] = found
        if parts.tree is not None:
            await self._start_tree(parts.tree)

    def _listen(self, handle_signals: bool) -> None:
        signals = CURRENT.get()
        if signals is None and handle_signals:
            signals = StopSignals(lambda signum: None)
            self._resources.enter_context(signals.installed())
        if signals is not None:
            self._resources.enter_context(signals.listening(self))

    async def _start_tree(self, tree: ChildSpec) -> None:
        ref = await start_tree(self.kernel, tree)
        self._watchers.append(self.kernel.loop.create_task(self._watch(ref), name=f"avm-watch-{tree.id}"))

    # What ends it early.

    async def _watch(self, ref: Ref) -> None:
        reason = await self.kernel.wait_stopped(ref)
        if self._stopping is not None:
            return
        if ref.id == SYSTEM or is_abnormal(reason) or _gave_up(reason):
            self._end_early(_failure(ref.path, reason))
        elif not self._over.done():
            self._over.set_result(None)

    def _interrupted_within(self) -> None:
        self._end_early(Interrupted("stopped by a KeyboardInterrupt in a handler."))

    def _bug(self, error: BaseException) -> None:
        failure = VMError(
            f"the runtime itself failed ({describe(error)}); this is a bug in avm, please report it."
        )
        failure.__cause__ = error
        self._end_early(failure)

    def stop_soon(self, signum: int) -> None:
        """End in order because of a signal."""
        self._end_early(Interrupted(f"stopped by {signal_name(signum)}.", signum))

    def kill_all(self) -> None:
        """End at once; leaving the block has nothing to wait for any more."""
        if isinstance(self._cause, Interrupted):
            self._cause = Interrupted("killed by a second SIGINT before it had stopped.", self._cause.signum)
        for cell in list(self.kernel.cells()):
            cell.kill()
        self._body.insist()

    def _end_early(self, cause: VMError) -> None:
        if self._cause is not None or self._stopping is not None:
            return
        self._cause = cause
        if not self._over.done():
            self._over.set_result(None)
        self._body.interrupt()
        self._impatience = self.kernel.loop.call_later(self._stop_timeout, self._stop_anyway)

    async def wait_stopped(self) -> None:
        """Wait until the user's tree has ended, or something ends the VM."""
        with self._body.patient():
            await asyncio.shield(self._over)

    # Stopping.

    async def leave(self, error: BaseException | None) -> None:
        """Stop everything, then raise what ended the VM early.

        An error of the block's own goes on instead, with a note of what else went wrong; but not if the VM was told
        to stop, for then it is a consequence of that.
        """
        try:
            interrupted = await self._body.leave(error)
        finally:
            await self._end()
        cause = self._cause
        if cause is None:
            return
        if error is None or interrupted:
            raise cause
        if isinstance(cause, Interrupted) and isinstance(error, Exception):
            raise cause from error
        error.add_note(f"The VM had ended: {cause}")

    async def _end(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
        stopping = self._stop_anyway()
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            # Whoever cancels the stop wants it over: what still lives is killed.
            for cell in list(self.kernel.cells()):
                cell.kill()
            await stopping
            raise
        finally:
            for watcher in self._watchers:
                watcher.cancel()
            await asyncio.gather(*self._watchers, return_exceptions=True)
            await self._resources.aclose()
            if not self._over.done():
                self._over.set_result(None)

    def _stop_anyway(self) -> asyncio.Task[None]:
        if self._stopping is None:
            self._stopping = self.kernel.loop.create_task(self._stop(), name="avm-stop")
        return self._stopping

    async def _stop(self) -> None:
        kernel = self.kernel
        until = kernel.now() + self._stop_timeout
        late: list[str] = []
        for cell in reversed(list((kernel.root.children or {}).values())):
            late += await self._stop_one(cell, until - kernel.now())
        if late:
            shown = ", ".join(late[:10]) + (f" and {len(late) - 10} more" if len(late) > 10 else "")
            _log.warning("stopping took more than stop_timeout=%g s; killed: %s", self._stop_timeout, shown)

    # Returns the paths of those that had to be killed.
    async def _stop_one(self, cell: Cell, seconds: float) -> list[str]:
        if not cell.is_alive():
            return []
        try:
            await self.kernel.stop_and_wait(None, cell.pid, Shutdown(), max(0.0, seconds))
            return []
        except AskTimeout:
            below = _tree(cell)
            late = [each.path for each in below]
            # From the leaves up, or a supervisor would hear of each end and report it.
            for each in reversed(below):
                each.kill()
            return late

    # The disk may take its time, and the loop goes on meanwhile.
    async def _close_store(self, store: Store) -> None:
        archive = store.need_archive() if store.has_archive else None
        if archive is not None:
            closing = self.kernel.loop.run_in_executor(None, archive.writer.close)
            while not closing.done():
                _, waiting = await asyncio.wait([closing], timeout=self._stop_timeout)
                if waiting:
                    _log.warning("what was committed waits for the disk: %s", archive.path)
            closing.exception()
        store.close()

    # Looking at it.

    def pool_statistics(self) -> PoolStatistics | None:
        """Read the pool's statistics; None while its front is being restarted."""
        front = self.kernel.names.whereis(POOL)
        return (
            cast(IoFront, front.actor).statistics() if front is not None and front.actor is not None else None
        )


def _tree(cell: Cell) -> list[Cell]:
    found = [cell]
    for each in found:
        found.extend((each.children or {}).values())
    return found


def _gave_up(reason: object) -> bool:
    return isinstance(reason, Shutdown) and isinstance(reason.detail, GaveUp)


def _failure(path: str, reason: object) -> VMError:
    if _gave_up(reason):
        return VMError(str(cast(Shutdown, reason).detail))
    error = VMError(f"{path!r} ended ({describe(reason)}), and the VM with it.")
    if isinstance(reason, BaseException):
        error.__cause__ = reason
    return error
