"""A kernel with a tool gate, for tests: `async with gated() as gate`; `simulated` runs a test body on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs

from avm.actors import Kernel, Ref
from avm.io import CallTool, ToolCall, ToolOutcome
from avm.io.toolgate import ToolGate, ToolGateStatus, ToolStatistics
from avm.testing import Deviations
from avm.testing.choices import Choices, Schedule
from avm.testing.kernel import SimulatedKernel
from avm.testing.loop import SimulatedClock, SimulatedLoop
from avm.testing.world import World
from avm.tools import Tool

T = TypeVar("T")


def simulated(body: Coroutine[Any, Any, T], choices: Choices | None = None) -> T:
    """Run a body on a loop whose time jumps: what waits for seconds or hours takes none."""
    loop = SimulatedLoop(Schedule(choices if choices is not None else Deviations()))
    try:
        result: T = loop.run_until_complete(body)
        return result
    finally:
        loop.close()


@attrs.frozen
class Gate:
    """A gate that runs."""

    kernel: Kernel
    ref: Ref

    @property
    def actor(self) -> ToolGate:
        """The actor itself, to look at what it keeps."""
        cell = self.ref.reach()
        assert cell is not None
        assert isinstance(cell.actor, ToolGate)
        return cell.actor

    async def call(
        self,
        tool: Any,
        arguments: str = "{}",
        *,
        id: str = "c1",
        timeout: float | None = None,
        **options: Any,
    ) -> ToolOutcome:
        """Call a tool from outside of any actor."""
        name = tool.name if isinstance(tool, Tool) else "odd"
        request = CallTool(tool, ToolCall(id, name, arguments), **options)
        outcome: ToolOutcome = await self.kernel.ask(self.ref, request, timeout)
        return outcome

    async def begin(self, tool: Any, arguments: str = "{}", **options: Any) -> asyncio.Task[ToolOutcome]:
        """Call a tool and come back as soon as the gate has the call."""
        task = asyncio.ensure_future(self.call(tool, arguments, **options))
        await self.kernel.idle()
        return task

    async def status(self) -> ToolStatistics:
        """Ask for the statistics."""
        found: ToolStatistics = await self.kernel.ask(self.ref, ToolGateStatus())
        return found

    async def load(self) -> tuple[int, int]:
        """Return how many calls are in flight, and how many queued."""
        found = await self.status()
        return found.in_flight, found.queued


@asynccontextmanager
async def gated(**options: Any) -> AsyncIterator[Gate]:
    """Run a kernel with one gate; options are those of `ToolGate`."""
    async with _kernel() as kernel:
        yield Gate(kernel, await kernel.spawn(ToolGate, id="tools", kwargs=options))


def _kernel() -> Kernel:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, SimulatedLoop):
        return Kernel()
    return SimulatedKernel(World(loop.schedule, loop), clock=SimulatedClock(loop))
