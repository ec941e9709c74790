"""What the screen and the JSON lines say of the gates: limits, who waits for what, prompt cache and cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from avm.io import GateStatistics, PoolStatistics


@attrs.frozen(slots=True, kw_only=True)
class GateFigures:
    """One gate, at one moment.

    Attributes:
        in_flight: calls under way, of `concurrency` that may be.
        queued: calls that wait for their turn; parked: for the leader of their prefix; delayed: to be tried again.
        levels: what is left of each limit: requests, input_tokens, output_tokens; limits: what is allowed a minute.
        paused: seconds until it sends again after a 429, None if it does not pause.
        breaker: "closed" where all is well, else "open" or "half-open".
        shares: part of input tokens read from the prompt cache, by class of agents.
    """

    family: str
    in_flight: int
    concurrency: int
    queued: int
    parked: int
    delayed: int
    limits: dict[str, int]
    levels: dict[str, int]
    paused: float | None
    breaker: str
    rate_limited: int
    overloaded: int
    retries: int
    shares: dict[str, float]


@attrs.frozen(slots=True, kw_only=True)
class IoFigures:
    """The pool, at one moment. `cost` is US dollars, None where nothing has a price."""

    gates: tuple[GateFigures, ...] = ()
    cached_share: float = 0.0
    cost: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    failed: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` has under "io"."""
        return {**attrs.asdict(self), "gates": [attrs.asdict(gate) for gate in self.gates]}


def read_io(pool: PoolStatistics, now: float) -> IoFigures:
    """Make figures of the pool's statistics; `now` is the VM's clock."""
    return IoFigures(
        gates=tuple(_read_gate(gate, now) for gate in pool.gates),
        cached_share=round(pool.cached_share, 4),
        cost=None if pool.cost is None else round(pool.cost, 4),
        input_tokens=pool.input_tokens,
        output_tokens=pool.output_tokens,
        cache_read_tokens=pool.cache_read_tokens,
        cache_write_tokens=pool.cache_write_tokens,
        failed=pool.failed,
    )


def _read_gate(gate: GateStatistics, now: float) -> GateFigures:
    governor = gate.governor
    limits = {
        "requests": governor.limits.requests,
        "input_tokens": governor.limits.input_tokens,
        "output_tokens": governor.limits.output_tokens,
    }
    levels = {
        "requests": governor.requests_level,
        "input_tokens": governor.input_level,
        "output_tokens": governor.output_level,
    }
    paused = governor.paused_until
    return GateFigures(
        family=gate.family,
        in_flight=gate.in_flight,
        concurrency=governor.concurrency,
        queued=gate.queued,
        parked=gate.parked,
        delayed=gate.delayed,
        limits={name: limit for name, limit in limits.items() if limit is not None},
        levels={name: int(level) for name, level in levels.items() if level is not None},
        paused=None if paused is None else round(max(0.0, paused - now), 2),
        breaker=governor.breaker,
        rate_limited=governor.rate_limited,
        overloaded=governor.overloaded,
        retries=gate.retries,
        shares={} if gate.prefixes is None else {k: round(v, 4) for k, v in gate.prefixes.shares.items()},
    )


# Lines.

_NAMES = {"requests": "requests", "input_tokens": "input", "output_tokens": "output"}


def io_rows(figures: IoFigures) -> list[tuple[str, str]]:
    """Return the screen's rows: for each gate that has something to say, and for tokens and cost."""
    rows: list[tuple[str, str]] = []
    several = len(figures.gates) > 1
    for gate in figures.gates:
        if gate.limits or gate.parked or gate.delayed or gate.retries or gate.breaker != "closed":
            rows.append((f"gate {gate.family}" if several else "governor", governor_text(gate)))
        if gate.limits:
            rows.append(("limits/min", limits_text(gate)))
        if gate.shares:
            rows.append(("prompt cache", cache_text(figures, gate)))
    if figures.output_tokens:
        rows.append(("tokens", tokens_text(figures)))
    return rows


def governor_text(gate: GateFigures) -> str:
    """Say what a gate does with those who want to go through it."""
    parts = [f"{gate.in_flight:,} of {gate.concurrency:,} in flight, {gate.queued:,} queued"]
    if gate.parked:
        parts.append(f"{gate.parked:,} behind a leader")
    if gate.delayed:
        parts.append(f"{gate.delayed:,} to be tried again")
    if gate.paused is not None:
        parts.append(f"PAUSED for {gate.paused:.1f} s")
    if gate.breaker != "closed":
        parts.append(f"breaker {gate.breaker}")
    troubles = _counts((gate.rate_limited, "429"), (gate.overloaded, "529"), (gate.retries, "retries"))
    return ", ".join(parts) + (f"; {troubles}" if troubles else "")


def limits_text(gate: GateFigures) -> str:
    """Say what is left of what is allowed."""
    return ", ".join(
        f"{_NAMES[name]} {_short(gate.levels.get(name, 0))} of {_short(limit)}"
        for name, limit in gate.limits.items()
    )


def cache_text(figures: IoFigures, gate: GateFigures) -> str:
    """Say how much of the input was read from the provider's prompt cache."""
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(gate.shares.items()))
    return f"{figures.cached_share:.1%} of input read ({kinds})"


def tokens_text(figures: IoFigures) -> str:
    """Say what was used, and what it cost."""
    parts = [f"{_short(figures.input_tokens)} in, {_short(figures.output_tokens)} out"]
    if figures.cache_read_tokens or figures.cache_write_tokens:
        parts.append(
            f"{_short(figures.cache_read_tokens)} read and {_short(figures.cache_write_tokens)} written in the cache"
        )
    if figures.cost is not None:
        parts.append(f"{figures.cost:,.2f} USD")
    return "; ".join(parts)


def _counts(*counts: tuple[int, str]) -> str:
    return ", ".join(f"{count:,} {what}" for count, what in counts if count)


def _short(number: int) -> str:
    for size, letter in ((1_000_000, "M"), (10_000, "k")):
        if abs(number) >= size:
            return f"{number / (size if letter == 'M' else 1000):,.1f}{letter}"
    return f"{number:,}"


def io_line(figures: Sequence[tuple[str, str]]) -> str:
    """Put the rows in one line."""
    return "; ".join(f"{label} {text}" for label, text in figures)
