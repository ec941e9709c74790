"""Pause: after a 429 nobody is sent for a while, and then few at first.

The provider says for how long, or it is a second that doubles with each 429 in a row. Then the rate begins at a tenth
of what is allowed and doubles every second, until a whole minute's worth could go within one: by then the buckets alone
decide. Where no rate is known the number of calls under way grows the same way. How fast it doubles is left to chance
a little, so that several processes with one key do not come back in step.
"""

from __future__ import annotations

import math
from random import Random

from avm.io.bucket import MINUTE
from avm.supervision import Backoff

SHORTEST, LONGEST = 0.05, 60.0
"""Seconds of a pause, whatever the provider says."""

UNTOLD = Backoff(min=1.0, max=LONGEST, factor=2.0, jitter=0.25)
"""How long it is if the provider does not say."""

START = 0.1
"""The part of the rate with which a ramp begins."""

PERIOD = (0.8, 1.2)
"""Seconds in which the rate doubles: somewhere between."""


class Pause:
    """Whether a gate pauses, and the ramp after it. Times never go back.

    Args:
        random: for the jitter.
    """

    __slots__ = ("_known", "_next", "_period", "_ramps", "_random", "_streak", "until")

    def __init__(self, random: Random) -> None:
        self.until = -math.inf
        """When the last pause ends, or ended."""
        self._random = random
        self._ramps = False
        self._period = 1.0
        # When the ramp lets the next call go.
        self._next = -math.inf
        # Calls up to this serial were sent before the last pause began.
        self._known = 0
        self._streak = 0

    def begin(self, serial: int, newest: int, retry_after: float | None, now: float) -> float:
        """A call got a 429. Return in how many seconds it should find room.

        Calls that were sent before the pause began say nothing new: they lengthen it only if they name a later time.

        Args:
            serial: of the call.
            newest: of the call that was sent last.
            retry_after: seconds the provider asks for; None if it does not say.
        """
        is_late = serial <= self._known
        if is_late and retry_after is None:
            return max(0.0, self.until - now)
        if not is_late:
            self._streak += 1
            self._known = newest
        if retry_after is None:
            seconds = UNTOLD.delay(self._streak, self._random)
        else:
            seconds = min(max(retry_after, SHORTEST), LONGEST)
        if now + seconds > self.until:
            self.until = self._next = now + seconds
            self._ramps = True
            self._period = self._random.uniform(*PERIOD)
        return seconds

    def answered(self, serial: int) -> None:
        """A call went well: if it was sent after the pause, the next 429 is the first in a row again."""
        if serial > self._known:
            self._streak = 0

    def ready(self, now: float, limit: int | None, in_flight: int, allowed: int) -> float:
        """Return when the next call may go: now, or later.

        Args:
            limit: requests a minute; None if that is not known.
            in_flight: calls under way.
            allowed: how many may be.
        """
        if now < self.until:
            return self.until
        if not self._ramps:
            return now
        if self._share(now) >= (1.0 if limit is None else MINUTE):
            self._ramps = False
            return now
        if limit is not None:
            return max(now, self._next)
        return max(now, self._reaches((in_flight + 1) / allowed)) if in_flight else now

    def sent(self, now: float, limit: int | None) -> None:
        """A call goes: the next one has to wait until the ramp has room for it."""
        if self._ramps and limit is not None:
            # The rate is limit/60 * START * 2**(x/period); its integral from now to the next call is one call.
            rate = limit / MINUTE * START
            grown = math.exp2((now - self.until) / self._period) + math.log(2.0) / (rate * self._period)
            self._next = self.until + self._period * math.log2(grown)

    # The part of what is allowed that may go now.
    def _share(self, now: float) -> float:
        return START * math.exp2(min(64.0, (now - self.until) / self._period))

    # When that part is so large.
    def _reaches(self, share: float) -> float:
        return self.until + self._period * math.log2(share / START) if share > START else self.until
