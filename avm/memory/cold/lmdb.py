"""LmdbColdStore: the cold store in an LMDB environment, for whoever reads much more than memory holds.

It reads four times as fast as SQLite and takes 1.2 times its space, of which it never gives any back to the disk. LMDB
maps its file into memory, and that has consequences: what was read lately counts in the resident size of the process,
and a bad sector, or somebody who cuts the file short while it is open, ends the process instead of failing one read.

A process can have the same folder open once only. One writer and many readers, also in other processes, do not wait for
each other.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from threading import Lock

from avm.errors import ColdStoreError
from avm.memory.cold.coldstore import DISK_FULL, RESCUE, TABLES, Change, damaged, not_smaller, not_writable
from avm.memory.cold.home import sync_folder

try:
    import lmdb
except ImportError as missing:
    raise ColdStoreError(
        "the package lmdb is not installed. Run `pip install 'avm-runtime[lmdb]'`, or keep the store in SQLite."
    ) from missing

MAP_SIZE = 1 << 40
"""Address space, not memory and not disk: the file is as large as what is in it. 1 TiB of the 128 TiB a process has."""

# Each read holds one for its duration; the table of them is 64 bytes a slot.
READER_SLOTS = 512

# Transactions kept for the next reads, so that a read makes none.
SPARE_TRANSACTIONS = 4

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


class LmdbColdStore:
    """A `ColdStore` in one folder, with a named database for each table.

    Args:
        path: the folder; it is made if it is not there, the folder it is in is not.
        durable: what has been committed survives a power failure. False for a scratch folder, which survives only the
            end of the process.
        read_only: change nothing; works beside a process that writes. Readers write in lock.mdb, unless the whole file
            system is read-only.
        map_size: the most that the file may take, in bytes.

    Raises:
        ColdStoreError: the folder cannot be opened, is damaged, or is not a cold store.
    """

    def __init__(
        self, path: Path, *, durable: bool = True, read_only: bool = False, map_size: int = MAP_SIZE
    ) -> None:
        self.path = str(path)
        self._map_size = map_size
        self._read_only = read_only
        self._file = path / "data.mdb"
        self._committing = Lock()
        self._durable = durable
        try:
            self._environment = self._open(read_only)
        except (lmdb.Error, OSError) as error:
            raise self._refusal(error) from error
        try:
            self._fill_gap()
            self._tables = self._open_tables()
        except BaseException as error:
            self._environment.close()
            if isinstance(error, (lmdb.Error, OSError)):
                raise self._refusal(error) from error
            raise

    def commit(self, changes: Sequence[Change]) -> None:
        """Make all changes, in their order, in one transaction; as `ColdStore.commit`.

        It waits for as long as another process writes.
        """
        if self._read_only:
            raise not_writable(self.path)
        try:
            with self._committing, self._environment.begin(write=True) as transaction:
                for table, key, value in changes:
                    if value is None:
                        transaction.delete(key, db=self._tables[table])
                    else:
                        transaction.put(key, value, db=self._tables[table])
        except (lmdb.Error, OSError) as error:
            raise self._refusal(error, [key for _, key, _ in changes]) from error
        # For those who open it to read only. What was committed stands, also if this fails.
        with suppress(lmdb.Error, OSError):
            self._fill_gap()

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of keys, in their order; None for those that are not there; as `ColdStore.read`.

        5 us for a key of 6 KB in the page cache, 3 us for each of several.
        """
        database = self._tables[table]
        try:
            with self._environment.begin() as transaction:
                get = transaction.get
                return [get(key, None, database) for key in keys]
        except (lmdb.Error, OSError) as error:
            raise self._refusal(error, keys) from error

    def scan(
        self, table: str, after: bytes = b"", limit: int = 1000, *, values: bool = True
    ) -> list[tuple[bytes, bytes]]:
        """Return up to `limit` pairs with the least keys greater than `after`, in their order; as `ColdStore.scan`."""
        database = self._tables[table]
        try:
            with self._environment.begin() as transaction, transaction.cursor(database) as cursor:
                found = cursor.set_range(after) if after else cursor.first()
                if found and cursor.key() == after:
                    found = cursor.next()
                if not found:
                    return []
                if values:
                    pairs = list(islice(cursor.iternext(), limit))
                else:
                    pairs = [(key, b"") for key in islice(cursor.iternext(values=False), limit)]
        except (lmdb.Error, OSError) as error:
            raise self._refusal(error, [after]) from error
        # Whoever scans goes on after the last key: a damaged page must not lead it round in a ring.
        last = after
        for key, _ in pairs:
            if key <= last:
                raise damaged(
                    self.path, f"table {table!r} is not in the order of its keys after {last.hex()!r}"
                )
            last = key
        return pairs

    def close(self) -> None:
        """Let go of the files. May be called again."""
        with self._committing:
            self._environment.close()

    # Opening.

    def _open(self, read_only: bool) -> lmdb.Environment:
        return lmdb.open(
            self.path,
            map_size=self._map_size,
            readonly=read_only,
            create=not read_only,
            sync=self._durable,
            metasync=self._durable,
            readahead=False,  # reads are of single values, anywhere
            max_readers=READER_SLOTS,
            max_dbs=len(TABLES),
            max_spare_txns=SPARE_TRANSACTIONS,
        )

    def _open_tables(self) -> dict[str, lmdb._Database]:
        environment = self._environment
        # Readers that were killed would hold the space of all that was deleted since.
        environment.reader_check()
        with environment.begin(write=not self._read_only) as transaction:
            names = {
                bytes(key).decode(errors="replace") for key in transaction.cursor().iternext(values=False)
            }
            if names and names.isdisjoint(TABLES):
                raise ColdStoreError(
                    f"{self.path} is another program's LMDB environment (with {', '.join(sorted(names)[:5])}), not a "
                    "cold store. Name another folder.",
                    self.path,
                )
            if self._read_only and not names:
                raise ColdStoreError(
                    f"{self.path} is empty. Open it to write first, or name another folder.", self.path
                )
            if not self._read_only:
                return {table: environment.open_db(table.encode(), txn=transaction) for table in TABLES}
        # Opened in the transaction, they would be closed with it: the binding does not commit one that only reads.
        return {table: environment.open_db(table.encode(), create=False) for table in TABLES}

    # To read a page that the file no longer has is not an error but the end of the process (SIGBUS). So a file that was
    # cut short is made as long as it should be, with zeros, in which LMDB finds no pages. A sound file can be some
    # pages short as well, where LMDB freed its last pages before it wrote them: after 2 of 3000 random commits.

    def _fill_gap(self) -> None:
        if not self._gap():
            return
        if not self._read_only:
            os.truncate(self._file, self._expected())
            return
        # A writer may have the folder open: fill the gap under its lock.
        self._environment.close()
        with self._open(read_only=False) as environment:
            self._environment = environment
            with environment.begin(write=True):
                if self._gap():
                    os.truncate(self._file, self._expected())
        self._environment = self._open(read_only=True)

    def _gap(self) -> bool:
        # What is expected first: another process may be making the file longer.
        return self._expected() > self._file.stat().st_size

    def _expected(self) -> int:
        """Return how many bytes the file should have."""
        return (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]

    # Errors.

    def _refusal(self, error: lmdb.Error | OSError, keys: Sequence[bytes] = ()) -> ColdStoreError:
        """Return what to tell the user of an error: what was found, and what to do."""
        code = error.code if isinstance(error, lmdb.Error) else error.errno
        match error:
            case lmdb.MapFullError():
                text = (
                    f"cannot grow: it has reached map_size={self._map_size:,}. Nothing that was committed is lost. "
                    "Raise map_size or delete something, and commit again"
                )
            case lmdb.BadValsizeError():
                return self._bad_key(keys)
            case lmdb.InvalidError() | lmdb.VersionMismatchError() | lmdb.IncompatibleError():
                text = f"is not an LMDB environment: {error}. Name another folder; if it was a cold store, {RESCUE}"
            case lmdb.CorruptedError() | lmdb.PageNotFoundError() | lmdb.NotFoundError() | lmdb.PanicError():
                return damaged(self.path, str(error))
            case lmdb.ReadersFullError():
                text = f"is read by {READER_SLOTS} others at the same time. Let some of them end"
            case _ if code == errno.ENOSPC:
                text = DISK_FULL
            case _ if code == errno.EIO:
                # LMDB also says so when a write came to an end midway.
                text = (
                    f"cannot be read or written: {error}. The disk is full, or is failing. Nothing that was committed "
                    "is lost. Free space and commit again; if it stays so, look after the disk"
                )
            case _ if code in _READ_ONLY:
                text = (
                    "is read-only. Make the folder and the files in it writable (lock.mdb to read, too), or copy the "
                    "folder and open the copy"
                )
            case _:
                text = f"cannot be opened, read or written: {str(error).removesuffix('.')}"
        return ColdStoreError(f"{self.path} {text}.", self.path)

    def _bad_key(self, keys: Sequence[bytes]) -> ColdStoreError:
        most = self._environment.max_key_size()
        key = next((key for key in keys if not 0 < len(key) <= most), b"")
        return ColdStoreError(
            f"{self.path} cannot have the key {key[:16].hex()}... of {len(key)} bytes: LMDB takes 1 to {most} bytes.",
            self.path,
        )


def compact(path: Path) -> None:
    """Give the disk what a cold store that is not open has free: it is copied without that, so the copy needs room.

    Raises:
        ColdStoreError: the disk refuses, or it cannot be opened; the cold store is as it was.
    """
    copy = path.with_name(f"{path.name}.copy")
    shutil.rmtree(copy, ignore_errors=True)
    try:
        copy.mkdir()
        with closing(LmdbColdStore(path, read_only=True)) as store:
            store._environment.copy(str(copy), compact=True)
        with (copy / "data.mdb").open("rb") as file:
            os.fsync(file.fileno())
        os.replace(copy / "data.mdb", path / "data.mdb")
        sync_folder(path)
    except (lmdb.Error, OSError) as error:
        raise not_smaller(str(path), error) from error
    finally:
        shutil.rmtree(copy, ignore_errors=True)
