"""Measuring: sides that take turns, medians, ratios within one run, and what is printed.

Two sides of a measure are run in turns (floor, floor, avm, floor, floor, avm, ...), each on a fresh event loop, so that
a machine that slows down slows all of them. The asyncio floor is run twice in each turn: with the garbage collector as
CPython sets it, and as a VM sets it. The better of the two is the floor.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import attrs

from avm.vm.collector import COLLECTOR
from avm.vm.run import loop_factory

RUNS = 5
LIMIT = 120.0
"""Seconds one run may take; one that hangs ends the benchmark."""

Side = Callable[[int], Coroutine[Any, Any, float]]
"""Does something n times and returns the figure: a rate, a time, a size."""

Better = Literal["higher", "lower"]


@attrs.frozen(slots=True, kw_only=True)
class Line:
    """One measured figure and, where there is one, the bar it has to pass.

    Attributes:
        value: the median of the runs; `low` and `high` are the least and the greatest.
        floor: the same on plain asyncio; `ratio` is how many times better avm is, the median of the turns.
        floor_default, floor_tuned: the floor with CPython's collector settings, and with those of a VM.
        met: whether the bar is passed; None without a bar.
    """

    measure: str
    n: int
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    floor_default: float | None = None
    floor_tuned: float | None = None
    ratio: float | None = None
    bar: str | None = None
    met: bool | None = None
    note: str | None = None

    def json(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps({k: _short(v) for k, v in attrs.asdict(self).items()})


def line(measure: str, n: int, runs: Sequence[float], unit: str, **more: Any) -> Line:
    """Make the line of a figure that was measured several times."""
    value = statistics.median(runs)
    return Line(measure=measure, n=n, value=value, unit=unit, low=min(runs), high=max(runs), **more)


def compare(
    measure: str,
    n: int,
    unit: str,
    avm: Side,
    floor: Side,
    *,
    runs: int = RUNS,
    better: Better = "higher",
    least_ratio: float | None = None,
) -> Line:
    """Measure both sides in turns.

    Args:
        least_ratio: the bar: how many times better than the floor avm has to be.
    """
    ours: list[float] = []
    default: list[float] = []
    tuned: list[float] = []
    for _ in range(runs):
        default.append(once(floor, n))
        with vm_collector():
            tuned.append(once(floor, n))
        ours.append(once(avm, n))
    best = max if better == "higher" else min
    by_default, by_tuned = statistics.median(default), statistics.median(tuned)
    floors = default if best(by_default, by_tuned) == by_default else tuned
    ratio = statistics.median(gain(a, f, better) for a, f in zip(ours, floors, strict=True))
    return line(
        measure,
        n,
        ours,
        unit,
        floor=statistics.median(floors),
        floor_default=by_default,
        floor_tuned=by_tuned,
        ratio=ratio,
        bar=None if least_ratio is None else f">= {least_ratio:g}x the floor",
        met=None if least_ratio is None else ratio >= least_ratio,
    )


def repeat(side: Side, n: int, runs: int = RUNS) -> list[float]:
    """Measure one side several times."""
    return [once(side, n) for _ in range(runs)]


def once(side: Side, n: int) -> float:
    """Measure one side once, on a fresh loop and a clean heap."""
    gc.collect()
    with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
        return runner.run(asyncio.wait_for(side(n), LIMIT))


def gain(ours: float, floor: float, better: Better) -> float:
    """Return how many times better one figure is than another."""
    return ours / floor if better == "higher" else floor / ours


@contextmanager
def vm_collector() -> Iterator[None]:
    """Run with the collector set as a VM sets it."""
    COLLECTOR.hold()
    try:
        yield
    finally:
        COLLECTOR.release()


def table(lines: Iterable[Line]) -> str:
    """Return all lines as a table for people."""
    head = ("measure", "n", "median", "low - high", "unit", "floor", "ratio", "bar", "")
    rows = [head, *map(_cells, lines)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(head))]
    right = {1, 2, 3, 5, 6}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _cells(row: Line) -> tuple[str, ...]:
    spread = "" if row.low is None or row.high is None else f"{figure(row.low)} - {figure(row.high)}"
    verdict = "" if row.met is None else ("met" if row.met else "MISSED")
    return (
        row.measure,
        f"{row.n:,}",
        figure(row.value),
        spread,
        row.unit,
        "" if row.floor is None else figure(row.floor),
        "" if row.ratio is None else f"{row.ratio:.2f}x",
        row.bar or "",
        f"{verdict} {row.note or ''}".strip(),
    )


def figure(value: float) -> str:
    """Write a number with about three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _short(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value
