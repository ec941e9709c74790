"""Reports of the kernel and of supervisors in Python's own `logging`: values first, text second (S76).

`LogReports` is an observer: `VM(tree, observers=[LogReports()])`. Each record carries the report itself as
`record.report`, so that a handler can write it as JSON; the text is made from the report's fields only, and
only for a record that some handler wants. A flood of one kind never hides another: each kind has its own
rate limit, and what was left out is counted and said (S77).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from avm.actors.crash import outline, shorten
from avm.actors.hooks import (
    CrashReport,
    DeadLetter,
    LimitReport,
    MailboxWater,
    Report,
    WatchdogReport,
    ZombieReport,
)
from avm.actors.reasons import describe
from avm.supervision.reports import ProgressReport, SupervisorReport
from avm.vm import RateLimit

REASON_CHARACTERS = 500

_LEVELS: dict[type[Report], int] = {
    CrashReport: logging.ERROR,
    DeadLetter: logging.WARNING,
    MailboxWater: logging.WARNING,
    LimitReport: logging.ERROR,
    ZombieReport: logging.ERROR,
    WatchdogReport: logging.ERROR,
    SupervisorReport: logging.ERROR,
    ProgressReport: logging.INFO,
}
"""The level of each kind of report; a kind that is not here has that of the nearest class above it, else
INFO."""


class LogReports:
    """Writes reports to a logger, the records of each kind limited in rate.

    Args:
        logger: where to; the default is the logger "avm.reports".
        burst: records of one kind that pass at once after a quiet time.
        per_second: records of one kind a second when there are more than that.
        without: kinds of reports to leave out, as `[ProgressReport, DeadLetter]`.
    """

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        burst: int = 20,
        per_second: float = 5.0,
        without: Iterable[type[Report]] = (),
    ) -> None:
        self.logger = logger if logger is not None else logging.getLogger("avm.reports")
        self.burst = burst
        self.per_second = per_second
        self._without = tuple(without)
        self._limits: dict[type[Report], RateLimit] = {}

    def __call__(self, report: Report) -> None:
        kind = type(report)
        level = level_of(kind)
        if issubclass(kind, self._without) or not self.logger.isEnabledFor(level):
            return
        limit = self._limits.get(kind)
        if limit is None:
            limit = self._limits[kind] = RateLimit(self.burst, self.per_second)
        if not limit.admit(report.at):
            return
        self._say_withheld(kind, limit, report.at)
        self.logger.log(level, "%s", Text(report), extra={"report": report})

    def close(self) -> None:
        """Say how many reports were left out and not yet spoken of. The observer can still be used."""
        for kind, limit in self._limits.items():
            self._say_withheld(kind, limit, None)

    def withheld(self) -> dict[str, int]:
        """Return how many reports of each kind were left out since it was last said."""
        return {kind.__name__: limit.withheld for kind, limit in self._limits.items() if limit.withheld}

    def _say_withheld(self, kind: type[Report], limit: RateLimit, now: float | None) -> None:
        since = limit.withheld_since
        count = limit.take_withheld()
        if count:
            span = "" if now is None else f" in {now - since:.1f} s"
            self.logger.log(
                level_of(kind), "%d more of %s%s were left out of this log.", count, kind.__name__, span
            )


class Text:
    """The text of a report, made when a handler asks for it and once for all of them."""

    __slots__ = ("_made", "_report")

    def __init__(self, report: Report) -> None:
        self._report = report
        self._made: str | None = None

    def __str__(self) -> str:
        if self._made is None:
            self._made = text_of(self._report)
        return self._made


def level_of(kind: type[Report]) -> int:
    """Return the logging level of a kind of report."""
    for base in kind.__mro__:
        level = _LEVELS.get(base)
        if level is not None:
            return level
    return logging.INFO


def text_of(report: Report) -> str:
    """Put a report in words: one line, and for a crash one line more for each thing known. Never raises
    (S77)."""
    for base in type(report).__mro__:
        write = _WRITERS.get(base)
        if write is not None:
            try:
                return write(report)
            except Exception as error:
                return f"{type(report).__name__} (its text failed with {type(error).__name__}: {error})"
    return str(report)


def _crash(report: CrashReport) -> str:
    lines = [f"{report.path} ({report.pid}, {report.actor_class}) crashed: {_reason(report.reason)}"]
    if report.last_message:
        sender = report.last_sender if report.last_sender is not None else "outside any actor"
        lines.append(f"  event: {report.last_message} from {sender}")
    if report.state:
        lines.append(f"  state: {report.state}")
    kinds = f" ({', '.join(report.mailbox_types)})" if report.mailbox_types else ""
    lines.append(f"  mailbox: {report.mailbox}{kinds}")
    if report.links:
        lines.append(f"  links: {', '.join(report.links)}")
    traps = ", traps exits" if report.trap_exit else ""
    above = " < ".join(report.ancestors) if report.ancestors else "the root"
    lines.append(f"  under {above}; up {report.uptime:.3f} s, {report.handled} events handled{traps}")
    if report.trace:
        lines.extend(f"  {line}" for line in report.trace.rstrip().splitlines())
    return "\n".join(lines)


def _dead_letter(report: DeadLetter) -> str:
    sender = report.sender if report.sender is not None else "outside any actor"
    return f"dead letter ({report.why}) to {report.dest} from {sender}: {outline(report.event)}"


def _water(report: MailboxWater) -> str:
    mark = "rose above its high mark" if report.high else "fell below its low mark"
    return f"mailbox of {report.path} {mark}: {report.length} events wait"


def _limit(report: LimitReport) -> str:
    return f"{report.path} broke its limit {report.limit}: {report.found} of {report.allowed}"


def _zombie(report: ZombieReport) -> str:
    return f"{report.path} was killed {report.age:.1f} s ago and its handler still runs:\n{_indented(report.stack)}"


def _watchdog(report: WatchdogReport) -> str:
    end = "was interrupted" if report.interrupted else "still runs; use run_blocking() for such work"
    return (
        f"{report.path} has held the loop for {report.lag:.2f} s with {report.event} and {end}:\n"
        f"{_indented(report.stack)}"
    )


def _reason(reason: object) -> str:
    try:
        return shorten(describe(reason), REASON_CHARACTERS)
    except Exception as error:
        return f"{type(reason).__name__} (its text failed with {type(error).__name__})"


def _indented(stack: str) -> str:
    return "\n".join(f"  {line}" for line in stack.rstrip().splitlines())


_WRITERS: dict[type, Callable[..., str]] = {
    CrashReport: _crash,
    DeadLetter: _dead_letter,
    MailboxWater: _water,
    LimitReport: _limit,
    ZombieReport: _zombie,
    WatchdogReport: _watchdog,
}
