"""Writes: what the writer's thread can be asked for, each as the changes of tables that it comes to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import attrs

from avm.errors import ColdStoreError, CorruptBlob
from avm.memory.cold import records
from avm.memory.cold.coldstore import Change
from avm.memory.cold.records import Known, Manifest, Piece, SealedRecord
from avm.memory.compression import Dictionary, decompress
from avm.memory.fragment import JOINT
from avm.memory.page import Page, run_key

if TYPE_CHECKING:
    from avm.memory.blob import Blob
    from avm.memory.chain import Chain, Sealed
    from avm.memory.cold.archive import Archive
    from avm.memory.head import Head
    from avm.memory.page import Tail

SEGMENTS = 8
"""Segments after which a tail is written anew as one."""

START = 4096
"""Bytes from which on a tail that is written as a whole is a record of its own, which equal tails share."""


class SaveContent:
    """Write pieces of content, as they were taken down.

    Attributes:
        keys: the digest of each piece, once it was written. has_failed: it could not be.
        future: done when it is on disk.
    """

    name: bytes | None = b""
    reads = False
    future: Future[None]

    def __init__(self, archive: Archive, pieces: Sequence[Piece]) -> None:
        self.pieces = pieces
        self.keys: list[bytes] = []
        self.has_failed = False
        self._archive = archive
        self._dictionaries: set[bytes] = set()

    def changes(self) -> list[Change]:
        """Return the records, and the dictionaries they need."""
        changes: list[Change] = []
        self.keys = []
        for piece in self.pieces:
            dictionary = self._archive.choose(piece.kept.KIND)
            key, value, used = records.encode_piece(piece, dictionary)
            self.keys.append(key)
            self.need(used, changes)
            changes.append(("record", key, value))
        return changes

    def need(self, dictionary: Dictionary | None, changes: list[Change]) -> None:
        """See to it that a dictionary is on disk with what was made with it."""
        if dictionary is not None and dictionary.key not in self._archive.saved_dictionaries:
            self._dictionaries.add(dictionary.key)
            changes.append(("dictionary", dictionary.key, dictionary.content))

    def written(self) -> None:
        """Mark the objects as saved."""
        archive = self._archive
        for piece, key in zip(self.pieces, self.keys, strict=True):
            if piece.key is not None:
                piece.kept.saved = True
            else:
                # It may have grown meanwhile: the store's own thread sees to it.
                archive.put_in_limbo(key)
        archive.written += len(self.pieces)
        archive.saved_dictionaries |= self._dictionaries

    def failed(self) -> None:
        """Say so."""
        self.has_failed = True


@attrs.define(slots=True)
class Saved:
    """What is on disk of a conversation that is awake: its tail, how far that has been written, and as what.

    It is handed on before it is written, so that the next commit need not wait; `start` and `check` are set when it is,
    and `failed` if it never will be.
    """

    tail: Tail
    end: int
    bodies: int
    segments: int
    start: bytes | None
    check: bytes
    failed: bool = False


@attrs.frozen(slots=True)
class Version:
    """A version of a conversation that is to be written. Values all; the tail is read where it is made."""

    name: str
    head: Head
    chain: Chain
    root: bytes
    length: int
    size: int
    meta: bytes


class Commit:
    """Write a version of a conversation: what it adds to the tail that is on disk, or all of it.

    Args:
        saved: what is on disk of the version before it; None to write it as a whole, whatever is there.
    """

    def __init__(self, archive: Archive, version: Version, saved: Saved | None) -> None:
        chain, tail = version.chain, version.chain.tail
        self.name: bytes | None = records.conversation_id(version.name)
        self.reads = saved is None
        self._id = records.conversation_id(version.name)
        self._archive = archive
        self._version = version
        self._saved = saved
        # The tail goes on growing, or changes its tier; what is to be written of it is taken down now.
        self._run_blobs = tail.blobs[: chain.bodies]
        self._bodies = chain.bodies_of_all()
        self._content = SaveContent(archive, self._unsaved())
        # With many segments the tail is written anew as one: who wakes reads few rows.
        self._merges = saved is not None and saved.segments >= SEGMENTS
        self._begin, self._first_blob, before = 0, 0, 0
        if saved is not None and not self._merges:
            self._begin, self._first_blob, before = saved.end, saved.bodies, saved.segments
        self._form = tail.form(self._begin, chain.end)
        self._has_own_start = saved is None and chain.end >= START
        self._adds_segment = chain.end > self._begin and not self._has_own_start
        self._segments = before + self._adds_segment
        self.after = Saved(tail, chain.end, chain.bodies, self._segments, None, b"")

    def _unsaved(self) -> list[Piece]:
        head = self._version.head
        blobs = self._bodies if self._saved is None else self._run_blobs[self._saved.bodies :]
        pages = [sealed.page for sealed in self._version.chain.pages] if self._saved is None else []
        wanted = {
            id(kept): kept
            for kept in (head.system, head.tools, *pages, *blobs)
            if kept is not None and not kept.saved
        }
        return [piece for kept in wanted.values() if (piece := records.take_down(kept)) is not None]

    def changes(self) -> list[Change]:
        """Return records, segment, edges and manifest.

        Raises:
            ColdStoreError: the version it adds to was not written.
        """
        saved = self._saved
        if saved is not None and saved.failed:
            raise ColdStoreError(
                f"{self._version.name!r} was not committed to {self._archive.path}: the version before it could not be "
                "written either. Commit it again.",
                self._archive.path,
            )
        changes = self._content.changes()
        added = self._unpack()
        blobs = self._run_blobs[self._first_blob :]
        if saved is not None and not self._merges:
            self.after.start, self.after.check = saved.start, saved.check
        if added:
            names = [blob.key for blob in blobs]
            self.after.start = run_key(added, names) if self._has_own_start else self.after.start
            self.after.check = records.next_check(self.after.check if self._begin else b"", added, names)
        manifest = self._manifest()
        if saved is None:
            targets = manifest.targets()
            changes.extend(leave(self._id, stored(self._archive, self._id), targets))
            if self._has_own_start and self.after.start is not None:
                changes.append(("record", self.after.start, self._added(added, changes)))
        else:
            targets = {blob.key for blob in self._run_blobs[saved.bodies :]}
            if self._merges:
                changes.extend(self._leave_tail(saved, manifest))
        if self._adds_segment:
            number = self._segments - 1
            changes.append(("segment", records.segment_key(self._id, number), self._added(added, changes)))
        changes.extend(("edge", key + self._id, b"") for key in targets)
        changes.append(("conversation", self._id, records.encode_manifest(manifest)))
        return changes

    def _leave_tail(self, saved: Saved, manifest: Manifest) -> Iterator[Change]:
        for number in range(saved.segments):
            yield "segment", records.segment_key(self._id, number), None
        if saved.start is not None and saved.start not in manifest.targets():
            yield "edge", saved.start + self._id, None

    def _unpack(self) -> bytes:
        """Return what is added to the tail."""
        form, is_packed, dictionary = self._form
        if is_packed:
            form = decompress(form, dictionary)[self._begin : self._version.chain.end]
        return form[len(JOINT) :] if self._begin else form

    def _added(self, run: bytes, changes: list[Change]) -> bytes:
        """Return the record of what is added to the tail."""
        dictionary = self._archive.choose(Page.KIND)
        value, used = records.encode_run(run, self._run_blobs[self._first_blob :], dictionary)
        self._content.need(used, changes)
        return value

    def _manifest(self) -> Manifest:
        version, tail = self._version, self._version.chain.tail
        return Manifest(
            name=version.name,
            root=version.root,
            length=version.length,
            size=version.size,
            meta=version.meta,
            system=_known(version.head.system),
            tools=_known(version.head.tools),
            pages=tuple([_sealed(sealed) for sealed in version.chain.pages]),
            tail_first=tail.first,
            tail_root=tail.root,
            tail_base=tail.base,
            tail_key=self.after.check,
            start=self.after.start,
            segments=self._segments,
            blobs=tuple([blob.key for blob in self._bodies]),
            changed=time.time(),
        )

    def written(self) -> None:
        """Mark its content as saved."""
        self._content.written()

    def failed(self) -> None:
        """Have those that add to it fail too."""
        self.after.failed = True


class Forget:
    """Delete a conversation and its edges."""

    reads = True

    def __init__(self, archive: Archive, name: str) -> None:
        self.name: bytes | None = records.conversation_id(name)
        self._id = records.conversation_id(name)
        self._archive = archive

    def changes(self) -> list[Change]:
        """Return the deletions."""
        before = stored(self._archive, self._id)
        return [*leave(self._id, before, set()), ("conversation", self._id, None)]

    def written(self) -> None:
        """There is nothing to note."""

    def failed(self) -> None:
        """There is nothing to note."""


class Quarantine:
    """Set a damaged record aside."""

    name: bytes | None = None
    reads = True

    def __init__(self, archive: Archive, key: bytes) -> None:
        self._archive = archive
        self._key = key

    def changes(self) -> list[Change]:
        """Return the move; nothing if the record is gone or sound by now."""
        archive, key = self._archive, self._key
        value = archive.cold.read("record", [key])[0]
        if value is None:
            return []
        try:
            records.decode_record(key, value, archive.dictionary, archive.path)
        except CorruptBlob:
            return [("quarantine", key, value), ("record", key, None)]
        return []

    def written(self) -> None:
        """There is nothing to note."""

    def failed(self) -> None:
        """There is nothing to note."""


class Sweep:
    """Delete content without an edge, in one slice of records.

    Attributes:
        deleted, seen: how many pieces of content were deleted, and looked at.
        next: the digest behind which the next slice begins; None when this was the last.
        future: done when it is over.
    """

    name: bytes | None = None
    reads = True
    future: Future[None]

    def __init__(self, archive: Archive, after: bytes, size: int) -> None:
        self.deleted = self.seen = 0
        self.next: bytes | None = None
        self._archive = archive
        self._after = after
        self._size = size

    def changes(self) -> list[Change]:
        """Return the deletions."""
        archive = self._archive
        rows = archive.cold.scan("record", self._after, self._size, values=False)
        keys = [key for key, _ in rows]
        edges = _targets(archive, keys[0], keys[-1]) if keys else set()
        doomed = [key for key in keys if key not in edges and not archive.is_needed(key)]
        self.seen, self.deleted = len(keys), len(doomed)
        self.next = keys[-1] if len(keys) == self._size else None
        return [("record", key, None) for key in doomed]

    def written(self) -> None:
        """Count."""
        self._archive.swept += self.deleted

    def failed(self) -> None:
        """There is nothing to note."""


def _targets(archive: Archive, low: bytes, high: bytes) -> set[bytes]:
    """Return the digests from `low` to `high` that an edge leads to."""
    found: set[bytes] = set()
    # The key of an edge begins with the digest and is longer, so the edges of `low` are behind `low` itself.
    after = low
    while rows := archive.cold.scan("edge", after, 2000, values=False):
        for key, _ in rows:
            if key[:32] > high:
                return found
            found.add(key[:32])
        after = rows[-1][0]
    return found


def stored(archive: Archive, id: bytes) -> Manifest | None:
    """Return the manifest that is on disk, None if there is none or it is damaged."""
    value = archive.cold.read("conversation", [id])[0]
    if value is None:
        return None
    try:
        return records.decode_manifest(value, archive.path)
    except CorruptBlob:
        # What it was is not known any more. Its edges stay until the home is verified and mended.
        return None


def leave(id: bytes, before: Manifest | None, targets: set[bytes]) -> Iterator[Change]:
    """Go through the deletions of what a conversation had: its segments, and its edges but for those to `targets`."""
    if before is None:
        return
    for number in range(before.segments):
        yield "segment", records.segment_key(id, number), None
    for key in before.targets() - targets:
        yield "edge", key + id, None


def _known(blob: Blob | None) -> Known | None:
    return (blob.key, blob.size, blob.is_text) if blob is not None else None


def _sealed(sealed: Sealed) -> SealedRecord:
    return SealedRecord(sealed.page.key, sealed.first, sealed.root, sealed.base)
