"""What the Messages server did, and what it would have cost."""

from __future__ import annotations

from typing import Any

import attrs

from avm.io.providers.provider import Price

MILLION = 1_000_000


@attrs.frozen(slots=True, kw_only=True)
class TokenCounts:
    """Tokens of a number of requests, by what they are charged at."""

    requests: int = 0
    input: int = 0
    """Neither read from the prompt cache nor written to it."""
    written: int = 0
    """To the prompt cache, for five minutes."""
    written_hour: int = 0
    read: int = 0
    """From the prompt cache."""
    output: int = 0

    def usd(self, price: Price) -> float:
        """Return the US dollars they cost."""
        millionths = self.input * price.input + self.output * price.output + self.read * price.cache_read
        millionths += self.written * price.cache_write + self.written_hour * price.cache_write_hour
        return millionths / MILLION


@attrs.frozen(slots=True, kw_only=True)
class Ledger:
    """What a server did up to now."""

    accepted: int
    """Requests that were served, those of batches not counted."""
    rejected: int
    """Requests refused for a limit: 429 from the buckets, 529 over `capacity`."""
    invalid: int
    """Requests refused for what they are: 400, 401, 404, 413."""
    faults: int
    """Requests that met a fault."""
    live: TokenCounts
    batched: TokenCounts
    """Charged at half the price."""

    @property
    def input_tokens(self) -> int:
        """Input tokens charged at the full price, batches too."""
        return self.live.input + self.batched.input

    @property
    def written_tokens(self) -> int:
        """Input tokens written to the prompt cache for five minutes."""
        return self.live.written + self.batched.written

    @property
    def written_hour_tokens(self) -> int:
        """Input tokens written to the prompt cache for an hour."""
        return self.live.written_hour + self.batched.written_hour

    @property
    def read_tokens(self) -> int:
        """Input tokens read from the prompt cache."""
        return self.live.read + self.batched.read

    @property
    def output_tokens(self) -> int:
        """Tokens written by the model."""
        return self.live.output + self.batched.output

    def usd(self, price: Price) -> float:
        """Return the US dollars of everything, if all models had this price."""
        return self.live.usd(price) + self.batched.usd(price) / 2

    def record(self, price: Price | None = None) -> dict[str, Any]:
        """Return it as plain JSON; with "usd" if a price is given."""
        record: dict[str, Any] = attrs.asdict(self)
        if price is not None:
            record["usd"] = round(self.usd(price), 6)
        return record


class Account:
    """Adds up tokens; `counts` is what came together."""

    def __init__(self) -> None:
        self._requests = self._input = self._written = self._written_hour = self._read = self._output = 0

    def charge(self, usage: UsageCounts) -> None:
        """Add one request."""
        self._requests += 1
        self._input += usage.input
        self._written += usage.written
        self._written_hour += usage.written_hour
        self._read += usage.read
        self._output += usage.output

    def counts(self) -> TokenCounts:
        """Return the sums."""
        return TokenCounts(
            requests=self._requests,
            input=self._input,
            written=self._written,
            written_hour=self._written_hour,
            read=self._read,
            output=self._output,
        )


@attrs.frozen(slots=True)
class UsageCounts:
    """Tokens of one request."""

    input: int
    written: int
    written_hour: int
    read: int
    output: int

    def record(self) -> dict[str, Any]:
        """Return it as the API's `usage`."""
        return {
            "input_tokens": self.input,
            "cache_creation_input_tokens": self.written + self.written_hour,
            "cache_read_input_tokens": self.read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": self.written,
                "ephemeral_1h_input_tokens": self.written_hour,
            },
            "output_tokens": self.output,
            "service_tier": "standard",
        }
