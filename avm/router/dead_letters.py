"""Dead letters: an observer that counts them, keeps the latest, and passes on no more than a few a second (S76).

The kernel counts dead letters by reason at all times; that costs next to nothing. Their reports come with each one, and
a program that floods a dead name would drown its operator: here they are thinned out.

The reasons: `nobody` (unknown name or path, empty group), `dead` (that actor has ended), `ended` (it ended with this
waiting), `mailbox_full` (refused), `dropped` (pushed out by newer ones), `no_handler` (the receiver does not take it).
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

import attrs

from avm.actors.hooks import DeadLetter, Observer, Report
from avm.errors import SpecError

if TYPE_CHECKING:
    from avm.actors.kernel import Kernel

KEPT = 100
PER_SECOND = 10.0
DESTINATIONS = 1000


@attrs.frozen(slots=True)
class DeadLetterStatistics:
    """What was seen since the watch began; `destinations` are the most frequent ones with their counts."""

    seen: int
    passed_on: int
    by_reason: dict[str, int]
    destinations: tuple[tuple[str, int], ...]


class DeadLetters:
    """Watches the dead letters of a kernel; made by `Router.watch_dead_letters`, ended by `close`.

    Args:
        into: takes those that are passed on; None for none.
        keep: how many of the latest are kept.
        per_second: how many of each reason are passed on in a second of the VM's clock; a burst may be as large.
    """

    def __init__(
        self,
        kernel: Kernel,
        into: Observer | None = None,
        *,
        keep: int = KEPT,
        per_second: float = PER_SECOND,
    ) -> None:
        if per_second <= 0 or keep < 0:
            raise SpecError(
                f"per_second must be more than 0 and keep 0 or more, got {per_second!r} and {keep!r}."
            )
        self._kernel = kernel
        self._into = into
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._latest: deque[DeadLetter] = deque(maxlen=keep)
        self._reasons: Counter[str] = Counter()
        self._destinations: Counter[str] = Counter()
        # For each reason: how many may still be passed on, and when that was worked out.
        self._allowance: dict[str, tuple[float, float]] = {}
        self._passed_on = 0
        kernel.observers.append(self)

    def __call__(self, report: Report) -> None:
        """Take a report, as any observer."""
        if not isinstance(report, DeadLetter):
            return
        self._reasons[report.why] += 1
        self._latest.append(report)
        if report.dest in self._destinations or len(self._destinations) < DESTINATIONS:
            self._destinations[report.dest] += 1
        if self._into is not None and self._may_pass(report):
            self._passed_on += 1
            self._into(report)

    def latest(self) -> tuple[DeadLetter, ...]:
        """Return the latest, oldest first."""
        return tuple(self._latest)

    def statistics(self) -> DeadLetterStatistics:
        """Count everything."""
        return DeadLetterStatistics(
            seen=self._reasons.total(),
            passed_on=self._passed_on,
            by_reason=dict(self._reasons),
            destinations=tuple(self._destinations.most_common(10)),
        )

    def close(self) -> None:
        """Stop watching; what was seen stays."""
        if self in self._kernel.observers:
            self._kernel.observers.remove(self)

    def _may_pass(self, report: DeadLetter) -> bool:
        left, since = self._allowance.get(report.why, (self._burst, report.at))
        left = min(self._burst, left + (report.at - since) * self._per_second)
        passes = left >= 1.0
        self._allowance[report.why] = (left - 1.0 if passes else left, report.at)
        return passes
