"""Litter: what is left in a home and nobody needs any more, besides records without an edge, which `Sweep` deletes."""

from __future__ import annotations

import re
from pathlib import Path

from avm.errors import ColdStoreError
from avm.memory.cold import records
from avm.memory.cold.coldstore import ColdStore
from avm.memory.cold.lookup import Lookup
from avm.memory.cold.tables import SLICE, Progress, Tables, refuse, silent
from avm.memory.intake import files_in

_NAMED_FILE = re.compile(rb"[0-9a-f]{64}")


def drop_dictionaries(cold: ColdStore, progress: Progress = silent) -> int | None:
    """Delete the dictionaries that nothing was compressed with; nobody else may write meanwhile.

    Returns:
        How many; None if something is damaged, so that nobody knows which are needed, and all of them stay.

    Raises:
        ColdStoreError: they cannot be deleted.
    """
    try:
        needed = _needed_dictionaries(Tables(cold, progress, refuse))
        found = list(Tables(cold, silent, refuse).keys("dictionary"))
    except (ColdStoreError, ValueError):
        return None
    doomed = [key for key in found if key not in needed]
    cold.commit([("dictionary", key, None) for key in doomed])
    return len(doomed)


def _needed_dictionaries(tables: Tables) -> set[bytes]:
    needed = set()
    for table in ("record", "segment", "quarantine"):
        for _, value in tables.rows(table):
            try:
                needed.add(records.dictionary_of(value))
            except ValueError:
                # What is in quarantine is damaged anyway.
                if table != "quarantine":
                    raise
    return needed


def drop_quarantine(cold: ColdStore) -> int:
    """Delete the records that were found damaged; return how many. ColdStoreError if that cannot be done."""
    dropped = 0
    while rows := cold.scan("quarantine", b"", SLICE, values=False):
        cold.commit([("quarantine", key, None) for key, _ in rows])
        dropped += len(rows)
    return dropped


def unneeded_files(cold: ColdStore, files: Path, progress: Progress = silent) -> list[Path]:
    """Return the large files that no conversation names by their digest in hex, and those that were never finished.

    Raises:
        CorruptBlob, ColdStoreError: something cannot be read, so nobody knows what it names.
    """
    names = {path.name: path for path in files_in(files)}
    if not names:
        return []
    lookup, tables = Lookup(cold), Tables(cold, progress, refuse)
    for table in ("conversation", "record", "segment"):
        for key, value in tables.rows(table):
            if table != "conversation":
                value = lookup.unpack(key, value, f"{table} {key.hex()} in {cold.path}").content
            for found in _NAMED_FILE.findall(value):
                names.pop(found.decode(), None)
    return list(names.values())
