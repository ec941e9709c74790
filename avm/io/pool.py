"""The I/O pool: every model call and every tool call of every agent goes through one front actor and its workers.

    agent --ask Complete/CallTool--> front --Work--> worker --Done--> front --reply--> agent

The front keeps a *lane* for each kind of work: the models' and one for each class of tool worker. A lane hires workers
as it needs them up to its limit; what comes in above that waits in the lane's backlog, by priority. Replies are
deferred (S17), so the front's mailbox is always open.

Workers are actors of their own, children of the front that it watches but is not linked to: a call that crashes its
worker fails with a typed error at once, and another worker is hired for the next. Calls of an asker that ended leave
the backlog unserved.
"""

from __future__ import annotations

from typing import Any

import attrs

from avm.actors.actor import Actor, on
from avm.actors.event import event
from avm.actors.reasons import describe
from avm.actors.ref import Pid, Ref
from avm.actors.reply import PendingReply
from avm.actors.signals import Down, Monitor
from avm.errors import ProviderError, Refuse, SpecError, StartError, ToolError
from avm.io.backlog import WEIGHTS, Backlog
from avm.io.providers.provider import Provider
from avm.io.providers.scripted import ScriptedProvider
from avm.io.request import CallTool, Complete, Completion, PoolStatistics, PoolStatus, Timings, ToolOutcome
from avm.io.reservoir import Reservoir
from avm.supervision import ChildSpec, child, supervisor

CONCURRENCY = 512
"""Model calls under way at once, unless the provider or the caller says otherwise."""

TOOL_CONCURRENCY = 128
"""Tool calls under way at once for each class of worker."""

NAME = "avm.io"
"""The name the front is registered under."""


def io_tree(
    provider: Provider,
    *,
    workers: int = 8,
    concurrency: int | None = None,
    tool_concurrency: int = TOOL_CONCURRENCY,
) -> ChildSpec:
    """Describe the pool: a supervisor "io" over the front actor, which is registered as "avm.io".

    Args:
        provider: who serves the model calls; closed when the pool stops.
        workers: model workers hired at the start, the rest when they are needed.
        concurrency: model calls under way at once; default is what the provider can take, else 512.
        tool_concurrency: tool calls under way at once, for each class of tool worker.

    Raises:
        SpecError: a number below 1, or more workers than concurrency.
    """
    limit = concurrency if concurrency is not None else provider.concurrency or CONCURRENCY
    for name, value in (("concurrency", limit), ("tool_concurrency", tool_concurrency)):
        if type(value) is not int or value < 1:
            raise SpecError(f"io_tree: {name} must be a whole number of 1 or more, got {value!r}.")
    if type(workers) is not int or workers < 0:
        raise SpecError(f"io_tree: workers must be a whole number of 0 or more, got {workers!r}.")
    front = child(
        "front", IoFront, provider, min(workers, limit), limit, tool_concurrency, name=NAME, shutdown=10.0
    )
    return supervisor("io", strategy="one_for_one", max_restarts=10, max_seconds=60.0, children=[front])


@event(tag="avm.io.Work")
class Work:
    """One call for a worker; `asked` is when the front got it."""

    serial: int
    request: Any
    asked: float


@event(tag="avm.io.Done")
class Done:
    """A worker's answer: a `Completion`, a `ToolOutcome`, or the error that came instead."""

    serial: int
    outcome: Any


@attrs.define(slots=True, eq=False)
class Call:
    """One call on its way through the pool."""

    serial: int
    request: Complete | CallTool
    priority: str
    reply: PendingReply
    asker: Pid | None
    asked: float
    lane: Lane
    is_asked: bool
    watch: Monitor | None = None
    withdrawn: bool = False

    def is_wanted(self) -> bool:
        """Tell whether its outcome matters to anyone; an ask that timed out no longer does."""
        return self.reply.is_waited_for or not self.is_asked


