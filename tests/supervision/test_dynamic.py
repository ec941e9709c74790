"""DynamicSupervisor: children by pid, a limit on them, and a stop that takes as long as the slowest (S57, S75)."""

from __future__ import annotations

from typing import Any

import pytest

from avm.actors import Killed, Shutdown
from avm.errors import ChildError, ChildNotFound, StartError, TooManyChildren
from avm.supervision import (
    ChildCounts,
    child,
    child_spec,
    count_children,
    delete_child,
    dynamic_supervisor,
    restart_child,
    start_child,
    supervisor,
    terminate_child,
    which_children,
)
from tests.supervision.world import ABNORMAL, ENDS, Log, Plain, Probe, Run, Stubborn, World, world


def pool(**flags: Any) -> Any:
    return lambda log: dynamic_supervisor("pool", **flags)


async def started(w: World, *ids: str, cls: Any = Probe, **options: Any) -> list[Any]:
    return [await start_child(w.top, child(id, cls, w.log, **options)) for id in ids]


def test_children_of_one_spec_live_side_by_side(run: Run) -> None:
    async def body() -> None:
        async with world(pool()) as w:
            spec = child("w", Probe, w.log)
            refs = [await start_child(w.top, spec) for _ in range(3)]

            assert [ref.path for ref in refs if ref is not None] == ["pool/w", "pool/w-1", "pool/w-2"]
            assert {c.pid for c in await which_children(w.top)} == {
                ref.pid for ref in refs if ref is not None
            }

    run(body())


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
@pytest.mark.parametrize("how", list(ENDS))
def test_s63_restart_types_hold_in_a_dynamic_supervisor(run: Run, restart: Any, how: str) -> None:
    async def body() -> None:
        async with world(pool()) as w:
            await started(w, "a", "b", restart=restart)

            await w.end("pool/a", how)

            restarted = restart == "permanent" or (restart == "transient" and how in ABNORMAL)
            assert w.log.starts() == {"a": 1 + restarted, "b": 1}
            assert await w.states() == ({"a": "up", "b": "up"} if restarted else {"b": "up"})

    run(body())


def test_s66_the_window_is_that_of_the_supervisor(run: Run) -> None:
    async def body() -> None:
        async with world(pool(max_restarts=2)) as w:
            await started(w, *"abc")
            for id in "ab":
                await w.end(f"pool/{id}")
            assert w.top.is_alive()

            await w.end("pool/c")

            assert await w.reason() == Shutdown("max_restarts")
            assert w.log.starts() == {"a": 2, "b": 2, "c": 1}
            assert len(w.gave_up()) == 1

    run(body())


def test_s55_a_child_that_ignores_its_start_is_dropped(run: Run) -> None:
    async def body() -> None:
        async with world(pool()) as w:
            w.log.plan("a", "ignore")

            assert await started(w, "a") == [None]

            assert await w.states() == {}

    run(body())


def test_s75_a_child_that_ignores_its_restart_is_dropped(run: Run) -> None:
    async def body() -> None:
        async with world(pool()) as w:
            await started(w, "a")
            w.log.plan("a", "ignore")

            await w.end("pool/a")

            assert await w.states() == {}
            assert (await started(w, "a"))[0].path == "pool/a"

    run(body())


def test_a_failed_start_is_the_askers_and_leaves_nothing(run: Run) -> None:
    async def body() -> None:
        async with world(pool(max_restarts=0)) as w:
            w.log.plan("a", "fail")
            with pytest.raises(StartError, match="cannot start"):
                await started(w, "a")

            assert await w.states() == {}
            assert w.top.is_alive()

    run(body())


@pytest.mark.parametrize("by", ["pid", "ref"])
def test_s75_terminate_child_takes_a_pid_or_a_ref(run: Run, by: str) -> None:
    async def body() -> None:
        async with world(pool()) as w:
            a, _ = await started(w, "a", "b")

            await terminate_child(w.top, a.pid if by == "pid" else a)

            assert not a.is_alive()
            assert await w.states() == {"b": "up"}
            with pytest.raises(ChildNotFound):
                await terminate_child(w.top, a)

    run(body())


