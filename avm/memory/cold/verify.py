"""Verify: all that a home holds, compared with its digests and with each other.

It works beside the process that owns the home, and writes nothing. So what is looked at may be changing: whatever seems
wrong with a conversation is looked at once more, between two reads of the same manifest (see `Lookup.settled`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import attrs

from avm.errors import ColdStoreError, CorruptBlob, MissingBlob, StoreError
from avm.memory.cold import records
from avm.memory.cold.coldstore import ColdStore, brief
from avm.memory.cold.ledger import Ledger
from avm.memory.cold.lookup import Lookup, label
from avm.memory.cold.readback import Stretch, compare
from avm.memory.cold.records import Manifest
from avm.memory.cold.tables import Progress, Tables, silent
from avm.memory.digest import Digest
from avm.memory.file import File
from avm.memory.intake import UNFINISHED, files_in

MOST_PROBLEMS = 100_000
"""Problems that are told apart; of more there is only the number."""

REMEMBERED = 4096
"""Pages of which it is remembered what they do to a root: conversations share their beginnings."""


@attrs.frozen(slots=True)
class Problem:
    """Something that is wrong: with what, and in which file.

    Attributes:
        kind: "record", "missing record", "reference", "conversation", "stray edge", "missing edge", "stray segment",
            "dictionary", "file" or "table".
        name: the digest in full, or the name of the conversation.
        key: the key of its row.
    """

    kind: str
    name: str
    path: str
    what: str
    key: bytes = attrs.field(default=b"", repr=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.name} in {self.path}: {self.what}."


@attrs.frozen(slots=True, kw_only=True)
class VerifyReport:
    """What was looked at, and what is wrong.

    Attributes:
        orphans: records that no conversation refers to; they are not wrong, and `avm store gc` frees them.
        unreadable: conversations that cannot be read back as they were committed.
        unfinished: large files of which the copy was not finished.
        more: how many problems there are beyond those in `problems`.
    """

    conversations: int
    messages: int
    segments: int
    records: int
    orphans: int
    edges: int
    dictionaries: int
    quarantined: int
    files: int
    file_bytes: int
    unfinished: int
    unreadable: int
    problems: tuple[Problem, ...]
    more: int

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(cold: ColdStore, files: Path, progress: Progress = silent) -> VerifyReport:
    """Go through all that there is, and compare it with its digests and with each other.

    Args:
        files: the folder of large files; it need not be there.

    Raises:
        sqlite3.Error: there is no room for temporary files.
    """
    problems = _Problems(cold.path)
    with Ledger() as ledger:
        return _Verification(cold, progress, ledger, problems).run(files)


ORPHANS = "record r WHERE NOT EXISTS (SELECT 1 FROM edge e WHERE e.key = r.key)"

MISSING_RECORDS = """
    SELECT key, min(id) FROM target t WHERE NOT EXISTS (SELECT 1 FROM record r WHERE r.key = t.key) GROUP BY key"""

WRONG_SIZES = """
    SELECT n.key, n.size, r.size, n.owner FROM named n JOIN record r ON r.key = n.key
    WHERE r.is_sound AND r.size != n.size"""

# What a damaged manifest refers to is not known.
STRAY_EDGES = """
    SELECT key, id FROM edge e WHERE NOT EXISTS (SELECT 1 FROM target t WHERE t.key = e.key AND t.id = e.id)
    AND id NOT IN (SELECT id FROM conversation WHERE segments < 0)"""

MISSING_EDGES = """
    SELECT key, id FROM target t WHERE NOT EXISTS (SELECT 1 FROM edge e WHERE e.key = t.key AND e.id = t.id)"""


class _Verification:
    """One going through all there is."""

    def __init__(self, cold: ColdStore, progress: Progress, ledger: Ledger, problems: _Problems) -> None:
        self._cold = cold
        self._progress = progress
        self._ledger = ledger
        self._problems = problems
        self._tell = problems.tell
        self._tables = Tables(cold, progress, problems.lost)
        lookup = self._lookup = Lookup(cold)
        self._stretch = lru_cache(REMEMBERED)(lambda key, root: Stretch.of(lookup, lookup.content(key), root))
        self._messages = self._segments = self._dictionaries = 0
        ledger.table("conversation", "id BLOB PRIMARY KEY", "name BLOB", "segments", "is_damaged")
        ledger.table("target", "key BLOB", "id BLOB")
        ledger.table("record", "key BLOB", "size", "is_sound")
        ledger.table("named", "key BLOB", "size", "owner BLOB")
        ledger.table("edge", "key BLOB", "id BLOB")

    def run(self, folder: Path) -> VerifyReport:
        """Look at everything, in such an order that each can be compared with what it needs."""
        ledger = self._ledger
        self._check_conversations()
        self._check_segments()
        self._check_dictionaries()
        self._check_records()
        self._note_edges()
        self._find_missing()
        self._find_wrong_sizes()
        self._find_wrong_edges()
        quarantined = sum(1 for _ in self._tables.keys("quarantine"))
        files, file_bytes, unfinished = _check_files(folder, self._progress, self._problems)
        return VerifyReport(
            conversations=ledger.count("conversation"),
            messages=self._messages,
            segments=self._segments,
            records=ledger.count("record"),
            orphans=ledger.count(ORPHANS),
            edges=ledger.count("edge"),
            dictionaries=self._dictionaries,
            quarantined=quarantined,
            files=files,
            file_bytes=file_bytes,
            unfinished=unfinished,
            unreadable=ledger.count("conversation WHERE is_damaged"),
            problems=tuple(self._problems.found),
            more=self._problems.more,
        )

    # Conversations and their segments.

    def _check_conversations(self) -> None:
        for id, value in self._tables.rows("conversation"):
            name, segments, wrong = label(id, value), -1, ""
            try:
                manifest = self._lookup.manifest(value)
                name = repr(manifest.name)
                self._messages += manifest.length
                self._note_targets(id, manifest)
                if records.conversation_id(manifest.name) != id:
                    wrong = "its manifest is in the place of another conversation"
                else:
                    wrong = self._lookup.settled(id, self._wrong) or ""
                segments = manifest.segments
            except CorruptBlob as error:
                wrong = str(error)
            self._ledger.add("conversation", id, name.encode(), segments, bool(wrong))
            if wrong:
                self._tell("conversation", name, wrong, id)
        self._ledger.index("target", "key, id")

    def _note_targets(self, id: bytes, manifest: Manifest) -> None:
        for key in manifest.targets():
            self._ledger.add("target", key, id)
        for known in (manifest.system, manifest.tools):
            if known is not None:
                self._ledger.add("named", known[0], known[1], id)

    def _wrong(self, manifest: Manifest | None) -> str:
        if manifest is None:
            return ""
        try:
            return compare(self._lookup, manifest, self._stretch, *self._lookup.tail(manifest))
        except MissingBlob:
            # Told of the record, with how many conversations need it.
            return ""
        except CorruptBlob as error:
            return "" if error.digest else str(error)
        except ColdStoreError as error:
            return f"it cannot be read: {self._cold.path} {brief(error, self._cold.path)}"

    def _check_segments(self) -> None:
        for key in self._tables.keys("segment"):
            self._segments += 1
            id, number = key[:16], int.from_bytes(key[16:], "big")
            row = self._ledger.ask("SELECT segments FROM conversation WHERE id = ?", id).fetchone()
            found = row[0] if row is not None else 0
            # Of a damaged manifest (-1) nobody knows.
            if 0 <= found <= number and self._is_so(id, partial(self._is_stray_segment, key, number)):
                name = f"{number} of the conversation of id {id.hex()}"
                self._tell("stray segment", name, "no conversation has it", key)

    def _is_stray_segment(self, key: bytes, number: int, manifest: Manifest | None) -> bool:
        there = self._cold.read("segment", [key])[0] is not None
        return there and (manifest is None or manifest.segments <= number)

    def _is_so(self, id: bytes, look: Callable[[Manifest | None], bool]) -> bool:
        """Tell whether something is wrong with a conversation, and not merely just being changed."""
        try:
            return self._lookup.settled(id, look) is True
        except StoreError:
            # What cannot be read has been told.
            return False

    # Content.

    def _check_dictionaries(self) -> None:
        for key, value in self._tables.rows("dictionary"):
            self._dictionaries += 1
            try:
                records.decode_dictionary(key, value, self._cold.path)
            except CorruptBlob:
                self._tell("dictionary", key.hex(), "it is damaged; what was compressed with it is lost", key)

    def _check_records(self) -> None:
        for key, value in self._tables.rows("record"):
            try:
                found = self._lookup.decode(key, value, "it")
            except CorruptBlob as error:
                # Somebody may have set it aside, and written it anew.
                if self._cold.read("record", [key])[0] == value:
                    self._tell("record", key.hex(), f"{error}{self._needed_by(key)}", key)
                    self._ledger.add("record", key, len(value), False)
                continue
            self._ledger.add("record", key, len(found.content), True)
            for name, size, _ in found.blobs:
                self._ledger.add("named", name, size, key)
        self._ledger.index("record", "key")

    def _needed_by(self, key: bytes) -> str:
        """Say which conversations need a record, and note that they cannot be read back."""
        count, id = self._ledger.ask("SELECT count(*), min(id) FROM target WHERE key = ?", key).fetchone()
        if not count:
            return "; no conversation needs it"
        self._ledger.ask(
            "UPDATE conversation SET is_damaged = 1 WHERE id IN (SELECT id FROM target WHERE key = ?)", key
        )
        name = self._name(id)
        return f"; {name} needs it" if count == 1 else f"; {count:,} conversations need it, such as {name}"

    def _name(self, id: bytes) -> str:
        found = self._ledger.ask("SELECT name FROM conversation WHERE id = ?", id).fetchone()
        return f"conversation {found[0].decode() if found is not None else f'of id {id.hex()}'}"

    def _find_missing(self) -> None:
        for key, id in self._ledger.ask(MISSING_RECORDS):
            if self._is_so(id, partial(self._is_missing, key)):
                aside = self._cold.read("quarantine", [key])[0] is not None
                why = "it was damaged and is set aside" if aside else "it is not there"
                self._tell("missing record", key.hex(), why + self._needed_by(key), key)

    def _is_missing(self, key: bytes, manifest: Manifest | None) -> bool:
        try:
            missing = self._cold.read("record", [key])[0] is None
        except ColdStoreError:
            # Told of the table; what is left to do is to note whose it is.
            self._needed_by(key)
            raise
        return manifest is not None and key in manifest.targets() and missing

    def _find_wrong_sizes(self) -> None:
        for key, said, found, owner in self._ledger.ask(WRONG_SIZES):
            by = owner.hex() if len(owner) == 32 else self._name(owner)
            what = f"it says {said} bytes of record {key.hex()}, which has {found}"
            self._tell("reference", f"of {by}", what, owner)

    # Edges.

    def _note_edges(self) -> None:
        for key in self._tables.keys("edge"):
            self._ledger.add("edge", key[:32], key[32:])
        self._ledger.index("edge", "key, id")

    def _find_wrong_edges(self) -> None:
        for key, id in self._ledger.ask(STRAY_EDGES):
            if self._is_so(id, partial(self._is_wrong_edge, key, id, True)):
                self._tell("stray edge", key.hex(), f"{self._name(id)} does not refer to it", key + id)
        for key, id in self._ledger.ask(MISSING_EDGES):
            if self._is_so(id, partial(self._is_wrong_edge, key, id, False)):
                what = f"{self._name(id)} refers to it, so a sweep would delete it"
                self._tell("missing edge", key.hex(), what, key + id)

    def _is_wrong_edge(self, key: bytes, id: bytes, is_stray: bool, manifest: Manifest | None) -> bool:
        found = self._cold.read("edge", [key + id])[0] is not None
        referred = manifest is not None and key in manifest.targets()
        return found is is_stray and referred is not is_stray


# Large files, and what is told.


def _check_files(folder: Path, progress: Progress, problems: _Problems) -> tuple[int, int, int]:
    """Compare large files with their names; return how many there are, their bytes, and how many are unfinished."""
    count = size = unfinished = 0
    paths = files_in(folder)
    for number, path in enumerate(paths):
        progress("files", number / len(paths))
        if path.name.endswith(UNFINISHED):
            unfinished += 1
            continue
        try:
            file = File.find(Digest.from_hex(path.name), folder)
            count += 1
            size += file.size
            file.verify()
        except MissingBlob:
            continue
        except ValueError:
            problems.tell("file", path.name, "its name is no digest, so it is none of ours", path=str(path))
        except StoreError as error:
            what = str(error).removeprefix(f"{path.absolute()} ").rstrip(".")
            problems.tell("file", path.name, f"it {what}", path=str(path))
    return count, size, unfinished


class _Problems:
    """All that was found wrong.

    Attributes:
        path: the cold store, where a problem is if nothing else is said.
        found: the first `MOST_PROBLEMS`. more: how many there are beyond.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.found: list[Problem] = []
        self.more = 0

    def tell(self, kind: str, name: str, what: str, key: bytes = b"", path: str = "") -> None:
        """Take note of one; the arguments are those of `Problem`."""
        if len(self.found) < MOST_PROBLEMS:
            self.found.append(Problem(kind, name, path or self.path, what, key))
        else:
            self.more += 1

    def lost(self, table: str, key: bytes, error: ColdStoreError) -> None:
        """Take note that a table cannot be read near a key."""
        what = f"it cannot be read near the key {key.hex() or '0'} ({brief(error, self.path)})"
        self.tell("table", table, what, key)
