"""The I/O pool as a supervision tree.

io (one_for_one)
 +- front    takes all model calls; "avm.io"
 +- gates    a dynamic supervisor of a gate for each credential and family of models, and of the courier
 +- tools    takes all tool calls; "avm.io.tools"
"""

from __future__ import annotations

from avm.errors import SpecError
from avm.io.board import Board
from avm.io.front import GATES, IoFront
from avm.io.providers.provider import Provider
from avm.io.toolgate import TOOL_CONCURRENCY, ToolGate
from avm.supervision import ChildSpec, child, dynamic_supervisor, supervisor

CONCURRENCY = 512
"""Model calls under way at once at each gate, unless the provider or the caller says otherwise."""

NAME = "avm.io"
"""The name the front is registered under."""

TOOLS = "avm.io.tools"
"""The name the tool gate is registered under."""

CACHE_BYTES = 64 << 20
"""Bytes of kept replies."""


def io_tree(
    provider: Provider,
    *,
    workers: int = 8,
    concurrency: int | None = None,
    tool_concurrency: int = TOOL_CONCURRENCY,
    cache: int = CACHE_BYTES,
) -> ChildSpec:
    """Describe the pool: a supervisor "io" over the front ("avm.io"), the gates and the tool gate ("avm.io.tools").

    Args:
        provider: who serves the model calls; closed when the pool stops.
        workers: model workers a gate hires at its start, the rest when they are needed.
        concurrency: model calls under way at once at a gate; default is what the provider can take, else 512.
        tool_concurrency: tool calls under way at once, for each class of tool worker.
        cache: bytes of replies that are kept for calls that allow it.

    Raises:
        SpecError: a number below 1, or negative workers.
    """
    limit = concurrency if concurrency is not None else provider.concurrency or CONCURRENCY
    for name, value in (("concurrency", limit), ("tool_concurrency", tool_concurrency), ("cache", cache)):
        if type(value) is not int or value < 1:
            raise SpecError(f"io_tree: {name} must be a whole number of 1 or more, got {value!r}.")
    if type(workers) is not int or workers < 0:
        raise SpecError(f"io_tree: workers must be a whole number of 0 or more, got {workers!r}.")
    board = Board()
    return supervisor(
        "io",
        strategy="one_for_one",
        max_restarts=10,
        max_seconds=60.0,
        children=[
            child(
                "front", IoFront, provider, min(workers, limit), limit, cache, board, name=NAME, shutdown=10.0
            ),
            dynamic_supervisor("gates", name=GATES, max_restarts=10, max_seconds=60.0, shutdown=10.0),
            child("tools", ToolGate, tool_concurrency, board, name=TOOLS, shutdown=10.0),
        ],
    )


__all__ = ["CACHE_BYTES", "CONCURRENCY", "GATES", "NAME", "TOOLS", "TOOL_CONCURRENCY", "IoFront", "io_tree"]
