"""Who is restarted, with whom and how often (S63-S70): the whole matrix, then the rules one by one."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from avm.actors import Actor, Kill, Killed, Shutdown
from avm.supervision import child, restart_child, start_child, supervisor, terminate_child, which_children
from tests.supervision.world import ABNORMAL, ENDS, End, Log, Plain, Probe, Run, Who, World, world

RESTARTS = ["permanent", "transient", "temporary"]
STRATEGIES = ["one_for_one", "rest_for_one", "one_for_all"]

# Who restarts with the second of three children, by strategy.
GROUPS = {"one_for_one": "b", "rest_for_one": "bc", "one_for_all": "abc"}


def family(strategy: Any, restart: Any = "permanent", **flags: Any) -> Any:
    """Three children, the second of the restart type in question."""

    def tree(log: Log) -> Any:
        types = {"a": "permanent", "b": restart, "c": "permanent"}
        children = [child(id, Probe, log, restart=type) for id, type in types.items()]
        return supervisor("top", strategy=strategy, children=children, **flags)

    return tree


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("restart", RESTARTS)
@pytest.mark.parametrize("how", list(ENDS))
def test_s63_s64_the_matrix_of_restart_type_exit_reason_and_strategy(
    run: Run, strategy: str, restart: str, how: str
) -> None:
    async def body() -> None:
        async with world(family(strategy, restart)) as w:
            refs = {id: w.at(f"top/{id}") for id in "abc"}
            w.log.take()

            await w.end("top/b", how)

            restarted = restart == "permanent" or (restart == "transient" and how in ABNORMAL)
            group = GROUPS[strategy] if restarted else ""
            lines = [line for line in w.log.lines if line != "stop b"]
            assert lines == [f"stop {id}" for id in reversed(group) if id != "b"] + [
                f"start {id}" for id in group
            ]

            states = {"a": "up", "b": "up" if restarted else "down", "c": "up"}
            if restart == "temporary":
                del states["b"]
            assert await w.states() == states
            assert {id: ref.is_alive() for id, ref in refs.items()} == {
                id: states.get(id) == "up" for id in refs
            }

            told = restart == "permanent" or how in ABNORMAL
            assert [(r.context, r.offender.id) for r in w.told()] == [("child_terminated", "b")] * told

    run(body())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_s63_a_temporary_bystander_is_stopped_and_forgotten(run: Run, strategy: str) -> None:
    """As OTP's temporary_bystander."""

    async def body() -> None:
        def tree(log: Log) -> Any:
            types: dict[str, Any] = {"a": "permanent", "b": "temporary", "c": "transient"}
            children = [child(id, Probe, log, restart=type) for id, type in types.items()]
            return supervisor("top", strategy=strategy, children=children)  # type: ignore[arg-type]

        async with world(tree) as w:
            await w.end("top/a")

            stays = strategy == "one_for_one"
            assert list(await w.states()) == (["a", "b", "c"] if stays else ["a", "c"])
            assert w.log.starts() == {"a": 2, "b": 1, "c": 1 if stays else 2}

    run(body())


def test_s63_a_transient_child_that_is_down_comes_back_with_its_group(run: Run) -> None:
    """As in OTP: the group starts whole, those included that had ended before."""

    async def body() -> None:
        async with world(family("one_for_all", "transient")) as w:
            await w.end("top/b", "normal")
            assert (await w.states())["b"] == "down"

            await w.end("top/a")

            assert w.log.starts() == {"a": 2, "b": 2, "c": 2}

    run(body())


@pytest.mark.parametrize(
    "failed, lines",
    [
        ("a", ["stop a", "stop c", "stop b", "start a", "start b", "start c"]),
        ("b", ["stop b", "stop c", "start b", "start c"]),
        ("c", ["stop c", "start c"]),
    ],
)
def test_s64_rest_for_one_takes_those_started_after_the_failed_one(
    run: Run, failed: str, lines: list[str]
) -> None:
    async def body() -> None:
        async with world(family("rest_for_one")) as w:
            w.log.take()

            await w.end(f"top/{failed}")

            assert w.log.lines == lines

    run(body())


@pytest.mark.parametrize("failed", ["a", "b", "c"])
def test_s64_one_for_all_stops_in_reverse_and_starts_in_order(run: Run, failed: str) -> None:
    async def body() -> None:
        async with world(family("one_for_all")) as w:
            w.log.take()

            await w.end(f"top/{failed}")

            others = [f"stop {id}" for id in "cba" if id != failed]
            assert w.log.lines == [f"stop {failed}", *others, "start a", "start b", "start c"]

    run(body())


