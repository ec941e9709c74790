"""Check: what a home holds, gone through from end to end: counted, compared with its digests, mended, cleared out.

All of it goes by slices of keys and one value at a time, so it takes as much memory as the largest value and a few
megabytes. What has to be compared as a whole (which conversation refers to what, what there is, which edges there are)
goes into a ledger, a temporary file that is sorted on disk.

Nothing here writes but `repair`, `drop_dictionaries` and `drop_quarantine`, so `verify`, `survey` and `read_back` work
beside the process that owns the home. It may change what is being looked at. Therefore whatever seems wrong is looked
at once more, between two reads of the same manifest: each commit of a conversation makes another one.
"""

from __future__ import annotations

import re
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs
from blake3 import blake3

from avm.errors import ColdStoreError, CorruptBlob, MissingBlob, StoreError
from avm.memory import fragment as fragments
from avm.memory.blob import Blob
from avm.memory.chain import raw_size, step
from avm.memory.cold import records
from avm.memory.cold.coldstore import Change, ColdStore
from avm.memory.cold.opening import disk_bytes
from avm.memory.cold.records import RUN, Content, Known, Manifest
from avm.memory.compression import Dictionary
from avm.memory.digest import Digest, decode, encode
from avm.memory.file import File
from avm.memory.fragment import JOINT, Message
from avm.memory.head import NOTHING
from avm.memory.page import run_key

T = TypeVar("T")

Progress = Callable[[str, float], None]
"""Told what is gone through, and how much of it is behind us, from 0 to 1."""

Lost = Callable[[str, bytes, ColdStoreError], None]
"""Told of a table that cannot be read near a key."""

SLICE = 500
"""Keys that are read at a time; and changes in one commit of a repair."""

MOST_PROBLEMS = 100_000
"""Problems that are told apart; of more there is only the number."""

ATTEMPTS = 5
"""How often a conversation is looked at anew because its owner has changed it meanwhile."""

UNFINISHED = ".unfinished"
"""How the names of large files end that are being copied, or were when their process was killed."""

PLURALS = {"dictionary": "dictionaries", "quarantine": "quarantine"}
"""What the content of a table is called, where it is not as the table with an s."""

_NAMED_FILE = re.compile(rb"[0-9a-f]{64}")


def _silent(what: str, part: float) -> None:
    """Tell nobody."""


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


@attrs.frozen(slots=True)
class Share:
    """Content of one kind: how many pieces, their bytes as they are, and as they are stored."""

    count: int = 0
    raw_bytes: int = 0
    stored_bytes: int = 0


@attrs.frozen(slots=True, kw_only=True)
class Survey:
    """What a home holds. Sizes are bytes.

    Attributes:
        logical_bytes: what the conversations would take if each were kept in full, with its prompt and its tools.
        kinds: content that conversations refer to: "blobs" (prompts, tools and large bodies), "pages", "starts" (of
            tails) and "segments" (of tails).
        orphans: records that no conversation refers to.
        manifest_bytes: what is known of the conversations besides their content.
        damaged: rows that could not be read, or not be made out.
        disk_bytes: all files of the home.
        files, file_bytes: the large files among them.
    """

    conversations: int
    messages: int
    logical_bytes: int
    kinds: dict[str, Share]
    orphans: Share
    manifest_bytes: int
    dictionaries: int
    dictionary_bytes: int
    quarantined: int
    damaged: int
    disk_bytes: int
    files: int
    file_bytes: int

    @property
    def unique_bytes(self) -> int:
        """The content of all conversations, each piece once, as it is."""
        return sum(share.raw_bytes for share in self.kinds.values())

    @property
    def stored_bytes(self) -> int:
        """The same content as it is stored."""
        return sum(share.stored_bytes for share in self.kinds.values())

    @property
    def dedup(self) -> float:
        """The part of the conversations that costs nothing because it is kept already: 1 - unique / logical."""
        # What joins messages is in what is kept only: where nothing is shared, that is a little more.
        return max(0.0, 1 - self.unique_bytes / self.logical_bytes) if self.logical_bytes else 0.0

    @property
    def compression(self) -> float:
        """How many times smaller the unique content is as it is stored."""
        return self.unique_bytes / self.stored_bytes if self.stored_bytes else 1.0


