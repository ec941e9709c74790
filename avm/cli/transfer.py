"""Transfer: conversations out of a home and into it, as JSON lines. What was imported is exported byte for byte."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import zstandard

from avm.cli.home import Refusal, opened
from avm.cli.progress import Bar, say
from avm.cli.workload import KeptFile, encode_line
from avm.errors import CorruptBlob, StoreError, WorkloadError
from avm.memory import Conversation, Store, format_size
from avm.memory.cold.lookup import Lookup
from avm.memory.cold.readback import ReadBack, in_order, read_back
from avm.memory.workload import MAGIC, broken, split_lines, unpack

HEAD = ("system", "tools", "messages")
"""Fields of a line that a conversation keeps itself; its meta keeps all others, and the places of these."""

LIFTED = ("source", "licence", "model")
"""What notes of a user's own say under these names, beside `id`, are fields of a line; all else is in its `meta`."""

CHUNK = 8 * 1024
"""Bytes of a file that are unpacked at once: in the worst case they come to 32,768 times as many."""

GROUP = 256
"""Conversations that may wait to be written."""

RECENT = 32
"""Conversations that an import keeps in memory after they were written, so that what the next has in common with them
is known."""


# Export.


def export_command(options: argparse.Namespace) -> int:
    """Carry out `avm store export`; return the exit status. Errors as `import_command`."""
    left_out = 0

    def wanted(name: str) -> bool:
        return not options.name or any(fnmatchcase(name, pattern) for pattern in options.name)

    with opened(options.home, read_only=True) as (_, cold), Bar() as bar, _output(options.file) as write:

        def leave_out(what: str) -> None:
            nonlocal left_out
            left_out += 1
            bar.say(f"avm store export: {what.rstrip('.')}. It is left out.")

        written = 0
        lookup = Lookup(cold)
        for id, name in in_order(cold, wanted, leave_out, bar):
            try:
                found = read_back(lookup, id)
            except StoreError as error:
                where = "" if cold.path in str(error) else f" in {cold.path}"
                leave_out(f"conversation {name!r}{where}: {error}")
                continue
            # Gone, or never at rest: its owner is at work on it.
            if found is not None:
                write(encode_line(record_of(found)))
                written += 1
    what = f"{written:,} conversation{'s' if written != 1 else ''} written to {options.file or 'standard output'}"
    if options.name and not written and not left_out:
        return say(
            f"avm store export: no conversation has a name like {' or '.join(map(repr, options.name))}.", 1
        )
    return say(
        f"avm store export: {what}{f', {left_out:,} left out' if left_out else ''}.", 1 if left_out else 0
    )


@contextmanager
def _output(path: Path | None) -> Iterator[Callable[[bytes], object]]:
    if path is None:
        try:
            yield sys.stdout.buffer.write
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Refusal(f"standard output cannot be written: {error.strerror}.", 1) from error
        return
    try:
        file = KeptFile(path)
        try:
            yield file.write
        except BaseException:
            file.abandon()
            raise
        file.close()
    except WorkloadError as error:
        raise Refusal(str(error).removeprefix("--out ")) from error


def record_of(found: ReadBack) -> dict[str, Any]:
    """Return a conversation as the line of a conversation file; one that was imported from such a line as that line."""
    meta = found.meta
    if meta.get("messages", "") is None:
        record = dict(meta)
    else:
        id = meta.get("id")
        lifted = {name: meta[name] for name in LIFTED if isinstance(meta.get(name), str)}
        own = {name: value for name, value in meta.items() if name not in lifted and name != "id"}
        notes = own["meta"] if list(own) == ["meta"] else own
        places = dict.fromkeys(HEAD)
        record = {"id": id if isinstance(id, str) and id else found.name, **lifted, **places, "meta": notes}
    for name, value in zip(HEAD, (found.system, found.tools, found.messages), strict=True):
        if name in record or value:
            record[name] = value
    return record


# Import.


@attrs.define
class _Imported:
    """What came of an import so far."""

    imported: int = 0
    replaced: int = 0
    known: int = 0
    respelled: int = 0

    def __str__(self) -> str:
        parts = [f"{self.imported:,} conversation{'s' if self.imported != 1 else ''} imported"]
        if self.replaced:
            parts.append(f"{self.replaced:,} replaced")
        if self.known:
            parts.append(f"{self.known:,} there already")
        return ", ".join(parts)


