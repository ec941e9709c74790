"""Simulation: a whole VM, unmodified, on virtual time, with every choice of order taken from a seed.

    def test_a_crashed_child_is_started_again():
        with simulate(tree, seed=7) as sim:
            sim.crash("c0")
            assert sim.starts() == {"c0": 2, "c1": 1}

The block is the life of the VM. In between nothing moves by itself: each call below runs the system until what it was
asked for is done, and then until nothing more happens at that moment; `advance` and `run_until_idle` let time pass.
An hour of waiting costs nothing. Addresses are names, paths (the id of the tree may be left out), ids, refs or pids.

    sim.send(dest, event)               send, and let nothing happen yet
    sim.tell(dest, event)               send, and let happen what follows at once
    sim.ask(dest, request, timeout=)    send and return the reply; time passes as it must
    sim.crash(dest), sim.kill(dest)     end an actor with an exception, or with Killed
    sim.stop(dest)                      end it in order
    sim.spawn(cls, *args, id=, name=)   start an actor beside the tree
    sim.run(coroutine)                  run any coroutine on the loop and return its result
    sim.settle()                        let everything happen that happens now, without time passing
    sim.advance(seconds)                let time pass, and everything happen that is due
    sim.run_until_idle(limit=)          until no actor has anything to do or to wait for
    sim.eventually(condition, within=)  until a condition holds, or fail
    sim.await_down(dest, within=)       until an actor has ended; returns the reason
    sim.probe(answer=, name=)           an actor that keeps what it is sent: .ref, .events, .expect(Type)
    sim.starts(), sim.statuses()        how often each actor was started; what each does now
    sim.messages(dest), sim.crashes()   what an actor has handled; the crash reports
    sim.timeline(lines)                 what happened, in words
    sim.vm, sim.kernel, sim.now, sim.trace, sim.reports, sim.ended, sim.schedule, sim.happened

The same seed gives the same trace, in every process. Without a seed the order is the plain one: first come, first
served. `choices=` takes any other source of choices, such as deviations drawn by Hypothesis.

A failure in the block gets notes: the timeline, and the command that runs it again with the same decisions.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from avm.actors import Actor, Observer, Ref, Request
from avm.actors.ending import order_end
from avm.actors.kernel import Destination
from avm.actors.ref import DEFAULT_TIMEOUT
from avm.errors import ReplayDiverged, ReplayStopped, SimulatedCrash, SimulationError
from avm.io.providers import Provider, ScriptedProvider
from avm.supervision import ChildSpec
from avm.testing.assembly import SimulatedVM
from avm.testing.choices import Choices, Deviations, Schedule, Seeded
from avm.testing.drive import Driver
from avm.testing.faults import Fault
from avm.testing.loop import SimulatedLoop
from avm.testing.outside import SimulatedProvider
from avm.testing.probe import Answer, Probe, ProbeActor
from avm.testing.replay import FailureFile, failure_folder, key_of, replay_of, running_test
from avm.testing.trace import reason
from avm.testing.world import World
from avm.vm.collector import COLLECTOR
from avm.vm.machine import STOP_TIMEOUT, VM

T = TypeVar("T")
R = TypeVar("R")


def simulate(
    tree: ChildSpec | None = None,
    *,
    seed: int | None = None,
    choices: Choices | None = None,
    provider: Provider | None = None,
    faults: Iterable[Fault] = (),
    memory: str | int | None = "64MB",
    observers: Iterable[Observer] = (),
    ask_timeout: float | None = 60.0,
    stop_timeout: float = STOP_TIMEOUT,
    may_end: bool = False,
    failures: str | Path | None = None,
) -> Simulation:
    """Prepare a simulation of a tree; use it with `with`.

    Args:
        tree: as for `VM`.
        seed: of all choices, and of the VM's randomness; None is the plain order.
        choices: another source of choices than the seed.
        faults: what is to go wrong, as values; see `avm.testing.faults`.
        provider: who serves the models; default is the scripted provider's echo.
        memory, observers, ask_timeout, stop_timeout: as for `VM`.
        failures: the folder for failure files; default is the variable AVM_FAILURES, else ".avm-failures".
        may_end: the VM may end within the block, as when its tree gives up: `sim.ended` says how, and leaving the
            block does not raise.
    """
    if choices is not None and seed is not None:
        raise SimulationError(
            f"simulate: choices and seed={seed} are two sources of choices; give one of them."
        )
    source = choices if choices is not None else Seeded(seed) if seed is not None else Deviations()
    return Simulation(
        tree,
        source,
        seed=seed,
        faults=tuple(faults),
        may_end=may_end,
        failures=failures,
        random=Random(seed if seed is not None else 0),
        provider=provider if provider is not None else ScriptedProvider(),
        memory=memory,
        observers=tuple(observers),
        ask_timeout=ask_timeout,
        stop_timeout=stop_timeout,
    )


class Simulation(Driver):
    """One run of a tree; made by `simulate`.

    Attributes:
        vm: the VM, within the block.
        schedule: the decisions taken.
        ended: what ended the VM early, None if nothing did.
        complaints: what the event loop had to complain of: exceptions that nobody took.
    """

    def __init__(
        self,
        tree: ChildSpec | None,
        source: Choices,
        *,
        seed: int | None,
        faults: tuple[Fault, ...],
        provider: Provider,
        may_end: bool,
        failures: str | Path | None,
        observers: tuple[Observer, ...],
        **options: Any,
    ) -> None:
        self.seed = seed
        self._key = key_of(tree, seed, faults)
        self._replay = replay_of(self._key)
        self.schedule = Schedule(source if self._replay is None else self._replay.choices())
        self.schedule.stop_at = self._replay.until if self._replay is not None else None
        self.loop = SimulatedLoop(self.schedule)
        self.loop.set_exception_handler(self._complain)
        super().__init__(tree, World(self.schedule, self.loop, faults))
        self.vm: VM = SimulatedVM(
            self.world,
            tree,
            provider=SimulatedProvider(provider, self.world),
            observers=(self.world.observe, *observers),
            **options,
        )
        self.ended: BaseException | None = None
        self.complaints: list[str] = []
        self._may_end = may_end
        self._failures = failures
        self._leave: asyncio.Future[None] | None = None
        self._life: asyncio.Task[None] | None = None
        self._collects = False
        self._dice: Any = None

    # The block.

    def __enter__(self) -> Self:
        if self._life is not None:
            raise SimulationError("this simulation has run already; make another with simulate(...).")
        self.loop.check_running()
        # What is collected, and when, differs from process to process.
        self._collects = gc.isenabled()
        gc.disable()
        # Code under test may throw the dice of the module.
        self._dice = random.getstate()
        random.seed(self.seed or 0)
        up: asyncio.Future[None] = self.loop.create_future()
        self._leave = self.loop.create_future()
        try:
            self._life = self.loop.create_task(self._live(up), name="vm")
            self.run(_wait_for(up))
        except BaseException as error:
            self._failed(error)
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._failed(error)
        try:
            self._end()
        except BaseException as late:
            if error is None:
                self._failed(late)
                raise
            error.add_note(f"Leaving the simulation failed too: {late}")
        finally:
            self._close()
        if error is None and self._replay is not None:
            self._replay.tell("passed", self.timeline())

    async def _live(self, up: asyncio.Future[None]) -> None:
        assert self._leave is not None
        try:
            async with self.vm:
                up.set_result(None)
                await self._leave
        except Exception as error:
            if up.done():
                self.ended = error
            else:
                up.set_exception(error)

    def _end(self) -> None:
        assert self._life is not None
        assert self._leave is not None
        if self._halted:
            self._halted = False
            self.schedule.let_go()
        if not self._leave.done():
            self._leave.set_result(None)
        self.run(_wait_for_all(self._life))
        if self.ended is not None and not self._may_end:
            raise self.ended

    def _close(self) -> None:
        for task in sorted(asyncio.all_tasks(self.loop), key=hash):
            task.cancel()
        try:
            self.loop.settle()
        except SimulationError:
            # Something cannot be ended at all; the test has failed of it already.
            self.loop.set_exception_handler(lambda loop, context: None)
            if self._life is not None and not self._life.done():
                COLLECTOR.release()
        self.loop.close()
        random.setstate(self._dice)
        if self._collects:
            gc.enable()

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        text = f"{context['message']}{f' ({error!r})' if error is not None else ''}"
        self.complaints.append(text)
        self.trace.add("note", None, f"the event loop complained: {text}")

    # A failure: say what happened, and how to see it again.
    def _failed(self, error: BaseException) -> None:
        if (
            self.world.kernel is None
            or not isinstance(error, Exception)
            or type(error).__module__.startswith("hypothesis")
        ):
            return
        text = self.timeline()
        if self._replay is not None:
            self._tell_replay(error, text)
            return
        file = FailureFile(
            program=tuple(sys.orig_argv),
            folder=os.getcwd(),
            test=running_test(),
            key=self._key,
            seed=self.seed,
            choices=tuple(self.schedule.taken),
            sizes=tuple(self.schedule.sizes),
            error=reason(error),
            timeline=text,
        )
        error.add_note(f"What happened, in virtual time:\n{text}")
        try:
            path = file.write(failure_folder(self._failures))
        except OSError as wrong:
            error.add_note(f"(no failure file could be written: {wrong})")
        else:
            error.add_note(f"To run it again with the same decisions: avm replay {shlex.quote(str(path))}")

    def _tell_replay(self, error: Exception, text: str) -> None:
        assert self._replay is not None
        if isinstance(error, ReplayDiverged):
            self._replay.tell("diverged", f"{text}\n\n{error}")
        elif isinstance(error, ReplayStopped):
            states = "\n".join(f"  {path:<24} {doing}" for path, doing in self.statuses().items())
            self._replay.tell("stopped", f"{text}\n\n{error}\n{states}")
        else:
            self._replay.tell("failed", f"{text}\n\n{reason(error)}")

    # Talking to actors.

    def send(self, dest: Destination, event: object) -> None:
        """Send an event, and let nothing happen yet: so several can be under way at the same time."""
        self.kernel.tell(self._where(dest), event)

    def tell(self, dest: Destination, event: object) -> None:
        """Send an event, and let happen what follows at once."""
        self.send(dest, event)
        self.settle()

    @overload
    def ask(self, dest: Destination, request: Request[R], timeout: float | None = ...) -> R: ...
    @overload
    def ask(self, dest: Destination, request: object, timeout: float | None = ...) -> Any: ...

    def ask(self, dest: Destination, request: Any, timeout: float | None = DEFAULT_TIMEOUT) -> Any:
        """Send a request and return its reply; time passes as it must. Raises what `Actor.ask` raises."""
        return self.run(self.kernel.ask(self._where(dest), request, timeout))

    def spawn(self, cls: type[Actor], *args: Any, **options: Any) -> Ref:
        """Start an actor beside the tree; options as `Actor.spawn`."""
        return self.run(self.kernel.spawn(cls, *args, **options))

    def probe(self, answer: Answer | None = None, *, name: str | None = None) -> Probe:
        """Start an actor that keeps what it is sent.

        Args:
            answer: makes the reply of the event it was asked with; None replies None.
            name: to register it under.
        """
        probe = Probe(self.eventually, answer)
        probe.ref = self.spawn(ProbeActor, probe.events, answer, name=name)
        return probe

    def crash(self, dest: Destination, error: BaseException | None = None) -> None:
        """Let an actor end with an exception, as if its handler had raised it, and everything that follows happen."""
        cell = self.cell(dest)
        self.trace.add("note", cell, "is made to crash by the test")
        order_end(cell, error if error is not None else SimulatedCrash(f"{cell.pid_text} was made to crash."))
        self.settle()

    def kill(self, dest: Destination) -> None:
        """Kill an actor, and let happen what follows."""
        cell = self.cell(dest)
        self.trace.add("note", cell, "is killed by the test")
        cell.kill()
        self.settle()

    def stop(self, dest: Destination, reason: object = None, timeout: float | None = None) -> None:
        """End an actor in order and wait for it; as `VM.stop`."""
        self.run(self.kernel.stop_actor(self._where(dest), reason, timeout))

    @property
    def happened(self) -> list[Fault]:
        """The faults that have happened so far."""
        return self.world.plan.happened


async def _wait_for(future: asyncio.Future[None]) -> None:
    await future


async def _wait_for_all(*tasks: asyncio.Task[None]) -> None:
    await asyncio.wait(tasks)


__all__ = ["Simulation", "simulate"]
