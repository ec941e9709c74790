"""Timers on the VM's clock: one heap of (deadline, sequence), so equal deadlines fire in creation order (S88).

asyncio keeps no such order and uvloop fires up to a millisecond early; here a timer never fires before its deadline
by the clock (S87). Deadlines of asks, of which there are very many and nearly all are never reached, are kept in
`Deadlines`: one queue for each length of time, so that adding and forgetting one costs no heap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Any

from avm.scheduler import Clock, TimerHandle


class Timer:
    """One pending call. `action` is None once it fired or was cancelled. `kept_in`: who forgets it then; see `keep`."""

    __slots__ = ("action", "deadline", "kept_in", "sequence")

    def __init__(self, deadline: float, sequence: int, action: Callable[[], None]) -> None:
        self.deadline = deadline
        self.sequence = sequence
        self.action: Callable[[], None] | None = action
        self.kept_in: tuple[dict[Timer, None], ...] = ()

    def __lt__(self, other: Timer) -> bool:
        if self.deadline == other.deadline:
            return self.sequence < other.sequence
        return self.deadline < other.deadline


class TimerRef:
    """What `send_after` and `send_interval` return: cancel it with `cancel`."""

    __slots__ = ("timer",)

    def __init__(self, timer: Timer) -> None:
        # The timer that is armed now; an interval puts in the next one at each tick.
        self.timer = timer


class Timers:
    """All timers of a kernel."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[Timer] = []
        self._sequence = 0
        self._cancelled = 0
        self._handle: TimerHandle | None = None
        self._armed_for = float("inf")
        self._firing = False

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def at(self, deadline: float, action: Callable[[], None]) -> Timer:
        """Call `action` at `deadline` (seconds on the clock) or as soon after as the loop turns."""
        self._sequence += 1
        timer = Timer(deadline, self._sequence, action)
        heappush(self._heap, timer)
        if deadline < self._armed_for and not self._firing:
            self._arm(deadline)
        return timer

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Call `action` in `seconds`."""
        return self.at(self._clock.now() + seconds, action)

    def cancel(self, timer: Timer) -> float | None:
        """Forget a timer; return the seconds that were left, None if it has fired or was cancelled before (S86)."""
        if timer.action is None:
            return None
        timer.action = None
        _forget(timer)
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
            self._heap = [t for t in self._heap if t.action is not None]
            heapify(self._heap)
            self._cancelled = 0
        return max(0.0, timer.deadline - self._clock.now())

    async def sleep(self, seconds: float) -> None:
        """Return in `seconds`, never earlier (S87)."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.after(seconds, partial(_wake, woken))
        try:
            await woken
        finally:
            self.cancel(timer)

    def close(self) -> None:
        """Forget everything."""
        self._heap.clear()
        self._cancelled = 0
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, deadline: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed_for = deadline
        self._handle = self._clock.call_at(deadline, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._armed_for = float("inf")
        self._firing = True
        now = self._clock.now()
        heap = self._heap
        # What an action schedules for "now" waits for the next turn, or a zero interval would hold the loop.
        last = self._sequence
        held: list[Timer] = []
        try:
            while heap and heap[0].deadline <= now:
                timer = heappop(heap)
                action = timer.action
                if action is None:
                    self._cancelled -= 1
                elif timer.sequence > last:
                    held.append(timer)
                else:
                    timer.action = None
                    if timer.kept_in:
                        _forget(timer)
                    action()
                heap = self._heap
        finally:
            for timer in held:
                heappush(self._heap, timer)
            self._firing = False
            if self._heap:
                self._arm(self._heap[0].deadline)


def keep(timer: Timer, *owners: dict[Timer, None]) -> None:
    """Let each of some actors keep a timer among its own, until it fires or is cancelled."""
    timer.kept_in = owners
    for owner in owners:
        owner[timer] = None


def _forget(timer: Timer) -> None:
    for owner in timer.kept_in:
        owner.pop(timer, None)
    timer.kept_in = ()


Waiting = tuple[float, "asyncio.Future[Any]", Callable[[float, Any, Any], BaseException], Any, Any]
MIN_PRUNE = 64
MIN_SWEEP = 64


class _Lane:
    """Deadlines of one length of time, in order. `prune_at`: the length at which what is done is forgotten.

    `timer` is armed for the first of them, or for one before it that was forgotten.
    """

    __slots__ = ("prune_at", "timer", "waiting")

    def __init__(self, timer: Timer) -> None:
        self.waiting: deque[Waiting] = deque()
        self.prune_at = MIN_PRUNE
        self.timer = timer


class Deadlines:
    """Deadlines of asks: a lane per length of time, each in order of its deadlines; one timer for each lane."""

    def __init__(self, timers: Timers, now: Callable[[], float]) -> None:
        self._timers = timers
        self._now = now
        self._lanes: dict[float, _Lane] = {}
        self._sweep_at = MIN_SWEEP

    def add(
        self,
        seconds: float,
        future: asyncio.Future[Any],
        error: Callable[[float, Any, Any], BaseException],
        who: Any = None,
        what: Any = None,
    ) -> None:
        """Fail `future` with `error(seconds, who, what)` in `seconds` unless it is done: a reply wins (S15)."""
        try:
            lane = self._lanes[seconds]
        except KeyError:
            lane = self._new_lane(seconds)
        waiting = lane.waiting
        waiting.append((self._now() + seconds, future, error, who, what))
        if len(waiting) >= lane.prune_at:
            self._prune(lane)

    def forget_failed(self) -> None:
        """Let go of asks that have failed: an error holds the frames it went through, and all that is in them."""
        for lane in self._lanes.values():
            # Long lanes see to it by themselves, often enough.
            if len(lane.waiting) < MIN_PRUNE:
                self._prune(lane)

    def pending(self) -> int:
        """Count the deadlines kept, reached or not."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    def _new_lane(self, seconds: float) -> _Lane:
        if len(self._lanes) >= self._sweep_at:
            self._sweep()
        lane = _Lane(self._timers.at(self._now() + seconds, partial(self._expire, seconds)))
        self._lanes[seconds] = lane
        return lane

    # So many lengths of time: forget those for which nobody waits any more. Amortised, as below.
    def _sweep(self) -> None:
        for seconds, lane in list(self._lanes.items()):
            self._prune(lane)
            if not lane.waiting:
                self._timers.cancel(lane.timer)
                del self._lanes[seconds]
        self._sweep_at = max(MIN_SWEEP, 2 * len(self._lanes))

    # Amortised, an ask pays for looking at two entries.
    def _prune(self, lane: _Lane) -> None:
        live = [entry for entry in lane.waiting if not entry[1].done()]
        lane.waiting.clear()
        lane.waiting.extend(live)
        lane.prune_at = max(MIN_PRUNE, 2 * len(live))

    def _expire(self, seconds: float) -> None:
        lane = self._lanes[seconds]
        waiting = lane.waiting
        now = self._now()
        while waiting and (waiting[0][0] <= now or waiting[0][1].done()):
            _, future, error, who, what = waiting.popleft()
            if not future.done():
                future.set_exception(error(seconds, who, what))
        if waiting:
            lane.timer = self._timers.at(waiting[0][0], partial(self._expire, seconds))
        else:
            del self._lanes[seconds]


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def check_seconds(seconds: object, what: str) -> float:
    """Return a length of time as a float.

    Args:
        what: the name of the argument, for the error.

    Raises:
        ValueError: it is not a number of seconds, 0 or more.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise ValueError(f"{what} must be a number of seconds, 0 or more, got {seconds!r}.")
    return float(seconds)
