"""ToolGate: the actor that every tool call of every agent goes through.

    agent --ask CallTool--> gate --Work--> worker --Done--> gate --reply--> agent

A call waits in the line of its lane, which is all work for one class of worker, until a worker is free and the limits
of its tool allow it; a tool at its limit holds up nobody else. Equal calls of a pure tool are one *flight* with several
waiters. Workers are children that the gate watches but is not linked to: one that crashes is an error for its waiters
at once. A flight that nobody waits for any more leaves the line, or is stopped by killing its worker. What a plain
`def` does in a thread cannot be stopped: it goes on behind a place that is free again, as after a timeout.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from avm.actors.actor import Actor, on
from avm.actors.event import Request, event
from avm.actors.reasons import describe
from avm.actors.ref import Pid
from avm.actors.signals import Down
from avm.actors.timers import TimerRef
from avm.errors import Refuse, SpecError, ToolDefinitionError, ToolError
from avm.io.askers import Askers
from avm.io.backlog import WEIGHTS
from avm.io.dispatch import Done, Work
from avm.io.request import CallTool, ToolCall, ToolOutcome, decode_fragment, encode_fragment
from avm.io.toolline import (
    Flight,
    Lane,
    Lanes,
    Tally,
    ToolLimit,
    ToolLimits,
    Waiter,
    key_of,
    name_of,
    unreadable,
    wrong_limit,
)

if TYPE_CHECKING:
    from avm.io.board import Board

TOOL_CONCURRENCY = 128
"""Tool calls under way at once for each class of worker."""

START_TIMEOUT = 30.0
"""Seconds a worker may take to start; the gate takes no calls meanwhile."""

LOOK_EVERY = 1.0
"""Seconds between looks for calls whose asks have timed out; only while calls wait."""

SHORTEST_LOOK = 0.001
"""Seconds that a look is away at least: a tool with a high rate gets several calls at one."""


@attrs.frozen(slots=True, kw_only=True)
class ToolStatistics:
    """What the tool gate does and has done."""

    calls: int
    """Calls answered."""
    failed: int
    """Calls answered with an error, or with an outcome that failed."""
    in_flight: int
    """Calls under way; equal ones that are one count once, here and below."""
    queued: int
    workers: int
    crashed_workers: int
    coalesced: int
    """Calls that joined an equal one."""
    tools: dict[str, tuple[int, int, int]]
    """By name of tool: calls answered, in flight, queued."""


@event(tag="avm.io.ToolGateStatus")
class ToolGateStatus(Request[ToolStatistics]):
    """Ask the tool gate for its statistics."""


@event(tag="avm.io.ToolGateLook")
class Look:
    """Time to look at the calls that wait. Only from the gate to itself."""


class ToolGate(Actor):
    """Takes all tool calls, hands them to workers and answers. See the module.

    Args:
        concurrency: calls under way at once for each class of worker.
        board: where its statistics can be read.

    Raises:
        SpecError: a concurrency below 1.
    """

    priority = "user"

    def __init__(self, concurrency: int = TOOL_CONCURRENCY, board: Board | None = None) -> None:
        if type(concurrency) is not int or concurrency < 1:
            raise SpecError(
                f"ToolGate: concurrency must be a whole number of 1 or more, got {concurrency!r}."
            )
        self.board = board
        self.lanes = Lanes(concurrency)
        self.limits = ToolLimits()
        self.askers: Askers[Waiter] = Askers(self.monitor, self.demonitor)
        self.flights: dict[int, Flight] = {}
        self.shared: dict[tuple[int, str], Flight] = {}
        self.tallies: dict[str, Tally] = {}
        self.timer: TimerRef | None = None
        self.look_at = math.inf
        self.serial = self.failed = self.crashed = self.coalesced = 0

    def starting(self) -> None:
        """Hang out the statistics."""
        if self.board is not None:
            self.board.tools = self.statistics

    def stopping(self, reason: object) -> None:
        """Take them down, unless the next incarnation's hang there."""
        if self.board is not None and self.board.tools == self.statistics:
            self.board.tools = None

    @on(CallTool)
    async def take(self, request: CallTool) -> None:
        """Take a call: it joins an equal one, goes to a worker that is idle, or in line."""
        if request.priority not in WEIGHTS:
            known = ", ".join(WEIGHTS)
            raise Refuse(
                SpecError(f"the priority of a call must be one of {known}, got {request.priority!r}.")
            )
        now = self.now()
        try:
            lane, limit = self.lanes.of(request), self.limits.of(request, now)
            name = name_of(request)
            key = key_of(request) if getattr(request.tool, "pure", False) is True else None
        except (ToolError, ToolDefinitionError) as error:
            raise Refuse(error) from None
        except Exception as error:
            # A tool is anybody's object, and looking at it runs anybody's code.
            raise Refuse(unreadable(request, error)) from error
        flight = self.shared.get(key) if key is not None else None
        if flight is not None:
            self.coalesced += 1
            self._wait(flight, request.call)
            lane.line.promote(flight, request.priority)
            return
        flight = self._new_flight(request, name, now, lane, limit, key)
        self._wait(flight, request.call)
        worker = lane.take_idle() if limit is None and not lane.line else None
        if worker is not None:
            self._hand(flight, worker)
        else:
            lane.line.put(flight)
            flight.tally.queued += 1
            if lane.has_room():
                await self._serve(lane)
            else:
                self._look_again(lane)

    @on(Done)
    async def done(self, done: Done) -> None:
        """Answer a call; its worker takes the next that waits."""
        flight = self.flights.get(done.serial)
        # A worker of a former incarnation may be late, and its serials are not ours.
        if flight is None or flight.worker is None or flight.worker != self.sender:
            return
        lane, worker = flight.lane, flight.worker
        self._end(flight)
        if worker.is_alive():
            lane.idle.append(worker)
        self._answer(flight, done.outcome)
        if lane.line:
            await self._serve(lane)

    @on(Down)
    async def down(self, down: Down) -> None:
        """Somebody who had asked ended, or a worker did."""
        if down.pid is None:
            return
        for waiter in self.askers.ended(down.pid):
            flight = waiter.flight
            del flight.waiters[waiter]
            if not flight.waiters:
                self._call_off(flight)
        for lane in self.lanes:
            if down.pid in lane.workers:
                self._lose_worker(lane, down.pid, down.reason)
            await self._serve(lane)

    @on(Look)
    async def look(self, look: Look) -> None:
        """Stop what nobody waits for any more, and serve tools whose rate allows it again."""
        self.timer, self.look_at = None, math.inf
        for flight in [flight for flight in self.flights.values() if not flight.is_wanted()]:
            self._call_off(flight)
        for lane in self.lanes:
            await self._serve(lane)

    @on(ToolGateStatus)
    def status(self, status: ToolGateStatus) -> ToolStatistics:
        """Answer with the statistics."""
        return self.statistics()

    def statistics(self) -> ToolStatistics:
        """Count calls and workers."""
        tallies = self.tallies.values()
        return ToolStatistics(
            calls=sum(tally.calls for tally in tallies),
            failed=self.failed,
            in_flight=sum(tally.in_flight for tally in tallies),
            queued=sum(tally.queued for tally in tallies),
            workers=sum(len(lane.workers) for lane in self.lanes),
            crashed_workers=self.crashed,
            coalesced=self.coalesced,
            tools={name: (each.calls, each.in_flight, each.queued) for name, each in self.tallies.items()},
        )

    def describe(self) -> dict[str, object]:
        """Show the statistics in reports."""
        return attrs.asdict(self.statistics())

    def _new_flight(
        self,
        request: CallTool,
        name: str,
        now: float,
        lane: Lane,
        limit: ToolLimit | None,
        key: tuple[int, str] | None,
    ) -> Flight:
        self.serial = serial = self.serial + 1
        tally = self.tallies.get(name)
        if tally is None:
            tally = self.tallies[name] = Tally()
        flight = Flight(serial, request, name, request.priority, now, lane, tally, limit, key, {})
        self.flights[serial] = flight
        if key is not None:
            self.shared[key] = flight
        if limit is not None:
            limit.flights += 1
        return flight

    def _wait(self, flight: Flight, call: ToolCall) -> None:
        asker, reply = self.sender, self.defer()
        waiter = Waiter(call, reply, reply.is_waited_for, flight, asker)
        flight.waiters[waiter] = None
        self.askers.add(asker, waiter)

    # Flights that may begin get idle workers, or new ones.
    async def _serve(self, lane: Lane) -> None:
        now = self.now()
        while lane.line and lane.has_room():
            flight = lane.line.take(now)
            if flight is None:
                break
            flight.tally.queued -= 1
            if not flight.is_wanted():
                self._call_off(flight)
                continue
            worker = lane.take_idle()
            if worker is None:
                worker = await self._hire(flight)
                now = self.now()
            if worker is not None:
                self._hand(flight, worker)
        if lane.line:
            self._look_again(lane)

    # None if no worker can be had: that is the answer.
    async def _hire(self, flight: Flight) -> Pid | None:
        try:
            ref = await self.spawn(
                flight.lane.worker, self.ref, monitor=True, priority="user", start_timeout=START_TIMEOUT
            )
        except Exception as error:
            self._end(flight)
            self._answer(flight, error)
            return None
        return ref.last_pid

    def _hand(self, flight: Flight, worker: Pid) -> None:
        flight.worker = worker
        flight.lane.workers[worker] = flight
        flight.tally.in_flight += 1
        if flight.limit is not None:
            flight.limit.begin()
        self.tell(worker, Work(flight.serial, flight.request, flight.asked))

    # An ask that times out and a rate that allows one more call are no events: while calls wait, somebody has to look.
    def _look_again(self, lane: Lane) -> None:
        has_room = lane.has_room()
        if self.timer is not None and not has_room:
            # That look comes soon enough for asks.
            return
        now = self.now()
        wait = lane.line.ready_in(now) if has_room else math.inf
        at = now + min(LOOK_EVERY, max(wait, SHORTEST_LOOK))
        if at < self.look_at:
            if self.timer is not None:
                self.cancel(self.timer)
            self.timer, self.look_at = self.send_after(at - now, self.pid, Look()), at

    def _lose_worker(self, lane: Lane, worker: Pid, reason: object) -> None:
        self.crashed += 1
        flight = lane.workers[worker]
        if flight is not None:
            self._end(flight)
            how = f"ended ({describe(reason)}) before it answered tool {flight.name!r}"
            error = ToolError(f"the tool worker {worker} {how}; call it again.")
            error.__cause__ = reason if isinstance(reason, BaseException) else None
            self._answer(flight, error)
        elif worker in lane.idle:
            lane.idle.remove(worker)
        del lane.workers[worker]

    def _call_off(self, flight: Flight) -> None:
        worker = flight.worker
        self._end(flight)
        for waiter in flight.waiters:
            self.askers.remove(waiter.asker, waiter)
        if worker is not None:
            del flight.lane.workers[worker]
            self.kill(worker)

    # It leaves all books; what it held is given back.
    def _end(self, flight: Flight) -> None:
        del self.flights[flight.serial]
        if flight.key is not None:
            del self.shared[flight.key]
        limit, worker = flight.limit, flight.worker
        if limit is not None:
            limit.flights -= 1
        if worker is not None:
            flight.lane.workers[worker] = None
            flight.tally.in_flight -= 1
            if limit is not None:
                limit.under_way -= 1
        elif flight.place is not None:
            flight.lane.line.remove(flight)
            flight.tally.queued -= 1

    def _answer(self, flight: Flight, outcome: object) -> None:
        error = outcome if isinstance(outcome, BaseException) else None
        if error is not None or (isinstance(outcome, ToolOutcome) and outcome.failed):
            self.failed += len(flight.waiters)
        flight.tally.calls += len(flight.waiters)
        for waiter in flight.waiters:
            self.askers.remove(waiter.asker, waiter)
            if error is not None:
                waiter.reply.fail(error)
                continue
            try:
                waiter.reply.send(outcome_for(waiter.call, outcome))
            except Exception as wrong:
                # What a worker of somebody else's gives may not be what it is said to be.
                self.failed += 1
                waiter.reply.fail(unreadable(flight.request, wrong))


def outcome_for(call: ToolCall, outcome: object) -> object:
    """Return the outcome of an equal call as that of this one."""
    if not isinstance(outcome, ToolOutcome) or outcome.call is call or outcome.call == call:
        return outcome
    fragment = outcome.fragment
    if fragment is not None:
        message = decode_fragment(fragment)
        if "tool_call_id" in message:
            fragment = encode_fragment({**message, "tool_call_id": call.id})
    return attrs.evolve(outcome, call=call, fragment=fragment)


__all__ = [
    "TOOL_CONCURRENCY",
    "ToolGate",
    "ToolGateStatus",
    "ToolStatistics",
    "key_of",
    "outcome_for",
    "wrong_limit",
]
