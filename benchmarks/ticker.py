"""The ticker: how late an event loop is while a thread compresses and the conversations of many agents grow."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import cycle
from time import perf_counter

from histories import History

from avm.memory import Conversation, Message, Store
from avm.vm.keeper import PERIOD

TICK = 0.001
PAUSE = 3.0
"""Seconds from one turn of an agent to its next: long enough for its tail to become idle and be compressed."""

TURN = 3
"""Messages a turn."""


async def delays(
    histories: Sequence[History], seconds: float, *, compresses: bool
) -> tuple[list[float], int]:
    """Return by how many seconds each tick came late, and how many objects were compressed meanwhile.

    The agents come with their histories, all hot, so the first rounds compress these (and train the dictionary); then
    what has grown since the last turn. With `compresses` the store is treated as a VM's store keeper does.
    """
    store = Store()
    kept = [Conversation(store, h.system, h.tools).extend(h.messages) for h in map(History.copy, histories)]
    texts = cycle([message for history in histories[:50] for message in history.messages])
    late: list[float] = []
    with ThreadPoolExecutor(1) as threads:
        tasks = [
            asyncio.create_task(_grow(kept, texts)),
            asyncio.create_task(_tick(late)),
        ]
        if compresses:
            tasks.append(asyncio.create_task(_keep(store, threads)))
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
    return late, store.statistics().compressions


# Not by the clock of the loop: uvloop keeps it in whole milliseconds.
async def _tick(late: list[float]) -> None:
    while True:
        due = perf_counter() + TICK
        await asyncio.sleep(TICK)
        late.append(perf_counter() - due)


# The turns are spread evenly, and one turn is one step of the loop.
async def _grow(kept: list[Conversation], texts: cycle[Message]) -> None:
    now = asyncio.get_running_loop().time
    due, pause = now(), PAUSE / len(kept)
    while True:
        for number in range(len(kept)):
            due += pause
            if due > now():
                await asyncio.sleep(due - now())
            elif not number % 10:
                await asyncio.sleep(0)
            kept[number] = kept[number].extend([next(texts) for _ in range(TURN)])


async def _keep(store: Store, threads: ThreadPoolExecutor) -> None:
    now = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(PERIOD)
        store.compress_idle(now(), threads)
