"""Agents whose calls can wait, in whole VMs against a real server: half the price, and nothing is paid twice.

Time is the test's: one manual clock drives the VM and the server's batches. Only what goes over the loopback line takes
real turns of the loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from avm import VM, Agent, ChildSpec, Request, child, event, on, supervisor
from avm.errors import ActorExited, ProviderError
from avm.io import CallPolicy, Completion, PoolStatistics
from avm.io.batch import PREFIX
from avm.io.providers.messages import MessagesProvider
from avm.io.providers.provider import BatchState
from avm.supervision import Backoff
from avm.testing import ManualClock, MessagesServer

pytestmark = pytest.mark.slow

Run = Callable[..., Any]

ROOT = Path(__file__).resolve().parents[2]
MODEL = "claude-sonnet-5-5"
TEXTS = ("one", "two", "three")
DAY = 24 * 3600


@event(tag="tests.batches.Summarize")
class Summarize(Request[str]):
    text: str


class Reader(Agent):
    """Summarizes texts, when it is cheap."""

    model = MODEL
    policy = CallPolicy(batch=True)
    priority = "background"
    reply_timeout = None
    restart_backoff = Backoff()

    @on(Summarize)
    async def summarize(self, wanted: Summarize) -> str:
        return await self.complete(wanted.text)


class HastyReader(Reader):
    """Does not want to wait, although its calls might."""

    priority = "normal"


class Watched(MessagesProvider):
    """Knows whether a batch was asked for, which comes after its id is on disk, and whether results were read."""

    def __init__(self, url: str) -> None:
        super().__init__(url, batches=True)
        self.polled = asyncio.Event()
        self.read = asyncio.Event()

    async def poll_batch(self, batch: str) -> BatchState:
        self.polled.set()
        return await super().poll_batch(batch)

    async def batch_results(self, batch: str) -> AsyncIterator[tuple[str, Completion | ProviderError]]:
        async for found in super().batch_results(batch):
            yield found
        self.read.set()


def library(cls: type[Reader] = Reader) -> ChildSpec:
    return supervisor("library", children=[child(f"reader{n}", cls) for n in range(len(TEXTS))])


def library_vm(
    provider: MessagesProvider, clock: ManualClock, home: Path | None = None, **options: Any
) -> VM:
    tree = library(**options)
    return VM(tree, home=home, provider=provider, clock=clock, observers=[], watchdog=None)


def ask_all(vm: VM) -> list[asyncio.Task[str]]:
    """Ask each reader for one of the texts; the answers come when they come."""
    return [
        asyncio.ensure_future(vm.ask(f"reader{n}", Summarize(text), timeout=None))
        for n, text in enumerate(TEXTS)
    ]


async def pass_time(clock: ManualClock, *awaited: Awaitable[Any], step: float = 1.0) -> list[Any]:
    """Let time pass until all of these are done; return what came of them."""
    waiting = [asyncio.ensure_future(each) for each in awaited]
    pending: set[asyncio.Future[Any]] = set(waiting)
    while pending:
        clock.advance(step)
        _, pending = await asyncio.wait(pending, timeout=0.002)
    return await asyncio.gather(*waiting, return_exceptions=True)


async def drop(*asked: asyncio.Task[str]) -> None:
    """Give up waiting."""
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


def pool_of(vm: VM) -> PoolStatistics:
    found = vm.status().io
    assert found is not None
    return found


def paid(server: MessagesServer) -> tuple[int, int]:
    """Return how many calls were made in batches, and how many were made alone."""
    ledger = server.ledger()
    return ledger.batched.requests, ledger.live.requests


def in_library(
    run: Run, body: Callable[[VM, MessagesServer, ManualClock], Coroutine[Any, Any, None]], **options: Any
) -> None:
    """Run a body with a VM without a home, and its server; options are those of the server, and `cls`."""
    readers = {"cls": options.pop("cls", Reader)}

    async def main() -> None:
        clock = ManualClock()
        async with MessagesServer(now=clock.now, **options) as server:
            provider = MessagesProvider(server.base_url, batches=True)
            async with library_vm(provider, clock, **readers) as vm:
                await body(vm, server, clock)

    run(main(), timeout=60)


ANSWERS = [f"You said: {text}" for text in TEXTS]


# One life.


def test_background_calls_are_answered_out_of_a_batch_at_half_the_price(run: Run) -> None:
    async def body(vm: VM, server: MessagesServer, clock: ManualClock) -> None:
        assert await pass_time(clock, *ask_all(vm)) == ANSWERS

        assert paid(server) == (3, 0)
        price = MessagesProvider(server.base_url).price(MODEL)
        assert price is not None
        ledger = server.ledger()
        assert ledger.usd(price) == ledger.batched.usd(price) / 2 > 0
        assert pool_of(vm).batched == 3
        assert pool_of(vm).cost == pytest.approx(ledger.usd(price))

    in_library(run, body, batch_seconds=30)


def test_calls_of_agents_that_do_not_want_to_wait_are_made_at_once(run: Run) -> None:
    async def body(vm: VM, server: MessagesServer, clock: ManualClock) -> None:
        assert await asyncio.gather(*ask_all(vm)) == ANSWERS

        assert paid(server) == (0, 3)

    in_library(run, body, cls=HastyReader)


@pytest.mark.parametrize("outcome", ["errored", "expired", "canceled"])
def test_a_call_that_its_batch_does_not_answer_is_made_the_normal_way(run: Run, outcome: Any) -> None:
    outcomes = iter([outcome, None, outcome])

    async def body(vm: VM, server: MessagesServer, clock: ManualClock) -> None:
        assert await pass_time(clock, *ask_all(vm)) == ANSWERS

        assert paid(server) == (1, 2)
        assert (pool_of(vm).batched, pool_of(vm).failed) == (1, 0)

    in_library(run, body, batch_seconds=30, batch_outcomes=lambda id: next(outcomes))


def test_the_calls_of_a_batch_that_takes_longer_than_a_day_are_made_the_normal_way(run: Run) -> None:
    async def main() -> None:
        clock = ManualClock()
        async with MessagesServer(now=clock.now, batch_seconds=2 * DAY) as server:
            provider = Watched(server.base_url)
            async with library_vm(provider, clock) as vm:
                asked = ask_all(vm)
                await pass_time(clock, provider.polled.wait())

                assert await pass_time(clock, *asked, step=1800.0) == ANSWERS

            assert paid(server) == (0, 3)

    run(main(), timeout=60)


def test_a_server_that_takes_no_batches_answers_the_calls_one_by_one(run: Run) -> None:
    async def main() -> None:
        clock = ManualClock()
        async with MessagesServer(now=clock.now) as server:
            provider = MessagesProvider(server.base_url, batches=False)
            async with library_vm(provider, clock) as vm:
                assert await asyncio.gather(*ask_all(vm)) == ANSWERS

            assert paid(server) == (0, 3)

    run(main())


# Agents that die.


def test_an_agent_that_dies_leaves_the_batch_that_is_being_gathered(run: Run) -> None:
    async def body(vm: VM, server: MessagesServer, clock: ManualClock) -> None:
        asked = ask_all(vm)
        await vm.kernel.idle()

        vm.kill("reader1")

        first, dead, last = await pass_time(clock, *asked)
        assert (first, last) == (ANSWERS[0], ANSWERS[2])
        assert isinstance(dead, ActorExited)
        assert paid(server) == (2, 0)

    in_library(run, body, batch_seconds=30)


def test_the_successor_of_an_agent_that_died_too_late_finds_what_is_paid_for(run: Run) -> None:
    async def main() -> None:
        clock = ManualClock()
        async with MessagesServer(now=clock.now, batch_seconds=600) as server:
            provider = Watched(server.base_url)
            async with library_vm(provider, clock) as vm:
                asked = ask_all(vm)
                await pass_time(clock, provider.polled.wait())
                vm.kill("reader1")
                await vm.kernel.idle()

                again = vm.ask("reader1", Summarize(TEXTS[1]), timeout=None)
                *_, answer = await pass_time(clock, *asked, again)

                assert answer == ANSWERS[1]
                assert paid(server) == (3, 0)

    run(main(), timeout=60)


def test_calls_of_a_courier_that_crashed_find_their_batch_again(run: Run) -> None:
    async def main() -> None:
        clock = ManualClock()
        async with MessagesServer(now=clock.now, batch_seconds=600) as server:
            provider = Watched(server.base_url)
            async with library_vm(provider, clock) as vm:
                asked = ask_all(vm)
                await pass_time(clock, provider.polled.wait())
                vm.kill("avm.io.courier")

                assert await pass_time(clock, *asked) == ANSWERS
                assert paid(server) == (3, 0)

    run(main(), timeout=60)


# Processes that end.


async def stop_after_submitting(home: Path, server: MessagesServer) -> None:
    """Run a VM on a home until its batch is submitted, and stop it in order."""
    clock = ManualClock()
    provider = Watched(server.base_url)
    async with library_vm(provider, clock, home) as vm:
        asked = ask_all(vm)
        await pass_time(clock, provider.polled.wait())
    await drop(*asked)


async def hold(home: Path, url: str) -> None:
    """The same in a process that is to be killed: it says when the batch is submitted, and waits."""
    clock = ManualClock()
    provider = Watched(url)
    async with library_vm(provider, clock, home) as vm:
        ask_all(vm)
        await pass_time(clock, provider.polled.wait())
        print("submitted", flush=True)
        await asyncio.Event().wait()


async def kill_after_submitting(home: Path, server: MessagesServer) -> None:
    code = (
        "import asyncio, pathlib, sys; from tests.system.test_batches import hold; "
        "asyncio.run(hold(pathlib.Path(sys.argv[1]), sys.argv[2]))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", code, str(home), server.base_url),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    said = await process.stdout.readline()
    process.kill()
    await process.communicate()
    assert said == b"submitted\n"


Ending = Callable[[Path, MessagesServer], Awaitable[None]]


@pytest.mark.parametrize("end", [stop_after_submitting, kill_after_submitting])
def test_the_next_vm_on_the_home_finds_the_batch_and_pays_for_nothing_again(
    run: Run, tmp_path: Path, end: Ending
) -> None:
    async def main() -> None:
        clock = ManualClock()
        async with MessagesServer(now=clock.now, batch_seconds=600) as server:
            await end(tmp_path, server)
            assert paid(server) == (0, 0)

            async with library_vm(MessagesProvider(server.base_url, batches=True), clock, tmp_path) as vm:
                assert await pass_time(clock, *ask_all(vm)) == ANSWERS

                assert paid(server) == (3, 0)
                assert pool_of(vm).batched == 3
                await vm.kernel.idle()
                assert [name for name in vm.roots if name.startswith(PREFIX)] == []

    run(main(), timeout=60)


@pytest.mark.parametrize("end", [stop_after_submitting, kill_after_submitting])
def test_results_that_come_before_anybody_asks_again_are_kept(run: Run, tmp_path: Path, end: Ending) -> None:
    async def main() -> None:
        clock = ManualClock()
        async with MessagesServer(now=clock.now, batch_seconds=600) as server:
            await end(tmp_path, server)
            clock.advance(600)

            provider = Watched(server.base_url)
            async with library_vm(provider, clock, tmp_path) as vm:
                await pass_time(clock, provider.read.wait())
                await vm.kernel.idle()
            provider = Watched(server.base_url)
            async with library_vm(provider, clock, tmp_path) as vm:
                assert await pass_time(clock, *ask_all(vm)) == ANSWERS

            assert not provider.polled.is_set()
            assert paid(server) == (3, 0)

    run(main(), timeout=60)


def test_a_turn_that_goes_on_in_the_next_vm_finds_its_call(run: Run, tmp_path: Path) -> None:
    """What is asked holds a conversation here, which comes from disk the second time."""

    async def main() -> None:
        clock = ManualClock()
        async with MessagesServer(now=clock.now, batch_seconds=600) as server:
            provider = Watched(server.base_url)
            async with library_vm(provider, clock, tmp_path) as vm:
                await pass_time(clock, vm.ask("reader0", "Hello.", timeout=None))
                provider.polled.clear()
                asked = asyncio.ensure_future(vm.ask("reader0", "And now?", timeout=None))
                await pass_time(clock, provider.polled.wait())
            await drop(asked)
            assert paid(server) == (1, 0)

            async with library_vm(MessagesProvider(server.base_url, batches=True), clock, tmp_path) as vm:
                answers = await pass_time(clock, vm.ask("reader0", "And now?", timeout=None))

                assert answers == ["You said: And now?"]
                assert paid(server) == (2, 0)

    run(main(), timeout=60)