def test_s75_a_strangers_live_pid_is_not_found_and_untouched(run: Run) -> None:
    async def body() -> None:
        async with world(pool()) as w:
            await started(w, "a")
            stranger = await w.kernel.spawn(Plain, id="a")

            for which in (stranger, stranger.last_pid):
                with pytest.raises(ChildNotFound, match="supervisor 'pool' has no child"):
                    await terminate_child(w.top, which)

            assert stranger.is_alive()
            assert await w.states() == {"a": "up"}

    run(body())


@pytest.mark.parametrize("verb", [restart_child, delete_child])
def test_s75_restart_and_delete_are_not_for_dynamic_supervisors(run: Run, verb: Any) -> None:
    async def body() -> None:
        async with world(pool()) as w:
            (a,) = await started(w, "a")

            with pytest.raises(ChildError, match="supervisor 'pool' is dynamic: "):
                await verb(w.top, a.pid)

            assert a.is_alive()

    run(body())


def test_s75_a_retrying_child_keeps_its_old_pid_as_its_key(run: Run) -> None:
    async def body() -> None:
        async with world(pool(max_restarts=1_000_000)) as w:
            (a,) = await started(w, "a")
            pid = a.pid
            w.log.always["a"] = "fail"
            w.order("pool/a")
            while w.log.count("fail a") < 3:
                await which_children(w.top)
            assert (await child_spec(w.top, pid)).id == "a"
            assert (await w.status())["a"].pid == "restarting"

            await terminate_child(w.top, pid)
            tried = w.log.count("fail a")
            await w.settle()

            assert w.log.count("fail a") == tried
            assert await w.states() == {}

    run(body())


def test_s68_retries_of_a_dynamic_child_are_decisions_too(run: Run) -> None:
    async def body() -> None:
        async with world(pool(max_restarts=3)) as w:
            await started(w, "a")
            w.log.always["a"] = "fail"

            await w.end("pool/a")

            assert w.log.count("fail a") == 3
            assert await w.reason() == Shutdown("max_restarts")

    run(body())


def test_s75_max_children_counts_those_that_wait_for_a_restart(run: Run) -> None:
    async def body() -> None:
        async with world(pool(max_children=2, max_restarts=1_000_000)) as w:
            a, _ = await started(w, "a", "b")
            w.log.always["a"] = "fail"
            w.order("pool/a")
            while w.log.count("fail a") < 1:
                await which_children(w.top)

            with pytest.raises(
                TooManyChildren, match="supervisor 'pool' has 2 children of 2, those that wait"
            ):
                await started(w, "c")
            await terminate_child(w.top, a)
            await started(w, "c")

            assert list(await w.states()) == ["b", "c"]

    run(body())


def test_s75_counts_of_a_dynamic_supervisor(run: Run) -> None:
    async def body() -> None:
        async with world(pool()) as w:
            await started(w, "a", "b")
            await start_child(w.top, supervisor("inner"))

            assert await count_children(w.top) == ChildCounts(specs=3, active=3, supervisors=1, workers=2)

    run(body())


def test_s57_all_children_are_told_to_end_at_the_same_time(run: Run) -> None:
    async def body() -> None:
        async with world(pool()) as w:
            await started(w, "x", cls=Stubborn, shutdown=5)
            await started(w, "y", cls=Stubborn, shutdown=3)
            await started(w, "z", cls=Stubborn, shutdown=0)
            await started(w, "quick")
            await started(w, "now", cls=Stubborn, shutdown="brutal_kill")

            await w.begin_stop()

            assert sorted(line for line in w.log.lines if line.startswith("stop")) == [
                "stop quick",
                "stop x",
                "stop y",
            ]
            await w.advance(5)
            assert not w.top.is_alive()

    run(body())


def test_s57_the_stop_takes_as_long_as_the_slowest_and_not_the_sum(run: Run) -> None:
    async def body() -> None:
        async with world(pool()) as w:
            refs = {}
            for n, seconds in enumerate([5, 3, 4, 3]):
                (refs[n, seconds],) = await started(w, f"w{n}", cls=Stubborn, shutdown=seconds)
            await w.begin_stop()

            alive = []
            for _ in range(5):
                await w.advance(1)
                alive.append(sum(ref.is_alive() for ref in refs.values()))

            assert alive == [4, 4, 2, 1, 0]
            assert not w.top.is_alive()

    run(body())