@attrs.frozen(slots=True)
class Repair:
    """What a repair did."""

    quarantined: int = 0
    edges_deleted: int = 0
    edges_added: int = 0
    segments_deleted: int = 0

    @property
    def changes(self) -> int:
        """How much it did in all."""
        return self.quarantined + self.edges_deleted + self.edges_added + self.segments_deleted


def verify(cold: ColdStore, files: Path, progress: Progress = _silent) -> VerifyReport:
    """Go through all that there is, and compare it with its digests and with each other.

    Args:
        files: the folder of large files; it need not be there.

    Raises:
        sqlite3.Error: there is no room for temporary files.
    """
    with _Ledger() as ledger:
        return _Verification(cold, files, progress, ledger).run()


def survey(cold: ColdStore, home: Path, progress: Progress = _silent) -> Survey:
    """Count what there is. Each value is read, but none is unpacked, and nothing is compared.

    Args:
        home: the folder of it all.

    Raises:
        sqlite3.Error: there is no room for temporary files.
    """
    with _Ledger() as ledger:
        return _Census(cold, progress, ledger).run(home)


def repair(cold: ColdStore, report: VerifyReport) -> Repair:
    """Mend what can be mended without losing anything; nobody else may write meanwhile.

    Damaged records go to the quarantine, so that their content can be written anew. Edges that no conversation needs
    are deleted, missing ones added, and segments that nobody can read are deleted.

    Raises:
        ColdStoreError: it cannot be written; what was mended before stays so.
    """
    counts = dict.fromkeys(("record", "stray edge", "missing edge", "stray segment"), 0)
    changes: list[Change] = []
    for problem in report.problems:
        mended = _mend(cold, problem)
        changes.extend(mended)
        counts[problem.kind] = counts.get(problem.kind, 0) + bool(mended)
        # Damaged records may be large, and each of them is in here.
        if len(changes) >= SLICE or sum(len(value) for _, _, value in changes if value) > 1 << 20:
            cold.commit(changes)
            changes = []
    cold.commit(changes)
    return Repair(counts["record"], counts["stray edge"], counts["missing edge"], counts["stray segment"])


def _mend(cold: ColdStore, problem: Problem) -> list[Change]:
    if problem.kind == "stray edge":
        return [("edge", problem.key, None)]
    if problem.kind == "missing edge":
        return [("edge", problem.key, b"")]
    if problem.kind == "stray segment":
        return [("segment", problem.key, None)]
    if problem.kind == "record":
        value = cold.read("record", [problem.key])[0]
        return (
            [("quarantine", problem.key, value), ("record", problem.key, None)] if value is not None else []
        )
    return []


# What has become unneeded.


def drop_dictionaries(cold: ColdStore, progress: Progress = _silent) -> int | None:
    """Delete the dictionaries that nothing was compressed with; nobody else may write meanwhile.

    Returns:
        How many; None if something is damaged, so that nobody knows which are needed, and all of them stay.
    """
    lost = []
    needed = set()

    def note(table: str, key: bytes, error: ColdStoreError) -> None:
        lost.append(error)

    for table in ("record", "segment", "quarantine"):
        for _, value in _rows(cold, table, progress, note):
            try:
                needed.add(records.dictionary_of(value))
            except ValueError:
                # What is in quarantine is damaged anyway.
                if table != "quarantine":
                    return None
    if lost:
        return None
    doomed = [key for key in _keys(cold, "dictionary", _silent, note) if key not in needed]
    cold.commit([("dictionary", key, None) for key in doomed])
    return len(doomed)


def drop_quarantine(cold: ColdStore) -> int:
    """Delete the records that were found damaged; return how many."""
    dropped = 0
    while rows := cold.scan("quarantine", b"", SLICE, values=False):
        cold.commit([("quarantine", key, None) for key, _ in rows])
        dropped += len(rows)
    return dropped


def unneeded_files(cold: ColdStore, files: Path, progress: Progress = _silent) -> list[Path]:
    """Return the large files that no conversation names by their digest in hex, and those that were never finished.

    Raises:
        CorruptBlob, ColdStoreError: something cannot be read, so nobody knows what it names.
    """
    names = {path.name: path for path in _files(files)}
    if not names:
        return []
    lookup = Lookup(cold)

    def refuse(table: str, key: bytes, error: ColdStoreError) -> None:
        raise error

    for table in ("conversation", "record", "segment"):
        for key, value in _rows(cold, table, progress, refuse):
            content = value if table == "conversation" else lookup.unpack(key, value).content
            for found in _NAMED_FILE.findall(content):
                names.pop(found.decode(), None)
    return list(names.values())


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except (FileNotFoundError, NotADirectoryError):
        return []


