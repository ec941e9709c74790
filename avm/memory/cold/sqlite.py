"""SqliteColdStore: the cold store in one SQLite file. It needs nothing but Python, and is the default.

One connection commits and another one reads, each under a lock of its own: in WAL mode neither waits for the other, and
other processes may read at the same time. The file is never mapped into memory. That would halve the time of a read,
but a bad sector, or a file that somebody cuts short, would then end the process, instead of failing one read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock

from avm.errors import ColdStoreError
from avm.memory.cold.checkpoint import Checkpoints
from avm.memory.cold.coldstore import DISK_FULL, RESCUE, TABLES, Change, damaged, not_smaller, not_writable

APPLICATION_ID = 0x41564D43
"""`AVMC`, in the header of each file of ours."""

# Measured with 20,000 values of 6 KB: larger pages (8192, 16384) read and commit no faster, and the file is 1.26 times
# as large as its content instead of 1.14 times.
PAGE_SIZE = 4096

# What `Checkpoints` does each 4 MB, SQLite does itself where that lags behind, in a commit. A WAL that grew beyond, for
# one large commit or a slow reader, is cut to 8 MB.
CHECKPOINT_PAGES = 4096
WAL_BYTES = 8 << 20

# Free pages up to 4 MB are kept for the next commits. Of more, a commit gives back about what it deletes (a value of
# 6 KB is 1.6 pages), for 30 us a page beside 130 us for each deletion; at most 2 MB, 15 ms.
SPARE_PAGES = 1024
PAGES_PER_DELETE = 2
MOST_PAGES = 512

# Another process holds the lock for the length of a commit, or while it repairs after a crash.
BUSY_SECONDS = 2.0

_CREATE = [
    f"CREATE TABLE IF NOT EXISTS {table} (key BLOB NOT NULL PRIMARY KEY, value BLOB NOT NULL)"
    for table in TABLES
]
_PUT = {
    table: f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    for table in TABLES
}
_DELETE = {table: f"DELETE FROM {table} WHERE key = ?" for table in TABLES}
_READ = {table: f"SELECT value FROM {table} WHERE key = ?" for table in TABLES}
_SCAN = {table: f"SELECT key, value FROM {table} WHERE key > ? ORDER BY key LIMIT ?" for table in TABLES}
# Without values the index alone answers.
_SCAN_KEYS = {table: f"SELECT key, x'' FROM {table} WHERE key > ? ORDER BY key LIMIT ?" for table in TABLES}


class SqliteColdStore:
    """A `ColdStore` in one SQLite file, with a -wal and a -shm file beside it while it is open.

    Args:
        path: the file; it is made if it is not there, its folder is not. One that was cut short opens read-only.
        durable: what has been committed survives a power failure. False for a scratch file, which survives only the end
            of the process.
        read_only: change nothing; works beside a process that writes, and in a folder that cannot be written.
        max_bytes: the most that the file may take, the WAL not counted (at most 8 MB more, but for single commits that
            are larger); None for as much as the disk has.

    Raises:
        ColdStoreError: the file cannot be opened, is damaged, or is not a cold store.
    """

    def __init__(
        self, path: Path, *, durable: bool = True, read_only: bool = False, max_bytes: int | None = None
    ) -> None:
        self.path = str(path)
        self._max_bytes = max_bytes
        self._committing = Lock()
        self._reading = Lock()
        self._writer: sqlite3.Connection | None = None
        try:
            if not read_only:
                writer = self._writer = self._open_to_write(durable)
                self._checkpoints = Checkpoints(writer, lambda: self._connect_to_write(durable))
            self._reader = self._open_to_read()
        except BaseException as error:
            if self._writer is not None:
                self._writer.close()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise self._refusal(error) from error
            raise

    def commit(self, changes: Sequence[Change]) -> None:
        """Make all changes, in their order, in one transaction; as `ColdStore.commit`.

        It waits up to `BUSY_SECONDS` for another process that writes.
        """
        if self._writer is None:
            raise not_writable(self.path)
        execute = self._writer.execute
        deleted = 0
        with self._committing:
            try:
                execute("BEGIN IMMEDIATE")
                for table, key, value in changes:
                    if value is None:
                        deleted += execute(_DELETE[table], (key,)).rowcount
                    else:
                        execute(_PUT[table], (key, value))
                self._give_back(self._writer, deleted)
                execute("COMMIT")
                self._checkpoints.committed(changes)
            except BaseException as error:
                # SQLite may have rolled back by itself, as when the disk is full. A rollback that fails has ended the
                # transaction too, and the first error says more.
                with suppress(sqlite3.Error):
                    if self._writer.in_transaction:
                        execute("ROLLBACK")
                if isinstance(error, (sqlite3.Error, OSError, OverflowError)):
                    raise self._refusal(error) from error
                raise

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of keys, in their order; None for those that are not there; as `ColdStore.read`.

        20 us for a key of 6 KB in the page cache, 15 us for each of several.
        """
        statement = _READ[table]
        execute = self._reader.execute
        with self._reading:
            try:
                if len(keys) == 1:
                    return [self._value(execute(statement, (keys[0],)).fetchone())]
                # One by one under one snapshot: as fast as `key IN (...)` up to five keys, with no more statements.
                execute("BEGIN")
                try:
                    return [self._value(execute(statement, (key,)).fetchone()) for key in keys]
                finally:
                    if self._reader.in_transaction:
                        execute("COMMIT")
            except (sqlite3.Error, OSError) as error:
                raise self._refusal(error) from error

    def scan(
        self, table: str, after: bytes = b"", limit: int = 1000, *, values: bool = True
    ) -> list[tuple[bytes, bytes]]:
        """Return up to `limit` pairs with the least keys greater than `after`, in their order; as `ColdStore.scan`."""
        statement = (_SCAN if values else _SCAN_KEYS)[table]
        with self._reading:
            try:
                pairs = self._reader.execute(statement, (after, limit)).fetchall()
            except (sqlite3.Error, OSError) as error:
                raise self._refusal(error) from error
        # Whoever scans goes on after the last key: a damaged index must not lead it round in a ring.
        last = after
        for key, value in pairs:
            if type(key) is not bytes or type(value) is not bytes or key <= last:
                raise damaged(
                    self.path, f"table {table!r} is not in the order of its keys after {last.hex()!r}"
                )
            last = key
        return pairs

    def close(self) -> None:
        """Let go of the files; the last one to close a file takes its WAL into it. May be called again."""
        with self._committing, self._reading:
            self._reader.close()
            if self._writer is not None:
                self._checkpoints.close()
                self._writer.close()

    # Opening.

    def _open_to_write(self, durable: bool) -> sqlite3.Connection:
        connection = self._connect_to_write(durable)
        try:
            execute = connection.execute
            fresh = not self._is_ours(connection)
            if fresh:
                # Both must be said before there is a first page.
                execute(f"PRAGMA page_size = {PAGE_SIZE}")
                execute("PRAGMA auto_vacuum = INCREMENTAL")
            if (mode := execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
                raise ColdStoreError(
                    f"{self.path}: the file system cannot do WAL mode (it stays in mode {mode!r}), as network drives "
                    "cannot. Put it on a local disk.",
                    self.path,
                )
            execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
            if self._max_bytes is not None:
                execute(f"PRAGMA max_page_count = {max(1, self._max_bytes // PAGE_SIZE)}")
            execute("BEGIN IMMEDIATE")
            for statement in _CREATE:
                execute(statement)
            if fresh:
                execute(f"PRAGMA application_id = {APPLICATION_ID}")
            execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_to_read(self) -> sqlite3.Connection:
        try:
            return self._open_as("mode=ro")
        except sqlite3.Error as error:
            # No -shm file can be made beside it. So nobody writes there, and it can be read as it is.
            if _code(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN) or self._obstacle():
                raise
            wal = Path(f"{self.path}-wal")
            if wal.exists() and wal.stat().st_size:
                raise ColdStoreError(
                    f"{self.path}: its last commits are still in {wal.name}, which can be read only in a folder that "
                    "can be written. Copy both files to one and open the copy.",
                    self.path,
                ) from error
        return self._open_as("mode=ro&immutable=1")

    def _open_as(self, query: str) -> sqlite3.Connection:
        connection = self._connect(query)
        try:
            # Damage should fail the reads that meet it, and no others: a value that has become a text is not decoded,
            # as it will not match its digest anyway, and a file that was cut short is not refused as a whole (that is
            # what the pragma is for here; this connection cannot write).
            connection.text_factory = bytes
            connection.execute("PRAGMA writable_schema = ON")
            if not self._is_ours(connection):
                raise ColdStoreError(
                    f"{self.path} is empty. Open it to write first, or name another file.", self.path
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_to_write(self, durable: bool) -> sqlite3.Connection:
        connection = self._connect("mode=rwc")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        return connection

    def _connect(self, query: str) -> sqlite3.Connection:
        address = f"{Path(self.path).absolute().as_uri()}?{query}"
        connection = sqlite3.connect(
            address, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True
        )
        # Finds damage where it is read, before it is believed; costs nothing that can be measured.
        connection.execute("PRAGMA cell_size_check = ON")
        return connection

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """Return whether it is a cold store; False if there is nothing in the file."""
        found = connection.execute("PRAGMA application_id").fetchone()[0]
        if found == APPLICATION_ID:
            return True
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if found or tables:
            raise ColdStoreError(
                f"{self.path} is another program's SQLite database (application_id {found:#x}, {tables} tables and "
                f"indexes), not a cold store ({APPLICATION_ID:#x}). Name another file.",
                self.path,
            )
        return False

    # Committing and reading.

    def _give_back(self, writer: sqlite3.Connection, deleted: int) -> None:
        """Make the file smaller, in the transaction of a commit that deletes."""
        if not deleted:
            return
        free = writer.execute("PRAGMA freelist_count").fetchone()[0]
        for _ in range(min(free - SPARE_PAGES, deleted * PAGES_PER_DELETE, MOST_PAGES)):
            # Python takes one step of a statement that has no columns, and this one gives back a page in each step.
            writer.execute("PRAGMA incremental_vacuum(1)")

    def _value(self, row: tuple[bytes] | None) -> bytes | None:
        if row is None:
            return None
        value = row[0]
        if type(value) is not bytes:
            raise damaged(self.path, f"a value is no bytes but {type(value).__name__}")
        return value

    # Errors.

    def _refusal(self, error: Exception) -> ColdStoreError:
        """Return what to tell the user of an error: what was found, and what to do."""
        match _code(error):
            case sqlite3.SQLITE_FULL if self._max_bytes is not None:
                text = (
                    f"cannot grow: it has reached max_bytes={self._max_bytes:,}, or the disk is full. Nothing that was "
                    "committed is lost. Raise max_bytes, delete something or free space on the disk, and commit again"
                )
            case sqlite3.SQLITE_FULL:
                text = DISK_FULL
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                text = "is read-only. Make it and its folder writable, or open it with read_only=True"
            case sqlite3.SQLITE_CORRUPT:
                return damaged(self.path, str(error))
            case sqlite3.SQLITE_NOTADB:
                text = f"is not an SQLite database. Name another file; if it was a cold store, {RESCUE}"
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                text = (
                    "is locked by another process that writes. End that one, or open it with read_only=True"
                )
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_IOERR if obstacle := self._obstacle():
                text = f"cannot be opened: {obstacle}"
            case sqlite3.SQLITE_CANTOPEN:
                text = "cannot be opened: this user may not"
            case sqlite3.SQLITE_IOERR:
                text = f"cannot be read or written: {error}. Look after the disk, then open it again"
            case _:
                text = f"is refused by SQLite: {str(error).removesuffix('.')}"
        return ColdStoreError(f"{self.path} {text}.", self.path)

    def _obstacle(self) -> str:
        """Return what is in the place of the file; empty if it is one."""
        path = Path(self.path)
        if path.is_dir():
            return "it is a folder, not a file"
        if not path.parent.is_dir():
            return f"there is no folder {path.parent}"
        return "" if path.exists() else "there is no such file"


def compact(path: Path) -> None:
    """Give the disk the free pages of a cold store that is not open; they are cut off, which takes no space.

    Raises:
        ColdStoreError: the disk refuses; the cold store is as it was.
    """
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            # It gives back a page in each step, and execute() takes but one.
            connection.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")
    except (sqlite3.Error, OSError) as error:
        raise not_smaller(str(path), error) from error


def _code(error: Exception) -> int:
    """Return the primary code of an error of SQLite; 0 if it comes from elsewhere."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
