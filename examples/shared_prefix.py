"""A shared prefix: what fifty agents with one long system prompt cost, with the provider's prompt cache and without.

The prompt is paid in full once: one agent's call leads, the others wait until its response has begun, and read the
prompt from the cache at a twentieth of its price. The caller does nothing for it; the pool places the breakpoints. The
server is the test kit's, on this machine; it caches, counts and keeps a ledger as a hosted one does.
"""

from __future__ import annotations

import asyncio

from avm import VM, Agent, child, run, supervisor
from avm.io import CallPolicy, Provider, choose_provider
from avm.testing import MessagesServer

AGENTS = 50
MODEL = "claude-sonnet-5-5"


class Reviewer(Agent):
    model = MODEL
    system = "You review plans by the following rules. " * 1_300


class Uncached(Reviewer):
    policy = CallPolicy(prompt_cache="off")


async def cost_of(reviewer: type[Agent]) -> float:
    """Let all agents ask once, and return what the server's ledger says that it cost."""
    staff = supervisor("staff", children=[child(f"reviewer-{n}", reviewer) for n in range(AGENTS)])
    async with MessagesServer("Looks good.", latency="50ms") as server:
        provider: Provider = choose_provider("messages", base_url=server.base_url)
        price = provider.price(MODEL)
        assert price is not None
        async with VM(staff, provider=provider) as vm:
            await asyncio.gather(*(vm.ask(f"reviewer-{n}", f"Plan {n}") for n in range(AGENTS)))
            pool = vm.status(depth=0).io
        ledger = server.ledger()
    print(
        f"{reviewer.__name__}: {ledger.input_tokens:,} tokens paid in full, {ledger.written_tokens:,} written to the "
        f"cache, {ledger.read_tokens:,} read from it ({pool.cached_share if pool else 0:.1%}): "
        f"{ledger.usd(price):.2f} USD"
    )
    return ledger.usd(price)


async def main() -> None:
    without, shared = await cost_of(Uncached), await cost_of(Reviewer)
    print(f"{without / shared:.1f} times cheaper")


if __name__ == "__main__":
    run(main)
