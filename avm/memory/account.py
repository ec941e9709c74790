"""Account: what the kept objects take and save, counted as they come, change and go; and the figures drawn from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from avm.memory.compression import Dictionary
from avm.memory.digest import Digest
from avm.memory.kept import Entry, Kept

if TYPE_CHECKING:
    from avm.memory.page import Holding

KINDS = ("blob", "page", "tail")


@attrs.frozen(slots=True)
class StoreStatistics:
    """What a store holds and has done. Sizes are bytes. `held` is never mixed up with `sent`."""

    held_bytes: int
    """What the holders would hold without the store: every conversation in full, prompts and tools too, and each blob
    outside conversations once."""
    unique_bytes: int
    """The same content, each piece as often as it is really kept."""
    stored_bytes: int
    """Content as it is kept: compressed where it is warm."""
    account_bytes: int
    """What counts against the limit: stored content and the bookkeeping for it."""
    limit: int | None
    blobs: dict[str, int]
    """Number by tier: hot and warm."""
    pages: dict[str, int]
    tails: dict[str, int]
    conversations: int
    """Live lines of conversation; versions of one line are not counted apart, forks are."""
    sent_bytes: int
    """Bytes of all requests to models, each with its whole history."""
    sent_new_bytes: int
    """Those that were not in an earlier request."""
    hits: int
    """How often content came in that was kept already."""
    spills: int
    """How often an object was compressed."""
    thaws: int
    """How often an object was decompressed."""
    dictionary: Digest | None
    """The trained dictionary in use."""

    @property
    def dedup_held(self) -> float:
        """The part of what is held that costs nothing because it is kept already: 1 - unique / held."""
        return 1 - self.unique_bytes / self.held_bytes if self.held_bytes else 0.0

    @property
    def dedup_sent(self) -> float:
        """The part of what was sent to models that had been sent before."""
        return 1 - self.sent_new_bytes / self.sent_bytes if self.sent_bytes else 0.0

    @property
    def compression(self) -> float:
        """How many times smaller the unique content is as it is stored."""
        return self.unique_bytes / self.stored_bytes if self.stored_bytes else 1.0


class Account:
    """The running sums."""

    def __init__(self) -> None:
        self.charge = 0
        self.held = 0
        self.unique = 0
        self.stored = 0
        self.counts = dict.fromkeys(KINDS, 0)
        self.warm = dict.fromkeys(KINDS, 0)
        self.lines = 0
        self.sent = 0
        self.sent_new = 0
        self.hits = 0
        self.spills = 0
        self.thaws = 0

    def add(self, entry: Entry, size: int, charge: int, held: int) -> None:
        """Put a new, hot object on the books."""
        entry.charge = charge
        entry.size = entry.stored = size
        entry.held = held
        entry.warm = False
        self.charge += charge
        self.unique += size
        self.stored += size
        self.held += held
        self.counts[entry.kind] += 1

    def update(self, kept: Kept) -> None:
        """Take over what has changed in an object: its forms, its size, its tier."""
        entry = kept.entry
        charge, size, packed = kept.charge(), kept.raw_size(), kept.packed
        stored = size if packed is None else len(packed)
        self.charge += charge - entry.charge
        self.unique += size - entry.size
        self.stored += stored - entry.stored
        entry.charge, entry.size, entry.stored = charge, size, stored
        warm = packed is not None
        if entry.warm is not warm:
            entry.warm = warm
            self.warm[entry.kind] += 1 if warm else -1

    def begin_line(self, holding: Holding, charge: int, held: int) -> None:
        """Put a line of conversation on the books."""
        holding.held = held
        self.lines += 1
        self.held += held
        self.charge += charge

    def hold(self, entry: Entry | Holding, held: int) -> None:
        """Change what the holders of an object would hold without the store."""
        self.held += held - entry.held
        entry.held = held

    def end_line(self, holding: Holding, charge: int) -> None:
        """Take a line off the books."""
        self.lines -= 1
        self.held -= holding.held
        self.charge -= charge

    def remove(self, entry: Entry) -> None:
        """Take a dead object off the books."""
        self.charge -= entry.charge
        self.held -= entry.held
        self.unique -= entry.size
        self.stored -= entry.stored
        self.counts[entry.kind] -= 1
        if entry.warm:
            self.warm[entry.kind] -= 1

    def statistics(self, limit: int | None, dictionary: Dictionary | None) -> StoreStatistics:
        """Return the figures of this moment."""
        return StoreStatistics(
            held_bytes=self.held,
            unique_bytes=self.unique,
            stored_bytes=self.stored,
            account_bytes=self.charge,
            limit=limit,
            blobs=self._by_tier("blob"),
            pages=self._by_tier("page"),
            tails=self._by_tier("tail"),
            conversations=self.lines,
            sent_bytes=self.sent,
            sent_new_bytes=self.sent_new,
            hits=self.hits,
            spills=self.spills,
            thaws=self.thaws,
            dictionary=dictionary.digest if dictionary is not None else None,
        )

    def _by_tier(self, kind: str) -> dict[str, int]:
        return {"hot": self.counts[kind] - self.warm[kind], "warm": self.warm[kind]}