class Lane:
    """Workers of one class, the calls they are at, and those that wait for one."""

    def __init__(self, worker: type[Actor], args: tuple[object, ...], limit: int) -> None:
        self.worker = worker
        self.args = args
        self.limit = limit
        self.workers: set[Pid] = set()
        self.idle: list[Pid] = []
        self.busy: dict[Pid, Call] = {}
        self.backlog: Backlog[Call] = Backlog()
        self.done = 0
        self.failed = 0

    def take_idle(self) -> Pid | None:
        """Take the worker that was idle last, None if there is none; those that ended are passed over."""
        while self.idle:
            worker = self.idle.pop()
            if worker.is_alive():
                return worker
        return None


class IoFront(Actor):
    """Takes all calls, hands them to workers and answers. See the module."""

    priority = "user"

    def __init__(self, provider: Provider, workers: int, concurrency: int, tool_concurrency: int) -> None:
        self.provider = provider
        self.first = workers
        self.models = Lane(ModelWorker, (provider,), concurrency)
        self.tools: dict[type[Actor], Lane] = {}
        self.tool_concurrency = tool_concurrency
        self.calls: dict[int, Call] = {}
        self.watched: dict[Monitor, Call] = {}
        self.serial = 0
        self.crashed = 0
        self.latency = Reservoir()
        self.input_tokens = 0
        self.output_tokens = 0

    async def starting(self) -> None:
        """Hire the first workers."""
        if isinstance(self.provider, ScriptedProvider):
            self.provider.use_sleep(self.sleep)
        for _ in range(self.first):
            self.models.idle.append(await self._hire(self.models))

    async def stopping(self, reason: object) -> None:
        """Close the provider; the next incarnation opens it again."""
        await self.provider.close()

    @on(Complete)
    async def complete(self, call: Complete) -> None:
        """Take a model call."""
        await self._take(self.models, call)

    @on(CallTool)
    async def call_tool(self, call: CallTool) -> None:
        """Take a tool call; its tool says which workers can run it."""
        worker = getattr(call.tool, "worker", None)
        if not (isinstance(worker, type) and issubclass(worker, Actor)):
            name = type(call.tool).__name__
            raise Refuse(
                ToolError(f"tool {call.call.name!r} must name its worker class, got a {name} that does not.")
            )
        lane = self.tools.get(worker)
        if lane is None:
            lane = self.tools[worker] = Lane(worker, (), self.tool_concurrency)
        await self._take(lane, call)

    @on(Done)
    async def done(self, done: Done) -> None:
        """Answer a call; its worker takes the next that waits."""
        call = self.calls.pop(done.serial, None)
        worker = self.sender
        if call is None or worker is None:
            return
        lane = call.lane
        lane.busy.pop(worker, None)
        self._answer(call, done.outcome)
        if worker.is_alive():
            lane.idle.append(worker)
        await self._serve(lane)

    @on(Down)
    async def down(self, down: Down) -> None:
        """A worker ended, or someone whose call waits did."""
        call = self.watched.pop(down.monitor, None)
        if call is not None:
            call.lane.backlog.withdraw(call)
            self.calls.pop(call.serial, None)
            return
        for lane in (self.models, *self.tools.values()):
            if down.pid is None or down.pid not in lane.workers:
                continue
            lane.workers.discard(down.pid)
            self.crashed += 1
            call = lane.busy.pop(down.pid, None)
            if call is not None:
                self.calls.pop(call.serial, None)
                self._answer(call, self._crash(call, down))
            await self._serve(lane)

    @on(PoolStatus)
    def status(self, status: PoolStatus) -> PoolStatistics:
        """Answer with the statistics."""
        return self.statistics()

    def statistics(self) -> PoolStatistics:
        """Count calls and workers, and read the latencies."""
        p50, p99 = self.latency.quantiles(0.5, 0.99)
        models, tools = self.models, self.tools.values()
        return PoolStatistics(
            provider=self.provider.name,
            requests=models.done,
            failed=models.failed,
            in_flight=len(models.busy),
            queued=len(models.backlog),
            latency_p50=p50,
            latency_p99=p99,
            workers=len(models.workers),
            tool_calls=sum(lane.done for lane in tools),
            tool_failures=sum(lane.failed for lane in tools),
            tools_in_flight=sum(len(lane.busy) for lane in tools),
            tools_queued=sum(len(lane.backlog) for lane in tools),
            tool_workers=sum(len(lane.workers) for lane in tools),
            crashed_workers=self.crashed,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
        )

    def describe(self) -> dict[str, object]:
        """Show the statistics in reports."""
        return attrs.asdict(self.statistics())

    async def _take(self, lane: Lane, request: Complete | CallTool) -> None:
        if request.priority not in WEIGHTS:
            known = ", ".join(WEIGHTS)
            raise Refuse(
                SpecError(f"the priority of a call must be one of {known}, got {request.priority!r}.")
            )
        self.serial += 1
        reply = self.defer()
        call = Call(
            self.serial, request, request.priority, reply, self.sender, self.now(), lane, reply.is_waited_for
        )
        self.calls[call.serial] = call
        worker = lane.take_idle()
        if worker is not None:
            self._hand(call, worker)
        elif len(lane.workers) < lane.limit:
            await self._hand_to_new(call)
        else:
            lane.backlog.put(call)
            if call.asker is not None:
                call.watch = self.monitor(call.asker)
                self.watched[call.watch] = call

    # Calls that wait get idle workers, or new ones in place of those that ended.
    async def _serve(self, lane: Lane) -> None:
        while lane.backlog and (lane.idle or len(lane.workers) < lane.limit):
            call = lane.backlog.take()
            if call is None:
                return
            if call.watch is not None:
                self.watched.pop(call.watch, None)
                self.demonitor(call.watch, flush=True)
            if not call.is_wanted():
                self.calls.pop(call.serial, None)
                continue
            worker = lane.take_idle()
            if worker is not None:
                self._hand(call, worker)
            else:
                await self._hand_to_new(call)

    def _hand(self, call: Call, worker: Pid) -> None:
        call.lane.busy[worker] = call
        self.tell(worker, Work(call.serial, call.request, call.asked))

    async def _hand_to_new(self, call: Call) -> None:
        try:
            worker = await self._hire(call.lane)
        except StartError as error:
            self.calls.pop(call.serial, None)
            self._answer(call, error)
        else:
            self._hand(call, worker)

    async def _hire(self, lane: Lane) -> Pid:
        ref = await self.spawn(lane.worker, self.ref, *lane.args, monitor=True, priority="user")
        pid = ref.last_pid
        lane.workers.add(pid)
        return pid

    def _answer(self, call: Call, outcome: object) -> None:
        lane = call.lane
        lane.done += 1
        if isinstance(outcome, BaseException):
            lane.failed += 1
            call.reply.fail(outcome)
            return
        if isinstance(outcome, Completion):
            self.latency.add(self.now() - call.asked)
            if outcome.usage is not None:
                self.input_tokens += outcome.usage.input_tokens
                self.output_tokens += outcome.usage.output_tokens
        elif isinstance(outcome, ToolOutcome) and outcome.failed:
            lane.failed += 1
        call.reply.send(outcome)

    def _crash(self, call: Call, down: Down) -> Exception:
        text = f"the I/O worker {down.pid} ended ({describe(down.reason)}) before it answered "
        error: Exception
        if isinstance(call.request, Complete):
            model = call.request.request.model
            error = ProviderError(f"{text}a call of {model!r}; ask again.", self.provider.name, model)
        else:
            error = ToolError(f"{text}tool {call.request.call.name!r}; call it again.")
        if isinstance(down.reason, BaseException):
            error.__cause__ = down.reason
        return error


class ModelWorker(Actor):
    """Makes one model call at a time. What the provider reports as a `ProviderError` is an answer, all else a crash."""

    def __init__(self, front: Ref, provider: Provider) -> None:
        self.front = front
        self.provider = provider

    @on(Work)
    async def run(self, work: Work) -> None:
        """Make one call and tell the front how it ended."""
        started = self.now()
        try:
            completion = await self.provider.complete(work.request.request)
        except ProviderError as error:
            self.tell(self.front, Done(work.serial, error))
            return
        timings = Timings(work.asked, started, self.now())
        self.tell(self.front, Done(work.serial, attrs.evolve(completion, timings=timings)))
