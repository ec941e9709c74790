"""A clock that stands still until it is told to go on: timeouts, windows and backoff tested without sleeping (S103)."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush


class _Call:
    """One pending call."""

    __slots__ = ("callback", "number", "when")

    def __init__(self, when: float, number: int, callback: Callable[[], None]) -> None:
        self.when = when
        self.number = number
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget it."""
        self.callback = None

    def __lt__(self, other: _Call) -> bool:
        return (self.when, self.number) < (other.when, other.number)


class ManualClock:
    """Time for a `Kernel` or `VM`: pass it as `clock=` and move it with `advance`.

    Args:
        start: the first value of `now`, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._calls: list[_Call] = []
        self._number = 0

    def now(self) -> float:
        """Return the time in seconds."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> _Call:
        """Call back as soon as `advance` reaches `when`."""
        self._number += 1
        call = _Call(when, self._number, callback)
        heappush(self._calls, call)
        return call

    def advance(self, seconds: float) -> None:
        """Let time pass; whatever becomes due is called in order, each at its own time. Actors run afterwards."""
        if seconds < 0:
            raise ValueError(f"time cannot go back: seconds must be 0 or more, got {seconds!r}.")
        end = self._now + seconds
        while self._calls and self._calls[0].when <= end:
            call = heappop(self._calls)
            self._now = max(self._now, call.when)
            if call.callback is not None:
                call.callback()
        self._now = end
