"""Rivals: other ways to hold conversations, each as small as it can be and none of them crippled.

`PlainDicts` is what a program has that knows no better; `HashPerMessage` keeps each message once, by its digest, as
zstd makes it; `GroupedSqlite` makes commits durable, many in one transaction, and does nothing else.
"""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from histories import compact

Parsed = dict[str, Any]


class PlainDicts:
    """Each agent has what `json.loads` gave it: its own dicts, prompt and tools."""

    def __init__(self) -> None:
        self.agents: list[Parsed] = []

    def keep(self, line: bytes) -> None:
        """Hold the conversation of a line of JSON."""
        self.agents.append(json.loads(line))


class HashPerMessage:
    """Each message, prompt and list of tools once, compressed by itself; a conversation is a list of digests."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, bytes] = {}
        self.agents: list[list[bytes]] = []
        self._zstd = zstandard.ZstdCompressor(level=3)

    def keep(self, line: bytes) -> None:
        """Hold the conversation of a line of JSON."""
        found = json.loads(line)
        parts = (found["system"], found["tools"], *found["messages"])
        self.agents.append([self._put(compact(part)) for part in parts])

    def _put(self, content: bytes) -> bytes:
        digest = blake3(content).digest()
        if digest not in self.blobs:
            # Copied to fit: what compress() returns keeps its whole buffer.
            self.blobs[digest] = bytes(memoryview(self._zstd.compress(content)))
        return digest


class GroupedSqlite:
    """Rows in SQLite (WAL): one thread writes, and all that waits is one transaction.

    Args:
        synchronous: as the pragma: "NORMAL" or "FULL".
    """

    def __init__(self, path: Path, synchronous: str) -> None:
        self._path = path
        self._synchronous = synchronous
        self._waiting: queue.SimpleQueue[tuple[bytes, Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def put(self, row: bytes) -> Future[None]:
        """Write a row; the future is done when it is durable."""
        future: Future[None] = Future()
        self._waiting.put((row, future))
        return future

    def close(self) -> None:
        """Write what waits, and let go of the file."""
        self._waiting.put(None)
        self._thread.join()

    def _write(self) -> None:
        database = sqlite3.connect(self._path, isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(f"PRAGMA synchronous={self._synchronous}")
        database.execute("CREATE TABLE record (data BLOB)")
        while group := self._take():
            database.execute("BEGIN")
            database.executemany("INSERT INTO record VALUES (?)", [(row,) for row, _ in group])
            database.execute("COMMIT")
            for _, future in group:
                future.set_result(None)
        database.close()

    def _take(self) -> list[tuple[bytes, Future[None]]]:
        first = self._waiting.get()
        group = []
        while first is not None:
            group.append(first)
            try:
                first = self._waiting.get_nowait()
            except queue.Empty:
                return group
        if group:
            self._waiting.put(None)
        return group
