"""Page and Tail: runs of fragments, the pieces a conversation is made of.

A page is sealed: up to 32 KiB of fragments, named by its digest, kept once for all conversations that have it. A tail
is the open run at a conversation's end. All versions of a conversation that begin their tail at the same message
share one: each says how much of it is its own, and appending to the longest writes behind all others. Whoever appends
to a shorter one gets a copy.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from blake3 import blake3

from avm.memory.blob import Blob
from avm.memory.digest import Digest
from avm.memory.fragment import JOINT
from avm.memory.kept import Kept, footprint

if TYPE_CHECKING:
    from avm.memory.shelf import Shelf

PAGE_SIZE = 32 * 1024
"""Bytes of fragments in a page; only a single fragment may be larger. 64 KiB would gain 1 %."""


class Page(Kept):
    """A sealed run of fragments and the blobs of its bodies."""

    __slots__ = ("blobs", "key", "raw_run", "size")

    KIND = "page"
    OVERHEAD = 550

    def __init__(self, shelf: Shelf, run: bytes, blobs: tuple[Blob, ...]) -> None:
        super().__init__(shelf)
        self.raw_run: bytes | None = run
        self.blobs = blobs
        self.size = len(run)
        # A run says by its BODY bytes how many blobs belong to it; the length keeps it apart from their digests.
        names = b"".join([blob.key for blob in blobs])
        self.key = blake3(b"".join((len(run).to_bytes(8, "big"), run, names))).digest()

    @property
    def digest(self) -> Digest:
        """The blake3 of the fragments and of the digests of their bodies."""
        return Digest(self.key)

    def run(self) -> bytes:
        """Return the fragments, joined."""
        self.touched = True
        raw = self.raw_run
        return raw if raw is not None else self.shelf.thaw(self)

    def raw_size(self) -> int:
        return self.size

    def charge(self) -> int:
        form: object = self.raw_run if self.raw_run is not None else self.packed
        return self.OVERHEAD + footprint(form)

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
    """

    __slots__ = ("base", "blobs", "first", "raw_run", "root", "size")

    KIND = "tail"
    OVERHEAD = 680

    def __init__(self, shelf: Shelf, first: int, root: bytes, base: int) -> None:
        super().__init__(shelf)
        self.raw_run: bytearray | None = bytearray()
        self.blobs: tuple[Blob, ...] = ()
        self.size = 0
        self.first = first
        self.root = root
        self.base = base

    def run(self, end: int) -> bytes:
        """Return the first `end` bytes: the fragments of a conversation that owns that much."""
        self.touched = True
        raw = self.raw_run
        if raw is None:
            return self.shelf.thaw(self)[:end]
        return bytes(memoryview(raw)[:end]) if end < len(raw) else bytes(raw)

    def push(self, fragment: bytes, blobs: Sequence[Blob]) -> int:
        """Add a fragment at the end, and return where the run ends now. The room has been made."""
        raw = self.raw_run
        if raw is None:
            self.shelf.thaw(self)
            raw = self.raw_run
            assert raw is not None, "the room was made for the raw form"
        if raw:
            raw += JOINT
        raw += fragment
        if blobs:
            self.blobs = (*self.blobs, *blobs)
        self.size = len(raw)
        self.touched = True
        self.shelf.account.update(self)
        return self.size

    def raw_size(self) -> int:
        return self.size

    def charge(self) -> int:
        form: object = self.raw_run if self.raw_run is not None else self.packed
        return self.OVERHEAD + footprint(form)

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


class Line:
    """A line of conversation: the versions an owner goes through. It keeps no bytes; it is what `held` counts by.

    The versions of one line are counted once, with the size of the newest. A fork begins a line, and so does
    appending to another version than the newest, since both ends live on.
    """

    __slots__ = ("__weakref__", "holding", "version")

    OVERHEAD = 600
    """Measured, with one `Conversation`."""

    def __init__(self) -> None:
        self.holding: Holding
        self.version = 0


class Holding(weakref.ref["Line"]):
    """A weak reference to a line of conversation, and what its owner would hold without the store."""

    __slots__ = ("held",)

    held: int
    __eq__ = object.__eq__
    __hash__ = object.__hash__
