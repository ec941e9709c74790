"""Estimates of what a call will take before it has: input tokens from bytes, output tokens from what its kind took."""

from __future__ import annotations

from avm.io.providers.provider import CHARACTERS_PER_TOKEN
from avm.io.request import ModelRequest, Usage

OUTPUT_TOKENS = 400
"""Expected of the first call of a kind of agent."""

WEIGHT = 0.1
"""Of the newest call in the moving averages."""

KINDS = 1000
"""Kinds of agent whose output is remembered."""


class Estimator:
    """Learns from replies. One for each gate: models of a family count tokens alike."""

    def __init__(self) -> None:
        self._per_byte = 1 / CHARACTERS_PER_TOKEN
        self._output: dict[str, float] = {}

    def input_tokens(self, size: int) -> int:
        """Return the tokens of a request of so many bytes, those in the prompt cache included."""
        return int(size * self._per_byte) + 1

    def tokens(self, estimated: int) -> int:
        """Correct a count that was made at `CHARACTERS_PER_TOKEN`."""
        return int(estimated * CHARACTERS_PER_TOKEN * self._per_byte)

    def output_tokens(self, request: ModelRequest) -> int:
        """Return the tokens a reply will have: what the kind of agent had lately, at most `max_tokens`."""
        expected = self._output.get(request.kind, OUTPUT_TOKENS)
        return max(1, min(request.max_tokens, int(expected)))

    def learn(self, request: ModelRequest, size: int, usage: Usage) -> None:
        """Take over what a call of so many bytes took."""
        sent = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        # A few bytes say little: most of their tokens are the frame around them.
        if sent and size >= 200:
            self._per_byte += WEIGHT * (min(max(sent / size, 0.05), 2.0) - self._per_byte)
        if usage.output_tokens:
            old = self._output.get(request.kind)
            if old is None and len(self._output) >= KINDS:
                del self._output[next(iter(self._output))]
            new = float(usage.output_tokens)
            self._output[request.kind] = new if old is None else old + WEIGHT * (new - old)
