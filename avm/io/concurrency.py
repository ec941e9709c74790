"""Concurrency: how many calls may be under way at once, found by trying (AIMD, as TCP finds its window).

It begins at its cap. A provider that has no capacity takes three tenths away; each window without trouble adds one. A
window is the time of the calls that were under way when it began: it ends with the first answer to a call sent after
that. So it needs no clock: calls have serials, in the order of sending.
"""

from __future__ import annotations

from avm.errors import SpecError

CUT = 0.7
"""What trouble leaves of the number."""


class Concurrency:
    """The number of calls that may be under way.

    Args:
        cap: never more than this, 1 or more; where it begins.

    Raises:
        SpecError: a cap below 1.
    """

    __slots__ = ("_cut_at", "_number", "_window", "cap")

    def __init__(self, cap: int) -> None:
        if cap < 1:
            raise SpecError(f"Concurrency: cap must be a number of calls of 1 or more, got {cap!r}.")
        self.cap = cap
        self._number = float(cap)
        # A window lasts as long as calls up to this serial answer.
        self._window = 0
        # Trouble of calls up to this serial has been heard.
        self._cut_at = 0

    @property
    def allowed(self) -> int:
        """Calls that may be under way, 1 to `cap`."""
        return int(self._number)

    def answered(self, serial: int, newest: int) -> None:
        """A call went well.

        Args:
            serial: of the call.
            newest: of the call that was sent last.
        """
        if serial > self._window:
            self._window = newest
            self._number = min(float(self.cap), self._number + 1)

    def troubled(self, serial: int, newest: int) -> None:
        """The provider has no capacity; many calls that hear it at once are one trouble. Arguments as `answered`."""
        if serial > self._cut_at:
            self._cut_at = self._window = newest
            self._number = max(1.0, self._number * CUT)
