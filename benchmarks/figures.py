"""Figures with several peers, and rows that cannot be measured yet; `measure.py` has the plain ones."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from measure import Line, figure, line


@attrs.frozen(slots=True, kw_only=True)
class Compared(Line):
    """A measured figure beside those of its peers, measured in the same run and in the same unit.

    Attributes:
        floor: the plainest peer; `ratio` is how many times better avm is than that one.
        peers: all of them by name, null where a peer is not installed.
    """

    peers: Mapping[str, float | None] = attrs.field(factory=dict)

    def json(self) -> str:
        """Return it as one line of JSON; the peers' figures are short too."""
        found: dict[str, Any] = json.loads(Line.json(self))
        found["peers"] = {k: None if v is None else float(f"{v:.6g}") for k, v in self.peers.items()}
        return json.dumps(found)

    def with_peers_noted(self) -> Compared:
        """Return it with the peers in the note, for the table."""
        known = [f"{k} {'?' if v is None else figure(v)}" for k, v in self.peers.items()]
        return attrs.evolve(self, note="; ".join([*known, *([self.note] if self.note else [])]) or None)


@attrs.frozen(slots=True, kw_only=True)
class Skipped:
    """A row that was not measured, and why."""

    measure: str
    n: int
    note: str

    def json(self) -> str:
        """Return it as one line of JSON; its value is null."""
        return json.dumps({**attrs.asdict(self), "value": None, "unit": "", "met": None})


Found = Line | Skipped


def judged(
    measure: str,
    n: int,
    runs: Sequence[float],
    unit: str,
    *,
    most: float | None = None,
    least: float | None = None,
    least_ratio: float | None = None,
    peers: Mapping[str, float | None] | None = None,
    floor: str | None = None,
    less_is_better: bool = True,
    note: str | None = None,
) -> Compared:
    """Make the line of a figure, with its peers and its verdict.

    Args:
        most, least: the bar, in `unit`. least_ratio: the bar, in times better than the floor.
        floor: which of the peers the ratio is against.
    """
    value = statistics.median(runs)
    found = line(measure, n, runs, unit)
    theirs = peers.get(floor) if peers and floor else None
    ratio = None
    if theirs and value > 0:
        ratio = theirs / value if less_is_better else value / theirs
    bar: str | None = None
    met: bool | None = None
    if most is not None:
        bar, met = f"<= {most:g} {unit}" if unit else f"<= {most:g}", value <= most
    elif least is not None:
        bar, met = f">= {least:g} {unit}" if unit else f">= {least:g}", value >= least
    elif least_ratio is not None:
        bar, met = f">= {least_ratio:g}x the floor", None if ratio is None else ratio >= least_ratio
    more = {"floor": theirs, "ratio": ratio, "bar": bar, "met": met, "note": note}
    return Compared(**{**attrs.asdict(found), **more}, peers=dict(peers or {}))


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value below which `part` (0 to 1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]
