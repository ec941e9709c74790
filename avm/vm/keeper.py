"""The store keeper: the system's actor that lets idle content cool, once a second, beside the loop (S96)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from avm.actors import Actor, event, on
from avm.memory import Store

PERIOD = 1.0
"""Seconds between two rounds."""


@event(tag="avm.vm.Round")
class Round:
    """Time for a round."""


class StoreKeeper(Actor):
    """Has the VM's store compress what has been idle. The work is done in a thread of its own.

    Args:
        store: the VM's store.
    """

    priority = "background"

    def __init__(self, store: Store) -> None:
        self.store = store
        self.threads = ThreadPoolExecutor(1, thread_name_prefix="avm-compress")

    def starting(self) -> None:
        self.send_interval(PERIOD, self.pid, Round())

    @on(Round)
    def go_round(self, _: Round) -> None:
        self.store.compress_idle(self.now(), self.threads)

    def stopping(self, reason: object) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
