"""A sliding reservoir of measurements: the newest n are kept, and quantiles are read from them."""

from __future__ import annotations

SIZE = 1024


class Reservoir:
    """The newest measurements, in a ring."""

    __slots__ = ("_next", "_ring", "_size")

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._ring: list[float] = []
        self._next = 0

    def add(self, value: float) -> None:
        """Keep a measurement in place of the oldest."""
        if len(self._ring) < self._size:
            self._ring.append(value)
            return
        self._ring[self._next] = value
        self._next = (self._next + 1) % self._size

    def quantiles(self, *shares: float) -> tuple[float, ...]:
        """Return for each share (0 to 1) the least kept value that this share does not exceed; 0.0 of nothing."""
        if not self._ring:
            return tuple(0.0 for _ in shares)
        ordered = sorted(self._ring)
        last = len(ordered) - 1
        return tuple(ordered[min(last, int(share * len(ordered)))] for share in shares)

    def __len__(self) -> int:
        return len(self._ring)
