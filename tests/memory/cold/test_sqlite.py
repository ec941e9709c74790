"""The cold store in SQLite: its file, what stands in its way, and damage."""

import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from avm.errors import ColdStoreError
from avm.memory.cold.sqlite import APPLICATION_ID, PAGE_SIZE, WAL_BYTES, SqliteColdStore

COUNT = 400
NOBODY = 65534


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cold.sqlite"


def scratch(path, **options):
    return closing(SqliteColdStore(path, durable=False, **options))


def content(number):
    """Return a key and its value of 6 KB."""
    return random.Random(number).randbytes(32), random.Random(-number - 1).randbytes(6000)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The bytes of a file with some contents."""
    path = tmp_path_factory.mktemp("filled") / "cold.sqlite"
    with scratch(path) as store:
        store.commit([("record", *content(number)) for number in range(COUNT)])
    return path.read_bytes()


def read_what_is_left(store):
    """Return how many contents are read exactly, and how many are not there, refused or other bytes."""
    found = {"exact": 0, "missing": 0, "refused": 0, "other": 0}
    for number in range(COUNT):
        key, value = content(number)
        try:
            (read,) = store.read("record", [key])
        except ColdStoreError as error:
            assert "damaged" in str(error)
            found["refused"] += 1
        else:
            found["exact" if read == value else "missing" if read is None else "other"] += 1
    return found


def scan_to_the_end_or_the_damage(store):
    after = b""
    try:
        while pairs := store.scan("record", after, 50):
            after = pairs[-1][0]
    except ColdStoreError as error:
        assert "damaged" in str(error)


# The file.


def test_the_file_has_the_settings_that_can_be_chosen_only_once(path):
    SqliteColdStore(path).close()

    with closing(sqlite3.connect(path)) as plain:
        found = {
            name: plain.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "page_size", "auto_vacuum", "journal_mode")
        }
    assert found == {
        "application_id": APPLICATION_ID,
        "page_size": PAGE_SIZE,
        "auto_vacuum": 2,
        "journal_mode": "wal",
    }


def test_a_file_may_have_any_name(tmp_path):
    path = tmp_path / "what? 100%41 #1 größe.db"
    with scratch(path) as store:
        store.commit([("meta", b"k", b"v")])

    with scratch(path, read_only=True) as store:
        assert store.read("meta", [b"k"]) == [b"v"]
    assert path.is_file()
    assert all(file.name.startswith(path.name) for file in tmp_path.iterdir())


def test_a_file_whose_making_was_cut_off_is_made_to_the_end(path):
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("PRAGMA journal_mode = WAL")
    assert path.stat().st_size

    with scratch(path) as store:
        store.commit([("meta", b"k", b"v")])
        assert store.read("meta", [b"k"]) == [b"v"]


@pytest.mark.slow
def test_the_file_gives_space_back_when_much_is_deleted(path):
    with scratch(path) as store:
        for first in range(0, 2000, 200):
            store.commit([("record", *content(number)) for number in range(first, first + 200)])
    full = path.stat().st_size
    with scratch(path) as store:
        for first in range(0, 2000, 100):
            store.commit([("record", content(number)[0], None) for number in range(first, first + 100)])

    assert full > 10 << 20
    assert path.stat().st_size < 5 << 20


def test_free_space_is_kept_for_the_next_commits_while_it_is_little(path, filled):
    path.write_bytes(filled)
    with scratch(path) as store:
        store.commit([("record", content(number)[0], None) for number in range(COUNT)])

    assert path.stat().st_size == len(filled)


def test_the_wal_does_not_stay_as_large_as_the_largest_commit(path):
    with scratch(path) as store:
        store.commit([("record", b"%d" % number, bytes(1 << 20)) for number in range(20)])
        wal = Path(f"{path}-wal")
        grown = wal.stat().st_size
        store.commit([("meta", b"k", b"v")])

        assert grown > 20 << 20
        assert wal.stat().st_size <= WAL_BYTES


# What stands in its way.


def test_a_cap_is_named_by_the_error_that_it_causes(path):
    with scratch(path, max_bytes=100_000) as store:
        with pytest.raises(ColdStoreError, match="max_bytes=100,000"):
            store.commit([("record", b"k", bytes(200_000))])

        assert path.stat().st_size <= 100_000


def test_the_database_of_another_program_is_refused_and_left_as_it_is(path):
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("CREATE TABLE song (title TEXT)")
    before = path.read_bytes()

    for read_only in (False, True):
        with pytest.raises(ColdStoreError, match="another program's SQLite database") as caught:
            SqliteColdStore(path, read_only=read_only)
        assert caught.value.path == str(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path):
    path.write_text("Dear diary, " * 1000)

    for read_only in (False, True):
        with pytest.raises(ColdStoreError, match="is not an SQLite database"):
            SqliteColdStore(path, read_only=read_only)
    assert path.read_text() == "Dear diary, " * 1000


def test_a_file_with_nothing_in_it_is_not_opened_read_only(path):
    path.touch()

    with pytest.raises(ColdStoreError, match="is empty"):
        SqliteColdStore(path, read_only=True)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    for read_only in (False, True):
        with pytest.raises(ColdStoreError, match="it is a folder"):
            SqliteColdStore(tmp_path, read_only=read_only)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ColdStoreError, match="there is no folder .*nowhere"):
        SqliteColdStore(tmp_path / "nowhere" / "cold.sqlite")


@pytest.mark.slow
def test_a_file_that_another_process_writes_for_long_is_locked(path):
    with scratch(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ColdStoreError, match="locked by another process"):
            store.commit([("meta", b"k", b"v")])
        other.execute("ROLLBACK")

        store.commit([("meta", b"k", b"v")])
        assert store.read("meta", [b"k"]) == [b"v"]


@pytest.fixture
def shelf():
    """A folder that all may enter, also those who may not enter the folders of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextmanager
