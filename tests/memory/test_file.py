"""Large files: taken by path, hashed and read without being loaded, and never other than what they were."""

import os
import shutil
import stat
import subprocess
import sys
import threading

import attrs
import pytest

from avm.errors import ColdStoreError, CorruptBlob, FileChanged, MissingBlob, StoreError
from avm.memory import Digest, intake, rss_bytes
from avm.memory.file import File

MB = 1 << 20
CONTENT = b"".join(b"line %d\n" % n for n in range(40_000))

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc here")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def folder(tmp_path):
    """The folder of files of a home; it is not there yet."""
    return tmp_path / "home" / "files"


@pytest.fixture(params=["copied", "referred"])
def file(request, source, folder):
    """The file, taken in both ways."""
    return File.take(source, folder if request.param == "copied" else None)


def sparse(path, size):
    with path.open("wb") as file:
        file.truncate(size)
    return path


def touch(path):
    """Set the time of change on by 1 ns, as a clock that is fine enough would."""
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


def write_over(path, content, at=0):
    """Change a file in place, also one of ours, which may only be read."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


# What it is.


def test_a_file_is_named_by_the_digest_of_its_content(file):
    assert file.digest == Digest.of(CONTENT)
    assert file.size == len(CONTENT)
    assert file.name == "data.csv"


def test_a_file_without_a_folder_stays_where_it_is(source):
    file = File.take(str(source))

    assert file.path == source
    assert file.stamp.size == len(CONTENT)


def test_files_are_equal_if_their_content_is(source, folder, tmp_path):
    (tmp_path / "other").write_bytes(b"other")
    file, copy, other = File.take(source), File.take(source, folder), File.take(tmp_path / "other")

    assert file == copy
    assert hash(file) == hash(copy)
    assert file != other


def test_what_a_file_says_of_itself_cannot_be_changed(file):
    with pytest.raises(attrs.exceptions.FrozenAttributeError):
        file.size = 1


def test_a_file_prints_its_digest_its_size_and_its_name(file, folder):
    start = f"File({file.digest}, 418.8 KB"

    assert repr(file) == start + ", data.csv)"
    assert repr(File.find(File.take(file.path, folder).digest, folder)) == start + ")"


def test_a_relative_path_stays_the_same_file_when_the_process_moves(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file = File.take("data.csv")
    monkeypatch.chdir("/")

    assert file.read(0, 6) == b"line 0"


# Reading.


@pytest.mark.parametrize(
    "offset, size",
    [
        (0, -1),
        (0, 0),
        (5, 10),
        (len(CONTENT) - 3, 10),
        (len(CONTENT), 1),
        (1 << 40, 1 << 40),
        (7, -1),
        (0, 1 << 40),
    ],
)
def test_reading_counts_as_slices_of_bytes_do(file, offset, size):
    end = None if size < 0 else offset + size

    assert file.read(offset, size) == CONTENT[offset:end]
    with file.view(offset, size) as view:
        assert bytes(view) == CONTENT[offset:end]


def test_a_negative_offset_is_refused(file):
    with pytest.raises(ValueError, match="offset must be 0 or more bytes, got -1"):
        file.read(-1)
    with pytest.raises(ValueError, match="offset must be"), file.view(-1):
        pass


@pytest.mark.parametrize("size", [1000, len(CONTENT), len(CONTENT) + 1, MB])
def test_chunks_are_the_content_in_order(file, size):
    chunks = list(file.chunks(size))

    assert b"".join(chunks) == CONTENT
    assert {len(chunk) for chunk in chunks[:-1]} <= {size}


def test_a_chunk_has_at_least_a_byte(file):
    with pytest.raises(ValueError, match="size must be at least 1 byte, got 0"):
        file.chunks(0)


@pytest.mark.parametrize(
    "content",
    [
        CONTENT,
        b"",
        b"\n",
        b"no end",
        b"a\r\nb\rc\x0bd\n\n\ne",
        b"x" * (MB - 1) + b"\ny",
        b"x" * MB + b"\ny\n",
        b"x" * (2 * MB + 5) + b"\n" + b"y" * MB,
    ],
)
def test_lines_end_at_newlines_only_wherever_chunks_end(tmp_path, content):
    (tmp_path / "log").write_bytes(content)
    *whole, last = content.split(b"\n")

    lines = list(File.take(tmp_path / "log").lines())

    assert lines == [line + b"\n" for line in whole] + ([last] if last else [])


def test_lines_come_before_the_rest_is_read(source):
    lines = File.take(source).lines()

    assert next(lines) == b"line 0\n"
    source.unlink()
    assert next(lines) == b"line 1\n"


def test_an_empty_file_has_nothing_to_read(tmp_path, folder):
    (tmp_path / "empty").touch()

    for file in (File.take(tmp_path / "empty"), File.take(tmp_path / "empty", folder)):
        assert (file.digest, file.size, file.read()) == (Digest.of(b""), 0, b"")
        assert [*file.chunks(), *file.lines()] == []
        file.verify()
        with file.view() as view:
            assert len(view) == 0


def test_a_view_of_a_file_of_ours_is_mapped_and_can_be_released(source, folder):
    file = File.take(source, folder)

    with file.view(5000, 10_000) as view:
        file.release()
        assert view == CONTENT[5000:15_000]
        assert view.readonly

    with pytest.raises(ValueError, match="released"):
        view[0]


def test_a_slice_that_outlives_its_view_stays_readable(source, folder):
    with File.take(source, folder).view() as view:
        part = view[:6]

    assert part == b"line 0"


def test_threads_read_one_file_at_the_same_time(file):
    found = []

    def read():
        with file.view(1000, 1000) as view:
            found.append((b"".join(file.chunks(5000)), bytes(view)))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [(CONTENT, CONTENT[1000:2000])] * 8


def test_a_closed_file_cannot_be_read(file):
    with file:
        assert file.read(0, 4) == b"line"
    file.close()

    for use in (file.read, file.verify, lambda: next(file.chunks())):
        with pytest.raises(ValueError, match=r"data.csv\) is closed"):
            use()


def test_nothing_is_held_open_between_reads(file):
    before = set(os.listdir("/dev/fd"))

    file.read(10, 10)
    next(file.lines())
    with file.view() as view:
        assert view[0] == CONTENT[0]

    assert len(os.listdir("/dev/fd")) == len(before)


# Files of others, which change.


def change(path):
    path.write_bytes(CONTENT.replace(b"9", b"8"))
    touch(path)


def replace(path):
    other = path.with_name("other")
    other.write_bytes(CONTENT)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def retarget(path):
    """Put a link to the same content in its place."""
    path.rename(path.with_name("moved"))
    other = path.with_name("other")
    other.write_bytes(CONTENT)
    path.symlink_to(other)


def pipe(path):
    """Put a pipe in its place, whose opening waits for a writer."""
    path.unlink()
    os.mkfifo(path)


CHANGES = {
    "changed in place": change,
    "truncated": lambda path: os.truncate(path, 100),
    "emptied": lambda path: os.truncate(path, 0),
    "grown": lambda path: path.write_bytes(CONTENT + b"more"),
    "replaced": replace,
    "replaced by a link": retarget,
    "replaced by a pipe": pipe,
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("use", ["read", "chunks", "lines", "verify", "view"])
def test_a_file_of_others_that_was_changed_is_never_read(source, how, use):
    file = File.take(source)
    CHANGES[how](source)

    with pytest.raises(FileChanged, match=r"data.csv (is gone|was changed or replaced)") as caught:
        {
            "read": file.read,
            "chunks": lambda: list(file.chunks()),
            "lines": lambda: list(file.lines()),
            "verify": file.verify,
            "view": lambda: file.view().__enter__(),
        }[use]()

    assert caught.value.path == str(source)


def test_a_file_that_is_truncated_between_chunks_ends_with_an_error(source):
    chunks = File.take(source).chunks(1000)
    next(chunks)
    os.truncate(source, 2000)

    with pytest.raises(FileChanged):
        next(chunks)


def test_a_file_that_is_truncated_during_a_view_does_no_harm(source):
    """Were it mapped, the look would end the process with SIGBUS."""
    with File.take(source).view() as view:
        os.truncate(source, 0)

        assert view == CONTENT


def test_a_change_that_hides_is_found_by_verify(source):
    file = File.take(source)
    found = source.stat()
    source.write_bytes(CONTENT.replace(b"9", b"8"))
    os.utime(source, ns=(found.st_atime_ns, found.st_mtime_ns))

    with pytest.raises(CorruptBlob, match="expected") as caught:
        file.verify()

    assert (caught.value.digest, caught.value.path) == (file.digest.hex(), str(source))


class Meddler:
    """Hashes, but changes a file after the first piece."""

    def __init__(self, path, how):
        self.path, self.how = path, how
        self.inner, self.hashed = intake.blake3, 0

    def __call__(self):
        self.hasher = self.inner()
        return self

    def update(self, piece):
        self.hasher.update(piece)
        if not self.hashed:
            self.how(self.path)
        self.hashed += len(piece)

    def digest(self):
        return self.hasher.digest()


@pytest.mark.parametrize("how", ["changed in place", "truncated", "emptied", "grown"])
def test_a_file_that_changes_while_it_is_hashed_is_refused(source, monkeypatch, how):
    monkeypatch.setattr(intake, "blake3", Meddler(source, CHANGES[how]))

    with pytest.raises(FileChanged, match="was changed while it was hashed"):
        File.take(source)


@pytest.mark.parametrize("how", ["changed in place", "truncated", "emptied"])
def test_a_copy_of_a_file_that_changes_meanwhile_is_what_its_digest_says(source, folder, monkeypatch, how):
    monkeypatch.setattr(intake, "PIECE", 10_000)
    monkeypatch.setattr(intake, "blake3", Meddler(source, CHANGES[how]))
    file = File.take(source, folder)
    monkeypatch.undo()

    assert Digest.of(file.read()) == file.digest
    assert file.size == file.path.stat().st_size
    file.verify()


# Files of ours.


def test_a_copy_does_not_depend_on_the_original(source, folder):
    file = File.take(source, folder)
    source.unlink()

    assert file.path == folder / Digest.of(CONTENT).hex()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o444
    assert file.read() == CONTENT


def test_equal_content_is_in_the_folder_once(source, folder, tmp_path):
    (tmp_path / "again").write_bytes(CONTENT)
    first = File.take(source, folder)
    inode = first.path.stat().st_ino

    again = File.take(tmp_path / "again", folder)

    assert (again.path, again.name) == (first.path, "again")
    assert os.listdir(folder) == [first.digest.hex()]
    assert first.path.stat().st_ino == inode


def test_other_content_of_equal_size_is_another_file(source, folder):
    File.take(source, folder)
    change(source)

    File.take(source, folder).verify()

    assert len(os.listdir(folder)) == 2


def test_a_file_of_the_folder_can_be_taken_into_it(source, folder):
    file = File.take(source, folder)

    assert File.take(file.path, folder) == file
    assert os.listdir(folder) == [file.digest.hex()]


def test_a_file_in_the_folder_is_found_by_its_digest(source, folder):
    File.take(source, folder)

    file = File.find(Digest.of(CONTENT), folder)

    assert (file.size, file.name, file.stamp) == (len(CONTENT), "", None)
    assert file.read() == CONTENT


def test_a_file_that_is_not_in_the_folder_is_missing(source, folder):
    for prepare in (lambda: None, lambda: File.take(source, folder), (folder / Digest.of(b"").hex()).mkdir):
        prepare()
        with pytest.raises(MissingBlob, match=f"no file {Digest.of(b'')} at"):
            File.find(Digest.of(b""), folder)


def test_damage_is_found_by_verify_and_repaired_by_taking_the_file_again(source, folder):
    file = File.take(source, folder)
    write_over(file.path, b"L")

    with pytest.raises(CorruptBlob, match=f"expected {file.digest}"):
        file.verify()
    assert File.take(source, folder) == file

    file.verify()
    assert os.listdir(folder) == [file.digest.hex()]


@pytest.mark.parametrize("use", [File.read, File.verify, lambda file: file.view().__enter__()])
def test_a_file_of_ours_that_is_shorter_or_gone_is_an_error_before_it_is_looked_at(source, folder, use):
    file = File.take(source, folder)
    file.path.chmod(0o644)
    os.truncate(file.path, 0)

    with pytest.raises(CorruptBlob, match=f"has 0 bytes, expected {len(CONTENT)}"):
        use(file)
    file.path.unlink()
    with pytest.raises(MissingBlob, match="or somebody removed it"):
        use(file)


def test_copies_that_a_killed_process_left_unfinished_are_removed(source, folder):
    folder.mkdir(parents=True)
    (folder / "0123abcd-x.unfinished").write_bytes(CONTENT)

    file = File.take(source, folder)

    assert os.listdir(folder) == [file.digest.hex()]


def test_threads_take_one_file_at_the_same_time(source, folder):
    found = []
    threads = [threading.Thread(target=lambda: found.append(File.take(source, folder))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [File.take(source)] * 8
    assert os.listdir(folder) == [found[0].digest.hex()]


def test_a_folder_that_cannot_be_written_is_told_with_the_reason(source, tmp_path):
    (tmp_path / "taken").touch()

    with pytest.raises(ColdStoreError, match=r"data.csv cannot be copied to .*taken: ") as caught:
        File.take(source, tmp_path / "taken")

    assert caught.value.path == str(tmp_path / "taken")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_leaves_nothing_behind(source, folder, monkeypatch):
    with open("/dev/full", "wb", 0) as full:
        real = os.write
        monkeypatch.setattr(os, "write", lambda _, piece: real(full.fileno(), piece))
        with pytest.raises(ColdStoreError, match="No space left on device"):
            File.take(source, folder)

    assert os.listdir(folder) == []


# What cannot be taken.


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize(
    "name, reason",
    [
        ("missing", "No such file or directory"),
        ("data.csv/inner", "Not a directory"),
        ("directory", "it is a directory, not a regular file"),
        ("pipe", "it is a pipe, not a regular file"),
        ("link to a pipe", "it is a pipe, not a regular file"),
        ("/dev/zero", "it is a device or socket, not a regular file"),
    ],
)
def test_what_is_no_file_is_refused(source, folder, tmp_path, name, reason, copied):
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to a pipe").symlink_to("pipe")

    with pytest.raises(StoreError, match=f"{name} cannot be put: {reason}"):
        File.take(tmp_path / name, folder if copied else None)

    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(source):
    file = File.take(source)
    source.chmod(0)

    with pytest.raises(StoreError, match="data.csv cannot be put: Permission denied"):
        File.take(source)
    with pytest.raises(ColdStoreError, match="data.csv cannot be read: Permission denied"):
        file.read()


# Memory.

PEAK = """
import sys
from pathlib import Path
from avm.memory import rss_bytes
from avm.memory.file import File

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

