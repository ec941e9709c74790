"""What operators read: the values of reports, their text, and their order (S76, S77)."""

from __future__ import annotations

from typing import Any

import pytest

from avm.actors import Actor, Killed, Normal, Shutdown, on
from avm.supervision import (
    Backoff,
    GaveUpReport,
    Offender,
    ProgressReport,
    SupervisorReport,
    child,
    dynamic_supervisor,
    start_child,
    supervisor,
)
from avm.supervision.reports import reason_text
from tests.supervision.world import End, Log, Probe, Run, world


def test_s77_the_order_for_one_crash(run: Run) -> None:
    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Probe, log)])) as w:
            w.reports.clear()

            await w.end("top/a")

            assert w.story() == ["crash a", "child_terminated a", "progress a"]

    run(body())


def test_s77_the_order_for_a_group_restart_and_for_giving_up(run: Run) -> None:
    async def body() -> None:
        def tree(log: Log) -> Any:
            children = [child(id, Probe, log) for id in "ab"]
            return supervisor("top", strategy="one_for_all", max_restarts=1, children=children)

        async with world(tree) as w:
            assert w.story() == ["progress a", "progress b"]
            w.reports.clear()

            await w.end("top/b")
            await w.end("top/a")

            assert w.story() == [
                *("crash b", "child_terminated b", "progress a", "progress b"),
                *("crash a", "child_terminated a", "shutdown a"),
            ]

    run(body())


def test_s76_a_supervisor_report_names_the_offender_in_full(run: Run) -> None:
    async def body() -> None:
        def tree(log: Log) -> Any:
            spec = child("critic", Speaker, "kind", restart="transient", shutdown=3, significant=True)
            return supervisor("top", auto_shutdown="any_significant", children=[spec])

        async with world(tree) as w:
            pid = w.at("top/critic").pid
            w.clock.advance(7)

            await w.end("top/critic")

            (told,) = w.told()
            assert told == SupervisorReport(
                at=w.clock.now(),
                supervisor="top",
                context="child_terminated",
                reason=told.reason,
                offender=Offender(
                    pid=str(pid),
                    id="critic",
                    factory="Speaker('kind')",
                    restart="transient",
                    significant=True,
                    shutdown=3,
                    kind="worker",
                ),
            )
            assert isinstance(told.reason, RuntimeError)
            assert told.level == "error"
            assert str(told) == "supervisor 'top': child 'critic' ended: RuntimeError: boom."

    run(body())


class Speaker(Actor):
    def __init__(self, tone: str) -> None:
        self.tone = tone

    @on(End)
    def end(self, end: End) -> None:
        raise RuntimeError("boom")


def test_s76_progress_reports_name_supervisor_and_child(run: Run) -> None:
    async def body() -> None:
        def tree(log: Log) -> Any:
            return supervisor("top", children=[supervisor("inner", children=[child("a", Probe, log)])])

        async with world(tree) as w:
            told = [r for r in w.reports if isinstance(r, ProgressReport)]
            assert [(r.supervisor, r.started.id, r.level) for r in told] == [
                ("top/inner", "a", "info"),
                ("top", "inner", "info"),
            ]
            assert str(told[0]) == f"supervisor 'top/inner': {w.at('top/inner/a').pid} is up."

    run(body())


@pytest.mark.parametrize("restart, told", [("permanent", True), ("transient", False), ("temporary", False)])
@pytest.mark.parametrize("how", ["normal", "shutdown", "shutdown with detail"])
def test_s76_an_orderly_end_is_reported_of_permanent_children_only(
    run: Run, restart: Any, told: bool, how: str
) -> None:
    async def body() -> None:
        async with world(
            lambda log: supervisor("top", children=[child("a", Probe, log, restart=restart)])
        ) as w:
            await w.end("top/a", how)

            assert [r.context for r in w.told()] == ["child_terminated"] * told

    run(body())


def test_s76_giving_up_reads_as_the_style_says() -> None:
    report = GaveUpReport(
        at=0.0,
        supervisor="newsroom",
        context="shutdown",
        reason="reached_max_restart_intensity",
        offender=Offender(
            pid="critic#7",
            id="critic",
            factory="Critic()",
            restart="permanent",
            significant=False,
            shutdown=5,
            kind="worker",
        ),
        restarts=4,
        span=212.0,
        max_restarts=3,
        max_seconds=300,
        cause=TimeoutError("no reply in 30 s."),
    )

    assert str(report) == (
        "supervisor 'newsroom' gave up: 4 restarts in 212 s (max_restarts=3, max_seconds=300). "
        "Last: 'critic', TimeoutError: no reply in 30 s."
    )


def test_s76_a_retry_that_fails_for_good_says_why_it_failed(run: Run) -> None:
    """The cause is that of the last attempt, not of the crash before it."""

    async def body() -> None:
        async with world(lambda log: supervisor("top", children=[child("a", Probe, log)])) as w:
            w.log.always["a"] = "fail"

            await w.end("top/a", "killed")

            (told,) = w.gave_up()
            assert isinstance(told.cause, RuntimeError)
            assert str(told).endswith("Last: 'a', RuntimeError: cannot start.")

    run(body())


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_s77_a_reason_that_cannot_be_printed_hurts_nobody(run: Run) -> None:
    class Nasty(Actor):
        @on(End)
        def end(self, end: End) -> None:
            raise Unprintable

    async def body() -> None:
        async with world(lambda log: supervisor("top", max_restarts=1, children=[child("a", Nasty)])) as w:
            for _ in range(2):
                await w.end("top/a")

            assert str(w.gave_up()[0]).endswith("Last: 'a', Unprintable (its text failed with ValueError).")
            assert (await w.reason()) == Shutdown("max_restarts")

    run(body())


def test_s77_a_reason_is_cut_to_a_bounded_line() -> None:
    text = reason_text(RuntimeError("long\nline " * 1000))

    assert len(text) == 500
    assert "\n" not in text


@pytest.mark.parametrize(
    "reason, text",
    [
        (Normal(), "normal"),
        (Killed(), "killed"),
        (Shutdown(), "shutdown"),
        (Shutdown("late"), "shutdown: late"),
        (ValueError(), "ValueError"),
        (ValueError("no."), "ValueError: no"),
        ("odd", "'odd'"),
    ],
)
def test_reasons_in_words(reason: object, text: str) -> None:
    assert reason_text(reason) == text


def test_an_observer_that_raises_does_not_hurt_the_supervisor(run: Run) -> None:
    async def body() -> None:
        def broken(report: object) -> None:
            raise ValueError("no disk")

        async with world(
            lambda log: supervisor("top", max_restarts=3, children=[child("a", Probe, log)])
        ) as w:
            w.kernel.observers.insert(0, broken)

            await w.end("top/a")

            assert w.log.starts() == {"a": 2}
            assert w.story()[-1] == "progress a"

    run(body())


def test_crash_reports_of_a_supervisor_show_its_children(run: Run) -> None:
    async def body() -> None:
        def tree(log: Log) -> Any:
            return supervisor("top", children=[child("a", Probe, log)], backoff=Backoff(5))

        async with world(tree) as w:
            await w.end("top/a")

            assert w.top.cell.actor.describe() == {
                "strategy": "one_for_one",
                "children": {"a": "restarting"},
                "restarts in window": 1,
            }

        async with world(lambda log: dynamic_supervisor("pool")) as w:
            await start_child(w.top, child("a", Probe, w.log))

            assert w.top.cell.actor.describe() == {"children": 1, "restarts in window": 0}

    run(body())
