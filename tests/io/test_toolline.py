"""The tool gate's books: limits of tools, lines, and who is watched."""

from __future__ import annotations

from itertools import count
from typing import Any, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Actor, Pid
from avm.actors.cell import Cell
from avm.actors.reply import PendingReply
from avm.errors import ToolDefinitionError, ToolError
from avm.io import CallTool, ToolCall
from avm.io.backlog import WEIGHTS
from avm.io.toolline import (
    SPARE_LIMITS,
    Flight,
    Lane,
    Lanes,
    Line,
    Tally,
    ToolLimit,
    ToolLimits,
    Waiter,
)


class Worker(Actor):
    """Runs nothing; it is a class."""


@attrs.define(eq=False)
class FakeTool:
    """What a tool says of itself."""

    concurrency: Any = None
    rate: Any = None
    worker: Any = Worker


@attrs.define(eq=False)
class FakeCell:
    """What a pid stands for here."""


def call_of(tool: object) -> CallTool:
    return CallTool(tool, ToolCall("c1", "look", "{}"))


def flight_of(serial: int, priority: str = "normal", limit: ToolLimit | None = None) -> Flight:
    lane = Lane(Worker, 1)
    return Flight(serial, call_of(None), "look", priority, 0.0, lane, Tally(), limit, None, {})


def waiter_of(flight: Flight, *, is_asked: bool = True) -> Waiter:
    """Return one whose ask has timed out, if it was an ask."""
    return Waiter(flight.request.call, PendingReply(cast(Cell, FakeCell()), None), is_asked, flight)


def pid() -> Pid:
    return Pid(cast(Cell, FakeCell()))


def drain(line: Line, now: float = 0.0) -> list[int]:
    """Take all that may go; return their serials."""
    return [flight.serial for flight in iter(lambda: line.take(now), None)]


# Limits.


@given(
    rate=st.floats(0.01, 1000.0),
    gaps=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=12),
)
def test_in_no_stretch_of_time_does_a_limit_let_more_through_than_burst_and_rate(
    rate: float, gaps: list[float]
) -> None:
    limit = ToolLimit(None, None, rate)
    limit.tokens = limit.burst
    now, begun = 0.0, []
    for gap in gaps:
        now += gap
        wait = limit.ready_in(now)
        if wait == 0.0:
            limit.begin()
            begun.append(now)

    for first, start in enumerate(begun):
        for last in range(first, len(begun)):
            allowed = limit.burst + rate * (begun[last] - start)
            assert last - first + 1 <= allowed + 1e-6


@given(rate=st.floats(0.01, 1000.0), calls=st.integers(1, 50))
def test_a_limit_is_ready_when_it_said_it_would_be(rate: float, calls: int) -> None:
    limit = ToolLimit(None, None, rate, tokens=1.0)
    now = 0.0
    for _ in range(calls):
        now += limit.ready_in(now)
        assert limit.ready_in(now) == 0.0
        limit.begin()


def test_a_tool_without_limits_is_not_remembered() -> None:
    limits = ToolLimits()

    assert limits.of(call_of(FakeTool()), 0.0) is None
    assert limits.of(call_of(object()), 0.0) is None
    assert len(limits) == 0


def test_a_tool_has_one_limit_and_may_begin_at_once() -> None:
    limits, tool = ToolLimits(), FakeTool(concurrency=2, rate=0.1)

    limit = limits.of(call_of(tool), 5.0)

    assert limit is not None
    assert limits.of(call_of(tool), 9.0) is limit
    assert limit.ready_in(5.0) == 0.0


def test_a_limit_that_is_in_use_is_not_forgotten_however_many_come() -> None:
    limits, tool = ToolLimits(), FakeTool(concurrency=1)
    used = limits.of(call_of(tool), 0.0)
    assert used is not None
    used.flights = 1

    for _ in range(3 * SPARE_LIMITS):
        limits.of(call_of(FakeTool(concurrency=1)), 0.0)

    assert len(limits) <= 2 * SPARE_LIMITS
    assert limits.of(call_of(tool), 0.0) is used


@pytest.mark.parametrize(
    "tool, wrong",
    [
        (FakeTool(concurrency=0), "concurrency must be a whole number of 1 or more, or None, got 0"),
        (FakeTool(rate=-1.0), "rate must be a number of calls a second above 0, or None, got -1.0"),
        (FakeTool(rate=float("nan")), "rate must be a number of calls a second above 0, or None, got nan"),
    ],
)
def test_a_limit_that_cannot_be_right_names_tool_and_value(tool: FakeTool, wrong: str) -> None:
    with pytest.raises(ToolDefinitionError, match=f"tool 'look': {wrong}"):
        ToolLimits().of(call_of(tool), 0.0)


