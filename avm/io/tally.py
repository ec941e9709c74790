"""Tally: what the pool's front counts of the calls it has answered."""

from __future__ import annotations

from avm.io.prices import LONG_PROMPTS, cost, price_of
from avm.io.providers.provider import Price, Provider
from avm.io.request import Completion, ModelRequest, PoolStatistics
from avm.io.reservoir import Reservoir

LONG_PROMPT = min(tokens for tokens, _ in LONG_PROMPTS.values())
"""Tokens below which no model of the table costs more for a long prompt."""

MODELS = 1000
"""Models whose price is remembered."""


class Tally:
    """Calls, tokens, money and latencies since the front was started.

    Args:
        provider: knows the prices.
    """

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.done = 0
        self.failed = 0
        self.cache_hits = 0
        self.coalesced = 0
        self.batched = 0
        self.fallbacks = 0
        self.cost: float | None = None
        self.latency = Reservoir()
        self._tokens = [0, 0, 0, 0]
        self._prices: dict[str, Price | None] = {}

    def paid(self, completion: Completion, request: ModelRequest, hour: bool) -> None:
        """Take note of what a provider's reply to a request took; `hour` is how long what it wrote is cached."""
        is_batch = completion.source == "batch"
        self.batched += is_batch
        usage = completion.usage
        if usage is None:
            return
        tokens = self._tokens
        tokens[0] += usage.input_tokens
        tokens[1] += usage.output_tokens
        tokens[2] += usage.cache_read_tokens
        tokens[3] += usage.cache_write_tokens
        model = completion.model or request.model
        price = self._price(model)
        if price is not None:
            prompt = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
            if prompt >= LONG_PROMPT and price == price_of(model):
                # Of the table, which knows what a long prompt costs.
                price = price_of(model, prompt_tokens=prompt) or price
            self.cost = (self.cost or 0.0) + cost(usage, price, hour, batch=is_batch)

    # A price does not change while a pool lives, and it is looked up for each call.
    def _price(self, model: str) -> Price | None:
        if model not in self._prices:
            if len(self._prices) >= MODELS:
                self._prices.clear()
            self._prices[model] = self.provider.price(model)
        return self._prices[model]

    def statistics(self) -> PoolStatistics:
        """Return the counts; those of gates and tools are for others to fill in."""
        p50, p99 = self.latency.quantiles(0.5, 0.99)
        input_tokens, output_tokens, read_tokens, write_tokens = self._tokens
        return PoolStatistics(
            provider=self.provider.name,
            requests=self.done,
            failed=self.failed,
            in_flight=0,
            queued=0,
            latency_p50=p50,
            latency_p99=p99,
            workers=0,
            tool_calls=0,
            tool_failures=0,
            tools_in_flight=0,
            tools_queued=0,
            tool_workers=0,
            crashed_workers=0,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cache_read_tokens=read_tokens,
            cache_write_tokens=write_tokens,
            cost=self.cost,
            cache_hits=self.cache_hits,
            coalesced=self.coalesced,
            batched=self.batched,
            fallbacks=self.fallbacks,
        )
