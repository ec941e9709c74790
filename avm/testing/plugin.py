"""The pytest plugin: tests that are coroutines just run, two fixtures, and a look at what a test leaves behind.

    async def test_the_critic_answers(vm):
        newsroom = await vm(tree())                     # stopped when the test ends
        assert await newsroom.ask("critic", Draft("a")) == Review("kind")

    def test_a_crash_loses_nothing(simulation):
        sim = simulation(tree(), seed=7)                # ends with the test; a failure prints the timeline
        sim.crash("critic")

pytest finds it by its entry point; `-p no:avm` leaves it out. A coroutine is run on a fresh event loop, unless another
plugin claims it: one with a mark of pytest-asyncio, anyio or trio is theirs. At the end of a test that passed, what its
VMs and simulations left behind fails it: actors that did not end, timers, tasks, content of the store.
`@pytest.mark.avm_may_leave("blobs")` allows a test some of these.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from avm.actors import Report
    from avm.supervision import ChildSpec
    from avm.testing.leaks import Watch
    from avm.testing.simulate import Simulation
    from avm.vm import VM

FOREIGN_MARKS = ("asyncio", "anyio", "trio", "tornado", "twisted", "asyncio_cooperative")
"""Marks by which another plugin says that a coroutine is its own."""

STOP_TIMEOUT = 5.0
"""Seconds a VM of the `vm` fixture has to stop, unless the test says otherwise."""


class Care:
    """What one test started with the fixtures, and what it may leave behind."""

    def __init__(self, item: pytest.Item) -> None:
        self.allowed = [kind for mark in item.iter_markers("avm_may_leave") for kind in mark.args]
        self.seed: int | None = item.config.getoption("avm_seed")
        self.runs_here = False
        self.reports: list[Report] = []
        self._vms: list[tuple[VM, Watch]] = []
        self._simulations: list[tuple[Simulation, Watch]] = []
        self._left: list[str] = []

    async def start_vm(self, tree: ChildSpec | None = None, **options: Any) -> VM:
        """Start a VM that ends with the test; options as for `VM`.

        The provider is the scripted one and reports are kept, unless told otherwise.
        """
        from avm.errors import VMError
        from avm.io.providers import ScriptedProvider
        from avm.testing.leaks import Watch
        from avm.vm import VM

        if not self.runs_here:
            raise VMError(
                "the vm fixture is for coroutine tests that avm's own plugin runs. Without `async def` use the "
                "simulation fixture, or run(main); in a test of pytest-asyncio or anyio write `async with VM(tree)`."
            )
        options.setdefault("provider", ScriptedProvider())
        options.setdefault("observers", [self.reports.append])
        options.setdefault("stop_timeout", STOP_TIMEOUT)
        vm = VM(tree, **options)
        await vm.__aenter__()
        self._vms.append((vm, Watch(vm, self.allowed)))
        return vm

    def start_simulation(self, tree: ChildSpec | None = None, **options: Any) -> Simulation:
        """Start a simulation that ends with the test; options as for `simulate`."""
        from avm.testing.leaks import Watch
        from avm.testing.simulate import simulate

        if "choices" not in options:
            options.setdefault("seed", self.seed)
        sim = simulate(tree, **options)
        sim.__enter__()
        self._simulations.append((sim, Watch(sim.vm, self.allowed)))
        return sim

    async def run(self, test: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine test to its end, stop its VMs, and look for tasks it left."""
        from avm.testing.leaks import tasks_left

        error: BaseException | None = None
        try:
            await test
        except BaseException as raised:
            error = raised
        error = await self._stop_vms(error)
        if error is not None:
            raise error
        if "tasks" not in self.allowed:
            self._left += [f"a task: {task}" for task in await tasks_left()]

    # The youngest first. What ended a VM early takes the place of the cancellation by which the test heard of it.
    async def _stop_vms(self, error: BaseException | None) -> BaseException | None:
        while self._vms:
            vm, watch = self._vms.pop()
            try:
                await vm.__aexit__(type(error) if error is not None else None, error, None)
            except BaseException as raised:
                error = raised
            self.reports.clear()
            if error is None:
                self._left += watch.left()
        return error

    def close(self, error: BaseException | None) -> None:
        """End the simulations, in the block of which the test failed with `error`; then fail for what was left.

        Raises:
            Failed: something was left.
        """
        failure = error
        while self._simulations:
            sim, watch = self._simulations.pop()
            try:
                sim.__exit__(type(failure) if failure is not None else None, failure, None)
            except BaseException as raised:
                failure = raised
            if failure is None:
                # The timeline and the reports hold what was sent and raised.
                sim.trace._entries.clear()
                sim.reports.clear()
                self._left += watch.left()
        if failure is not None and failure is not error:
            raise failure
        if failure is None and self._left:
            pytest.fail(
                "the test left behind:\n" + "\n".join(f"  {each}" for each in self._left), pytrace=False
            )


_CARE = pytest.StashKey[Care]()


def _care_of(item: pytest.Item) -> Care:
    found = item.stash.get(_CARE, None)
    if found is None:
        found = item.stash[_CARE] = Care(item)
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option --avm-seed."""
    group = parser.getgroup("avm")
    group.addoption(
        "--avm-seed",
        type=int,
        default=None,
        help="the seed of simulations that are not told one; without it, their order is the plain one",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line(
        "markers",
        "avm_may_leave(*kinds): what avm's fixtures may find left behind: actors, timers, tasks, blobs",
    )


@pytest.fixture
def vm(request: pytest.FixtureRequest) -> Callable[..., Awaitable[VM]]:
    """Start a VM: `running = await vm(tree, **options)`. It is stopped when the test ends."""
    return _care_of(request.node).start_vm


@pytest.fixture
def simulation(request: pytest.FixtureRequest) -> Callable[..., Simulation]:
    """Start a simulation: `sim = simulation(tree, seed=7, faults=[...])`. It ends with the test."""
    return _care_of(request.node).start_simulation


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """End what the fixtures started, around the call of the test."""
    care = _care_of(pyfuncitem)
    if is_ours(pyfuncitem):
        _make_plain(pyfuncitem, care)
    try:
        result = yield
    except BaseException as error:
        care.close(error)
        raise
    care.close(None)
    return result


def is_ours(item: pytest.Function) -> bool:
    """Tell whether a test is a coroutine that no other plugin runs."""
    function = item.obj
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    if not inspect.iscoroutinefunction(inner):
        return False
    # anyio also claims what uses its fixture; pytest-asyncio in auto mode has put a plain function in place by now.
    return (
        not any(item.get_closest_marker(mark) for mark in FOREIGN_MARKS)
        and "anyio_backend" not in item.fixturenames
    )


# In place of the coroutine function stands a plain one, for pytest or for Hypothesis to call.
def _make_plain(item: pytest.Function, care: Care) -> None:
    function = item.obj
    given = getattr(function, "hypothesis", None)
    inner = given.inner_test if given is not None else function

    def plain(*args: Any, **kwargs: Any) -> None:
        care.runs_here = True
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(care.run(inner(*args, **kwargs)))
        finally:
            care.runs_here = False

    if given is not None:
        given.inner_test = plain
    else:
        item.obj = plain


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if os.environ.get("AVM_TEST_LOOP", "asyncio") == "asyncio":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
