"""Ledger: what has to be compared as a whole, in a temporary file that is sorted on disk."""

from __future__ import annotations

import sqlite3


class Ledger:
    """Tables in a temporary file, which is gone when the ledger is closed; it takes 32 MB of memory at most.

    Raises:
        sqlite3.Error: there is no room for temporary files; from any method.
    """

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

    def ask(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Carry out a statement; the answer is gone through row by row."""
        return self._connection.execute(statement, values)

    def count(self, what: str) -> int:
        """Return how many rows there are of a table, or of a part: `what` is what stands behind FROM."""
        return int(self.ask(f"SELECT count(*) FROM {what}").fetchone()[0])

    def __enter__(self) -> Ledger:
        self._connection.execute("BEGIN")
        return self

    def __exit__(self, *failure: object) -> None:
        self._connection.close()
