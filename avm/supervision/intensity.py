"""How often a supervisor may restart, and how long it waits before it does.

`RestartWindow` is the exact rule S66: the times of the restart decisions of the last `max_seconds` are kept, and the
decision that makes them more than `max_restarts` is one too many. `Backoff` turns the number of failures of one child
into seconds; randomness and the clock are handed in.
"""

from __future__ import annotations

from collections import deque
from random import Random

import attrs

from avm.errors import SpecError

_MAX_EXPONENT = 64
"""Failures beyond this many do not lengthen a delay; keeps `factor ** n` a float."""


class RestartWindow:
    """The restart decisions of one supervisor inside its window.

    Args:
        max_restarts: decisions allowed inside the window, 0 or more.
        max_seconds: length of the window, over 0.
    """

    __slots__ = ("_times", "max_restarts", "max_seconds")

    def __init__(self, max_restarts: int, max_seconds: float) -> None:
        self.max_restarts = max_restarts
        self.max_seconds = max_seconds
        self._times: deque[float] = deque()

    def add(self, now: float) -> bool:
        """Note a decision at `now` and tell whether it is allowed; one that is exactly `max_seconds` old counts."""
        times = self._times
        oldest = now - self.max_seconds
        while times and times[0] < oldest:
            times.popleft()
        times.append(now)
        return len(times) <= self.max_restarts

    @property
    def span(self) -> float:
        """Seconds from the oldest decision kept to the newest."""
        return self._times[-1] - self._times[0] if self._times else 0.0

    def __len__(self) -> int:
        return len(self._times)


@attrs.frozen(slots=True)
class Backoff:
    """How long a child waits before it starts again (S73): `min` seconds, times `factor` at each failure, up to `max`.

    Args:
        min: seconds before the first restart; 0 restarts at once, always.
        max: no delay is longer, in seconds.
        factor: growth from one failure to the next, 1 or more.
        jitter: the part of each delay left to chance, 0 to 1: a delay d becomes d * (1 - jitter) to d.
    """

    min: float = 0.0
    max: float = 30.0
    factor: float = 2.0
    jitter: float = 0.0

    def __attrs_post_init__(self) -> None:
        _check("min", self.min, self.min >= 0, "seconds, 0 or more")
        _check("max", self.max, self.min <= self.max, "seconds, not less than min")
        _check("factor", self.factor, self.factor >= 1, "1 or more")
        _check("jitter", self.jitter, 0 <= self.jitter <= 1, "between 0 and 1")

    def delay(self, failures: int, random: Random) -> float:
        """Return the seconds to wait after the n-th failure in a row, counted from 1."""
        if self.min == 0:
            return 0.0
        grown = self.min * self.factor ** min(failures - 1, _MAX_EXPONENT)
        return min(grown, self.max) * (1 - self.jitter * random.random())


def _check(field: str, value: object, right: bool, expected: str) -> None:
    if not right:
        raise SpecError(f"Backoff: {field} must be {expected}, got {value!r}.")


NO_BACKOFF = Backoff()
"""Restart at once."""
