"""The observer a VM has when none was given: one log record for each thing an operator must not miss.

A crash that nobody hears of is the worst kind, so silence has to be asked for (`observers=[]`). Crashes,
supervisors that give up, watchdog and zombie reports go to the logger "avm" at error level; progress and
dead letters do not. `avm.observe.LogReports` says much more. No kind of report can flood the log: see
`RateLimit`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from avm.actors.hooks import CrashReport, Report, WatchdogReport, ZombieReport
from avm.actors.reasons import describe
from avm.actors.signals import Killed
from avm.supervision.reports import GaveUpReport

_log = logging.getLogger("avm")

BURST = 20
PER_SECOND = 5.0


class RateLimit:
    """Lets a burst of reports of one kind through, then so many a second, and counts the rest.

    Args:
        burst: how many pass at once after a quiet time.
        per_second: how fast that number recovers.
    """

    __slots__ = ("_allowed", "_at", "burst", "per_second", "withheld", "withheld_since")

    def __init__(self, burst: int = BURST, per_second: float = PER_SECOND) -> None:
        self.burst = burst
        self.per_second = per_second
        self.withheld = 0
        self.withheld_since = 0.0
        self._allowed = float(burst)
        self._at = float("-inf")

    def admit(self, now: float) -> bool:
        """Tell whether a report at `now` (seconds, never going back) may pass; count it if not."""
        self._allowed = min(float(self.burst), self._allowed + (now - self._at) * self.per_second)
        self._at = now
        if self._allowed >= 1.0:
            self._allowed -= 1.0
            return True
        if self.withheld == 0:
            self.withheld_since = now
        self.withheld += 1
        return False

    def take_withheld(self) -> int:
        """Return how many were held back since the last call, and begin to count anew."""
        count, self.withheld = self.withheld, 0
        return count


class LastResort:
    """Logs what must not be missed, a line each; the exception comes with its traceback."""

    def __init__(self) -> None:
        self._limits: dict[type, RateLimit] = {}

    def __call__(self, report: Report) -> None:
        line = _LINES.get(type(report))
        if line is None or _is_a_kill(report):
            return
        limit = self._limits.setdefault(type(report), RateLimit())
        if not limit.admit(report.at):
            return
        withheld = limit.take_withheld()
        more = f" ({withheld} reports of this kind before it were left out)" if withheld else ""
        reason = report.reason if isinstance(report, CrashReport) else None
        _log.error("%s%s", line(report), more, exc_info=reason if isinstance(reason, BaseException) else None)


# Whoever kills knows it, and what a killed supervisor leaves behind would be a line for each.
def _is_a_kill(report: Report) -> bool:
    return isinstance(report, CrashReport) and isinstance(report.reason, Killed)


def _crash_line(report: CrashReport) -> str:
    doing = f" while it handled {report.last_message}" if report.last_message else ""
    return f"{report.path} ({report.pid}) crashed{doing}: {describe(report.reason)}."


def _watchdog_line(report: WatchdogReport) -> str:
    done = "; it was interrupted" if report.interrupted else ""
    return (
        f"{report.path} has held the loop for {report.lag:.2f} s with {report.event}{done}. "
        f"Use run_blocking() for such work.\n{report.stack}"
    )


def _zombie_line(report: ZombieReport) -> str:
    return f"{report.path} was killed {report.age:.1f} s ago and its handler still runs.\n{report.stack}"


_LINES: dict[type, Callable[..., str]] = {
    CrashReport: _crash_line,
    GaveUpReport: str,
    WatchdogReport: _watchdog_line,
    ZombieReport: _zombie_line,
}
