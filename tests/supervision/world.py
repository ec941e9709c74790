"""What the tests of supervision share: children that end as told, and a running tree on a clock that moves by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Protocol

from avm.actors.actor import Actor, on
from avm.actors.event import Request, event
from avm.actors.hooks import CrashReport, Report
from avm.actors.kernel import Kernel
from avm.actors.ref import Pid, Ref
from avm.actors.signals import Exit, Ignore, Killed, Normal, Shutdown
from avm.supervision import (
    ChildSpec,
    ChildStatus,
    GaveUpReport,
    ProgressReport,
    SupervisorReport,
    start_tree,
    which_children,
)
from avm.testing.clock import ManualClock

ENDS: dict[str, object] = {
    "normal": Normal(),
    "shutdown": Shutdown(),
    "shutdown with detail": Shutdown("done"),
    "exception": RuntimeError("boom"),
    "killed": Killed(),
}
"""Every kind of exit reason, by name."""

ABNORMAL = ("exception", "killed")


class Run(Protocol):
    """The `run` fixture."""

    def __call__(self, body: Coroutine[Any, Any, Any], /) -> Any: ...


@event
class End:
    """Tells a probe how to end; "killed" is for `World.end` to do."""

    how: str


@event
class Who(Request[Pid]):
    """Asks a probe for its pid."""


class Log:
    """What probes did, in order, and what they are to do at their next start."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.plans: dict[str, list[str]] = {}
        self.always: dict[str, str] = {}

    def plan(self, id: str, *starts: str) -> None:
        """Say how the next starts of a child go: "ok", "fail", "ignore", "hang" or "crash" (right after)."""
        self.plans[id] = list(starts)

    def next_plan(self, id: str) -> str:
        plans = self.plans.get(id)
        return plans.pop(0) if plans else self.always.get(id, "ok")

    def count(self, line: str) -> int:
        return self.lines.count(line)

    def starts(self) -> dict[str, int]:
        """How often each child was started, failures not counted."""
        found: dict[str, int] = {}
        for line in self.lines:
            word, _, id = line.partition(" ")
            if word == "start":
                found[id] = found.get(id, 0) + 1
        return found

    def take(self) -> list[str]:
        """Return the lines so far and forget them."""
        lines, self.lines = self.lines, []
        return lines


