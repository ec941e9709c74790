"""A kernel with a pool, for tests: `async with pooled(provider) as kernel`; the front is `kernel.service("io")`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from avm.actors import Kernel, Ref
from avm.actors.cell import Cell
from avm.io import (
    Completion,
    ModelRequest,
    OnEvent,
    PlainProvider,
    Provider,
    ScriptedProvider,
    encode_fragment,
    io_tree,
)
from avm.io.pool import GATES, NAME, TOOLS
from avm.memory import Store
from avm.scheduler import Clock
from avm.supervision import start_tree


@asynccontextmanager
async def pooled(
    provider: Provider | None = None, *, clock: Clock | None = None, **options: Any
) -> AsyncIterator[Kernel]:
    """Run a kernel with store, roots and the pool of a provider; `options` are those of `io_tree`."""
    store = Store()
    async with Kernel(clock=clock, store=store, services={"roots": store.roots}) as kernel:
        await start_tree(kernel, io_tree(provider or ScriptedProvider(), **options))
        kernel.services["io"] = kernel.whereis(NAME)
        kernel.services["tools"] = kernel.whereis(TOOLS)
        yield kernel


def front_of(kernel: Kernel) -> Ref:
    """Return the pool's front."""
    front: Ref = kernel.service("io")
    return front


def gates_of(kernel: Kernel) -> list[Cell]:
    """Return the gates."""
    gates = kernel.whereis(GATES)
    supervisor = gates.reach() if gates is not None else None
    return list((supervisor.children or {}).values()) if supervisor is not None else []


def workers_of(kernel: Kernel) -> list[Cell]:
    """Return the workers of all gates."""
    return [worker for gate in gates_of(kernel) for worker in (gate.children or {}).values()]


def tools_of(kernel: Kernel) -> Ref:
    """Return the tool gate."""
    gate: Ref = kernel.service("tools")
    return gate


class Gated(PlainProvider):
    """A provider whose calls wait until the test lets them go; `begun` lists the prompts of calls that have begun."""

    name = "gated"
    concurrency: int | None = None

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun: list[str] = []
        self.most = 0
        self.inside = 0
        self.closed = 0

    async def complete(self, request: ModelRequest, *, on_event: OnEvent | None = None) -> Completion:
        prompt = next(request.history())["content"]
        self.begun.append(prompt)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.gate.wait()
        finally:
            self.inside -= 1
        return Completion(encode_fragment({"role": "assistant", "content": f"re: {prompt}"}))

    async def close(self) -> None:
        self.closed += 1


def prompt(text: str, **fields: Any) -> ModelRequest:
    """Make a request of one user message."""
    return ModelRequest(model="m", messages=(encode_fragment({"role": "user", "content": text}),), **fields)
