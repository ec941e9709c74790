"""Homes: directories with one owner, which say who owns them and what they hold, and scratch homes that go away."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile

import pytest

from avm.errors import HomeError, HomeInUse, HomeTooNew
from avm.memory.cold.home import Home

OWNER = """
import sys
from avm.memory.cold.home import Home
home = Home.scratch() if sys.argv[1] == "scratch" else Home.open(sys.argv[1])
print(home.path, flush=True)
sys.stdin.read()
"""
"""Opens a home, says where it is, and lives until its input ends."""


@contextlib.contextmanager
def process(program, *arguments, **environment):
    """Run a Python program until the block ends; yields it and the first line it prints."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    with child:
        try:
            yield child, child.stdout.readline().strip()
        finally:
            child.stdin.close()
            child.wait(timeout=20)


def kill(child):
    child.kill()
    child.wait(timeout=20)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "home"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def made(path):
    """Make a home and let go of it."""
    Home.open(path).close()
    return path


def mark(path, **changes):
    """Change what avm.json says."""
    file = path / "avm.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# What is in it.


def test_a_missing_directory_becomes_a_home_with_its_parents(path):
    with Home.open(str(path)) as home:
        assert (home.path, home.kind, home.format, home.read_only) == (path, "sqlite", 1, False)
        assert home.cold_path == path / "cold.sqlite3"
        assert home.files == path / "files"

    assert sorted(os.listdir(path)) == ["avm.json", "lock"]


def test_avm_json_says_format_kind_and_who_made_it(path):
    made(path)

    said = json.loads((path / "avm.json").read_text())

    assert said.pop("made_by").startswith("avm ")
    assert said == {"format": 1, "cold": "sqlite"}


def test_a_relative_path_stays_the_same_home_when_the_process_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with Home.open("home") as home:
        assert home.path == tmp_path / "home"


def test_a_home_keeps_its_kind(path):
    Home.open(path, kind="lmdb").close()

    with Home.open(path) as home:
        assert home.kind == "lmdb"
        assert home.cold_path == path / "cold.lmdb"


def test_a_home_of_another_kind_is_refused_with_the_kind_it_has(path):
    Home.open(path, kind="lmdb").close()

    with pytest.raises(HomeError, match="keeps its content in lmdb, not in sqlite as asked") as caught:
        Home.open(path, kind="sqlite")

    assert caught.value.path == str(path)
    Home.open(path, kind="lmdb").close()


def test_a_kind_that_does_not_exist_is_refused(path):
    with pytest.raises(ValueError, match="kind must be 'sqlite' or 'lmdb', got 'rocks'"):
        Home.open(path, kind="rocks")

    assert not path.exists()


def test_a_home_is_made_once(path):
    made(path)
    before = (path / "avm.json").stat()

    made(path)

    assert (path / "avm.json").stat() == before


# What is refused.


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_format_is_refused_with_who_wrote_it_and_what_to_do(path, read_only):
    mark(made(path), format=7, made_by="avm 3.1.0", cold="glass")

    with pytest.raises(HomeTooNew, match=r"has format 7, written by avm 3.1.0; .* Install the avm") as caught:
        Home.open(path, read_only=read_only)

    assert caught.value.found == 7


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"format": 1}',
        b'{"format": "1", "cold": "sqlite"}',
        b'{"format": true, "cold": "sqlite"}',
        b'{"format": 0, "cold": "sqlite"}',
        b'{"format": 1, "cold": "glass"}',
        b'{"format": 1, "cold": "\xff"}',
    ],
)
def test_a_garbled_avm_json_is_refused_and_left_as_it_is(path, text):
    (made(path) / "avm.json").write_bytes(text)

    with pytest.raises(HomeError, match="avm.json is damaged, or not of avm"):
        Home.open(path)

    assert (path / "avm.json").read_bytes() == text


