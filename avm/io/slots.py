"""Slots: which slot of a local server has a prompt most like a new one.

llama.cpp keeps the prompt cache of each slot by itself, so a leader does not help the others: a request is quick in the
slot that served the same agent last, or one whose prompt begins alike, and slow in any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from avm.io.prefix import Link


class Slots:
    """The slots of one server: what each served last, and which are free."""

    def __init__(self, count: int) -> None:
        # Least recently used first.
        self._free = list(range(count))
        self._last: list[tuple[str, tuple[bytes, ...]]] = [("", ()) for _ in range(count)]

    def take(self, agent: str, chain: Sequence[Link]) -> int | None:
        """Take the free slot that served the agent last, else the one whose last prompt has most in common with this.

        Of equals it is the one that was given back first; None if all are taken.
        """
        if not self._free:
            return None
        keys = tuple(link.key for link in chain)

        def likeness(place: int) -> tuple[bool, int, int]:
            last_agent, last_keys = self._last[self._free[place]]
            return bool(agent) and agent == last_agent, _common(last_keys, keys), -place

        best = self._free.pop(max(range(len(self._free)), key=likeness))
        self._last[best] = (agent, keys)
        return best

    def give_back(self, slot: int) -> None:
        """Let others have it."""
        self._free.append(slot)


def _common(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    length = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        length += 1
    return length