def protected(folder):
    """Let nobody write in a folder, also not root."""
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    try:
        if os.geteuid() == 0:
            try:
                os.seteuid(NOBODY)
            except OSError:
                pytest.skip("root may write everywhere, and cannot become another user here")
        if os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            pytest.skip("this user may write everywhere")
        yield
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        folder.chmod(0o755)


def test_a_folder_that_cannot_be_written_can_be_read(shelf):
    path = shelf / "cold.sqlite"
    with scratch(path) as store:
        store.commit([("meta", b"k", b"v")])

    with protected(shelf), scratch(path, read_only=True) as store:
        assert store.read("meta", [b"k"]) == [b"v"]
    assert [file.name for file in shelf.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_is_said_to_be_read_only(shelf):
    path = shelf / "cold.sqlite"
    SqliteColdStore(path).close()

    with protected(shelf), pytest.raises(ColdStoreError, match="is read-only"):
        SqliteColdStore(path)


LEAVE_A_WAL = """
import os, sys
from pathlib import Path
from avm.memory.cold.sqlite import SqliteColdStore
SqliteColdStore(Path(sys.argv[1])).commit([("meta", b"k", b"v")])
os._exit(0)
"""


@pytest.mark.slow
def test_commits_that_are_still_in_the_wal_are_never_silently_left_out(shelf):
    path = shelf / "cold.sqlite"
    subprocess.run([sys.executable, "-c", LEAVE_A_WAL, str(path)], check=True, cwd=Path(__file__).parents[3])
    Path(f"{path}-shm").unlink()

    with protected(shelf), pytest.raises(ColdStoreError, match="last commits are still in"):
        SqliteColdStore(path, read_only=True)
    with scratch(path, read_only=True) as store:
        assert store.read("meta", [b"k"]) == [b"v"]


# Damage.


def test_of_a_file_that_was_cut_short_the_rest_is_read(path, filled):
    path.write_bytes(filled[: len(filled) // 2])

    with pytest.raises(ColdStoreError, match="damaged.*avm store export HOME"):
        SqliteColdStore(path)
    with scratch(path, read_only=True) as store:
        found = read_what_is_left(store)
        scan_to_the_end_or_the_damage(store)

    assert found["exact"] > 0
    assert found["refused"] > 0
    assert found["missing"] == found["other"] == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_file_cut_anywhere_fails_with_one_kind_of_error(path, filled, seed):
    path.write_bytes(filled[: random.Random(seed).randrange(1, len(filled))])

    try:
        with scratch(path, read_only=True) as store:
            read_what_is_left(store)
            scan_to_the_end_or_the_damage(store)
    except ColdStoreError as error:
        assert error.path == str(path)


@pytest.mark.parametrize("where", ["anywhere", "heads of pages"])
@pytest.mark.parametrize("seed", range(10))
def test_a_file_scribbled_over_reads_right_or_refuses_or_does_not_match_its_digest(path, filled, seed, where):
    chance, damaged = random.Random(seed), bytearray(filled)
    for _ in range(200):
        if where == "anywhere":
            place = chance.randrange(PAGE_SIZE, len(filled))
        else:
            place = chance.randrange(1, len(filled) // PAGE_SIZE) * PAGE_SIZE + chance.randrange(40)
        damaged[place] = chance.randrange(256)
    path.write_bytes(damaged)

    try:
        with scratch(path) as store:
            found = read_what_is_left(store)
            scan_to_the_end_or_the_damage(store)
            store.commit([("record", content(number)[0], None) for number in range(0, COUNT, 3)])
    except ColdStoreError as error:
        assert error.path == str(path)
    else:
        assert sum(found.values()) == COUNT


@pytest.mark.parametrize("value, fault", [(7, "int"), (2.5, "float")])
def test_a_value_that_is_no_bytes_is_damage(path, value, fault):
    with scratch(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as plain:
            plain.execute("INSERT INTO record VALUES (?, ?)", (b"k", value))

        with pytest.raises(ColdStoreError, match=f"no bytes but {fault}"):
            store.read("record", [b"k"])
        with pytest.raises(ColdStoreError, match="damaged"):
            store.scan("record")
        assert store.scan("record", values=False) == [(b"k", b"")]


def test_a_value_that_has_become_a_text_is_left_to_its_digest(path):
    with scratch(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as plain:
            plain.execute("INSERT INTO record VALUES (?, CAST(x'ff00fe' AS TEXT))", (b"k",))

        assert store.read("record", [b"k", b"k"]) == [b"\xff\x00\xfe"] * 2
