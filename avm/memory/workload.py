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


def _encode_line(conversation: Mapping[str, Any]) -> bytes:
    text = json.dumps(conversation, ensure_ascii=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        # Lone surrogates have no UTF-8; escaped they come back as they are.
        return json.dumps(conversation).encode() + b"\n"


def _lines(path: Path) -> Iterator[bytes]:
    number = 0
    # The pieces of a line that has not ended yet.
    begun: list[bytes] = []
    try:
        with path.open("rb") as file:
            for chunk in _chunks(file, path):
                first, *others = chunk.split(b"\n")
                begun.append(first)
                for piece in others:
                    number += 1
                    yield b"".join(begun)
                    begun = [piece]
    except OSError as error:
        what = (
            "there is no file"
            if isinstance(error, FileNotFoundError)
            else f"cannot read ({error.strerror or error})"
        )
        raise WorkloadError(f"workload {path}: {what}; expected {FORMAT}.") from error
    except (EOFError, zstandard.ZstdError) as error:
        found = "is cut off" if isinstance(error, EOFError) else f"is damaged ({error})"
        raise WorkloadError(
            f"workload {path}, line {number + 1}: the file {found}; fetch or write it again."
        ) from error
    rest = b"".join(begun)
    if rest:
        yield rest


def _chunks(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Go through the content of all frames of a file."""
    data = file.read(CHUNK)
    if not data.startswith(MAGIC):
        found = f"begins with {data[:8]!r}" if data else "is empty"
        raise WorkloadError(
            f"workload {path} is not zstd: it {found}; expected {FORMAT} (zstd FILE makes one of plain JSON lines)."
        )
    decompressor = zstandard.ZstdDecompressor()
    frame = decompressor.decompressobj()
    while data:
        yield frame.decompress(data)
        data = frame.unused_data or file.read(CHUNK)
        if frame.eof and data:
            frame = decompressor.decompressobj()
    if not frame.eof:
        raise EOFError


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
