"""Administration of a running supervisor: the table of S75, and what surrounds it."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from avm.actors import Actor, Pid, Ref, Request, Shutdown, event, on
from avm.errors import (
    ActorExited,
    AlreadyPresent,
    AlreadyStarted,
    CallingSelf,
    ChildError,
    ChildNotFound,
    ChildRestarting,
    ChildRunning,
    SpecError,
    StartError,
)
from avm.supervision import (
    Backoff,
    ChildCounts,
    ChildStatus,
    StartChild,
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
from tests.supervision.world import Log, Plain, Probe, Run, World, world


def table(log: Log) -> Any:
    """One child for each column of the table; `prepare` brings them there."""
    log.plan("ignored", "ignore")
    ids = ("running", "stopped", "ignored", "restarting")
    return supervisor("top", backoff=Backoff(60, 60), children=[child(id, Probe, log) for id in ids])


async def prepare(w: World) -> None:
    await terminate_child(w.top, "stopped")
    await w.end("top/restarting")
    assert await w.states() == {
        "running": "up",
        "stopped": "down",
        "ignored": "down",
        "restarting": "restarting",
    }


TABLE: list[tuple[str, str, type[ChildError] | None]] = [
    ("start", "running", AlreadyStarted),
    ("start", "stopped", AlreadyPresent),
    ("start", "ignored", AlreadyPresent),
    ("start", "restarting", AlreadyPresent),
    ("start", "unknown", None),
    ("restart", "running", ChildRunning),
    ("restart", "stopped", None),
    ("restart", "ignored", None),
    ("restart", "restarting", ChildRestarting),
    ("restart", "unknown", ChildNotFound),
    ("terminate", "running", None),
    ("terminate", "stopped", None),
    ("terminate", "ignored", None),
    ("terminate", "restarting", None),
    ("terminate", "unknown", ChildNotFound),
    ("delete", "running", ChildRunning),
    ("delete", "stopped", None),
    ("delete", "ignored", None),
    ("delete", "restarting", ChildRestarting),
    ("delete", "unknown", ChildNotFound),
]

AFTER: dict[str, str | None] = {"start": "up", "restart": "up", "terminate": "down", "delete": None}


@pytest.mark.parametrize("verb, id, error", TABLE)
def test_s75_the_table_of_administration(
    run: Run, verb: str, id: str, error: type[ChildError] | None
) -> None:
    async def body() -> None:
        async with world(table) as w:
            await prepare(w)
            before = await w.states()

            async def ask() -> object:
                if verb == "start":
                    return await start_child(w.top, child(id, Probe, w.log))
                verbs = {"restart": restart_child, "terminate": terminate_child, "delete": delete_child}
                return await verbs[verb](w.top, id)

            if error is not None:
                with pytest.raises(error) as caught:
                    await ask()
                assert caught.value.id == id
                assert await w.states() == before
                return
            answer = await ask()
            assert isinstance(answer, Ref) == (verb in ("start", "restart"))
            assert (await w.states()).get(id) == AFTER[verb]

    run(body())


def test_s75_already_started_carries_the_pid(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Probe, log)])) as w:
            with pytest.raises(AlreadyStarted) as caught:
                await start_child(w.top, child("a", Plain))

            assert caught.value.pid == w.at("top/a").pid
            assert str(caught.value) == (
                f"supervisor 'top' has a child 'a' already; it runs as {w.at('top/a').pid}. Use another id."
            )

    run(body())


def test_s75_a_started_child_runs_and_is_restarted_like_any_other(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top")) as w:
            ref = await start_child(w.top, child("a", Probe, w.log))
            assert ref == w.at("top/a")

            await w.end("top/a")

            assert w.log.starts() == {"a": 2}

    run(body())


def test_s75_a_failed_start_child_leaves_no_spec_and_no_count(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", max_restarts=0)) as w:
            for _ in range(3):
                w.log.plan("a", "fail")
                with pytest.raises(StartError, match="cannot start"):
                    await start_child(w.top, child("a", Probe, w.log))

            assert await w.states() == {}
            assert w.top.is_alive()

    run(body())


def test_s75_a_failed_restart_child_stays_down_and_is_not_counted(run: Run) -> None:
    async def body() -> None:
        async with world(
            lambda log: supervisor("top", max_restarts=0, children=[child("a", Probe, log)])
        ) as w:
            await terminate_child(w.top, "a")
            for _ in range(3):
                w.log.plan("a", "fail")
                with pytest.raises(StartError, match="cannot start"):
                    await restart_child(w.top, "a")
                await w.settle()

            assert await w.states() == {"a": "down"}
            assert w.top.is_alive()

    run(body())


@pytest.mark.parametrize("restart, stays", [("permanent", True), ("transient", True), ("temporary", False)])
def test_s55_a_started_child_that_ignores_is_kept_unless_temporary(
    run: Run, restart: Any, stays: bool
) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top")) as w:
            w.log.plan("a", "ignore")

            assert await start_child(w.top, child("a", Probe, w.log, restart=restart)) is None

            assert await w.states() == ({"a": "down"} if stays else {})

    run(body())


def test_s52_a_wrong_spec_is_refused_and_the_supervisor_lives(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top")) as w:
            with pytest.raises(SpecError, match="child 'a' of supervisor 'top': restart must be"):
                await start_child(w.top, child("a", Plain, restart="never"))  # type: ignore[arg-type]
            with pytest.raises(SpecError, match="auto_shutdown is 'never'"):
                await start_child(w.top, child("a", Plain, restart="transient", significant=True))

            assert w.top.is_alive()

    run(body())


def test_s75_terminating_a_temporary_child_deletes_its_spec(run: Run) -> None:
    async def body() -> None:
        async with world(
            lambda log: supervisor("top", children=[child("a", Probe, log, restart="temporary")])
        ) as w:
            await terminate_child(w.top, "a")

            assert await w.states() == {}

    run(body())


def test_s75_terminate_child_stops_as_the_spec_says_and_the_child_is_not_restarted(run: Run) -> None:
    """S58, S63."""

    async def body() -> None:
        async with world(
            lambda log: supervisor("top", max_restarts=0, children=[child("a", Probe, log)])
        ) as w:
            await terminate_child(w.top, "a")
            await w.settle()

            assert w.log.lines == ["start a", "stop a"]
            assert w.top.is_alive()

    run(body())


def test_s75_a_supervisor_starts_below_another_at_run_time(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top")) as w:
            await start_child(w.top, supervisor("inner", children=[child("a", Probe, w.log)]))

            assert await count_children(w.top) == ChildCounts(specs=1, active=1, supervisors=1, workers=0)
            assert w.at("top/inner/a").is_alive()

    run(body())


def test_s54_a_branch_that_does_not_start_at_run_time_names_its_path(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top")) as w:
            w.log.plan("a", "fail")
            with pytest.raises(StartError) as caught:
                await start_child(w.top, supervisor("inner", children=[child("a", Probe, w.log)]))

            assert caught.value.path == ("top", "inner", "a")
            assert str(caught.value) == "top/inner/a did not start: RuntimeError: cannot start."

    run(body())


def test_s75_which_children_lists_in_start_order(run: Run) -> None:
    async def body() -> None:
        def tree(log: Log) -> Any:
            log.plan("b", "ignore")
            return supervisor(
                "top", children=[child("a", Plain), child("b", Probe, log), supervisor("inner")]
            )

        async with world(tree) as w:
            await start_child(w.top, child("last", Plain))

            assert list(await which_children(w.top)) == [
                ChildStatus("a", w.at("top/a").pid, "worker"),
                ChildStatus("b", None, "worker"),
                ChildStatus("inner", w.at("top/inner").pid, "supervisor"),
                ChildStatus("last", w.at("top/last").pid, "worker"),
            ]

    run(body())


def test_s75_counts_tell_active_from_known(run: Run) -> None:
    async def body() -> None:
        async with world(table) as w:
            await prepare(w)

            assert await count_children(w.top) == ChildCounts(specs=4, active=1, supervisors=0, workers=4)

    run(body())


def test_s75_child_spec_returns_every_default(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Probe, log)])) as w:
            assert await child_spec(w.top, "a") == child("a", Probe, w.log)
            with pytest.raises(ChildNotFound, match=r"supervisor 'top' has no child 'z'; its children: a\."):
                await child_spec(w.top, "z")

    run(body())


def test_s75_a_child_is_found_by_ref_and_pid_too(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Probe, log)])) as w:
            ref = w.at("top/a")
            assert ref.pid is not None

            assert (await child_spec(w.top, ref)).id == "a"
            assert (await child_spec(w.top, ref.pid)).id == "a"

    run(body())


def test_s75_a_stranger_of_the_same_id_is_no_child(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Probe, log)])) as w:
            stranger = await w.kernel.spawn(Plain, id="a")
            assert stranger.pid is not None

            for which in (stranger, stranger.pid):
                with pytest.raises(ChildNotFound):
                    await terminate_child(w.top, which)

            assert stranger.is_alive()
            assert await w.states() == {"a": "up"}

    run(body())


def test_s75_the_arguments_of_a_temporary_child_are_not_kept(run: Run) -> None:
    class Big:
        pass

    class Taker(Actor):
        def __init__(self, big: object) -> None:
            pass

    async def body() -> None:
        for tree in (supervisor("top"), dynamic_supervisor("top")):
            async with world() as w:
                await w.start(tree)
                ref = await start_child(w.top, child("a", Taker, Big(), restart="temporary"))
                await start_child(w.top, child("b", Plain))
                gc.collect()

                assert sum(isinstance(o, Big) for o in gc.get_objects()) == 0
                assert ref is not None
                assert (await child_spec(w.top, ref)).args == ()

    run(body())


@event
class Suicide(Request[str]):
    """Asks a child to have its supervisor stop it."""


class Tired(Actor):
    @on(Suicide)
    async def suicide(self, request: Suicide) -> str:
        assert self.parent is not None
        try:
            await terminate_child(self.parent, self.ref.id)
        except CallingSelf as error:
            return str(error)
        return "gone"


class Elder(Actor):
    """Has a child of its own that wants the elder stopped."""

    async def starting(self) -> None:
        await self.spawn(Younger, id="younger")


class Younger(Actor):
    @on(Suicide)
    async def suicide(self, request: Suicide) -> str:
        try:
            await terminate_child(self._supervisor(), "a")
        except CallingSelf as error:
            return str(error)
        return "gone"

    def _supervisor(self) -> Ref:
        found = self.whereis("sup")
        assert found is not None
        return found


def test_s75_a_child_cannot_have_its_own_supervisor_stop_it(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Tired)])) as w:
            answer = await w.at("top/a").ask(Suicide())

            assert "asked 'top' to stop 'top/a', which it belongs to" in answer
            assert await w.states() == {"a": "up"}

    run(body())


def test_s75_nor_can_an_actor_below_it(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", name="sup", children=[child("a", Elder)])) as w:
            answer = await w.at("top/a/younger").ask(Suicide())

            assert "asked 'top' to stop 'top/a', which it belongs to" in answer

    run(body())


def test_s75_a_child_that_waits_for_its_supervisor_to_stop_ends_with_it(run: Run) -> None:
    """No deadlock: the order to end interrupts the handler that waits (S95)."""

    @event
    class Stop(Request[str]):
        pass

    class Waiter(Probe):
        @on(Stop)
        async def wait(self, request: Stop) -> str:
            assert self.parent is not None
            await self.stop_actor(self.parent)
            return "done"

    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Waiter, log)])) as w:
            with pytest.raises(ActorExited):
                await w.at("top/a").ask(Stop())

            assert w.log.lines == ["start a", "stop a"]
            assert await w.reason() == Shutdown()
            assert w.told() == []

    run(body())


def test_administration_works_from_inside_an_actor(run: Run) -> None:
    class Foreman(Actor):
        def __init__(self, log: Log) -> None:
            self.log = log

        @on(Suicide)
        async def hire(self, request: Suicide) -> str:
            ref = await self.ask("top", StartChild(child("hired", Probe, self.log)))
            assert ref is not None
            return ref.path

    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("foreman", Foreman, log)])) as w:
            assert await w.at("top/foreman").ask(Suicide()) == "top/hired"

    run(body())


def test_a_pid_in_an_error_is_one_incarnation(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Probe, log)])) as w:
            with pytest.raises(ChildRunning) as caught:
                await delete_child(w.top, "a")
            assert isinstance(caught.value.pid, Pid)

    run(body())
