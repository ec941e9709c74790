"""The I/O manager beside its peers in the same run, against a Messages server on a core of its own.

    python benchmarks/io.py --table                 everything, about twenty minutes
    python benchmarks/io.py --only cpu --only storm --table
    python benchmarks/io.py --quick                 tiny numbers: shows that it works, not how good it is
    python benchmarks/io.py --list

Prints one JSON object a line, as `memory.py` does. Client and server have a core each, and every side is a process of
its own, in turns. The peers: bare aiohttp with json, and the anthropic SDK with its own transport and with aiohttp's.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from callers import MODEL
from figures import Compared, Found, Skipped, judged
from measure import Line, figure, table
from servers import Setting, client, serving
from storms import REPLY, SHARED, characters

from avm.io.prices import price_of
from avm.vm.run import loop_factory

RUNS = 3
NAMES = {"aiohttp": "aiohttp + json", "sdk": "SDK", "sdk-aiohttp": "SDK + aiohttp"}
"""What the sides of `callers.py` are called here."""

HAS_SDK = importlib.util.find_spec("anthropic") is not None
NO_SDK = "the anthropic SDK is not installed: pip install 'avm-runtime[anthropic]'"

LATENCY = "120ms"
SCREEN = 2340.0
"""Requests a second on the vision's screen."""

OTPM = 100_000
START_TIER = {"requests": 1000, "input_tokens": 500_000, "output_tokens": OTPM}
"""Limits of an account a minute."""

STORM_CALLS = 8
STORM_SPEED = 30.0
"""Of the storm's clocks: 1,380 s of a start tier take 46."""

Measure = Callable[[int, int, bool], Iterator[Found]]


@attrs.frozen(slots=True)
class Row:
    """A row of the table: how many, how many with --quick, and what measures it (n, runs, quick)."""

    n: int
    quick: int
    measure: Measure


def cpu(n: int, runs: int, quick: bool) -> Iterator[Found]:
    """CPU of the client for each call, through a whole VM; n are under way at once."""
    shapes = {
        "small": ("a small prompt", 300),
        "large": ("a prompt of 60 KB", 350),
        "stream": ("a stream of 100 deltas", 1000),
    }
    for prompt, (words, most) in shapes.items():
        found = _turns(["avm", *_peers()], prompt, n, runs, quick)
        yield judged(
            f"client CPU a call, {words}",
            n,
            found["avm"],
            "us",
            most=most,
            peers=_named(found),
            floor=NAMES["aiohttp"],
        )


def sdk(n: int, runs: int, quick: bool) -> Iterator[Found]:
    """The same on the real SDK, beside the bare SDK on the same transport."""
    if not HAS_SDK:
        yield Skipped(measure="client CPU a call, on the SDK", n=n, note=NO_SDK)
        return
    for prompt in ("small", "large", "stream"):
        found = _turns(["avm-sdk", "sdk-aiohttp"], prompt, n, runs, quick)
        ours, theirs = found["avm-sdk"], found["sdk-aiohttp"]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        note = (
            f"{figure(statistics.median(ours))} us a call, the bare SDK {figure(statistics.median(theirs))}"
        )
        yield judged(
            f"client CPU a call, on the SDK / bare SDK, {prompt}", n, ratios, "x", most=1.15, note=note
        )


def rate(n: int, runs: int, quick: bool) -> Iterator[Found]:
    """Calls a second of one process against a server that takes 120 ms: flat out, and at a steady rate."""
    seconds = 0.5 if quick else 5.0
    sides = ["avm", *_peers()]
    flat: dict[str, list[float]] = {side: [] for side in sides}
    starved = []
    with serving(Setting(latency=LATENCY)) as server:
        before, began = server.cpu(), server.ledger()["accepted"]
        for _ in range(runs):
            for side in sides:
                found = client("calls.py", side, "flat-out", url=server.url, agents=n, seconds=seconds)
                flat[side].append(found["rate"])
                starved.append(found["starved"])
        each = (server.cpu() - before) / max(1, server.ledger()["accepted"] - began) * 1e6
    note = f"the server takes {each:.0f} us of its core a request; {_share(starved)}"
    peers = _named(flat)
    name = f"{n:,} agents flat out, calls a second"
    yield judged(
        name,
        n,
        flat["avm"],
        "/s",
        least=SCREEN,
        peers=peers,
        floor=NAMES["aiohttp"],
        less_is_better=False,
        note=note,
    )
    yield from _paced(n, runs, seconds, 50.0 if quick else SCREEN * 1.02)


