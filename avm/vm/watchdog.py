"""The watchdog: a thread that notices a handler which holds the loop, and may break it (S96).

While one handler never yields, no other actor of the loop runs and nothing inside the loop can tell. So a
thread asks the loop for a sign of life, and if none comes in time it reports from outside which actor it is,
with what event, and where the code is. Under the policy "interrupt" it raises `RunawayError` in that handler
after twice the time, by the one means Python has: an asynchronous exception. The handler then crashes as any
handler would and is restarted. That works for loops written in Python; a call into C is only broken when it
returns, and `except BaseException` swallows it (it is raised again then). Work that is known to be long
belongs in `run_blocking`.

Reports come from this thread, not the loop's, for the loop may never be there to make them.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
import time
import traceback
from types import CodeType, FrameType
from typing import Literal, get_args

from avm.actors import direct
from avm.actors.cell import Cell, Letter
from avm.actors.dispatch import Dispatcher
from avm.actors.hooks import WatchdogReport
from avm.actors.kernel import Kernel
from avm.actors.running import run
from avm.errors import RunawayError, VMError

Runaway = Literal["report", "interrupt"]
RUNAWAYS: tuple[str, ...] = get_args(Runaway)

INTERRUPT_AFTER = 2.0
"""A handler is interrupted after this many times the watchdog's seconds."""

STACK_FRAMES = 12

RUNTIME = ("avm.actors", "avm.scheduler", "asyncio")
"""Modules whose code is not broken off: an exception there could come between two steps that belong
together."""


class Watchdog:
    """Watches one kernel's loop.

    Args:
        seconds: how long the loop may be held before that is reported; the loop is looked at four times as
            often.
        runaway: "report", or "interrupt" to break the handler after twice that time.

    Raises:
        VMError: no such policy.
    """

    def __init__(self, kernel: Kernel, seconds: float, runaway: Runaway) -> None:
        if runaway not in RUNAWAYS:
            raise VMError(f"VM: runaway must be 'report' or 'interrupt', got {runaway!r}.")
        self._kernel = kernel
        self._seconds = seconds
        self._interrupts = runaway == "interrupt"
        self._closing = threading.Event()
        self._alive = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="avm-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch; ends with `close`."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching; returns when the thread is gone."""
        self._closing.set()
        self._alive.set()
        self._thread.join()

    def _watch(self) -> None:
        period = self._seconds / 4
        while not self._closing.wait(period):
            self._alive.clear()
            if self._closing.is_set():
                return  # `close` set `_alive` before we cleared it, and waits for us.
            try:
                self._kernel.loop.call_soon_threadsafe(self._alive.set)
            except RuntimeError:
                return  # The loop was closed under a VM that was never left.
            if not self._alive.wait(self._seconds) and not self._closing.is_set():
                self._held(time.monotonic() - self._seconds, period)

    # The loop has not answered since `since`: report, again whenever the time has doubled, until it answers.
    def _held(self, since: float, period: float) -> None:
        due = 0.0
        while not self._alive.is_set() and not self._closing.is_set():
            lag = time.monotonic() - since
            interrupted = self._interrupts and lag >= self._seconds * INTERRUPT_AFTER and self._interrupt()
            if lag >= due or interrupted:
                due = lag * 2
                self._report(lag, interrupted)
            self._alive.wait(period)

    # What is looked up first is a matter of microseconds; to read the source lines of a stack takes far longer.
    def _report(self, lag: float, interrupted: bool) -> None:
        frame, cell, letter = self._look()
        calls = _calls(frame)
        if self._alive.is_set() and not interrupted:
            return  # It let go while we looked.
        path = cell.path if cell is not None else self._task_name()
        event = type(letter[0]).__name__ if letter is not None else "no event"
        stack = "".join(traceback.StackSummary.from_list(calls).format())
        self._kernel.report_limit(
            lambda at: WatchdogReport(
                at=at, path=path, event=event, lag=lag, stack=stack, interrupted=interrupted
            )
        )

    # Where the loop's thread is, and which actor's handler that is in, with what. A handler may run in a worker's task,
    # in the task of whoever asked, after it waited or before; but always below one of the runtime's own frames.
    def _look(self) -> tuple[FrameType | None, Cell | None, Letter | None]:
        innermost = frame = sys._current_frames().get(self._kernel.thread)
        while frame is not None:
            if frame.f_code in RUNNERS:
                local = frame.f_locals
                return innermost, local.get("cell"), local.get("letter")
            frame = frame.f_back
        return innermost, None, None

    # Something outside of handlers holds the loop: a task of an actor, or of the program around the VM.
    def _task_name(self) -> str:
        task = asyncio.current_task(self._kernel.loop)
        return f"task {task.get_name()}" if task is not None else "a callback of the loop"

    # Only code of a handler is broken off, never the runtime's own below it. The check and the call are as close as can
    # be; if the handler ends in between all the same, the exception is taken back.
    def _interrupt(self) -> bool:
        frame, cell, letter = self._look()
        if cell is None or letter is None or frame is None or _is_runtime(frame):
            return False
        thread = ctypes.c_ulong(self._kernel.thread)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(RunawayError))
        if self._alive.is_set() or self._look()[2] is not letter:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)
            return False
        return True


RUNNERS: frozenset[CodeType] = frozenset(
    function.__code__
    for function in (Dispatcher.work, Dispatcher.take_over, run, direct.run_plain, direct.begin)
)
"""The code that calls handlers."""


def _is_runtime(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith(RUNTIME)


# The innermost calls of a stack, outermost first, as `StackSummary` takes them.
def _calls(frame: FrameType | None) -> list[tuple[str, int, str, None]]:
    found: list[tuple[str, int, str, None]] = []
    while frame is not None and len(found) < STACK_FRAMES:
        found.append((frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name, None))
        frame = frame.f_back
    return found[::-1]