def test_s65_children_added_later_are_last_in_order(run: Run) -> None:
    async def body() -> None:
        async with world(family("rest_for_one")) as w:
            await start_child(w.top, child("d", Probe, w.log))
            w.log.take()

            await w.end("top/c")

            assert w.log.lines == ["stop c", "stop d", "start c", "start d"]
            assert list(await w.states()) == ["a", "b", "c", "d"]

    run(body())


def test_a_ref_reaches_the_next_incarnation_and_a_pid_does_not(run: Run) -> None:
    async def body() -> None:
        async with world(family("one_for_one")) as w:
            ref = w.at("top/b")
            first = await ref.ask(Who())

            await w.end("top/b")

            second = await ref.ask(Who())
            assert first != second
            assert not first.is_alive()
            assert second == ref.pid
            assert ref == w.at("top/b")

    run(body())


def test_s80_a_name_moves_to_the_next_incarnation(run: Run) -> None:
    async def body() -> None:
        def tree(log: Log) -> Any:
            return supervisor("top", children=[child("a", Probe, log, name="anna")])

        async with world(tree) as w:
            first = await w.kernel.ask("anna", Who())

            await w.end("top/a")

            assert await w.kernel.ask("anna", Who()) != first

    run(body())


# The intensity.


@pytest.mark.parametrize("intensity", [0, 1, 2, 5])
def test_s66_n_restarts_succeed_and_the_next_gives_up(run: Run, intensity: int) -> None:
    async def body() -> None:
        async with world(family("one_for_one", max_restarts=intensity)) as w:
            for _ in range(intensity):
                await w.end("top/a")
            assert w.top.is_alive()

            await w.end("top/a")

            assert not w.top.is_alive()
            assert w.log.starts()["a"] == intensity + 1

    run(body())


@pytest.mark.parametrize("gap, lives", [(4.9, False), (5.0, False), (5.1, True)])
def test_s66_a_restart_exactly_as_old_as_the_window_still_counts(run: Run, gap: float, lives: bool) -> None:
    async def body() -> None:
        async with world(family("one_for_one", max_restarts=1, max_seconds=5)) as w:
            await w.end("top/a")
            await w.advance(gap)

            await w.end("top/b")

            assert w.top.is_alive() == lives

    run(body())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_s66_a_decision_is_one_entry_however_many_it_restarts(run: Run, strategy: str) -> None:
    async def body() -> None:
        async with world(family(strategy, max_restarts=2)) as w:
            await w.end("top/a")
            await w.end("top/a")
            assert w.top.is_alive()

            await w.end("top/a")

            assert not w.top.is_alive()

    run(body())


def test_s66_the_supervisor_counts_and_not_the_child(run: Run) -> None:
    async def body() -> None:
        async with world(family("one_for_one", max_restarts=2)) as w:
            for id in "abc":
                await w.end(f"top/{id}")

            assert not w.top.is_alive()

    run(body())


def test_s66_ends_that_lead_to_no_restart_do_not_count(run: Run) -> None:
    async def body() -> None:
        async with world(family("one_for_one", "transient", max_restarts=0)) as w:
            for _ in range(3):
                await w.end("top/b", "normal")
                await restart_child(w.top, "b")

            assert w.top.is_alive()

    run(body())


def test_s67_giving_up_starts_nobody_and_stops_the_others_in_reverse(run: Run) -> None:
    async def body() -> None:
        async with world(family("one_for_all", max_restarts=0)) as w:
            w.log.take()

            await w.end("top/b")

            assert w.log.lines == ["stop b", "stop c", "stop a"]
            assert await w.reason() == Shutdown("max_restarts")

    run(body())


def test_s67_giving_up_is_reported_and_readable_in_the_reason(run: Run) -> None:
    async def body() -> None:
        async with world(family("one_for_one", max_restarts=1, max_seconds=60)) as w:
            await w.end("top/a")
            await w.advance(12)
            await w.end("top/c")

            text = (
                "supervisor 'top' gave up: 2 restarts in 12 s (max_restarts=1, max_seconds=60). "
                "Last: 'c', RuntimeError: boom."
            )
            (told,) = w.gave_up()
            assert str(told) == text
            assert (told.context, told.reason) == ("shutdown", "reached_max_restart_intensity")
            reason = await w.reason()
            assert isinstance(reason, Shutdown)
            assert str(reason.detail) == f"{reason.detail}" == text

    run(body())


