"""The store keeper: the system's actor that holds the process below its ceiling.

Once a second it lets idle content cool, and idle conversations sleep; compares what the process takes with what it may
take; and sweeps a slice of what is on disk and nobody needs. When the store comes near its ceiling in between, it is
told at once. All work that takes long is done beside the loop (S96).
"""

from __future__ import annotations

import gc
import logging
from concurrent.futures import ThreadPoolExecutor

from avm.actors import Actor, event, on
from avm.errors import StoreError
from avm.memory import Ceiling, Store, format_size, trim_heap

_log = logging.getLogger("avm")

PERIOD = 1.0
"""Seconds between two rounds."""

AWAKE_ROUNDS = 60
"""Rounds after which a conversation that was not used sleeps, if it is on disk anyway."""


@event(tag="avm.vm.Round")
class Round:
    """Time for a round."""


@event(tag="avm.vm.Pressed")
class Pressed:
    """The store is near its ceiling."""


class StoreKeeper(Actor):
    """Keeps the VM's store within its bounds.

    Args:
        store: the VM's store.
        ceiling: that of the process; None for one that is the store's own affair.
    """

    priority = "user"

    def __init__(self, store: Store, ceiling: Ceiling | None = None) -> None:
        self.store = store
        self.ceiling = ceiling
        self.threads = ThreadPoolExecutor(1, thread_name_prefix="avm-compress")
        # Each is said once.
        self.complaint = ""
        self.has_warned = False

    def starting(self) -> None:
        self.store.shelf.pressure = self._press
        self.store.shelf.is_pressed = False
        self._compare()
        self.send_interval(PERIOD, self.pid, Round())

    @on(Round)
    def go_round(self, _: Round) -> None:
        store = self.store
        store.compress_idle(self.now(), self.threads)
        store.roots.passivate_idle(AWAKE_ROUNDS)
        self._compare()
        self._spill()
        store.sweep()

    @on(Pressed)
    def make_room(self, _: Pressed) -> None:
        self._compare()
        self._spill()

    def stopping(self, reason: object) -> None:
        self.store.shelf.pressure = None
        self.threads.shutdown(wait=False, cancel_futures=True)

    def _compare(self) -> None:
        ceiling = self.ceiling
        if ceiling is None or not ceiling.check():
            return
        # What a failed turn had made hangs in circles of errors and frames; the collector of a VM comes late by itself.
        gc.collect(1)
        self.threads.submit(trim_heap)
        if ceiling.is_exceeded and not self.has_warned:
            self.has_warned = True
            found = self.store.statistics()
            _log.warning(
                "the process takes %s, more than its ceiling of %s; the store has %s of it and gives way. "
                "Raise memory=, or start fewer actors.",
                format_size(found.rss_bytes),
                format_size(ceiling.limit),
                format_size(found.account_bytes),
            )

    # What cannot be written stays in RAM and is tried again; whoever needs the room gets the error himself.
    def _spill(self) -> None:
        try:
            future = self.store.spill()
        except StoreError as error:
            self._complain(error)
            return
        if future is not None:
            future.add_done_callback(lambda done: self._complain(done.exception()))

    def _complain(self, error: BaseException | None) -> None:
        if error is not None and str(error) != self.complaint:
            self.complaint = str(error)
            _log.warning("what is idle cannot leave RAM: %s", error)

    def _press(self) -> None:
        self.tell(self.pid, Pressed())
