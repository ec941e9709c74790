"""Slots: which slot of a local server has a prompt most like a new one.

llama.cpp keeps the prompt cache of each slot by itself, so a leader does not help the others: a request is quick in the
slot that served the same conversation, or one that begins alike, and slow in any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from avm.io.prefix import Link


class Slots:
    """The slots of one server: what each served last, and which are free."""

    def __init__(self, count: int) -> None:
        # Least recently used first.
        self._free = list(range(count))
        self._last: list[tuple[bytes, ...]] = [() for _ in range(count)]

    def take(self, chain: Sequence[Link]) -> int | None:
        """Take the free slot whose last prompt has the longest beginning in common; None if all are taken."""
        if not self._free:
            return None
        keys = tuple(link.key for link in chain)
        best = max(self._free, key=lambda slot: (_common(self._last[slot], keys), -self._free.index(slot)))
        self._free.remove(best)
        self._last[best] = keys
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
