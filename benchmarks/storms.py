"""Storms: many agents at once on one account, and who waits for whom, in a process of its own; `io.py` runs it.

python storms.py SIDE storm JSON     agents that share a prompt of 15,000 tokens make so many calls each
python storms.py avm queue JSON      calls of `user` priority, with an empty queue and behind background calls

A storm's VM and its server may have clocks that run faster than real ones, at the same speed: buckets, cache, latency,
pauses and `retry-after` are all in their seconds, so that half an hour on a start tier takes a minute.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from time import perf_counter

import attrs
from callers import Call, Machine, Prompt, Stage, make_side
from calls import Found, leave, run
from figures import percentile

from avm.io import Limits, PoolStatus
from avm.io.providers.provider import CHARACTERS_PER_TOKEN
from avm.scheduler.clock import LoopClock, TimerHandle

SHARED, OWN, REPLY = 15_000, 500, 300
"""Tokens of a storm's calls: the prompt all have, the message of each, the reply."""

PAUSE = 0.05
"""Seconds between two `user` calls."""


class FastClock:
    """A loop's clock on which so many seconds pass in a real one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, speed: float) -> None:
        self._real = LoopClock(loop)
        self._speed = speed

    def now(self) -> float:
        """Return the time in its seconds."""
        return self._real.now() * self._speed

    def call_at(self, when: float, callback: Callable[[], None]) -> TimerHandle:
        """Call back at a time of its own."""
        return self._real.call_at(when / self._speed, callback)


def characters(tokens: int) -> int:
    """Return the length of a text of so many tokens, as the server counts."""
    return int(tokens * CHARACTERS_PER_TOKEN)


def storm_prompt(*, marked: bool = False) -> Prompt:
    """Return the prompt of a storm."""
    system = ("You review plans, one after the other. " * 2000)[: characters(SHARED)]
    own = ("My own plan, as long as it is. " * 100)[: characters(OWN)]
    return Prompt(system=system, own=own, marked=marked)


async def storm(
    side: str,
    *,
    url: str,
    agents: int,
    calls: int,
    speed: float,
    marked: bool = False,
    limits: dict[str, int] | None = None,
) -> Found:
    """Let all agents call at once, and again when they have their reply; return when each was done and what failed.

    Args:
        marked: whether a peer marks the prompt for the cache.
        limits: what avm is told of the account.

    Returns:
        Times in seconds of the fast clock.
    """
    clock = FastClock(asyncio.get_running_loop(), speed)
    ended: list[float] = []
    errors: dict[str, int] = {}

    async def part(call: Call, number: int) -> None:
        for turn in range(calls):
            try:
                await call(number * calls + turn)
            except Exception as error:
                kind = type(error).__name__
                errors[kind] = errors.get(kind, 0) + 1
                return
        ended.append(clock.now() - began)

    prompt = storm_prompt(marked=marked)
    fast = clock if speed != 1.0 else None
    told = Limits(**limits) if limits else None
    async with make_side(side, url, prompt, limits=told, clock=fast) as fleet:
        await fleet.enlist(agents)
        began = clock.now()
        await fleet.play(agents, part)
        took = clock.now() - began
    ordered = sorted(ended) or [0.0]
    return {"done": len(ended), "first": ordered[0], "last": ordered[-1], "took": took, "errors": errors}


async def queue(side: str, *, url: str, queued: int, slots: int, calls: int) -> Found:
    """Time `user` calls with an empty queue, then with so many background calls that wait all the while.

    Args:
        slots: calls that may be under way at once.
    """
    fleet = make_side(side, url, Prompt(), concurrency=slots)
    assert isinstance(fleet, Machine)
    async with fleet:
        numbers = count()
        users = attrs.evolve(fleet.stage, priority="user")
        crowd = attrs.evolve(fleet.stage, priority="background")
        await _user_calls(fleet, users, numbers, slots)
        empty = await _user_calls(fleet, users, numbers, calls)
        waiting = asyncio.ensure_future(_crowd(fleet, crowd, numbers, queued + slots))
        await _until_queued(fleet, queued)
        full = await _user_calls(fleet, users, numbers, calls)
        left = await _queued(fleet)
        assert not waiting.done()
        leave(
            {
                "empty_p50": percentile(empty, 0.5) * 1e3,
                "empty": percentile(empty, 0.99) * 1e3,
                "full_p50": percentile(full, 0.5) * 1e3,
                "full": percentile(full, 0.99) * 1e3,
                "queued": left,
            }
        )


async def _queued(fleet: Machine) -> int:
    found = await fleet.vm.ask(fleet.vm.kernel.service("io"), PoolStatus())
    queued: int = found.queued
    return queued


async def _until_queued(fleet: Machine, calls: int) -> None:
    loop = asyncio.get_running_loop()
    over = loop.time() + 60.0
    while await _queued(fleet) < calls * 0.99:
        if loop.time() > over:
            raise RuntimeError(f"{calls:,} background calls were to wait, {await _queued(fleet):,} do.")
        await asyncio.sleep(0.05)


async def _user_calls(fleet: Machine, stage: Stage, numbers: count[int], calls: int) -> list[float]:
    """Make calls at a steady rate, whatever the replies take, and return the seconds of each."""
    took: list[float] = []

    async def part(call: Call, number: int) -> None:
        await asyncio.sleep(number * PAUSE)
        asked = perf_counter()
        await call(next(numbers))
        took.append(perf_counter() - asked)

    await fleet.troupe(stage, calls, part)
    return took


async def _crowd(fleet: Machine, stage: Stage, numbers: count[int], agents: int) -> None:
    async def part(call: Call, number: int) -> None:
        while True:
            await call(next(numbers))

    await fleet.troupe(stage, agents, part)


JOBS: dict[str, Callable[..., Awaitable[Found]]] = {"storm": storm, "queue": queue}


if __name__ == "__main__":
    run(JOBS[sys.argv[2]], sys.argv[1], sys.argv[3])