# Reading.


class Lookup:
    """Reads content and checks it, with no store around it; nothing is written, set aside or kept in memory."""

    DICTIONARIES = 32

    def __init__(self, cold: ColdStore) -> None:
        self.cold = cold
        self.path = cold.path
        self._dictionaries: OrderedDict[bytes, Dictionary] = OrderedDict()

    def dictionary(self, key: bytes) -> Dictionary:
        """Return a dictionary. CorruptBlob if it is damaged or not there."""
        found = self._dictionaries.get(key)
        if found is None:
            content = self.cold.read("dictionary", [key])[0]
            found = self._dictionaries[key] = records.decode_dictionary(key, content, self.path)
            if len(self._dictionaries) > self.DICTIONARIES:
                self._dictionaries.popitem(last=False)
        return found

    def unpack(self, key: bytes, value: bytes) -> Content:
        """Return what a record or segment holds. CorruptBlob if it is damaged; the digest is not looked at."""
        return records.read_record(
            value, self.dictionary, lambda why: CorruptBlob(f"is damaged: {why}", key.hex(), self.path)
        )

    def decode(self, key: bytes, value: bytes) -> Content:
        """Return what a record holds. CorruptBlob if it is not what its digest says."""
        found = self.unpack(key, value)
        made = records.digest_of(found)
        if made != key:
            raise CorruptBlob(
                f"is damaged: its content has the digest {made[:4].hex()}", key.hex(), self.path
            )
        return found

    def content(self, key: bytes) -> Content:
        """Return the content of a digest.

        Raises:
            MissingBlob, CorruptBlob, ColdStoreError: it cannot be read.
        """
        value = self.cold.read("record", [key])[0]
        if value is None:
            raise MissingBlob(f"record {key.hex()} in {self.path} is missing")
        try:
            return self.decode(key, value)
        except CorruptBlob as error:
            raise CorruptBlob(f"record {key.hex()} in {self.path} {error}", key.hex(), self.path) from error

    def row(self, id: bytes) -> bytes | None:
        """Return the manifest of a conversation as it is stored."""
        return self.cold.read("conversation", [id])[0]

    def manifest(self, value: bytes) -> Manifest:
        """Return a manifest. CorruptBlob if it is damaged."""
        try:
            return records.decode_manifest(value, self.path)
        except CorruptBlob as error:
            raise CorruptBlob("its manifest is damaged", "", self.path) from error
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptBlob("its manifest is not as this avm writes it", "", self.path) from error

    def tail(self, manifest: Manifest) -> Content:
        """Return the tail of a conversation as one run.

        Raises:
            MissingBlob, CorruptBlob, ColdStoreError: it cannot be read.
        """
        found = [self.content(manifest.start)] if manifest.start is not None else []
        id = records.conversation_id(manifest.name)
        for number in range(manifest.segments):
            key = records.segment_key(id, number)
            value = self.cold.read("segment", [key])[0]
            if value is None:
                raise CorruptBlob(f"its segment {number} is missing", "", self.path)
            try:
                found.append(self.unpack(key, value))
            except CorruptBlob as error:
                raise CorruptBlob(f"its segment {number} {error}", "", self.path) from error
        run = JOINT.join([each.content for each in found])
        return Content(RUN, run, tuple([known for each in found for known in each.blobs]))

    def settled(self, id: bytes, look: Callable[[Manifest | None], T]) -> T | None:
        """Return what `look` finds of a conversation, while its manifest stays as it is.

        Returns:
            None if it changes all the time.

        Raises:
            CorruptBlob: the manifest is damaged. And what `look` raises, while it stays as it is.
        """
        value = self.row(id)
        for _ in range(ATTEMPTS):
            failure: StoreError | None = None
            found: T | None = None
            try:
                found = look(self.manifest(value) if value is not None else None)
            except StoreError as error:
                failure = error
            again = self.row(id)
            if again == value:
                if failure is not None:
                    raise failure
                return found
            value = again
        return None


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


def _parts(lookup: Lookup, run: Content) -> list[tuple[bytes, Sequence[Blob]]]:
    """Return the fragments of a run, each with what stands for its blobs."""
    blobs = [_Body(lookup, known) for known in run.blobs]
    return fragments.separate(run.content, cast("list[Blob]", blobs))


