"""A cold store in a dict, which can refuse and wait; one in front of a real disk; and what must hold of any of them."""

from __future__ import annotations

import shutil
import threading

from avm.errors import ColdStoreError
from avm.memory import Store
from avm.memory.cold import opening, records


class FakeCold:
    """Tables in a dict. It can refuse commits, as a full disk does, and hold them back.

    Attributes:
        refuses: tells of the changes of a commit whether it fails; a number fails the next so many, True all.
        groups: the changes of each commit that was made.
    """

    path = "fake disk"

    def __init__(self):
        self.tables = {}
        self.refuses = 0
        self.groups = []
        self.is_closed = False
        self._gate = threading.Event()
        self._gate.set()
        self._entered = threading.Event()

    def hold(self):
        """Have commits wait until `go`."""
        self._gate.clear()
        self._entered.clear()

    def wait_held(self):
        """Wait until a commit waits."""
        assert self._entered.wait(20)

    def go(self):
        """Let commits through again."""
        self._gate.set()

    def commit(self, changes):
        self._entered.set()
        self._gate.wait(20)
        if self._is_refused(changes):
            raise ColdStoreError("the disk is full.", self.path)
        for table, key, value in changes:
            rows = self.tables.setdefault(table, {})
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
        self.groups.append(list(changes))

    def read(self, table, keys):
        rows = self.tables.get(table, {})
        return [rows.get(key) for key in keys]

    def scan(self, table, after=b"", limit=1000, *, values=True):
        rows = dict(self.tables.get(table, {}))
        keys = sorted(key for key in rows if key > after)[:limit]
        return [(key, rows[key] if values else b"") for key in keys]

    def close(self):
        self.is_closed = True

    def _is_refused(self, changes):
        if callable(self.refuses):
            return self.refuses(changes)
        refused = bool(self.refuses)
        if refused and self.refuses is not True:
            self.refuses -= 1
        return refused

    def spoil(self, table, key, at=-1, flip=0x01):
        """Change one byte of a value."""
        value = bytearray(self.tables[table][key])
        value[at] ^= flip
        self.tables[table][key] = bytes(value)

    def rows(self, table):
        return self.tables.get(table, {})


class StoppedCold:
    """A real cold store that can be stopped between two commits, as a process is that is killed."""

    def __init__(self, cold):
        self.cold = cold
        self.path = cold.path
        self.lock = threading.Lock()
        self.is_dead = False
        self.read, self.scan, self.close = cold.read, cold.scan, cold.close

    def commit(self, changes):
        with self.lock:
            if self.is_dead:
                raise ColdStoreError("killed.", self.path)
            self.cold.commit(changes)

    def leave_a_copy(self, home, copy):
        """Copy the files as they are now, and let no commit be made any more."""
        with self.lock:
            self.is_dead = True
            shutil.copytree(home, copy)


def open_on(cold, home, monkeypatch, limit=None):
    """Open a store whose disk is `cold`."""
    monkeypatch.setattr(opening, "open_cold", lambda home, durable: cold)
    return Store.open(home, limit, durable=False)


def sweep_to_the_end(store):
    """Sweep all slices and return how many records were deleted."""
    archive = store.need_archive()
    deleted, after = 0, b""
    while after is not None:
        sweep = archive.sweep(after)
        sweep.future.result(20)
        deleted += sweep.deleted
        after = sweep.next
    return deleted


def settle(store):
    """Have the store take in all that was handed to its writer so far, also what failed."""
    archive = store.need_archive()
    # The writer goes on to the next group only when all who wait for this one have been told.
    archive.sweep(b"\xff" * 32).future.result(20)
    store.statistics()


def rows(cold, table):
    """Return all rows of a table."""
    found, after = {}, b""
    while pairs := cold.scan(table, after, 500):
        found.update(pairs)
        after = pairs[-1][0]
    return found


def faults(cold):
    """Return what is wrong on a disk on which no write is under way; an empty list if nothing is."""
    found = []
    content, edges, segments = rows(cold, "record"), set(rows(cold, "edge")), set(rows(cold, "segment"))
    dictionaries = {}

    def dictionary(key):
        if key not in dictionaries:
            from avm.memory.compression import Dictionary

            dictionaries[key] = Dictionary(cold.read("dictionary", [key])[0])
        return dictionaries[key]

    for key, value in content.items():
        records.decode_record(key, value, dictionary, cold.path)
    wanted_edges, wanted_segments = set(), set()
    for id, value in rows(cold, "conversation").items():
        manifest = records.decode_manifest(value, cold.path)
        found += [f"{manifest.name!r} misses {key[:4].hex()}" for key in manifest.targets() - content.keys()]
        wanted_edges |= {key + id for key in manifest.targets()}
        wanted_segments |= {records.segment_key(id, n) for n in range(manifest.segments)}
    found += [f"edge of {edge[:4].hex()} without a conversation" for edge in edges - wanted_edges]
    found += [f"no edge of {edge[:4].hex()}" for edge in wanted_edges - edges]
    found += [f"segment {key.hex()} without a conversation" for key in segments - wanted_segments]
    found += [f"no segment {key.hex()}" for key in wanted_segments - segments]
    return found


def orphans(cold):
    """Return the digests of records without an edge."""
    return set(rows(cold, "record")) - {edge[:32] for edge in rows(cold, "edge")}
