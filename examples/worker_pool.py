"""A pool of workers that grows: each item goes to the worker with the least to do.

The workers are children of a dynamic supervisor and members of a group. `least_loaded` stands for whoever of the group
has the fewest items before it at the moment of sending; one that crashes is replaced and in the group again.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from avm import VM, Agent, Ref, Request, child, dynamic_supervisor, event, on, run, start_child
from avm.errors import ActorExited
from avm.io import Latency, ScriptedProvider
from avm.router import least_loaded
from avm.supervision import NO_BACKOFF


@event
class Summary:
    text: str
    by: str


@event
class Summarise(Request[Summary]):
    text: str


class Worker(Agent):
    def __init__(self) -> None:
        self.join("workers")

    @on(Summarise)
    async def summarise(self, order: Summarise) -> Summary:
        if not order.text:
            raise ValueError("nothing to summarise")
        return Summary(await self.complete(f"Summarise: {order.text}"), self.ref.id)


async def hire(pool: Ref, count: int) -> None:
    for _ in range(count):
        await start_child(pool, child("worker", Worker))


async def main() -> None:
    pool = dynamic_supervisor("pool", max_restarts=10, max_seconds=60, backoff=NO_BACKOFF)
    provider = ScriptedProvider(latency=Latency(0.01, 0.3))
    async with VM(pool, provider=provider, observers=[]) as vm:
        workers = least_loaded("workers")
        await hire(vm["pool"], 3)
        texts = [f"Text {n}" for n in range(30)]
        made = await asyncio.gather(*(vm.ask(workers, Summarise(text)) for text in texts))
        print(f"3 workers: {sorted(Counter(m.by for m in made).values())}")

        await hire(vm["pool"], 7)
        made = await asyncio.gather(*(vm.ask(workers, Summarise(text)) for text in texts))
        print(f"10 workers: {sorted(Counter(m.by for m in made).values())}")

        try:
            await vm.ask(workers, Summarise(""))
        except ActorExited as error:
            print(f"a worker crashed: {error.reason}")
        await vm.kernel.idle()
        print(f"still {len(vm.kernel.groups.members('workers'))} workers")


if __name__ == "__main__":
    run(main)
