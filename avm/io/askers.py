"""Askers: who waits for which calls, so that those of an actor that ends can be stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import attrs

from avm.actors.ref import Pid
from avm.actors.signals import Monitor

C = TypeVar("C")


@attrs.define(slots=True, eq=False)
class Asker(Generic[C]):
    """Someone with calls under way, in the order in which they came."""

    watch: Monitor
    calls: dict[C, None]


class Askers(Generic[C]):
    """All who wait; each is watched once, for as long as he has calls.

    Args:
        watch: begins to watch an actor.
        unwatch: ends that.
    """

    def __init__(self, watch: Callable[[Pid], Monitor], unwatch: Callable[[Monitor], object]) -> None:
        self._watch = watch
        self._unwatch = unwatch
        self._askers: dict[Pid, Asker[C]] = {}

    def add(self, pid: Pid | None, call: C) -> None:
        """One more call of someone; None is nobody that could end."""
        if pid is None:
            return
        asker = self._askers.get(pid)
        if asker is None:
            self._askers[pid] = Asker(self._watch(pid), {call: None})
        else:
            asker.calls[call] = None

    def remove(self, pid: Pid | None, call: C) -> None:
        """A call is over, or not waited for any more; does nothing if it is not known."""
        asker = self._askers.get(pid) if pid is not None else None
        if asker is None or pid is None:
            return
        asker.calls.pop(call, None)
        if not asker.calls:
            del self._askers[pid]
            self._unwatch(asker.watch)

    def ended(self, pid: Pid) -> tuple[C, ...]:
        """Someone has ended: forget him, and return his calls, oldest first."""
        asker = self._askers.pop(pid, None)
        return tuple(asker.calls) if asker is not None else ()

    def __len__(self) -> int:
        return len(self._askers)