class Probe(Actor):
    """A child that writes down its life and ends as it is told."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def starting(self) -> Any:
        return self._start()

    async def _start(self) -> Any:
        id = self.ref.id
        plan = self.log.next_plan(id)
        if plan == "fail":
            self.log.lines.append(f"fail {id}")
            raise RuntimeError("cannot start")
        if plan == "ignore":
            self.log.lines.append(f"ignore {id}")
            return Ignore
        if plan == "hang":
            self.log.lines.append(f"hang {id}")
            await Gate().wait()
        if plan == "crash":
            self.continue_with(End("exception"))
        self.log.lines.append(f"start {id}")
        return None

    def stopping(self, reason: object) -> Any:
        self.log.lines.append(f"stop {self.ref.id}")

    @on(End)
    def end(self, order: End) -> None:
        if order.how == "exception":
            raise RuntimeError("boom")
        self.stop(ENDS[order.how])

    @on(Who)
    def who(self, request: Who) -> Pid:
        return self.pid


class Stubborn(Probe):
    """Takes for ever to stop."""

    async def stopping(self, reason: object) -> None:
        self.log.lines.append(f"stop {self.ref.id}")
        await Gate().wait()


class Trapping(Probe):
    """Traps exits, which saves nobody from its parent."""

    trap_exit = True

    @on(Exit)
    def hear(self, exit: Exit) -> None:
        self.log.lines.append(f"heard {self.ref.id}")


class Plain(Actor):
    """A child without callbacks: starts and ends in one step."""

    @on(End)
    def end(self, order: End) -> None:
        raise RuntimeError("boom")


class Gate:
    """A door that stays shut."""

    async def wait(self) -> None:
        await asyncio.get_running_loop().create_future()


class World:
    """A tree that runs, and what can be seen of it."""

    def __init__(self, kernel: Kernel, clock: ManualClock, log: Log, reports: list[Report]) -> None:
        self.kernel = kernel
        self.clock = clock
        self.log = log
        self.reports = reports
        self.top: Ref
        self.stopping: asyncio.Task[None]

    async def start(self, tree: ChildSpec) -> Ref:
        self.top = await start_tree(self.kernel, tree)
        return self.top

    def at(self, path: str) -> Ref:
        """Return the ref of whoever lives at a path."""
        found = self.kernel.find(path)
        assert found is not None, f"nobody lives at {path}"
        return found

    async def settle(self) -> None:
        """Wait until nothing more happens by itself."""
        await self.kernel.idle()
        # Each level of a tree that stops takes a turn of the loop in which nobody is ready, so look at the loop itself:
        # time stands still here, so what it will do it will do now. uvloop cannot be looked at; there, wait long.
        waiting = getattr(self.kernel.loop, "_ready", None)
        turns = 0
        while waiting or (waiting is None and turns < 100):
            await asyncio.sleep(0)
            turns += 1

    async def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that follows."""
        await self.settle()
        self.clock.advance(seconds)
        await self.settle()

    async def end(self, path: str, how: str = "exception") -> None:
        """End an actor by itself and wait for what follows."""
        self.order(path, how)
        await self.settle()

    def order(self, path: str, how: str = "exception") -> None:
        """End an actor by itself, and wait for nothing."""
        if how == "killed":
            self.kernel.kill(self.at(path))
        else:
            self.at(path).tell(End(how))

    async def begin_stop(self) -> None:
        """Tell the top supervisor to end, as the VM does, and wait until nothing more happens by itself."""
        self.stopping = self.kernel.loop.create_task(self.kernel.stop_actor(self.top, Shutdown()))
        await self.settle()

    async def stop(self) -> object:
        """Stop the top supervisor, which must take no time, and return its reason."""
        await self.begin_stop()
        assert not self.top.is_alive(), "the supervisor takes time to stop"
        return await self.reason()

    async def status(self, supervisor: Ref | None = None) -> dict[str, ChildStatus]:
        return {c.id: c for c in await which_children(supervisor or self.top)}

    async def states(self) -> dict[str, str]:
        """Return "up", "restarting" or "down" for each child of the top supervisor."""
        states = {id: child.pid for id, child in (await self.status()).items()}
        return {
            id: "down" if pid is None else "restarting" if pid == "restarting" else "up"
            for id, pid in states.items()
        }

    async def reason(self) -> object:
        """Return the reason the top supervisor ended with."""
        return await self.kernel.wait_stopped(self.top)

    def told(self, context: str | None = None) -> list[SupervisorReport]:
        """Return the supervisor reports, of one context or all."""
        found = [r for r in self.reports if isinstance(r, SupervisorReport)]
        return [r for r in found if context is None or r.context == context]

    def gave_up(self) -> list[GaveUpReport]:
        return [r for r in self.reports if isinstance(r, GaveUpReport)]

    def story(self) -> list[str]:
        """Return crash, supervisor and progress reports in short, in order."""
        found = []
        for report in self.reports:
            if isinstance(report, CrashReport):
                found.append(f"crash {report.path.rpartition('/')[2]}")
            elif isinstance(report, SupervisorReport):
                found.append(f"{report.context} {report.offender.id}")
            elif isinstance(report, ProgressReport):
                found.append(f"progress {report.started.id}")
        return found


@asynccontextmanager
async def world(tree: Callable[[Log], ChildSpec] | None = None) -> AsyncIterator[World]:
    """Run a tree that is made from the log of this world, on a clock that moves by hand."""
    clock, log, reports = ManualClock(), Log(), list[Report]()
    async with Kernel(clock=clock, random=Random(7), observers=[reports.append]) as kernel:
        made = World(kernel, clock, log, reports)
        if tree is not None:
            await made.start(tree(log))
        yield made
