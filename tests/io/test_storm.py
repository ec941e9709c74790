"""A thousand agents at once on one account: the storm that ends most fleets (io.md, section 2), in simulated time.

1,000 agents share a prompt of 15,000 tokens and have 500 of their own each; a reply is 300 tokens. The simulated
provider has the limits of a start tier as real token buckets, a prompt cache that can be read once a response has
begun, and a ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from avm.io import CallPolicy, Complete, Completion, Latency, ModelRequest, ScriptedProvider, encode_fragment
from avm.io.prices import price_of
from avm.io.providers.provider import CHARACTERS_PER_TOKEN
from avm.io.providers.simulated import SimulatedCache, SimulatedLimits, SimulatedServer
from avm.testing import ManualClock
from tests.io.pooled import front_of, pooled

Run = Callable[[Coroutine[Any, Any, Any]], Any]

MODEL = "claude-sonnet-5-5"
SYSTEM = "You review plans. " * int(15_000 * CHARACTERS_PER_TOKEN / 18)
OWN = "My own text, as long as it is. " * int(500 * CHARACTERS_PER_TOKEN / 31)
ANSWER = "word " * int(300 * CHARACTERS_PER_TOKEN / 5)


def request(number: int) -> ModelRequest:
    text = encode_fragment({"role": "user", "content": f"{number}: {OWN}"})
    return ModelRequest(MODEL, messages=(text,), system=SYSTEM, agent=f"agent-{number}", kind="Reviewer")


def ideal(agents: int) -> float:
    """Return what it costs if one writes the prompt and all others read it."""
    price = price_of(MODEL)
    assert price is not None
    shared, own, out = len(SYSTEM) / CHARACTERS_PER_TOKEN, len(OWN) / CHARACTERS_PER_TOKEN, 300
    written = shared * price.cache_write + (agents - 1) * shared * price.cache_read
    return (written + agents * (own * price.input + out * price.output)) / 1e6


async def storm(agents: int, server: SimulatedServer, policy: CallPolicy) -> tuple[list[float], float]:
    """Let all agents ask at once; return when each had its reply, and when the first call was made."""
    clock = ManualClock()
    provider = ScriptedProvider(lambda _: ANSWER, latency=Latency(4.0, 0.3), server=server, concurrency=1000)
    ended: list[float] = []

    async def one(number: int) -> None:
        completion: Completion = await kernel.ask(
            front_of(kernel), Complete(request(number), "normal", policy), timeout=None
        )
        assert completion.text == ANSWER
        ended.append(clock.now())

    async with pooled(provider, clock=clock) as kernel:
        asking = asyncio.gather(*[one(number) for number in range(agents)])
        while not asking.done() and clock.now() < 1000:
            await kernel.idle()
            clock.advance(0.1)
        await asyncio.wait_for(asking, 1)
    return ended, clock.now()


@pytest.mark.slow
def test_a_thousand_agents_all_finish_within_the_limits_and_near_the_ideal_cost(run: Run) -> None:
    """SDK defaults: 34 of 1,000 finish. All at once and all writing the cache: 41.50 USD instead of 5.54."""

    async def body() -> None:
        server = SimulatedServer(SimulatedLimits(1000, 500_000, 100_000), SimulatedCache())
        ended, took = await storm(1000, server, CallPolicy(retry_for=600.0))
        ledger = server.ledger()

        assert len(ended) == ledger.answered == 1000
        assert ledger.rejected / (ledger.answered + ledger.rejected) < 0.02
        assert ledger.usd <= 1.05 * ideal(1000)
        # 300,000 tokens of output at 100,000 a minute, the first 100,000 of them at once.
        assert took <= (ledger.output_tokens - 100_000) / 100_000 * 60 / 0.95 + 15

    run(body(), timeout=60.0)


def test_a_hundred_agents_on_a_cold_prompt_write_it_once(run: Run) -> None:
    async def body() -> None:
        server = SimulatedServer(None, SimulatedCache())
        ended, _ = await storm(100, server, CallPolicy())
        ledger = server.ledger()

        assert len(ended) == 100
        assert ledger.cache_write_tokens < 1.01 * len(SYSTEM) / CHARACTERS_PER_TOKEN
        assert ledger.usd <= 1.05 * ideal(100)

    run(body())


@pytest.mark.slow
def test_equal_agents_that_make_several_calls_each_finish_at_about_the_same_time(run: Run) -> None:
    """The first 100,000 tokens of output go at once, so a third of the agents is a call ahead of the others: 1.15."""

    async def body() -> None:
        clock = ManualClock()
        server = SimulatedServer(SimulatedLimits(200, 100_000, 20_000), SimulatedCache())
        provider = ScriptedProvider(
            lambda _: ANSWER, latency=Latency(4.0, 0.3), server=server, concurrency=1000
        )
        ended: list[float] = []

        async def one(number: int) -> None:
            policy = CallPolicy(retry_for=600.0)
            for _ in range(8):
                await kernel.ask(front_of(kernel), Complete(request(number), policy=policy), timeout=None)
            ended.append(clock.now())

        async with pooled(provider, clock=clock) as kernel:
            asking = asyncio.gather(*[one(number) for number in range(200)])
            while not asking.done() and clock.now() < 3000:
                await kernel.idle()
                clock.advance(0.25)
            await asyncio.wait_for(asking, 1)

        assert len(ended) == 200
        assert max(ended) <= 1.2 * min(ended)
        assert server.ledger().rejected < 0.02 * 1600

    run(body(), timeout=60.0)
