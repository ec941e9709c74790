"""How a supervisor starts its children (S53-S55), and what a failed start leaves: nothing."""

from __future__ import annotations

from typing import Any

import pytest

from avm.actors import Actor, Shutdown
from avm.errors import NameTaken, SpecError, StartError, StartIgnored
from avm.supervision import Supervisor, child, restart_child, start_tree, supervisor
from tests.supervision.world import Plain, Probe, Run, world


class Broken(Actor):
    """Fails in its factory."""

    def __init__(self) -> None:
        raise ValueError("no key")


class Leaver(Actor):
    """Calls `sys.exit` while it starts."""

    def starting(self) -> None:
        raise SystemExit(3)


def test_s53_children_start_one_after_another_in_list_order(run: Run) -> None:
    async def body() -> None:
        async with world(
            lambda log: supervisor("top", children=[child(id, Probe, log) for id in "abc"])
        ) as w:
            assert w.log.lines == ["start a", "start b", "start c"]
            assert list(await w.states()) == ["a", "b", "c"]

    run(body())


def test_s53_the_next_child_starts_only_when_the_one_before_is_up(run: Run) -> None:
    async def body() -> None:
        async with world() as w:
            w.log.plan("a", "hang")
            tree = supervisor(
                "top", children=[child("a", Probe, w.log, start_timeout=9), child("b", Probe, w.log)]
            )

            starting = w.kernel.loop.create_task(start_tree(w.kernel, tree))
            await w.settle()

            assert w.log.lines == ["hang a"]
            w.clock.advance(9)
            with pytest.raises(StartError):
                await starting
            assert w.log.lines == ["hang a"]

    run(body())


def test_s54_a_failed_start_stops_those_before_it_in_reverse_and_tries_no_restart(run: Run) -> None:
    async def body() -> None:
        async with world() as w:
            w.log.plan("c", "fail")
            with pytest.raises(StartError) as caught:
                await w.start(
                    supervisor("top", max_restarts=9, children=[child(id, Probe, w.log) for id in "abcd"])
                )

            assert w.log.lines == ["start a", "start b", "fail c", "stop b", "stop a"]
            assert caught.value.path == ("top", "c")
            assert str(caught.value) == "top/c did not start: RuntimeError: cannot start."
            assert isinstance(caught.value.__cause__, StartError)
            assert w.kernel.find("top") is None

    run(body())


def test_s54_the_reason_names_the_child_and_its_reason(run: Run) -> None:
    async def body() -> None:
        async with world() as w:
            with pytest.raises(StartError) as caught:
                await w.start(supervisor("top", children=[child("a", Plain), child("b", Broken)]))

            reason = caught.value.reason
            assert isinstance(reason, Shutdown)
            assert isinstance(reason.detail, tuple)
            assert reason.detail[:2] == ("failed_to_start_child", "b")
            assert isinstance(reason.detail[2], ValueError)

    run(body())


def test_s54_the_path_leads_through_nested_supervisors(run: Run) -> None:
    async def body() -> None:
        async with world() as w:
            w.log.plan("leaf", "fail")
            inner = supervisor("inner", children=[child("first", Probe, w.log), child("leaf", Probe, w.log)])
            with pytest.raises(StartError) as caught:
                await w.start(supervisor("top", children=[child("elder", Probe, w.log), inner]))

            assert caught.value.path == ("top", "inner", "leaf")
            assert str(caught.value) == "top/inner/leaf did not start: RuntimeError: cannot start."
            assert w.log.lines == ["start elder", "start first", "fail leaf", "stop first", "stop elder"]
            assert [r.supervisor for r in w.told("start_error")] == ["top/inner", "top"]

    run(body())


def test_s54_the_same_tree_starts_at_once_after_a_failure(run: Run) -> None:
    async def body() -> None:
        async with world() as w:
            w.log.plan("b", "fail")
            tree = supervisor(
                "top", children=[child("a", Probe, w.log, name="anna"), child("b", Probe, w.log)]
            )
            with pytest.raises(StartError):
                await w.start(tree)

            await w.start(tree)

            assert await w.states() == {"a": "up", "b": "up"}

    run(body())


def test_s54_the_supervisor_reports_the_child_that_did_not_start(run: Run) -> None:
    async def body() -> None:
        async with world() as w:
            w.log.plan("b", "fail")
            with pytest.raises(StartError):
                await w.start(
                    supervisor("top", children=[child("a", Probe, w.log), child("b", Probe, w.log)])
                )

            (told,) = w.told()
            assert (told.context, told.supervisor, told.offender.id) == ("start_error", "top", "b")
            assert str(told) == "supervisor 'top': child 'b' did not start: RuntimeError: cannot start."

    run(body())


@pytest.mark.parametrize("cls", [Broken, Leaver])
def test_s74_whatever_a_factory_does_is_a_start_failure(run: Run, cls: type[Actor]) -> None:
    async def body() -> None:
        async with world() as w:
            with pytest.raises(StartError, match="top/a did not start: "):
                await w.start(supervisor("top", children=[child("a", cls)]))
            await w.start(supervisor("other", children=[child("a", Plain)]))

    run(body())


