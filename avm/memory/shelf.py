"""Shelf: everything a store keeps, by digest and by identity, and on the books.

It refers to what it keeps only weakly: what nobody holds any more is gone at once, and is taken off the books at the
shelf's next step (`settle`). Blobs and pages are looked up by digest; raw forms of blobs also by the identity of the
object, so that what is known already need not be hashed.
"""

from __future__ import annotations

import threading
from collections import deque

from avm.errors import StoreFullError, TooLargeError
from avm.memory.account import Account
from avm.memory.blob import Blob, Body
from avm.memory.ceiling import format_size
from avm.memory.compression import decompress
from avm.memory.kept import Entry, Kept, footprint
from avm.memory.page import Holding, Line, Page
from avm.memory.tiers import Tiers

LARGEST_SHARE = 0.25
"""The part of the ceiling that one object may take."""


class Shelf:
    """What is kept, and what it takes.

    Args:
        limit: bytes that all kept objects may take, bookkeeping included; None for no ceiling.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.account = Account()
        self.lock = threading.RLock()
        self.tiers = Tiers(self)
        self.known: dict[int, Entry] = {}
        self.blobs: dict[bytes, Entry] = {}
        self.pages: dict[bytes, Entry] = {}
        # Entries that are in no table. The collector calls a weak reference back only if something outside holds it.
        self._others: set[Entry | Holding] = set()
        self._gone: deque[Entry | Holding] = deque()

    def add_blob(self, key: bytes, body: Body, size: int) -> Blob:
        """Keep content that is not kept yet.

        Raises:
            StoreFullError, TooLargeError: as `admit` and `room`.
        """
        blob = Blob(self, key, body, size)
        charge = blob.OVERHEAD + footprint(body)
        if self.limit is not None:
            self.admit(charge)
            self.room(charge)
        entry = self.keep(blob, size, charge, size)
        ident = id(body)
        entry.key = key
        entry.idents = (ident,)
        self.blobs[key] = self.known[ident] = entry
        return blob

    def admit(self, size: int) -> None:
        """Refuse an object that is larger than its share.

        Raises:
            TooLargeError: it is.
        """
        limit = self.limit
        if limit is not None and size > limit * LARGEST_SHARE:
            raise TooLargeError(
                f"an object of {format_size(size)} is larger than {LARGEST_SHARE:.0%} of the store's limit of "
                f"{format_size(limit)}; raise --memory (Store(limit=...)), or split it."
            )

    def room(self, growth: int, keep: Kept | None = None) -> None:
        """Make sure that `growth` bytes more can be kept, compressing all but `keep` if need be.

        Raises:
            StoreFullError: they cannot.
        """
        limit = self.limit
        if limit is None:
            return
        if self.account.charge + growth <= limit:
            return
        self.settle()
        if self.account.charge + growth > limit:
            self.tiers.squeeze(keep)
            self.settle()
        if self.account.charge + growth > limit:
            raise StoreFullError(
                f"the store is full: {format_size(self.account.charge)} of {format_size(limit)}, all that is idle "
                f"compressed, and {format_size(growth)} more do not fit. Raise --memory (Store(limit=...)), hold fewer "
                "or shorter conversations."
            )

    def keep(self, kept: Kept, size: int, charge: int, held: int) -> Entry:
        """Put a new object on the books.

        Args:
            size, charge: its present `raw_size()` and `charge()`.
            held: as in `Entry`.
        """
        entry = Entry(kept, self._gone.append)
        entry.kind = kept.KIND
        entry.key = None
        entry.idents = ()
        kept.entry = entry
        with self.lock:
            if self._gone:
                self.settle()
            if kept.KIND == "tail":
                self._others.add(entry)
            self.account.add(entry, size, charge, held)
            self.tiers.watch(entry)
        return entry

    def begin_line(self, held: int) -> Line:
        """Begin a line of conversation that would hold so many bytes without the store."""
        line = Line()
        line.holding = holding = Holding(line, self._gone.append)
        with self.lock:
            if self._gone:
                self.settle()
            self._others.add(holding)
            self.account.begin_line(holding, Line.OVERHEAD, held)
        return line

    def intern_page(self, page: Page) -> Page:
        """Return the page that is kept for this content: `page` itself if there is none yet."""
        with self.lock:
            found = self.pages.get(page.key)
            old = found() if found is not None else None
            if isinstance(old, Page):
                old.touched = True
                self.account.hits += 1
                return old
            entry = self.keep(page, page.size, page.charge(), 0)
            entry.key = page.key
            self.pages[page.key] = entry
            return page

    def thaw(self, kept: Kept) -> bytes:
        """Return the content of a packed object, and make it hot again if there is room for that."""
        with self.lock:
            record = kept.packed
            assert record is not None
            content = decompress(record, kept.dictionary)
            self.account.thaws += 1
            self.make_hot(kept, content)
            return content

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
            self.account.update(blob)
            return form

    def remember_json(self, blob: Blob, escaped: bytes) -> bytes:
        """Keep the JSON string of a hot blob with it if there is room."""
        with self.lock:
            if blob.raw_form is not None and self.fits(footprint(escaped)):
                blob.escaped = escaped
                self.account.update(blob)
            return escaped

    def know(self, kept: Kept) -> None:
        """Make the table of identities right for the forms an object has now."""
        entry = kept.entry
        if entry.idents:
            self._forget(entry)
        forms = kept.forms()
        if forms:
            entry.idents = tuple([id(form) for form in forms])
            for ident in entry.idents:
                self.known[ident] = entry

    def settle(self) -> None:
        """Take off the books what has died, and take in what another thread has compressed."""
        if self.tiers.finished:
            self.tiers.collect()
        gone = self._gone
        if not gone:
            return
        known, account = self.known, self.account
        with self.lock:
            while gone:
                entry = gone.popleft()
                if isinstance(entry, Holding):
                    self._others.discard(entry)
                    account.end_line(entry, Line.OVERHEAD)
                    continue
                for ident in entry.idents:
                    # By now the identity may be another object's, and its entry the one in the table.
                    if known.get(ident) is entry:
                        del known[ident]
                key = entry.key
                if key is not None:
                    table = self.blobs if entry.kind == "blob" else self.pages
                    if table.get(key) is entry:
                        del table[key]
                else:
                    self._others.discard(entry)
                account.remove(entry)

    def fits(self, growth: int) -> bool:
        """Tell whether there is room for so many bytes more as it is."""
        return self.limit is None or self.account.charge + growth <= self.limit

    def make_hot(self, kept: Kept, content: bytes) -> bool:
        """Make a packed object hot if there is room for its raw form, and tell whether."""
        record = kept.packed
        kept.load(content)
        kept.packed = None
        if self.fits(kept.charge() - kept.entry.charge):
            self.tiers.promote(kept)
            return True
        kept.packed = record
        kept.unload(len(content))
        return False

    def _forget(self, entry: Entry) -> None:
        for ident in entry.idents:
            if self.known.get(ident) is entry:
                del self.known[ident]
        entry.idents = ()
