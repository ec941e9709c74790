"""Requests: many asks at once, their replies taken in the order in which they arrive (S22)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

from avm.actors import tasks
from avm.actors.asking import ask_from
from avm.actors.timers import check_seconds
from avm.errors import AskTimeout

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.destination import Destination


class Requests:
    """Requests under way, each with a label of the caller's; replies are taken in the order they arrive (S22)."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._labels: dict[asyncio.Task[Any], object] = {}

    def add(self, label: object, dest: Destination, request: object) -> None:
        """Send a request; its reply is waited for without limit until `receive` or `wait` say otherwise."""
        me = self._cell
        task = tasks.own(me, ask_from(me.kernel, me, dest, request, None), fatal=False)
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
        await self._one_is_done(timeout)
        first = next((task for task in self._labels if task.done()), None)
        if first is None:
            raise AskTimeout(f"none of {len(self._labels)} requests was answered in {timeout} s.")
        label = self._labels.pop(first)
        error = first.exception()
        if isinstance(error, tasks.Escaped):
            error = error.error
        return label, error if error is not None else first.result()

    # Returns when a request is done or `timeout` seconds of the VM's clock are over.
    async def _one_is_done(self, timeout: float | None) -> None:
        if timeout is None:
            await asyncio.wait(self._labels, return_when=asyncio.FIRST_COMPLETED)
            return
        kernel = self._cell.kernel
        over: asyncio.Future[None] = kernel.loop.create_future()
        timer = kernel.timers.after(check_seconds(timeout, "timeout"), partial(over.set_result, None))
        try:
            await asyncio.wait((*self._labels, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            kernel.timers.cancel(timer)

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
