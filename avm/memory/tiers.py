"""Tiers: what is hot, what is warm, and when it changes.

Hot is raw; warm is one zstd record, made with a dictionary once there is one. What has not been used for a second is
compressed, in batches, in another thread if there is one; what is read is decompressed and hot again. When the
ceiling is reached, everything that can be is compressed at once.

"Used" is a mark that readers leave and each round takes away: the clock is read once a round, not once a use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING

from avm.memory.compression import SMALLEST, Dictionary, compress, train
from avm.memory.kept import Entry, Kept

if TYPE_CHECKING:
    from avm.memory.shelf import Shelf

IDLE_SECONDS = 1.0
"""How long something has to be unused to be compressed."""

BATCH_SIZE = 256 * 1024
"""Bytes to hand to a thread at a time: for less, handing over costs as much as the work."""

PATIENCE = 5.0
"""Seconds after which something idle is compressed though there is no full batch."""

TRAINING_SIZE = 1_500_000
"""Bytes of conversations to be seen before a dictionary is trained."""

DICTIONARY_SHARE = 8
"""How many times a dictionary there must be room for, or it is not worth what it takes."""

WORTH = 0.98
"""A record must be this much smaller than its content, or the content stays raw."""

Packed = list[tuple[Kept, int, bytes]]
"""Objects, the bytes of content that were compressed, and the records."""


class Tiers:
    """Moves the objects of a store between hot and warm."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._hot: list[Entry] = []
        self._crowded = 1000
        # Handed to a thread; what threads have finished waits to be taken in by the store's own.
        self._out: set[Entry] = set()
        self.finished: deque[Callable[[], None]] = deque()
        self._samples: dict[bytes, None] = {}
        self._sampled = 0
        self.is_sampling = True
        self.dictionary: Dictionary | None = None
        self._kept_dictionary: Kept | None = None

    def watch(self, entry: Entry) -> None:
        """Put a hot object on the list of those that may become idle."""
        if len(self._hot) >= self._crowded:
            self._sift()
            self._crowded = max(1000, 2 * len(self._hot))
        entry.watched = True
        self._hot.append(entry)

    def sample(self, fragment: bytes) -> None:
        """Take a fragment for the training of the dictionary."""
        if self.is_sampling and fragment not in self._samples:
            self._samples[fragment] = None
            self._sampled += len(fragment)
            self.is_sampling = self._sampled < TRAINING_SIZE

    def compress_idle(self, now: float, executor: Executor | None) -> int:
        """As `Store.compress_idle`."""
        if self.dictionary is None and not self.is_sampling and self._samples:
            self._start_training(executor)
        work, size, oldest = self._idle(now)
        if executor is not None and size < BATCH_SIZE and now - oldest < PATIENCE:
            return 0
        for batch in _batches(work):
            if executor is None:
                self._apply(_pack(batch, self.dictionary), self.dictionary)
            else:
                self._submit(executor, batch)
                self._out.update(kept.entry for kept in batch)
        return len(work)

    def compress(self, objects: Iterable[Kept]) -> None:
        """Compress some objects here and now, used or not."""
        for batch in _batches([kept for kept in objects if self._is_raw(kept)]):
            for kept in batch:
                kept.touched = False
            self._apply(_pack(batch, self.dictionary), self.dictionary)

    def squeeze(self, keep: Kept | None = None) -> None:
        """Compress everything hot but one object: the ceiling is reached."""
        self.compress(kept for entry in self._sift() if (kept := entry()) is not None and kept is not keep)

    def promote(self, kept: Kept) -> None:
        """Make a warm object, whose raw form is there again, hot."""
        kept.dictionary = None
        kept.touched = True
        self._shelf.know(kept)
        self._shelf.account.update(kept)
        if not kept.entry.watched:
            self.watch(kept.entry)

    def collect(self) -> None:
        """Take in what other threads have compressed or trained."""
        while self.finished:
            finish = self.finished.popleft()
            finish()

    def _idle(self, now: float) -> tuple[list[Kept], int, float]:
        """Return what has been idle long enough, its bytes, and since when the oldest of it is idle."""
        work: list[Kept] = []
        size, oldest = 0, now
        for entry in self._sift():
            kept = entry()
            if kept is None:
                continue
            if kept.touched:
                kept.touched = False
                kept.idle_since = now
            elif now - kept.idle_since >= IDLE_SECONDS and self._is_raw(kept):
                work.append(kept)
                size += entry.size
                oldest = min(oldest, kept.idle_since)
        return work, size, oldest

    def _sift(self) -> list[Entry]:
        """Strike what is dead or warm off the list of hot objects, and return a copy of it."""
        self._hot = [entry for entry in self._hot if self._stays(entry)]
        return self._hot.copy()

    def _stays(self, entry: Entry) -> bool:
        kept = entry()
        entry.watched = kept is not None and kept.packed is None
        return entry.watched

    def _is_raw(self, kept: Kept) -> bool:
        """Tell whether to try to compress it; drops what is quickly made again."""
        entry = kept.entry
        if (
            kept.packed is not None
            or entry.size < SMALLEST
            or kept.stubborn == entry.size
            or entry in self._out
        ):
            return False
        kept.trim()
        self._shelf.account.update(kept)
        return True

    def _apply(self, packed: Packed, dictionary: Dictionary | None) -> None:
        """Swap objects for their records, but for those that were used or have grown meanwhile."""
        shelf = self._shelf
        with shelf.lock:
            for kept, size, record in packed:
                if kept.touched or kept.packed is not None:
                    continue
                if len(record) > WORTH * size:
                    kept.stubborn = size
                    continue
                kept.dictionary = dictionary
                kept.packed = record
                if not kept.unload(size):
                    kept.packed = kept.dictionary = None
                    continue
                shelf.know(kept)
                shelf.account.update(kept)
                shelf.account.spills += 1

    def _submit(self, executor: Executor, batch: list[Kept]) -> None:
        dictionary = self.dictionary

        def done(future: Future[Packed]) -> None:
            self.finished.append(lambda: finish(future))

        def finish(future: Future[Packed]) -> None:
            self._out.difference_update(kept.entry for kept in batch)
            if not future.cancelled():
                self._apply(future.result(), dictionary)

        executor.submit(_pack, batch, dictionary).add_done_callback(done)

    def _start_training(self, executor: Executor | None) -> None:
        samples = list(self._samples)
        self._samples.clear()
        if executor is None:
            self._take_dictionary(train(samples))
            return

        def done(future: Future[Dictionary | None]) -> None:
            self.finished.append(
                lambda: None if future.cancelled() else self._take_dictionary(future.result())
            )

        executor.submit(train, samples).add_done_callback(done)

    def _take_dictionary(self, dictionary: Dictionary | None) -> None:
        """Use a dictionary from now on, and keep it under its digest; a store too small for it does without."""
        shelf = self._shelf
        if dictionary is None or not shelf.fits(DICTIONARY_SHARE * len(dictionary.content)):
            return
        found = shelf.blobs.get(dictionary.key)
        kept = found() if found is not None else None
        if kept is None:
            kept = shelf.add_blob(dictionary.key, dictionary.content, len(dictionary.content))
        self._kept_dictionary = kept
        self.dictionary = dictionary


def _pack(batch: list[Kept], dictionary: Dictionary | None) -> Packed:
    """Compress a batch; the only thing that another thread than the store's does, and it only reads."""
    packed: Packed = []
    for kept in batch:
        content = kept.snapshot()
        if content is not None:
            packed.append((kept, len(content), compress(content, dictionary)))
    return packed


def _batches(work: list[Kept]) -> Iterable[list[Kept]]:
    """Cut work into pieces that are each worth a thread's while, and small beside what they are cut from."""
    batch: list[Kept] = []
    size = 0
    for kept in work:
        batch.append(kept)
        size += kept.entry.size
        if size >= BATCH_SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
