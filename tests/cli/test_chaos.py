"""Chaos: how often it crashes whom, and in which ways."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from avm.actors import Actor, Killed, on
from avm.actors.hooks import CrashReport, Report
from avm.actors.kernel import Kernel
from avm.cli.chaos import Chaos
from avm.cli.player import ChaosError, Crash
from avm.supervision import child, start_tree, supervisor
from avm.testing import ManualClock

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Victim(Actor):
    """Crashes when it is told to."""

    @on(Crash)
    def crash(self, crash: Crash) -> None:
        """Crash."""
        raise ChaosError("as told")


async def crashes(rate: float, seconds: int, seed: int = 1, step: float = 0.1) -> list[CrashReport]:
    found: list[CrashReport] = []

    def observe(report: Report) -> None:
        if isinstance(report, CrashReport):
            found.append(report)

    clock = ManualClock()
    names = [f"v{n}" for n in range(10)]
    tree = supervisor(
        "job",
        max_restarts=10_000,
        children=[
            *[child(name, Victim) for name in names],
            child("chaos", Chaos, rate, tuple(f"job/{name}" for name in names)),
        ],
    )
    async with Kernel(clock=clock, random=Random(seed), observers=[observe]) as kernel:
        await start_tree(kernel, tree)
        for _ in range(round(seconds / step)):
            clock.advance(step)
            await kernel.idle()
        assert len(list(kernel.cells())) == 12
    return found


def test_as_many_are_crashed_as_the_rate_says(run: Run) -> None:
    found = run(crashes(rate=5, seconds=20))

    assert 70 <= len(found) <= 130


def test_every_victim_is_hit_in_every_way(run: Run) -> None:
    found = run(crashes(rate=5, seconds=20))

    assert {report.path for report in found} == {f"job/v{n}" for n in range(10)}
    assert {type(report.reason) for report in found} == {ChaosError, Killed}
    assert any("Crash" in report.last_message for report in found)


def test_the_same_seed_brings_the_same_crashes(run: Run) -> None:
    one, same, other = (run(crashes(rate=5, seconds=5, seed=seed)) for seed in (1, 1, 2))

    def places(found: list[CrashReport]) -> list[tuple[str, type]]:
        return [(report.path, type(report.reason)) for report in found]

    assert places(one) == places(same) != places(other)


def test_a_rate_faster_than_its_timer_is_kept(run: Run) -> None:
    found = run(crashes(rate=400, seconds=1, step=0.01))

    # Four are due at each step; of two crashes of one victim in the same instant one is seen.
    assert 280 <= len(found) <= 400
