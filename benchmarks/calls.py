"""Calls: what they cost the client in CPU, time and memory, in a process of its own; `io.py` runs it.

python calls.py SIDE cpu JSON        CPU a call, so many agents calling one after the other
python calls.py SIDE flat-out JSON   how many calls a second, with so many agents
python calls.py SIDE paced JSON      so many calls a second offered: how many were made, and the time they took
python calls.py SIDE streams JSON    resident bytes of slow streams that are open

The sides are those of `callers.py`. Prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NoReturn

import attrs
from callers import PROMPTS, Call, Prompt, Side, make_side
from figures import percentile
from fleets import settled
from resident import rss
from servers import CLIENT_CORE, SLOWLY, pin

from avm.vm.run import loop_factory

Found = dict[str, Any]


async def cpu(side: str, *, url: str, prompt: str, agents: int, calls: int) -> Found:
    """Measure CPU a call, this process's, all threads.

    Args:
        agents: calls under way at once. calls: of each agent.
    """

    async def part(call: Call, number: int) -> None:
        for turn in range(calls):
            await call(number * 1000 + turn)

    async with make_side(side, url, PROMPTS[prompt](), concurrency=agents) as fleet:
        await _warm_up(fleet, agents)
        began, used = perf_counter(), process_time()
        await fleet.play(agents, part)
        used, took = process_time() - used, perf_counter() - began
    made = agents * calls
    return {"us": used / made * 1e6, "rate": made / took}


async def flat_out(side: str, *, url: str, agents: int, seconds: float) -> Found:
    """Count the calls of agents that call again as soon as they have their reply."""
    numbers = count()
    done = 0

    async def part(call: Call, number: int) -> None:
        nonlocal done
        while perf_counter() < over:
            await call(next(numbers))
            done += began <= perf_counter() < over

    async with make_side(side, url, Prompt(), concurrency=agents) as fleet:
        await _warm_up(fleet, agents)
        # The first round sends all at once; then they spread.
        began = perf_counter() + seconds / 4
        over = began + seconds
        waited = _waited()
        await fleet.play(agents, part)
    return {"rate": done / seconds, "starved": (_waited() - waited) / (perf_counter() - began + seconds / 4)}


async def paced(side: str, *, url: str, agents: int, rate: float, seconds: float) -> Found:
    """Offer calls at a steady rate, each agent in its turn, and time them.

    The server replies with the seconds it had each request; what a call takes beyond that is what the client adds.
    """
    numbers = count()
    period = agents / rate
    added: list[float] = []
    shares = (0.0, 0.0)

    async def part(call: Call, number: int) -> None:
        due = start + number / rate
        while due < over:
            late = due - perf_counter()
            if late > 0:
                await asyncio.sleep(late)
            asked = perf_counter()
            said = await call(next(numbers))
            ended = perf_counter()
            if began <= ended < over:
                added.append(ended - asked - float(said))
            due += period

    async def look() -> None:
        nonlocal shares
        await asyncio.sleep(began - perf_counter())
        used, waited = process_time(), _waited()
        await asyncio.sleep(over - perf_counter())
        shares = ((process_time() - used) / seconds, (_waited() - waited) / seconds)

    async with make_side(side, url, Prompt(), concurrency=agents) as fleet:
        await _warm_up(fleet, agents)
        start = perf_counter() + 0.2
        began = start + max(0.5, seconds / 4)
        over = began + seconds
        await asyncio.gather(fleet.play(agents, part), look())
    times = [percentile(added, part) * 1e3 for part in (0.5, 0.99)] if added else [0.0, 0.0]
    return {
        "rate": len(added) / seconds,
        "p50": times[0],
        "p99": times[1],
        "busy": shares[0],
        "starved": shares[1],
    }


async def streams(side: str, *, url: str, agents: int, after: float) -> Found:
    """Measure what open streams take: resident bytes when all have begun, less those before.

    Args:
        after: seconds from the start at which to look.
    """
    warm, prompt = min(50, agents), attrs.evolve(PROMPTS["stream"](), own=SLOWLY.decode())
    async with make_side(side, url, prompt, concurrency=agents) as fleet:
        quick = attrs.evolve(prompt, own="at once")
        _say(fleet, quick)
        await fleet.enlist(agents)
        await _warm_up(fleet, warm)
        _say(fleet, prompt)
        before = settled()

        async def part(call: Call, number: int) -> None:
            await call(number)

        playing = asyncio.ensure_future(fleet.play(agents, part))
        await asyncio.sleep(after)
        open_now = _connections()
        grown = rss() - before
        assert not playing.done()
        leave({"bytes": grown / agents, "open": open_now})


async def _warm_up(fleet: Side, agents: int) -> None:
    async def part(call: Call, number: int) -> None:
        for turn in range(2):
            await call(10_000_000 + number * 2 + turn)

    await fleet.enlist(agents)
    await fleet.play(agents, part)
    gc.collect()


def _say(fleet: Any, prompt: Prompt) -> None:
    (fleet.stage if hasattr(fleet, "stage") else fleet).prompt = prompt


# Seconds the main thread could have run and had no core.
def _waited() -> float:
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _connections() -> int:
    # The folder itself is open while it is listed, and then no more.
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sum(os.readlink(link).startswith("socket:") for link in links if os.path.islink(link))


def _show(found: Found) -> None:
    print(json.dumps(found), flush=True)


def leave(found: Found) -> NoReturn:
    """Print what was found and end the process at once: what was not measured need not end in order."""
    _show(found)
    os._exit(0)


JOBS: dict[str, Callable[..., Awaitable[Found]]] = {
    "cpu": cpu,
    "flat-out": flat_out,
    "paced": paced,
    "streams": streams,
}


def main(side: str, job: str, settings: str) -> None:
    """Measure and print."""
    run(JOBS[job], side, settings)


def run(job: Callable[..., Awaitable[Found]], side: str, settings: str) -> None:
    """Run a job on the client's core and print what it found."""
    pin(CLIENT_CORE)

    async def whole() -> Found:
        return await job(side, **json.loads(settings))

    with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
        _show(runner.run(whole()))


if __name__ == "__main__":
    main(*sys.argv[1:])
