"""How a supervisor stops its children (S56-S62): in reverse, one at a time, by the protocol of each spec."""

from __future__ import annotations

from typing import Any

import pytest

from avm.actors import Actor, Exit, Kill, Killed, Normal, Shutdown, on
from avm.supervision import child, supervisor, terminate_child
from tests.supervision.world import End, Log, Plain, Probe, Run, Stubborn, Trapping, world


class Unlinker(Probe):
    """Ends its link to the supervisor (OTP's child_unlink)."""

    def starting(self) -> None:
        assert self.parent is not None
        self.unlink(self.parent)
        self.log.lines.append(f"start {self.ref.id}")


class Ending(Probe):
    """Ends its stop with another reason than it was told."""

    def __init__(self, log: Log, how: object) -> None:
        self.log = log
        self.how = how

    def stopping(self, reason: object) -> None:
        if isinstance(self.how, BaseException):
            raise self.how
        super().stopping(reason)


def test_s56_children_stop_in_reverse_order(run: Run) -> None:
    async def body() -> None:
        async with world(
            lambda log: supervisor("top", children=[child(id, Probe, log) for id in "abc"])
        ) as w:
            w.log.take()

            await w.kernel.stop_actor(w.top)

            assert w.log.lines == ["stop c", "stop b", "stop a"]

    run(body())


def test_s56_each_is_fully_dead_before_the_next_begins(run: Run) -> None:
    async def body() -> None:
        def tree(log: Log) -> Any:
            return supervisor(
                "top", children=[child("a", Probe, log), child("slow", Stubborn, log, shutdown=3)]
            )

        async with world(tree) as w:
            await w.begin_stop()
            await w.advance(2.9)
            assert "stop a" not in w.log.lines

            await w.advance(0.1)

            assert w.log.lines[-2:] == ["stop slow", "stop a"]
            assert not w.top.is_alive()

    run(body())


def test_s56_a_tree_stops_branch_by_branch(run: Run) -> None:
    async def body() -> None:
        def tree(log: Log) -> Any:
            inner = supervisor("inner", children=[child("b", Probe, log), child("c", Probe, log)])
            return supervisor("top", children=[child("a", Probe, log), inner, child("d", Probe, log)])

        async with world(tree) as w:
            w.log.take()

            assert await w.stop() == Shutdown()

            assert w.log.lines == ["stop d", "stop c", "stop b", "stop a"]

    run(body())


def test_s58_a_child_that_ends_in_time_is_not_killed(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Probe, log, shutdown=5)])) as w:
            pid = w.at("top/a").pid
            assert pid is not None

            await w.stop()

            assert await w.kernel.wait_stopped(pid) == Shutdown()
            assert w.told() == []

    run(body())


def test_s58_a_child_that_does_not_end_in_time_is_killed_and_reported(run: Run) -> None:
    async def body() -> None:
        async with world(
            lambda log: supervisor("top", children=[child("a", Stubborn, log, shutdown=5)])
        ) as w:
            await w.begin_stop()
            await w.advance(4.99)
            assert w.top.is_alive()

            await w.advance(0.01)

            assert not w.top.is_alive()
            (told,) = w.told()
            assert (told.context, told.reason, told.offender.id) == ("shutdown_error", Killed(), "a")

    run(body())


def test_s58_infinity_waits_as_long_as_it_takes(run: Run) -> None:
    async def body() -> None:
        async with world(
            lambda log: supervisor("top", children=[child("a", Stubborn, log, shutdown="infinity")])
        ) as w:
            await w.begin_stop()
            await w.advance(1e9)
            assert w.top.is_alive()

            w.kernel.kill(w.at("top/a"))
            await w.settle()

            assert not w.top.is_alive()

    run(body())


def test_s58_brutal_kill_runs_nothing_of_the_child(run: Run) -> None:
    async def body() -> None:
        def tree(log: Log) -> Any:
            return supervisor("top", children=[child("a", Stubborn, log, shutdown="brutal_kill")])

        async with world(tree) as w:
            await w.stop()

            assert w.log.lines == ["start a"]
            assert w.told() == []

    run(body())