@attrs.frozen(slots=True)
class Stretch:
    """What a run does to a conversation that it is part of: the root behind it, messages, raw bytes and bodies."""

    root: bytes
    messages: int
    size: int
    bodies: tuple[bytes, ...]


def _stretch(lookup: Lookup, run: Content, root: bytes) -> Stretch:
    parts = _parts(lookup, run)
    size = 0
    for made, blobs in parts:
        root = step(root, made, blobs)
        size += raw_size(made, blobs)
    return Stretch(root, len(parts), size, tuple([known[0] for known in run.blobs]))


def _begin(manifest: Manifest) -> tuple[bytes, int]:
    """Return root and size of a conversation before its first message, as `Head.of` makes them."""
    head = (manifest.system, manifest.tools)
    system, tools = [known[0] if known is not None else NOTHING for known in head]
    return blake3(b"avm conversation\0" + system + tools).digest(), sum(known[1] for known in head if known)


def _compare(
    manifest: Manifest, page_of: Callable[[bytes, bytes], Stretch], tail: Content, lookup: Lookup
) -> str:
    """Say in what a conversation is not what its manifest says; empty if it is."""
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
    if run_key(tail.content, [known[0] for known in tail.blobs]) != manifest.tail_key:
        return "its tail is not what was committed"
    stretch = _stretch(lookup, tail, root)
    if stretch.root != manifest.root:
        return f"its messages have the root {stretch.root[:4].hex()}, not {manifest.root[:4].hex()} as its manifest"
    if (length + stretch.messages, size + stretch.size) != (manifest.length, manifest.size):
        found = f"{length + stretch.messages} messages and {size + stretch.size} bytes"
        return f"it has {found}, not {manifest.length} and {manifest.size} as its manifest"
    if (*bodies, *stretch.bodies) != manifest.blobs:
        return "its messages have other bodies than its manifest"
    return ""


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

    def read(manifest: Manifest | None) -> ReadBack | None:
        if manifest is None:
            return None
        pages = {page.key: lookup.content(page.key) for page in manifest.pages}
        tail = lookup.tail(manifest)
        wrong = _compare(manifest, lambda key, root: _stretch(lookup, pages[key], root), tail, lookup)
        if wrong:
            raise CorruptBlob(wrong, manifest.root.hex(), lookup.path)
        system, tools = [
            lookup.content(known[0]).content if known is not None else b""
            for known in (manifest.system, manifest.tools)
        ]
        messages = [
            fragments.decode(made, blobs)
            for run in (*[pages[page.key] for page in manifest.pages], tail)
            for made, blobs in _parts(lookup, run)
        ]
        meta, schemas = fragments.loads(manifest.meta), fragments.loads(tools or b"[]")
        return ReadBack(manifest.name, decode(system), schemas, messages, meta)

    return lookup.settled(id, read)


def in_order(
    cold: ColdStore, wanted: Callable[[str], bool], lost: Callable[[str], None], progress: Progress = _silent
) -> Iterator[tuple[bytes, str]]:
    """Go through ids and names of conversations, in the order in which they were committed last.

    Args:
        wanted: chooses by the name.
        lost: told of what cannot be read of the list of conversations; the others are gone through all the same.
    """
    lookup = Lookup(cold)

    def note(table: str, key: bytes, error: ColdStoreError) -> None:
        lost(f"conversations near the id {key.hex()} cannot be read: {_brief(error, cold.path)}")

    with _Ledger() as ledger:
        ledger.table("conversation", "changed REAL", "id BLOB", "name BLOB")
        for id, value in _rows(cold, "conversation", _silent, note):
            try:
                manifest = lookup.manifest(value)
            except CorruptBlob as error:
                lost(f"conversation {_label(id, value)} in {cold.path}: {error}")
                continue
            if wanted(manifest.name):
                ledger.add("conversation", manifest.changed, id, encode(manifest.name))
        total = ledger.number("SELECT count(*) FROM conversation")
        for number, (id, name) in enumerate(
            ledger.rows("SELECT id, name FROM conversation ORDER BY changed, id")
        ):
            progress("conversations", number / total)
            yield id, decode(name)


