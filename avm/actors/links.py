"""Links and monitors: who hears of whose end (S36-S50).

Both are kept on the cells themselves. Ends are announced from one queue, so a chain of a million linked actors ends
without recursion; the announcement of one end is complete before the next begins.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from avm.actors.destination import last_at, nobody
from avm.actors.ending import exit_signal, parent_ended
from avm.actors.mailbox import drop_exits
from avm.actors.signals import Down, Monitor
from avm.actors.timers import keep
from avm.errors import NoProc

ORPHAN_GRACE = 5.0
"""Seconds that an actor has to end in order when its parent is gone; then it is killed (S58, S62)."""

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.destination import Destination


def link(cell: Cell, dest: Destination) -> None:
    """Link an actor with a destination; nobody there is an exit signal NoProc (S42)."""
    target = last_at(cell.kernel, dest)
    if target is None:
        exit_signal(cell, None, nobody(cell.kernel, dest), via_link=True)
    else:
        join(cell, target)


def join(one: Cell, other: Cell) -> None:
    """Link two actors; a dead one sends its NoProc at once (S42). Linking twice is linking once."""
    if one is other:
        return
    if not other.is_alive():
        exit_signal(one, other, NoProc(f"{other.pid_text} has ended."), via_link=True)
        return
    if one.links is None:
        one.links = {}
    if other.links is None:
        other.links = {}
    one.links[other] = None
    other.links[one] = None


def unlink(cell: Cell, dest: Destination, *, flush: bool) -> None:
    """End a link; nothing happens if there is none (S44). With `flush` a trapped Exit that waits is removed."""
    target = last_at(cell.kernel, dest)
    if target is None:
        return
    if cell.links is not None:
        cell.links.pop(target, None)
    if target.links is not None:
        target.links.pop(cell, None)
    if flush:
        drop_exits(cell, target.pid)


def monitor(cell: Cell, dest: Destination) -> Monitor:
    """Watch a destination for an actor; of nobody a Down with NoProc is in the mailbox at once (S47)."""
    name = dest if isinstance(dest, str) else None
    target = last_at(cell.kernel, dest)
    if target is not None:
        return watch(cell, target, name)
    made = _next_monitor(cell)
    cell.receive((Down(made, None, name, nobody(cell.kernel, dest)), None, None, None))
    return made


def watch(watcher: Cell, target: Cell, name: str | None = None) -> Monitor:
    """Watch an actor; of a dead one a Down with NoProc is in the mailbox at once (S47)."""
    made = _next_monitor(watcher)
    if target is watcher:
        return made
    if not target.is_alive():
        gone = NoProc(f"{target.pid_text} has ended.")
        watcher.receive((Down(made, target.pid, name, gone), None, None, None))
        return made
    if target.watchers is None:
        target.watchers = {}
    if watcher.monitors is None:
        watcher.monitors = {}
    target.watchers[made.serial] = (watcher, name)
    watcher.monitors[made.serial] = target
    return made


def demonitor(watcher: Cell, monitor: Monitor, *, flush: bool) -> bool:
    """End a watch; tell whether it was still active (S48). With `flush` a Down that waits is removed."""
    number = monitor.serial
    target = watcher.monitors.pop(number, None) if watcher.monitors is not None else None
    watchers = target.watchers if target is not None else None
    active = watchers is not None and watchers.pop(number, None) is not None
    if flush and not active:
        watcher.drop(lambda event: isinstance(event, Down) and event.monitor == monitor)
    return active


def _next_monitor(watcher: Cell) -> Monitor:
    kernel = watcher.kernel
    kernel.monitors += 1
    return Monitor(kernel.monitors)


class Announcements:
    """Ends that are still to be told to links, monitors, waiters and children, oldest first."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Cell, object]] = deque()
        self._busy = False

    def add(self, cell: Cell, reason: object) -> None:
        """Announce an end; done when this returns, unless it was called from within an announcement."""
        if cell.links or cell.watchers or cell.monitors or cell.children or cell.more is not None:
            self._queue.append((cell, reason))
            if self._busy:
                return
            self._busy = True
            try:
                while self._queue:
                    _announce(*self._queue.popleft())
            finally:
                self._busy = False


def _announce(cell: Cell, reason: object) -> None:
    if cell.monitors:
        _end_own_watches(cell)
    if cell.watchers:
        _tell_watchers(cell, reason)
    links, cell.links = cell.links, None
    for peer in links or ():
        if peer.links is not None and peer.links.pop(cell, cell) is not cell:
            exit_signal(peer, cell, reason, via_link=True)
    _tell_waiters(cell, reason)
    children, cell.children = cell.children, None
    for child in reversed(list((children or {}).values())):
        parent_ended(child, reason)
        if child.is_alive():
            _leave_orphan(child)


# It still ends, on its own: nobody is left who would see to it that it does.
def _leave_orphan(cell: Cell) -> None:
    kernel = cell.kernel
    kernel.tree.orphans[cell] = None
    keep(kernel.timers.after(ORPHAN_GRACE, cell.kill), cell.extras().timers)


def _end_own_watches(cell: Cell) -> None:
    monitors, cell.monitors = cell.monitors, None
    for number, target in (monitors or {}).items():
        if target.watchers is not None:
            target.watchers.pop(number, None)


def _tell_watchers(cell: Cell, reason: object) -> None:
    watchers, cell.watchers = cell.watchers, None
    for number, (watcher, name) in (watchers or {}).items():
        active = watcher.monitors is not None and watcher.monitors.pop(number, None) is not None
        if active and watcher.is_alive():
            watcher.receive((Down(Monitor(number), cell.pid, name, reason), None, None, None))


def _tell_waiters(cell: Cell, reason: object) -> None:
    more = cell.more
    if more is None:
        return
    for waiter in more.waiters:
        if not waiter.done():
            waiter.set_result(reason)
    more.waiters.clear()
    while more.room:
        future = more.room.popleft()
        if not future.done():
            future.set_result(None)