def test_s58_a_child_that_unlinks_itself_does_not_hang_the_supervisor(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Unlinker, log)])) as w:
            assert await w.stop() == Shutdown()
            assert w.log.lines == ["start a", "stop a"]

    run(body())


def test_s59_a_grace_of_zero_is_a_signal_and_an_immediate_kill(run: Run) -> None:
    async def body() -> None:
        async with world(
            lambda log: supervisor("top", children=[child("a", Stubborn, log, shutdown=0)])
        ) as w:
            await w.stop()

            (told,) = w.told()
            assert (told.context, told.reason) == ("shutdown_error", Killed())

    run(body())


def test_s59_a_child_that_ends_at_once_needs_no_grace(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Plain, shutdown=0)])) as w:
            await w.stop()

            assert w.told() == []

    run(body())


# What a child ends with when it is told to, against whether that is an error, by restart type.
ANSWERS: list[tuple[str, object, set[str]]] = [
    ("shutdown as told", Shutdown(), set()),
    ("shutdown with detail", Shutdown("late"), {"permanent"}),
    ("an exception", RuntimeError("boom"), {"permanent", "transient", "temporary"}),
    ("killed by someone else", Killed(), {"permanent", "transient", "temporary"}),
]


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
@pytest.mark.parametrize("name, reason, errors", ANSWERS)
def test_s60_which_ends_during_a_stop_are_errors(
    run: Run, name: str, reason: object, errors: set[str], restart: Any
) -> None:
    """The child is found dead of `reason` by a supervisor that stops it; the end came too late to be heard."""

    class Crossing(Actor):
        def stopping(self, told: object) -> None:
            self.exit("top/a", Kill() if isinstance(reason, Killed) else reason)

    async def body() -> None:
        def tree(log: Log) -> Any:
            return supervisor("top", children=[child("a", Probe, log, restart=restart), child("b", Crossing)])

        async with world(tree) as w:
            await w.stop()

            expected = [("shutdown_error", reason)] if restart in errors else []
            assert [(r.context, r.reason) for r in w.told()] == expected

    run(body())


@pytest.mark.parametrize(
    "restart, is_error", [("permanent", True), ("transient", False), ("temporary", False)]
)
def test_s60_a_child_that_ended_normally_just_before_its_stop(run: Run, restart: Any, is_error: bool) -> None:
    async def body() -> None:
        class Crossing(Actor):
            async def stopping(self, told: object) -> None:
                await self.ask("top/a", End("normal"))

        def tree(log: Log) -> Any:
            return supervisor("top", children=[child("a", Probe, log, restart=restart), child("b", Crossing)])

        async with world(tree) as w:
            await w.stop()

            assert [(r.context, r.reason) for r in w.told()] == (
                [("shutdown_error", Normal())] if is_error else []
            )

    run(body())


def test_s60_an_exception_while_it_stops_is_reported_and_the_stop_goes_on(run: Run) -> None:
    async def body() -> None:
        boom = RuntimeError("cannot close")

        def tree(log: Log) -> Any:
            return supervisor("top", children=[child("a", Probe, log), child("b", Ending, log, boom)])

        async with world(tree) as w:
            assert await w.stop() == Shutdown()

            (told,) = w.told()
            assert (told.context, told.reason, told.offender.id) == ("shutdown_error", boom, "b")
            assert w.log.lines[-1] == "stop a"

    run(body())


def test_s61_a_sibling_that_crashes_during_the_stop_is_not_restarted(run: Run) -> None:
    async def body() -> None:
        def tree(log: Log) -> Any:
            return supervisor(
                "top",
                max_restarts=9,
                children=[
                    child("a", Probe, log),
                    child("b", Probe, log),
                    child("slow", Stubborn, log, shutdown=5),
                ],
            )

        async with world(tree) as w:
            await w.begin_stop()
            await w.end("top/a", "exception")
            w.order("top/b", "killed")

            await w.advance(5)

            assert await w.reason() == Shutdown()
            assert w.log.starts() == {"a": 1, "b": 1, "slow": 1}
            found = {r.offender.id: (r.context, r.reason) for r in w.told()}
            assert found["a"][0] == found["b"][0] == found["slow"][0] == "shutdown_error"
            assert isinstance(found["a"][1], RuntimeError)
            assert found["b"][1] == Killed()

    run(body())


