"""Chaos: crashes agents at random, so many a second, in each of the ways an agent can crash."""

from __future__ import annotations

from avm.actors.actor import Actor, on
from avm.actors.event import event
from avm.cli.player import ChaosError, Crash

SHORTEST = 0.005
"""Seconds between two looks at the clock; crashes that are due by then happen together."""


@event(tag="avm.job.Strike")
class Strike:
    """It is time for a crash; only from chaos to itself."""


class Chaos(Actor):
    """Crashes random agents, at times as far apart as those of accidents: exponentially distributed.

    Args:
        rate: crashes a second, above 0.
        victims: paths of the agents.
    """

    priority = "user"

    def __init__(self, rate: float, victims: tuple[str, ...]) -> None:
        self._rate = rate
        self._victims = victims
        self._next = self.now()

    def starting(self) -> None:
        """Choose the time of the first crash."""
        self._wait()

    @on(Strike)
    def strike(self, strike: Strike) -> None:
        """Crash as many agents as is due by now."""
        now = self.now()
        while self._next <= now:
            self._crash(self.random.choice(self._victims))
            self._next += self.random.expovariate(self._rate)
        self.send_after(max(self._next - now, SHORTEST), self.pid, Strike())

    def _wait(self) -> None:
        self._next += self.random.expovariate(self._rate)
        self.send_after(max(self._next - self.now(), SHORTEST), self.pid, Strike())

    # In the midst of whatever it is doing, by an exit signal or a kill; or by an exception in its own handler.
    def _crash(self, victim: str) -> None:
        way = self.random.randrange(3)
        if way == 0:
            self.kill(victim)
        elif way == 1:
            self.exit(victim, ChaosError("crashed on purpose (--chaos)"))
        else:
            self.tell(victim, Crash())