def _label(id: bytes, value: bytes) -> str:
    """Return what to call the conversation of a damaged manifest: by its name, if that is still in it."""
    try:
        name = records.name_of(value)
    except ValueError:
        name = ""
    if records.conversation_id(name) == id:
        return repr(name)
    return f"of id {id.hex()}"


# Going through tables.


def _keys(cold: ColdStore, table: str, progress: Progress, lost: Lost) -> Iterator[bytes]:
    """Go through the keys of a table; where they cannot be read, tell so once and go on behind."""
    after, limit, stride = b"", SLICE, 0
    while True:
        try:
            rows = cold.scan(table, after, limit, values=False)
        except ColdStoreError as error:
            if limit > 1:
                # As near to the damage as can be.
                limit = limit // 8 or 1
                continue
            if not stride:
                lost(table, after, error)
            # Keys are digests, or begin with one, so they are spread evenly. By a third more in each step, not much
            # that is sound is passed over; it is found again when somebody refers to it.
            stride = stride * 4 // 3 or 1 << 40
            position = int.from_bytes(after[:8].ljust(8, b"\0"), "big") + stride
            if position >= 1 << 64:
                return
            after = position.to_bytes(8, "big")
            continue
        if not rows:
            progress(PLURALS.get(table, f"{table}s"), 1.0)
            return
        yield from (key for key, _ in rows)
        after, limit, stride = rows[-1][0], min(limit * 2, SLICE), 0
        progress(
            PLURALS.get(table, f"{table}s"), int.from_bytes(after[:8].ljust(8, b"\0"), "big") / (1 << 64)
        )


def _rows(cold: ColdStore, table: str, progress: Progress, lost: Lost) -> Iterator[tuple[bytes, bytes]]:
    """Go through a table with its values, one in memory at a time: nobody knows how large they are."""
    for key in _keys(cold, table, progress, lost):
        try:
            value = cold.read(table, [key])[0]
        except ColdStoreError as error:
            lost(table, key, error)
            continue
        if value is not None:
            yield key, value


def _brief(error: StoreError, path: str) -> str:
    """Return what an error says, without the path and the advice to do what is being done."""
    return str(error).removeprefix(f"{path} ").partition(". `avm store verify")[0].rstrip(".")


