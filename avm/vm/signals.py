"""SIGINT and SIGTERM: once is a stop in order, SIGINT a second time is a kill (S91).

The handlers are Python's own (`signal.signal`), not the loop's: those run only when the loop turns, and a
handler of an actor that never yields would make the process deaf. Here the second SIGINT, if the loop has
not even taken note of the first, is raised as KeyboardInterrupt where the main thread is, which is inside
that handler (S98).
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any, Protocol

SIGNALS = (signal.SIGINT, signal.SIGTERM)

DEAF_SECONDS = 0.25
"""A loop that has not noticed a SIGINT for so long is held by somebody."""


class Stoppable(Protocol):
    """What a signal stops."""

    def stop_soon(self, signum: int) -> None:
        """Begin to stop in order."""

    def kill_all(self) -> None:
        """End at once."""


class StopSignals:
    """Hands signals to those who listen, the latest first; to `fallback` when nobody does.

    Args:
        fallback: called with the first signal when there is no listener.
    """

    def __init__(self, fallback: Callable[[int], None]) -> None:
        self.received: int | None = None
        self._fallback = fallback
        self._listeners: list[Stoppable] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._before: dict[int, Any] = {}
        self._unseen_since: float | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle signals in this block. Does nothing outside the main thread, where Python allows no
        handlers."""
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                self._before[signum] = signal.signal(signum, self._arrived)
        token = CURRENT.set(self)
        try:
            yield
        finally:
            CURRENT.reset(token)
            self._restore()

    @contextmanager
    def listening(self, listener: Stoppable) -> Iterator[None]:
        """Hand signals to a listener in this block."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    # In the main thread, between any two bytecodes.
    def _arrived(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._unseen_since is None:
            self._unseen_since = now
        elif signum == signal.SIGINT and now - self._unseen_since > DEAF_SECONDS:
            raise KeyboardInterrupt
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._act, signum)

    def _act(self, signum: int) -> None:
        self._unseen_since = None
        if self.received is None:
            self.received = signum
            for listener in reversed(self._listeners):
                listener.stop_soon(signum)
            if not self._listeners:
                self._fallback(signum)
        elif signum == signal.SIGINT:
            # Whatever happens now, a third one reaches Python.
            self._restore()
            for listener in reversed(self._listeners):
                listener.kill_all()

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()


CURRENT: ContextVar[StopSignals | None] = ContextVar("avm_stop_signals", default=None)
"""The signals that `run` handles for the code it runs; a VM in there listens to them."""


def signal_name(signum: int) -> str:
    """Return SIGINT for 2, and so on."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"
