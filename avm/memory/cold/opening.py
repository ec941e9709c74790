"""Opening: the cold store that a home says it has, and what its files take. Each kind is imported only when chosen."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from avm.errors import ColdStoreError
from avm.memory.cold.home import sync_folder

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

    In SQLite the free pages are cut off, which takes no space. An LMDB environment is copied without them, so there has
    to be room for the copy.

    Raises:
        ColdStoreError: the disk refuses; the cold store is as it was.
    """
    try:
        (_compact_lmdb if home.kind == "lmdb" else _compact_sqlite)(home.cold_path)
    except OSError as error:
        raise ColdStoreError(
            f"{home.cold_path} cannot be made smaller: {error}. Nothing in it is lost.", str(home.cold_path)
        ) from error


def _compact_sqlite(path: Path) -> None:
    import sqlite3

    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            # It gives back a page in each step, and execute() takes but one.
            connection.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise OSError(str(error)) from error


def _compact_lmdb(path: Path) -> None:
    from avm.memory.cold.lmdb import LmdbColdStore

    copy = path.with_name(f"{path.name}.copy")
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    try:
        with closing(LmdbColdStore(path, read_only=True)) as store:
            store._environment.copy(str(copy), compact=True)
        with (copy / "data.mdb").open("rb") as file:
            os.fsync(file.fileno())
        os.replace(copy / "data.mdb", path / "data.mdb")
        sync_folder(path)
    except Exception as error:
        # The errors of the package lmdb have names only in our module of that name.
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(copy, ignore_errors=True)


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
