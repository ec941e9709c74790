"""Tiers: what is hot, what is warm, what is cold, and when it changes.

Hot is raw; warm is one zstd record, made with a dictionary once there is one; cold is on disk only. What has not been
used for a second is compressed, in batches, in another thread if there is one; what is read is decompressed and hot
again. Near the ceiling, what has been warm for longest goes to disk.

"Used" is a mark that readers leave and each round takes away: the clock is read once a round, not once a use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from functools import partial
from typing import TYPE_CHECKING
from weakref import ref

from avm.memory.compression import SMALLEST, Dictionary, compress, decompress, forget_compressors
from avm.memory.kept import COLD, NEVER, Kept
from avm.memory.training import Trained, Training, train_on

if TYPE_CHECKING:
    from avm.memory.blob import Blob
    from avm.memory.cold.archive import Archive
    from avm.memory.cold.writes import SaveContent
    from avm.memory.shelf import Shelf

IDLE_SECONDS = 1.0
"""How long something has to be unused to be compressed."""

BATCH_SIZE = 256 * 1024
"""Bytes to hand to a thread at a time: for less, handing over costs as much as the work."""

PATIENCE = 5.0
"""Seconds after which something idle is compressed though there is no full batch."""

DICTIONARY_SHARE = 8
"""How many times a dictionary there must be room for, or it is not worth what it takes."""

TRAINING_ROOM = 8 << 20
"""Bytes that training takes for a moment; where there is no such room it waits until there is."""

WORTH = 0.98
"""A record must be this much smaller than its content, or the content stays raw."""

REPACKED_AT_ONCE = 16 * BATCH_SIZE
"""Bytes of old records compressed again in one round, after a new dictionary was trained."""

QUIET_ROUNDS = 10
"""Rounds without work after which the compressors' tables are given back."""

SPILLED_AT_ONCE = 1 << 20
"""Bytes that go to disk at a time when somebody waits for room."""


Order = tuple[Kept, Dictionary | None, bytes | None, Dictionary | None]
"""What to compress, with which dictionary; and the record and dictionary it has if it is warm already."""


class Packed:
    """One object that was compressed, somewhere else perhaps: what it was made of and what came out."""

    __slots__ = ("dictionary", "kept", "old", "record", "size")

    def __init__(
        self, kept: Kept, content: bytes, record: bytes, dictionary: Dictionary | None, old: bytes | None
    ) -> None:
        self.kept = kept
        self.size = len(content)
        self.record = record
        self.dictionary = dictionary
        # The record it had before, if it was warm already.
        self.old = old