def test_s62_no_child_outlives_a_killed_supervisor(run: Run) -> None:
    async def body() -> None:
        def tree(log: Log) -> Any:
            inner = supervisor("inner", children=[child("c", Probe, log)])
            return supervisor("top", children=[child("a", Probe, log), child("b", Trapping, log), inner])

        async with world(tree) as w:
            refs = [w.at(p) for p in ("top/a", "top/b", "top/inner", "top/inner/c")]

            w.kernel.kill(w.top)
            await w.settle()

            assert [ref.is_alive() for ref in refs] == [False] * 4
            assert sorted(w.log.lines[3:]) == ["stop a", "stop b", "stop c"]

    run(body())


def test_s39_an_exit_from_its_parent_stops_a_supervisor_in_order(run: Run) -> None:
    async def body() -> None:
        def tree(log: Log) -> Any:
            inner = supervisor("inner", children=[child("b", Probe, log), child("c", Probe, log)])
            return supervisor("top", children=[child("a", Probe, log), inner])

        async with world(tree) as w:
            w.log.take()

            await terminate_child(w.top, "inner")

            assert w.log.lines == ["stop c", "stop b"]
            assert await w.states() == {"a": "up", "inner": "down"}

    run(body())


def test_s40_exits_from_strangers_are_ignored(run: Run) -> None:
    class Stranger(Actor):
        @on(End)
        def send(self, end: End) -> None:
            self.exit("top", RuntimeError("not your business"))
            self.exit("top", Shutdown())
            self.exit("top", Normal())

    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Probe, log)])) as w:
            stranger = await w.kernel.spawn(Stranger)

            stranger.tell(End(""))
            await w.settle()

            assert await w.states() == {"a": "up"}
            assert w.told() == []

    run(body())


def test_s40_a_linked_stranger_that_crashes_is_ignored(run: Run) -> None:
    class Linked(Plain):
        def __init__(self) -> None:
            self.link("top")

    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Probe, log)])) as w:
            stranger = await w.kernel.spawn(Linked)

            stranger.tell(End(""))
            await w.settle()

            assert not stranger.is_alive()
            assert await w.states() == {"a": "up"}

    run(body())


def test_s40_a_stranger_can_kill_a_supervisor(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Probe, log)])) as w:
            w.kernel.exit(w.top, Kill())
            await w.settle()

            assert await w.reason() == Killed()

    run(body())


def test_a_supervisor_busy_with_a_start_stops_at_once_when_its_parent_says_so(run: Run) -> None:
    """S9: the order to end is no entry of the mailbox; the child that is starting goes too."""

    async def body() -> None:
        def tree(log: Log) -> Any:
            inner = supervisor(
                "inner", children=[child("b", Probe, log), child("c", Probe, log, start_timeout=None)]
            )
            return supervisor("top", children=[child("a", Probe, log), inner])

        async with world(tree) as w:
            w.log.plan("c", "hang")
            await w.end("top/inner/c")
            assert w.log.take()[-1] == "hang c"

            await terminate_child(w.top, "inner")

            assert w.log.lines == ["stop b"]
            assert w.kernel.places("c") == []

    run(body())


def test_a_child_that_traps_exits_hears_nothing_of_its_parents_order(run: Run) -> None:
    """S39: it stops; the order is not an event."""

    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Trapping, log)])) as w:
            await w.stop()

            assert w.log.lines == ["start a", "stop a"]
            assert w.told() == []

    run(body())


def test_a_supervisor_never_hears_an_exit_event_it_has_no_child_for(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Probe, log)])) as w:
            w.top.tell(Exit(None, RuntimeError("forged")))
            await w.settle()

            assert await w.states() == {"a": "up"}

    run(body())
