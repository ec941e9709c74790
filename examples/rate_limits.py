"""A rate limit: 160 agents ask at once, and the provider allows sixty calls a minute.

The pool's governor keeps what is allowed in buckets and lets a call go when there is room for it. The others wait in a
fair queue, where a clerk whom a person waits for passes the readers, who have time. The hundredth call is answered with
a 429: all of them pause, not only the one that met it. Time is simulated, so two minutes pass in a moment.
"""

from __future__ import annotations

from avm import Agent, ChildSpec, child, supervisor
from avm.errors import RateLimited
from avm.io import Latency, Limits, ModelRequest, ScriptedProvider
from avm.testing import Simulation, simulate

AGENTS = 160
LIMITS = Limits(requests=60)


class Reader(Agent):
    priority = "background"


class Clerk(Agent):
    priority = "user"


def office() -> ChildSpec:
    readers = [child(f"reader-{n}", Reader) for n in range(AGENTS)]
    return supervisor("office", children=[child("clerk", Clerk), *readers])


def refuse_one(request: ModelRequest, number: int) -> Exception | None:
    return RateLimited("too many requests", retry_after=20.0) if number == 100 else None


def look(sim: Simulation) -> None:
    """Print what the governor knows: the gate's figures are in the VM's status."""
    pool = sim.vm.status(depth=0).io
    if pool is None:
        return
    gate, governor = pool.gates[0], pool.gates[0].governor
    pause = "" if governor.paused_until is None else f", paused for {governor.paused_until - sim.now:.0f} s"
    print(
        f"{sim.now:4.0f} s: {pool.requests:3} answered, {gate.queued:3} queued, "
        f"{governor.requests_level or 0:3.0f} of {governor.limits.requests} left, "
        f"{gate.retries} tried again{pause}"
    )


def main() -> None:
    provider = ScriptedProvider(latency=Latency(1.0), limits=LIMITS, faults=refuse_one)
    with simulate(office(), provider=provider, ask_timeout=None) as sim:
        for number in range(AGENTS):
            sim.send(f"reader-{number}", "Read this.")
        for _ in range(4):
            sim.advance(15.0)
            look(sim)
        began = sim.now
        print(sim.ask("clerk", "Where is my order?"), f"After {sim.now - began:.0f} s.")
        for _ in range(4):
            sim.advance(15.0)
            look(sim)


if __name__ == "__main__":
    main()
