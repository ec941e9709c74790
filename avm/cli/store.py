"""`avm store`: look into a home, check and mend it, clear it out, and get conversations out of it and into it.

`stat`, `verify` and `export` change nothing and work beside the process that has the home open; `gc`, `import` and
`verify --repair` need it for themselves. Results go to standard output; progress, what was left out and what went wrong
to standard error, a line each. The exit status:

    0    it was done, and nothing is wrong
    1    the home is damaged, or not all could be exported or imported
    2    the command line, the home or the file is not what it should be
"""

from __future__ import annotations

import argparse
import json
import re
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NoReturn

import attrs
import zstandard

from avm.cli.workload import KeptFile, encode_line
from avm.errors import AVMError, CorruptBlob, HomeError, HomeInUse, StoreError, WorkloadError
from avm.memory import Conversation, Store, format_size, parse_size
from avm.memory.cold import check
from avm.memory.cold.archive import Archive
from avm.memory.cold.check import ReadBack, Repair, Share, Survey, VerifyReport
from avm.memory.cold.coldstore import ColdStore
from avm.memory.cold.home import MARK, Home
from avm.memory.cold.opening import compact, disk_bytes, open_cold

MEMORY = "1GB"

HEAD = ("system", "tools", "messages")
"""Fields of a line that a conversation keeps itself; its meta keeps all others, and the places of these."""

LIFTED = ("source", "licence", "model")
"""What notes of a user's own say under these names, beside `id`, are fields of a line; all else is in its `meta`."""

CHUNK = 8 * 1024
"""Bytes of a file that are unpacked at once: in the worst case they come to 32,768 times as many."""

MAGIC = b"\x28\xb5\x2f\xfd"

GROUP = 256
"""Conversations that may wait to be written."""

RECENT = 32
"""Conversations that an import keeps in memory after they were written, so that what the next has in common with them
is known."""


