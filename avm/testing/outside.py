"""What lies outside of a VM, as a simulation has it: the provider and the tools behind the I/O pool, and the threads.

Each call goes to the real thing that was given, with faults put in, and its answer comes in when the schedule says so.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avm.errors import ToolError
from avm.io.limits import Limits
from avm.io.providers import Capabilities, OnEvent, Price, Provider
from avm.io.providers.scripted import as_completion
from avm.io.request import CallTool, Completion, ModelRequest
from avm.testing.faults import Fault, ModelAnswers, ModelFails, ModelSlow, ToolFails, ToolHangs, ToolSlow
from avm.testing.in_place import InPlace
from avm.tools.runner import RunnableTool, ToolWorker
from avm.vm.keeper import StoreKeeper

if TYPE_CHECKING:
    from avm.memory import Ceiling, Store
    from avm.testing.world import World


class SimulatedProvider:
    """A provider with faults, whose answers come in the order of the schedule."""

    def __init__(self, inner: Provider, world: World) -> None:
        self.inner = inner
        self._world = world

    @property
    def name(self) -> str:
        """That of the provider it stands before."""
        return self.inner.name

    @property
    def credential(self) -> str:
        """That of the provider it stands before."""
        return self.inner.credential

    @property
    def concurrency(self) -> int | None:
        """That of the provider it stands before."""
        return self.inner.concurrency

    def capabilities(self, model: str) -> Capabilities:
        """Those of the provider it stands before."""
        return self.inner.capabilities(model)

    def price(self, model: str) -> Price | None:
        """That of the provider it stands before."""
        return self.inner.price(model)

    def limits(self, model: str) -> Limits:
        """Those of the provider it stands before."""
        return self.inner.limits(model)

    async def count(self, request: ModelRequest) -> int:
        """As the provider it stands before counts."""
        return await self.inner.count(request)

    async def complete(self, request: ModelRequest, *, on_event: OnEvent | None = None) -> Completion:
        """Make the call, or what the faults make of it."""
        faults = self._world.reach("model", request.agent)
        answer: Completion | None = None
        for fault in faults:
            if isinstance(fault, ModelSlow):
                await asyncio.sleep(fault.seconds)
            elif isinstance(fault, ModelFails):
                await self._world.answered(f"model for {request.agent}")
                raise fault.error(request.model)
            elif isinstance(fault, ModelAnswers):
                answer = as_completion(fault.answer, request, self.name)
        if answer is None:
            answer = await self.inner.complete(request, on_event=on_event)
        await self._world.answered(f"model for {request.agent}")
        return answer

    async def close(self) -> None:
        """Close the provider."""
        await self.inner.close()


class SimulatedTool:
    """A tool for the length of one call, with faults."""

    def __init__(self, inner: RunnableTool, world: World) -> None:
        self.inner = inner
        self.name = inner.name
        self.timeout = inner.timeout
        self.output_limit = inner.output_limit
        self._world = world

    async def execute(self, call: CallTool, worker: ToolWorker) -> object:
        """Run the call, or what the faults make of it."""
        for fault in self._world.reach("tool", self.name):
            await self._suffer(fault)
        found = await self.inner.execute(call, worker)
        await self._world.answered(f"tool {self.name}")
        return found

    async def _suffer(self, fault: Fault) -> None:
        if isinstance(fault, ToolSlow):
            await asyncio.sleep(fault.seconds)
        elif isinstance(fault, ToolHangs):
            await asyncio.get_running_loop().create_future()
        elif isinstance(fault, ToolFails):
            await self._world.answered(f"tool {self.name}")
            raise ToolError(f"{self.name} failed: {fault.error}.")


class SimulatedKeeper(StoreKeeper):
    """The store's keeper without its thread: the same content is compressed at the same virtual time in every run."""

    def __init__(self, store: Store, ceiling: Ceiling | None = None) -> None:
        self.store = store
        # What the real process takes is no part of a simulation.
        self.ceiling = None
        self.complaint = ""
        self.has_warned = False
        self.threads = InPlace()  # type: ignore[assignment]
