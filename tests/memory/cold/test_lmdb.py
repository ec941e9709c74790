"""The cold store in LMDB: its folder, what stands in its way, and damage.

Damage is met in another process, as an LMDB that believes a damaged page ends its process.
"""

import json
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from avm.errors import ColdStoreError

lmdb = pytest.importorskip("lmdb", reason="the package lmdb is not installed")

from avm.memory.cold.lmdb import MAP_SIZE, LmdbColdStore  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
COUNT = 400
PAGE_SIZE = 4096


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cold"


def scratch(path, **options):
    return closing(LmdbColdStore(path, durable=False, **options))


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


# The folder.


def test_the_map_takes_no_more_of_the_disk_than_what_is_in_it(path):
    with scratch(path) as store:
        store.commit([("meta", b"k", b"v")])

        assert sorted(file.name for file in path.iterdir()) == ["data.mdb", "lock.mdb"]
        assert (path / "data.mdb").stat().st_size < 200_000 < MAP_SIZE


def test_the_same_folder_is_not_opened_twice_in_a_process(path):
    with scratch(path), pytest.raises(ColdStoreError, match="already open"):
        LmdbColdStore(path)


def test_space_of_what_was_deleted_is_used_again(path):
    with scratch(path) as store:
        for _ in range(20):
            store.commit([("record", b"%d" % number, bytes(6000)) for number in range(50)])
            store.commit([("record", b"%d" % number, None) for number in range(50)])

        assert (path / "data.mdb").stat().st_size < 5 * 50 * 8192


# What stands in its way.


def test_a_full_map_is_named_by_the_error_that_it_causes(path):
    with scratch(path, map_size=1 << 20) as store, pytest.raises(ColdStoreError, match="map_size=1,048,576"):
        store.commit([("record", b"k", bytes(2 << 20))])


@pytest.mark.parametrize("key", [b"\xab" * 512, b""])
def test_a_key_that_lmdb_cannot_have_is_named(path, key):
    named = f"{key[:16].hex()}... of {len(key)} bytes.*1 to 511"
    with scratch(path) as store:
        with pytest.raises(ColdStoreError, match=named):
            store.commit([("meta", b"k", b"v"), ("record", key, b"v")])

        assert store.scan("meta") == []


def test_the_environment_of_another_program_is_refused_and_left_as_it_is(path):
    with lmdb.open(str(path), max_dbs=1) as other, other.begin(write=True) as transaction:
        transaction.put(b"k", b"v", db=other.open_db(b"songs", txn=transaction))
    before = (path / "data.mdb").read_bytes()

    for read_only in (False, True):
        with pytest.raises(ColdStoreError, match="another program's LMDB environment .with songs."):
            LmdbColdStore(path, read_only=read_only)
    assert (path / "data.mdb").read_bytes() == before


def test_a_file_that_is_no_environment_is_refused_and_left_as_it_is(path):
    path.mkdir()
    (path / "data.mdb").write_text("Dear diary, " * 1000)

    for read_only in (False, True):
        with pytest.raises(ColdStoreError, match="is not an LMDB environment") as caught:
            LmdbColdStore(path, read_only=read_only)
        assert caught.value.path == str(path)
    assert (path / "data.mdb").read_text() == "Dear diary, " * 1000


def test_a_file_in_place_of_the_folder_is_refused(path):
    path.touch()

    with pytest.raises(ColdStoreError, match="Not a directory"):
        LmdbColdStore(path)


def test_an_environment_with_nothing_in_it_is_not_opened_read_only(path):
    lmdb.open(str(path)).close()

    with pytest.raises(ColdStoreError, match="is empty"):
        LmdbColdStore(path, read_only=True)


@pytest.mark.slow
def test_without_the_package_the_error_says_how_to_install_it():
    script = "import sys; sys.modules['lmdb'] = None; import avm.memory.cold.lmdb"

    assert (
        "ColdStoreError: the package lmdb is not installed. Run `pip install 'avm-runtime[lmdb]'`"
        in run(script).stderr
    )


# Damage.

READ_WHAT_IS_LEFT = """
import json, random, sys
from pathlib import Path
from avm.errors import ColdStoreError
from avm.memory.cold.lmdb import LmdbColdStore

found = {"exact": 0, "missing": 0, "refused": 0, "other": 0}
try:
    store = LmdbColdStore(Path(sys.argv[1]), durable=False, read_only=sys.argv[3] == "True")
    for number in range(int(sys.argv[2])):
        try:
            read, = store.read("record", [random.Random(number).randbytes(32)])
        except ColdStoreError:
            found["refused"] += 1
        else:
            exact = random.Random(-number - 1).randbytes(6000)
            found["exact" if read == exact else "missing" if read is None else "other"] += 1
    after = b""
    while pairs := store.scan("record", after, 50):
        after = pairs[-1][0]
    if sys.argv[3] == "False":
        store.commit([("record", random.Random(number).randbytes(32), None) for number in range(0, 400, 3)])
    store.close()
except ColdStoreError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The bytes of an environment with some contents."""
    path = tmp_path_factory.mktemp("filled") / "cold"
    with scratch(path) as store:
        store.commit(
            [
                ("record", random.Random(number).randbytes(32), random.Random(-number - 1).randbytes(6000))
                for number in range(COUNT)
            ]
        )
    return (path / "data.mdb").read_bytes()


def read_damaged(path, content, read_only=False):
    """Return how many contents are read exactly, and how many are not there, refused or other bytes."""
    path.mkdir()
    (path / "data.mdb").write_bytes(content)
    ended = run(READ_WHAT_IS_LEFT, path, COUNT, read_only)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short_does_not_end_the_process(path, filled, part, read_only):
    found = read_damaged(path, filled[: int(part * len(filled))], read_only)

    assert str(path) in found.get("error", str(path))
    assert "error" in found or sum(found.values()) == COUNT


@pytest.mark.slow
@pytest.mark.parametrize("where", ["anywhere", "heads of pages"])
@pytest.mark.parametrize("seed", range(5))
def test_a_file_scribbled_over_reads_right_or_refuses_or_does_not_match_its_digest(path, filled, seed, where):
    chance, damaged = random.Random(seed), bytearray(filled)
    for _ in range(200):
        if where == "anywhere":
            place = chance.randrange(2 * PAGE_SIZE, len(filled))
        else:
            place = chance.randrange(2, len(filled) // PAGE_SIZE) * PAGE_SIZE + chance.randrange(40)
        damaged[place] = chance.randrange(256)

    found = read_damaged(path, damaged)

    assert "error" in found or sum(found.values()) == COUNT