def test_s76_children_that_ended_alike_are_one_report_with_a_count(run: Run) -> None:
    async def body() -> None:
        async with world(pool()) as w:
            await started(w, *[f"w{n}" for n in range(20)], cls=Stubborn, shutdown=1)
            await started(w, "ok")

            await w.begin_stop()
            await w.advance(1)

            (told,) = w.told()
            assert (told.context, told.reason, told.offender.count) == ("shutdown_error", Killed(), 20)
            assert told.offender.pid is None
            assert str(told) == "supervisor 'pool': 20 children like 'w0' did not end as told: killed."

    run(body())


def test_s62_no_child_outlives_a_killed_dynamic_supervisor(run: Run) -> None:
    async def body() -> None:
        async with world(pool()) as w:
            refs = await started(w, *"abc")

            w.kernel.kill(w.top)
            await w.settle()

            assert [ref.is_alive() for ref in refs] == [False, False, False]

    run(body())


@pytest.mark.parametrize("auto_shutdown, ends", [("any_significant", 1), ("all_significant", 2)])
def test_s72_significant_children_of_a_dynamic_supervisor(run: Run, auto_shutdown: Any, ends: int) -> None:
    async def body() -> None:
        async with world(pool(auto_shutdown=auto_shutdown)) as w:
            await started(w, "plain", restart="temporary")
            await started(w, "x", "y", restart="temporary", significant=True)
            await w.end("pool/plain", "normal")

            for n, id in enumerate("xy"[:ends]):
                assert w.top.is_alive(), n
                await w.end(f"pool/{id}", "normal")

            assert await w.reason() == Shutdown()

    run(body())


def test_s72_terminating_the_last_significant_child_does_not_count(run: Run) -> None:
    async def body() -> None:
        async with world(pool(auto_shutdown="all_significant")) as w:
            (x,) = await started(w, "x", restart="temporary", significant=True)

            await terminate_child(w.top, x)
            await w.settle()

            assert w.top.is_alive()

    run(body())


def test_a_dynamic_supervisor_is_a_child_like_any_other(run: Run) -> None:
    async def body() -> None:
        def tree(log: Log) -> Any:
            return supervisor("top", children=[dynamic_supervisor("pool", max_restarts=0)])

        async with world(tree) as w:
            await start_child(w.at("top/pool"), child("a", Probe, w.log))

            await w.end("top/pool/a")

            assert w.at("top/pool").is_alive()
            assert await count_children(w.at("top/pool")) == ChildCounts(0, 0, 0, 0)

    run(body())


@pytest.mark.slow
def test_s75_ten_thousand_children_start_and_stop(run: Run) -> None:
    async def body() -> None:
        async with world(pool()) as w:
            w.kernel.observers.clear()
            spec = child("w", Plain)
            for _ in range(10_000):
                await start_child(w.top, spec)
            assert (await count_children(w.top)).active == 10_000

            assert await w.stop() == Shutdown()

            assert w.kernel.statistics().actors <= 1

    run(body())


@pytest.mark.slow
@pytest.mark.parametrize("make", ["static", "dynamic"])
def test_s75_the_cost_of_a_child_does_not_grow_with_their_number(run: Run, make: str) -> None:
    """Counted in calls, not in seconds: ten times the children are at most fifteen times the work."""
    import cProfile

    async def calls(number: int) -> int:
        async with world() as w:
            w.kernel.observers.clear()
            profile = cProfile.Profile()
            profile.enable()
            if make == "static":
                await w.start(supervisor("top", children=[child(f"c{n}", Plain) for n in range(number)]))
            else:
                await w.start(dynamic_supervisor("top"))
                spec = child("w", Plain)
                for _ in range(number):
                    await start_child(w.top, spec)
            await w.stop()
            profile.disable()
            return sum(entry.callcount for entry in profile.getstats())

    async def body() -> None:
        small, large = await calls(200), await calls(2000)
        assert large < 15 * small

    run(body())
