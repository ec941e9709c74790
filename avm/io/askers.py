"""Askers: who waits for which calls, so that those of an actor that ends can be stopped."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from avm.actors.ref import Pid
from avm.actors.signals import Monitor


@attrs.define(slots=True, eq=False)
class Asker:
    """Someone whose calls are under way; watched once, however many they are."""

    watch: Monitor
    serials: set[int] = attrs.field(factory=set)


class Askers:
    """All who wait.

    Args:
        monitor, demonitor: those of the actor that is asked.
    """

    def __init__(self, monitor: Callable[[Pid], Monitor], demonitor: Callable[[Monitor], object]) -> None:
        self._monitor = monitor
        self._demonitor = demonitor
        self._askers: dict[Pid, Asker] = {}

    def add(self, pid: Pid | None, serial: int) -> None:
        """One more call of someone; None is nobody that could end."""
        if pid is None:
            return
        asker = self._askers.get(pid)
        if asker is None:
            asker = self._askers[pid] = Asker(self._monitor(pid))
        asker.serials.add(serial)

    def remove(self, pid: Pid | None, serial: int) -> None:
        """A call is over, or not waited for any more; does nothing if it is not known."""
        asker = self._askers.get(pid) if pid is not None else None
        if asker is None or pid is None:
            return
        asker.serials.discard(serial)
        if not asker.serials:
            self._demonitor(asker.watch)
            del self._askers[pid]

    def ended(self, pid: Pid) -> list[int] | None:
        """Someone has ended: forget him, and return his calls; None if he had asked nothing."""
        asker = self._askers.pop(pid, None)
        return list(asker.serials) if asker is not None else None

    def __len__(self) -> int:
        return len(self._askers)
