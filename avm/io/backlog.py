"""The backlog: calls that wait for a worker, in three classes of priority.

Of 21 calls that leave a backlog in which all three classes wait, 16 are `user`, 4 `normal` and 1 `background`: the
urgent go first and nobody starves. Within a class the oldest goes first.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

WEIGHTS = {"user": 16, "normal": 4, "background": 1}


class Queued(Protocol):
    """What a backlog holds."""

    priority: str
    withdrawn: bool


T = TypeVar("T", bound=Queued)


class Backlog(Generic[T]):
    """Three queues and the shares each class has left in this round."""

    __slots__ = ("_credit", "_length", "_queues")

    def __init__(self) -> None:
        self._queues: dict[str, deque[T]] = {priority: deque() for priority in WEIGHTS}
        self._credit = dict(WEIGHTS)
        self._length = 0

    def put(self, call: T) -> None:
        """Add a call behind the others of its class."""
        self._queues[call.priority].append(call)
        self._length += 1

    def take(self) -> T | None:
        """Take the next call, None if nothing waits."""
        while self._length:
            for priority, queue in self._queues.items():
                while queue and queue[0].withdrawn:
                    queue.popleft()
                if queue and self._credit[priority]:
                    self._credit[priority] -= 1
                    self._length -= 1
                    return queue.popleft()
            self._credit = dict(WEIGHTS)
        return None

    def withdraw(self, call: T) -> None:
        """Take a waiting call out; it is forgotten when its turn comes."""
        if not call.withdrawn:
            call.withdrawn = True
            self._length -= 1

    def __len__(self) -> int:
        return self._length
