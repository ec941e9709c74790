"""Kept: something a store keeps once, raw or packed; and Entry, what its shelf knows of it.

The shelf refers to what it keeps only weakly. When CPython counts the last handle away, the entry (a weak reference
that carries the account of its object) lands in the shelf's queue, and is taken off the books at the shelf's next
step. Appending to that queue is all that happens at the death itself, so it may come in any thread and inside the
collector.

An object is raw (hot) or packed (warm). Either is swapped for the other by setting the new form before clearing the
old, so that a reader in another thread always finds one of them.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avm.memory.compression import Dictionary
    from avm.memory.shelf import Shelf


def footprint(value: object) -> int:
    """Return the bytes an object takes of the heap: its size rounded up to the 16 that malloc deals in."""
    return (sys.getsizeof(value) + 15) & ~15


class Kept:
    """What blobs, pages and tails have in common: a form, an entry, and when they were last used."""

    __slots__ = ("__weakref__", "dictionary", "entry", "idle_since", "packed", "shelf", "stubborn", "touched")

    OVERHEAD = 0
    """Bytes of bookkeeping for one object, measured; in the charge besides the bytes of the object's forms."""

    KIND = ""
    """What it is called in statistics."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.packed: bytes | None = None
        self.dictionary: Dictionary | None = None
        self.touched = True
        self.idle_since = 0.0
        # The size at which it did not shrink; at another size it is worth another try.
        self.stubborn = -1
        self.entry: Entry

    def raw_size(self) -> int:
        """Return the bytes of the content."""
        raise NotImplementedError

    def charge(self) -> int:
        """Return the bytes it takes of the ceiling in its present forms."""
        raise NotImplementedError

    def forms(self) -> tuple[object, ...]:
        """Return the objects it is known by."""
        return ()

    def trim(self) -> bool:
        """Drop what can be made again quickly; tell whether there was any."""
        return False

    def snapshot(self) -> bytes | None:
        """Return the content to be packed; None if packing it now would free nothing."""
        raise NotImplementedError

    def unload(self, size: int) -> bool:
        """Drop the raw form, which had `size` bytes when it was packed; False if it has grown and must stay."""
        raise NotImplementedError

    def load(self, content: bytes) -> None:
        """Take the raw form back from its content."""
        raise NotImplementedError


class Entry(weakref.ref[Kept]):
    """A weak reference to a kept object, and its account: what is to be given back when it dies."""

    __slots__ = ("charge", "held", "idents", "key", "kind", "size", "stored", "warm", "watched")

    # Entries are told apart by themselves, also when what they refer to is gone.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    charge: int
    """Bytes it takes of the ceiling."""
    held: int
    """Bytes its holders would hold without sharing; what that means is its kind's affair."""
    idents: tuple[int, ...]
    """Identities of its raw forms in the shelf's table of known objects."""
    key: bytes | None
    """Its digest in the shelf's table of its kind; None if its kind is not looked up."""
    kind: str
    size: int
    """Bytes of content."""
    stored: int
    """Bytes of content as they are kept now."""
    warm: bool
    watched: bool
    """Whether it is on the list of hot objects that the tiers go through."""
