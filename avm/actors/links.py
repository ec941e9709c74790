"""Links and monitors: who hears of whose end (S36-S50).

Both are kept on the cells themselves. Ends are announced from one queue, so a chain of a million linked actors ends
without recursion; the announcement of one end is complete before the next begins.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from avm.actors.signals import Down, Monitor
from avm.errors import NoProc

if TYPE_CHECKING:
    from avm.actors.cell import Cell


def link(one: Cell, other: Cell) -> None:
    """Link two actors; a dead one sends its NoProc at once (S42). Linking twice is linking once."""
    if one is other:
        return
    if not other.is_alive():
        one.exit_signal(other, NoProc(f"{other.pid_text} has ended."), via_link=True)
        return
    if one.links is None:
        one.links = {}
    if other.links is None:
        other.links = {}
    one.links[other] = None
    other.links[one] = None


def unlink(one: Cell, other: Cell) -> None:
    """End a link; nothing happens if there is none (S44)."""
    if one.links is not None:
        one.links.pop(other, None)
    if other.links is not None:
        other.links.pop(one, None)


def monitor(watcher: Cell, target: Cell, number: int, name: str | None) -> Monitor:
    """Watch an actor; of a dead one a Down with NoProc is in the mailbox at once (S47)."""
    watch = Monitor(number)
    if target is watcher:
        return watch
    if not target.is_alive():
        watcher.receive(
            (Down(watch, target.pid, name, NoProc(f"{target.pid_text} has ended.")), None, None, None)
        )
        return watch
    if target.watchers is None:
        target.watchers = {}
    if watcher.monitors is None:
        watcher.monitors = {}
    target.watchers[number] = (watcher, name)
    watcher.monitors[number] = target
    return watch


def demonitor(watcher: Cell, watch: Monitor) -> bool:
    """End a watch; tell whether it was still active (S48)."""
    target = watcher.monitors.pop(watch.serial, None) if watcher.monitors is not None else None
    if target is None or target.watchers is None:
        return False
    return target.watchers.pop(watch.serial, None) is not None


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
    monitors, cell.monitors = cell.monitors, None
    for number, target in (monitors or {}).items():
        if target.watchers is not None:
            target.watchers.pop(number, None)
    watchers, cell.watchers = cell.watchers, None
    for number, (watcher, name) in (watchers or {}).items():
        if (
            watcher.monitors is not None
            and watcher.monitors.pop(number, None) is not None
            and watcher.is_alive()
        ):
            watcher.receive((Down(Monitor(number), cell.pid, name, reason), None, None, None))
    links, cell.links = cell.links, None
    for peer in links or ():
        if peer.links is not None and peer.links.pop(cell, cell) is not cell:
            peer.exit_signal(cell, reason, via_link=True)
    more = cell.more
    if more is not None:
        for waiter in more.waiters:
            if not waiter.done():
                waiter.set_result(reason)
        more.waiters.clear()
        while more.room:
            future = more.room.popleft()
            if not future.done():
                future.set_result(None)
    children, cell.children = cell.children, None
    for child in reversed(list((children or {}).values())):
        child.parent_ended(reason)
        if child.is_alive():
            cell.kernel.orphans[child] = None
