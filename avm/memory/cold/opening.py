"""Opening: the cold store that a home says it has, and what its files take. Each kind is imported only when chosen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avm.memory.cold.coldstore import ColdStore
    from avm.memory.cold.home import Home


def open_cold(home: Home, *, durable: bool = True) -> ColdStore:
    """Open the cold store of a home.

    Raises:
        ColdStoreError: it cannot be opened, or its package is not installed.
    """
    if home.kind == "lmdb":
        from avm.memory.cold.lmdb import LmdbColdStore

        return LmdbColdStore(home.cold_path, durable=durable, read_only=home.read_only)
    from avm.memory.cold.sqlite import SqliteColdStore

    return SqliteColdStore(home.cold_path, durable=durable, read_only=home.read_only)


def compact(home: Home) -> None:
    """Give the disk what the cold store has free, while the home is ours and the cold store is not open.

    Raises:
        ColdStoreError: the disk refuses; the cold store is as it was.
    """
    if home.kind == "lmdb":
        from avm.memory.cold.lmdb import compact as give_back
    else:
        from avm.memory.cold.sqlite import compact as give_back
    give_back(home.cold_path)


def disk_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder and below it; those that vanish meanwhile are left out."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += disk_bytes(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:
        # A folder that cannot be looked at has no size we could tell.
        return total
    return total
