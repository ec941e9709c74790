"""Who waits for which calls."""

from __future__ import annotations

from typing import cast

from avm.actors import Pid
from avm.actors.cell import Cell
from avm.actors.signals import Monitor
from avm.io.askers import Askers


class FakeCell:
    """An actor that is only compared."""


def pid() -> Pid:
    return Pid(cast(Cell, FakeCell()))


class Watches:
    """Counts what is watched."""

    def __init__(self) -> None:
        self.serial = 0
        self.open: set[int] = set()

    def begin(self, pid: Pid) -> Monitor:
        self.serial += 1
        self.open.add(self.serial)
        return Monitor(self.serial)

    def end(self, monitor: Monitor) -> None:
        self.open.remove(monitor.serial)


def test_an_asker_is_watched_from_its_first_call_to_its_last() -> None:
    watches, who = Watches(), pid()
    askers: Askers[int] = Askers(watches.begin, watches.end)
    for call in (1, 2, 3):
        askers.add(who, call)
    assert (watches.serial, len(askers)) == (1, 1)

    for call in (1, 2):
        askers.remove(who, call)
    assert watches.open == {1}
    askers.remove(who, 3)
    assert (watches.open, len(askers)) == (set(), 0)


def test_the_calls_of_an_asker_that_ended_are_taken_once_and_its_watch_is_over_by_itself() -> None:
    watches, who = Watches(), pid()
    askers: Askers[int] = Askers(watches.begin, watches.end)
    for call in (1, 2):
        askers.add(who, call)

    assert askers.ended(who) == (1, 2)
    assert askers.ended(who) == ()
    askers.remove(who, 1)
    assert (watches.open, len(askers)) == ({1}, 0)