def import_command(options: argparse.Namespace) -> int:
    """Carry out `avm store import`; return the exit status.

    Raises:
        Refusal: the file or the home is not what it should be. HomeError, StoreError: the home refuses.
    """
    done = _Imported()
    try:
        with options.file.open("rb") as file, Bar() as bar:
            lines = _read_records(file, options.file, options.memory // 4)
            # Whatever is wrong with the file as a whole is told before there is a home.
            first = next(lines, None)
            if first is None:
                raise Refusal(f"{options.file} holds no conversation; give a file with at least one.")
            with Store.open(options.home, options.memory) as store:
                _import_all(store, options, chain((first,), lines), done, file, bar)
    except OSError as error:
        found = (
            "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        )
        raise Refusal(f"{options.file} cannot be read: {found}.") from error
    except Refusal as refusal:
        if done.imported or done.replaced or done.known:
            raise Refusal(f"{refusal} Before it, {done}; they stay.", refusal.status) from refusal
        raise
    if done.respelled:
        say(
            f"avm store import: {done.respelled:,} of the lines are spelled otherwise than an export spells them "
            "(spaces, escapes); it will have the same values.",
            0,
        )
    return say(f"avm store import: {done}, from {options.file} to {options.home}.", 0)


_Line = tuple[int, bytes, dict[str, Any]]


def _import_all(
    store: Store,
    options: argparse.Namespace,
    lines: Iterator[_Line],
    done: _Imported,
    file: BinaryIO,
    bar: Bar,
) -> None:
    size = max(options.file.stat().st_size, 1)
    backlog = _Backlog(options.memory // 8)
    for number, line, record in lines:
        bar("conversations", file.tell() / size)
        where = f"{options.file}, line {number}"
        made = _made(store, record, where)
        name = f"{options.prefix}{_id(record, number)}"
        future = None
        if _is_new(store, name, made, options.replace, where, done):
            # What is compressed is what dictionaries are made of, and it is written as it is.
            made.cool()
            future = store.roots.commit(name, made)
        done.respelled += encode_line(record).rstrip(b"\n") != line.rstrip(b"\n")
        store.roots.release(name)
        backlog.add(made, future)
        del made
        backlog.shorten()
        if number % 16 == 0:
            store.compress_idle(time.monotonic())
    backlog.end()


class _Backlog:
    """What of an import is in memory: what waits to be written, and what the next may have in common with the last.

    Args:
        most: bytes of conversations, as they are, that either of the two may come to.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._recent: deque[Conversation] = deque()
        self._waiting_bytes = self._recent_bytes = 0

    def add(self, made: Conversation, written: Future[None] | None) -> None:
        """Take a conversation; `written` is done when it is on disk, None if it need not be written."""
        if written is not None:
            self._waiting.append((written, made.size))
            self._waiting_bytes += made.size
        self._recent.append(made)
        self._recent_bytes += made.size

    def shorten(self) -> None:
        """Wait until few enough wait, and let go of the oldest of the others. Raises what a commit has failed with."""
        while self._waiting and (len(self._waiting) > GROUP or self._waiting_bytes > self._most):
            future, size = self._waiting.popleft()
            future.result()
            self._waiting_bytes -= size
        while len(self._recent) > RECENT or (len(self._recent) > 1 and self._recent_bytes > self._most):
            self._recent_bytes -= self._recent.popleft().size

    def end(self) -> None:
        """Wait until all is on disk. Raises as `shorten`."""
        for future, _ in self._waiting:
            future.result()


def _made(store: Store, record: dict[str, Any], where: str) -> Conversation:
    frame = {name: None if name in HEAD else value for name, value in record.items()}
    try:
        made = Conversation(store, record.get("system", ""), record.get("tools", []), frame)
        return made.extend(record["messages"])
    except StoreError as error:
        raise Refusal(f"{where}: {error}", 1) from error
    except (TypeError, ValueError) as error:
        raise Refusal(f"{where}: {error}") from error


def _id(record: dict[str, Any], number: int) -> str:
    id = record.get("id")
    return str(id) if (isinstance(id, str) and id) or type(id) is int else str(number)


def _is_new(store: Store, name: str, made: Conversation, replace: bool, where: str, done: _Imported) -> bool:
    """Tell whether a conversation is to be committed, and count it.

    With `replace` what is there already is written again all the same: that mends what is damaged of it.
    """
    try:
        found = store.roots.get(name)
        # Its meta in the order of the line as well: an export shows it.
        is_same = found is not None and found == made and json.dumps(found.meta) == json.dumps(made.meta)
    except CorruptBlob:
        found, is_same = made, False
    if is_same:
        done.known += 1
        return replace
    if found is None:
        done.imported += 1
        return True
    if not replace:
        raise Refusal(
            f"{where}: there is a conversation {name!r} with other content already. Give --replace to put this one in "
            "its place, or --prefix to give these names of their own.",
            1,
        )
    done.replaced += 1
    return True


def _read_records(file: BinaryIO, path: Path, most: int) -> Iterator[_Line]:
    """Go through the conversations of a file: number of the line, the line, and what it says."""
    number = 0
    try:
        for number, line in enumerate(split_lines(_limited(_unpacked(file), most)), 1):
            if line.strip():
                yield number, line, _parsed(line)
    except (EOFError, zstandard.ZstdError) as error:
        raise Refusal(f"{path}, line {number + 1}: the file {broken(error)}") from error
    except ValueError as error:
        raise Refusal(f"{path}, line {max(number, 1)}: {error}") from error


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    """Go through the content of a file, of all its frames if it is zstd."""
    chunk = file.read(CHUNK)
    if chunk.startswith(MAGIC):
        yield from unpack(file, chunk, CHUNK)
        return
    while chunk:
        yield chunk
        chunk = file.read(CHUNK)


def _limited(chunks: Iterator[bytes], most: int) -> Iterator[bytes]:
    """Go through chunks, as long as no line that goes on from one to the next is longer than `most` bytes."""
    size = 0
    for chunk in chunks:
        yield chunk
        end = chunk.rfind(b"\n")
        size = size + len(chunk) if end < 0 else len(chunk) - end - 1
        if size > most:
            raise Refusal(
                f"a line of {format_size(size)} or more is larger than a quarter of --memory; give more of it.",
                1,
            )


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}; expected one conversation a line.") from error
    if not isinstance(record, dict):
        raise ValueError(f"a conversation is an object, got {type(record).__name__}.")
    for name, kind, default in (("messages", list, None), ("system", str, ""), ("tools", list, [])):
        value = record.get(name, default)
        if not isinstance(value, kind):
            raise ValueError(f"{name!r} must be a {kind.__name__}, got {type(value).__name__}.")
    return record