def test_an_avm_json_that_cannot_be_read_is_refused_with_the_reason(path):
    (path / "avm.json").mkdir(parents=True)

    with pytest.raises(HomeError, match=r"avm.json cannot be read: Is a directory"):
        Home.open(path)


def test_a_file_is_no_home(tmp_path):
    (tmp_path / "file").write_text("mine")

    for path in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(HomeError, match="is not a directory"):
            Home.open(path)

    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_is_written_among_files_of_others(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")

    with pytest.raises(HomeError, match=r"it has no avm.json, but 1 entries of others, such as 'thesis.tex'"):
        Home.open(tmp_path)

    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_lock_of_another_program_is_a_file_of_others(tmp_path):
    (tmp_path / "lock").write_text("apt 4711")

    with pytest.raises(HomeError, match="such as 'lock'"):
        Home.open(tmp_path)

    assert (tmp_path / "lock").read_text() == "apt 4711"


@pytest.mark.parametrize("lock", ["", "process 4711 on tower since 2026-01-01T00:00:00+00:00: python run.py"])
def test_a_home_that_was_half_made_is_finished(path, lock):
    path.mkdir(parents=True)
    (path / "lock").write_text(lock)
    (path / "avm.json.unfinished").write_text('{"form')

    with Home.open(path) as home:
        assert home.kind == "sqlite"

    assert sorted(os.listdir(path)) == ["avm.json", "lock"]


def test_what_the_system_refuses_is_told_with_its_reason(path):
    (made(path) / "lock").unlink()
    (path / "lock").mkdir()

    with pytest.raises(HomeError, match="cannot be written: Is a directory. Open it with read_only=True"):
        Home.open(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_to_write_can_only_be_read(path):
    (made(path) / "lock").unlink()
    path.chmod(0o555)

    with pytest.raises(HomeError, match="cannot be written: Permission denied. Open it with read_only=True"):
        Home.open(path)
    Home.open(path, read_only=True).close()
    with pytest.raises(HomeError, match="cannot be made: Permission denied"):
        Home.open(path / "inner")


# One owner.


def test_the_same_process_cannot_open_a_home_twice(path):
    with (
        Home.open(path),
        pytest.raises(HomeInUse, match=rf"is in use by process {os.getpid()} on ") as caught,
    ):
        Home.open(path)

    assert caught.value.path == str(path)
    Home.open(path).close()


def test_close_may_be_called_again(path):
    home = Home.open(path)
    home.close()

    with Home.open(path):
        home.close()
        with pytest.raises(HomeInUse):
            Home.open(path)


def test_a_home_that_is_forgotten_is_let_go(path):
    home = Home.open(path)
    del home

    Home.open(path).close()


def test_an_opening_that_fails_at_its_end_does_not_keep_the_lock(path):
    (path / "avm.json.unfinished").mkdir(parents=True)
    with pytest.raises(HomeError, match="cannot be written: Is a directory"):
        Home.open(path)
    (path / "avm.json.unfinished").rmdir()

    Home.open(path).close()


def test_who_removes_the_lock_file_of_a_home_does_not_break_the_next_lock(path):
    (made(path) / "lock").unlink()

    with Home.open(path), pytest.raises(HomeInUse):
        Home.open(path)


@pytest.mark.slow
def test_a_home_that_another_process_has_is_refused_with_who_that_is(path):
    with process(OWNER, path) as (owner, _), pytest.raises(HomeInUse) as caught:
        Home.open(path)

    holder = caught.value.holder
    assert holder.startswith(f"process {owner.pid} on {os.uname().nodename} since 20")
    assert os.path.basename(sys.executable) in holder
    assert holder in str(caught.value)
    Home.open(path).close()


@pytest.mark.slow
def test_the_lock_ends_with_a_process_that_is_killed(path):
    with process(OWNER, path) as (owner, _):
        kill(owner)

        with Home.open(path) as home:
            assert home.kind == "sqlite"


FORKED = """
import os, signal, sys
from avm.memory.cold.home import Home
home = Home.open(sys.argv[1])
if os.fork():
    os.kill(os.getpid(), signal.SIGKILL)
print("orphan", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_forked_child_does_not_inherit_the_home(path):
    with process(FORKED, path) as (owner, said):
        owner.wait(timeout=20)

        assert said == "orphan"
        Home.open(path).close()


# Read only.


def test_a_home_that_is_read_only_is_not_written(path):
    (made(path) / "lock").unlink()
    before = path.stat().st_mtime_ns

    with Home.open(path, read_only=True) as home:
        assert (home.kind, home.read_only) == ("sqlite", True)

    assert os.listdir(path) == ["avm.json"]
    assert path.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_home_can_be_read_beside_its_owner(path):
    with process(OWNER, path), Home.open(path, read_only=True) as one, Home.open(path, read_only=True) as two:
        assert one.cold_path == two.cold_path


def test_reading_does_not_keep_an_owner_out(path):
    made(path)

    with Home.open(path, read_only=True), Home.open(path):
        pass


def test_a_home_that_is_not_there_cannot_be_read(path, tmp_path):
    for place in (path, tmp_path):
        with pytest.raises(HomeError, match=r"there is no home in .*: it has no avm.json"):
            Home.open(place, read_only=True)

    assert os.listdir(tmp_path) == []


# Scratch.


def test_a_scratch_home_is_gone_when_it_is_closed(temporary):
    with Home.scratch() as home:
        home.files.mkdir()
        (home.files / "content").write_text("much")
        home.cold_path.write_text("much")
        assert home.path.parent == temporary
        assert home.kind == "sqlite"

    assert os.listdir(temporary) == []
    home.close()


def test_scratch_homes_of_one_process_live_side_by_side(temporary):
    with Home.scratch() as one, Home.scratch() as two:
        assert one.path != two.path
        assert one.path.is_dir()


def test_a_scratch_home_that_is_forgotten_is_removed(temporary):
    home = Home.scratch()
    del home

    assert os.listdir(temporary) == []


def test_a_scratch_home_in_a_folder_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))

    with pytest.raises(HomeError, match="cannot hold a scratch home: No such file or directory"):
        Home.scratch()


@pytest.mark.slow
def test_a_scratch_home_is_gone_when_its_process_ends(tmp_path):
    with process(OWNER, "scratch", TMPDIR=str(tmp_path)) as (_, path):
        assert os.listdir(tmp_path) == [os.path.basename(path)]

    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_scratch_homes_of_the_dead_are_removed_and_those_of_the_living_stay(temporary):
    with (
        process(OWNER, "scratch", TMPDIR=str(temporary)) as (owner, dead),
        process(OWNER, "scratch", TMPDIR=str(temporary)) as (_, alive),
    ):
        kill(owner)
        assert os.path.exists(dead)

        with Home.scratch() as home:
            assert {*os.listdir(temporary)} == {os.path.basename(alive), home.path.name}


def test_what_only_looks_like_a_scratch_home_is_left_alone(temporary):
    kept = made(temporary / "avm-scratch-kept")
    mine = temporary / "avm-scratch-mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("mine")
    (temporary / "avm-scratch-link").symlink_to(kept)

    Home.scratch().close()

    assert len(os.listdir(temporary)) == 3
    assert (mine / "thesis.tex").exists()


FORKED_SCRATCH = """
import os, sys
from avm.memory.cold.home import Home
home = Home.scratch()
child = os.fork()
if child:
    os.waitpid(child, 0)
    print(home.path.is_dir(), flush=True)
"""


@pytest.mark.slow
def test_a_forked_child_does_not_remove_the_scratch_home_at_its_end(tmp_path):
    with process(FORKED_SCRATCH, TMPDIR=str(tmp_path)) as (_, said):
        assert said == "True"

    assert os.listdir(tmp_path) == []
