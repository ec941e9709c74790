"""Memory, speed and disk of the memory manager, beside its peers in the same run; real conversations.

    python benchmarks/memory.py --table             everything; the row `job` is the longest
    python benchmarks/memory.py --only mix --only fleet
    python benchmarks/memory.py --with-langgraph    installs LangGraph into a cache folder, to be compared with
    python benchmarks/memory.py --quick             tiny numbers: shows that it works, not how good it is
    python benchmarks/memory.py --list

Prints one JSON object a line, as `actors.py` does; and "peers", by name. A row that cannot be measured has the value
null and a note that says why. KB and MB are 1,000 and 1,000,000 bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import attrs
import disk
import peers
import sizes
import times
from bench import KB, Bench
from figures import Compared, Found, Skipped, judged, percentile
from histories import is_middling
from job import watch, write_workload
from measure import RUNS, Line, figure, table

from avm.errors import WorkloadError

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
JOB_LIMIT = 900.0


Measure = Callable[[int, int, Bench], Iterator[Found]]


@attrs.frozen(slots=True)
class Row:
    """A row of the table: how many, how many with --quick, and what measures it (n, runs, bench)."""

    n: int
    quick: int
    measure: Measure


def wake(n: int, runs: int, bench: Bench) -> Iterator[Found]:
    """Conversations of 36 to 44 messages back from the disk, its file cached."""
    mix = bench.histories.mix(n)
    chosen = [number for number, history in enumerate(mix) if is_middling(history.messages)] or list(
        range(len(mix))
    )
    home, peer = bench.home(), "SQLite, a compressed row each"
    bare = disk.bare_reads(bench.home() / "bare.sqlite", [mix[number] for number in chosen])
    beside = {peer: statistics.median(bare) * 1e6}
    rounds = [statistics.median(took) * 1e6 for took in disk.wakes(home, mix, chosen, runs)]
    name = "wake a conversation of 36-44 messages, p50"
    yield judged(name, len(chosen), rounds, "us", most=300, peers=beside, floor=peer)
    took = [statistics.median(disk.first_uses(home, [f"agent-{number}" for number in chosen])) * 1e6]
    yield judged(
        "opened again: get by name and render, p50", len(chosen), took, "us", peers=beside, floor=peer
    )


def commits(n: int, runs: int, bench: Bench) -> Iterator[Found]:
    """Durable commits, n a second offered."""
    seconds = 0.1 if bench.quick else 2.0
    histories = bench.histories.mix(500 if not bench.quick else 5)
    messages = [message for history in histories for message in history.messages]
    ours, bare = [], []
    for _ in range(runs):
        bare.append(disk.bare_commits(bench.home() / "bare.sqlite", messages, n, seconds))
        ours.append(disk.commits(bench.home(), histories, n, seconds))
    p99 = [percentile(took, 0.99) * 1e3 for took in ours]
    yield judged(
        f"durable commits, {n:,}/s offered, p99",
        len(ours[0]),
        p99,
        "ms",
        most=20,
        peers={"SQLite, grouped, FULL": statistics.median(percentile(took, 0.99) for took in bare) * 1e3},
        floor="SQLite, grouped, FULL",
        note=f"p50 {figure(statistics.median(percentile(took, 0.5) for took in ours) * 1e3)} ms",
    )


def checkpoint(n: int, runs: int, bench: Bench) -> Iterator[Found]:
    """A conversation committed after each of n turns: bytes on disk for each byte of text."""
    texts = bench.histories.pieces(KB)
    turns = list(zip(islice(texts, n), islice(texts, n), strict=True))
    system = bench.histories.prompt(20 * KB)
    text = sum(len(part.encode()) for turn in turns for part in turn) + len(system.encode())
    path = bench.home() / "turns.json"
    path.write_text(json.dumps({"system": system, "turns": turns}))
    beside: dict[str, float | None] = {}
    for mode, name in (("default", ""), ("exit", ', durability="exit"'), ("delta", ", DeltaChannel (beta)")):
        theirs = peers.langgraph(bench.python, "growth", path, bench.home(), mode)
        beside[f"LangGraph + SqliteSaver{name}"] = None if theirs is None else theirs["bytes"] / text
    note = None if bench.python else peers.HOW
    if not disk.IS_READY:
        for name, ratio in beside.items():
            if ratio is not None:
                yield judged(f"{n} turns on disk / text, {name}", n, [ratio], "x")
        yield Skipped(measure=f"{n} turns of 2 KB on disk / text", n=n, note=disk.NOT_READY)
        return
    ours = disk.growth(bench.home(), system, turns)
    found = judged(
        f"{n} turns of 2 KB on disk / text",
        n,
        [ours["bytes"] / text],
        "x",
        peers=beside,
        floor="LangGraph + SqliteSaver",
        note="; ".join(filter(None, (f"while open {ours['open'] / text:.2f}x of {text / KB:.0f} KB", note))),
    )
    yield attrs.evolve(found, bar="< 1 x", met=found.value < 1)


def job(n: int, runs: int, bench: Bench) -> Iterator[Found]:
    """The main job with many agents and real histories under a small ceiling."""
    histories = bench.histories.all()
    workload = write_workload(bench.home() / "all.jsonl.zst", histories)
    found = watch(workload, n, "256MB", bench.folder, JOB_LIMIT)
    ended = f"status {found.status} after {found.seconds:.0f} s: {found.said}"
    done = float(found.last.get("conversations_done", 0))
    finished = judged(f"{n:,} agents under 256 MB, conversations", n, [done], "played", note=ended)
    yield attrs.evolve(finished, bar=f"{n:,}, as recorded", met=found.finished and done == n)
    peak = judged(f"{n:,} agents under 256 MB, peak RSS", n, [found.peak / (1 << 20)], "MiB", most=256)
    yield attrs.evolve(peak, met=bool(peak.met) and found.finished)
    store = float(found.last.get("store_bytes", 0)) / (1 << 20)
    each = (
        f"{len(histories):,} histories, each played {n / len(histories):.1f} times; equal pages are kept once"
    )
    yield judged(f"{n:,} agents under 256 MB, accounted at the end", n, [store], "MiB", note=each)


ROWS: dict[str, Row] = {
    "mix": Row(900, 12, sizes.mix),
    "mix-rss": Row(900, 12, sizes.fleet_of_mix),
    "fleet": Row(1000, 12, sizes.fleet),
    "prompts": Row(1000, 5, sizes.prompts),
    "versions": Row(1000, 30, times.versions),
    "render": Row(900, 12, times.render),
    "loop": Row(1000, 12, times.loop),
    "wake": Row(900, 12, wake),
    "commits": Row(2000, 200, commits),
    "checkpoint": Row(200, 3, checkpoint),
    "job": Row(10_000, 4, job),
}

COLD = {"wake", "commits"}
"""Rows that need a store with a home."""


def main() -> int:
    """Measure what was asked for; the exit status is 0 even where a bar is missed."""
    parser = argparse.ArgumentParser(description="Measure avm's memory manager beside its peers.")
    add = parser.add_argument
    add("--only", metavar="NAME", action="append", choices=ROWS, help="a row; may be repeated")
    add("--quick", action="store_true", help="tiny numbers, one run")
    add("--runs", type=int, default=None, help=f"runs of each side (default {RUNS})")
    add("--table", action="store_true", help="also print a table at the end")
    add("--list", action="store_true", help="print the names of the rows")
    add(
        "--data",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("AVM_DATA") or DATA),
        help="the four files of conversations (default: $AVM_DATA, or ../shared/data beside the checkout)",
    )
    add(
        "--with-langgraph",
        action="store_true",
        help="install LangGraph into a cache folder, to be compared with",
    )
    add("--peers-python", metavar="PATH", help="a Python that has LangGraph")
    options = parser.parse_args()
    if options.list:
        print("\n".join(ROWS))
        return 0
    python = peers.find(options.peers_python, install=options.with_langgraph)
    runs = options.runs or (1 if options.quick else RUNS)
    found: list[Found] = []
    with tempfile.TemporaryDirectory(prefix="avm-memory-") as folder:
        bench = Bench(options.data, Path(folder), python, options.quick)
        try:
            for each in measured(options.only or list(ROWS), runs, bench):
                print(each.json(), flush=True)
                found.append(each)
        except WorkloadError as error:
            parser.exit(2, f"{error} --data DIR names the folder that has the conversations.\n")
    if options.table:
        print_table(found, runs, quick=options.quick)
    return 0


def measured(names: Sequence[str], runs: int, bench: Bench) -> Iterator[Found]:
    """Go through rows and yield their lines as they are found."""
    for name in names:
        row = ROWS[name]
        n = row.quick if bench.quick else row.n
        if name in COLD and not disk.IS_READY:
            yield Skipped(measure=name, n=n, note=disk.NOT_READY)
            continue
        for each in row.measure(n, runs, bench):
            # Tiny numbers judge nothing.
            yield attrs.evolve(each, met=None) if bench.quick and isinstance(each, Line) else each


def print_table(found: Sequence[Found], runs: int, *, quick: bool) -> None:
    """Print what was found for people."""
    lines = [each.with_peers_noted() if isinstance(each, Compared) else each for each in found]
    print(f"\nPython {platform.python_version()}, {platform.machine()}, {runs} runs")
    print(table([each for each in lines if isinstance(each, Line)]))
    for each in lines:
        if isinstance(each, Skipped):
            print(f"skipped: {each.measure}: {each.note}")
    missed = [each.measure for each in lines if isinstance(each, Line) and each.met is False]
    if not quick:
        print(f"missed: {'; '.join(missed)}" if missed else "every bar that was measured is met")


if __name__ == "__main__":
    sys.exit(main())