class _Ledger:
    """Tables in a temporary file, which is gone when it is closed."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -32000", "temp_store = FILE"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._insert: dict[str, str] = {}

    def table(self, name: str, *columns: str) -> None:
        """Make a table."""
        self._connection.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
        self._insert[name] = f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})"

    def add(self, table: str, *values: object) -> None:
        """Add a row."""
        self._connection.execute(self._insert[table], values)

    def index(self, table: str, columns: str) -> None:
        """Sort a table."""
        self._connection.execute(f"CREATE INDEX {table}_index ON {table} ({columns})")

    def rows(self, question: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """Answer a question."""
        return self._connection.execute(question, values)

    def change(self, order: str, *values: object) -> None:
        """Change rows."""
        self._connection.execute(order, values)

    def number(self, question: str) -> int:
        """Answer a question about one number."""
        return int(next(self.rows(question))[0] or 0)

    def __enter__(self) -> _Ledger:
        self._connection.execute("BEGIN")
        return self

    def __exit__(self, *failure: object) -> None:
        self._connection.close()


# Verifying.


class _Verification:
    """One going through all there is."""

    REMEMBERED = 4096
    """Pages of which it is remembered what they do to a root: conversations share their beginnings."""

    def __init__(self, cold: ColdStore, files: Path, progress: Progress, ledger: _Ledger) -> None:
        self._cold = cold
        self._path = cold.path
        self._folder = files
        self._progress = progress
        self._ledger = ledger
        self._lookup = Lookup(cold)
        self._problems: list[Problem] = []
        self._more = 0
        self._stretches: OrderedDict[tuple[bytes, bytes], Stretch] = OrderedDict()
        self._messages = self._segments = self._dictionaries = 0
        self._files = self._file_bytes = self._unfinished = 0
        ledger.table("conversation", "id BLOB PRIMARY KEY", "name BLOB", "segments", "is_damaged")
        ledger.table("target", "key BLOB", "id BLOB")
        ledger.table("record", "key BLOB", "size", "is_sound")
        ledger.table("named", "key BLOB", "size", "owner BLOB")
        ledger.table("edge", "key BLOB", "id BLOB")

    def run(self) -> VerifyReport:
        """Look at everything, in such an order that each can be compared with what it needs."""
        ledger = self._ledger
        self._check_conversations()
        ledger.index("target", "key, id")
        self._check_segments()
        self._check_dictionaries()
        self._check_records()
        ledger.index("record", "key")
        self._note_edges()
        ledger.index("edge", "key, id")
        self._find_missing()
        self._find_wrong_sizes()
        self._find_wrong_edges()
        quarantined = sum(1 for _ in _keys(self._cold, "quarantine", self._progress, self._lost))
        self._check_files()
        return VerifyReport(
            conversations=ledger.number("SELECT count(*) FROM conversation"),
            messages=self._messages,
            segments=self._segments,
            records=ledger.number("SELECT count(*) FROM record"),
            orphans=ledger.number(
                "SELECT count(*) FROM record r WHERE NOT EXISTS (SELECT 1 FROM edge e WHERE e.key = r.key)"
            ),
            edges=ledger.number("SELECT count(*) FROM edge"),
            dictionaries=self._dictionaries,
            quarantined=quarantined,
            files=self._files,
            file_bytes=self._file_bytes,
            unfinished=self._unfinished,
            unreadable=ledger.number("SELECT count(*) FROM conversation WHERE is_damaged"),
            problems=tuple(self._problems),
            more=self._more,
        )

    # Conversations and their segments.

    def _check_conversations(self) -> None:
        for id, value in _rows(self._cold, "conversation", self._progress, self._lost):
            name, segments, wrong = _label(id, value), 0, ""
            try:
                manifest = self._lookup.manifest(value)
                name, segments = repr(manifest.name), manifest.segments
                self._messages += manifest.length
                self._note_targets(id, manifest)
                if records.conversation_id(manifest.name) != id:
                    wrong = "its manifest is in the place of another conversation"
                else:
                    wrong = self._lookup.settled(id, self._wrong) or ""
            except CorruptBlob as error:
                wrong, segments = str(error), -1
            self._ledger.add("conversation", id, name.encode(), segments, bool(wrong))
            if wrong:
                self._tell("conversation", name, wrong, id)

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
            return _compare(manifest, self._page, self._lookup.tail(manifest), self._lookup)
        except MissingBlob:
            # Told of the record, with how many conversations need it.
            return ""
        except CorruptBlob as error:
            return "" if error.digest else str(error)
        except ColdStoreError as error:
            return f"it cannot be read: {self._path} {_brief(error, self._path)}"

    def _page(self, key: bytes, root: bytes) -> Stretch:
        known = self._stretches.get((key, root))
        if known is None:
            known = _stretch(self._lookup, self._lookup.content(key), root)
            self._stretches[key, root] = known
            if len(self._stretches) > self.REMEMBERED:
                self._stretches.popitem(last=False)
        return known

    def _check_segments(self) -> None:
        for key in _keys(self._cold, "segment", self._progress, self._lost):
            self._segments += 1
            id, number = key[:16], int.from_bytes(key[16:], "big")
            found = next(self._ledger.rows("SELECT segments FROM conversation WHERE id = ?", id), (0,))[0]
            # Of a damaged manifest (-1) nobody knows.
            if 0 <= found <= number and self._is_stray_segment(key, id, number):
                name = f"{number} of the conversation of id {id.hex()}"
                self._tell("stray segment", name, "no conversation has it", key)

    def _is_stray_segment(self, key: bytes, id: bytes, number: int) -> bool:
        def look(manifest: Manifest | None) -> bool:
            there = self._cold.read("segment", [key])[0] is not None
            return there and (manifest is None or manifest.segments <= number)

        return self._is_so(id, look)

    # Content.

    def _check_dictionaries(self) -> None:
        for key, value in _rows(self._cold, "dictionary", self._progress, self._lost):
            self._dictionaries += 1
            try:
                records.decode_dictionary(key, value, self._path)
            except CorruptBlob:
                self._tell("dictionary", key.hex(), "it is damaged; what was compressed with it is lost", key)

    def _check_records(self) -> None:
        for key, value in _rows(self._cold, "record", self._progress, self._lost):
            try:
                found = self._lookup.decode(key, value)
            except CorruptBlob as error:
                # Somebody may have set it aside, and written it anew.
                if self._cold.read("record", [key])[0] == value:
                    self._tell("record", key.hex(), f"it {error}{self._needed_by(key)}", key)
                    self._ledger.add("record", key, len(value), False)
                continue
            self._ledger.add("record", key, len(found.content), True)
            for name, size, _ in found.blobs:
                self._ledger.add("named", name, size, key)

    def _needed_by(self, key: bytes) -> str:
        """Say which conversations need a record, and note that they cannot be read back."""
        ledger = self._ledger
        count, id = next(ledger.rows("SELECT count(*), min(id) FROM target WHERE key = ?", key))
        if not count:
            return "; no conversation needs it"
        ledger.change(
            "UPDATE conversation SET is_damaged = 1 WHERE id IN (SELECT id FROM target WHERE key = ?)", key
        )
        name = self._name(id)
        return f"; {name} needs it" if count == 1 else f"; {count:,} conversations need it, such as {name}"

    def _name(self, id: bytes) -> str:
        found = next(self._ledger.rows("SELECT name FROM conversation WHERE id = ?", id), None)
        return f"conversation {found[0].decode() if found is not None else f'of id {id.hex()}'}"

    def _find_missing(self) -> None:
        question = (
            "SELECT key, min(id) FROM target t WHERE NOT EXISTS "
            "(SELECT 1 FROM record r WHERE r.key = t.key) GROUP BY key"
        )
        for key, id in self._ledger.rows(question):

            def look(manifest: Manifest | None, key: bytes = key) -> bool:
                try:
                    missing = self._cold.read("record", [key])[0] is None
                except ColdStoreError:
                    # Told of the table; what is left to do is to note whose it is.
                    self._needed_by(key)
                    raise
                return manifest is not None and key in manifest.targets() and missing

            if self._is_so(id, look):
                aside = self._cold.read("quarantine", [key])[0] is not None
                why = "it was damaged and is set aside" if aside else "it is not there"
                self._tell("missing record", key.hex(), why + self._needed_by(key), key)

    def _find_wrong_sizes(self) -> None:
        question = (
            "SELECT n.key, n.size, r.size, n.owner FROM named n JOIN record r ON r.key = n.key "
            "WHERE r.is_sound AND r.size != n.size"
        )
        for key, said, found, owner in self._ledger.rows(question):
            by = owner.hex() if len(owner) == 32 else self._name(owner)
            self._tell(
                "reference",
                f"of {by}",
                f"it says {said} bytes of record {key.hex()}, which has {found}",
                owner,
            )

    # Edges.

    def _note_edges(self) -> None:
        for key in _keys(self._cold, "edge", self._progress, self._lost):
            self._ledger.add("edge", key[:32], key[32:])

    def _find_wrong_edges(self) -> None:
        stray = (
            "SELECT key, id FROM edge e WHERE NOT EXISTS (SELECT 1 FROM target t WHERE t.key = e.key AND t.id = e.id) "
            # What a damaged manifest refers to is not known.
            "AND id NOT IN (SELECT id FROM conversation WHERE segments < 0)"
        )
        missing = (
            "SELECT key, id FROM target t WHERE NOT EXISTS "
            "(SELECT 1 FROM edge e WHERE e.key = t.key AND e.id = t.id)"
        )
        for question, there in ((stray, True), (missing, False)):
            for key, id in self._ledger.rows(question):

                def look(
                    manifest: Manifest | None, key: bytes = key, id: bytes = id, there: bool = there
                ) -> bool:
                    found = self._cold.read("edge", [key + id])[0] is not None
                    referred = manifest is not None and key in manifest.targets()
                    return found is there and referred is not there

                if self._is_so(id, look):
                    what = "does not refer to it" if there else "refers to it, so a sweep would delete it"
                    self._tell(
                        "stray edge" if there else "missing edge",
                        key.hex(),
                        f"{self._name(id)} {what}",
                        key + id,
                    )

    # Large files.

    def _check_files(self) -> None:
        paths = _files(self._folder)
        for number, path in enumerate(paths):
            self._progress("files", number / len(paths))
            if path.name.endswith(UNFINISHED):
                self._unfinished += 1
                continue
            try:
                file = File.find(Digest.from_hex(path.name), self._folder)
                self._files += 1
                self._file_bytes += file.size
                file.verify()
            except MissingBlob:
                continue
            except ValueError:
                self._tell("file", path.name, "its name is no digest, so it is none of ours", path=str(path))
            except StoreError as error:
                what = str(error).removeprefix(f"{path.absolute()} ").rstrip(".")
                self._tell("file", path.name, f"it {what}", path=str(path))

    # Telling.

    def _is_so(self, id: bytes, look: Callable[[Manifest | None], bool]) -> bool:
        """Tell whether something is wrong with a conversation, and not merely just being changed."""
        try:
            return self._lookup.settled(id, look) is True
        except StoreError:
            # What cannot be read has been told.
            return False

    def _lost(self, table: str, key: bytes, error: ColdStoreError) -> None:
        what = f"it cannot be read near the key {key.hex() or '0'} ({_brief(error, self._path)})"
        self._tell("table", table, what, key)

    def _tell(self, kind: str, name: str, what: str, key: bytes = b"", path: str = "") -> None:
        if len(self._problems) >= MOST_PROBLEMS:
            self._more += 1
            return
        self._problems.append(Problem(kind, name, path or self._path, what, key))


# Counting.


class _Census:
    """One counting of all there is."""

    def __init__(self, cold: ColdStore, progress: Progress, ledger: _Ledger) -> None:
        self._cold = cold
        self._progress = progress
        self._ledger = ledger
        self._damaged = 0
        ledger.table("start", "key BLOB")
        ledger.table("record", "key BLOB", "kind", "size", "stored")
        ledger.table("edge", "key BLOB")

    def run(self, home: Path) -> Survey:
        """Count."""
        conversations, messages, logical, manifest_bytes = self._count_conversations()
        self._count_records()
        segments = self._count_segments()
        shares = self._shares()
        dictionaries = [len(value) for _, value in self._rows("dictionary")]
        sizes = [path.stat().st_size for path in _files(home / "files")]
        return Survey(
            conversations=conversations,
            messages=messages,
            logical_bytes=logical,
            kinds={kind: shares.get(kind, Share()) for kind in ("blobs", "pages", "starts")}
            | {"segments": segments},
            orphans=shares.get("orphans", Share()),
            manifest_bytes=manifest_bytes,
            dictionaries=len(dictionaries),
            dictionary_bytes=sum(dictionaries),
            quarantined=sum(1 for _ in self._keys("quarantine")),
            damaged=self._damaged,
            disk_bytes=disk_bytes(home),
            files=len(sizes),
            file_bytes=sum(sizes),
        )

    def _count_conversations(self) -> tuple[int, int, int, int]:
        conversations = messages = logical = size = 0
        lookup = Lookup(self._cold)
        for _, value in self._rows("conversation"):
            conversations += 1
            size += len(value)
            try:
                manifest = lookup.manifest(value)
            except CorruptBlob:
                self._damaged += 1
                continue
            messages += manifest.length
            logical += manifest.size
            if manifest.start is not None:
                self._ledger.add("start", manifest.start)
        return conversations, messages, logical, size

    def _count_records(self) -> None:
        for key, value in self._rows("record"):
            try:
                kind, size, _ = records.header_of(value)
            except ValueError:
                self._damaged += 1
                continue
            self._ledger.add("record", key, kind, size, len(value))
        last = b""
        for key in self._keys("edge"):
            if key[:32] != last:
                last = key[:32]
                self._ledger.add("edge", last)

    def _count_segments(self) -> Share:
        count = raw = stored = 0
        for _, value in self._rows("segment"):
            try:
                raw += records.header_of(value)[1]
            except ValueError:
                self._damaged += 1
                continue
            count, stored = count + 1, stored + len(value)
        return Share(count, raw, stored)

    def _shares(self) -> dict[str, Share]:
        self._ledger.index("edge", "key")
        self._ledger.index("start", "key")
        question = f"""
            SELECT CASE
                WHEN NOT EXISTS (SELECT 1 FROM edge e WHERE e.key = r.key) THEN 'orphans'
                WHEN kind != {RUN} THEN 'blobs'
                WHEN EXISTS (SELECT 1 FROM start s WHERE s.key = r.key) THEN 'starts'
                ELSE 'pages' END AS share, count(*), sum(size), sum(stored)
            FROM record r GROUP BY share"""
        return {share: Share(*sums) for share, *sums in self._ledger.rows(question)}

    def _rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        return _rows(self._cold, table, self._progress, self._lost)

    def _keys(self, table: str) -> Iterator[bytes]:
        return _keys(self._cold, table, self._progress, self._lost)

    def _lost(self, table: str, key: bytes, error: ColdStoreError) -> None:
        self._damaged += 1