path, folder = Path(sys.argv[1]), Path(sys.argv[2])
Path("/proc/self/clear_refs").write_text("5")  # from here on counts the peak
before = rss_bytes()
file = File.take(path, folder if sys.argv[3] == "copied" else None)
file.verify()
assert sum(map(len, file.chunks())) == file.size
print(peak() - before)
"""


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("how, size", [("referred", 1024 * MB), ("copied", 256 * MB)])
def test_a_large_file_is_taken_and_read_with_little_memory(tmp_path, how, size):
    """The most that the process ever had, not what it has at the end."""
    path = sparse(tmp_path / "large", size)

    done = subprocess.run(
        [sys.executable, "-c", PEAK, path, tmp_path / "files", how],
        capture_output=True,
        text=True,
        check=True,
    )

    path.unlink()
    shutil.rmtree(tmp_path / "files", ignore_errors=True)
    assert int(done.stdout) < 16 * MB


@needs_proc
def test_a_walk_through_a_view_gives_its_pages_back_by_release(tmp_path):
    file = File.take(sparse(tmp_path / "large", 32 * MB), tmp_path / "files")
    before = rss_bytes()
    growth = []

    with file.view() as view:
        for offset in range(0, file.size, 4 * MB):
            assert not any(view[offset : offset + 4 * MB : 4096])
            growth.append(rss_bytes() - before)
            file.release()

    assert max(growth) < 16 * MB
