"""Timers, tasks and futures with a number, by which they are ordered and hashed: the same in every process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from avm.testing.loop import SimulatedLoop

T = TypeVar("T")


class NumberedTimer(asyncio.TimerHandle):
    """A timer with a number, so that those of one moment have an order."""

    __slots__ = ("number",)
    number: int

    def __lt__(self, other: Any) -> bool:
        mine, its = self.when(), other.when()
        return self.number < other.number if mine == its else bool(mine < its)


class SimulatedTask(asyncio.Task[T]):
    """A task whose hash is its number."""

    def __new__(cls, coro: Any, *, loop: SimulatedLoop, **options: Any) -> SimulatedTask[T]:
        task = super().__new__(cls)
        task.number = loop.next_number()
        return task

    number: int

    def __hash__(self) -> int:
        return self.number


class SimulatedFuture(asyncio.Future[T]):
    """A future whose hash is its number."""

    def __init__(self, *, loop: SimulatedLoop) -> None:
        super().__init__(loop=loop)
        self.number = loop.next_number()

    def __hash__(self) -> int:
        return self.number
