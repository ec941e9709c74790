"""Kills: a process that works on a home is killed, again and again, and what it leaves is looked at."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from victim import digest

from avm.errors import CorruptBlob, MissingBlob
from avm.memory import Store
from avm.memory.cold import records
from avm.memory.cold.archive import Archive

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 0.6
"""Seconds after which a victim is killed at the latest; it has done some hundred things by then."""

Promises = dict[str, list[tuple[str | None, bool]]]
"""By name what was handed in, in order: the digest, None to forget it, and whether it was acknowledged."""


@attrs.define(slots=True)
class Toll:
    """What went wrong, and how much there was that could have."""

    rounds: int = 0
    handed: int = 0
    acknowledged: int = 0
    lost: int = 0
    dangling: int = 0
    corrupt: int = 0
    orphans: int = 0
    not_opened: int = 0
    notes: list[str] = attrs.field(factory=list)


def kill_again_and_again(rounds: int, cold: str, folder: Path, texts: Path) -> Toll:
    """Kill so many victims on one home, and count what each of them cost."""
    toll, chance = Toll(), random.Random(7)
    home = folder / f"home-{cold}"
    known: dict[str, str | None] = {}
    for number in range(rounds):
        log = folder / f"log-{number}"
        log.touch()
        _kill_one(home, texts, log, number, cold, chance)
        promises = read_log(log)
        log.unlink()
        toll.rounds += 1
        toll.handed += sum(map(len, promises.values()))
        toll.acknowledged += sum(done for each in promises.values() for _, done in each)
        try:
            with Store.open(home, cold=cold, durable=False) as store:
                known = _look(store, known, promises, toll)
        except Exception as error:
            toll.not_opened += 1
            toll.notes.append(f"round {number}: {type(error).__name__}: {error}")
    return toll


def _kill_one(home: Path, texts: Path, log: Path, seed: int, cold: str, chance: random.Random) -> None:
    words = [
        sys.executable,
        str(ROOT / "benchmarks" / "victim.py"),
        *map(str, (home, texts, log, seed, cold)),
    ]
    with subprocess.Popen(words, cwd=ROOT, env=_environment(), stderr=subprocess.PIPE) as victim:
        # One in ten is killed before it has opened the home, or while it does.
        if chance.random() < 0.9:
            _wait_ready(victim, log)
        time.sleep(chance.uniform(0, LONGEST))
        ended = victim.poll()
        victim.kill()
        assert victim.stderr is not None
        said = victim.stderr.read()
        if ended is not None:
            raise AssertionError(
                f"the victim of round {seed} died by itself:\n{said.decode(errors='replace')}"
            )


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _wait_ready(victim: subprocess.Popen[bytes], log: Path) -> None:
    while victim.poll() is None and not log.stat().st_size:
        time.sleep(0.002)


def read_log(log: Path) -> Promises:
    """Return what was promised; a line that was cut short counts for nothing."""
    *lines, _ = log.read_text().split("\n")
    words = [line.split() for line in lines]
    done = {each[1] for each in words if each[0] == "done"}
    promises: Promises = {}
    for each in words:
        if each[0] == "handed":
            _, number, name, what = each
            promises.setdefault(name, []).append((None if what == "-" else what, number in done))
    return promises


def _look(
    store: Store, known: dict[str, str | None], promises: Promises, toll: Toll
) -> dict[str, str | None]:
    """Compare a home with what was promised; return what it has now."""
    found = {name: read(store, name, toll) for name in sorted({*known, *promises, *store.roots})}
    for name, now in found.items():
        log = promises.get(name, [])
        last = max((at for at, (_, done) in enumerate(log) if done), default=-1)
        possible = [what for what, _ in log[max(last, 0) :]]
        if last < 0:
            possible.append(known.get(name))
        if now not in possible:
            toll.lost += 1
            toll.notes.append(f"{name}: {now} instead of one of {possible}")
    archive = store.need_archive()
    toll.dangling += len(list(dangling(archive)))
    store.roots.release_all()
    sweep(archive)
    toll.orphans += len(orphans(archive))
    toll.dangling += len(list(dangling(archive)))
    return found


def read(store: Store, name: str, toll: Toll) -> str | None:
    """Return the digest of what a name stands for, None if it stands for nothing."""
    try:
        found = store.roots.get(name)
        made = digest(found) if found is not None else None
    except (CorruptBlob, MissingBlob) as error:
        toll.corrupt += 1
        toll.notes.append(str(error))
        return None
    store.roots.release(name)
    return made


def rows(archive: Archive, table: str, *, values: bool = True) -> dict[bytes, bytes]:
    """Return a whole table."""
    found: dict[bytes, bytes] = {}
    after = b""
    while pairs := archive.cold.scan(table, after, 1000, values=values):
        found.update(pairs)
        after = pairs[-1][0]
    return found


def dangling(archive: Archive) -> Iterator[str]:
    """Go through all that refers to what is not there, or is there and nothing refers to it but records."""
    content = rows(archive, "record", values=False)
    edges, segments = set(rows(archive, "edge")), set(rows(archive, "segment", values=False))
    wanted_edges: set[bytes] = set()
    wanted_segments: set[bytes] = set()
    for id, value in rows(archive, "conversation").items():
        manifest = records.decode_manifest(value, archive.path)
        targets = manifest.targets()
        wanted_edges |= {key + id for key in targets}
        wanted_segments |= {records.segment_key(id, number) for number in range(manifest.segments)}
        yield from (f"{manifest.name} refers to {key.hex()}" for key in targets - content.keys())
    yield from (f"edge {edge.hex()}" for edge in edges ^ wanted_edges)
    yield from (f"segment {key.hex()}" for key in segments ^ wanted_segments)
    yield from (f"edge to {edge[:32].hex()}" for edge in edges if edge[:32] not in content)


def orphans(archive: Archive) -> set[bytes]:
    """Return the digests of records that no conversation refers to."""
    edges = rows(archive, "edge")
    return set(rows(archive, "record", values=False)) - {edge[:32] for edge in edges}


def sweep(archive: Archive) -> int:
    """Sweep once from one end to the other; return how many records went."""
    deleted, after = 0, b""
    while True:
        swept = archive.sweep(after)
        swept.future.result()
        deleted += swept.deleted
        if swept.next is None:
            return deleted
        after = swept.next


def as_figures(toll: Toll) -> dict[str, Any]:
    """Return the counts by name."""
    return {
        "acknowledged commits": toll.acknowledged,
        "acknowledged commits lost": toll.lost,
        "dangling references": toll.dangling,
        "corrupt reads": toll.corrupt,
        "orphans left after one sweep": toll.orphans,
        "homes that did not open": toll.not_opened,
    }
