"""The conversations of the main job: where they come from, and where those that were kept go to."""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import suppress
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import attrs
import zstandard

from avm.errors import WorkloadError
from avm.io import Recording, Recordings
from avm.memory import Conversation, read_conversations

DEFAULT = "tau_airline_extract.jsonl.zst"
LEVEL = 9

_SURROGATE = re.compile("[\ud800-\udfff]")


@attrs.frozen(slots=True)
class Workload:
    """Recorded conversations and what they are called."""

    name: str
    recordings: Recordings

    @property
    def messages(self) -> int:
        """How many messages there are in all."""
        return sum(len(recording) for recording in self.recordings)


def read_workload(path: Path | None = None) -> Workload:
    """Read a file of conversations; None is the one that ships with avm.

    Raises:
        WorkloadError: the file is missing, not zstd, cut off, or holds something that is no conversation: says where.
    """
    if path is not None:
        return _read(path)
    with resources.as_file(resources.files("avm.cli") / "data" / DEFAULT) as shipped:
        return _read(shipped)


def _read(path: Path) -> Workload:
    try:
        recordings = Recordings(read_conversations(path))
    except WorkloadError as error:
        raise WorkloadError(_with_line(path, str(error))) from error
    if not recordings:
        raise WorkloadError(f"workload {path} holds no conversation; give a file with at least one.")
    return Workload(path.name.removesuffix(".zst").removesuffix(".jsonl"), recordings)


# What the file is wrong in names file and line already; what a record is wrong in only the number of the record.
def _with_line(path: Path, text: str) -> str:
    found = re.match(r"conversation (\d+)(?:: | (?=must))", text)
    if found is None:
        return text
    with path.open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        lines = reader.read().split(b"\n")
    filled = [number for number, line in enumerate(lines, 1) if line.strip()]
    return f"workload {path}, line {filled[int(found[1]) - 1]}: {text[found.end() :]}"


class KeptFile:
    """A file that conversations are written to as they were kept, in the order in which they were begun.

    It is written beside its place and put there when it is closed; a device or pipe is written to directly. A name
    that ends in .zst is compressed.

    Raises:
        WorkloadError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = 0
        self._ahead: dict[int, tuple[Recording, Conversation]] = {}
        self._next = 0
        self._error: WorkloadError | None = None
        self._draft: Path | None = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            if path.is_dir():
                raise IsADirectoryError(21, "it is a directory")
            if path.exists() and not stat.S_ISREG(path.stat().st_mode):
                self._draft = None
            elif path.exists() and not os.access(path, os.W_OK):
                raise PermissionError(13, "Permission denied")
            self._file: IO[bytes] = (self._draft or path).open("wb")
        except OSError as error:
            raise self._failure(error) from error
        self._out: Any = self._file
        if path.suffix == ".zst":
            self._out = zstandard.ZstdCompressor(level=LEVEL).stream_writer(self._file, closefd=False)

    def add(self, number: int, recording: Recording, conversation: Conversation) -> None:
        """Take a finished conversation; `number` is its place in the order, counted from 0."""
        self._ahead[number] = (recording, conversation)

    def is_next_here(self) -> bool:
        """Tell whether `take_next` has something to give."""
        return self._next in self._ahead

    def take_next(self) -> bytes:
        """Return the next conversation of the order as a line, for `write`."""
        recording, conversation = self._ahead.pop(self._next)
        self._next += 1
        return encode_line(recording.record(conversation))

    def write(self, line: bytes) -> None:
        """Write a line; may be called from any thread, but from one at a time.

        Raises:
            WorkloadError: it cannot be written.
        """
        try:
            self._out.write(line)
        except OSError as error:
            self._error = self._failure(error)
            raise self._error from error
        self.written += 1

    def close(self) -> None:
        """Write what waited for others that were never finished, and put the file in its place.

        Raises:
            WorkloadError: it cannot be written now, or could not before; nothing is left of it.
        """
        try:
            if self._error is not None:
                raise self._error
            for number in sorted(self._ahead):
                recording, conversation = self._ahead.pop(number)
                self.write(encode_line(recording.record(conversation)))
            if self._out is not self._file:
                self._out.close()
            self._file.close()
            if self._draft is not None:
                self._draft.replace(self.path)
        except OSError as error:
            self.abandon()
            raise self._failure(error) from error
        except WorkloadError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._ahead.clear()
        # What is still in its buffer has nowhere to go.
        with suppress(OSError):
            self._file.close()
        if self._draft is not None:
            self._draft.unlink(missing_ok=True)

    def __enter__(self) -> KeptFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failure(self, error: OSError) -> WorkloadError:
        return WorkloadError(
            f"--out {self.path}: cannot write ({error.strerror or error}); give a file in a directory that is writable."
        )


def encode_line(record: dict[str, Any]) -> bytes:
    """Return a record as a line of JSON."""
    text = json.dumps(record, ensure_ascii=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        # Half a surrogate pair has no UTF-8; escaped it comes back as it is.
        return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode() + b"\n"
