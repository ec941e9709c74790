"""The simulated prompt cache: which part of a prompt is read, which is written, for how long.

As the API documents it. A prompt is its blocks in the order tools, system, messages. Where a block is marked
(`cache_control`) the prefix up to it is looked up, and then those up to 19 blocks before it; the longest that is found
is read. The prefixes up to the marks behind that are written, if they have enough tokens. What was written can be read
once the response to the request that wrote it has begun, until its time is over; each use starts that anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

LOOK_BACK = 20
"""Blocks a mark looks at, itself among them."""

MIN_TOKENS = 1024
MINUTES = 300.0
HOUR = 3600.0
SWEEP = 10_000
"""Entries beyond which those that are over are looked for and dropped."""


@attrs.frozen(slots=True)
class Prefixes:
    """A prompt as the cache sees it: for each block the key of the prefix that ends with it and its tokens; and which
    blocks are marked, with the seconds of each mark, ascending."""

    keys: Sequence[bytes]
    tokens: Sequence[int]
    marks: Sequence[tuple[int, float]]


@attrs.frozen(slots=True)
class CachePlan:
    """What one request reads and writes, in tokens. `entries` are the keys to write with their seconds."""

    read: int = 0
    written: int = 0
    written_hour: int = 0
    entries: tuple[tuple[bytes, float], ...] = ()


NOTHING = CachePlan()


class PromptCache:
    """Remembers prefixes.

    Args:
        min_tokens: a shorter prefix is not kept, and nothing is said of it.
    """

    def __init__(self, min_tokens: int = MIN_TOKENS) -> None:
        self._min_tokens = min_tokens
        # Until when, and for how many seconds from each use.
        self._entries: dict[bytes, tuple[float, float]] = {}
        self._sweep_at = SWEEP

    def __len__(self) -> int:
        return len(self._entries)

    def plan(self, prompt: Prefixes, now: float) -> CachePlan:
        """Look a prompt up. What it reads is used by that; what it writes is there after `commit`."""
        found = self._longest(prompt, now)
        read = 0 if found is None else prompt.tokens[found]
        behind = [
            mark
            for mark in prompt.marks
            if (found is None or mark[0] > found) and prompt.tokens[mark[0]] >= self._min_tokens
        ]
        entries = tuple((prompt.keys[block], seconds) for block, seconds in behind)
        # An hour is paid for up to the last mark that asks for it, five minutes for the rest.
        hour = max((prompt.tokens[block] for block, seconds in behind if seconds == HOUR), default=read)
        last = max((prompt.tokens[block] for block, _ in behind), default=hour)
        return CachePlan(read, last - hour, hour - read, entries)

    def commit(self, plan: CachePlan, now: float) -> None:
        """The response to a request has begun: what it writes can be read from now on."""
        for key, seconds in plan.entries:
            self._entries[key] = (now + seconds, seconds)
        if len(self._entries) > self._sweep_at:
            self._entries = {key: entry for key, entry in self._entries.items() if entry[0] > now}
            self._sweep_at = max(SWEEP, 2 * len(self._entries))

    def _longest(self, prompt: Prefixes, now: float) -> int | None:
        for mark, _ in reversed(prompt.marks):
            for block in range(mark, max(-1, mark - LOOK_BACK), -1):
                entry = self._entries.get(prompt.keys[block])
                if entry is not None and entry[0] > now:
                    self._entries[prompt.keys[block]] = (now + entry[1], entry[1])
                    return block
        return None
