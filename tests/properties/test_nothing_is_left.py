"""What thousands of lives, asks, timers, links, groups and pipes leave behind: nothing (S24, S32, S89, S102)."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from avm.actors import Actor, Down, Exit, Kernel, Ref, Request, event, on

MANY = 2000
SLACK = 50
"""Objects that may be more after a second round than after the first: caches, not one for each."""


@event(tag="tests.left.Run")
class Run(Request[Any]):
    """Runs the script of the actor."""


@event(tag="tests.left.Nothing")
class Nothing(Request[None]):
    """Answered with None."""


Script = Callable[[Any], Awaitable[None]]


class Hand(Actor):
    """Runs what it was made with."""

    trap_exit = True

    def __init__(self, script: Script | None = None) -> None:
        self.script = script

    @on(Run)
    async def run(self, run: Run) -> None:
        assert self.script is not None
        await self.script(self)

    @on(Nothing, Down, Exit)
    async def nothing(self, _: object) -> None:
        return None


class Unborn(Actor):
    """Never starts."""

    async def starting(self) -> None:
        raise ValueError("no")


async def spawns(me: Hand) -> None:
    for _ in range(MANY):
        await me.stop_actor(await me.spawn(Hand, link=True, monitor=True))


async def restarts(me: Hand) -> None:
    ref = await me.spawn(Hand)
    for _ in range(MANY):
        me.kill(ref)
        ref = await me.spawn(Hand, at=ref)
    me.kill(ref)


async def failed_starts(me: Hand) -> None:
    for _ in range(MANY // 10):
        try:
            await me.spawn(Unborn, name="name", id="id")
        except Exception:
            assert me.whereis("name") is None


async def asks(me: Hand) -> None:
    other = peer(me)
    for _ in range(MANY):
        await me.ask(other, Nothing())


async def timers_to_a_place(me: Hand) -> None:
    for _ in range(MANY):
        me.cancel(me.send_after(60, peer(me), Nothing()))


async def links_and_monitors(me: Hand) -> None:
    other = peer(me)
    for _ in range(MANY):
        me.link(other)
        me.demonitor(me.monitor(other))
        me.unlink(other)


async def names_and_groups(me: Hand) -> None:
    for n in range(MANY):
        me.register(f"name {n}")
        me.join(f"group {n}")
        me.publish(f"group {n + 1}", Nothing())
        me.leave(f"group {n}")
        me.unregister(f"name {n}")


async def pipes(me: Hand) -> None:
    async def work() -> Nothing:
        return Nothing()

    for _ in range(MANY // 4):
        await me.pipe(work())


def peer(me: Hand) -> Ref:
    found = me.whereis("peer")
    assert found is not None
    return found


def census() -> Counter[str]:
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects())


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        spawns,
        restarts,
        failed_starts,
        asks,
        timers_to_a_place,
        links_and_monitors,
        names_and_groups,
        pipes,
    ],
)
def test_a_second_round_leaves_no_more_objects_than_the_first(run: Any, script: Script) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            await kernel.spawn(Hand, name="peer")
            hand = await kernel.spawn(Hand, script)
            counts = []
            for _ in range(2):
                await kernel.ask(hand, Run(), 30)
                await kernel.idle()
                counts.append(census())
            assert kernel.statistics().actors == 2
            more = {kind: n - counts[0][kind] for kind, n in counts[1].items() if n - counts[0][kind] > SLACK}
            assert not more, more

    run(body(), timeout=60)
