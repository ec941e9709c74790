"""Actors that come and go: spawned, started and stopped by supervisors, crashed and restarted."""

from __future__ import annotations

from time import perf_counter

from cast import LIMITLESS, Idle, Work, machine

from avm.actors import Actor, PendingReply, Ref, Request, event, on
from avm.supervision import child, dynamic_supervisor, start_child, start_tree, supervisor


class Mother(Actor):
    """Starts n children."""

    @on(Work)
    async def start(self, work: Work) -> float:
        refs = []
        began = perf_counter()
        for _ in range(work.n):
            refs.append(await self.spawn(Idle))
        return perf_counter() - began


async def spawn(n: int) -> float:
    """Actors per second started by an actor."""
    async with machine(supervisor("home", children=[child("mother", Mother)])) as vm:
        return n / await vm.ask("mother", Work(n), timeout=None)


async def spawn_outside(n: int) -> float:
    """Actors per second started by `vm.spawn`."""
    async with machine() as vm:
        refs = []
        began = perf_counter()
        for _ in range(n):
            refs.append(await vm.spawn(Idle))
        return n / (perf_counter() - began)


async def start_static(n: int) -> float:
    """Milliseconds to start n children of a supervisor."""
    return (await _static(n))[0] * 1e3


async def stop_static(n: int) -> float:
    """Milliseconds to stop n children of a supervisor in reverse order."""
    return (await _static(n))[1] * 1e3


async def _static(n: int) -> tuple[float, float]:
    tree = supervisor("home", children=[child(f"child{i}", Idle) for i in range(n)])
    async with machine() as vm:
        began = perf_counter()
        home = await start_tree(vm.kernel, tree)
        up = perf_counter()
        assert vm.status(depth=1).actors > n
        ordered = perf_counter()
        await vm.stop(home)
        return up - began, perf_counter() - ordered


async def start_dynamic(n: int) -> float:
    """Milliseconds to start n children of a dynamic supervisor, each with an ask."""
    return (await _dynamic(n))[0] * 1e3


async def stop_dynamic(n: int) -> float:
    """Milliseconds to stop a dynamic supervisor with n children."""
    return (await _dynamic(n))[1] * 1e3


async def _dynamic(n: int) -> tuple[float, float]:
    spec = child("child", Idle)
    async with machine(dynamic_supervisor("home")) as vm:
        home = vm["home"]
        began = perf_counter()
        for _ in range(n):
            await start_child(home, spec)
        up = perf_counter()
        assert vm.status(depth=1).actors > n
        ordered = perf_counter()
        await vm.stop(home)
        return up - began, perf_counter() - ordered


# Crash and restart.


@event
class Test(Request[tuple[float, ...]]):
    """Make an actor fail n times; the reply is when each of its lives began."""

    n: int
    patient: Ref


@event
class Up:
    """I have been started."""


@event
class Crash:
    """Fail."""


class Fragile(Actor):
    """Says when it is up, and fails when told to."""

    def __init__(self, tester: Ref) -> None:
        self.tell(tester, Up())

    @on(Crash)
    async def fail(self, crash: Crash) -> None:
        raise RuntimeError("boom")


class Tester(Actor):
    """Makes an actor fail, each time as soon as it is up again; notes when."""

    patient: Ref
    over: PendingReply
    left = 0

    def __init__(self) -> None:
        self.times: list[float] = []

    @on(Test)
    def begin(self, test: Test) -> None:
        self.left, self.patient, self.over = test.n, test.patient, self.defer()
        self.times.append(perf_counter())
        self.tell(self.patient, Crash())

    @on(Up)
    async def again(self, up: Up) -> None:
        if not self.left:
            return
        self.times.append(perf_counter())
        self.left -= 1
        if self.left:
            self.tell(self.patient, Crash())
        else:
            self.over.send(tuple(self.times))


async def crash_times(n: int) -> tuple[float, ...]:
    """Crash an actor n times under one_for_one; return when each life began, the first one's included."""
    async with machine() as vm:
        tester = await vm.spawn(Tester)
        spec = child("fragile", Fragile, tester)
        tree = supervisor("ward", max_restarts=LIMITLESS, max_seconds=3600, children=[spec])
        await start_tree(vm.kernel, tree)
        return await vm.ask(tester, Test(n, vm["ward/fragile"]), timeout=None)
