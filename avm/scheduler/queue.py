"""The ready queue: what can run now, by priority, first in first out within one.

`user` goes before `normal` goes before `background`. So that nobody starves, the scheduler calls `age` after each
batch: the longest waiting of each lower priority is moved to the very front.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Literal, TypeVar, get_args

T = TypeVar("T")

Priority = Literal["user", "normal", "background"]
PRIORITIES: tuple[str, ...] = get_args(Priority)


class ReadyQueue(Generic[T]):
    """Three queues. The lanes are public because those who make things ready append to them directly."""

    __slots__ = ("background", "normal", "user")

    def __init__(self) -> None:
        self.user: deque[T] = deque()
        self.normal: deque[T] = deque()
        self.background: deque[T] = deque()

    def lane(self, priority: str) -> deque[T]:
        """Return the queue of one priority."""
        if priority == "normal":
            return self.normal
        return self.user if priority == "user" else self.background

    def age(self) -> None:
        """Move the head of each lower lane to the front, if a higher lane would go before it."""
        if self.background and (self.user or self.normal):
            self.user.appendleft(self.background.popleft())
        if self.normal and self.user:
            self.user.appendleft(self.normal.popleft())

    def __len__(self) -> int:
        return len(self.user) + len(self.normal) + len(self.background)

    def __bool__(self) -> bool:
        return bool(self.user or self.normal or self.background)
