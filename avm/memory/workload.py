"""Files of conversations: one zstd frame of JSON lines, a conversation a line. Read and written one at a time.

Lines end in "\\n" and nothing else: texts contain U+2028 and other characters that `str.splitlines` would cut at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from avm.errors import WorkloadError

CHUNK = 64 * 1024
LEVEL = 9
MAGIC = b"\x28\xb5\x2f\xfd"
FORMAT = "a zstd frame of JSON lines, each an object with 'messages'"


def read_conversations(path: str | Path) -> Iterator[dict[str, Any]]:
    """Go through the conversations of a file, in order.

    Raises:
        WorkloadError: the file is missing, not zstd or cut off, or a line is no conversation; names file and line.
    """
    path = Path(path)
    number = 0
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield _parse(path, number, line)


def write_conversations(path: str | Path, conversations: Iterable[Mapping[str, Any]]) -> int:
    """Write a file of conversations and return how many. It appears whole or not at all.

    Raises:
        WorkloadError: it cannot be written there.
    """
    path = Path(path)
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file, zstandard.ZstdCompressor(level=LEVEL).stream_writer(file) as out:
            count = 0
            for conversation in conversations:
                out.write(_encode_line(conversation))
                count += 1
        draft.replace(path)
    except OSError as error:
        raise WorkloadError(
            f"cannot write {path}: {error.strerror or error}. Give a path in a writable directory."
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return count


def unpack(file: BinaryIO, begin: bytes, size: int = CHUNK) -> Iterator[bytes]:
    """Go through the content of all zstd frames of a file.

    Args:
        begin: what has been read of it.
        size: bytes that are read and unpacked at a time; in the worst case they come to 32,768 times as many.

    Raises:
        EOFError, zstandard.ZstdError: it is cut off, or damaged; `broken` says it in words.
    """
    decompressor = zstandard.ZstdDecompressor()
    frame = decompressor.decompressobj()
    while begin:
        yield frame.decompress(begin)
        begin = frame.unused_data or file.read(size)
        if frame.eof and begin:
            frame = decompressor.decompressobj()
    if not frame.eof:
        raise EOFError


def broken(error: EOFError | zstandard.ZstdError) -> str:
    """Return what is wrong with a file that `unpack` cannot unpack, and what to do."""
    found = "is cut off" if isinstance(error, EOFError) else f"is damaged ({error})"
    return f"{found}; fetch or write it again."


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Go through the lines, which end in "\\n" and nothing else; one of many chunks is put together once."""
    begun: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        begun.append(first)
        for piece in others:
            yield b"".join(begun)
            begun = [piece]
    if any(begun):
        yield b"".join(begun)


def _encode_line(conversation: Mapping[str, Any]) -> bytes:
    text = json.dumps(conversation, ensure_ascii=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        # Lone surrogates have no UTF-8; escaped they come back as they are.
        return json.dumps(conversation).encode() + b"\n"


def _lines(path: Path) -> Iterator[bytes]:
    number = 0
    try:
        with path.open("rb") as file:
            for line in split_lines(_chunks(file, path)):
                number += 1
                yield line
    except OSError as error:
        what = (
            "there is no file"
            if isinstance(error, FileNotFoundError)
            else f"cannot read ({error.strerror or error})"
        )
        raise WorkloadError(f"workload {path}: {what}; expected {FORMAT}.") from error
    except (EOFError, zstandard.ZstdError) as error:
        raise WorkloadError(f"workload {path}, line {number + 1}: the file {broken(error)}") from error


def _chunks(file: BinaryIO, path: Path) -> Iterator[bytes]:
    begin = file.read(CHUNK)
    if not begin.startswith(MAGIC):
        found = f"begins with {begin[:8]!r}" if begin else "is empty"
        raise WorkloadError(
            f"workload {path} is not zstd: it {found}; expected {FORMAT} (zstd FILE makes one of plain JSON lines)."
        )
    return unpack(file, begin)


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WorkloadError(
            f"workload {path}, line {number}: not JSON: {error}; expected one conversation a line."
        ) from error
    wrong = _wrong(record)
    if wrong:
        raise WorkloadError(f"workload {path}, line {number}: {wrong}")
    conversation: dict[str, Any] = record
    return conversation


def _wrong(record: object) -> str:
    """Say what makes a record no conversation; empty if nothing does."""
    if not isinstance(record, dict):
        return f"a conversation is an object, got {type(record).__name__}."
    messages = record.get("messages")
    if not isinstance(messages, list):
        keys = ", ".join(record) or "none"
        return f"'messages' must be a list of messages, got {type(messages).__name__}; its keys are {keys}."
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return f"messages[{index}] must be an object with a 'role', got {str(message)[:60]!r}."
        if not isinstance(message.get("content"), str):
            return f"messages[{index}] must have a str as 'content', got {type(message.get('content')).__name__}."
    if not isinstance(record.get("system", ""), str) or not isinstance(record.get("tools", []), list):
        return "'system' must be a str and 'tools' a list."
    return ""
