"""Shelf: everything a store keeps, by digest and by identity, and on the books.

It refers to what it keeps only weakly: what nobody holds any more is gone at once, and is taken off the books at the
shelf's next step (`settle`). Blobs and pages are looked up by digest; raw forms of blobs also by the identity of the
object, so that what is known already need not be hashed.

When the ceiling is near, `pressure` is called, once, so that room is made beside the work; when it is reached, whoever
wants to add something waits here until what was used longest ago has been written to disk.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import ref

from avm.errors import StoreFullError, TooLargeError
from avm.memory.account import Account
from avm.memory.blob import Blob, Body
from avm.memory.ceiling import format_size
from avm.memory.compression import decompress
from avm.memory.kept import Kept, Note, footprint
from avm.memory.line import Line
from avm.memory.page import Page, Tail
from avm.memory.tiers import Tiers

if TYPE_CHECKING:
    from avm.memory.cold.archive import Archive
    from avm.memory.head import Head

LARGEST_SHARE = 0.25
"""The part of the ceiling that one object may take."""

PRESSURE = 0.9
"""The part of the ceiling from which on what is idle goes to disk."""


UNSETTLED = 64
"""Notes that may wait to be brought to the books: together they cost less."""


class Shelf:
    """What is kept, and what it takes.

    Args:
        limit: bytes that all kept objects may take, bookkeeping included; None for no ceiling.
    """

    def __init__(self, limit: int | None) -> None:
        self.asked = limit
        # What is aimed at now. Whoever watches the process may lower it; then nothing grows before room was made.
        self.limit = limit
        self.account = Account()
        self.lock = threading.RLock()
        self.tiers = Tiers(self)
        self.known: dict[int, ref[Blob]] = {}
        self.blobs: dict[bytes, ref[Blob]] = {}
        self.pages: dict[bytes, ref[Page]] = {}
        self.heads: dict[tuple[bytes, bytes], ref[Head]] = {}
        # How many tails have their content on disk under a digest.
        self.cold_tails: dict[bytes, int] = {}
        self.notes: deque[Note] = deque()
        self.archive: Callable[[], Archive | None] = _no_archive
        # Lets conversations sleep until so many bytes are free; None without a disk.
        self.passivate: Callable[[int], None] | None = None
        # Called once when the account comes near the ceiling; whoever has made room sets `is_pressed` back.
        self.pressure: Callable[[], None] | None = None
        self.is_pressed = False

    # Keeping.

    def add_blob(self, key: bytes, body: Body, size: int) -> Blob:
        """Keep content that is not kept yet.

        Raises:
            StoreFullError, TooLargeError: as `admit` and `room`.
        """
        charge = Blob.OVERHEAD + footprint(body)
        if self.limit is not None:
            self.admit(charge)
            self.room(charge)
        blob = Blob(self, key, body, size, type(body) is str)
        self.account.held += size
        self.keep(blob)
        self.blobs[key] = found = ref(blob)
        self.known[id(body)] = found
        return blob

    def find_blob(self, key: bytes) -> Blob | None:
        """Return the blob of a digest if it is held by anybody."""
        found = self.blobs.get(key)
        return found() if found is not None else None

    def cold_blob(self, key: bytes, size: int, is_text: bool) -> Blob:
        """Return the blob of content that is on disk, without reading it."""
        blob = self.find_blob(key)
        if blob is None:
            blob = Blob(self, key, None, size, is_text)
            blob.saved = True
            blob.alone = False
            self.account.enter(blob)
            self.blobs[key] = ref(blob)
        return blob

    def intern_page(self, page: Page) -> Page:
        """Return the page that is kept for this content: `page` itself if there is none yet."""
        with self.lock:
            old = self.find_page(page.key)
            if old is not None:
                old.touched = True
                self.account.hits += 1
                return old
            self.keep(page)
            self.pages[page.key] = ref(page)
            return page

    def find_page(self, key: bytes) -> Page | None:
        """Return the page of a digest if it is held by anybody."""
        found = self.pages.get(key)
        return found() if found is not None else None

    def keep(self, kept: Kept) -> None:
        """Put a new, hot object on the books."""
        with self.lock:
            if len(self.notes) > UNSETTLED:
                self.settle()
            self.account.enter(kept)
            self.tiers.watch(kept)

    def begin_line(self, held: int) -> Line:
        """Begin a line of conversation that would hold so many bytes without the store."""
        notes = self.notes
        # Put on the books with the next deaths: a note costs less than the lock.
        notes.append((Line.BEGUN, held))
        if len(notes) > UNSETTLED:
            self.settle()
        return Line(self, held)

    def relies_on(self, key: bytes) -> bool:
        """Tell whether the record of a digest on disk must stay for what is in RAM. From any thread."""
        return self.find_blob(key) is not None or self.find_page(key) is not None or key in self.cold_tails

    def rely_on(self, kept: Kept, key: bytes) -> None:
        """Take note that an object's content, as it is now, is on disk under a digest."""
        if isinstance(kept, Tail):
            if kept.key is not None:
                self.release_tail(kept.key)
            kept.key = key
            self.cold_tails[key] = self.cold_tails.get(key, 0) + 1
        kept.saved = True

    def release_tail(self, key: bytes) -> None:
        """Take note that one tail less has its content on disk under a digest."""
        left = self.cold_tails[key] - 1
        if left:
            self.cold_tails[key] = left
        else:
            del self.cold_tails[key]

    # Room.

    def admit(self, size: int) -> None:
        """Refuse an object that is larger than its share.

        Raises:
            TooLargeError: it is.
        """
        limit = self.asked
        if limit is not None and size > limit * LARGEST_SHARE:
            raise TooLargeError(
                f"an object of {format_size(size)} is larger than {LARGEST_SHARE:.0%} of the store's limit of "
                f"{format_size(limit)}; raise --memory (Store(limit=...)), split it, or put it as a file "
                "(Store.put_file), which counts against the disk."
            )

    def room(self, growth: int, keep: Kept | None = None) -> None:
        """Make sure that `growth` bytes more can be kept; waits for the disk if need be. `keep` stays hot.

        Raises:
            StoreFullError: they cannot.
            ColdStoreError: what would have to go to disk cannot be written.
        """
        limit = self.limit
        if limit is None:
            return
        after = self.account.charge + growth
        if after > limit * PRESSURE and not self.is_pressed and self.pressure is not None:
            self.is_pressed = True
            self.pressure()
        if after <= limit:
            return
        self.settle()
        if self.account.charge + growth > limit:
            self.account.waits += 1
            self.tiers.make_room(growth, keep)
            excess = self.account.charge + growth - limit
            if excess > 0 and self.passivate is not None:
                self.passivate(excess)
        # What the rest of a process leaves may be less than nothing can be done about; what was asked for may not.
        limit = self.asked if self.asked is not None else limit
        if self.account.charge + growth > limit:
            raise StoreFullError(
                f"the store is full: {format_size(self.account.charge)} of {format_size(limit)}, all that is idle "
                f"compressed{'' if self.archive is _no_archive else ' or on disk'}, and {format_size(growth)} more do "
                "not fit. Raise --memory (Store(limit=...)), hold fewer or shorter conversations."
            )

    def fits(self, growth: int) -> bool:
        """Tell whether there is room for so many bytes more as it is."""
        return self.limit is None or self.account.charge + growth <= self.limit

    # Reading.

    def thaw(self, kept: Kept) -> bytes:
        """Return the content of an object that is not hot, and make it hot if there is room for that.

        Raises:
            CorruptBlob, MissingBlob, ColdStoreError: it is on disk and cannot be read from there.
        """
        with self.lock:
            record = kept.packed
            if record is not None:
                content = decompress(record, kept.dictionary)
                self.account.thaws += 1
            else:
                content = self._fetch(kept)
            self.make_hot(kept, content)
            return content

    def warm_up(self, kept: Kept) -> None:
        """Make an object hot whether there is room or not: the room has been made."""
        with self.lock:
            if not kept.is_raw():
                record = kept.packed
                content = decompress(record, kept.dictionary) if record is not None else self._fetch(kept)
                self._load(kept, content)

    def make_hot(self, kept: Kept, content: bytes) -> bool:
        """Make an object hot from its content if there is room for it, and tell whether."""
        growth = len(content) + 64 - (footprint(kept.packed) if kept.packed is not None else 0)
        if not self.fits(growth):
            return False
        self._load(kept, content)
        return True

    def _load(self, kept: Kept, content: bytes) -> None:
        self.account.strike(kept)
        kept.load(content)
        kept.packed = kept.dictionary = None
        kept.touched = True
        self.account.enter(kept)
        if isinstance(kept, Blob):
            self.know(kept)
        self.tiers.watch(kept)

    def _fetch(self, kept: Kept) -> bytes:
        archive = self.archive()
        assert archive is not None, "what is cold was written there"
        began = time.perf_counter()
        content = archive.content(kept)
        self.account.wakes.add(time.perf_counter() - began)
        return content

    # Forms and identities of blobs.

    def remember_form(self, blob: Blob, form: Body) -> Body:
        """Keep another form of a hot blob's content with it, and know it by its identity."""
        with self.lock:
            if blob.raw_form is None:
                return form
            if type(blob.raw_form) is type(form):
                form = blob.raw_form
            elif type(blob.twin) is type(form) and blob.twin is not None:
                form = blob.twin
            elif self.fits(footprint(form)):
                blob.twin = form
            self.know(blob)
            self.account.recharge(blob)
            return form

    def remember_json(self, blob: Blob, escaped: bytes) -> bytes:
        """Keep the JSON string of a hot blob with it if there is room."""
        with self.lock:
            if blob.raw_form is not None and self.fits(footprint(escaped)):
                blob.escaped = escaped
                self.account.recharge(blob)
            return escaped

    def know(self, blob: Blob) -> None:
        """Know a blob by the identities of the forms it has now."""
        found = ref(blob)
        for form in (blob.raw_form, blob.twin):
            if form is not None:
                self.known[id(form)] = found

    def forget_form(self, blob: Blob, form: Body | None) -> None:
        """Do not know a blob by a form any more, which it is about to lose."""
        if form is not None:
            found = self.known.get(id(form))
            if found is not None and found() is blob:
                del self.known[id(form)]

    # The books.

    def settle(self) -> None:
        """Take off the books what has died, and take in what other threads have done."""
        if self.tiers.finished:
            self.tiers.collect()
        notes = self.notes
        if not notes:
            return
        with self.lock:
            while notes:
                note = notes.popleft()
                if note[0] == Line.BEGUN:
                    self.account.begin_line(note[1], Line.OVERHEAD)
                elif note[0] == Line.KIND:
                    self.account.end_line(note[1], note[2], Line.OVERHEAD)
                else:
                    self._bury(note)

    def _bury(self, note: Note) -> None:
        kind, key, charge, size, tier, stored, held, idents = note
        for ident in idents:
            # By now the identity may be another object's, and that one be known.
            found = self.known.get(ident)
            if found is not None and found() is None:
                del self.known[ident]
        if kind == Tail.KIND:
            if key is not None:
                self.release_tail(key)
        elif key is not None:
            table: dict[bytes, ref[Blob]] | dict[bytes, ref[Page]] = (
                self.blobs if kind == Blob.KIND else self.pages
            )
            there = table.get(key)
            if there is not None and there() is None:
                del table[key]
        self.account.held -= held
        self.account.remove(kind, charge, size, tier, stored)


def _no_archive() -> Archive | None:
    return None
