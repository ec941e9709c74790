"""Taking the WAL into the file beside the commits."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from avm.memory.cold.checkpoint import BYTES, BYTES_PER_CHANGE, Checkpoints
from avm.memory.cold.sqlite import CHECKPOINT_PAGES, PAGE_SIZE, SqliteColdStore

VALUE = 32 * 1024


def fill(cold: SqliteColdStore, first: int, commits: int) -> None:
    for number in range(first, first + commits):
        cold.commit([("record", number.to_bytes(32, "big"), os.urandom(VALUE))])


def test_the_wal_is_taken_into_the_file_while_commits_go_on(tmp_path: Path) -> None:
    path = tmp_path / "cold.sqlite"
    cold = SqliteColdStore(path, durable=False)
    fill(cold, 0, 1000)
    wal = Path(f"{path}-wal").stat().st_size
    # The copy lags behind by what is committed while it works; SQLite itself sees to it that this has a bound.
    assert wal < 2 * CHECKPOINT_PAGES * PAGE_SIZE
    assert path.stat().st_size > 1000 * VALUE - 2 * CHECKPOINT_PAGES * PAGE_SIZE
    cold.close()
    with closing(SqliteColdStore(path, read_only=True)) as again:
        assert len(again.scan("record", values=False)) == 1000
        assert len(again.read("record", [(999).to_bytes(32, "big")])[0] or b"") == VALUE


def test_closing_waits_for_a_checkpoint_and_leaves_no_wal(tmp_path: Path) -> None:
    path = tmp_path / "cold.sqlite"
    cold = SqliteColdStore(path)
    fill(cold, 0, BYTES // (VALUE + BYTES_PER_CHANGE) + 1)
    cold.close()
    cold.close()
    assert not Path(f"{path}-wal").exists()


def test_a_checkpoint_that_fails_harms_no_commit(tmp_path: Path) -> None:
    path = tmp_path / "cold.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE t (x)")

        def refuse() -> sqlite3.Connection:
            raise sqlite3.OperationalError("disk I/O error")

        checkpoints = Checkpoints(writer, refuse)
        for number in range(10):
            writer.execute("INSERT INTO t VALUES (?)", (number,))
            checkpoints.committed([("record", b"key", bytes(BYTES))])
            checkpoints.close()
        assert writer.execute("SELECT count(*) FROM t").fetchone() == (10,)
