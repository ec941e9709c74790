"""Account: what the kept objects take and save, counted as they come, change and go; and the figures drawn from it.

An object is struck off the books before it changes and entered again afterwards: what it counts for follows from the
state it is in, and only its charge is remembered.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs

from avm.memory.digest import Digest

if TYPE_CHECKING:
    from avm.memory.blob import Blob
    from avm.memory.kept import Kept
    from avm.memory.line import Line

KINDS = ("blob", "page", "tail")
TIERS = ("hot", "warm", "cold")

RECENT = 1000
"""How many latencies are remembered for percentiles."""


@attrs.frozen(slots=True, kw_only=True)
class ColdStatistics:
    """What a store has on disk and has done there. Latencies are seconds, of the last thousand or so."""

    path: str
    disk_bytes: int
    """Bytes of all files of the home, or of the scratch folder."""
    commits: int
    """Conversations committed; each is durable when its future is done."""
    records: int
    """Pieces of content written."""
    pending: int
    """Changes that wait to be written."""
    commit_p50: float
    commit_p99: float
    """From handing in to being on disk."""
    swept: int
    """Unreferenced pieces of content deleted."""
    quarantined: int
    """Records found damaged and set aside since the store was opened."""


@attrs.frozen(slots=True, kw_only=True)
class StoreStatistics:
    """What a store holds and has done. Sizes are bytes. `held` is never mixed up with `sent`."""

    held_bytes: int
    """What the holders would hold without the store: every conversation that is awake in full, prompts and tools too,
    and each blob outside conversations once."""
    unique_bytes: int
    """The same content, each piece as often as it is really kept, in whatever tier."""
    stored_bytes: int
    """Content as it is kept in RAM: compressed where it is warm."""
    account_bytes: int
    """What counts against the limit: stored content and the bookkeeping for it."""
    limit: int | None
    """Bytes the account may take now; what is asked for a process leaves less when the rest of it takes more."""
    rss_bytes: int
    """What the whole process takes, as measured now."""
    blobs: dict[str, int]
    """Number by tier: hot, warm and cold."""
    pages: dict[str, int]
    tails: dict[str, int]
    tier_bytes: dict[str, int]
    """Content by tier: hot as it is, warm as compressed, cold as it would be if read."""
    conversations: int
    """Live lines of conversation; versions of one line are not counted apart, forks are."""
    asleep: int
    """Those of them of which RAM holds no more than a stub."""
    sent_bytes: int
    """Bytes of all requests to models, each with its whole history."""
    sent_new_bytes: int
    """Those that were not in an earlier request."""
    hits: int
    """How often content came in that was kept already."""
    compressions: int
    """How often an object was compressed."""
    thaws: int
    """How often an object was decompressed."""
    spills: int
    """How often an object left RAM for the disk."""
    wakes: int
    """How often content was read from disk: a whole conversation or one object."""
    wake_p50: float
    wake_p99: float
    """Seconds that took, of the last thousand or so."""
    waits: int
    """How often something had to wait for room."""
    dictionaries: tuple[Digest, ...]
    """The trained dictionaries in use."""
    files: int
    file_bytes: int
    """Large files; they count against the disk, not the limit."""
    cold: ColdStatistics | None
    """None while nothing is on disk."""

    @property
    def dedup_held(self) -> float:
        """The part of what is held that costs nothing because it is kept already: 1 - unique / held, at least 0."""
        return max(0.0, 1 - self.unique_bytes / self.held_bytes) if self.held_bytes else 0.0

    @property
    def dedup_sent(self) -> float:
        """The part of what was sent to models that had been sent before."""
        return 1 - self.sent_new_bytes / self.sent_bytes if self.sent_bytes else 0.0

    @property
    def compression(self) -> float:
        """How many times smaller the unique content in RAM is as it is stored."""
        in_ram = self.unique_bytes - self.tier_bytes["cold"]
        return in_ram / self.stored_bytes if self.stored_bytes else 1.0

    @property
    def rss_over_account(self) -> float:
        """How many times the account the process takes; the interpreter and all else is in it."""
        return self.rss_bytes / self.account_bytes if self.account_bytes else 0.0


class Latencies:
    """The last thousand or so latencies, in seconds."""

    def __init__(self) -> None:
        self.count = 0
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, seconds: float) -> None:
        """Take one."""
        self.count += 1
        self._recent.append(seconds)

    def percentile(self, part: float) -> float:
        """Return the latency that `part` (0 to 1) of them do not exceed; 0 without any."""
        found = sorted(self._recent)
        return found[min(int(len(found) * part), len(found) - 1)] if found else 0.0


class Account:
    """The running sums."""

    def __init__(self) -> None:
        self.charge = 0
        self.held = 0
        self.unique = 0
        self.stored = [0, 0, 0]
        self.cold_size = 0
        self.counts = {kind: [0, 0, 0] for kind in KINDS}
        self.lines = 0
        self.asleep = 0
        self.sent = 0
        self.sent_new = 0
        self.hits = 0
        self.compressions = 0
        self.thaws = 0
        self.spills = 0
        self.waits = 0
        self.wakes = Latencies()

    def enter(self, kept: Kept) -> None:
        """Put an object on the books as it is now."""
        charge, tier, size = kept.charge(), kept.tier(), kept.size
        kept.is_kept = True
        if kept.KIND == "blob":
            kept.charged = charge  # type: ignore[attr-defined]
        self.charge += charge
        self.unique += size
        self.stored[tier] += kept.stored()
        self.counts[kept.KIND][tier] += 1
        if tier == 2:
            self.cold_size += size

    def strike(self, kept: Kept) -> None:
        """Take an object off the books as it is now."""
        self.remove(kept.KIND, kept.booked(), kept.size, kept.tier(), kept.stored())

    def remove(self, kind: str, charge: int, size: int, tier: int, stored: int) -> None:
        """Take off the books what was in that state."""
        self.charge -= charge
        self.unique -= size
        self.stored[tier] -= stored
        self.counts[kind][tier] -= 1
        if tier == 2:
            self.cold_size -= size

    def recharge(self, blob: Blob) -> None:
        """Take over what has changed in the charge of a blob, and in nothing else."""
        charge = blob.charge()
        self.charge += charge - blob.charged
        blob.charged = charge

    def grow(self, growth: int, charge: int) -> None:
        """Take over that a hot tail has grown by so many bytes, and its charge by so many."""
        self.unique += growth
        self.stored[0] += growth
        self.charge += charge

    def begin_line(self, held: int, charge: int) -> None:
        """Put a line of conversation on the books."""
        self.lines += 1
        self.held += held
        self.charge += charge

    def sleep(self, line: Line) -> None:
        """Take over that RAM holds no more than a stub of a line: it counts as held when it is back."""
        line.asleep = True
        self.asleep += 1
        self.held -= line.held

    def wake(self, line: Line) -> None:
        """Take over that a line is back."""
        if line.asleep:
            line.asleep = False
            self.asleep -= 1
            self.held += line.held

    def end_line(self, held: int, asleep: bool, charge: int) -> None:
        """Take a line off the books."""
        self.lines -= 1
        self.held -= 0 if asleep else held
        self.charge -= charge
        self.asleep -= asleep

    def by_tier(self, kind: str) -> dict[str, int]:
        """Return how many objects of a kind are in each tier."""
        return dict(zip(TIERS, self.counts[kind], strict=True))

    def tier_bytes(self) -> dict[str, int]:
        """Return the bytes of content in each tier."""
        return {"hot": self.stored[0], "warm": self.stored[1], "cold": self.cold_size}
