"""Page and Tail: runs of fragments, the pieces a conversation is made of.

A page is sealed: up to 32 KiB of fragments, named by its digest, kept once for all conversations that have it. A tail
is the open run at a conversation's end. All versions of a conversation that begin their tail at the same message
share one: each says how much of it is its own, and appending to the longest writes behind all others. Whoever appends
to a shorter one gets a copy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from blake3 import blake3

from avm.memory.blob import Blob
from avm.memory.digest import Digest
from avm.memory.fragment import JOINT
from avm.memory.kept import Kept, footprint

if TYPE_CHECKING:
    from avm.memory.compression import Dictionary
    from avm.memory.shelf import Shelf

PAGE_SIZE = 32 * 1024
"""Bytes of fragments in a page; only a single fragment may be larger. 64 KiB would gain 1 %."""


EMPTY = sys.getsizeof(bytearray())
"""Bytes of a bytearray besides what it has allocated."""


def _footprint(allocated: int) -> int:
    """As `footprint` of a bytearray, and quicker: it is looked at twice for each message."""
    return (EMPTY + allocated + 15) & ~15


def run_key(run: bytes, names: Iterable[bytes]) -> bytes:
    """Return the digest of a run of fragments and of the bodies taken out of it.

    A run says by its BODY bytes how many blobs belong to it; the length keeps it apart from their digests.
    """
    return blake3(b"".join((len(run).to_bytes(8, "big"), run, *names))).digest()


class Page(Kept):
    """A sealed run of fragments and the blobs of its bodies."""

    __slots__ = ("blobs", "key", "raw_run", "size")

    KIND = "page"
    OVERHEAD = 450

    def __init__(self, shelf: Shelf, key: bytes, run: bytes, blobs: tuple[Blob, ...]) -> None:
        super().__init__(shelf)
        self.raw_run: bytes | None = run
        self.blobs = blobs
        self.size = len(run)
        self.key = key

    @property
    def digest(self) -> Digest:
        """The blake3 of the fragments and of the digests of their bodies."""
        return Digest(self.key)

    def run(self) -> bytes:
        """Return the fragments, joined."""
        self.touched = True
        raw = self.raw_run
        return raw if raw is not None else self.shelf.thaw(self)

    def key_or_none(self) -> bytes | None:
        return self.key

    def is_raw(self) -> bool:
        return self.raw_run is not None

    def charge(self) -> int:
        raw, packed = self.raw_run, self.packed
        form: object = raw if raw is not None else packed
        return self.OVERHEAD + (footprint(form) if form is not None else 0)

    def snapshot(self) -> bytes | None:
        return self.raw_run

    def unload(self, size: int) -> bool:
        self.raw_run = None
        return True

    def load(self, content: bytes) -> None:
        self.raw_run = content


class Tail(Kept):
    """The open run at the end of a conversation.

    Attributes:
        blobs: the bodies of its fragments, in order.
        first: the index of its first message in the conversation.
        root: the rolling root before that message.
        base: the raw bytes of the conversation before that message.
        key: the digest under which its content was last written to disk; None if it is not there any more.
    """

    __slots__ = ("base", "blobs", "first", "key", "raw_run", "root", "size")

    KIND = "tail"
    OVERHEAD = 300
    LISTED = 90
    """Bytes of its place in the order of what is warm, measured; pages and blobs are in a table anyway."""

    def __init__(self, shelf: Shelf, first: int, root: bytes, base: int) -> None:
        super().__init__(shelf)
        self.raw_run: bytearray | None = bytearray()
        self.blobs: tuple[Blob, ...] = ()
        self.size = 0
        self.first = first
        self.root = root
        self.base = base
        self.key: bytes | None = None

    def run(self, end: int) -> bytes:
        """Return the first `end` bytes: the fragments of a conversation that owns that much."""
        self.touched = True
        raw = self.raw_run
        if raw is None:
            return self.shelf.thaw(self)[:end]
        return bytes(raw[:end]) if end < len(raw) else bytes(raw)

    def form(self, begin: int, end: int) -> tuple[bytes, bool, Dictionary | None]:
        """Return the bytes from `begin` to `end` to be written elsewhere, without making them hot.

        Returns:
            They themselves, or all of the tail packed; whether it is packed; and with which dictionary.
        """
        packed = self.packed
        if packed is not None:
            return packed, True, self.dictionary
        raw = self.raw_run
        return (bytes(raw[begin:end]) if raw is not None else self.run(end)[begin:]), False, None

    def push(self, fragment: bytes, blobs: Sequence[Blob]) -> int:
        """Add a fragment at the end, and return where the run ends now. The room has been made."""
        raw = self.raw_run
        if raw is None:
            self.shelf.warm_up(self)
            raw = self.raw_run
            assert raw is not None
        before, had = len(raw), raw.__alloc__()
        if raw:
            raw += JOINT
        raw += fragment
        if blobs:
            self.blobs = (*self.blobs, *blobs)
        self.size = len(raw)
        self.touched = True
        if self.key is not None:
            self.shelf.release_tail(self.key)
            self.key = None
            self.saved = False
        has = raw.__alloc__()
        self.shelf.account.grow(self.size - before, 0 if has == had else _footprint(has) - _footprint(had))
        return self.size

    def key_or_none(self) -> bytes | None:
        return self.key

    def is_raw(self) -> bool:
        return self.raw_run is not None

    def charge(self) -> int:
        raw = self.raw_run
        if raw is not None:
            return self.OVERHEAD + _footprint(raw.__alloc__())
        listed = self.LISTED + footprint(self.packed) if self.packed is not None else 0
        return self.OVERHEAD + listed

    def snapshot(self) -> bytes | None:
        raw = self.raw_run
        return bytes(raw) if raw else None

    def unload(self, size: int) -> bool:
        if self.size != size:
            return False
        self.raw_run = None
        return True

    def load(self, content: bytes) -> None:
        self.raw_run = bytearray(content)
