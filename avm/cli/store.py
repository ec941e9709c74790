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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import attrs

from avm.cli.home import Refusal, opened, require_home
from avm.cli.progress import Bar, say
from avm.cli.transfer import export_command, import_command
from avm.errors import HomeError, HomeInUse, StoreError, WorkloadError
from avm.memory import format_size, parse_size
from avm.memory.cold.archive import Archive
from avm.memory.cold.coldstore import ColdStore
from avm.memory.cold.home import Home
from avm.memory.cold.litter import drop_dictionaries, drop_quarantine, unneeded_files
from avm.memory.cold.opening import compact, disk_bytes, open_cold
from avm.memory.cold.repair import Repair, repair
from avm.memory.cold.survey import Share, Survey, survey
from avm.memory.cold.verify import VerifyReport, verify

MEMORY = "1GB"
"""The ceiling of what an import holds, if none is given."""


def store_command(argv: Sequence[str]) -> int:
    """Carry out `avm store` with these arguments; return the exit status."""
    prefix = "avm store"
    try:
        options = _parser().parse_args(list(argv))
        prefix = f"avm store {options.command}"
        status: int = options.carry_out(options)
        return status
    except Refusal as refusal:
        return say(f"{prefix}: {refusal}", refusal.status)
    except HomeInUse as error:
        beside = "stat, verify without --repair, and export work beside it"
        return say(f"{prefix}: home {error.path} is in use by {error.holder}. End that first; {beside}.", 2)
    except HomeError as error:
        return say(f"{prefix}: {error}", 2)
    except (StoreError, WorkloadError) as error:
        return say(f"{prefix}: {error}", 1)
    except sqlite3.Error as error:
        # All that reads a home makes these its own; what is left are the temporary files.
        return say(
            f"{prefix}: temporary files cannot be written ({error}). Make room in the folder TMPDIR.", 1
        )


# Stat.


def _stat(options: argparse.Namespace) -> int:
    with opened(options.home, read_only=True) as (home, cold), Bar() as bar:
        found = survey(cold, home.path, bar)
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
    with opened(options.home, read_only=not options.repair) as (home, cold), Bar() as bar:
        report = verify(cold, home.files, bar)
        while options.repair and report.problems:
            before = before or report
            done = repair(cold, report)
            mended = (mended or Repair()) + done
            if not done.changes:
                break
            report = verify(cold, home.files, bar)
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
    require_home(options.home)
    with Home.open(options.home) as home, Bar() as bar:
        before = disk_bytes(home.path)
        cold = open_cold(home)
        try:
            seen, swept = _sweep(cold, bar)
            print(f"records       {swept:,} of {seen:,} deleted, which no conversation refers to")
            if options.drop_quarantine:
                print(f"quarantine    {drop_quarantine(cold):,} deleted")
            dropped = drop_dictionaries(cold, bar)
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


def _sweep(cold: ColdStore, bar: Bar) -> tuple[int, int]:
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


def _drop_files(cold: ColdStore, home: Home, bar: Bar) -> int:
    try:
        doomed = unneeded_files(cold, home.files, bar)
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


# The command line.


class _Parser(argparse.ArgumentParser):
    """Says what is wrong by raising it."""

    def error(self, message: str) -> NoReturn:
        text = re.sub(r"^argument (?:-\w, )?(--[\w-]+|[A-Z]+):", r"\1", message)
        raise Refusal(f"{text.rstrip('.')}. `{self.prog} --help` lists what there is.")


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
        export_command,
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
        import_command,
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