def test_a_start_that_takes_too_long_is_a_failure_at_the_start_timeout(run: Run) -> None:
    async def body() -> None:
        async with world() as w:
            w.log.plan("a", "hang")
            tree = supervisor("top", children=[child("a", Probe, w.log, start_timeout=2.5)])
            starting = w.kernel.loop.create_task(start_tree(w.kernel, tree))
            await w.advance(2.4)
            assert not starting.done()

            await w.advance(0.1)

            with pytest.raises(StartError, match="top/a did not start"):
                await starting

    run(body())


def test_a_held_name_makes_the_start_fail(run: Run) -> None:
    """S80 at the start: the child is not put under another name."""

    async def body() -> None:
        async with world() as w:
            await w.kernel.spawn(Plain, name="anna")
            with pytest.raises(StartError) as caught:
                await w.start(supervisor("top", children=[child("a", Plain, name="anna")]))

            assert caught.value.path == ("top", "a")
            assert isinstance(caught.value.reason, Shutdown)
            assert isinstance(caught.value.reason.detail, tuple)
            assert isinstance(caught.value.reason.detail[2], NameTaken)

    run(body())


def test_s55_a_child_that_ignores_its_start_is_kept_without_a_pid(run: Run) -> None:
    async def body() -> None:
        async with world() as w:
            for id in ("permanent", "transient", "temporary"):
                w.log.plan(id, "ignore")
            restarts: list[Any] = ["permanent", "transient", "temporary"]
            tree = supervisor("top", children=[child(t, Probe, w.log, restart=t) for t in restarts])

            await w.start(tree)

            assert await w.states() == {"permanent": "down", "transient": "down"}
            assert w.told() == []

    run(body())


@pytest.mark.parametrize("restart", ["permanent", "transient"])
def test_s55_an_ignored_child_may_be_started_later(run: Run, restart: Any) -> None:
    async def body() -> None:
        async with world() as w:
            w.log.plan("a", "ignore", "ignore", "ok")
            await w.start(supervisor("top", children=[child("a", Probe, w.log, restart=restart)]))

            assert await restart_child(w.top, "a") is None
            ref = await restart_child(w.top, "a")

            assert ref == w.at("top/a")
            assert await w.states() == {"a": "up"}

    run(body())


def test_s55_a_child_that_ignores_its_restart_is_kept_without_a_pid(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Probe, log)])) as w:
            w.log.plan("a", "ignore")

            await w.end("top/a")

            assert await w.states() == {"a": "down"}

    run(body())


def test_a_tree_may_be_a_single_child(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: child("alone", Probe, log, name="anna")) as w:
            assert w.kernel.whereis("anna") == w.top
            assert w.top.path == "alone"

    run(body())


def test_a_single_child_that_ignores_its_start_says_so(run: Run) -> None:
    async def body() -> None:
        async with world() as w:
            w.log.plan("alone", "ignore")
            with pytest.raises(StartIgnored):
                await w.start(child("alone", Probe, w.log))

    run(body())


@pytest.mark.parametrize("tree", [child("a", Plain, restart="never"), lambda: None, Plain, None])  # type: ignore[arg-type]
def test_s52_what_is_no_tree_is_refused_before_anything_starts(run: Run, tree: Any) -> None:
    async def body() -> None:
        async with world() as w:
            with pytest.raises(SpecError):
                await w.start(tree)
            assert w.kernel.statistics().started == 0

    run(body())


def test_options_of_the_spec_reach_the_actor(run: Run) -> None:
    class Keyed(Actor):
        max_mailbox = None

        def __init__(self, first: int, *, second: int) -> None:
            self.sum = first + second

        def describe(self) -> dict[str, object]:
            return {"sum": self.sum}

    async def body() -> None:
        spec = child("a", Keyed, 1, kwargs={"second": 2}, name="anna", priority="background", max_mailbox=5)
        async with world(lambda log: supervisor("top", children=[spec])) as w:
            cell = w.at("top/a").cell
            assert cell.actor.describe() == {"sum": 3}
            assert cell.limit == 5
            assert cell.queue is w.kernel.scheduler.queue.background
            assert w.kernel.whereis("anna") == w.at("top/a")

    run(body())


@pytest.mark.parametrize("how", ["killed", "told to end"])
def test_s54_a_supervisor_that_ends_while_it_starts_leaves_nothing(run: Run, how: str) -> None:
    async def body() -> None:
        async with world() as w:
            w.log.plan("b", "hang")
            tree = supervisor("top", children=[child("a", Probe, w.log), child("b", Probe, w.log)])
            starting = w.kernel.loop.create_task(start_tree(w.kernel, tree))
            await w.settle()

            if how == "killed":
                w.kernel.kill(w.at("top"))
            else:
                await w.kernel.stop_actor("top", Shutdown())
            await w.settle()

            with pytest.raises(StartError):
                await starting
            assert w.log.lines == ["start a", "hang b", "stop a"]
            assert [w.kernel.places(id) for id in ("top", "a", "b")] == [[], [], []]

    run(body())


def test_a_supervisor_is_an_actor_like_any_other() -> None:
    assert issubclass(Supervisor, Actor)
    assert Supervisor.__mro__[1] is Actor
