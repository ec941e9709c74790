"""The task inside an `async with VM(...)` block, and how the VM interrupts it.

Interrupting is a cancellation that the VM takes back when it leaves the block, exactly as `asyncio.timeout`
does: if someone else cancelled the task too, that cancellation goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Body:
    """One task that can be interrupted for as long as it is in the block."""

    __slots__ = ("_cancelling", "_interruptions", "_left", "_patient", "task")

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task = task
        self._cancelling = task.cancelling()
        self._interruptions = 0
        self._left = False
        self._patient = 0

    def interrupt(self) -> None:
        """Cancel the task at its present `await`, once; not if it waits for the end anyway."""
        if not self._interruptions and not self._patient:
            self.insist()

    def insist(self) -> None:
        """Cancel the task at its present `await`, whatever it waits for and however often it was."""
        if not self._left and not self.task.done():
            self._interruptions += 1
            self.task.cancel()

    @contextmanager
    def patient(self) -> Iterator[None]:
        """A section that need not be interrupted, because it ends when the VM does."""
        here = asyncio.current_task() is self.task
        self._patient += here
        try:
            yield
        finally:
            self._patient -= here

    async def leave(self, error: BaseException | None) -> bool:
        """Take the interruptions back; tell whether the error that leaves the block is nothing but these."""
        self._left = True
        if not self._interruptions:
            return False
        if not isinstance(error, asyncio.CancelledError):
            await self._take_undelivered()
        for _ in range(self._interruptions):
            self.task.uncancel()
        foreign = self.task.cancelling() > self._cancelling
        return isinstance(error, asyncio.CancelledError) and not foreign

    # The block ended before its next `await`, where the cancellation still stands.
    async def _take_undelivered(self) -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if self.task.cancelling() - self._interruptions > self._cancelling:
                raise