# A restart that fails.


@pytest.mark.parametrize("intensity", [1, 2, 4])
def test_s68_each_retry_is_a_new_decision(run: Run, intensity: int) -> None:
    """With intensity n and a start that always fails: n attempts, then give up."""

    async def body() -> None:
        async with world(family("one_for_one", max_restarts=intensity)) as w:
            w.log.always["b"] = "fail"

            await w.end("top/b")

            assert w.log.count("fail b") == intensity
            assert await w.reason() == Shutdown("max_restarts")
            assert w.log.lines[-2:] == ["stop c", "stop a"]

    run(body())


def test_s68_a_failed_restart_is_tried_again_until_it_succeeds(run: Run) -> None:
    async def body() -> None:
        async with world(family("one_for_one", max_restarts=9)) as w:
            w.log.plan("b", "fail", "fail", "ok")

            await w.end("top/b")

            assert await w.states() == {"a": "up", "b": "up", "c": "up"}
            assert w.log.count("fail b") == 2
            assert len(w.told("start_error")) == 2

    run(body())


def test_s68_a_factory_that_raises_at_a_restart_never_crashes_the_supervisor(run: Run) -> None:
    """S74 as well."""
    attempts: list[str] = []

    class Fragile(Actor):
        def __init__(self) -> None:
            attempts.append("")
            if len(attempts) in (2, 3):
                raise KeyError("gone")

    async def body() -> None:
        async with world(lambda log: supervisor("top", max_restarts=9, children=[child("a", Fragile)])) as w:
            w.kernel.kill(w.at("top/a"))
            await w.settle()

            assert len(attempts) == 4
            assert await w.states() == {"a": "up"}

    run(body())


def test_s68_a_name_held_by_someone_else_makes_the_restart_fail(run: Run) -> None:
    """S80: the name is not stolen back; the child waits for its next try."""

    async def body() -> None:
        def tree(log: Log) -> Any:
            return supervisor("top", max_restarts=3, children=[child("a", Probe, log, name="anna")])

        class Thief(Actor):
            def starting(self) -> None:
                self.kill("anna")
                self.register("anna")

        async with world(tree) as w:
            await w.kernel.spawn(Thief)
            await w.settle()

            assert await w.reason() == Shutdown("max_restarts")
            assert w.log.starts() == {"a": 1}
            assert len(w.told("start_error")) == 3

    run(body())


def test_s68_a_supervisor_in_a_loop_of_failing_restarts_can_be_asked_and_stopped(run: Run) -> None:
    """As OTP's hanging_restart_loop."""

    async def body() -> None:
        async with world(family("one_for_one", max_restarts=1_000_000)) as w:
            w.log.always["b"] = "fail"
            w.order("top/b")
            while w.log.count("fail b") < 3:
                (await which_children(w.top))

            assert (await w.states())["b"] == "restarting"
            await w.begin_stop()
            tried = w.log.count("fail b")
            await w.settle()

            assert not w.top.is_alive()
            assert w.log.count("fail b") == tried

    run(body())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_s68_terminating_a_child_ends_the_loop_of_its_failing_restarts(run: Run, strategy: str) -> None:
    """As OTP's hanging_restart_loop_rest_for_one and its kin."""

    async def body() -> None:
        async with world(family(strategy, max_restarts=1_000_000)) as w:
            w.log.always["b"] = "fail"
            w.order("top/b")
            while w.log.count("fail b") < 3:
                await which_children(w.top)

            await terminate_child(w.top, "b")
            tried = w.log.count("fail b")
            await w.settle()

            assert w.log.count("fail b") == tried
            assert (await w.states())["b"] == "down"

    run(body())


def test_s69_one_for_all_a_sibling_that_fails_makes_all_restart_again(run: Run) -> None:
    """As OTP's one_for_all_other_child_fails_restart."""

    async def body() -> None:
        async with world(family("one_for_all", max_restarts=2)) as w:
            w.log.plan("c", "fail", "ok")
            w.log.take()

            await w.end("top/a")

            first = ["stop a", "stop c", "stop b", "start a", "start b", "fail c"]
            assert w.log.lines == [*first, "stop b", "stop a", "start a", "start b", "start c"]
            assert w.top.is_alive()

    run(body())


