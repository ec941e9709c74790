"""What every cold store promises: ordered tables, whole commits or none, and that what was committed stays."""

import importlib.util
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from avm.errors import ColdStoreError
from avm.memory.cold.coldstore import TABLES

ROOT = Path(__file__).resolve().parents[3]
CAP = 1 << 20
NO_LMDB = importlib.util.find_spec("lmdb") is None
NEEDS_LMDB = pytest.mark.skipif(NO_LMDB, reason="the package lmdb is not installed")


def store_class(kind):
    if kind == "sqlite":
        from avm.memory.cold.sqlite import SqliteColdStore

        return SqliteColdStore
    from avm.memory.cold.lmdb import LmdbColdStore

    return LmdbColdStore


def open_capped(kind, path):
    """Open a store whose file has room for a megabyte."""
    cap = {"max_bytes": CAP} if kind == "sqlite" else {"map_size": CAP}
    return store_class(kind)(path, durable=False, **cap)


@pytest.fixture(params=["sqlite", pytest.param("lmdb", marks=NEEDS_LMDB)])
def kind(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cold"


@pytest.fixture
def store(kind, path):
    store = store_class(kind)(path, durable=False)
    yield store
    store.close()


@contextmanager
def small_files():
    """Let no file of this process grow beyond 200 KB, which is the nearest to a full disk that needs no mount."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def child(script, kind, path, *arguments):
    """Start a process that has a store open: `store`, and the words it was given, `words`."""
    read_only = "read_only=True" if "read_only" in arguments else "durable='durable' in words"
    begin = f"""
import sys
from pathlib import Path
from avm.errors import ColdStoreError
kind, path, *words = sys.argv[1:]
if kind == "sqlite":
    from avm.memory.cold.sqlite import SqliteColdStore as Store
else:
    from avm.memory.cold.lmdb import LmdbColdStore as Store
store = Store(Path(path), {read_only})
"""
    return subprocess.Popen(
        [sys.executable, "-c", begin + script, kind, str(path), *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


# Commits and reads.


def test_what_is_committed_is_read_in_the_order_asked_for(store):
    store.commit([("record", b"a", b"1"), ("record", b"b", b""), ("meta", b"a", b"other")])

    assert store.read("record", [b"b", b"missing", b"a", b"a"]) == [b"", None, b"1", b"1"]
    assert store.read("meta", [b"a"]) == [b"other"]
    assert store.read("record", []) == []


def test_the_changes_of_a_commit_happen_in_their_order(store):
    store.commit(
        [("edge", b"k", b"first"), ("edge", b"k", b"last"), ("edge", b"gone", b""), ("edge", b"gone", None)]
    )
    store.commit([("edge", b"never there", None)])

    assert store.scan("edge") == [(b"k", b"last")]


def test_an_empty_commit_changes_nothing(store):
    store.commit([])

    assert all(store.scan(table) == [] for table in TABLES)


def test_a_scan_goes_through_the_keys_as_bytes_are_ordered(store):
    keys = [b"\x00", b"\x00\x00", b"a", b"a\xff", b"b", b"\xff" * 500]
    store.commit([("segment", key, key[:3]) for key in reversed(keys)])

    assert store.scan("segment") == [(key, key[:3]) for key in keys]
    assert store.scan("segment", b"a", 2) == [(b"a\xff", b"a\xff"), (b"b", b"b")]
    assert store.scan("segment", b"aa", 1, values=False) == [(b"a\xff", b"")]
    assert store.scan("segment", keys[-1]) == []


def test_keys_of_500_bytes_and_values_of_megabytes_are_kept(store):
    key, value = b"k" * 500, bytes(range(256)) * 20_000

    store.commit([("record", key, value)])

    assert store.read("record", [key]) == [value]


def test_what_was_committed_is_there_when_the_store_is_opened_again(kind, path):
    for number in range(3):
        store = store_class(kind)(path, durable=number == 1)
        store.commit([("meta", b"%d" % number, b"x")])
        store.close()

    store = store_class(kind)(path, read_only=True)
    assert [key for key, _ in store.scan("meta")] == [b"0", b"1", b"2"]
    store.close()


def test_a_store_that_is_closed_refuses_and_may_be_closed_again(store):
    store.close()
    store.close()

    with pytest.raises(ColdStoreError):
        store.read("record", [b"a"])
    with pytest.raises(ColdStoreError):
        store.scan("record")
    with pytest.raises(ColdStoreError):
        store.commit([("record", b"a", b"")])


def test_a_store_opened_read_only_takes_no_changes(kind, path):
    store_class(kind)(path).close()
    store = store_class(kind)(path, read_only=True)

    with pytest.raises(ColdStoreError, match="read_only=True"):
        store.commit([("record", b"a", b"")])

    assert store.read("record", [b"a"]) == [None]
    store.close()


def test_what_is_not_there_is_not_opened_read_only(kind, path):
    with pytest.raises(ColdStoreError, match="no such|No such") as caught:
        store_class(kind)(path, read_only=True)

    assert caught.value.path == str(path)
    assert not path.exists()


# Commits that fail.


def test_of_a_commit_that_fails_nothing_has_happened_and_the_next_one_works(store):
    store.commit([("record", b"kept", b"1")])

    with pytest.raises(KeyError):
        store.commit([("record", b"kept", None), ("record", b"half", b"2"), ("no such table", b"k", b"")])
    store.commit([("record", b"next", b"3")])

    assert store.scan("record") == [(b"kept", b"1"), (b"next", b"3")]


def test_a_full_store_says_so_and_works_again_when_something_is_deleted(kind, path):
    store = open_capped(kind, path)
    count = 0
    with pytest.raises(ColdStoreError, match="Nothing that was committed is lost") as caught:
        for count in range(1000):
            store.commit([("record", b"%03d" % count, bytes(10_000))])
    assert caught.value.path == str(path)
    assert [key for key, _ in store.scan("record", values=False)] == [b"%03d" % n for n in range(count)]

    store.commit([("record", b"%03d" % number, None) for number in range(20)])
    store.commit([("meta", b"k", b"v")])
    store.commit([("record", b"after", bytes(100_000))])

    assert store.read("record", [b"000", b"after"]) == [None, bytes(100_000)]
    store.close()


def test_a_write_that_the_system_refuses_fails_the_commit_and_not_the_store(store):
    store.commit([("record", b"kept", b"1")])

    with small_files(), pytest.raises(ColdStoreError):
        store.commit([("record", b"half", b"2"), ("record", b"large", bytes(1_000_000))])
    assert store.scan("record") == [(b"kept", b"1")]
    store.commit([("record", b"large", bytes(1_000_000))])

    assert store.read("record", [b"half", b"large"]) == [None, bytes(1_000_000)]


# Others at the same time.


def test_a_reader_in_another_thread_sees_whole_commits_and_never_an_older_one(store):
    store.commit([("meta", b"a", b"000"), ("meta", b"b", b"000")])
    seen = []

    def read():
        while not seen or seen[-1] != (b"199", b"199"):
            seen.append(tuple(store.read("meta", [b"a", b"b"])))

    reader = Thread(target=read)
    reader.start()
    for number in range(200):
        value = b"%03d" % number
        store.commit([("meta", b"a", value), ("meta", b"b", value)])
    reader.join()

    assert all(a == b for a, b in seen)
    assert seen == sorted(seen)


READ_WHEN_TOLD = """
for line in sys.stdin:
    print(store.read("meta", [b"k"])[0].decode(), flush=True)
store.close()
"""


@pytest.mark.slow
def test_another_process_reads_what_is_committed_while_it_has_the_store_open(kind, store, path):
    store.commit([("meta", b"k", b"begin")])
    with child(READ_WHEN_TOLD, kind, path, "read_only") as reader:
        for number in range(50):
            store.commit([("meta", b"k", b"%d" % number), ("record", b"%d" % number, bytes(20_000))])
            print("go", file=reader.stdin, flush=True)
            assert reader.stdout.readline() == f"{number}\n"
        reader.stdin.close()

    assert reader.returncode == 0


COMMIT_FOREVER = """
number = int(words[0])
while True:
    changes = [("record", b"%08d-%d" % (number, part), b"%d" % part * 9000) for part in range(5)]
    store.commit([*changes, ("record", b"%08d-0" % (number - 7), None)])
    print(number, flush=True)
    number += 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("durable", ["durable", "scratch"])
def test_each_commit_that_returned_survives_a_kill_and_none_is_there_by_half(kind, path, durable):
    following = 100
    for rounds in range(3):
        with child(COMMIT_FOREVER, kind, path, str(following), durable) as writer:
            for _ in range(30 + 17 * rounds):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
            # What the kill cut off was not acknowledged.
            told = [int(line) for line in writer.stdout if line.endswith("\n")]
        acknowledged = told[-1] if told else following + 29 + 17 * rounds

        store = store_class(kind)(path)
        pairs = dict(iter_all(store))
        parts = {
            number: [b"%08d-%d" % (number, part) in pairs for part in range(1, 5)]
            for number in numbers(pairs)
        }
        store.close()

        assert set(range(100, acknowledged + 1)) <= set(parts)
        assert all(all(there) for there in parts.values())
        assert all(value == key[-1:] * 9000 for key, value in pairs.items())
        assert not any(b"%08d-0" % number in pairs for number in range(100, max(parts) - 6))
        following = max(parts) + 1


def iter_all(store):
    after = b""
    while pairs := store.scan("record", after, 100):
        yield from pairs
        after = pairs[-1][0]


def numbers(pairs):
    return {int(key.split(b"-")[0]) for key in pairs}


# The law: a cold store is a dict of dicts.

tables = st.sampled_from(TABLES[:3])
keys = st.sampled_from([b"a", b"a\x00", b"ab", b"b", b"\x00", b"\xff", b"\xff" * 500])
changes = st.tuples(tables, keys, st.none() | st.binary(max_size=40) | st.just(b"page " * 2000))


class ColdStoreModel(RuleBasedStateMachine):
    """A cold store beside the dicts that it should be like."""

    kind = "sqlite"

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.model = {table: {} for table in TABLES}
        self.open()

    def open(self):
        self.store = open_capped(self.kind, Path(self.folder.name) / "cold")

    @rule(changes=st.lists(changes, max_size=6))
    def commit(self, changes):
        self.store.commit(changes)
        for table, key, value in changes:
            if value is None:
                self.model[table].pop(key, None)
            else:
                self.model[table][key] = value

    @rule(changes=st.lists(changes, max_size=3))
    def commit_too_much(self, changes):
        with pytest.raises(ColdStoreError):
            self.store.commit([*changes, ("record", b"large", bytes(CAP))])

    @rule(table=tables, keys=st.lists(keys, max_size=4))
    def read(self, table, keys):
        assert self.store.read(table, keys) == [self.model[table].get(key) for key in keys]

    @rule(table=tables, after=st.just(b"") | keys, limit=st.integers(1, 9), values=st.booleans())
    def scan(self, table, after, limit, values):
        expected = sorted(pair for pair in self.model[table].items() if pair[0] > after)[:limit]
        if not values:
            expected = [(key, b"") for key, _ in expected]

        assert self.store.scan(table, after, limit, values=values) == expected

    @rule()
    def reopen(self):
        self.store.close()
        self.open()

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


class LmdbModel(ColdStoreModel):
    kind = "lmdb"


TestSqlite = pytest.mark.slow(ColdStoreModel.TestCase)
TestLmdb = pytest.mark.slow(NEEDS_LMDB(LmdbModel.TestCase))
