"""The tool gate's worker: an actor that runs one tool call at a time, with a timeout and a cap on the output.

What goes wrong in a tool is a result the model reads, not a crash: wrong arguments, an exception, no answer in time.
Only what is no `Exception` (a tool that calls `sys.exit`) ends the worker; the gate answers for it and hires another.

A tool in this process is trusted code. A timeout ends an `async def` at its next await; a plain `def` runs in a
thread that nothing can stop, so after a timeout the model has its answer and the thread runs on.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import msgspec

from avm.actors.actor import Actor, on
from avm.actors.ref import Ref
from avm.errors import ToolError
from avm.io.dispatch import Done, Work
from avm.io.request import CallTool, ToolOutcome


class RunnableTool(Protocol):
    """What a `ToolWorker` can run.

    The gate also looks for `concurrency`, `rate` and `pure`, with the meaning they have for `@tool`; a tool without
    them has no limits and is not pure. Limits are those of the object: give the same one to all who call.
    """

    name: str
    timeout: float | None
    output_limit: int

    async def execute(self, call: CallTool, worker: ToolWorker) -> object:
        """Run one call. Returns any value for the model, or a whole `ToolOutcome`; errors are raised."""


class ToolWorker(Actor):
    """Runs the tool calls the gate hands it."""

    def __init__(self, gate: Ref) -> None:
        self.gate = gate

    @on(Work)
    async def run(self, work: Work) -> None:
        """Run one call and tell the gate how it ended. Its timeout begins now, not when it was asked for."""
        call: CallTool = work.request
        began = self.now()
        value, failed = await self._execute(call)
        if not isinstance(value, ToolOutcome):
            text, cut = shorten(value if type(value) is str else as_text(value), call.tool.output_limit)
            value = ToolOutcome(call.call, text, failed=failed, cut=cut, seconds=self.now() - began)
        self.tell(self.gate, Done(work.serial, value))

    async def _execute(self, call: CallTool) -> tuple[object, bool]:
        tool: RunnableTool = call.tool
        clock = asyncio.timeout(tool.timeout)
        try:
            async with clock:
                return await tool.execute(call, self), False
        except TimeoutError as error:
            if clock.expired():
                return f"{tool.name} gave no answer in {tool.timeout:g} s and was given up.", True
            return describe_failure(tool.name, error), True
        except ToolError as error:
            return str(error), True
        except Exception as error:
            return describe_failure(tool.name, error), True


def describe_failure(name: str, error: Exception) -> str:
    """Put what a tool raised in words for the model: no traceback, which would tell it of our files."""
    what = str(error)
    return (
        f"{name} failed: {type(error).__name__}: {what}"
        if what
        else f"{name} failed: {type(error).__name__}."
    )


def as_text(value: Any) -> str:
    """Put a tool's return value in words for the model: text as it is, all else as JSON where that can carry it."""
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError):
        return repr(value)


def shorten(text: str, limit: int) -> tuple[str, int]:
    """Cut the middle out of a text of more than `limit` characters; return it and how many were cut."""
    if len(text) <= limit:
        return text, 0
    head = limit * 2 // 3
    tail = limit - head
    cut = len(text) - limit
    return f"{text[:head]}\n[... {cut} of {len(text)} characters cut ...]\n{text[-tail:]}", cut
