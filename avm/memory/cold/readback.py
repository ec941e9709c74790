"""ReadBack: a conversation as it is on disk, read without a store and compared with its manifest message by message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import attrs
from blake3 import blake3

from avm.errors import ColdStoreError, CorruptBlob
from avm.memory import fragment as fragments
from avm.memory.blob import Blob
from avm.memory.chain import raw_size, step
from avm.memory.cold.coldstore import ColdStore, brief
from avm.memory.cold.ledger import Ledger
from avm.memory.cold.lookup import Lookup, label
from avm.memory.cold.records import Content, Known, Manifest
from avm.memory.cold.tables import Progress, Tables, silent
from avm.memory.digest import decode, encode
from avm.memory.fragment import Message
from avm.memory.head import NOTHING


@attrs.frozen(slots=True)
class ReadBack:
    """A conversation as it is on disk, checked by its root."""

    name: str
    system: str
    tools: list[Any]
    messages: list[Message]
    meta: dict[str, Any]


def read_back(lookup: Lookup, id: bytes) -> ReadBack | None:
    """Read a conversation back, without a store; it is in memory as a whole.

    Args:
        id: what `records.conversation_id` makes of its name.

    Returns:
        None if there is none, or none any more.

    Raises:
        CorruptBlob, MissingBlob, ColdStoreError: it cannot be read; says why, but not of which name.
    """
    return lookup.settled(id, lambda manifest: _read(lookup, manifest) if manifest is not None else None)


def _read(lookup: Lookup, manifest: Manifest) -> ReadBack:
    pages = {page.key: lookup.content(page.key) for page in manifest.pages}
    tail, check = lookup.tail(manifest)
    wrong = compare(lookup, manifest, lambda key, root: Stretch.of(lookup, pages[key], root), tail, check)
    if wrong:
        raise CorruptBlob(wrong, manifest.root.hex(), lookup.path)
    system, tools = [
        lookup.content(known[0]).content if known is not None else b""
        for known in (manifest.system, manifest.tools)
    ]
    messages = [
        message
        for run in (*[pages[page.key] for page in manifest.pages], tail)
        for message in fragments.messages(run.content, _bodies(lookup, run))
    ]
    meta, schemas = fragments.loads(manifest.meta), fragments.loads(tools or b"[]")
    return ReadBack(manifest.name, decode(system), schemas, messages, meta)


def in_order(
    cold: ColdStore, wanted: Callable[[str], bool], lost: Callable[[str], None], progress: Progress = silent
) -> Iterator[tuple[bytes, str]]:
    """Go through ids and names of conversations, in the order in which they were committed last.

    Args:
        wanted: chooses by the name.
        lost: told of what cannot be read of the list of conversations; the others are gone through all the same.
    """
    lookup = Lookup(cold)

    def note(table: str, key: bytes, error: ColdStoreError) -> None:
        lost(f"conversations near the id {key.hex()} cannot be read: {brief(error, cold.path)}")

    with Ledger() as ledger:
        ledger.table("conversation", "changed REAL", "id BLOB", "name BLOB")
        for id, value in Tables(cold, silent, note).rows("conversation"):
            try:
                manifest = lookup.manifest(value)
            except CorruptBlob as error:
                lost(f"conversation {label(id, value)} in {cold.path}: {error}")
                continue
            if wanted(manifest.name):
                ledger.add("conversation", manifest.changed, id, encode(manifest.name))
        total = ledger.count("conversation")
        found = ledger.ask("SELECT id, name FROM conversation ORDER BY changed, id")
        for number, (id, name) in enumerate(found):
            progress("conversations", number / total)
            yield id, decode(name)


# Comparing.


@attrs.frozen(slots=True)
class Stretch:
    """What a run does to a conversation that it is part of: the root behind it, messages, raw bytes and bodies."""

    root: bytes
    messages: int
    size: int
    bodies: tuple[bytes, ...]

    @classmethod
    def of(cls, lookup: Lookup, run: Content, root: bytes) -> Stretch:
        """Return what a run does behind a root. Errors are those of `Lookup.content`."""
        parts = fragments.separate(run.content, _bodies(lookup, run))
        size = 0
        for made, blobs in parts:
            root = step(root, made, blobs)
            size += raw_size(made, blobs)
        return cls(root, len(parts), size, tuple([known[0] for known in run.blobs]))


def compare(
    lookup: Lookup,
    manifest: Manifest,
    page_of: Callable[[bytes, bytes], Stretch],
    tail: Content,
    check: bytes,
) -> str:
    """Say in what a conversation is not what its manifest says; empty if it is.

    Args:
        page_of: returns what the page of a digest does behind a root.
        check: that of the tail as it was read.
    """
    root, size = _begin(manifest)
    length = 0
    bodies: list[bytes] = []
    for number, page in enumerate(manifest.pages):
        if (page.first, page.root, page.base) != (length, root, size):
            return f"its page {number} does not begin where the messages before it end"
        stretch = page_of(page.key, root)
        root, length, size = stretch.root, length + stretch.messages, size + stretch.size
        bodies.extend(stretch.bodies)
    if (manifest.tail_first, manifest.tail_root, manifest.tail_base) != (length, root, size):
        return "its tail does not begin where its pages end"
    if check != manifest.tail_key:
        return "its tail is not what was committed"
    stretch = Stretch.of(lookup, tail, root)
    return _compare_ends(
        manifest, stretch.root, length + stretch.messages, size + stretch.size, (*bodies, *stretch.bodies)
    )


def _compare_ends(manifest: Manifest, root: bytes, length: int, size: int, bodies: tuple[bytes, ...]) -> str:
    if root != manifest.root:
        return f"its messages have the root {root[:4].hex()}, not {manifest.root[:4].hex()} as its manifest"
    if (length, size) != (manifest.length, manifest.size):
        expected = f"{manifest.length} and {manifest.size} as its manifest"
        return f"it has {length} messages and {size} bytes, not {expected}"
    return "its messages have other bodies than its manifest" if bodies != manifest.blobs else ""


def _begin(manifest: Manifest) -> tuple[bytes, int]:
    """Return root and size of a conversation before its first message, as `Head.of` makes them."""
    head = (manifest.system, manifest.tools)
    system, tools = [known[0] if known is not None else NOTHING for known in head]
    return blake3(b"avm conversation\0" + system + tools).digest(), sum(known[1] for known in head if known)


class _Body:
    """Stands for a `Blob` where a message is decoded."""

    def __init__(self, lookup: Lookup, known: Known) -> None:
        self._lookup = lookup
        self.key, self.size, self.is_text = known

    @property
    def text(self) -> str:
        return decode(self._lookup.content(self.key).content)

    def json(self) -> bytes:
        return fragments.quote(self.text)


def _bodies(lookup: Lookup, run: Content) -> Sequence[Blob]:
    return cast("list[Blob]", [_Body(lookup, known) for known in run.blobs])
