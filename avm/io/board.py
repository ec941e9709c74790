"""Board: where the parts of the pool hang out their statistics, to be read without asking."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from avm.errors import ActorDead
from avm.io.governor import GovernorStatistics
from avm.io.prefix import PrefixStatistics
from avm.io.toolgate import ToolStatistics


@attrs.frozen(slots=True, kw_only=True)
class GateStatistics:
    """What one gate does. Latencies are seconds from asking to reply, of the last thousand or so calls."""

    family: str
    credential: str
    queued: int
    """Calls in the fair queue."""
    parked: int
    """Calls behind the leader of their prefix."""
    delayed: int
    """Calls that failed and wait to be tried again."""
    in_flight: int
    workers: int
    crashed_workers: int
    retries: int
    hedged: int
    latency_p50: float
    latency_p99: float
    depth: dict[str, int]
    """The fair queue, by class."""
    governor: GovernorStatistics
    prefixes: PrefixStatistics | None
    """None where the provider has no prompt cache that calls share."""


class Board:
    """Functions that give statistics, by who gives them. Each takes its own down when it stops; one that was killed
    could not, so its function raises, and it is taken down when it is read."""

    def __init__(self) -> None:
        self.gates: dict[str, Callable[[], GateStatistics]] = {}
        self.tools: Callable[[], ToolStatistics] | None = None

    def read_gates(self) -> tuple[GateStatistics, ...]:
        """Return what the gates say that are alive."""
        found: list[GateStatistics] = []
        for path, read in list(self.gates.items()):
            try:
                found.append(read())
            except ActorDead:
                del self.gates[path]
        return tuple(found)

    def read_tools(self) -> ToolStatistics | None:
        """Return what the tool gate says; None while there is none."""
        try:
            return self.tools() if self.tools is not None else None
        except ActorDead:
            self.tools = None
            return None
