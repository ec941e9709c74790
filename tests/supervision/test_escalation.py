"""What a supervisor that gives up means one level above (S71), and what significant children mean (S72)."""

from __future__ import annotations

from typing import Any

import pytest

from avm.actors import Shutdown
from avm.errors import SpecWarning
from avm.supervision import child, supervisor, terminate_child
from tests.supervision.world import ABNORMAL, Log, Probe, Run, world


def nested(outer: int, inner: int, restart: Any = "permanent") -> Any:
    """A child that always crashes right after its start, two supervisors deep."""

    def tree(log: Log) -> Any:
        log.always["leaf"] = "crash"
        branch = supervisor(
            "inner", restart=restart, max_restarts=inner, children=[child("leaf", Probe, log)]
        )
        return supervisor("top", max_restarts=outer, children=[child("first", Probe, log), branch])

    return tree


@pytest.mark.parametrize("outer, inner, starts", [(2, 2, 9), (0, 3, 4), (1, 0, 2), (3, 1, 8), (0, 0, 1)])
def test_s71_nested_intensities_multiply(run: Run, outer: int, inner: int, starts: int) -> None:
    async def body() -> None:
        async with world(nested(outer, inner)) as w:
            await w.settle()

            assert w.log.starts() == {"first": 1, "leaf": starts}
            assert await w.reason() == Shutdown("max_restarts")

    run(body())


def test_s71_a_transient_supervisor_that_gave_up_stays_down(run: Run) -> None:
    async def body() -> None:
        with pytest.warns(SpecWarning):
            tree = nested(2, 2, "transient")(log := Log())
        async with world() as w:
            w.log = log
            await w.start(tree)
            await w.settle()

            assert w.log.starts()["leaf"] == 3
            assert await w.states() == {"first": "up", "inner": "down"}
            assert [r.supervisor for r in w.gave_up()] == ["top/inner"]

    run(body())


def test_s71_a_temporary_supervisor_that_gave_up_vanishes(run: Run) -> None:
    async def body() -> None:
        with pytest.warns(SpecWarning):
            tree = nested(2, 0, "temporary")(log := Log())
        async with world() as w:
            w.log = log
            await w.start(tree)
            await w.settle()

            assert w.log.starts()["leaf"] == 1
            assert await w.states() == {"first": "up"}

    run(body())


def test_s71_a_restarted_branch_starts_afresh(run: Run) -> None:
    """Its window is empty again and all its children are new."""

    async def body() -> None:
        def tree(log: Log) -> Any:
            branch = supervisor(
                "inner", max_restarts=1, children=[child("x", Probe, log), child("y", Probe, log)]
            )
            return supervisor("top", max_restarts=1, children=[branch])

        async with world(tree) as w:
            inner = w.at("top/inner")
            await w.end("top/inner/x")
            await w.end("top/inner/x")
            assert w.log.starts() == {"x": 3, "y": 2}

            await w.end("top/inner/x")

            assert w.log.starts() == {"x": 4, "y": 2}
            assert w.at("top/inner") == inner

    run(body())


# Significant children.


def pair(auto_shutdown: Any, first: Any, second: Any | None = None, **flags: Any) -> Any:
    """One or two significant children of the given restart types, between permanent ones."""

    def tree(log: Log) -> Any:
        children = [child("before", Probe, log), child("x", Probe, log, restart=first, significant=True)]
        if second is not None:
            children.append(child("y", Probe, log, restart=second, significant=True))
        children.append(child("after", Probe, log))
        return supervisor("top", auto_shutdown=auto_shutdown, children=children, **flags)

    return tree


