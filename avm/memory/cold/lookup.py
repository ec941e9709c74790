"""Lookup: content and conversations read from a cold store and checked, with no store around it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TypeVar

from avm.errors import CorruptBlob, MissingBlob, StoreError
from avm.memory.cold import records
from avm.memory.cold.coldstore import ColdStore
from avm.memory.cold.records import RUN, Content, Manifest
from avm.memory.compression import Dictionary
from avm.memory.fragment import JOINT

T = TypeVar("T")

ATTEMPTS = 5
"""How often a conversation is looked at anew because its owner has changed it meanwhile."""

DICTIONARIES = 32
"""Dictionaries that are kept at hand."""


class Lookup:
    """Reads content and checks it. Unlike `Archive` it writes nothing, sets nothing aside and keeps no content."""

    def __init__(self, cold: ColdStore) -> None:
        self.cold = cold
        self.path = cold.path
        self.dictionary = lru_cache(DICTIONARIES)(partial(_dictionary, cold))

    def unpack(self, key: bytes, value: bytes, what: str = "") -> Content:
        """Return what a record or segment holds; the digest is not looked at.

        Args:
            what: what the error shall call it; empty for a record of that key.

        Raises:
            CorruptBlob: it is damaged.
        """
        what = what or f"record {key.hex()} in {self.path}"
        return records.read_record(
            value,
            self.dictionary,
            lambda why: CorruptBlob(f"{what} is damaged: {why}", key.hex(), self.path),
        )

    def decode(self, key: bytes, value: bytes, what: str = "") -> Content:
        """Return what a record holds. CorruptBlob if it is not what its digest says; otherwise as `unpack`."""
        found = self.unpack(key, value, what)
        made = records.digest_of(found)
        if made != key:
            what = what or f"record {key.hex()} in {self.path}"
            why = f"its content has the digest {made[:4].hex()}"
            raise CorruptBlob(f"{what} is damaged: {why}", key.hex(), self.path)
        return found

    def content(self, key: bytes) -> Content:
        """Return the content of a digest.

        Raises:
            MissingBlob, CorruptBlob, ColdStoreError: it cannot be read.
        """
        value = self.cold.read("record", [key])[0]
        if value is None:
            raise MissingBlob(f"record {key.hex()} in {self.path} is missing")
        return self.decode(key, value)

    def manifest(self, value: bytes) -> Manifest:
        """Return a manifest. CorruptBlob if it is damaged."""
        try:
            return records.decode_manifest(value, self.path)
        except (CorruptBlob, ValueError, TypeError, KeyError) as error:
            wrong = "damaged" if isinstance(error, CorruptBlob) else "not as this avm writes it"
            raise CorruptBlob(f"its manifest is {wrong}", "", self.path) from error

    def tail(self, manifest: Manifest) -> tuple[Content, bytes]:
        """Return the tail of a conversation as one run, and the check of its pieces.

        Raises:
            MissingBlob, CorruptBlob, ColdStoreError: it cannot be read. Of a segment the error names no digest.
        """
        found = [self.content(manifest.start)] if manifest.start is not None else []
        id = records.conversation_id(manifest.name)
        for number in range(manifest.segments):
            value = self.cold.read("segment", [records.segment_key(id, number)])[0]
            if value is None:
                raise CorruptBlob(f"its segment {number} is missing", "", self.path)
            found.append(self.unpack(b"", value, f"its segment {number}"))
        run = JOINT.join([each.content for each in found])
        whole = Content(RUN, run, tuple([known for each in found for known in each.blobs]))
        return whole, records.check_of(found)

    def settled(self, id: bytes, look: Callable[[Manifest | None], T]) -> T | None:
        """Return what `look` finds of a conversation, while its manifest stays as it is.

        Its owner may be at work beside us, and each of its commits makes another manifest.

        Returns:
            None if it changes all the time.

        Raises:
            CorruptBlob: the manifest is damaged. And what `look` raises, while it stays as it is.
        """

        def row() -> bytes | None:
            return self.cold.read("conversation", [id])[0]

        for _ in range(ATTEMPTS):
            value = row()
            try:
                found = look(self.manifest(value) if value is not None else None)
            except StoreError:
                if row() == value:
                    raise
                continue
            if row() == value:
                return found
        return None


def _dictionary(cold: ColdStore, key: bytes) -> Dictionary:
    """Return a dictionary. CorruptBlob if it is damaged or not there."""
    return records.decode_dictionary(key, cold.read("dictionary", [key])[0], cold.path)


def label(id: bytes, value: bytes) -> str:
    """Return what to call the conversation of a damaged manifest: by its name, if that is still in it."""
    try:
        name = records.name_of(value)
    except ValueError:
        name = ""
    return repr(name) if records.conversation_id(name) == id else f"of id {id.hex()}"
