"""Survey: what a home holds, counted; how much of it is shared, and how small it is stored."""

from __future__ import annotations

from pathlib import Path

import attrs

from avm.errors import ColdStoreError, CorruptBlob
from avm.memory.cold import records
from avm.memory.cold.coldstore import ColdStore
from avm.memory.cold.ledger import Ledger
from avm.memory.cold.lookup import Lookup
from avm.memory.cold.opening import disk_bytes
from avm.memory.cold.records import RUN
from avm.memory.cold.tables import Progress, Tables, silent
from avm.memory.intake import files_in


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


def survey(cold: ColdStore, home: Path, progress: Progress = silent) -> Survey:
    """Count what there is. Each value is read, but none is unpacked, and nothing is compared or written.

    Args:
        home: the folder of it all.

    Raises:
        sqlite3.Error: there is no room for temporary files.
    """
    with Ledger() as ledger:
        return _Census(cold, progress, ledger).run(home)


SHARES = f"""
    SELECT CASE
        WHEN origin = 'segment' THEN 'segments'
        WHEN NOT EXISTS (SELECT 1 FROM edge e WHERE e.key = p.key) THEN 'orphans'
        WHEN kind != {RUN} THEN 'blobs'
        WHEN EXISTS (SELECT 1 FROM conversation c WHERE c.start = p.key) THEN 'starts'
        ELSE 'pages' END AS share, count(*), sum(size), sum(stored)
    FROM piece p GROUP BY share"""

TOTALS = "SELECT count(*), ifnull(sum(messages), 0), ifnull(sum(size), 0), ifnull(sum(stored), 0) FROM conversation"


class _Census:
    """One counting of all there is."""

    def __init__(self, cold: ColdStore, progress: Progress, ledger: Ledger) -> None:
        self._lookup = Lookup(cold)
        self._tables = Tables(cold, progress, self._lost)
        self._ledger = ledger
        self._damaged = 0
        ledger.table("conversation", "start BLOB", "messages", "size", "stored")
        ledger.table("piece", "origin", "key BLOB", "kind", "size", "stored")
        ledger.table("edge", "key BLOB")

    def run(self, home: Path) -> Survey:
        """Count."""
        self._note_conversations()
        self._note_content()
        conversations, messages, logical, manifest_bytes = self._ledger.ask(TOTALS).fetchone()
        shares = {share: Share(*sums) for share, *sums in self._ledger.ask(SHARES)}
        dictionaries = [len(value) for _, value in self._tables.rows("dictionary")]
        sizes = [path.stat().st_size for path in files_in(home / "files")]
        return Survey(
            conversations=conversations,
            messages=messages,
            logical_bytes=logical,
            kinds={kind: shares.get(kind, Share()) for kind in ("blobs", "pages", "starts", "segments")},
            orphans=shares.get("orphans", Share()),
            manifest_bytes=manifest_bytes,
            dictionaries=len(dictionaries),
            dictionary_bytes=sum(dictionaries),
            quarantined=sum(1 for _ in self._tables.keys("quarantine")),
            damaged=self._damaged,
            disk_bytes=disk_bytes(home),
            files=len(sizes),
            file_bytes=sum(sizes),
        )

    def _note_conversations(self) -> None:
        for _, value in self._tables.rows("conversation"):
            try:
                manifest = self._lookup.manifest(value)
                found = (manifest.start, manifest.length, manifest.size)
            except CorruptBlob:
                self._damaged += 1
                found = (None, 0, 0)
            self._ledger.add("conversation", *found, len(value))
        self._ledger.index("conversation", "start")

    def _note_content(self) -> None:
        for table in ("record", "segment"):
            for key, value in self._tables.rows(table):
                try:
                    kind, size, _ = records.header_of(value)
                except ValueError:
                    self._damaged += 1
                    continue
                self._ledger.add("piece", table, key, kind, size, len(value))
        last = b""
        for key in self._tables.keys("edge"):
            if key[:32] != last:
                last = key[:32]
                self._ledger.add("edge", last)
        self._ledger.index("edge", "key")

    def _lost(self, table: str, key: bytes, error: ColdStoreError) -> None:
        self._damaged += 1
