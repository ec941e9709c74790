"""Speed and memory of actors, beside plain asyncio in the same run.

    python benchmarks/actors.py --table             everything, about five minutes
    python benchmarks/actors.py --only ring --only ask
    python benchmarks/actors.py --quick             tiny numbers: shows that it works, not how fast it is
    python benchmarks/actors.py --list

Prints one JSON object a line: {"measure", "n", "value", "unit"} and, where there are such, the spread, the
asyncio floor, the ratio to it, the bar and whether it is met.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import attrs
import cast
import floor
import lives
import msgpack  # type: ignore[import-untyped]
import traffic
from blake3 import blake3
from latency import waits
from measure import RUNS, Line, Side, compare, figure, line, once, repeat, table

from avm.memory import store as store_module
from avm.router.codec import Codec
from avm.scheduler import PRIORITIES
from avm.vm.run import loop_factory

HERE = Path(__file__).resolve().parent
UNWANTED = ("anthropic", "ray", "textual", "starlette", "rich", "hypothesis", "aiohttp", "numpy")
BEAM_CRASHES = 66_000
MIXED = {"user": 0.01, "normal": 0.49, "background": 0.5}

Measure = Callable[[int, int], Iterator[Line]]


@attrs.frozen(slots=True)
class Row:
    """A row of the table: how often to do it, how often with --quick, and what measures it (n, runs)."""

    n: int
    quick: int
    measure: Measure


def ping_pong(n: int, runs: int) -> Iterator[Line]:
    """Two actors, one message that goes to and fro."""
    unit = "round trips/s"
    both = partial(compare, n=n, unit=unit, runs=runs)
    yield both("ping-pong, async handlers", avm=traffic.ping_pong, floor=floor.ping_pong, least_ratio=4.0)
    yield both("ping-pong, message with a field", avm=traffic.ping_pong_field, floor=floor.ping_pong)
    yield both("ping-pong, plain handlers", avm=traffic.ping_pong_plain, floor=floor.ping_pong)
    yield both("ping-pong, a new message each", avm=traffic.ping_pong_fresh, floor=floor.ping_pong_fresh)


def ask(n: int, runs: int) -> Iterator[Line]:
    """Requests one after the other."""
    sides: tuple[tuple[str, Side, float | None], ...] = (
        ("ask from a handler, async", traffic.ask_inside, 1.0),
        ("ask from outside, async", traffic.ask_outside, 1.0),
        ("ask from a handler, plain", traffic.ask_inside_plain, None),
        ("ask from outside, plain", traffic.ask_outside_plain, None),
    )
    for name, side, least in sides:
        yield compare(name, n, "asks/s", side, floor.ask, runs=runs, least_ratio=least)


def fan_in(n: int, runs: int) -> Iterator[Line]:
    """100 producers, one consumer."""
    unit = "messages/s"
    yield compare("fan-in, 100 to 1", n, unit, traffic.fan_in, floor.fan_in, runs=runs, least_ratio=1.0)
    yield compare("fan-in, async, with a field", n, unit, traffic.fan_in_async, floor.fan_in, runs=runs)


def ring(n: int, runs: int) -> Iterator[Line]:
    """One token through 1,000 actors."""
    yield compare("ring of 1,000", n, "messages/s", traffic.ring, floor.ring, runs=runs, least_ratio=4.0)


def spawn(n: int, runs: int) -> Iterator[Line]:
    """Starting actors that nobody restarts."""
    yield compare("spawn, by an actor", n, "actors/s", lives.spawn, floor.spawn, runs=runs, least_ratio=2.0)
    yield compare("spawn, vm.spawn", n, "actors/s", lives.spawn_outside, floor.spawn, runs=runs)


def children(n: int, runs: int) -> Iterator[Line]:
    """Starting and stopping many children of one supervisor; a TaskGroup is the floor."""
    sides: tuple[tuple[str, Side, Side, float | None], ...] = (
        ("supervised children, start", lives.start_static, floor.start_children, 250),
        ("supervised children, stop", lives.stop_static, floor.stop_children, 300),
        ("dynamic children, start", lives.start_dynamic, floor.start_children, 250),
        ("dynamic children, stop", lives.stop_dynamic, floor.stop_children, 300),
    )
    for name, ours, theirs, most in sides:
        found = compare(name, n, "ms", ours, theirs, runs=runs, better="lower")
        yield attrs.evolve(found, bar=f"<= {most} ms", met=found.value <= most if most else None)


def idle(n: int, runs: int) -> Iterator[Line]:
    """Resident bytes of an idle actor, each run in a new process."""
    found = {kind: _resident(kind, n, runs) for kind in ("asyncio", "avm", "attributes", "supervised")}
    theirs = found["asyncio"]
    names = {
        "avm": "idle actor",
        "attributes": "idle actor, 3 attributes",
        "supervised": "idle dynamic child",
    }
    for kind, name in names.items():
        for key, after, most in (("idle_bytes", "", 1000), ("talked_bytes", ", after one message", 1150)):
            runs_of = [run[key] for run in found[kind]]
            base = statistics.median(run[key] for run in theirs)
            value = statistics.median(runs_of)
            bar = most if kind == "avm" else None
            yield line(
                f"{name}{after}",
                n,
                runs_of,
                "B RSS",
                floor=base,
                ratio=base / value if value > 0 else None,
                bar=f"<= {bar} B" if bar else None,
                met=value <= bar if bar else None,
            )


def million(n: int, runs: int) -> Iterator[Line]:
    """A million idle actors in one process, then a message to each."""
    found = _resident("avm", n, runs)
    sizes = [run["rss"] / 1e9 for run in found]
    bar = 1.1 * n / 1e6
    answered = min(int(run["answered"]) for run in found)
    yield line(
        f"{n:,} actors, after a message to each",
        n,
        sizes,
        "GB RSS",
        bar=f"<= {bar:.3g} GB",
        met=statistics.median(sizes) <= bar,
    )
    answers = [run["answered"] for run in found]
    yield line(f"{n:,} actors, answered", n, answers, "replies", bar=f"{n:,}", met=answered == n)
    slower = [run["rate_first"] / run["rate"] for run in found]
    yield line(
        f"{n:,} actors, spawn slower than at 10,000",
        n,
        slower,
        "times",
        bar="<= 1.3 times",
        met=statistics.median(slower) <= 1.3,
        note=f"{figure(statistics.median(run['rate_first'] for run in found))}/s at 10,000",
    )
    yield line(f"{n:,} actors, spawn rate", n, [run["rate"] for run in found], "actors/s")
    yield line(f"{n:,} actors, asked one by one", n, [run["asks_per_s"] for run in found], "asks/s")


def crash(n: int, runs: int) -> Iterator[Line]:
    """Crash and restart under one_for_one; each round also carries two messages: crash!, and I am up."""
    first, late = min(1000, n // 3), min(10_000, n // 2)
    rates: list[float] = []
    firsts: list[float] = []
    lates: list[float] = []

    async def one(times: int) -> float:
        marks = await lives.crash_times(times)
        firsts.append(first / (marks[first] - marks[0]))
        lates.append((times - late) / (marks[times] - marks[late]))
        return times / (marks[times] - marks[0])

    floors: list[float] = []
    for _ in range(runs):
        floors.append(once(floor.crash, n))
        rates.append(once(one, n))
    rate = statistics.median(rates)
    yield line(
        "crash + restart",
        n,
        rates,
        "restarts/s",
        floor=statistics.median(floors),
        ratio=statistics.median(a / f for a, f in zip(rates, floors, strict=True)),
        bar=f">= {BEAM_CRASHES:,}/s",
        met=rate >= BEAM_CRASHES,
    )
    yield line(f"crash + restart, the first {first:,}", first, firsts, "restarts/s")
    held = statistics.median(b / a for a, b in zip(firsts, lates, strict=True))
    yield line(
        f"crash + restart, after {late:,}",
        n - late,
        lates,
        "restarts/s",
        ratio=held,
        bar=">= 0.95x the first",
        met=held >= 0.95,
    )


def pipeline(n: int, runs: int) -> Iterator[Line]:
    """Bodies of 100 KB, all different, through 10 actors."""
    found = compare(
        "pipeline, 100 KB through 10 hops", n, "items/s", traffic.pipeline, floor.pipeline, runs=runs
    )
    yield attrs.evolve(found, bar=">= 33,000 items/s", met=found.value >= 33_000)
    hashed = _count_hashes(n)
    yield line(
        "pipeline, hashes taken of each body",
        n,
        [hashed / n],
        "hashes",
        bar="1",
        met=hashed == n,
    )
    yield line("pipeline, bare blake3 of 100 KB", n, repeat(_hash_all, n, runs), "hashes/s")


def latency(actors: int, runs: int) -> Iterator[Line]:
    """From the sender to the handler of each priority while all other actors are busy."""
    seconds = 2.0 if actors >= 1000 else 0.1
    found: dict[str, list[float]] = {priority: [] for priority in PRIORITIES}
    medians: dict[str, list[float]] = {priority: [] for priority in PRIORITIES}
    for _ in range(runs):
        seen: dict[str, list[float]] = {}

        async def one(n: int, into: dict[str, list[float]] = seen) -> float:
            into.update(await waits(n, seconds, MIXED))
            return 0.0

        once(one, actors)
        for priority, ways in seen.items():
            ways.sort()
            found[priority].append(ways[int(len(ways) * 0.99)] * 1e3)
            medians[priority].append(ways[len(ways) // 2] * 1e3)
    slowest = statistics.median(found["background"])
    for priority, worst in found.items():
        ratio = slowest / statistics.median(worst)
        yield line(
            f"latency p99, {priority}",
            actors,
            worst,
            "ms",
            ratio=ratio,
            bar="<= 1/10 of background" if priority == "user" else None,
            met=ratio >= 10 if priority == "user" else None,
            note=f"p50 {figure(statistics.median(medians[priority]))} ms",
        )


def codec(n: int, runs: int) -> Iterator[Line]:
    """A small event across a boundary: encode and decode; beside it msgpack alone on the same values."""
    both = Codec()
    sent = cast.Draft("a few words of text", 3, 0.5)
    parts = (1, "newsroom/critic", "newsroom/editor", 7, None, 1, None, "bench.Draft", (sent.text, 3, 0.5))

    async def ours(times: int) -> float:
        began = perf_counter()
        for _ in range(times):
            data = both.encode(sent, to="newsroom/critic", sender="newsroom/editor", reply=7)
            both.decode(data)
        return (perf_counter() - began) / times * 1e6

    async def bare(times: int) -> float:
        began = perf_counter()
        for _ in range(times):
            msgpack.unpackb(msgpack.packb(parts))
        return (perf_counter() - began) / times * 1e6

    found = compare("codec, a small event there and back", n, "us", ours, bare, runs=runs, better="lower")
    yield attrs.evolve(found, bar="<= 6 us", met=found.value <= 6.0, note="floor: msgpack alone")


def imports(_: int, runs: int) -> Iterator[Line]:
    """`import avm` in a new process, less what an empty one takes."""
    took, loaded = [], ""
    _python("import avm")  # Byte code is written at the first import.
    for _ in range(runs):
        empty, _nothing = _python("pass")
        full, loaded = _python(f"import avm, sys; print(*(m for m in {UNWANTED} if m in sys.modules))")
        took.append((full - empty) * 1e3)
    names = loaded.split()
    value = statistics.median(took)
    yield line("import avm", 1, took, "ms", bar="<= 120 ms", met=value <= 120)
    yield line(
        "import avm, unwanted modules",
        1,
        [float(len(names))],
        "modules",
        bar="0",
        met=not names,
        note=" ".join(names) or None,
    )


ROWS: dict[str, Row] = {
    "ping-pong": Row(100_000, 300, ping_pong),
    "ask": Row(50_000, 300, ask),
    "fan-in": Row(300_000, 6_400, fan_in),
    "ring": Row(200_000, 3_000, ring),
    "spawn": Row(20_000, 200, spawn),
    "children": Row(10_000, 100, children),
    "idle": Row(100_000, 1_000, idle),
    "million": Row(1_000_000, 2_000, million),
    "crash": Row(30_000, 150, crash),
    "pipeline": Row(1_000, 20, pipeline),
    "latency": Row(10_000, 50, latency),
    "codec": Row(50_000, 200, codec),
    "import": Row(1, 1, imports),
}


# What the rows need.


def _resident(kind: str, n: int, runs: int) -> list[dict[str, float]]:
    command = [sys.executable, str(HERE / "resident.py"), kind, str(n)]
    outputs = [
        subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(runs)
    ]
    return [json.loads(output) for output in outputs]


# Runs the pipeline once more, not timed, with a counter around the one place where the store hashes.
def _count_hashes(n: int) -> int:
    hashed = 0

    def counting(content: bytes) -> Any:
        nonlocal hashed
        hashed += 1
        return blake3(content)

    store_module.blake3, kept = counting, store_module.blake3  # type: ignore[attr-defined,assignment]
    try:
        once(traffic.pipeline, n)
    finally:
        store_module.blake3 = kept  # type: ignore[attr-defined]
    return hashed


async def _hash_all(n: int) -> float:
    items = cast.bodies(n)
    began = perf_counter()
    for body in items:
        blake3(body).digest()
    return n / (perf_counter() - began)


def _python(code: str) -> tuple[float, str]:
    began = perf_counter()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return perf_counter() - began, done.stdout


def main() -> int:
    """Measure what was asked for; the exit status is 0 even where a bar is missed."""
    parser = argparse.ArgumentParser(description="Measure avm's actors beside plain asyncio.")
    parser.add_argument(
        "--only", metavar="NAME", action="append", choices=ROWS, help="a row; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="tiny numbers, one run")
    parser.add_argument("--runs", type=int, default=None, help=f"runs of each side (default {RUNS})")
    parser.add_argument("--table", action="store_true", help="also print a table at the end")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    options = parser.parse_args()
    if options.list:
        print("\n".join(ROWS))
        return 0
    runs = options.runs or (1 if options.quick else RUNS)
    lines: list[Line] = []
    for name in options.only or ROWS:
        row = ROWS[name]
        for found in row.measure(row.quick if options.quick else row.n, runs):
            if options.quick:
                found = attrs.evolve(found, met=None)  # Tiny numbers judge nothing.
            print(found.json(), flush=True)
            lines.append(found)
    if options.table:
        loop = "asyncio's own loop" if loop_factory("auto") is None else "uvloop"
        print(f"\nPython {platform.python_version()}, {loop}, {platform.machine()}, {runs} runs")
        print(table(lines))
        missed = [found.measure for found in lines if found.met is False]
        if not options.quick:
            print(f"missed: {', '.join(missed)}" if missed else "every bar is met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
