"""Kept: something a store keeps once, in one of three tiers: raw (hot), packed (warm), or only on disk (cold).

The shelf refers to what it keeps only weakly. When CPython counts the last handle away, the object leaves a note in
the shelf's queue, and is taken off the books at the shelf's next step. Appending to that queue is all that happens at
the death itself, so it may come in any thread and inside the collector.

An object in RAM is swapped from raw to packed or back by setting the new form before clearing the old, so that a
reader in another thread always finds one of them. Only what is on disk loses both.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avm.memory.compression import Dictionary
    from avm.memory.shelf import Shelf

NEVER = float("inf")
"""Since when something is idle that did not shrink: as it is, it is not worth another try."""

COLD = 2
"""The tier of what is on disk only."""

Note = tuple[Any, ...]
"""What is left of something that died: its kind and what its account needs to know."""


def footprint(value: object) -> int:
    """Return the bytes an object takes of the heap: its size rounded up to the 16 that malloc deals in."""
    return (sys.getsizeof(value) + 15) & ~15


class Kept:
    """What blobs, pages and tails have in common: a form, a charge, and when they were last used."""

    __slots__ = (
        "__weakref__",
        "dictionary",
        "idle_since",
        "is_kept",
        "packed",
        "saved",
        "shelf",
        "touched",
    )

    OVERHEAD = 0
    """Bytes of bookkeeping for one object, measured; in the charge besides the bytes of the object's forms."""

    KIND = ""
    """What it is called in statistics."""

    size: int
    """Bytes of the content."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        # Whether it is on the books.
        self.is_kept = False
        self.packed: bytes | None = None
        self.dictionary: Dictionary | None = None
        self.touched = True
        self.idle_since = 0.0
        # Whether its content, as it is now, is on disk under its key. Set by the thread that writes.
        self.saved = False

    def __del__(self) -> None:
        if self.is_kept:
            self.shelf.notes.append(self.note())

    def note(self) -> Note:
        """Return what the account needs to know when this has died."""
        return (self.KIND, self.key_or_none(), self.booked(), self.size, self.tier(), self.stored(), 0, ())

    def tier(self) -> int:
        """Return where it is: 0 hot, 1 warm, 2 cold."""
        if self.is_raw():
            return 0
        return 1 if self.packed is not None else COLD

    def stored(self) -> int:
        """Return the bytes its content takes of RAM as it is kept now."""
        if self.is_raw():
            return self.size
        return len(self.packed) if self.packed is not None else 0

    def key_or_none(self) -> bytes | None:
        """Return its digest in the shelf's table of its kind; None if its kind is not looked up."""
        return None

    def is_raw(self) -> bool:
        """Tell whether it is hot."""
        raise NotImplementedError

    def charge(self) -> int:
        """Return the bytes it takes of the ceiling in its present forms."""
        raise NotImplementedError

    def booked(self) -> int:
        """Return the bytes the account has charged for it: what `charge` gave when it was last entered."""
        return self.charge()

    def trim(self) -> bool:
        """Drop what can be made again quickly; tell whether there was any."""
        return False

    def snapshot(self) -> bytes | None:
        """Return the content to be packed; None if packing it now would free nothing."""
        raise NotImplementedError

    def can_unload(self) -> bool:
        """Tell whether dropping the raw form would free it: nobody holds it besides us."""
        return True

    def unload(self, size: int) -> bool:
        """Drop the raw form, which had `size` bytes when it was packed; False if it has grown and must stay."""
        raise NotImplementedError

    def load(self, content: bytes) -> None:
        """Take the raw form back from its content."""
        raise NotImplementedError