class Tiers:
    """Moves the objects of a store between hot, warm and cold."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._hot: list[ref[Kept]] = []
        self._crowded = 1000
        # What may go to disk, in the order in which it became idle: what is warm, and what does not shrink.
        self._warm: deque[ref[Kept]] = deque()
        self._many = 1000
        self._stale: list[ref[Kept]] = []
        self._quiet_rounds = 0
        # Handed to a thread; what threads have finished waits to be taken in by the store's own.
        self._out: set[int] = set()
        self.finished: deque[Callable[[], None]] = deque()
        self._is_collecting = False
        self._runs, self._blobs = Training(), Training()
        self._kept_dictionaries: dict[Training, Blob] = {}
        # What is being written: its bytes, and the newest of the writes.
        self._spilling = 0
        self._newest: Future[None] | None = None

    def watch(self, kept: Kept) -> None:
        """Put a hot object on the list of those that may become idle."""
        if len(self._hot) >= self._crowded:
            self._hot = [found for found in self._hot if _is_hot(found())]
            self._crowded = max(1000, 2 * len(self._hot))
        self._hot.append(ref(kept))

    def training(self, kind: str) -> Training:
        """Return the training of a kind of object: blobs have a dictionary, pages and tails another."""
        return self._blobs if kind == "blob" else self._runs

    def dictionaries(self) -> tuple[Dictionary, ...]:
        """Return the dictionaries in use."""
        found = (self._runs.dictionary, self._blobs.dictionary)
        return tuple(dictionary for dictionary in found if dictionary is not None)

    # Hot to warm.

    def compress_idle(self, now: float, executor: Executor | None) -> int:
        """As `Store.compress_idle`."""
        for training in (self._runs, self._blobs):
            self._train(training, executor)
        work, size, oldest = self._idle(now)
        stale = self._take_stale()
        if executor is not None and size < BATCH_SIZE and now - oldest < PATIENCE:
            work = []
        for batch in _batches([*work, *stale]):
            self._hand_out(batch, executor)
        self._quiet_rounds += 1
        if self._quiet_rounds == QUIET_ROUNDS:
            forget = partial(forget_compressors, self.dictionaries())
            if executor is None:
                forget()
            else:
                executor.submit(forget)
        return len(work)

    def compress(self, objects: Iterable[Kept]) -> None:
        """Compress some objects here and now, used or not."""
        # What a thread has been handed is not waited for: whoever is first has done it.
        for batch in _batches([kept for kept in objects if self._is_worth_it(kept)]):
            for kept in batch:
                kept.touched = False
            self._apply(self._pack(batch))

    def _idle(self, now: float) -> tuple[list[Kept], int, float]:
        """Return what has been idle long enough, its bytes, and since when the oldest of it is idle."""
        work: list[Kept] = []
        hot: list[ref[Kept]] = []
        size, oldest = 0, now
        for found in self._hot:
            kept = found()
            if kept is None or not kept.is_raw():
                continue
            hot.append(found)
            if kept.touched:
                kept.touched = False
                kept.idle_since = now
            elif (
                now - kept.idle_since >= IDLE_SECONDS
                and id(kept) not in self._out
                and self._is_worth_it(kept)
            ):
                work.append(kept)
                size += kept.size
                oldest = min(oldest, kept.idle_since)
        self._hot = hot
        return work, size, oldest

    def _is_worth_it(self, kept: Kept) -> bool:
        """Tell whether to try to compress it; drops what is quickly made again."""
        if not kept.is_raw() or kept.size < SMALLEST:
            return False
        if kept.idle_since == NEVER and not kept.touched:
            return False
        if kept.trim():
            self._shelf.account.recharge(kept)  # type: ignore[arg-type]
        return True

    def _hand_out(self, batch: list[Kept], executor: Executor | None) -> None:
        if executor is None:
            self._apply(self._pack(batch))
            return
        self._out.update(map(id, batch))

        def finish(future: Future[list[Packed]]) -> None:
            self._out.difference_update(map(id, batch))
            if not future.cancelled():
                self._apply(future.result())

        future = executor.submit(_pack, self._orders(batch))
        future.add_done_callback(lambda done: self.finished.append(lambda: finish(done)))

    # What is to be done is written down here: in the other thread the form and dictionary of a thing may change.
    def _orders(self, batch: list[Kept]) -> list[Order]:
        return [(kept, self.training(kept.KIND).dictionary, kept.packed, kept.dictionary) for kept in batch]

    def _pack(self, batch: list[Kept]) -> list[Packed]:
        return _pack(self._orders(batch))

    def _apply(self, packed: list[Packed]) -> None:
        """Swap objects for their records, but for those that were used or have grown meanwhile."""
        shelf = self._shelf
        if packed:
            self._quiet_rounds = 0
        with shelf.lock:
            for made in packed:
                kept = made.kept
                if made.old is None:
                    self._cool(made)
                    if kept.packed is made.record:
                        self.training(kept.KIND).take(kept, made.size, len(made.record))
                elif kept.packed is made.old and len(made.record) < len(made.old):
                    shelf.account.strike(kept)
                    kept.packed, kept.dictionary = made.record, made.dictionary
                    shelf.account.enter(kept)

    def _cool(self, made: Packed) -> None:
        kept, shelf = made.kept, self._shelf
        if kept.touched or not kept.is_raw() or kept.size != made.size:
            return
        if len(made.record) > WORTH * made.size:
            kept.idle_since = NEVER
            self._list(kept)
            return
        shelf.account.strike(kept)
        kept.packed, kept.dictionary = made.record, made.dictionary
        self._forget_forms(kept)
        kept.unload(made.size)
        shelf.account.enter(kept)
        shelf.account.compressions += 1
        self._list(kept)

    def _list(self, kept: Kept) -> None:
        """Put something at the end of what may leave RAM, which is kept free of what has gone from it."""
        warm = self._warm
        if len(warm) >= self._many:
            self._warm = warm = deque(
                {id(there): found for found in warm if _may_leave(there := found())}.values()
            )
            self._many = max(1000, 2 * len(warm))
        warm.append(ref(kept))

    def _forget_forms(self, kept: Kept) -> None:
        if kept.KIND == "blob":
            blob: Blob = kept  # type: ignore[assignment]
            self._shelf.forget_form(blob, blob.raw_form)
            self._shelf.forget_form(blob, blob.twin)

    def collect(self) -> None:
        """Take in what other threads have compressed, trained or written."""
        # What is called may come back here; it is the outer call's to go on.
        if self._is_collecting:
            return
        self._is_collecting = True
        try:
            while self.finished:
                self.finished.popleft()()
        finally:
            self._is_collecting = False

    # Dictionaries.

    def _train(self, training: Training, executor: Executor | None) -> None:
        if not self._shelf.fits(TRAINING_ROOM):
            return
        samples = training.samples(_content)
        if samples is None:
            return
        if executor is None:
            self._take_dictionary(training, train_on(samples, training.dictionary))
            return

        def finish(future: Future[Trained]) -> None:
            self._take_dictionary(training, None if future.cancelled() else future.result())

        future = executor.submit(train_on, samples, training.dictionary)
        future.add_done_callback(lambda done: self.finished.append(lambda: finish(done)))

    def _take_dictionary(self, training: Training, trained: Trained | None) -> None:
        """Use a dictionary from now on, and keep it under its digest; a store too small for it does without."""
        shelf = self._shelf
        made = trained.dictionary if trained is not None else None
        if made is not None and not shelf.fits(DICTIONARY_SHARE * len(made.content)):
            trained = Trained(None, 0.0)
        if not training.finish(trained) or made is None:
            return
        blob = shelf.find_blob(made.key)
        self._kept_dictionaries[training] = (
            blob if blob is not None else shelf.add_blob(made.key, made.content, len(made.content))
        )
        self._stale = list(self._warm)

    def _take_stale(self) -> list[Kept]:
        """Return warm objects that another dictionary may serve better than the one they were made with."""
        found: list[Kept] = []
        size = 0
        while self._stale and size < REPACKED_AT_ONCE:
            kept = self._stale.pop()()
            if kept is None or kept.packed is None or kept.dictionary is self.training(kept.KIND).dictionary:
                continue
            found.append(kept)
            size += kept.size
        return found

    # Warm to cold.

    def spill(self, size: int) -> Future[None] | None:
        """Bring what has been warm for longest to disk, until RAM has `size` bytes less.

        Returns:
            What is done when all of it is written, and `collect` was called; None if nothing has to be.
        """
        archive = self._shelf.archive()
        if archive is None:
            return None
        freed = self._spilling
        writes: list[Kept] = []
        while freed < size and self._warm:
            kept = self._warm.popleft()()
            if not _may_leave(kept):
                continue
            assert kept is not None
            freed += kept.stored() + 48
            kept.touched = False
            if kept.saved:
                self._drop(kept)
            else:
                writes.append(kept)
        if not writes:
            return None
        return self._write(writes)

    def _write(self, writes: list[Kept]) -> Future[None]:
        archive = self._shelf.archive()
        assert archive is not None
        taken_down = [(kept.packed, kept.size) for kept in writes]
        size = sum(kept.stored() + 48 for kept in writes)
        self._spilling += size
        save = archive.save(writes, lambda save: self._written(archive, save, writes, taken_down, size))
        self._newest = save.future
        return save.future

    def _written(
        self,
        archive: Archive,
        save: SaveContent,
        writes: list[Kept],
        taken_down: list[tuple[bytes | None, int]],
        size: int,
    ) -> None:
        self._spilling -= size
        for number, (kept, (record, length)) in enumerate(zip(writes, taken_down, strict=True)):
            is_same = kept.packed is record and kept.size == length and kept.tier() != COLD
            if not save.has_failed and is_same:
                self._shelf.rely_on(kept, save.keys[number])
            if not save.has_failed and kept.KIND == "tail":
                archive.out_of_limbo(save.keys[number])
            if not is_same:
                continue
            if save.has_failed or kept.touched:
                self._list(kept)
            else:
                self._drop(kept)

    def newest(self) -> Future[None] | None:
        """Return the newest write that is not over; None if there is none."""
        newest = self._newest
        return newest if newest is not None and not newest.done() else None

    def _drop(self, kept: Kept) -> None:
        shelf = self._shelf
        with shelf.lock:
            shelf.account.strike(kept)
            if kept.is_raw():
                self._forget_forms(kept)
                kept.unload(kept.size)
            kept.packed = kept.dictionary = None
            shelf.account.enter(kept)
            shelf.account.spills += 1

    def make_room(self, growth: int, keep: Kept | None) -> None:
        """Make room for `growth` bytes, here and now: compress what is hot, then bring what is warm to disk."""
        shelf = self._shelf
        while not shelf.fits(growth):
            before = shelf.account.charge
            need = before + growth - (shelf.limit or 0)
            self._spill_here(max(need, min(SPILLED_AT_ONCE, before // 8)))
            if not shelf.fits(growth):
                self._squeeze(need, keep)
                # What was found not to shrink may leave now.
                self._spill_here(need)
            shelf.settle()
            if shelf.account.charge >= before:
                return

    def _spill_here(self, size: int) -> None:
        self.spill(size)
        newest, self._newest = self._newest, None
        if newest is not None:
            newest.result()
        self._shelf.settle()

    def _squeeze(self, need: int, keep: Kept | None) -> None:
        """Compress what is hot, the oldest first, until it takes `need` bytes less."""
        shelf = self._shelf
        until = shelf.account.charge - need
        hot = [kept for found in self._hot if (kept := found()) is not None and kept is not keep]
        for batch in _batches(hot):
            self.compress(batch)
            if shelf.account.charge <= until:
                break
        self._hot = [found for found in self._hot if _is_hot(found())]


def _content(kept: Kept) -> bytes | None:
    packed = kept.packed
    return decompress(packed, kept.dictionary) if packed is not None else kept.snapshot()


def _may_leave(kept: Kept | None) -> bool:
    if kept is None:
        return False
    if not kept.is_raw():
        return kept.packed is not None
    # It did not shrink, was not used since, and nobody holds it besides us.
    return kept.idle_since == NEVER and not kept.touched and kept.can_unload()


def _is_hot(kept: Kept | None) -> bool:
    return kept is not None and kept.is_raw()


def _pack(batch: list[Order]) -> list[Packed]:
    """Compress a batch; this is what another thread than the store's does, and it only reads."""
    packed: list[Packed] = []
    for kept, dictionary, old, made_with in batch:
        content = kept.snapshot() if old is None else decompress(old, made_with)
        if content is not None:
            packed.append(Packed(kept, content, compress(content, dictionary), dictionary, old))
    return packed


def _batches(work: list[Kept]) -> Iterable[list[Kept]]:
    """Cut work into pieces that are each worth a thread's while, and small beside what they are cut from."""
    batch: list[Kept] = []
    size = 0
    for kept in work:
        batch.append(kept)
        size += kept.size
        if size >= BATCH_SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