# Lines.


def test_nothing_leaves_an_empty_line() -> None:
    assert Line().take(0.0) is None


def test_the_oldest_goes_first_within_a_priority_whatever_its_tool() -> None:
    line, wide = Line(), ToolLimit(None, 9, None)
    for serial in range(6):
        line.put(flight_of(serial, limit=wide if serial % 2 else None))

    assert drain(line) == list(range(6))


def test_flights_of_a_tool_at_its_limit_stay_while_others_pass() -> None:
    line, narrow = Line(), ToolLimit(None, 1, None, under_way=1)
    line.put(flight_of(1, "user", narrow))
    line.put(flight_of(2, "background"))

    assert drain(line) == [2]
    assert len(line) == 1
    narrow.under_way = 0
    assert drain(line) == [1]


def test_a_line_says_when_a_tool_at_its_rate_is_ready_again() -> None:
    line = Line()
    line.put(flight_of(1, limit=ToolLimit(None, 1, None, under_way=1)))
    assert line.ready_in(0.0) == float("inf")

    line.put(flight_of(2, limit=ToolLimit(None, None, 2.0)))
    line.put(flight_of(3, limit=ToolLimit(None, None, 4.0)))

    assert line.ready_in(0.0) == 0.25


def test_a_flight_goes_up_in_priority_and_never_down() -> None:
    line, flight = Line(), flight_of(1, "normal")
    line.put(flight)

    line.promote(flight, "background")
    assert flight.priority == "normal"
    line.promote(flight, "user")
    assert flight.priority == "user"
    assert drain(line) == [1]
    line.promote(flight, "user")
    assert len(line) == 0


@given(
    plan=st.lists(st.tuples(st.sampled_from(list(WEIGHTS)), st.integers(0, 2)), max_size=30),
    removed=st.sets(st.integers(0, 29)),
)
def test_all_that_was_put_in_line_leaves_it_once_and_in_order_within_its_priority(
    plan: list[tuple[str, int]], removed: set[int]
) -> None:
    line, limits = Line(), [None, ToolLimit(None, 99, None), ToolLimit(None, None, 1e6, tokens=99.0)]
    flights = [flight_of(n, priority, limits[which]) for n, (priority, which) in enumerate(plan)]
    for flight in flights:
        line.put(flight)
    for flight in flights:
        if flight.serial in removed:
            line.remove(flight)

    left = drain(line)

    for priority in WEIGHTS:
        wanted = [f.serial for f in flights if f.priority == priority and f.serial not in removed]
        assert [serial for serial in left if plan[serial][0] == priority] == wanted
    assert len(line) == 0


@given(st.integers(1, 6))
def test_while_all_priorities_wait_each_has_its_share_of_every_round(rounds: int) -> None:
    line, serials = Line(), count()
    for priority in WEIGHTS:
        for _ in range(rounds * 21):
            line.put(flight_of(next(serials), priority))

    for _ in range(rounds):
        left = [flight.priority for flight in (line.take(0.0) for _ in range(21)) if flight is not None]
        assert {priority: left.count(priority) for priority in WEIGHTS} == WEIGHTS


# Lanes, and who waits.


def test_tools_of_one_class_of_worker_share_a_lane() -> None:
    lanes = Lanes(2)

    one, two = lanes.of(call_of(FakeTool())), lanes.of(call_of(FakeTool()))

    assert one is two
    assert list(lanes) == [one]
    assert one.limit == 2


@pytest.mark.parametrize("worker", [None, [], "Worker", str, Worker.__init__])
def test_a_tool_that_names_no_class_of_worker_is_refused(worker: Any) -> None:
    with pytest.raises(ToolError, match="tool 'look' must name its worker class, got a FakeTool"):
        Lanes(1).of(call_of(FakeTool(worker=worker)))


def test_a_flight_is_wanted_while_any_of_its_waiters_wants_it() -> None:
    flight = flight_of(1)
    assert not flight.is_wanted()

    flight.waiters[waiter_of(flight)] = None
    assert not flight.is_wanted()
    flight.waiters[waiter_of(flight, is_asked=False)] = None
    assert flight.is_wanted()
