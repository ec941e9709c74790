"""Store: content by digest, each kept once.

Bytes and texts go in and handles (`Blob`) come out. `share` is the way for message bodies: an object the store has seen
before is known by its identity, so that a body is hashed once however many mailboxes it passes through. What nobody
holds any more is gone at once. Conversations keep their pages in the store too (see `shelf`).

One thread uses a store; another may compress for it: `compress_idle(now, executor)`.
"""

from __future__ import annotations

from concurrent.futures import Executor

from blake3 import blake3

from avm.errors import MissingBlob, StoreError
from avm.memory.account import StoreStatistics
from avm.memory.blob import Blob, Body
from avm.memory.ceiling import parse_size
from avm.memory.digest import Digest, encode
from avm.memory.shelf import Shelf


class Store:
    """Everything kept in memory, once, under one ceiling.

    Args:
        limit: bytes that all kept objects may take, bookkeeping included, as a number or as "2GB"; None for no ceiling.
    """

    def __init__(self, limit: int | str | None = None) -> None:
        self.shelf = Shelf(None if limit is None else parse_size(limit, floor=0))
        self._known = self.shelf.known
        self._account = self.shelf.account
        self._pins: dict[bytes, tuple[Blob, int]] = {}

    @property
    def limit(self) -> int | None:
        """Bytes that all kept objects may take; None for no ceiling."""
        return self.shelf.limit

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
        """Return the handle of content that is kept.

        Raises:
            MissingBlob: no such content.
        """
        entry = self.shelf.blobs.get(digest.bytes)
        blob = entry() if entry is not None else None
        if not isinstance(blob, Blob):
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
        entry = self.shelf.blobs.get(digest.bytes)
        return entry is not None and entry() is not None

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

    def sent(self, size: int, new: int) -> None:
        """Count a request to a model: its bytes, and how many of them no request had before."""
        self._account.sent += size
        self._account.sent_new += new

    def statistics(self) -> StoreStatistics:
        """Return the figures of this moment."""
        self.shelf.settle()
        return self._account.statistics(self.limit, self.shelf.tiers.dictionary)

    def _share_unknown(self, body: Body) -> tuple[Blob, Body]:
        body = _exact(body)
        content = encode(body) if isinstance(body, str) else body
        key = blake3(content).digest()
        shelf = self.shelf
        with shelf.lock:
            shelf.settle()
            found = shelf.blobs.get(key)
            blob = found() if found is not None else None
            if not isinstance(blob, Blob):
                return shelf.add_blob(key, body, len(content)), body
            self._account.hits += 1
            blob.touched = True
            # Packed, and here is its content for nothing; in its own type it is the raw form as it stands.
            if (
                blob.raw_form is None
                and shelf.make_hot(blob, content)
                and blob.is_text == isinstance(body, str)
            ):
                blob.raw_form = body
            return blob, shelf.remember_form(blob, body)

    def _missing(self, digest: Digest) -> str:
        counts = self.statistics().blobs
        return (
            f"no blob {digest} in the store (hot {counts['hot']}, warm {counts['warm']}): "
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