def test_s69_rest_for_one_a_sibling_that_fails_leaves_those_before_it(run: Run) -> None:
    """As OTP's rest_for_one_other_child_fails_restart."""

    async def body() -> None:
        async with world(family("rest_for_one", max_restarts=2)) as w:
            w.log.plan("b", "fail", "ok")
            w.log.take()

            await w.end("top/a")

            assert w.log.lines == [
                *("stop a", "stop c", "stop b"),
                *("start a", "fail b"),
                *("start b", "start c"),
            ]

    run(body())


@pytest.mark.parametrize("strategy", ["rest_for_one", "one_for_all"])
def test_s69_the_failing_sibling_is_a_decision_of_its_own(run: Run, strategy: str) -> None:
    async def body() -> None:
        async with world(family(strategy, max_restarts=1)) as w:
            w.log.plan("b", "fail", "ok")

            await w.end("top/a")

            assert await w.reason() == Shutdown("max_restarts")

    run(body())


# Crashes that arrive together.


async def crash_together(w: World, *ids: str) -> None:
    """Let children crash in one turn, in this order, before the supervisor hears of any."""
    pids = [w.at(f"top/{id}").pid for id in ids]
    for pid in pids:
        assert pid is not None
        w.kernel.exit(pid, Kill())
    await w.settle()


@pytest.mark.parametrize(
    "strategy, ids, decisions",
    [
        ("one_for_all", "abc", 1),
        ("one_for_all", "ca", 1),
        ("one_for_one", "abc", 3),
        ("rest_for_one", "ca", 2),
        ("rest_for_one", "ac", 1),
        ("rest_for_one", "abc", 1),
        ("rest_for_one", "cba", 3),
    ],
)
def test_s70_crashes_that_arrive_together_are_counted_as_otp_does(
    run: Run, strategy: str, ids: str, decisions: int
) -> None:
    async def body() -> None:
        for intensity in (decisions, decisions - 1):
            async with world(family(strategy, max_restarts=intensity)) as w:
                await crash_together(w, *ids)

                assert w.top.is_alive() == (intensity == decisions)
                assert len(w.told("child_terminated")) == decisions

    run(body())


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_s70_a_death_absorbed_by_a_group_restart_starts_nobody_twice(run: Run, strategy: str) -> None:
    async def body() -> None:
        async with world(family(strategy)) as w:
            await crash_together(w, "a", "b", "c")

            assert w.log.starts() == {"a": 2, "b": 2, "c": 2}

    run(body())


def test_s70_an_absorbed_death_is_reported_with_its_real_reason(run: Run) -> None:
    """S61 for a sibling that is found dead."""

    async def body() -> None:
        async with world(family("one_for_all")) as w:
            await crash_together(w, "b", "c")

            assert [(r.context, r.offender.id, r.reason) for r in w.told()] == [
                ("child_terminated", "b", Killed()),
                ("shutdown_error", "c", Killed()),
            ]

    run(body())


def test_s43_a_child_that_crashes_right_after_its_start_is_not_lost(run: Run) -> None:
    """It may be dead before the supervisor goes on; its Exit is dealt with all the same."""

    async def body() -> None:
        async with world() as w:
            w.log.plan("a", "crash", "crash", "ok")
            tree = supervisor(
                "top", max_restarts=2, children=[child("a", Probe, w.log), child("b", Probe, w.log)]
            )

            await w.start(tree)
            await w.settle()

            assert w.log.starts() == {"a": 3, "b": 1}
            assert await w.states() == {"a": "up", "b": "up"}

    run(body())


def test_events_sent_to_a_dead_incarnation_are_not_given_to_the_next(run: Run) -> None:
    """S31."""

    async def body() -> None:
        async with world(family("one_for_one", max_restarts=9)) as w:
            ref = w.at("top/a")
            for _ in range(5):
                ref.tell(End("exception"))

            await w.settle()

            assert w.log.starts()["a"] == 2

    run(body())


def test_a_restarted_child_leaves_nothing_of_its_last_incarnation_behind(run: Run) -> None:
    """Ten restarts cost no memory: no frame, exception or actor of a dead incarnation is held."""

    class Heavy(Plain):
        pass

    async def body() -> None:
        async with world(lambda log: supervisor("top", max_restarts=99, children=[child("a", Heavy)])) as w:
            w.kernel.observers.clear()
            for _ in range(10):
                await w.end("top/a")
            w.reports.clear()
            gc.collect()

            assert sum(isinstance(o, Heavy) for o in gc.get_objects()) == 1

    run(body())
