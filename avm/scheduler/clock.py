"""The clock of a VM: one monotonic time, handed in, so that windows, timeouts and backoff can be tested (S103)."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol


class TimerHandle(Protocol):
    """What `Clock.call_at` returns."""

    def cancel(self) -> None:
        """Forget the call. No error if it has happened."""


class Clock(Protocol):
    """Monotonic seconds and a way to be called at one."""

    def now(self) -> float:
        """Return the time in seconds; never goes back."""

    def call_at(self, when: float, callback: Callable[[], None]) -> TimerHandle:
        """Call back on the loop's thread at `when` or later. May be early; the caller looks at `now` again (S87)."""


class LoopClock:
    """The real clock: `time.monotonic` and the timers of an asyncio loop."""

    __slots__ = ("_loop", "now")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = time.monotonic

    def call_at(self, when: float, callback: Callable[[], None]) -> TimerHandle:
        """Call back when the loop gets there; a time in the past means at the next turn.

        uvloop cuts delays to whole milliseconds, so it would be early, and again, and spin until the time has come:
        the delay is rounded up to the next millisecond.
        """
        delay = when - self.now()
        return self._loop.call_later(math.ceil(delay * 1000.0) / 1000.0 if delay > 0.0 else 0.0, callback)
