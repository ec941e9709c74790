"""Reports in the log: values first, text second, and never a flood (S76, S77)."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from avm.actors import Report, event
from avm.actors.hooks import (
    CrashReport,
    DeadLetter,
    LimitReport,
    MailboxWater,
    WatchdogReport,
    ZombieReport,
)
from avm.observe import LogReports, level_of, text_of
from avm.supervision import GaveUpReport, Offender, ProgressReport, SupervisorReport, child, supervisor
from avm.vm import VM
from tests.vm.cast import Do, Player, crash


@event(tag="tests.observe.Draft")
class Draft:
    """With a body that is too long for a log."""

    title: str
    text: str


def a_crash(**changes: Any) -> CrashReport:
    fields: dict[str, Any] = {
        "at": 1.0,
        "pid": "critic#7",
        "path": "newsroom/critic",
        "actor_class": "Critic",
        "reason": RuntimeError("boom"),
        "trace": "Traceback (most recent call last):\n  File ...\nRuntimeError: boom\n",
        "last_message": "Draft(title='a')",
        "last_sender": "editor#3",
        "state": "{'tone': '...'}",
        "mailbox": 3,
        "mailbox_types": ("Draft x3",),
        "links": ("newsroom#2",),
        "ancestors": ("newsroom#2",),
        "trap_exit": True,
        "uptime": 1.5,
        "handled": 40,
    }
    return CrashReport(**{**fields, **changes})


OFFENDER = Offender(
    pid="critic#7",
    id="critic",
    factory="Critic('kind')",
    restart="permanent",
    significant=False,
    shutdown=5.0,
    kind="worker",
)


def a_supervisor_report(**changes: Any) -> SupervisorReport:
    fields: dict[str, Any] = {
        "at": 1.0,
        "supervisor": "newsroom",
        "context": "child_terminated",
        "reason": RuntimeError("boom"),
        "offender": OFFENDER,
    }
    return SupervisorReport(**{**fields, **changes})


REPORTS = [
    (
        a_crash(),
        logging.ERROR,
        "newsroom/critic (critic#7, Critic) crashed: RuntimeError: boom\n"
        "  event: Draft(title='a') from editor#3\n"
        "  state: {'tone': '...'}\n"
        "  mailbox: 3 (Draft x3)\n"
        "  links: newsroom#2\n"
        "  under newsroom#2; up 1.500 s, 40 events handled, traps exits\n"
        "  Traceback (most recent call last):\n"
        "    File ...\n"
        "  RuntimeError: boom",
    ),
    (
        a_supervisor_report(),
        logging.ERROR,
        "supervisor 'newsroom': child 'critic' ended: RuntimeError: boom.",
    ),
    (
        GaveUpReport(
            at=1.0,
            supervisor="newsroom",
            context="shutdown",
            reason="reached_max_restart_intensity",
            offender=OFFENDER,
            restarts=4,
            span=212.0,
            max_restarts=3,
            max_seconds=300.0,
            cause=TimeoutError("no reply in 30 s"),
        ),
        logging.ERROR,
        "supervisor 'newsroom' gave up: 4 restarts in 212 s (max_restarts=3, max_seconds=300). "
        "Last: 'critic', TimeoutError: no reply in 30 s.",
    ),
    (
        ProgressReport(at=1.0, supervisor="newsroom", started=OFFENDER),
        logging.INFO,
        "supervisor 'newsroom': critic#7 is up.",
    ),
    (
        DeadLetter(at=1.0, why="dead", dest="critic#7", sender=None, event=Draft("a", "x" * 99)),
        logging.WARNING,
        "dead letter (dead) to critic#7 from outside any actor: Draft(title='a', text=<99 characters>)",
    ),
    (
        MailboxWater(at=1.0, path="newsroom/critic", length=10_000, high=True),
        logging.WARNING,
        "mailbox of newsroom/critic rose above its high mark: 10000 events wait",
    ),
    (
        LimitReport(at=1.0, path="newsroom/critic", limit="max_mailbox", found=11, allowed=10),
        logging.ERROR,
        "newsroom/critic broke its limit max_mailbox: 11 of 10",
    ),
    (
        ZombieReport(at=1.0, path="newsroom/critic", age=5.0, stack="critic.py:3 in review"),
        logging.ERROR,
        "newsroom/critic was killed 5.0 s ago and its handler still runs:\n  critic.py:3 in review",
    ),
    (
        WatchdogReport(
            at=1.0, path="newsroom/critic", event="Draft", lag=0.7, stack="critic.py:3", interrupted=False
        ),
        logging.ERROR,
        "newsroom/critic has held the loop for 0.70 s with Draft and still runs; "
        "use run_blocking() for such work:\n  critic.py:3",
    ),
]


@pytest.mark.parametrize("report, level, text", REPORTS, ids=lambda value: type(value).__name__)
def test_every_kind_of_report_has_its_level_and_its_text(report: Report, level: int, text: str) -> None:
    """S76."""
    assert level_of(type(report)) == level
    assert text_of(report) == text


def test_a_record_carries_the_report_itself(caplog: Any) -> None:
    """S76: structured first."""
    report = a_crash()

    LogReports()(report)

    record = caplog.records[0]
    assert record.report is report
    assert record.name == "avm.reports"
    assert record.getMessage().startswith("newsroom/critic (critic#7, Critic) crashed")


def test_no_text_is_made_for_a_record_nobody_wants(caplog: Any) -> None:
    class Costly(RuntimeError):
        def __str__(self) -> str:
            raise AssertionError("nobody asked")

    logger = logging.getLogger("tests.observe.quiet")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())

    LogReports(logger)(a_crash(reason=Costly()))
    logger.setLevel(logging.CRITICAL)
    LogReports(logger)(a_crash(reason=Costly()))


def test_a_flood_is_cut_and_what_was_left_out_is_said(caplog: Any) -> None:
    """S77: bounded in rate."""
    log = LogReports(burst=3, per_second=1.0)

    for n in range(100):
        log(a_crash(at=10.0 + n / 1000))
    assert len(caplog.records) == 3
    assert log.withheld() == {"CrashReport": 97}

    log(a_crash(at=12.0))
    assert caplog.messages[3] == "97 more of CrashReport in 2.0 s were left out of this log."
    assert len(caplog.records) == 5
    assert log.withheld() == {}


def test_a_flood_of_one_kind_does_not_hide_another(caplog: Any) -> None:
    """S77."""
    log = LogReports(burst=2, per_second=1.0)

    for _ in range(50):
        log(DeadLetter(at=10.0, why="dead", dest="critic#7", sender=None, event=Draft("a", "")))
    log(a_crash(at=10.0))

    assert [type(r.report).__name__ for r in caplog.records] == ["DeadLetter", "DeadLetter", "CrashReport"]


def test_close_says_what_was_left_out_at_the_end(caplog: Any) -> None:
    log = LogReports(burst=1, per_second=1.0)
    for _ in range(4):
        log(a_crash())

    log.close()
    log.close()

    assert caplog.messages[1:] == ["3 more of CrashReport were left out of this log."]


def test_kinds_can_be_left_out(caplog: Any) -> None:
    log = LogReports(without=[SupervisorReport, DeadLetter])

    log(a_supervisor_report())
    log(a_crash())

    assert [type(r.report) for r in caplog.records] == [CrashReport]


def test_a_text_that_fails_neither_loses_the_report_nor_raises() -> None:
    """S77: crash_in_format_status."""

    class Mute(RuntimeError):
        def __str__(self) -> str:
            raise ValueError("no words")

    class Faceless:
        def __repr__(self) -> str:
            raise ValueError("no face")

    assert "crashed: Mute (its text failed with ValueError)" in text_of(a_crash(reason=Mute()))
    letter = DeadLetter(at=1.0, why="dead", dest="x", sender=None, event=Faceless())
    assert "its repr failed with ValueError" in text_of(letter)
    assert "its text failed with" in text_of(a_crash(uptime="long"))


def test_one_crash_is_told_in_the_order_actor_supervisor_progress(run: Any, caplog: Any) -> None:
    """S77."""
    caplog.set_level(logging.INFO, logger="avm.reports")
    tree = supervisor("troupe", children=[child("one", Player)])

    async def body() -> None:
        async with VM(tree, memory=None, provider="scripted", observers=[LogReports()], watchdog=None) as vm:
            caplog.clear()
            vm.tell("one", Do(crash))
            await vm.kernel.idle()

    run(body())

    told = [r.report for r in caplog.records if hasattr(r, "report")]
    assert [type(r).__name__ for r in told] == ["CrashReport", "SupervisorReport", "ProgressReport"]
    assert "in crash\n" in caplog.text


def test_an_observer_that_fails_is_removed_and_the_vm_goes_on(run: Any, caplog: Any) -> None:
    """S99."""
    seen: list[Report] = []

    def fails(report: Report) -> None:
        raise OSError("disk full")

    tree = supervisor("troupe", children=[child("one", Player)])

    async def body() -> None:
        async with VM(
            tree, memory=None, provider="scripted", observers=[fails, seen.append], watchdog=None
        ) as vm:
            assert fails not in vm.kernel.observers
            assert seen

    run(body())
    assert "disk full" in caplog.text
