"""The cyclic garbage collector while a VM runs.

CPython looks for cycles after every 700 new objects, and walks *all* objects that survived whenever their number
has grown by a quarter. An idle actor is a few objects that live long and are in cycles by design (a cell knows its
parent, the parent its children), so with a million of them the collector walks millions of objects again and again
and finds nothing: it takes more than half of the time in which a million actors are spawned. Two settings mend that:

- what exists when the VM starts (modules, classes, code) is frozen: never walked again until the VM ends;
- the young generation is large, so that what one message makes is mostly dead by the time it is looked at. The
  middle one is kept small enough that a collection of it takes some 10 ms; the old one is walked rarely.

A million actors are then spawned at 3/4 of the rate without any collector, and at 2.2 times that with CPython's
settings. Cycles are still collected, later; what is not in a cycle is freed at once as ever, by its reference count.
The collector belongs to the process: with several VMs the first to start tunes it and the last to end restores it.
"""

from __future__ import annotations

import gc

YOUNG = 20_000
"""New objects before the young generation is looked at; 700 in CPython."""
MIDDLE = 5
OLD = 500
"""How many collections of one generation go to one of the next; 10 and 10 in CPython."""


class CollectorTuning:
    """Holds the settings while it is held; counts its holders."""

    def __init__(self) -> None:
        self._holders = 0
        self._before: tuple[int, int, int] = (0, 0, 0)
        self._froze = False

    def hold(self) -> None:
        """Tune the collector; pairs with `release`."""
        self._holders += 1
        if self._holders > 1:
            return
        self._before = gc.get_threshold()
        # A user who switched it off, or chose a larger young generation, keeps that.
        if 0 < self._before[0] < YOUNG:
            gc.set_threshold(YOUNG, MIDDLE, OLD)
        self._froze = gc.get_freeze_count() == 0
        if self._froze:
            gc.freeze()

    def release(self) -> None:
        """Put things back as they were when the last holder leaves."""
        self._holders -= 1
        if self._holders > 0:
            return
        gc.set_threshold(*self._before)
        if self._froze:
            gc.unfreeze()


COLLECTOR = CollectorTuning()
"""The one of this process, as there is one collector."""
