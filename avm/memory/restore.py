"""Restore: a conversation read back from disk, in two steps: what may take time in any thread, then the values."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from avm.memory.blob import Blob
from avm.memory.chain import Chain, Sealed, begin_tail
from avm.memory.cold.archive import Archive
from avm.memory.cold.records import Content, Known, Manifest, check_of
from avm.memory.cold.writes import Saved
from avm.memory.fragment import JOINT
from avm.memory.page import Page, Tail
from avm.memory.shelf import Shelf


@attrs.frozen(slots=True)
class Fetched:
    """What was read of a conversation: pages by digest, and the pieces of its tail in order."""

    manifest: Manifest
    pages: dict[bytes, Content]
    tail: tuple[Content, ...]

    @property
    def size(self) -> int:
        """Bytes of what was read, unpacked."""
        return sum(len(found.content) for found in (*self.pages.values(), *self.tail))


def fetch(archive: Archive, manifest: Manifest, is_here: Callable[[bytes], bool]) -> Fetched:
    """Read the pages that are not `is_here`, and the tail. Any thread.

    Raises:
        CorruptBlob, MissingBlob, ColdStoreError: something cannot be read.
    """
    wanted = [page.key for page in manifest.pages if not is_here(page.key)]
    start = [manifest.start] if manifest.start is not None else []
    found = archive.read([*wanted, *start])
    pages = dict(zip(wanted, found, strict=False))
    return Fetched(manifest, pages, (*found[len(wanted) :], *archive.segments(manifest)))


def restore(shelf: Shelf, archive: Archive, fetched: Fetched) -> tuple[Chain, Saved]:
    """Make the chain of what was fetched, on the store's thread; the room for it has been made.

    Raises:
        CorruptBlob: the messages are not those that were committed. And as `fetch`, for a page that has gone meanwhile.
    """
    manifest = fetched.manifest
    # A hash for each piece: the root's steps, message by message, would take ten times as long, and are `verify`'s.
    if check_of(fetched.tail) != manifest.tail_key:
        raise archive.damaged(manifest, "its messages are not those that were committed")
    with shelf.lock:
        pages = tuple(
            [
                Sealed(_page(shelf, archive, fetched, page.key), page.first, page.root, page.base)
                for page in manifest.pages
            ]
        )
        tail = _tail(shelf, fetched)
    bodies = len(tail.blobs)
    saved = Saved(tail, tail.size, bodies, manifest.segments, manifest.start, manifest.tail_key)
    return Chain(pages, tail, tail.size, manifest.length - tail.first, bodies), saved


def _page(shelf: Shelf, archive: Archive, fetched: Fetched, key: bytes) -> Page:
    page = shelf.find_page(key)
    if page is not None:
        return page
    found = fetched.pages.get(key)
    if found is None:
        found = archive.read([key])[0]
    page = Page(shelf, key, found.content, _blobs(shelf, found.blobs))
    page.saved = True
    return shelf.intern_page(page)


def _tail(shelf: Shelf, fetched: Fetched) -> Tail:
    manifest = fetched.manifest
    tail = begin_tail(shelf, manifest.tail_first, manifest.tail_root, manifest.tail_base)
    run = JOINT.join([found.content for found in fetched.tail])
    if run:
        blobs = [blob for found in fetched.tail for blob in _blobs(shelf, found.blobs)]
        tail.push(run, blobs)
    return tail


def _blobs(shelf: Shelf, known: tuple[Known, ...]) -> tuple[Blob, ...]:
    found = []
    for key, size, is_text in known:
        blob = shelf.cold_blob(key, size, is_text)
        blob.belongs()
        found.append(blob)
    return tuple(found)
