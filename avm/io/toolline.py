"""What the tool gate keeps its books with: limits of tools, flights and who waits for them, lanes and their lines.

    CallTool -> Waiter -> Flight (in the Line of its Lane) -> a worker of the Lane -> outcome -> each Waiter

Plain objects: none has a clock or a timer. What depends on time is given it, in seconds of the VM's clock.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import attrs

from avm.actors.actor import Actor
from avm.actors.ref import Pid
from avm.actors.reply import PendingReply
from avm.errors import ToolDefinitionError, ToolError
from avm.io.backlog import WEIGHTS
from avm.io.request import CallTool, ToolCall

SPARE_LIMITS = 64
"""Tools with limits that are remembered before those at rest are forgotten."""


# Limits.


@attrs.define(slots=True, eq=False)
class ToolLimit:
    """What one tool allows: `concurrency` calls under way at once, and `rate` calls a second by a token bucket."""

    tool: Any
    concurrency: int | None
    rate: float | None
    flights: int = 0
    """Under way or in line."""
    under_way: int = 0
    tokens: float = 0.0
    filled: float = 0.0
    """When `tokens` was counted; VM clock."""

    @property
    def burst(self) -> float:
        """Calls that may begin at once after a rest."""
        return max(1.0, self.rate or 0.0)

    def fill(self, now: float) -> None:
        """Count what has come into the bucket until now."""
        if self.rate is not None:
            self.tokens = min(self.burst, self.tokens + max(0.0, now - self.filled) * self.rate)
            self.filled = now

    def ready_in(self, now: float) -> float:
        """Return the seconds until one more call may begin; infinity when that takes the end of another."""
        if self.concurrency is not None and self.under_way >= self.concurrency:
            return math.inf
        if self.rate is None:
            return 0.0
        self.fill(now)
        # A timer that fires on time may find the last token full but for a rounding error.
        return 0.0 if self.tokens >= 1.0 - 1e-9 else (1.0 - self.tokens) / self.rate

    def begin(self) -> None:
        """One more call is under way; only after `ready_in` said 0."""
        self.under_way += 1
        self.tokens -= 1.0

    def is_spare(self, now: float) -> bool:
        """Tell whether nothing is lost when it is forgotten."""
        self.fill(now)
        return self.flights == 0 and (self.rate is None or self.tokens >= self.burst)


class ToolLimits:
    """The limits of tools that have any; those of tools at rest are forgotten in time."""

    def __init__(self) -> None:
        self._limits: dict[int, ToolLimit] = {}
        self._spare = SPARE_LIMITS

    def of(self, request: CallTool, now: float) -> ToolLimit | None:
        """Return the limit of the tool that is called, made at its first call; None if it has none.

        Raises:
            ToolDefinitionError: its limits cannot be right; says which and why.
        """
        tool = request.tool
        concurrency, rate = getattr(tool, "concurrency", None), getattr(tool, "rate", None)
        if concurrency is None and rate is None:
            return None
        limit = self._limits.get(id(tool))
        if limit is None:
            wrong = wrong_limit(concurrency, rate)
            if wrong:
                raise ToolDefinitionError(f"tool {request.call.name!r}: {wrong}.")
            if len(self._limits) >= self._spare:
                self._forget(now)
            limit = self._limits[id(tool)] = ToolLimit(tool, concurrency, rate, filled=now)
            limit.tokens = limit.burst
        return limit

    # Tools may be made by the thousand. The more are in use, the less often they are gone through.
    def _forget(self, now: float) -> None:
        self._limits = {number: limit for number, limit in self._limits.items() if not limit.is_spare(now)}
        self._spare = max(SPARE_LIMITS, 2 * len(self._limits))

    def __iter__(self) -> Iterator[ToolLimit]:
        return iter(self._limits.values())

    def __len__(self) -> int:
        return len(self._limits)


def wrong_limit(concurrency: object, rate: object) -> str:
    """Say what is wrong with the limits of a tool; nothing at all if they are right."""
    if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
        return f"concurrency must be a whole number of 1 or more, or None, got {concurrency!r}"
    if rate is not None and (type(rate) not in (int, float) or not 0 < rate < math.inf):  # type: ignore[operator]
        return f"rate must be a number of calls a second above 0, or None, got {rate!r}"
    return ""


# Flights, and who waits for them.


@attrs.define(slots=True, eq=False)
class Tally:
    """Calls of the tools of one name."""

    calls: int = 0
    in_flight: int = 0
    queued: int = 0


@attrs.define(slots=True, eq=False)
class Flight:
    """One run of a tool, for all who wait for it."""

    serial: int
    request: CallTool
    name: str
    priority: str
    asked: float
    lane: Lane
    tally: Tally
    limit: ToolLimit | None
    key: tuple[int, str] | None
    """What makes calls equal; None for a tool that is not pure."""
    waiters: dict[Waiter, None]
    place: OrderedDict[int, Flight] | None = None
    """The queue it is in."""
    worker: Pid | None = None

    def is_wanted(self) -> bool:
        """Tell whether anyone still waits for it."""
        # Nearly always there is one waiter: a generator would cost more than the look.
        for waiter in self.waiters:  # noqa: SIM110
            if waiter.is_wanted():
                return True
        return False


@attrs.define(slots=True, eq=False)
class Waiter:
    """One call of an agent; `is_asked` is false for one that was sent with `tell`."""

    call: ToolCall
    reply: PendingReply
    is_asked: bool
    flight: Flight
    asker: Pid | None = None
    """None for a call from outside any actor."""

    def is_wanted(self) -> bool:
        """Tell whether its outcome matters to anyone; an ask that timed out no longer does."""
        return self.reply.is_waited_for or not self.is_asked


def key_of(request: CallTool) -> tuple[int, str]:
    """Return what is equal for calls of one tool with the same arguments, whatever their order and spacing."""
    text = request.call.arguments
    if not isinstance(text, str):
        found = type(text).__name__
        raise ToolError(
            f"tool {request.call.name!r}: the arguments of a call must be the text that the model wrote, got a "
            f"{found}; use json.dumps."
        )
    text = text.strip() or "{}"
    # What is no JSON, or none that Python can hold without loss, is equal only to itself.
    with contextlib.suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text, parse_float=_exact), sort_keys=True)
    return id(request.tool), text


def _exact(text: str) -> float:
    number = float(text)
    if repr(number) != text:
        raise ValueError(f"{text} is another number as a float")
    return number


def name_of(request: CallTool) -> str:
    """Return what a tool is called in the books."""
    name = getattr(request.tool, "name", None)
    return name if isinstance(name, str) else str(request.call.name)


def unreadable(request: CallTool, error: Exception) -> ToolError:
    """Return what a call fails with whose tool or outcome raises when it is looked at."""
    name, found = getattr(request.call, "name", "?"), type(request.tool).__name__
    wrong = ToolError(
        f"tool {name!r}, a {found}, or its outcome cannot be read ({type(error).__name__}: {error}); give the pool "
        "what @tool makes, and a ToolCall."
    )
    wrong.__cause__ = error
    return wrong


# Lines and lanes.


# By priority, the oldest first.
Queues = dict[str, OrderedDict[int, Flight]]


class Line:
    """Flights that wait for a worker. Of 21 that leave while all priorities wait, 16 are `user`, 4 `normal` and
    1 `background`; within one the oldest whose tool is below its limits goes first."""

    def __init__(self) -> None:
        self._open = _queues()
        self._limited: dict[ToolLimit, Queues] = {}
        self._credit = dict(WEIGHTS)
        self._length = 0

    def put(self, flight: Flight) -> None:
        """Add a flight behind the others of its priority."""
        limit = flight.limit
        queues = self._open if limit is None else self._limited.setdefault(limit, _queues())
        place = flight.place = queues[flight.priority]
        place[flight.serial] = flight
        self._length += 1

    def remove(self, flight: Flight) -> None:
        """Take a flight out that is in line."""
        assert flight.place is not None
        del flight.place[flight.serial]
        flight.place = None
        self._length -= 1
        limit = flight.limit
        if limit is not None and not any(self._limited[limit].values()):
            del self._limited[limit]

    def promote(self, flight: Flight, priority: str) -> None:
        """A call of this priority waits for a flight too: if it is in line it goes up to it, never down."""
        if flight.place is not None and WEIGHTS[priority] > WEIGHTS[flight.priority]:
            self.remove(flight)
            flight.priority = priority
            self.put(flight)

    def take(self, now: float) -> Flight | None:
        """Take the next flight that may begin, None if there is none."""
        if not self._length:
            return None
        ready = [queues for limit, queues in self._limited.items() if limit.ready_in(now) == 0.0]
        first: Flight | None = None
        for priority, credit in self._credit.items():
            queue = self._open[priority]
            flight = next(iter(queue.values())) if queue else None
            if ready:
                flight = _oldest(flight, ready, priority)
            if flight is not None:
                if credit:
                    return self._let_go(flight)
                first = first or flight
        if first is None:
            return None
        # All who could go have used up their share: a new round begins.
        self._credit = dict(WEIGHTS)
        return self._let_go(first)

    def _let_go(self, flight: Flight) -> Flight:
        self._credit[flight.priority] -= 1
        self.remove(flight)
        return flight

    def ready_in(self, now: float) -> float:
        """Return the seconds until the next tool at its rate may begin a call; infinity if none will by itself."""
        waits = [limit.ready_in(now) for limit in self._limited]
        return min((wait for wait in waits if wait > 0.0), default=math.inf)

    def __len__(self) -> int:
        return self._length


def _queues() -> Queues:
    return {priority: OrderedDict() for priority in WEIGHTS}


def _oldest(oldest: Flight | None, ready: list[Queues], priority: str) -> Flight | None:
    for queues in ready:
        queue = queues[priority]
        if queue:
            head = next(iter(queue.values()))
            if oldest is None or head.serial < oldest.serial:
                oldest = head
    return oldest


class Lane:
    """Workers of one class, what they are at, and the line before them."""

    def __init__(self, worker: type[Actor], limit: int) -> None:
        self.worker = worker
        self.limit = limit
        self.line = Line()
        self.workers: dict[Pid, Flight | None] = {}
        self.idle: list[Pid] = []

    def has_room(self) -> bool:
        """Tell whether one more call can be under way."""
        return bool(self.idle) or len(self.workers) < self.limit

    def take_idle(self) -> Pid | None:
        """Take the worker that was idle last, None if there is none; those that ended are passed over."""
        while self.idle:
            worker = self.idle.pop()
            if worker.is_alive():
                return worker
        return None


class Lanes:
    """A lane for each class of worker, made when its first tool is called; each has `limit` workers at most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lanes: dict[type[Actor], Lane] = {}

    def of(self, request: CallTool) -> Lane:
        """Return the lane of the tool that is called.

        Raises:
            ToolError: what is called names no class of worker.
        """
        worker = getattr(request.tool, "worker", None)
        if not isinstance(worker, type) or not issubclass(worker, Actor):
            found, name = type(request.tool).__name__, request.call.name
            raise ToolError(f"tool {name!r} must name its worker class, got a {found} that does not.")
        lane = self._lanes.get(worker)
        if lane is None:
            lane = self._lanes[worker] = Lane(worker, self._limit)
        return lane

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())
