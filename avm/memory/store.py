"""Store: content by digest, each kept once, in RAM or on disk, under one ceiling.

Bytes and texts go in and handles (`Blob`) come out. `share` is the way for message bodies: an object the store has seen
before is known by its identity, so that a body is hashed once however many mailboxes it passes through. What nobody
holds any more is gone at once. Conversations keep their pages in the store too (see `shelf`), and are committed under
names (`roots`). `Store.open` gives it a home on disk; without one it may spill to a scratch folder.

One thread uses a store; another may compress for it (`compress_idle(now, executor)`), and one of its own writes.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from blake3 import blake3

from avm.errors import ColdStoreError, MissingBlob, StoreError
from avm.memory.account import StoreStatistics
from avm.memory.blob import Blob, Body
from avm.memory.ceiling import parse_size, rss_bytes
from avm.memory.cold.records import BYTES, TEXT
from avm.memory.compression import Dictionary
from avm.memory.digest import Digest, decode, encode
from avm.memory.roots import Roots
from avm.memory.shelf import Shelf

if TYPE_CHECKING:
    from avm.memory.cold.archive import Archive
    from avm.memory.cold.home import Home
    from avm.memory.cold.writes import Sweep
    from avm.memory.file import File

SPILLED_AT_ONCE = 4 << 20
"""Bytes that one `spill` brings to disk at most."""

RELIEF = 0.85
"""The part of the ceiling that is left taken when room has been made: a little below where pressure begins."""


class Store:
    """Everything kept, once, under one ceiling.

    Args:
        limit: bytes that all kept objects may take of RAM, bookkeeping included, as a number or as "2GB"; None for no
            ceiling.
        spills: without a home, bring what is idle to a scratch folder when the ceiling is near; it is deleted when the
            store is closed.

    Attributes:
        roots: conversations by name.
    """

    def __init__(self, limit: int | str | None = None, *, spills: bool = False) -> None:
        self.shelf = Shelf(None if limit is None else parse_size(limit, floor=0))
        self.roots = Roots(self)
        self._known = self.shelf.known
        self._account = self.shelf.account
        self._pins: dict[bytes, tuple[Blob, int]] = {}
        self._files: dict[Digest, File] = {}
        self._home: Home | None = None
        self._archive: Archive | None = None
        self._reader: ThreadPoolExecutor | None = None
        self._spills = spills
        self._is_durable = False
        self._is_closed = False
        self._sweep: Sweep | None = None
        if spills:
            self._can_spill()

    @classmethod
    def open(
        cls,
        home: str | Path,
        limit: int | str | None = None,
        *,
        cold: str | None = None,
        durable: bool = True,
    ) -> Store:
        """Return a store with a home on disk; whoever opens it closes it.

        Args:
            home: a directory, made if it is not there. One process has it open at a time.
            limit: as for `Store`.
            cold: "sqlite" or "lmdb"; None takes what the home has, sqlite for a new one.
            durable: a commit is there after a power failure too; False leaves it to the system when it writes, and
                what was committed last may be lost then. A killed process loses nothing in either case.

        Raises:
            HomeError: it cannot be opened: in use by another process, written by a newer avm, not writable, no home.
            ColdStoreError: what is in it cannot be opened.
        """
        from avm.memory.cold.home import Home

        store = cls(limit)
        opened = Home.open(home, kind=cold)
        try:
            store._use(opened, durable)
        except BaseException:
            opened.close()
            raise
        store._is_durable = True
        return store

    @property
    def limit(self) -> int | None:
        """Bytes that all kept objects may take of RAM now; None for no ceiling."""
        return self.shelf.limit

    @property
    def home(self) -> Path | None:
        """The directory it was opened on; None without one."""
        return self._home.path if self._home is not None and self._is_durable else None

    @property
    def has_home(self) -> bool:
        """Whether what is committed goes to disk."""
        return self._is_durable

    @property
    def has_archive(self) -> bool:
        """Whether anything is on disk."""
        return self._archive is not None

    def need_archive(self) -> Archive:
        """Return what is on disk; makes the scratch folder of a store that spills, at the first call.

        Raises:
            StoreError: it has neither home nor scratch folder, or is closed.
        """
        if self._archive is None:
            if self._is_closed or not self._spills:
                why = "is closed" if self._is_closed else "has no home"
                raise StoreError(
                    f"the store {why}, so nothing can sleep or be read from disk; use Store.open(home)."
                )
            from avm.memory.cold.home import Home

            self._use(Home.scratch(), durable=False)
            assert self._archive is not None
        return self._archive

    def reader(self) -> Executor:
        """Return the thread that reads from disk for those who wait in a coroutine."""
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="avm-reader")
        return self._reader

    def close(self) -> None:
        """Write what was committed, and let go of the home. What is hot or warm can still be read. May be called again.

        Raises:
            ColdStoreError: not all could be written.
        """
        self._is_closed = True
        if self._reader is not None:
            self._reader.shutdown()
            self._reader = None
        try:
            if self._archive is not None:
                self._archive.close()
        finally:
            # What was being written is taken note of while there is still an archive.
            self.shelf.settle()
            self._archive = None
            for file in self._files.values():
                file.close()
            if self._home is not None:
                self._home.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Content.

    def share(self, body: Body) -> tuple[Blob, Body]:
        """Keep content and return its handle, and the one object of this type that all its holders share.

        An object that is kept already is known by its identity and is not hashed.

        Raises:
            StoreFullError, TooLargeError: as `put`.
        """
        entry = self._known.get(id(body))
        if entry is not None:
            blob = entry()
            # The identity of a dead object may be a new object's: look at the thing itself.
            if blob.__class__ is Blob and (blob.raw_form is body or blob.twin is body):
                blob.touched = True
                self._account.hits += 1
                return blob, body
        return self._share_unknown(body)

    def put(self, body: Body) -> Blob:
        """Keep content and return its handle; equal content is kept once.

        Args:
            body: bytes, or text, which is one content with its UTF-8 bytes. Any length.

        Raises:
            StoreFullError: it does not fit under the ceiling, with everything that is idle compressed.
            TooLargeError: it is larger than its share of the ceiling.
        """
        return self.share(body)[0]

    def blob(self, digest: Digest) -> Blob:
        """Return the handle of content that is kept, in RAM or on disk.

        Raises:
            MissingBlob: no such content. CorruptBlob, ColdStoreError: it cannot be read from disk.
        """
        blob = self.shelf.find_blob(digest.bytes)
        if blob is None:
            blob = self._from_disk(digest)
        if blob is None:
            raise MissingBlob(self._missing(digest))
        return blob

    def get(self, digest: Digest) -> bytes:
        """Return content as bytes; the same object each time while it is hot and held.

        Raises:
            MissingBlob: no such content.
        """
        return self.blob(digest).content

    def text(self, digest: Digest) -> str:
        """Return content as text; the same object each time while it is hot and held.

        Raises:
            MissingBlob: no such content. UnicodeDecodeError: it is no text.
        """
        return self.blob(digest).text

    def pin(self, digest: Digest) -> None:
        """Hold content until as many `drop` as `pin`, though nobody has a handle.

        Raises:
            MissingBlob: no such content.
        """
        blob = self.blob(digest)
        with self.shelf.lock:
            self._pins[blob.key] = (blob, self._pins.get(blob.key, (blob, 0))[1] + 1)

    def drop(self, digest: Digest) -> None:
        """Take one pin back.

        Raises:
            StoreError: it has no pin.
        """
        with self.shelf.lock:
            if digest.bytes not in self._pins:
                raise StoreError(
                    f"blob {digest} has no pin to drop; pin() it first, and drop() it once for each pin."
                )
            blob, pins = self._pins.pop(digest.bytes)
            if pins > 1:
                self._pins[digest.bytes] = (blob, pins - 1)

    def __contains__(self, digest: Digest) -> bool:
        return self.shelf.find_blob(digest.bytes) is not None or self._from_disk(digest) is not None

    # Tiers and figures.

    def compress_idle(self, now: float, executor: Executor | None = None) -> int:
        """Compress what has not been used for a second. Call it about once a second.

        Args:
            now: seconds on any clock that is used for all calls.
            executor: where to compress, in batches of 256 KiB or more; without one it is done here and now.

        Returns:
            How many objects were compressed or handed out for it.
        """
        self.shelf.settle()
        return self.shelf.tiers.compress_idle(now, executor)

    async def wait_room(self, size: int = 0) -> None:
        """Wait until `size` bytes more have room, while others go on: back-pressure for whoever is about to grow.

        Raises:
            StoreFullError: there will be none. ColdStoreError: what would make room cannot be written.
        """
        shelf = self.shelf
        shelf.settle()
        while not shelf.fits(size):
            self._account.waits += 1
            waiting = self.spill()
            if waiting is None:
                shelf.room(size)
                return
            await asyncio.wrap_future(waiting)
            shelf.settle()

    def spill(self) -> Future[None] | None:
        """Bring what was used longest ago to disk until the account is below the mark; compress it if need be.

        Returns:
            What is done when all of it is written; None if nothing has to be, or can be.
        """
        shelf = self.shelf
        shelf.settle()
        shelf.is_pressed = False
        limit = shelf.limit
        if limit is None or not self.can_spill:
            return None
        excess = self._account.charge - int(limit * RELIEF)
        if excess <= 0:
            return None
        # So much at a time: who is near the ceiling is told again, and the loop has other things to do too.
        excess = min(excess, SPILLED_AT_ONCE)
        excess -= self.roots.passivate(excess)
        # One thread writes in order: the newest of all is done last.
        spilling = shelf.tiers.spill(excess) if excess > 0 else None
        return spilling or shelf.tiers.newest() or self.roots.newest()

    @property
    def can_spill(self) -> bool:
        """Whether there is a disk for what RAM has no room for."""
        return self._spills or self._archive is not None

    def limit_to(self, limit: int) -> None:
        """Set what may be taken of RAM from now on; what is over it goes to disk with the next `spill`."""
        self.shelf.limit = limit

    def sweep(self) -> None:
        """Delete a slice of what is on disk and nobody needs, in the writer's thread. Call it about once a second.

        It also looks whether the home is still there; once it is gone all commits fail.
        """
        archive, last, home = self._archive, self._sweep, self._home
        if archive is not None and home is not None and not home.is_there():
            archive.writer.refuse(
                ColdStoreError(
                    f"home {home.path} is gone: its directory was deleted, or another is in its place. What is written "
                    "would be lost. Stop, and bring it back.",
                    str(home.path),
                )
            )
            return
        if archive is None or (last is not None and not last.future.done()):
            return
        self._sweep = archive.sweep(last.next if last is not None and last.next is not None else b"")

    # Files.

    def put_file(self, path: str | Path) -> File:
        """Take a large file into the store, by path: it is hashed in pieces and never in RAM as a whole.

        With a home it is copied there, once for equal content, and counts against the disk. Without one it stays where
        it is, and reading it fails once it has changed.

        Raises:
            MissingBlob, ColdStoreError: there is no such file, or it cannot be read or copied.
        """
        from avm.memory.file import File

        folder = self._home.files if self._home is not None and self._is_durable else None
        file = File.take(path, folder)
        return self._files.setdefault(file.digest, file)

    def file(self, digest: Digest) -> File:
        """Return a file by the digest of its content.

        Raises:
            MissingBlob: there is none.
        """
        from avm.memory.file import File

        found = self._files.get(digest)
        if found is None:
            if self._home is None or not self._is_durable:
                raise MissingBlob(
                    f"no file {digest} in the store: never put here. Put it with put_file(path)."
                )
            found = self._files[digest] = File.find(digest, self._home.files)
        return found

    # Figures.

    def sent(self, size: int, new: int) -> None:
        """Count a request to a model: its bytes, and how many of them no request had before."""
        self._account.sent += size
        self._account.sent_new += new

    def statistics(self) -> StoreStatistics:
        """Return the figures of this moment."""
        self.shelf.settle()
        account, archive = self._account, self._archive
        wakes = account.wakes
        return StoreStatistics(
            held_bytes=account.held,
            unique_bytes=account.unique,
            stored_bytes=account.stored[0] + account.stored[1],
            account_bytes=account.charge,
            limit=self.limit,
            rss_bytes=rss_bytes(),
            blobs=account.by_tier("blob"),
            pages=account.by_tier("page"),
            tails=account.by_tier("tail"),
            tier_bytes=account.tier_bytes(),
            conversations=account.lines,
            asleep=account.asleep,
            sent_bytes=account.sent,
            sent_new_bytes=account.sent_new,
            hits=account.hits,
            compressions=account.compressions,
            thaws=account.thaws,
            spills=account.spills,
            wakes=wakes.count,
            wake_p50=wakes.percentile(0.5),
            wake_p99=wakes.percentile(0.99),
            waits=account.waits,
            dictionaries=tuple(found.digest for found in self.shelf.tiers.dictionaries()),
            files=len(self._files),
            file_bytes=sum(file.size for file in self._files.values()),
            cold=archive.statistics() if archive is not None else None,
        )

    # Private.

    def _use(self, home: Home, durable: bool) -> None:
        from avm.memory.cold.archive import Archive
        from avm.memory.cold.opening import disk_bytes, open_cold

        self._home = home
        self._archive = Archive(
            open_cold(home, durable=durable),
            self.shelf.relies_on,
            self._dictionary,
            lambda: disk_bytes(home.path),
            self.shelf.tiers.finished.append,
        )
        self._can_spill()

    def _can_spill(self) -> None:
        self.shelf.archive = self.need_archive
        self.shelf.passivate = self._passivate_here

    def _passivate_here(self, size: int) -> None:
        """Let conversations sleep until about `size` bytes are free, and wait for it."""
        self.roots.passivate(size)
        newest = self.roots.newest()
        if newest is not None:
            newest.result()
        self.shelf.settle()

    def _dictionary(self, kind: str) -> Dictionary | None:
        return self.shelf.tiers.training(kind).dictionary

    def _from_disk(self, digest: Digest) -> Blob | None:
        """Return the handle of content that is only on disk: as good as new, since nobody vouches for the record."""
        found = self._archive.find(digest.bytes) if self._archive is not None else None
        if found is None or found.kind not in (TEXT, BYTES):
            return None
        body: Body = decode(found.content) if found.kind == TEXT else found.content
        return self.shelf.add_blob(digest.bytes, body, len(found.content))

    def _share_unknown(self, body: Body) -> tuple[Blob, Body]:
        body = _exact(body)
        content = encode(body) if isinstance(body, str) else body
        key = blake3(content).digest()
        shelf = self.shelf
        with shelf.lock:
            shelf.settle()
            blob = shelf.find_blob(key)
            if blob is None:
                blob = shelf.add_blob(key, body, len(content))
                if self._archive is not None:
                    self._archive.mend(blob)
                return blob, body
            self._account.hits += 1
            blob.touched = True
            # Packed or cold, and here is its content for nothing; in its own type it is the raw form as it stands.
            if (
                blob.raw_form is None
                and shelf.make_hot(blob, content)
                and blob.is_text == isinstance(body, str)
            ):
                shelf.forget_form(blob, blob.raw_form)
                blob.raw_form = body
            if self._archive is not None:
                self._archive.mend(blob)
            return blob, shelf.remember_form(blob, body)

    def _missing(self, digest: Digest) -> str:
        counts = self._account.by_tier("blob")
        return (
            f"no blob {digest} in the store (hot {counts['hot']}, warm {counts['warm']}, cold {counts['cold']}): "
            "never put here, or dropped after its last handle or pin went."
        )


def _exact(body: object) -> Body:
    """Return content as plain str or bytes: a subclass, or a buffer that can change, is copied."""
    if type(body) is str or type(body) is bytes:
        return body
    if isinstance(body, str):
        return str.__str__(body)
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise TypeError(f"the store keeps str and bytes, got {type(body).__qualname__}; encode it first.")