def _paced(n: int, runs: int, seconds: float, offered: float) -> Iterator[Found]:
    sides = ["avm", "aiohttp"]
    found: dict[str, list[Mapping[str, float]]] = {side: [] for side in sides}
    with serving(Setting(latency=LATENCY, timed=True)) as server:
        for _ in range(runs):
            for side in sides:
                settings = {"agents": n, "rate": offered, "seconds": seconds}
                found[side].append(client("calls.py", side, "paced", url=server.url, **settings))
    busy = statistics.median(each["busy"] for each in found["avm"])
    note = f"{busy:.0%} of a core used; {_share([each['starved'] for each in found['avm']])}"
    for what, unit, bar in (
        ("rate", "/s", {"least": SCREEN}),
        ("p50", "ms", {"most": 5.0}),
        ("p99", "ms", {"most": 30.0}),
    ):
        ours = [each[what] for each in found["avm"]]
        beside = {NAMES["aiohttp"]: statistics.median(each[what] for each in found["aiohttp"])}
        name = "calls a second" if what == "rate" else f"added latency, {what}"
        yield judged(
            f"{n:,} agents, {offered:,.0f}/s offered, {name}",
            n,
            ours,
            unit,
            **bar,
            peers=beside,
            floor=NAMES["aiohttp"],
            less_is_better=what != "rate",
            note=note,
        )


def storm(n: int, runs: int, quick: bool) -> Iterator[Found]:
    """Agents on one account of the start tier, all at once, several calls each; time runs faster."""
    calls, name = 2 if quick else STORM_CALLS, f"{n:,} agents on a start tier"
    found, ledger = _storm("avm", n, calls, STORM_SPEED, limits=START_TIER)
    accepted, rejected = ledger["accepted"], ledger["rejected"]
    errors = f"; {found['errors']}" if found["errors"] else ""
    note = f"{calls} calls each, {found['took']:,.0f} s on clocks {STORM_SPEED:g} times as fast{errors}"
    lost = [float(n - found["done"])]
    yield judged(f"{name}, lost", n, lost, "agents", most=0, peers=_storms_of_sdk(n), note=note)
    share = 100 * rejected / max(1, accepted + rejected)
    refused = judged(f"{name}, rejected", accepted, [share], "%", note=_untold(n))
    yield attrs.evolve(refused, bar="< 2 %", met=share < 2)
    # What the bucket held at first is counted on neither side.
    used = (ledger["live"]["output"] - OTPM) / (OTPM * found["took"] / 60)
    yield judged(f"{name}, of the limit that binds (output)", accepted, [100 * used], "%", least=95)
    fair = found["last"] / found["first"] if found["first"] else math.inf
    note = f"first done at {found['first']:,.0f} s, last at {found['last']:,.0f} s"
    yield judged(f"{name}, last / first finisher", n, [fair], "x", most=1.2, note=note)
    yield _bill(f"{name}, cost / ideal", n * calls, ledger)


def _untold(n: int) -> str:
    """Say how it is for a pool that is not told the limits and learns them from the first response."""
    ledger = _storm("avm", n, 1, STORM_SPEED)[1]
    share = ledger["rejected"] / max(1, ledger["accepted"] + ledger["rejected"])
    return f"{share:.1%} of one call each if the pool is not told the limits"


