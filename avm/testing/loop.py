"""An event loop without a world: no sockets, no threads, no waiting. Time jumps to the next deadline when all wait.

It is a loop as asyncio knows it: callbacks run in the order in which they were called for, as asyncio promises. Where
asyncio promises nothing, a `Schedule` decides: which of several timers of one moment fires first, and which of several
open calls (of a model, a tool, a blocking function) is answered first. Calls are answered when nothing else is left to
do at this moment; only then does time go on.

Tasks and futures have their number as hash, so that sets of them are gone through in the same order in every process.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import sys
import threading
from asyncio import events
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from heapq import heapify, heappop, heappush
from typing import Any, NoReturn, TypeVar

from avm.errors import SimulationEndless, SimulationError, SimulationStuck
from avm.testing.choices import Schedule
from avm.testing.guard import USE_BLOCKING, USE_FAKE, USE_PROVIDER, Guard
from avm.testing.in_place import InPlace, complete
from avm.testing.numbered import NumberedTimer, SimulatedFuture, SimulatedTask

T = TypeVar("T")

MAX_TURNS = 200_000
"""Turns of the loop in which no time passes before a simulation is called endless."""

COLLECT_TURNS = 50_000
"""Turns between two collections of cyclic garbage, which otherwise would come whenever the process happens to."""

MIN_PRUNE = 1_000

INSTEAD = {
    "sockets": USE_PROVIDER,
    "processes": USE_FAKE,
    "signals": "Stop actors with sim.stop(), or leave the block.",
}

REFUSED = {
    "sockets": (
        "create_connection create_server create_unix_connection create_unix_server create_datagram_endpoint "
        "sock_recv sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendto sock_connect sock_accept "
        "sock_sendfile sendfile start_tls connect_accepted_socket getaddrinfo getnameinfo add_reader remove_reader "
        "add_writer remove_writer"
    ),
    "processes": "subprocess_exec subprocess_shell connect_read_pipe connect_write_pipe",
    "signals": "add_signal_handler remove_signal_handler",
}


class SimulatedLoop(asyncio.BaseEventLoop):
    """The loop of one simulation.

    Args:
        schedule: decides what asyncio leaves open.
        start: what `time` gives at the beginning, in seconds.
    """

    # What BaseEventLoop keeps, as far as it is used here.
    _ready: Any
    _scheduled: list[NumberedTimer]
    _stopping: bool
    _thread_id: int | None
    _timer_cancelled_count: int
    _check_closed: Callable[[], None]
    _asyncgen_firstiter_hook: Callable[[Any], None]
    _asyncgen_finalizer_hook: Callable[[Any], None]

    def __init__(self, schedule: Schedule, start: float = 0.0) -> None:
        super().__init__()
        self.schedule = schedule
        self.turns = 0
        self.stuck = False
        self.on_answer: Callable[[str], None] | None = None
        self.guard = Guard()
        self._now = start
        self._horizon: float | None = None
        self._quiet_turns = 0
        self._calls: list[tuple[str, asyncio.Future[None]]] = []
        self._timers = 0
        self._number = 0
        self._hooks: Any = None
        self.set_task_factory(self._make_task)

    # Time.

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def leap(self, seconds: float) -> None:
        """Let the clock step forward all at once: whatever was due in between is late."""
        if seconds < 0:
            raise SimulationError(
                f"a monotonic clock never goes back: seconds must be 0 or more, got {seconds!r}."
            )
        self._now += seconds

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at a virtual time."""
        self._check_closed()
        timer = NumberedTimer(when, callback, args, self, context)
        self._timers += 1
        timer.number = self._timers
        timer._scheduled = True  # type: ignore[attr-defined]
        heappush(self._scheduled, timer)
        return timer

    def next_deadline(self) -> float | None:
        """Return the time of the next timer, None if there is none."""
        heap = self._scheduled
        while heap and heap[0].cancelled():
            self._forget(heappop(heap))
        return heap[0].when() if heap else None

    # Open calls.

    def answered(self, what: str) -> asyncio.Future[None]:
        """Return a future that is done when the schedule lets the answer to an outside call come in."""
        future: asyncio.Future[None] = self.create_future()
        self._calls.append((what, future))
        return future

    def open_calls(self) -> tuple[str, ...]:
        """List the calls that are not answered yet."""
        return tuple(what for what, future in self._calls if not future.done())

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a function of `run_blocking` in place, when the schedule lets its answer come in; no other.

        Raises:
            NotSimulated: it would run in a thread.
        """
        if not isinstance(executor, InPlace):
            raise self.guard.refuse(
                f"loop.run_in_executor() and asyncio.to_thread() use real threads, inside a simulation. {USE_BLOCKING}"
            )
        result: asyncio.Future[Any] = self.create_future()
        called = functools.partial(func, *args)
        self.answered("a blocking function").add_done_callback(lambda _: complete(result, called))
        return result

    # Running.

    def run_until(self, horizon: float) -> None:
        """Run everything that happens up to a virtual time, which it is then."""
        self._horizon = horizon
        try:
            self.run_forever()
        finally:
            self._horizon = None

    def settle(self) -> None:
        """Run everything that happens at this moment."""
        self.run_until(self._now)

    def run_until_complete(self, future: Any) -> Any:
        """Run until a future or coroutine is done and return its result; time jumps as it must.

        Raises:
            SimulationStuck: it can never be.
        """
        self._check_closed()
        try:
            self.check_running()
        except SimulationError:
            if asyncio.iscoroutine(future):
                future.close()
            raise
        task = asyncio.ensure_future(future, loop=self)
        task.add_done_callback(self._reached)
        try:
            self.run_forever()
        finally:
            task.remove_done_callback(self._reached)
        if not task.done():
            task.cancel()
            self.settle()
            raise SimulationStuck(
                "this can never end: nobody runs, no call is open and no timer is set. "
                "Look at sim.statuses() for who waits for what, and give the ask a timeout=."
            )
        return task.result()

    def run_forever(self) -> None:
        """Run until `stop`, the horizon, or until nothing can happen any more (`stuck` is true then)."""
        self._check_closed()
        self.check_running()
        outer = sys.get_asyncgen_hooks()
        self.stuck = False
        self._quiet_turns = 0
        self._thread_id = threading.get_ident()
        # Whoever runs on this loop may set hooks of its own, as the kernel does; they hold until the next run too.
        if self._hooks is None:
            sys.set_asyncgen_hooks(self._asyncgen_firstiter_hook, self._asyncgen_finalizer_hook)
        else:
            sys.set_asyncgen_hooks(*self._hooks)
        events._set_running_loop(self)
        try:
            with self.guard.closed():
                while not self._stopping:
                    self._run_once()
        finally:
            # A plain tuple: the collector does not look into the kind of tuple it is, and this one is in a circle.
            self._hooks = tuple(sys.get_asyncgen_hooks())
            self._stopping = False
            self._thread_id = None
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(*outer)

    def check_running(self) -> None:
        """Check that the loop can be run now.

        Raises:
            SimulationError: it runs already, or another one does in this thread.
        """
        if self.is_running() or events._get_running_loop() is not None:
            raise SimulationError(
                "a simulation runs its own event loop and cannot be run from within another: use it in a plain "
                "function, and sim.run(coroutine) for what has to be awaited."
            )

    def _reached(self, _: object) -> None:
        self.stop()

    def _run_once(self) -> None:
        ready = self._ready
        if self._scheduled and self._scheduled[0].when() <= self._now:
            self._fire()
        if not ready:
            self._go_on()
            return
        self.turns += 1
        if not self.turns % COLLECT_TURNS:
            gc.collect()
        self._quiet_turns += 1
        if self._quiet_turns > MAX_TURNS:
            raise SimulationEndless(
                f"{MAX_TURNS} turns of the loop and it is still {self._now:g} s: actors keep each other busy for ever. "
                "The end of the timeline says who."
            )
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    # Nothing is left to do at this moment: an answer comes in, or time goes on.
    def _go_on(self) -> None:
        self._calls = [call for call in self._calls if not call[1].done()]
        if self._calls:
            what, answer = self._calls.pop(self.schedule.choose(len(self._calls)))
            answer.set_result(None)
            if self.on_answer is not None:
                self.on_answer(what)
            return
        when = self.next_deadline()
        if when is None or (self._horizon is not None and when > self._horizon):
            self.stuck = when is None
            if self._horizon is not None:
                self._now = max(self._now, self._horizon)
            self._stopping = True
            return
        self._quiet_turns = 0
        self._now = max(self._now, when)

    # The timers that are due, those of the same moment in the order of the schedule.
    def _fire(self) -> None:
        heap, now = self._scheduled, self._now
        while heap and heap[0].when() <= now:
            when = heap[0].when()
            group: list[NumberedTimer] = []
            while heap and heap[0].when() == when:
                timer = heappop(heap)
                if timer.cancelled():
                    self._forget(timer)
                else:
                    timer._scheduled = False  # type: ignore[attr-defined]
                    group.append(timer)
            try:
                while group:
                    self._ready.append(group.pop(self.schedule.choose(len(group))))
            finally:
                # Something is left only if the run was stopped at this choice.
                self._ready.extend(group)

    def _forget(self, timer: NumberedTimer) -> None:
        timer._scheduled = False  # type: ignore[attr-defined]
        self._timer_cancelled_count -= 1

    def _timer_handle_cancelled(self, handle: Any) -> None:
        self._timer_cancelled_count += 1
        if self._timer_cancelled_count > MIN_PRUNE and self._timer_cancelled_count * 2 > len(self._scheduled):
            kept = [timer for timer in self._scheduled if not timer.cancelled()]
            for timer in self._scheduled:
                if timer.cancelled():
                    timer._scheduled = False  # type: ignore[attr-defined]
            heapify(kept)
            self._scheduled = kept
            self._timer_cancelled_count = 0

    # Tasks and futures.

    def next_number(self) -> int:
        """Number the tasks and futures of this loop."""
        self._number += 1
        return self._number

    def create_future(self) -> asyncio.Future[Any]:
        """Make a future of this loop."""
        return SimulatedFuture(loop=self)

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        **options: Any,
    ) -> asyncio.Task[T]:
        if options.get("name") is None:
            options["name"] = f"task-{self._number + 1}"
        return SimulatedTask(coro, loop=self, **options)

    # It holds nothing real, so one that was not closed is no leak.
    def __del__(self) -> None:
        pass

    # Nothing comes from other threads; what is called for from a finalizer comes in its turn.
    def _write_to_self(self) -> None:
        pass


def _refuse(name: str, what: str) -> Callable[..., NoReturn]:
    def refused(self: SimulatedLoop, *args: Any, **options: Any) -> NoReturn:
        raise self.guard.refuse(
            f"loop.{name}() uses real {what}, which a simulation does not have. {INSTEAD[what]}"
        )

    refused.__name__ = name
    refused.__doc__ = f"Refuse: a simulation has no {what}."
    return refused


for _what, _names in REFUSED.items():
    for _name in _names.split():
        setattr(SimulatedLoop, _name, _refuse(_name, _what))


class SimulatedClock:
    """The clock of a VM in a simulation: that of its loop."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self.now = loop.time

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back at a virtual time."""
        return self._loop.call_at(when, callback)
