"""What idle actors take of memory, in a process of its own; `actors.py` runs it and reads its line of JSON.

python resident.py avm 100000           n idle actors, then one message to each, answered
python resident.py attributes 100000    the same with three attributes each
python resident.py supervised 100000    the same as children of a dynamic supervisor
python resident.py asyncio 100000       n tasks with a queue each
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable
from time import perf_counter

import floor
from cast import QUESTION, Attributes, Idle, machine

from avm.actors import Actor, Ref
from avm.supervision import child, dynamic_supervisor, start_child
from avm.vm import VM
from avm.vm.run import loop_factory

FIRST = 10_000
WARM_UP = 1_000
SLICE = 1_000

Start = Callable[[int], Awaitable[None]]
Talk = Callable[[], Awaitable[int]]


def rss() -> int:
    """Return the resident bytes of this process, garbage aside."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def avm(n: int, idle: type[Actor]) -> dict[str, float]:
    """Measure actors started with `vm.spawn`; their refs are kept, as whoever wants to reach them would."""
    refs: list[Ref] = []
    async with machine() as vm:

        async def start(m: int) -> None:
            for i in range(m):
                refs.append(await vm.spawn(idle))
                if not i % SLICE:
                    await asyncio.sleep(0)

        return await measured(n, start, lambda: talk(vm, refs))


async def supervised(n: int) -> dict[str, float]:
    """Measure children of a dynamic supervisor."""
    refs: list[Ref] = []
    spec = child("child", Idle)
    async with machine(dynamic_supervisor("home")) as vm:
        home = vm["home"]

        async def start(m: int) -> None:
            for _ in range(m):
                ref = await start_child(home, spec)
                assert ref is not None
                refs.append(ref)

        return await measured(n, start, lambda: talk(vm, refs))


async def talk(vm: VM, refs: list[Ref]) -> int:
    """Ask each actor once and count the replies."""
    answered = 0
    for ref in refs:
        answered += await vm.ask(ref, QUESTION)
    return answered


async def tasks(n: int) -> dict[str, float]:
    """Measure asyncio tasks that wait for their first message."""
    alive: list[tuple[asyncio.Task[None], floor.Inbox]] = []

    async def start(m: int) -> None:
        for i in range(m):
            inbox: floor.Inbox = asyncio.Queue()
            alive.append((asyncio.create_task(floor.wait_for_ever(inbox)), inbox))
            if not i % SLICE:
                await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def talk_to_tasks() -> int:
        answered = 0
        loop = asyncio.get_running_loop()
        for _, inbox in alive:
            reply = loop.create_future()
            inbox.put_nowait((QUESTION, reply))
            answered += await reply
        return answered

    return await measured(n, start, talk_to_tasks)


async def measured(n: int, start: Start, talk: Talk) -> dict[str, float]:
    """Start n and talk to each; return rates and bytes. The rate at 10,000 is that of the first 10,000."""
    await start(WARM_UP)
    before = rss()
    began = perf_counter()
    first = min(n, FIRST)
    await start(first)
    took_first = perf_counter() - began
    await start(n - first)
    took = perf_counter() - began
    idle = rss()
    began = perf_counter()
    answered = await talk()
    talked = perf_counter() - began
    after = rss()
    return {
        "rate_first": first / took_first,
        "rate": n / took,
        "idle_bytes": (idle - before) / n,
        "talked_bytes": (after - before) / n,
        "rss": after,
        "answered": answered - WARM_UP,
        "asks_per_s": answered / talked,
    }


def main(kind: str, n: int) -> None:
    """Measure and print; then leave without taking everything down, which is not what is measured."""
    work: Callable[[], Awaitable[dict[str, float]]] = {
        "avm": lambda: avm(n, Idle),
        "attributes": lambda: avm(n, Attributes),
        "supervised": lambda: supervised(n),
        "asyncio": lambda: tasks(n),
    }[kind]

    async def run() -> None:
        print(json.dumps(await work()), flush=True)
        os._exit(0)

    with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
        runner.run(run())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