@pytest.mark.parametrize("restart", ["transient", "temporary"])
@pytest.mark.parametrize("how", ["normal", "shutdown", "shutdown with detail", "exception", "killed"])
def test_s72_any_the_end_of_one_significant_child_that_is_not_restarted_ends_the_supervisor(
    run: Run, restart: Any, how: str
) -> None:
    async def body() -> None:
        async with world(pair("any_significant", restart, "temporary")) as w:
            w.log.take()

            await w.end("top/x", how)

            restarted = restart == "transient" and how in ABNORMAL
            assert w.top.is_alive() == restarted
            if not restarted:
                assert await w.reason() == Shutdown()
                assert [line for line in w.log.lines if line != "stop x"] == [
                    "stop after",
                    "stop y",
                    "stop before",
                ]

    run(body())


@pytest.mark.parametrize("restart", ["transient", "temporary"])
def test_s72_all_the_last_significant_child_ends_the_supervisor(run: Run, restart: Any) -> None:
    async def body() -> None:
        async with world(pair("all_significant", restart, "temporary")) as w:
            await w.end("top/x", "normal")
            assert w.top.is_alive()

            await w.end("top/y", "normal")

            assert await w.reason() == Shutdown()

    run(body())


def test_s72_all_a_significant_child_that_crashes_and_restarts_is_running(run: Run) -> None:
    async def body() -> None:
        async with world(pair("all_significant", "transient", "temporary", max_restarts=3)) as w:
            await w.end("top/x", "exception")
            await w.end("top/y", "normal")
            assert w.top.is_alive()

            await w.end("top/x", "normal")

            assert await w.reason() == Shutdown()

    run(body())


@pytest.mark.parametrize("auto_shutdown", ["any_significant", "all_significant"])
@pytest.mark.parametrize("restart", ["transient", "temporary"])
def test_s72_terminating_a_significant_child_does_not_count(
    run: Run, auto_shutdown: Any, restart: Any
) -> None:
    async def body() -> None:
        async with world(pair(auto_shutdown, restart)) as w:
            await terminate_child(w.top, "x")
            await w.settle()

            assert w.top.is_alive()

    run(body())


@pytest.mark.parametrize("auto_shutdown", ["any_significant", "all_significant"])
def test_s72_the_restart_of_a_sibling_does_not_count(run: Run, auto_shutdown: Any) -> None:
    async def body() -> None:
        async with world(pair(auto_shutdown, "temporary", strategy="one_for_all")) as w:
            await w.end("top/before")

            assert w.top.is_alive()
            assert list(await w.states()) == ["before", "after"]

    run(body())


@pytest.mark.parametrize("auto_shutdown", ["any_significant", "all_significant"])
def test_s72_a_child_that_is_not_significant_may_end(run: Run, auto_shutdown: Any) -> None:
    async def body() -> None:
        def tree(log: Log) -> Any:
            children = [
                child("x", Probe, log, restart="temporary", significant=True),
                child("plain", Probe, log, restart="temporary"),
            ]
            return supervisor("top", auto_shutdown=auto_shutdown, children=children)

        async with world(tree) as w:
            await w.end("top/plain", "normal")

            assert w.top.is_alive()

    run(body())


def test_s72_a_significant_supervisor_ends_the_branches_above_it(run: Run) -> None:
    """As OTP's significant_upgrade chain: each level ends with Shutdown, which counts one level above."""

    async def body() -> None:
        def tree(log: Log) -> Any:
            leaf = child("leaf", Probe, log, restart="transient", significant=True)
            inner = supervisor(
                "inner",
                restart="transient",
                significant=True,
                auto_shutdown="any_significant",
                children=[leaf],
            )
            return supervisor(
                "top", auto_shutdown="all_significant", children=[inner, child("other", Probe, log)]
            )

        async with world(tree) as w:
            await w.end("top/inner/leaf", "normal")

            assert await w.reason() == Shutdown()
            assert w.log.starts() == {"leaf": 1, "other": 1}

    run(body())


def test_s72_never_keeps_a_supervisor_without_children(run: Run) -> None:
    async def body() -> None:
        async with world(
            lambda log: supervisor("top", children=[child("a", Probe, log, restart="temporary")])
        ) as w:
            await w.end("top/a", "normal")

            assert w.top.is_alive()
            assert await w.states() == {}

    run(body())
