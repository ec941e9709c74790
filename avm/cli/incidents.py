"""What goes wrong while the main job runs, told beside its figures; crashes that chaos made on purpose are not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from avm.actors.hooks import CrashReport, Report
from avm.actors.signals import Killed
from avm.cli.player import ChaosError
from avm.vm import LastResort


class Incidents:
    """An observer that logs what must not be missed, without the crashes that were asked for."""

    def __init__(self, chaos: bool) -> None:
        self._chaos = chaos
        self._log = LastResort()

    def __call__(self, report: Report) -> None:
        if (
            self._chaos
            and isinstance(report, CrashReport)
            and isinstance(report.reason, (ChaosError, Killed))
        ):
            return
        self._log(report)


class _Notes(logging.Handler):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._note(self.format(record))
        except Exception:
            self.handleError(record)


@contextmanager
def logged_to(note: Callable[[str], None]) -> Iterator[None]:
    """Give what is logged in this block to `note`, whoever logs it."""
    logger = logging.getLogger()
    handler = _Notes(note)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
