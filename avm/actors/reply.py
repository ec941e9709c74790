"""Replies that come later, and many at once (S17, S22)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from avm.actors.event import seal
from avm.errors import AskTimeout

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.kernel import Destination


class PendingReply:
    """The right to answer one request: may be kept, and handed to a task or another actor of this VM (S17).

    The first answer wins, later ones are dropped and counted. If the actor that took it ends first, whoever asked
    gets ActorExited. For an event that nobody waits for, answering does nothing.
    """

    __slots__ = ("_cell", "_future")

    def __init__(self, cell: Cell, future: asyncio.Future[Any] | None) -> None:
        self._cell = cell
        self._future = future

    @classmethod
    def of_current(cls, cell: Cell) -> PendingReply:
        """Take over the reply to what the actor is handling now."""
        current = cell.current
        future = current[2] if current is not None else None
        if current is not None:
            more = cell.extras()
            more.deferred = True
            cell.alert = True
            cell.letter = (current[0], current[1], None, current[3])
            if future is not None and not future.done():
                more.owed[future] = None
                future.add_done_callback(lambda done: more.owed.pop(done, None))
        return cls(cell, future)

    @property
    def is_waited_for(self) -> bool:
        """Tell whether someone still waits for it."""
        return self._future is not None and not self._future.done()

    def send(self, value: object = None) -> None:
        """Answer.

        Raises:
            PackError: the value cannot leave this actor (S4).
        """
        kernel = self._cell.kernel
        sealed, _ = seal(value, kernel.put)
        if self._future is None:
            return
        if self._future.done():
            kernel.late_replies += 1
        else:
            self._future.set_result(sealed)

    def fail(self, error: BaseException) -> None:
        """Answer with an error, which is raised where it was asked."""
        if self._future is None:
            return
        if self._future.done():
            self._cell.kernel.late_replies += 1
        else:
            self._future.set_exception(error)
            self._future.exception()


class Requests:
    """Requests under way, each with a label of the caller's; replies are taken in the order they arrive (S22)."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._labels: dict[asyncio.Task[Any], object] = {}

    def add(self, label: object, dest: Destination, request: object) -> None:
        """Send a request; its reply is waited for without limit until `receive` or `wait` say otherwise."""
        kernel = self._cell.kernel
        task = kernel.own(self._cell, kernel.ask_from(self._cell, dest, request, None), fatal=False)
        self._labels[task] = label

    def __len__(self) -> int:
        return len(self._labels)

    async def wait(self, timeout: float | None = None) -> tuple[object, Any]:
        """Return label and reply of the next to arrive. On a timeout all requests stay valid.

        A reply that is an error is returned, not raised.

        Raises:
            AskTimeout: none arrived in time. LookupError: no request is under way.
        """
        if not self._labels:
            raise LookupError("no request is under way; add() one first.")
        done, _ = await asyncio.wait(self._labels, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise AskTimeout(f"none of {len(self._labels)} requests was answered in {timeout} s.")
        first = next(task for task in self._labels if task in done)
        label = self._labels.pop(first)
        error = first.exception()
        return label, error if error is not None else first.result()

    async def receive(self, timeout: float | None = None) -> tuple[object, Any]:
        """As `wait`, but a timeout abandons all requests: their replies will be dropped."""
        try:
            return await self.wait(timeout)
        except AskTimeout:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Drop all requests under way."""
        for task in self._labels:
            task.cancel()
        self._labels.clear()

    async def __aiter__(self) -> AsyncIterator[tuple[object, Any]]:
        while self._labels:
            yield await self.wait()
