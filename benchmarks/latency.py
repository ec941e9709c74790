"""How long an event waits from its sender to its handler while 10,000 actors keep the scheduler busy, by priority.

What has not arrived when the time is over counts as having waited until then: the least that it can have been.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from cast import machine

from avm.actors import Actor, Ref, event, on
from avm.scheduler import PRIORITIES

PROBES = 20
EVERY = 0.004


@event
class Turn:
    """Do a little, then send yourself another."""


@event
class Stamp:
    """The number under which its sender noted when it was sent."""

    number: int


TURN = Turn()


class Busy(Actor):
    """Always has something to do: each turn takes about 10 us."""

    @on(Turn)
    async def turn(self, turn: Turn) -> None:
        sum(range(400))
        self.tell(self.ref, turn)


class Ways:
    """The stamps of one priority: seconds on the way of those that arrived, and when the others were sent."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.under_way: dict[int, float] = {}

    def all(self) -> list[float]:
        """Return the seconds of all stamps, in order; those under way end now."""
        now = perf_counter()
        return sorted([*self.seen, *(now - sent for sent in self.under_way.values())])


class Probe(Actor):
    """Notes how long each stamp was on its way."""

    def __init__(self, ways: Ways) -> None:
        self.ways = ways

    @on(Stamp)
    async def note(self, stamp: Stamp) -> None:
        self.ways.seen.append(perf_counter() - self.ways.under_way.pop(stamp.number))


class Sender(Actor):
    """Sends a stamp to one probe of each priority, every 4 ms."""

    priority = "user"

    def __init__(self, probes: list[tuple[Ways, list[Ref]]]) -> None:
        self.probes = probes
        self.sent = 0
        self.send_interval(EVERY, self.pid, TURN)

    @on(Turn)
    def send(self, turn: Turn) -> None:
        self.sent += 1
        stamp = Stamp(self.sent)
        for ways, refs in self.probes:
            ways.under_way[self.sent] = perf_counter()
            self.tell(refs[self.sent % PROBES], stamp)


async def waits(actors: int, seconds: float, shares: dict[str, float]) -> dict[str, list[float]]:
    """Measure for some seconds.

    Args:
        shares: the part of the busy actors that has each priority.

    Returns:
        Seconds on the way of all stamps, in order, by the priority of the receiver.
    """
    found = {priority: Ways() for priority in PRIORITIES}
    async with machine() as vm:
        busy = [
            await vm.spawn(Busy, priority=priority)
            for priority, share in shares.items()
            for _ in range(round(actors * share))
        ]
        probes = [
            (ways, [await vm.spawn(Probe, ways, priority=priority) for _ in range(PROBES)])
            for priority, ways in found.items()
        ]
        for ref in busy:
            vm.tell(ref, TURN)
        await asyncio.sleep(seconds / 4)
        sender = await vm.spawn(Sender, probes)
        await asyncio.sleep(seconds)
        vm.kill(sender)
        # What is under way may still arrive.
        await asyncio.sleep(seconds / 4)
        waited = {priority: ways.all() for priority, ways in found.items()}
        for ref in busy:
            vm.kill(ref)
    return waited
