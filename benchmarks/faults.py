"""Faults: what a home on disk comes through. Prints one JSON object a line, as the other benchmarks do.

    python benchmarks/faults.py [--rounds 200] [--quick] [--cold sqlite|lmdb] [--only NAME] [--data DIR]

Every line says how often something happened that must not; `bar` and `met` judge it, `note` says how it came about.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import kills
import scribbles
from measure import Line
from victim import digest

from avm.errors import ColdStoreError, HomeError, HomeInUse, HomeTooNew, WorkloadError
from avm.memory import Conversation, Store, read_conversations

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
ROUNDS = 200
CAP = 12_000
"""Bytes for each conversation that a file may have while the disk is full: about half of what they take."""

NOBODY = 65534

HOLDER = """
import sys
from avm.memory import Store
store = Store.open(sys.argv[1], cold=sys.argv[2])
print("open", flush=True)
sys.stdin.read()
"""


@attrs.frozen
class Ground:
    """What all rows work with."""

    folder: Path
    texts: list[Any]
    rounds: int
    cold: str
    quick: bool

    def home(self, name: str) -> Path:
        """Return the place of a home of a row's own."""
        return self.folder / f"{name}-{self.cold}"


def count(measure: str, n: int, value: float, *, most: float | None = 0, note: str | None = None) -> Line:
    """Make the line of a count; `most` is its bar, None without one."""
    bar = None if most is None else f"<= {most:g}"
    met = None if most is None else value <= most
    return Line(measure=measure, n=n, value=value, unit="times", bar=bar, met=met, note=note or None)


# The rows.


def killed(ground: Ground) -> Iterator[Line]:
    """A process that writes, commits, forks, forgets, spills and sweeps is killed at any moment."""
    texts = ground.folder / "texts.json"
    texts.write_text(json.dumps(ground.texts))
    toll = kills.kill_again_and_again(ground.rounds, ground.cold, ground.folder, texts)
    for name, value in kills.as_figures(toll).items():
        bad = name != "acknowledged commits"
        note = "; ".join(toll.notes[:3]) if bad and value else None
        yield count(f"kill -9: {name}", toll.rounds, value, most=0 if bad else None, note=note)


def disk_full(ground: Ground) -> Iterator[Line]:
    """No file can grow any more, and then it can again."""
    home, n = ground.home("full"), 20 if ground.quick else 200
    expected: dict[str, str] = {}
    refused, others = 0, []
    with Store.open(home, cold=ground.cold, durable=False) as store:
        with small_files(n * CAP):
            for number in range(n):
                made = talk(store, ground, number)
                try:
                    store.roots.commit(f"agent-{number}", made).result()
                    expected[f"agent-{number}"] = digest(made)
                except ColdStoreError:
                    refused += 1
                except Exception as error:
                    others.append(f"{type(error).__name__}: {error}")
        store.statistics()
        lost = _lost(store, expected)
        for number in range(n):
            made = talk(store, ground, number)
            store.roots.commit(f"agent-{number}", made).result()
            expected[f"agent-{number}"] = digest(made)
    with Store.open(home, cold=ground.cold, durable=False) as store:
        lost += _lost(store, expected)
        dangling = len(list(kills.dangling(store.need_archive())))
    yield count("disk full: commits refused", n, refused, most=None)
    yield count("disk full: other exceptions than ColdStoreError", n, len(others), note="; ".join(others[:3]))
    yield count("disk full: commits lost", n, lost)
    yield count("disk full: dangling references", n, dangling)


def read_only(ground: Ground) -> Iterator[Line]:
    """Nothing can be written in the directory, nor to the files in it."""
    home = ground.home("sealed")
    with Store.open(home, cold=ground.cold, durable=False) as store:
        store.roots.commit("agent", talk(store, ground, 1)).result()
    silent, others = 0, []
    sealed = [home, home / "below", home / "avm.json"]
    with nothing_writable(home):
        for each in sealed:
            try:
                Store.open(each, cold=ground.cold).close()
                silent += 1
            except (HomeError, ColdStoreError):
                pass
            except Exception as error:
                others.append(f"{type(error).__name__}: {error}")
    with Store.open(home, cold=ground.cold, durable=False) as store:
        lost = store.roots.get("agent") is None
    yield count("read-only: opened all the same", len(sealed), silent)
    yield count(
        "read-only: other exceptions than HomeError or ColdStoreError",
        len(sealed),
        len(others),
        note="; ".join(others),
    )
    yield count("read-only: commits lost", 1, int(lost))