class _Refusal(AVMError):
    """What is asked for cannot be done; `status` is the exit status."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


def store_command(argv: Sequence[str]) -> int:
    """Carry out `avm store` with these arguments; return the exit status."""
    prefix = "avm store"
    try:
        options = _parser().parse_args(list(argv))
        prefix = f"avm store {options.command}"
        status: int = options.carry_out(options)
        return status
    except _Refusal as refusal:
        return _say(f"{prefix}: {refusal}", refusal.status)
    except HomeInUse as error:
        beside = "stat, verify without --repair, and export work beside it"
        return _say(f"{prefix}: home {error.path} is in use by {error.holder}. End that first; {beside}.", 2)
    except HomeError as error:
        return _say(f"{prefix}: {error}", 2)
    except (StoreError, WorkloadError) as error:
        return _say(f"{prefix}: {error}", 1)
    except sqlite3.Error as error:
        # All that reads a home makes these its own; what is left are the temporary files.
        return _say(
            f"{prefix}: temporary files cannot be written ({error}). Make room in the folder TMPDIR.", 1
        )


def _say(line: str, status: int) -> int:
    print(line, file=sys.stderr, flush=True)
    return status


@contextmanager
def _opened(path: Path, *, read_only: bool) -> Iterator[tuple[Home, ColdStore]]:
    _require_home(path)
    with Home.open(path, read_only=read_only) as home:
        cold = open_cold(home)
        try:
            yield home, cold
        finally:
            cold.close()


def _require_home(path: Path) -> None:
    if not path.is_dir():
        found = "it is a file" if path.exists() else "no such directory"
        raise _Refusal(f"there is no home {path}: {found}. `avm store import HOME FILE` makes one.")
    if not (path / MARK).exists():
        raise _Refusal(f"{path} is no home: it has no {MARK}. `avm store import HOME FILE` makes one.")


class _Bar:
    """Shows how far it is, if somebody looks: a bar on standard error that is gone when it is over."""

    def __init__(self) -> None:
        self._is_seen = sys.stderr.isatty()
        self._bar: Any = None
        self._what = ""

    def __call__(self, what: str, part: float) -> None:
        if not self._is_seen:
            return
        if what != self._what:
            self._begin(what)
        if self._bar is not None:
            self._bar.update(max(0.0, part * 100 - self._bar.n))

    def _begin(self, what: str) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

        self.clear()
        self._what = what
        self._bar = tqdm(
            total=100,
            desc=what,
            bar_format="{desc} {percentage:3.0f}% {bar} {elapsed}",
            file=sys.stderr,
            leave=False,
            delay=0.5,
            disable=None,
        )

    def say(self, line: str) -> None:
        """Write a line to standard error, and go on below."""
        self.clear()
        print(line, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._what = None, ""

    def __enter__(self) -> _Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()


# Stat.


def _stat(options: argparse.Namespace) -> int:
    with _opened(options.home, read_only=True) as (home, cold), _Bar() as bar:
        found = check.survey(cold, home.path, bar)
    if options.json:
        figures = {"unique_bytes", "stored_bytes", "dedup", "compression"}
        derived = {name: getattr(found, name) for name in sorted(figures)}
        place = {"home": str(home.path), "cold": home.kind, "format": home.format}
        print(json.dumps({**place, **attrs.asdict(found), **derived}))
    else:
        print("\n".join(_describe(home, found)))
    return 0


def _describe(home: Home, found: Survey) -> Iterator[str]:
    yield f"{home.path}: {home.kind}, format {home.format}, {format_size(found.disk_bytes)} on disk"
    yield f"conversations  {found.conversations:,} of {found.messages:,} messages"
    yield f"logical bytes  {format_size(found.logical_bytes)}, each conversation in full"
    yield f"unique bytes   {format_size(found.unique_bytes)}, dedup {found.dedup:.1%}"
    yield f"stored bytes   {format_size(found.stored_bytes)}, compression {found.compression:.2f} times"
    for kind, share in (*found.kinds.items(), ("orphans", found.orphans)):
        yield f"  {kind:<13}{_share(share)}"
    yield f"  {'manifests':<13}{found.conversations:,}, {format_size(found.manifest_bytes)}"
    yield f"  {'dictionaries':<13}{found.dictionaries:,}, {format_size(found.dictionary_bytes)}"
    yield f"large files    {found.files:,}, {format_size(found.file_bytes)}"
    yield f"quarantined    {found.quarantined:,}"
    if found.damaged:
        yield f"damaged        {found.damaged:,}; `avm store verify {home.path}` says which"


def _share(share: Share) -> str:
    if not share.count:
        return "0"
    return f"{share.count:,}, {format_size(share.raw_bytes)} stored as {format_size(share.stored_bytes)}"


# Verify.


def _verify(options: argparse.Namespace) -> int:
    mended: Repair | None = None
    before: VerifyReport | None = None
    with _opened(options.home, read_only=not options.repair) as (home, cold), _Bar() as bar:
        report = check.verify(cold, home.files, bar)
        while options.repair and report.problems:
            before = before or report
            done = check.repair(cold, report)
            mended = Repair(
                *map(sum, zip(attrs.astuple(mended or Repair()), attrs.astuple(done), strict=True))
            )
            if not done.changes:
                break
            report = check.verify(cold, home.files, bar)
    if options.json:
        said = {"home": str(home.path), "sound": report.is_sound, **_as_json(report)}
        if options.repair:
            said["found"] = _as_json(before)["problems"] if before is not None else []
            said["repair"] = attrs.asdict(mended or Repair())
        print(json.dumps(said))
    else:
        print("\n".join(_tell(home, report, before, mended)))
    return 0 if report.is_sound else 1


def _as_json(report: VerifyReport) -> dict[str, Any]:
    found = attrs.asdict(report, recurse=False)
    found["problems"] = [
        {"kind": each.kind, "name": each.name, "path": each.path, "what": each.what}
        for each in report.problems
    ]
    return found


def _tell(
    home: Home, report: VerifyReport, before: VerifyReport | None, mended: Repair | None
) -> Iterator[str]:
    yield from _lines_of(before or report)
    if mended is not None:
        counts = {
            "damaged records put in quarantine": mended.quarantined,
            "stray edges deleted": mended.edges_deleted,
            "missing edges added": mended.edges_added,
            "stray segments deleted": mended.segments_deleted,
        }
        did = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        yield f"repaired: {did or 'nothing that could be'}; {'still wrong:' if report.problems else 'all is well now.'}"
        yield from _lines_of(report)
    seen = [
        f"{report.conversations:,} conversations of {report.messages:,} messages",
        f"{report.records:,} records ({report.orphans:,} orphans)",
        f"{report.segments:,} segments",
        f"{report.edges:,} edges",
        f"{report.dictionaries:,} dictionaries",
        f"{report.files:,} files ({report.unfinished:,} unfinished)",
        f"{report.quarantined:,} in quarantine",
    ]
    yield f"{home.path}: {', '.join(seen)}."
    if report.is_sound:
        yield "Nothing is wrong."
        return
    problems = len(report.problems) + report.more
    count = f"{problems:,} problem{'s' if problems != 1 else ''}"
    yield f"{count}; {report.unreadable:,} of {report.conversations:,} conversations cannot be read back."


def _lines_of(report: VerifyReport) -> Iterator[str]:
    yield from map(str, report.problems)
    if report.more:
        yield f"and {report.more:,} more."


# Clearing out.


def _gc(options: argparse.Namespace) -> int:
    status = 0
    _require_home(options.home)
    with Home.open(options.home) as home, _Bar() as bar:
        before = disk_bytes(home.path)
        cold = open_cold(home)
        try:
            seen, swept = _sweep(cold, bar)
            print(f"records       {swept:,} of {seen:,} deleted, which no conversation refers to")
            if options.drop_quarantine:
                print(f"quarantine    {check.drop_quarantine(cold):,} deleted")
            dropped = check.drop_dictionaries(cold, bar)
            kept = "all kept: something is damaged, so it is not known which are needed"
            print(f"dictionaries  {kept if dropped is None else f'{dropped:,} deleted'}")
            if options.drop_files:
                status = _drop_files(cold, home, bar)
        finally:
            cold.close()
        compact(home)
        after = disk_bytes(home.path)
    print(
        f"on disk       {format_size(before)} before, {format_size(after)} after ({before:,} and {after:,} bytes)"
    )
    return status


def _sweep(cold: ColdStore, bar: _Bar) -> tuple[int, int]:
    archive = Archive(cold, lambda key: False, lambda kind: None, lambda: 0)
    seen = swept = 0
    after: bytes | None = b""
    try:
        while after is not None:
            sweep = archive.sweep(after)
            sweep.future.result()
            seen, swept, after = seen + sweep.seen, swept + sweep.deleted, sweep.next
            bar("records", int.from_bytes((after or b"\xff" * 8)[:8], "big") / (1 << 64))
    finally:
        archive.writer.close()
    return seen, swept


def _drop_files(cold: ColdStore, home: Home, bar: _Bar) -> int:
    try:
        doomed = check.unneeded_files(cold, home.files, bar)
        size = sum(path.stat().st_size for path in doomed)
        for path in doomed:
            path.unlink()
    except StoreError as error:
        bar.say(f"avm store gc: no file is deleted, since not all that may name them can be read: {error}")
        return 1
    except OSError as error:
        bar.say(f"avm store gc: {error.filename} cannot be deleted: {error.strerror}.")
        return 1
    print(f"large files   {len(doomed):,} deleted, {format_size(size)}")
    return 0


# Export.


def _export(options: argparse.Namespace) -> int:
    left_out = 0

    def wanted(name: str) -> bool:
        return not options.name or any(fnmatchcase(name, pattern) for pattern in options.name)

    with _opened(options.home, read_only=True) as (_, cold), _Bar() as bar, _output(options.file) as write:

        def leave_out(what: str) -> None:
            nonlocal left_out
            left_out += 1
            bar.say(f"avm store export: {what.rstrip('.')}. It is left out.")

        written = 0
        lookup = check.Lookup(cold)
        for id, name in check.in_order(cold, wanted, leave_out, bar):
            try:
                found = check.read_back(lookup, id)
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
        return _say(
            f"avm store export: no conversation has a name like {' or '.join(map(repr, options.name))}.", 1
        )
    return _say(
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
            raise _Refusal(f"standard output cannot be written: {error.strerror}.", 1) from error
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
        raise _Refusal(str(error).removeprefix("--out ")) from error


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


def _import(options: argparse.Namespace) -> int:
    done = _Imported()
    try:
        with options.file.open("rb") as file, _Bar() as bar:
            lines = _read_records(file, options.file, options.memory // 4)
            # Whatever is wrong with the file as a whole is told before there is a home.
            first = next(lines, None)
            if first is None:
                raise _Refusal(f"{options.file} holds no conversation; give a file with at least one.")
            with Store.open(options.home, options.memory) as store:
                _import_all(store, options, _chain(first, lines), done, file, bar)
    except OSError as error:
        found = (
            "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        )
        raise _Refusal(f"{options.file} cannot be read: {found}.") from error
    except _Refusal as refusal:
        if done.imported or done.replaced or done.known:
            raise _Refusal(f"{refusal} Before it, {done}; they stay.", refusal.status) from refusal
        raise
    if done.respelled:
        _say(
            f"avm store import: {done.respelled:,} of the lines are spelled otherwise than an export spells them "
            "(spaces, escapes); it will have the same values.",
            0,
        )
    return _say(f"avm store import: {done}, from {options.file} to {options.home}.", 0)


_Line = tuple[int, bytes, dict[str, Any]]


def _chain(first: _Line, rest: Iterator[_Line]) -> Iterator[_Line]:
    yield first
    yield from rest


def _import_all(
    store: Store,
    options: argparse.Namespace,
    lines: Iterator[_Line],
    done: _Imported,
    file: BinaryIO,
    bar: _Bar,
) -> None:
    size = max(options.file.stat().st_size, 1)
    # What waits to be written is in memory, and so is what the next may have in common with the last ones.
    waiting: deque[tuple[Future[None], int]] = deque()
    recent: deque[Conversation] = deque()
    waiting_bytes = recent_bytes = 0
    for number, line, record in lines:
        bar("conversations", file.tell() / size)
        made = _made(store, record, f"{options.file}, line {number}")
        name = f"{options.prefix}{_id(record, number)}"
        if _is_new(store, name, made, options.replace, f"{options.file}, line {number}", done):
            # What is compressed is what dictionaries are made of, and it is written as it is.
            made.cool()
            waiting.append((store.roots.commit(name, made), made.size))
            waiting_bytes += made.size
        done.respelled += encode_line(record).rstrip(b"\n") != line.rstrip(b"\n")
        store.roots.release(name)
        recent.append(made)
        recent_bytes += made.size
        del made
        while waiting and (len(waiting) > GROUP or waiting_bytes > options.memory // 8):
            future, written = waiting.popleft()
            future.result()
            waiting_bytes -= written
        while len(recent) > RECENT or (len(recent) > 1 and recent_bytes > options.memory // 8):
            recent_bytes -= recent.popleft().size
        if number % 16 == 0:
            store.compress_idle(time.monotonic())
    for future, _ in waiting:
        future.result()


def _made(store: Store, record: dict[str, Any], where: str) -> Conversation:
    frame = {name: None if name in HEAD else value for name, value in record.items()}
    try:
        made = Conversation(store, record.get("system", ""), record.get("tools", []), frame)
        return made.extend(record["messages"])
    except StoreError as error:
        raise _Refusal(f"{where}: {error}", 1) from error
    except (TypeError, ValueError) as error:
        raise _Refusal(f"{where}: {error}") from error


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
        raise _Refusal(
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
        for number, line in enumerate(_split(_unpacked(file), most), 1):
            if line.strip():
                yield number, line, _parsed(line)
    except (EOFError, zstandard.ZstdError) as error:
        found = "is cut off" if isinstance(error, EOFError) else f"is damaged ({error})"
        raise _Refusal(f"{path}, line {number + 1}: the file {found}; fetch or write it again.") from error
    except ValueError as error:
        raise _Refusal(f"{path}, line {max(number, 1)}: {error}") from error


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    """Go through the content of a file, of all its frames if it is zstd."""
    chunk = file.read(CHUNK)
    if not chunk.startswith(MAGIC):
        while chunk:
            yield chunk
            chunk = file.read(CHUNK)
        return
    decompressor = zstandard.ZstdDecompressor()
    frame = decompressor.decompressobj()
    while chunk:
        yield frame.decompress(chunk)
        chunk = frame.unused_data or file.read(CHUNK)
        if frame.eof and chunk:
            frame = decompressor.decompressobj()
    if not frame.eof:
        raise EOFError


def _split(chunks: Iterator[bytes], most: int) -> Iterator[bytes]:
    """Go through the lines, which end in "\\n" and nothing else; a long one is put together once."""
    begun: list[bytes] = []
    size = 0
    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            begun.append(piece)
            yield b"".join(begun)
            begun, size = [], 0
        begun.append(rest)
        size += len(rest)
        if size > most:
            raise _Refusal(
                f"a line of {format_size(size)} or more is larger than a quarter of --memory; give more of it.",
                1,
            )
    if any(begun):
        yield b"".join(begun)


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


# The command line.


class _Parser(argparse.ArgumentParser):
    """Says what is wrong by raising it."""

    def error(self, message: str) -> NoReturn:
        text = re.sub(r"^argument (?:-\w, )?(--[\w-]+|[A-Z]+):", r"\1", message)
        raise _Refusal(f"{text.rstrip('.')}. `{self.prog} --help` lists what there is.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="avm store",
        allow_abbrev=False,
        description="Look into a home, the directory in which avm keeps conversations; check and mend it, clear it "
        "out, get conversations out of it and into it. stat, verify and export change nothing; they work while avm "
        "runs.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(
        name: str, carry_out: Callable[[argparse.Namespace], int], help: str, more: str = ""
    ) -> _Parser:
        made: _Parser = commands.add_parser(
            name,
            help=help,
            allow_abbrev=False,
            description=f"{help[0].upper()}{help[1:]}.{more and f' {more}'}",
        )
        made.add_argument("home", type=Path, metavar="HOME", help="the directory")
        made.set_defaults(carry_out=carry_out)
        return made

    stat = command("stat", _stat, "count what is in a home: conversations, what they take, what they share")
    stat.add_argument("--json", action="store_true", help="write one JSON object")
    verify = command(
        "verify",
        _verify,
        "compare all that is in a home with its digests",
        "Each problem is a line that names digest or conversation, and the file. The exit status is 1 if there is any.",
    )
    verify.add_argument("--json", action="store_true", help="write one JSON object")
    verify.add_argument(
        "--repair",
        action="store_true",
        help="put damaged records in quarantine, so that their content can be written anew; delete edges and segments "
        "that belong to no conversation, add edges that are missing",
    )
    gc = command(
        "gc",
        _gc,
        "delete what no conversation refers to, and give the space back to the disk",
        "Nobody else may have the home open.",
    )
    gc.add_argument(
        "--drop-quarantine", action="store_true", help="delete the records that were found damaged, too"
    )
    gc.add_argument(
        "--drop-files",
        action="store_true",
        help="delete unfinished large files, and those whose digest (64 hexadecimal digits) is in no conversation",
    )
    _add_transfers(command)
    return parser


def _add_transfers(command: Callable[..., _Parser]) -> None:
    export = command(
        "export",
        _export,
        "write conversations as JSON lines, those first that were committed first",
        "A conversation that was imported is written as the line it was. What is damaged is left out and told, and the "
        "exit status is 1.",
    )
    export.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="where to; a name in .zst is compressed (default: stdout)",
    )
    export.add_argument(
        "--name",
        action="append",
        metavar="PATTERN",
        help="only conversations of such names, as 'critic*'; may be given more than once",
    )
    into = command(
        "import",
        _import,
        "read conversations from JSON lines, plain or zstd, into a home",
        "The home is made if there is none. Each is named by the `id` of its line, or by the number of the line.",
    )
    into.add_argument("file", type=Path, metavar="FILE", help="a file of conversations, as export writes it")
    into.add_argument("--prefix", default="", metavar="TEXT", help="what all names shall begin with")
    into.add_argument(
        "--replace",
        action="store_true",
        help="put them in the place of others of the same names (default: refuse), and write again what is there "
        "already, which mends it if it is damaged",
    )
    into.add_argument(
        "--memory",
        type=_memory,
        default=parse_size(MEMORY),
        metavar="SIZE",
        help=f"ceiling of what is held meanwhile, as 4GB (default: {MEMORY})",
    )


def _memory(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("memory size ")) from None
