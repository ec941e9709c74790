"""The ready queue: what can run now, by priority, first in first out within one.

`user` goes before `normal` goes before `background`. So that nobody starves, a lane that has stood behind higher ones
for too long gets a share of the slices: its longest waiting are moved to the very front.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Literal, TypeVar, get_args

T = TypeVar("T")

Priority = Literal["user", "normal", "background"]
PRIORITIES: tuple[str, ...] = get_args(Priority)


class _Patience:
    """How long a lane has stood behind others, and how many slices went by meanwhile."""

    __slots__ = ("seconds", "share", "since", "slices")

    def __init__(self, seconds: float, share: int) -> None:
        self.seconds = seconds
        self.share = share
        self.since: float | None = None
        self.slices = 0

    def due(self, stands_behind: bool, now: float, slices: int) -> int:
        """Return how many are to be moved to the front now."""
        if not stands_behind:
            self.since = None
            return 0
        if self.since is None:
            self.since = now
            self.slices = 0
        self.slices += slices
        if now - self.since < self.seconds:
            return 0
        self.since = None
        return max(1, self.slices // self.share)


class ReadyQueue(Generic[T]):
    """Three queues. The lanes are public because those who make things ready append to them directly."""

    __slots__ = ("_background_patience", "_normal_patience", "background", "normal", "user")

    def __init__(self) -> None:
        self.user: deque[T] = deque()
        self.normal: deque[T] = deque()
        self.background: deque[T] = deque()
        # Seconds after which, and one in how many slices.
        self._normal_patience = _Patience(0.01, 8)
        self._background_patience = _Patience(0.05, 32)

    def lane(self, priority: str) -> deque[T]:
        """Return the queue of one priority."""
        if priority == "normal":
            return self.normal
        return self.user if priority == "user" else self.background

    def age(self, now: float, slices: int) -> None:
        """Give lower lanes their share.

        Args:
            now: seconds on any clock that is used for all calls.
            slices: how many were run since the last call.
        """
        normal = self._normal_patience.due(bool(self.normal and self.user), now, slices)
        behind = bool(self.background and (self.user or self.normal))
        background = self._background_patience.due(behind, now, slices)
        promoted = [self.normal.popleft() for _ in range(min(normal, len(self.normal)))]
        promoted += [self.background.popleft() for _ in range(min(background, len(self.background)))]
        self.user.extendleft(reversed(promoted))

    def __len__(self) -> int:
        return len(self.user) + len(self.normal) + len(self.background)

    def __bool__(self) -> bool:
        return bool(self.user or self.normal or self.background)
