"""Tables: those of a cold store gone through from end to end, also where they cannot all be read.

They are gone through by slices of keys and one value at a time, so it takes as much memory as the largest value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from avm.errors import ColdStoreError
from avm.memory.cold.coldstore import ColdStore

Progress = Callable[[str, float], None]
"""Told what is gone through, and how much of it is behind us, from 0 to 1."""

Lost = Callable[[str, bytes, ColdStoreError], None]
"""Told of a table that cannot be read near a key."""

SLICE = 500
"""Keys that are read at a time."""

FIRST_STRIDE = 1 << 40
"""How far is gone on at first behind a key that cannot be read, of the 2^64 there are."""

PLURALS = {"dictionary": "dictionaries", "quarantine": "quarantine"}
"""What the content of a table is called, where it is not as the table with an s."""


def silent(what: str, part: float) -> None:
    """Tell nobody."""


def refuse(table: str, key: bytes, error: ColdStoreError) -> None:
    """Go no further than a place that cannot be read."""
    raise error


@attrs.frozen(slots=True)
class Tables:
    """The tables of a cold store, to be gone through. Nothing is written.

    Attributes:
        lost: told once of each place that cannot be read; what is behind it is gone through all the same.
    """

    cold: ColdStore
    progress: Progress
    lost: Lost

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """Go through a table with its values, one in memory at a time: nobody knows how large they are."""
        for key in self.keys(table):
            try:
                value = self.cold.read(table, [key])[0]
            except ColdStoreError as error:
                self.lost(table, key, error)
                continue
            if value is not None:
                yield key, value

    def keys(self, table: str) -> Iterator[bytes]:
        """Go through the keys of a table."""
        what = PLURALS.get(table, f"{table}s")
        after, limit, stride = b"", SLICE, 0
        while True:
            try:
                rows = self.cold.scan(table, after, limit, values=False)
            except ColdStoreError as error:
                if limit > 1:
                    # As near to the damage as can be.
                    limit = limit // 8 or 1
                    continue
                if not stride:
                    self.lost(table, after, error)
                # By a third more in each step, not much that is sound is passed over; it is found again when somebody
                # refers to it.
                stride = stride * 4 // 3 or FIRST_STRIDE
                if _place(after) + stride >= 1 << 64:
                    return
                after = (_place(after) + stride).to_bytes(8, "big")
                continue
            if not rows:
                self.progress(what, 1.0)
                return
            yield from (key for key, _ in rows)
            after, limit, stride = rows[-1][0], min(limit * 2, SLICE), 0
            self.progress(what, _place(after) / (1 << 64))


def _place(key: bytes) -> int:
    """Return where a key is of 2^64: keys are digests, or begin with one, so they are spread evenly."""
    return int.from_bytes(key[:8].ljust(8, b"\0"), "big")
