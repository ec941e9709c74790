"""Alarms: what happens to an actor because time has passed. Delayed events, intervals, idle timeout, hibernation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from avm.actors.delivery import deliver, seal_message
from avm.actors.destination import check_destination
from avm.actors.ending import order_end, refuse_dead
from avm.actors.event import Handles
from avm.actors.reasons import reason_of
from avm.actors.ref import Pid
from avm.actors.signals import Timeout
from avm.actors.state import IDLE, RESTING
from avm.actors.timers import Timer, TimerRef, check_seconds, keep

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.destination import Destination


def send_after(cell: Cell, seconds: float, dest: Destination, event: object) -> TimerRef:
    """Send an event later; to a pid the timer ends with that pid, to a name it is resolved then (S89)."""
    check_seconds(seconds, "seconds")
    refuse_dead(cell)
    check_destination(dest)
    kernel = cell.kernel
    sealed, handles = seal_message(kernel, event)
    timer = kernel.timers.after(seconds, partial(_send, cell, dest, sealed, handles))
    if isinstance(dest, Pid):
        _tie(timer, dest.cell)
    return TimerRef(timer)


# Its end is the timer's; if it has ended already, now.
def _tie(timer: Timer, receiver: Cell, *owners: dict[Timer, None]) -> None:
    if receiver.is_alive():
        keep(timer, receiver.extras().timers, *owners)
    else:
        receiver.kernel.timers.cancel(timer)


# A strategy that fails is the sender's: it ends with the error, or whoever runs the VM reads of it.
def _send(cell: Cell, dest: Destination, sealed: object, handles: Handles | None) -> None:
    kernel = cell.kernel
    try:
        deliver(kernel, cell, dest, sealed, handles)
    except BaseException as error:
        if cell.is_alive():
            order_end(cell, reason_of(kernel, error))
        else:
            kernel.log(f"a timer of {cell.pid_text} could not send", error)


def send_interval(cell: Cell, seconds: float, dest: Destination, event: object) -> TimerRef:
    """Send an event again and again until the cell ends, and to a pid until that ends (S89).

    Late ticks are skipped, not made up for (S90).
    """
    if check_seconds(seconds, "seconds") <= 0:
        raise ValueError(f"seconds of an interval must be more than 0, got {seconds!r}.")
    refuse_dead(cell)
    check_destination(dest)
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
        self._keep()

    def _keep(self) -> None:
        own = self._cell.extras().timers
        if isinstance(self._dest, Pid):
            _tie(self.ref.timer, self._dest.cell, own)
        else:
            keep(self.ref.timer, own)

    def _fire(self) -> None:
        kernel = self._cell.kernel
        ticks = int((kernel.now() - self._began) / self._seconds + 1e-9) + 1
        self.ref.timer = kernel.timers.at(self._began + ticks * self._seconds, self._fire)
        self._keep()
        _send(self._cell, self._dest, self._sealed, self._handles)


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
        kernel = cell.kernel
        outer, kernel.inside = kernel.inside, cell
        try:
            cell.actor.hibernating()
        except BaseException as error:
            order_end(cell, reason_of(kernel, error))
            return
        finally:
            kernel.inside = outer
        more.hibernating = True
