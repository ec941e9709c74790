"""Waiting before a restart (S73), on a clock that moves by hand."""

from __future__ import annotations

from typing import Any

import pytest

from avm.actors import Shutdown
from avm.errors import ChildRestarting
from avm.supervision import (
    Backoff,
    child,
    count_children,
    dynamic_supervisor,
    restart_child,
    start_child,
    supervisor,
    terminate_child,
)
from tests.supervision.world import Log, Probe, Run, world

BACKOFF = Backoff(min=2, max=16, factor=2)


def family(strategy: Any = "one_for_one", **flags: Any) -> Any:
    def tree(log: Log) -> Any:
        children = [child(id, Probe, log) for id in "abc"]
        return supervisor("top", strategy=strategy, backoff=BACKOFF, children=children, **flags)

    return tree


def test_s73_a_child_waits_in_state_restarting(run: Run) -> None:
    async def body() -> None:
        async with world(family()) as w:
            await w.end("top/b")
            assert await w.states() == {"a": "up", "b": "restarting", "c": "up"}

            await w.advance(1.99)
            assert w.log.starts()["b"] == 1
            await w.advance(0.01)

            assert w.log.starts()["b"] == 2
            assert await w.states() == {"a": "up", "b": "up", "c": "up"}

    run(body())


def test_s73_delays_grow_with_each_failure_and_are_forgotten_after_a_quiet_window(run: Run) -> None:
    async def body() -> None:
        async with world(family(max_restarts=9, max_seconds=20)) as w:
            for delay in (2, 4, 8):
                await w.end("top/b")
                await w.advance(delay - 0.01)
                assert (await w.states())["b"] == "restarting"
                await w.advance(0.01)
                assert (await w.states())["b"] == "up"

            await w.advance(60)
            await w.end("top/b")
            await w.advance(2)

            assert (await w.states())["b"] == "up"

    run(body())


def test_s73_failures_of_one_child_do_not_slow_another(run: Run) -> None:
    async def body() -> None:
        async with world(family(max_restarts=9, max_seconds=60)) as w:
            for delay in (2, 4):
                await w.end("top/b")
                await w.advance(delay)

            await w.end("top/c")
            await w.advance(2)

            assert (await w.states())["c"] == "up"

    run(body())


def test_s73_waiting_adds_nothing_to_the_window(run: Run) -> None:
    """The decision is made before the wait; the start after it is no second one."""

    async def body() -> None:
        async with world(family(max_restarts=1, max_seconds=100)) as w:
            await w.end("top/b")
            await w.advance(2)
            assert (await w.states())["b"] == "up"

            await w.end("top/b")

            assert await w.reason() == Shutdown("max_restarts")

    run(body())


def test_s73_a_start_that_fails_waits_longer_for_its_next_try(run: Run) -> None:
    async def body() -> None:
        async with world(family(max_restarts=9, max_seconds=100)) as w:
            w.log.plan("b", "fail", "ok")
            await w.end("top/b")
            await w.advance(2)
            assert w.log.count("fail b") == 1

            await w.advance(3.99)
            assert (await w.states())["b"] == "restarting"
            await w.advance(0.01)

            assert (await w.states())["b"] == "up"

    run(body())


def test_s73_a_stop_does_not_wait_for_the_backoff(run: Run) -> None:
    async def body() -> None:
        async with world(family()) as w:
            await w.end("top/b")
            w.log.take()

            assert await w.stop() == Shutdown()
            w.clock.advance(60)
            await w.settle()

            assert w.log.lines == ["stop c", "stop a"]

    run(body())


def test_s73_terminate_child_calls_the_restart_off(run: Run) -> None:
    async def body() -> None:
        async with world(family()) as w:
            await w.end("top/b")

            await terminate_child(w.top, "b")
            await w.advance(60)

            assert w.log.starts()["b"] == 1
            assert (await w.states())["b"] == "down"

    run(body())


def test_s73_a_restart_that_was_called_off_does_not_disturb_a_later_one(run: Run) -> None:
    async def body() -> None:
        async with world(family()) as w:
            await w.end("top/b")
            await w.advance(1)
            await terminate_child(w.top, "b")
            await restart_child(w.top, "b")

            await w.advance(60)

            assert w.log.starts()["b"] == 2

    run(body())


def test_s73_queries_are_answered_at_once(run: Run) -> None:
    async def body() -> None:
        async with world(family()) as w:
            await w.end("top/b")

            assert (await count_children(w.top)).active == 2
            with pytest.raises(ChildRestarting):
                await restart_child(w.top, "b")

    run(body())


@pytest.mark.parametrize("strategy, group", [("rest_for_one", "bc"), ("one_for_all", "abc")])
def test_s73_a_group_stops_at_the_decision_and_starts_after_the_wait(
    run: Run, strategy: str, group: str
) -> None:
    async def body() -> None:
        async with world(family(strategy)) as w:
            w.log.take()

            await w.end("top/b")
            assert w.log.take() == ["stop b", *[f"stop {id}" for id in reversed(group) if id != "b"]]

            await w.advance(2)
            assert w.log.lines == [f"start {id}" for id in group]

    run(body())


def test_s73_a_dynamic_supervisor_waits_too(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: dynamic_supervisor("pool", backoff=BACKOFF)) as w:
            ref = await start_child(w.top, child("w", Probe, w.log))
            assert ref is not None
            pid = ref.pid
            await w.end("pool/w")
            assert [(await w.status())["w"].pid] == ["restarting"]

            await w.advance(2)

            assert w.log.starts() == {"w": 2}
            assert ref.pid != pid
            assert ref.is_alive()

    run(body())