def damaged(ground: Ground) -> Iterator[Line]:
    """Files that were cut short, scribbled on, or exchanged."""
    n = min(ground.rounds, 100)
    names = 8 if ground.quick else 30
    counts, notes = scribbles.scribble_again_and_again(n, ground.cold, ground.folder, ground.texts, names)
    groups = {
        "wrong content": "WRONG",
        "other exceptions": "OTHER",
        "hangs": "HANGS",
        "deaths": "DIED",
        "names missing without an error": "missing",
        "older versions without an error": "older",
    }
    for name, begins in groups.items():
        value = sum(times for what, times in counts.items() if what.startswith(begins))
        # LMDB has no checksums, and ends the process where it finds a page that cannot be.
        judged = 0 if ground.cold == "sqlite" or begins not in ("DIED", "missing", "older") else None
        said = [note for note in notes if begins in note]
        yield count(f"damaged: {name}", n, value, most=judged, note="; ".join(said[:3]))
    for what in ("right", "CorruptBlob", "ColdStoreError", "MissingBlob"):
        yield count(f"damaged: reads that were {what}", n, counts[what], most=None)


def in_use(ground: Ground) -> Iterator[Line]:
    """A second process opens the home, and is told who has it."""
    home = ground.home("used")
    words = [sys.executable, "-c", HOLDER, str(home), ground.cold]
    with subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.readline()
        note = None
        try:
            Store.open(home, cold=ground.cold).close()
            note = "it was opened twice"
        except HomeInUse as error:
            if str(holder.pid) not in str(error) or str(holder.pid) not in error.holder:
                note = f"the holder is {holder.pid}: {error}"
        holder.stdin.close()
    Store.open(home, cold=ground.cold).close()
    yield count("in use: not refused, or without the holder's pid", 1, int(note is not None), note=note)


def too_new(ground: Ground) -> Iterator[Line]:
    """A home that a newer avm has written."""
    home = ground.home("new")
    Store.open(home, cold=ground.cold).close()
    mark = home / "avm.json"
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "format": 99, "made_by": "avm 99"}))
    before = {path: path.read_bytes() for path in home.iterdir() if path.is_file()}
    note = "it was opened"
    try:
        Store.open(home).close()
    except HomeTooNew as error:
        note = "" if error.found == 99 else str(error)
    changed = before != {path: path.read_bytes() for path in home.iterdir() if path.is_file()}
    yield count("too new: not refused, or changed", 1, int(bool(note) or changed), note=note)


ROWS: dict[str, Callable[[Ground], Iterator[Line]]] = {
    "killed": killed,
    "disk-full": disk_full,
    "read-only": read_only,
    "damaged": damaged,
    "in-use": in_use,
    "too-new": too_new,
}


# What they share.


def talk(store: Store, ground: Ground, number: int) -> Conversation:
    """Return a conversation of some 20 messages of real text."""
    texts = ground.texts
    made = Conversation.new(store, texts[number % 5]["content"], [{"name": "book"}], {"number": number})
    return made.extend(texts[(number * 11 + at) % len(texts)] for at in range(20)).append(
        {"role": "user", "content": f"{number} " + os.urandom(12_000).hex()}
    )


def _lost(store: Store, expected: dict[str, str]) -> int:
    lost = 0
    for name, right in expected.items():
        found = store.roots.get(name)
        lost += found is None or digest(found) != right
    return lost


@contextmanager
def nothing_writable(home: Path) -> Iterator[None]:
    """Let this process write nothing in a home; root becomes nobody for that."""
    modes = {path: path.stat().st_mode for path in (home.parent, home, *home.rglob("*"))}
    for path in modes:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        for path, mode in modes.items():
            path.chmod(mode)


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let no file of this process grow any more beyond so many bytes: the nearest to a full disk without a mount."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def read_texts(folder: Path) -> list[Any]:
    """Return some hundred real messages, prompts first."""
    texts: list[Any] = []
    for name in ("tau_airline", "swe_agent_java", "mint"):
        for found in islice(read_conversations(folder / f"{name}.jsonl.zst"), 12):
            texts.insert(0, {"role": "system", "content": found.get("system", "")[:6000]})
            texts += found["messages"][:12]
    return texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what was asked for; the exit status is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description="Do to a home what must not hurt it.")
    add = parser.add_argument
    add("--rounds", type=int, default=None, help=f"kills, and ways to damage files (default {ROUNDS}, 100)")
    add("--quick", action="store_true", help="three rounds, small homes: shows that it runs")
    add("--cold", choices=("sqlite", "lmdb"), default="sqlite", help="the cold store (default sqlite)")
    add("--only", metavar="NAME", action="append", choices=ROWS, help="a row; may be repeated")
    add("--data", type=Path, metavar="DIR", default=Path(os.environ.get("AVM_DATA") or DATA))
    options = parser.parse_args(arguments)
    rounds = options.rounds or (3 if options.quick else ROUNDS)
    try:
        texts = read_texts(options.data)
    except WorkloadError as error:
        parser.exit(2, f"{error} --data DIR names the folder that has the conversations.\n")
    missed = False
    with tempfile.TemporaryDirectory(prefix="avm-faults-") as folder:
        ground = Ground(Path(folder), texts, rounds, options.cold, options.quick)
        for name in options.only or ROWS:
            for each in ROWS[name](ground):
                print(each.json(), flush=True)
                missed |= each.met is False
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
