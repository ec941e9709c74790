"""Sizes: what conversations take of memory, in the account and as resident bytes, beside other ways to hold them."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
from bench import KB, MB, Bench
from figures import Found, Skipped, judged, percentile
from fleets import grow
from histories import History, is_middling

from avm.memory import Conversation, Store

HERE = Path(__file__).resolve().parent
RSS_RUNS = 3
"""Sizes hardly differ from run to run, and each run is a new process for each side."""


def mix(n: int, runs: int, bench: Bench) -> Iterator[Found]:
    """Different agents, all warm: accounted bytes, compression, and the sizes of middling conversations."""
    for order, shuffled in (("", True), (", in the order of the files", False)):
        histories = bench.histories.mix(n, shuffled=shuffled)
        naive = sum(history.naive_bytes() for history in histories)
        store = Store()
        kept = grow(store, (history.copy() for history in histories))
        found = store.statistics()
        per_agent = found.account_bytes / n
        bars = shuffled
        yield judged(
            f"mix, accounted bytes an agent{order}", n, [per_agent], "B", most=4 * KB if bars else None
        )
        yield judged(
            f"mix, naive bytes / accounted{order}",
            n,
            [naive / found.account_bytes],
            "x",
            least=6.5 if bars else None,
        )
        yield judged(
            f"mix, compression of what is kept{order}",
            n,
            [found.compression],
            "x",
            least=4.9 if bars else None,
            note=f"{found.unique_bytes / MB:.1f} MB unique, {found.stored_bytes / MB:.2f} MB stored",
        )
        if bars:
            yield from _warm_sizes(kept)


def fleet(n: int, runs: int, bench: Bench) -> Iterator[Found]:
    """Agents with one prefix, histories from the mix: resident bytes, each side in new processes."""
    size = KB if bench.quick else 39 * KB
    path = bench.lines(bench.histories.fleet(n, size))
    yield from _residents(f"fleet with a prefix of {size // KB} KB", n, runs, path, least_ratio=12)


def fleet_of_mix(n: int, runs: int, bench: Bench) -> Iterator[Found]:
    """The mix, each with its own prompt, as resident bytes."""
    yield from _residents("mix", n, runs, bench.lines(bench.histories.mix(n)))


def prompts(n: int, runs: int, bench: Bench) -> Iterator[Found]:
    """Agents that each read the same large prompt by themselves, and hold something of their own."""
    prompt = bench.home() / "prompt.txt"
    prompt.write_text(bench.histories.prompt(20 * KB if bench.quick else MB))
    path = bench.lines([History("", [], own) for own in bench.histories.own(n, 20 * KB)])
    ours, plain = [], []
    for _ in range(min(runs, RSS_RUNS)):
        plain.append(_held("asyncio-readers", path, prompt)["bytes"] / MB)
        ours.append(_held("avm-readers", path, prompt))
    theirs = peers.langgraph(bench.python, "readers", path, prompt)
    beside = {
        "asyncio objects": statistics.median(plain),
        "LangGraph (InMemorySaver)": None if theirs is None else theirs["bytes"] / MB,
    }
    for key, when in (("loaded", "just loaded"), ("bytes", "warm")):
        yield judged(
            f"1 MB prompt each loads, 20 KB own, {when}",
            n,
            [run[key] / MB for run in ours],
            "MB RSS",
            most=30,
            peers=beside,
            floor="asyncio objects",
            note=None if theirs else peers.HOW,
        )


# What the rows need.


# The one place that knows how a conversation is kept. What is freed when it goes is asked of the account.
def _own_charge(conversation: Any) -> int:
    from avm.memory.line import Line

    chain = conversation._chain
    charge: int = sum(sealed.page.charge() for sealed in chain.pages) + chain.tail.charge() + Line.OVERHEAD
    return charge


def _warm_sizes(kept: list[Conversation]) -> Iterator[Found]:
    """Yield the bytes of middling conversations: by their parts, and by what the account loses when they go."""
    store = kept[0].store
    chosen = [number for number, each in enumerate(kept) if is_middling(each)] or [0]
    name = "36-44 messages, warm"
    try:
        sizes = [float(_own_charge(kept[number])) for number in chosen]
    except (AttributeError, ImportError) as error:
        note = f"_own_charge() does not know how conversations are kept: {error}"
        yield Skipped(measure=f"{name}, p50", n=len(chosen), note=note)
    else:
        for part, most in ((50, 4 * KB), (90, 8 * KB)):
            value = percentile(sizes, part / 100)
            yield judged(
                f"{name}, p{part}", len(chosen), [value], "B", most=most, note="pages, tail, bookkeeping"
            )
    freed: list[float] = []
    for number in chosen:
        before = store.statistics().account_bytes
        kept[number] = kept[-1]
        freed.append(float(before - store.statistics().account_bytes))
    for part in (50, 90):
        value = percentile(freed, part / 100)
        yield judged(
            f"{name}, freed when dropped, p{part}",
            len(chosen),
            [value],
            "B",
            note="with its own large bodies",
        )


def _residents(name: str, n: int, runs: int, path: Path, least_ratio: float | None = None) -> Iterator[Found]:
    found: dict[str, list[dict[str, float]]] = {"plain": [], "hashed": [], "avm": []}
    for _ in range(min(runs, RSS_RUNS)):
        for side, held in found.items():
            held.append(_held(side, path))
    sizes = {side: [run["bytes"] / MB for run in held] for side, held in found.items()}
    account = statistics.median(run["account"] for run in found["avm"]) / MB
    yield judged(
        f"{name}, warm",
        n,
        sizes["avm"],
        "MB RSS",
        least_ratio=least_ratio,
        peers={
            "plain dicts": statistics.median(sizes["plain"]),
            "hash per message + zstd": statistics.median(sizes["hashed"]),
        },
        floor="plain dicts",
        note=f"accounted {account:.2f} MB",
    )


def _held(side: str, *paths: Path) -> dict[str, float]:
    command = [sys.executable, str(HERE / "fleets.py"), side, *map(str, paths)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found
