"""The conversations of the main job: the files they are read from, and the file they are written to."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from avm.cli.workload import KeptFile, encode_line, read_workload
from avm.errors import WorkloadError
from avm.io import Recording
from avm.memory import Conversation, Store
from tests.cli.recorded import lines_of, read_file, record, recordings, records, write_file


def kept(recording: Recording) -> Conversation:
    conversation = Conversation(Store())
    for position in range(len(recording)):
        conversation = conversation.append(recording.message(position))
    return conversation


def test_a_workload_ships_with_avm() -> None:
    workload = read_workload()

    assert workload.name == "tau_airline_extract"
    assert len(workload.recordings) == 40
    assert workload.messages == sum(len(r) for r in workload.recordings) > 1000
    assert all(r.frame["licence"] == "MIT" for r in workload.recordings)


def test_a_workload_is_called_as_its_file_is(tmp_path: Path) -> None:
    path = write_file(tmp_path / "talks.jsonl.zst", lines_of(records(3)))

    workload = read_workload(path)

    assert (workload.name, len(workload.recordings), workload.messages) == ("talks", 3, 24)


def cut_off(path: Path) -> None:
    path.write_bytes(write_file(path, lines_of(records(50))).read_bytes()[:-10])


def with_lines(*lines: bytes) -> Callable[[Path], None]:
    return lambda path: void(write_file(path, b"\n".join(lines)))


def void(found: object) -> None:
    """Take a result that is not wanted."""


GOOD = lines_of([record("a")]).strip()
ROBOT = json.dumps({"messages": [{"role": "robot", "content": ""}]}).encode()


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda path: None, "there is no file"),
        (lambda path: path.mkdir(), "cannot read (Is a directory)"),
        (lambda path: path.write_bytes(b"{}"), "is not zstd: it begins with b'{}'"),
        (lambda path: path.write_bytes(b""), "is not zstd: it is empty"),
        (cut_off, "the file is cut off"),
        (with_lines(GOOD, GOOD, b"{nonsense"), "line 3: not JSON"),
        (with_lines(GOOD, b"[]"), "line 2: a conversation is an object"),
        (with_lines(GOOD, b"", b"", ROBOT), "line 4: messages[0].role must be 'user', 'assistant' or 'tool'"),
        (with_lines(b""), "holds no conversation"),
    ],
)
def test_a_file_that_cannot_be_played_is_told_with_its_name_and_line(
    tmp_path: Path, make: Callable[[Path], None], says: str
) -> None:
    path = tmp_path / "w.jsonl.zst"
    make(path)

    with pytest.raises(WorkloadError) as caught:
        read_workload(path)

    assert str(caught.value).startswith(f"workload {path}")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["kept.jsonl.zst", "kept.jsonl"])
def test_conversations_are_written_in_the_order_in_which_they_were_begun(tmp_path: Path, name: str) -> None:
    found = recordings(3)
    path = tmp_path / name

    with KeptFile(path) as out:
        for number in (2, 0, 1):
            out.add(number, found[number], kept(found[number]))
            while out.is_next_here():
                out.write(out.take_next())

    content = read_file(path) if name.endswith(".zst") else path.read_bytes()
    assert content == lines_of(records(3))
    assert out.written == 3
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_what_waited_for_a_conversation_that_never_came_is_written_at_the_end(tmp_path: Path) -> None:
    found = recordings(3)
    path = tmp_path / "kept.jsonl"

    with KeptFile(path) as out:
        out.add(2, found[2], kept(found[2]))
        out.add(1, found[1], kept(found[1]))
        assert not out.is_next_here()

    assert path.read_bytes() == lines_of(records(3)[1:])


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    path.write_bytes(b"old")

    out = KeptFile(path)
    assert path.read_bytes() == b"old"
    out.abandon()

    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


class FullDisk:
    """A file that takes nothing."""

    def write(self, line: bytes) -> None:
        """Fail."""
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_that_could_not_be_written_once_is_not_put_in_place(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    out = KeptFile(path)
    out._out = FullDisk()

    with pytest.raises(WorkloadError, match="No space left"):
        out.write(b"x")
    with pytest.raises(WorkloadError, match="cannot write"):
        out.close()

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["missing/kept.zst", "."])
def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path: Path, where: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        KeptFile(tmp_path / where)

    assert str(caught.value).startswith(f"--out {tmp_path / where}: cannot write (")


def test_a_device_is_written_to_and_stays_a_device() -> None:
    found = recordings(1)

    with KeptFile(Path("/dev/null")) as out:
        out.add(0, found[0], kept(found[0]))

    assert out.written == 1
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_half_a_surrogate_pair_is_escaped_and_all_else_is_not() -> None:
    line = encode_line({"content": "caf\u00e9 \ud83d"})

    assert line == b'{"content": "caf\xc3\xa9 \\ud83d"}\n'
    assert json.loads(line) == {"content": "caf\u00e9 \ud83d"}
