"""Hedging: when to make a call a second time because the first is slow to begin (Dean, Barroso: The Tail at Scale).

After the time within which 95 of 100 calls have begun; and for at most 2 of 100 calls.
"""

from __future__ import annotations

from avm.io.reservoir import Reservoir

SLOW = 0.95
SHARE = 0.02
ENOUGH = 20
"""Calls that must have been seen before one can be called slow."""


class Hedging:
    """Counts calls and hedges, and remembers how long calls take to begin."""

    def __init__(self) -> None:
        self.calls = 0
        self.hedged = 0
        self._first = Reservoir()

    def began(self, seconds: float) -> None:
        """Take note of how long a call took to begin."""
        self._first.add(seconds)

    def delay(self) -> float | None:
        """Return the seconds after which a call is slow; None if too few were seen."""
        return self._first.quantiles(SLOW)[0] if len(self._first) >= ENOUGH else None

    def may(self) -> bool:
        """Tell whether another hedge is within the share."""
        return self.hedged + 1 <= self.calls * SHARE
