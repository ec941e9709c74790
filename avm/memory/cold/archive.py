"""Archive: content and conversations on disk, whatever the cold store is that holds them.

    record        digest -> content, once            conversation  id -> manifest: root, pages, where the tail begins
    edge          digest + id -> nothing             segment       id + number -> what a turn added to the tail
    dictionary    digest -> a trained dictionary     quarantine    digest -> a record that was found damaged

Content, manifest and edges of one commit go in one transaction. There are no reference counts: an edge is the
reference. Content without one is garbage unless RAM still relies on it, and is swept in slices by the same thread that
writes, so a sweep cannot meet a write half-way.

A commit costs what it adds: while a conversation grows, its new messages go into a segment; when a page is sealed the
segments of it are deleted.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from avm.errors import CorruptBlob, MissingBlob
from avm.memory.account import ColdStatistics
from avm.memory.blob import Blob
from avm.memory.cold import records
from avm.memory.cold.coldstore import ColdStore
from avm.memory.cold.records import Content, Manifest
from avm.memory.cold.writer import Writer
from avm.memory.cold.writes import Commit, Forget, Quarantine, SaveContent, Sweep
from avm.memory.compression import Dictionary
from avm.memory.page import Page, Tail

if TYPE_CHECKING:
    from avm.memory.kept import Kept

SLICE = 500
"""Records a sweep looks at in one transaction."""


class Archive:
    """What is on disk of one store. Made by the store; its thread is the only one that writes to `cold`.

    Args:
        cold: the cold store; the archive closes it.
        relies_on: tells whether RAM relies on the record of a digest; asked by the writer's thread.
        choose: returns the dictionary that new records of a kind of object are made with.
        disk_bytes: measures the files.
        later: has something called on the store's own thread, at its next step; at once by default.
    """

    def __init__(
        self,
        cold: ColdStore,
        relies_on: Callable[[bytes], bool],
        choose: Callable[[str], Dictionary | None],
        disk_bytes: Callable[[], int],
        later: Callable[[Callable[[], None]], None] = lambda then: then(),
    ) -> None:
        self.cold = cold
        self._relies_on = relies_on
        self.choose = choose
        self._disk_bytes = disk_bytes
        self._later = later
        self.writer = Writer(cold)
        self.commits = 0
        self.written = 0
        self.swept = 0
        self.quarantined = 0
        # Dictionaries that were read, and the digests of all known to be on disk.
        self._dictionaries: dict[bytes, Dictionary] = {}
        self.saved_dictionaries: set[bytes] = set()
        # Records of tails that were written, and of which the store's thread does not know yet.
        self._limbo: Counter[bytes] = Counter()
        self._loading, self._noting = threading.Lock(), threading.Lock()
        # Content that was asked for and is damaged or not there.
        self._wanted: set[bytes] = set()

    @property
    def path(self) -> str:
        """Where it is."""
        return self.cold.path

    # Writing.

    def save(self, objects: Iterable[Kept], then: Callable[[SaveContent], None]) -> SaveContent:
        """Write the content of some objects; its `future` is done when it is on disk. `then` as in `commit`."""
        pieces = [piece for kept in objects if (piece := records.take_down(kept)) is not None]
        save = SaveContent(self, pieces)
        save.future = self.writer.submit(save, lambda: self._later(lambda: then(save)))
        return save

    def commit(self, commit: Commit, then: Callable[[], None]) -> Future[None]:
        """Write a version of a conversation; have `then` called on the store's own thread when it is over."""
        self.commits += 1
        return self.writer.submit(commit, lambda: self._later(then))

    def forget(self, name: str, then: Callable[[], None]) -> Future[None]:
        """Delete a conversation, as `commit`; its content goes with the next sweeps."""
        return self.writer.submit(Forget(self, name), lambda: self._later(then))

    def sweep(self, after: bytes = b"") -> Sweep:
        """Delete content without an edge, in one slice of what there is behind a digest.

        Returns:
            The sweep. When its `future` is done, `deleted` says what came of it, and `next` where to go on.
        """
        sweep = Sweep(self, after, SLICE)
        sweep.future = self.writer.submit(sweep)
        return sweep

    def mend(self, kept: Kept) -> None:
        """Write content that is in RAM again if it was found damaged on disk, or missing."""
        key = kept.key_or_none()
        if key in self._wanted:
            self._wanted.discard(key)
            self.save([kept], lambda save: None)

    def is_needed(self, key: bytes) -> bool:
        """Tell whether RAM relies on the record of a digest."""
        return self._relies_on(key) or key in self._limbo

    def put_in_limbo(self, key: bytes) -> None:
        """Take note that a tail was written, of which the store's thread does not know yet."""
        with self._noting:
            self._limbo[key] += 1

    def out_of_limbo(self, key: bytes) -> None:
        """Take note that it knows."""
        with self._noting:
            self._limbo[key] -= 1
            if not self._limbo[key]:
                del self._limbo[key]

    def quarantine(self, key: bytes) -> None:
        """Set a damaged record aside, so that its content can be written anew."""
        self.quarantined += 1
        self.writer.submit(Quarantine(self, key))

    # Reading.

    def content(self, kept: Kept) -> bytes:
        """Return the content of an object that is on disk only.

        Raises:
            CorruptBlob: it is not what was written; names digest and file. The record is set aside.
            MissingBlob: it is not there. ColdStoreError: the file cannot be read.
        """
        assert isinstance(kept, (Blob, Page, Tail))
        assert kept.key is not None
        try:
            return self.read([kept.key])[0].content
        except (CorruptBlob, MissingBlob):
            # It may be put again, and is to be written again then.
            kept.saved = False
            raise

    def read(self, keys: Sequence[bytes]) -> list[Content]:
        """Return content by digests, checked. Errors as `content`."""
        found: list[Content] = []
        for key, value in zip(keys, self.cold.read("record", keys), strict=True):
            if value is None:
                self._wanted.add(key)
                raise MissingBlob(self._missing(key))
            try:
                found.append(records.decode_record(key, value, self.dictionary, self.path))
            except CorruptBlob:
                self._wanted.add(key)
                self.quarantine(key)
                raise
        return found

    def find(self, key: bytes) -> Content | None:
        """Return the content of a digest, None if there is none. Raises as `content`."""
        return self.read([key])[0] if self.cold.read("record", [key])[0] is not None else None

    def manifest(self, name: str) -> Manifest | None:
        """Return what is known of a conversation; None if there is none of that name.

        Raises:
            CorruptBlob, ColdStoreError: it cannot be read.
        """
        value = self.cold.read("conversation", [records.conversation_id(name)])[0]
        manifest = records.decode_manifest(value, self.path) if value is not None else None
        if manifest is not None and manifest.name != name:
            raise CorruptBlob(
                f"the manifest of {name!r} in {self.path} is damaged: it is that of {manifest.name!r}; `avm store "
                "verify` on the home lists what is damaged.",
                "",
                self.path,
            )
        return manifest

    def names(self) -> Iterable[str]:
        """Go through the names of all conversations, in no order of theirs; damaged manifests are left out."""
        for manifest in self.manifests():
            yield manifest.name

    def manifests(self) -> Iterable[Manifest]:
        """Go through all manifests but damaged ones."""
        after = b""
        while rows := self.cold.scan("conversation", after, SLICE):
            after = rows[-1][0]
            for _, value in rows:
                try:
                    yield records.decode_manifest(value, self.path)
                except CorruptBlob:
                    continue

    def segments(self, manifest: Manifest) -> list[Content]:
        """Return the segments of a conversation, in order; the digest of the tail is their check.

        Raises:
            CorruptBlob: one is damaged or not there.
        """
        if not manifest.segments:
            return []
        id = records.conversation_id(manifest.name)
        rows = self.cold.scan("segment", id, manifest.segments)
        if [key for key, _ in rows] != [records.segment_key(id, n) for n in range(manifest.segments)]:
            raise self.damaged(manifest, "a segment is missing")
        return [
            records.read_record(value, self.dictionary, lambda why: self.damaged(manifest, why))
            for _, value in rows
        ]

    def damaged(self, manifest: Manifest, why: str) -> CorruptBlob:
        """Return the error of a conversation that cannot be read back."""
        root = manifest.root.hex()
        return CorruptBlob(
            f"conversation {manifest.name!r} (root {root[:8]}) in {self.path} is damaged: {why}. All others are "
            "untouched; `avm store verify` on the home lists what is damaged.",
            root,
            self.path,
        )

    def dictionary(self, key: bytes) -> Dictionary:
        """Return a dictionary by its digest.

        Raises:
            CorruptBlob: it is not there, or not what it was.
        """
        found = self._dictionaries.get(key)
        if found is not None:
            return found
        with self._loading:
            found = self._dictionaries.get(key)
            if found is None:
                content = self.cold.read("dictionary", [key])[0]
                found = records.decode_dictionary(key, content, self.path)
                self.saved_dictionaries.add(key)
                self._dictionaries[key] = found
            return found

    def statistics(self) -> ColdStatistics:
        """Return the figures of this moment."""
        latencies = self.writer.latencies
        return ColdStatistics(
            path=self.path,
            disk_bytes=self._disk_bytes(),
            commits=self.commits,
            records=self.written,
            pending=self.writer.pending,
            commit_p50=latencies.percentile(0.5),
            commit_p99=latencies.percentile(0.99),
            swept=self.swept,
            quarantined=self.quarantined,
        )

    def close(self) -> None:
        """Write what waits, and let go of the files. May be called again.

        Raises:
            ColdStoreError: not all that was committed could be written.
        """
        try:
            self.writer.close()
        finally:
            self.cold.close()

    def _missing(self, key: bytes) -> str:
        bad = self.cold.read("quarantine", [key])[0] is not None
        what = "it was damaged and set aside" if bad else "it is not there"
        return f"no blob {key[:4].hex()} in {self.path}: {what}. Put the content again to mend it."
