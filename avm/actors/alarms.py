"""Alarms: what happens to an actor because time has passed. Delayed events, intervals, idle timeout, hibernation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from avm.actors.delivery import deliver, seal_message
from avm.actors.ending import order_end, refuse_dead
from avm.actors.event import Handles
from avm.actors.ref import Pid
from avm.actors.signals import Timeout
from avm.actors.state import IDLE, RESTING
from avm.actors.timers import TimerRef, check_seconds

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.destination import Destination


def send_after(cell: Cell, seconds: float, dest: Destination, event: object) -> TimerRef:
    """Send an event later; to a pid the timer ends with that pid, to a name it is resolved then (S89)."""
    check_seconds(seconds, "seconds")
    refuse_dead(cell)
    kernel = cell.kernel
    sealed, handles = seal_message(kernel, event)
    owner = dest.cell if isinstance(dest, Pid) else None
    timer = kernel.timers.after(seconds, lambda: fire())

    def fire() -> None:
        if owner is not None:
            owner.extras().timers.pop(timer, None)
        deliver(kernel, cell, dest, sealed, handles)

    if owner is not None:
        if not owner.is_alive():
            kernel.timers.cancel(timer)
        else:
            owner.extras().timers[timer] = None
    return TimerRef(timer)


def send_interval(cell: Cell, seconds: float, dest: Destination, event: object) -> TimerRef:
    """Send an event again and again until the cell ends; late ticks are skipped, not made up for (S90)."""
    if check_seconds(seconds, "seconds") <= 0:
        raise ValueError(f"seconds of an interval must be more than 0, got {seconds!r}.")
    refuse_dead(cell)
    sealed, handles = seal_message(cell.kernel, event)
    return _Interval(cell, seconds, dest, sealed, handles).ref


class _Interval:
    """Sends one event at every multiple of `seconds` after it was made; its timer belongs to the sender."""

    __slots__ = ("_began", "_cell", "_dest", "_handles", "_sealed", "_seconds", "ref")

    def __init__(
        self, cell: Cell, seconds: float, dest: Destination, sealed: object, handles: Handles | None
    ) -> None:
        self._cell = cell
        self._seconds = seconds
        self._dest = dest
        self._sealed = sealed
        self._handles = handles
        self._began = cell.kernel.now()
        self.ref = TimerRef(cell.kernel.timers.after(seconds, self._fire))
        cell.extras().timers[self.ref.timer] = None

    def _fire(self) -> None:
        kernel, own = self._cell.kernel, self._cell.extras().timers
        own.pop(self.ref.timer, None)
        ticks = int((kernel.now() - self._began) / self._seconds + 1e-9) + 1
        self.ref.timer = kernel.timers.at(self._began + ticks * self._seconds, self._fire)
        own[self.ref.timer] = None
        deliver(kernel, self._cell, self._dest, self._sealed, self._handles)


def idle_timeout(cell: Cell, seconds: float | None) -> None:
    """Arm or switch off the idle timeout of an actor (S33)."""
    if seconds is not None:
        check_seconds(seconds, "seconds")
    more = cell.extras()
    more.idle_seconds = seconds
    if more.idle_timer is not None:
        cell.kernel.timers.cancel(more.idle_timer)
        more.idle_timer = None
    cell.rest = RESTING if seconds is not None or cell.behaviour.slow else IDLE
    if cell.state in (IDLE, RESTING):
        cell.state = cell.rest
        rest(cell)


def rest(cell: Cell) -> None:
    """An actor that is not left in peace when idle became idle: arm what it asked for."""
    hibernate_after, more = cell.behaviour.hibernate_after, cell.more
    if hibernate_after is None and (more is None or more.idle_seconds is None):
        return
    more = cell.extras()
    if more.idle_timer is not None:
        return
    timers = cell.kernel.timers
    if more.idle_seconds is not None:
        more.idle_timer = timers.after(more.idle_seconds, partial(_idle_too_long, cell))
    elif hibernate_after is not None and not more.hibernating:
        more.idle_timer = timers.after(hibernate_after, partial(_hibernate, cell))


def _idle_too_long(cell: Cell) -> None:
    more = cell.extras()
    more.idle_timer = None
    more.idle_seconds = None
    cell.rest = RESTING if cell.behaviour.slow else IDLE
    cell.receive((Timeout(), None, None, None))


def _hibernate(cell: Cell) -> None:
    more = cell.extras()
    more.idle_timer = None
    if cell.state == RESTING and not more.hibernating:
        try:
            cell.actor.hibernating()
        except Exception as error:
            order_end(cell, error)
            return
        more.hibernating = True
