"""What supervisors report to operators: values first, one line of text second (S76).

`str(report)` is the line. For one crash the order is the actor's crash report, the supervisor's `child_terminated`,
then the progress report of the next incarnation (S77).
"""

from __future__ import annotations

from typing import Literal

import attrs

from avm.actors.hooks import Report
from avm.actors.reasons import describe
from avm.supervision.spec import ChildSpec, Grace, RestartType

Context = Literal["start_error", "child_terminated", "shutdown_error", "shutdown"]

REASON_CHARACTERS = 500

_WORDS = {
    "start_error": "did not start",
    "child_terminated": "ended",
    "shutdown_error": "did not end as told",
    "shutdown": "was the last",
}


@attrs.frozen(slots=True, kw_only=True)
class Offender:
    """The child a report is about; `count` of them where many of a dynamic supervisor ended alike."""

    pid: str | None
    id: str
    factory: str
    restart: RestartType
    significant: bool
    shutdown: Grace
    kind: str
    count: int = 1


@attrs.frozen(slots=True, kw_only=True)
class SupervisorReport(Report):
    """Something went wrong with a child; `context` says when, `reason` is the child's."""

    level = "error"

    supervisor: str
    context: Context
    reason: object
    offender: Offender

    def __str__(self) -> str:
        child = self.offender
        who = f"child {child.id!r}" if child.count == 1 else f"{child.count} children like {child.id!r}"
        return f"supervisor {self.supervisor!r}: {who} {_WORDS[self.context]}: {reason_text(self.reason)}."


@attrs.frozen(slots=True, kw_only=True)
class GaveUpReport(SupervisorReport):
    """The restart intensity is exceeded: the supervisor ends (S67).

    Attributes:
        restarts: decisions in the window, the one too many included.
        span: seconds between the first and the last of them.
        cause: the exit reason that led to the last one; `reason` is what OTP says, reached_max_restart_intensity.
    """

    restarts: int
    span: float
    max_restarts: int
    max_seconds: float
    cause: object

    def __str__(self) -> str:
        times = "1 restart" if self.restarts == 1 else f"{self.restarts} restarts"
        return (
            f"supervisor {self.supervisor!r} gave up: {times} in {self.span:.3g} s "
            f"(max_restarts={self.max_restarts}, max_seconds={self.max_seconds:g}). "
            f"Last: {self.offender.id!r}, {reason_text(self.cause)}."
        )


@attrs.frozen(slots=True, kw_only=True)
class ProgressReport(Report):
    """A child is up."""

    level = "info"

    supervisor: str
    started: Offender

    def __str__(self) -> str:
        return f"supervisor {self.supervisor!r}: {self.started.pid} is up."


def offender(spec: ChildSpec, pid: object, count: int = 1) -> Offender:
    """Describe a child for a report; `pid` is that of the incarnation it is about, None if there was none."""
    return Offender(
        pid=None if pid is None else str(pid),
        id=spec.id,
        factory=spec.factory,
        restart=spec.restart,
        significant=spec.significant,
        shutdown=spec.shutdown,
        kind=spec.kind,
        count=count,
    )


def reason_text(reason: object) -> str:
    """Put an exit reason in one bounded line without its full stop. Never raises: reasons are users' objects (S77)."""
    try:
        text = describe(reason)
    except Exception as error:
        text = f"{type(reason).__name__} (its text failed with {type(error).__name__})"
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= REASON_CHARACTERS else line[: REASON_CHARACTERS - 3] + "..."