def _storms_of_sdk(n: int) -> dict[str, float | None]:
    """Count the agents that are lost with the SDK as it comes, one call each, in real time."""
    lost: dict[str, float | None] = {}
    for name, marked in (("SDK, 2 retries, 1 call each", False), ("the same, prompt marked", True)):
        if HAS_SDK:
            lost[name] = float(n - _storm("sdk-default", n, 1, 1.0, marked=marked)[0]["done"])
        else:
            lost[name] = None
    return lost


def _storm(
    side: str, agents: int, calls: int, speed: float, *, limited: bool = True, **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let agents storm a server; return what the client found, and the server's ledger."""
    setting = Setting(characters=characters(REPLY), latency="4s~0.3", speed=speed)
    if limited:
        setting = attrs.evolve(setting, **START_TIER)
    with serving(setting) as server:
        found = client(
            "storms.py", side, "storm", url=server.url, agents=agents, calls=calls, speed=speed, **more
        )
        return found, server.ledger()


def cost(n: int, runs: int, quick: bool) -> Iterator[Found]:
    """What agents cost that share 15,000 tokens, by the server's ledger; no limits, one call each, all at once."""
    peers = {"aiohttp, no cache": False, "aiohttp, all marked": True}
    bills = {
        name: _usd(_storm("aiohttp", n, 1, 1.0, limited=False, marked=marked)[1])
        for name, marked in peers.items()
    }
    ledger = _storm("avm", n, 1, 1.0, limited=False)[1]
    yield _bill(f"cost of {n:,} agents on one prompt / ideal", n, ledger, bills)


def _bill(
    measure: str, calls: int, ledger: Mapping[str, Any], peers: Mapping[str, float] | None = None
) -> Compared:
    """Compare a ledger with what the same calls cost if one wrote the prompt and all others read it."""
    price = price_of(MODEL)
    assert price is not None
    live = ledger["live"]
    shared = calls * SHARED
    own = live["input"] + live["written"] + live["read"] - shared
    ideal = SHARED * price.cache_write + (shared - SHARED) * price.cache_read
    ideal = (ideal + own * price.input + live["output"] * price.output) / 1e6
    paid, peers = _usd(ledger), peers or {}
    ratios: dict[str, float | None] = {name: found / ideal for name, found in peers.items()}
    sums = "".join(f", {name} {found:.2f}" for name, found in peers.items())
    note = f"{paid:.2f} USD, ideal {ideal:.2f}{sums}"
    return judged(measure, calls, [paid / ideal], "x", most=1.05, peers=ratios, note=note)


def _usd(ledger: Mapping[str, Any]) -> float:
    price = price_of(MODEL)
    assert price is not None
    live = ledger["live"]
    usd = live["input"] * price.input + live["output"] * price.output
    usd += live["written"] * price.cache_write + live["read"] * price.cache_read
    return usd / 1e6


def queue(n: int, runs: int, quick: bool) -> Iterator[Found]:
    """`user` calls while n background calls wait, beside the same with an empty queue."""
    ratios, notes = [], []
    with serving(Setting(latency=LATENCY)) as server:
        for _ in range(runs):
            settings = {"queued": n, "slots": 4 if quick else 32, "calls": 20 if quick else 200}
            found = client("storms.py", "avm", "queue", url=server.url, **settings)
            ratios.append(found["full"] / found["empty"])
            notes.append(found)
    middle = sorted(zip(ratios, notes, strict=True), key=lambda each: each[0])[len(ratios) // 2][1]
    note = (
        f"p99 {middle['full']:.0f} ms, empty {middle['empty']:.0f}; "
        f"p50 {middle['full_p50']:.0f} ms, empty {middle['empty_p50']:.0f}; {middle['queued']:,} queued at the end"
    )
    yield judged(f"user p99 behind {n:,} background calls / empty", n, ratios, "x", most=2, note=note)


def streams(n: int, runs: int, quick: bool) -> Iterator[Found]:
    """What open streams take of the client's memory: 100 deltas in 20 s, looked at half-way."""
    sides = ["avm", *_peers()]
    grown: dict[str, list[float]] = {side: [] for side in sides}
    with serving(Setting(characters=1600, slow=0.01 if quick else 0.2)) as server:
        for _ in range(runs):
            for side in sides:
                found = client(
                    "calls.py", side, "streams", url=server.url, agents=n, after=0.4 if quick else 10.0
                )
                grown[side].append(found["bytes"] / 1000)
    name = f"{n:,} open slow streams, resident for each"
    yield judged(name, n, grown["avm"], "KB", most=60, peers=_named(grown), floor=NAMES["aiohttp"])


def _turns(sides: Sequence[str], prompt: str, agents: int, runs: int, quick: bool) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {side: [] for side in sides}
    with serving(Setting(characters=1600 if prompt == "stream" else 200)) as server:
        for _ in range(runs):
            for side in sides:
                calls = 1 if quick else 3 if "sdk" in side else 12
                settings = {"prompt": prompt, "agents": agents, "calls": calls}
                found[side].append(client("calls.py", side, "cpu", url=server.url, **settings)["us"])
    return found


def _peers() -> list[str]:
    return list(NAMES) if HAS_SDK else ["aiohttp"]


def _named(found: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    return {name: statistics.median(found[side]) if side in found else None for side, name in NAMES.items()}


def _share(starved: Sequence[float]) -> str:
    return f"the client waited {statistics.median(starved):.0%} of the time for its core"


ROWS: dict[str, Row] = {
    "cpu": Row(500, 10, cpu),
    "sdk": Row(500, 10, sdk),
    "rate": Row(1000, 20, rate),
    "storm": Row(1000, 20, storm),
    "cost": Row(1000, 20, cost),
    "queue": Row(10_000, 20, queue),
    "streams": Row(1000, 20, streams),
}


def main() -> int:
    """Measure what was asked for; the exit status is 0 even where a bar is missed."""
    parser = argparse.ArgumentParser(description="Measure avm's I/O manager beside its peers.")
    add = parser.add_argument
    add("--only", metavar="NAME", action="append", choices=ROWS, help="a row; may be repeated")
    add("--quick", action="store_true", help="tiny numbers, one run")
    add("--runs", type=int, default=None, help=f"runs of each side (default {RUNS})")
    add("--table", action="store_true", help="also print a table at the end")
    add("--list", action="store_true", help="print the names of the rows")
    options = parser.parse_args()
    if options.list:
        print("\n".join(ROWS))
        return 0
    runs = options.runs or (1 if options.quick else RUNS)
    found: list[Found] = []
    for name in options.only or ROWS:
        row = ROWS[name]
        for each in row.measure(row.quick if options.quick else row.n, runs, options.quick):
            # Tiny numbers judge nothing.
            line = attrs.evolve(each, met=None) if options.quick and isinstance(each, Line) else each
            print(line.json(), flush=True)
            found.append(line)
    if options.table:
        print_table(found, runs, quick=options.quick)
    return 0


def print_table(found: Sequence[Found], runs: int, *, quick: bool) -> None:
    """Print what was found for people."""
    lines = [each.with_peers_noted() if isinstance(each, Compared) else each for each in found]
    loop = "asyncio's own loop" if loop_factory("auto") is None else "uvloop"
    print(f"\nPython {platform.python_version()}, {loop}, {platform.machine()}, {runs} runs")
    print(table([each for each in lines if isinstance(each, Line)]))
    for each in lines:
        if isinstance(each, Skipped):
            print(f"skipped: {each.measure}: {each.note}")
    missed = [each.measure for each in lines if isinstance(each, Line) and each.met is False]
    if not quick:
        print(f"missed: {'; '.join(missed)}" if missed else "every bar that was measured is met")


if __name__ == "__main__":
    sys.exit(main())
