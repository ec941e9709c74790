"""The pool: calls go out, replies come back, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import attrs
import pytest

from avm.actors import Actor, Kernel, Ref, Request, event, on
from avm.actors.event import ATOMS
from avm.errors import (
    ActorExited,
    AskTimeout,
    InvalidRequest,
    ProviderError,
    SpecError,
    StartError,
    ToolError,
)
from avm.io import (
    CallTool,
    Complete,
    Completion,
    Latency,
    ModelRequest,
    PoolStatistics,
    PoolStatus,
    ScriptedProvider,
    ToolCall,
    Usage,
    encode_fragment,
    io_tree,
)
from avm.testing import ManualClock
from avm.tools import Tool, tool
from tests.io.pooled import Gated, front_of, pooled, prompt, tools_of, workers_of

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@event
class Go:
    pass


@event
class Seen(Request[list[object]]):
    pass


class Asker(Actor):
    """Asks the pool once when it is told to, and keeps what came of it."""

    def __init__(self, text: str, priority: str = "normal") -> None:
        self.text = text
        self.of = priority
        self.seen: list[object] = []

    @on(Go)
    async def go(self, go: Go) -> None:
        try:
            completion = await self.ask(self.service("io"), Complete(prompt(self.text), self.of))
            self.seen.append(completion.text)
        except ProviderError as error:
            self.seen.append(error)

    @on(Seen)
    def tell_seen(self, seen: Seen) -> list[object]:
        return self.seen


async def ask(kernel: Kernel, text: str, **fields: Any) -> Completion:
    completion: Completion = await kernel.ask(front_of(kernel), Complete(prompt(text, **fields)))
    return completion


async def status(kernel: Kernel) -> PoolStatistics:
    found: PoolStatistics = await kernel.ask(front_of(kernel), PoolStatus())
    return found


async def crowd(kernel: Kernel, *texts: str, priority: str = "normal") -> list[Ref]:
    refs = [await kernel.spawn(Asker, text, priority) for text in texts]
    for ref in refs:
        kernel.tell(ref, Go())
    await kernel.idle()
    return refs


def test_a_call_comes_back_with_its_message_and_timings(run: Run) -> None:
    async def body() -> None:
        async with pooled(ScriptedProvider(["Good day."])) as kernel:
            completion = await ask(kernel, "Hello")

            assert completion.message == {"role": "assistant", "content": "Good day."}
            assert completion.source == "provider"
            timings = completion.timings
            assert timings is not None
            assert timings.asked <= timings.started <= timings.ended

    run(body())


def test_calls_above_the_concurrency_wait_and_are_all_answered(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        async with pooled(gated, workers=0, concurrency=3) as kernel:
            refs = await crowd(kernel, *(f"n{n}" for n in range(10)))
            found = await status(kernel)
            assert (found.in_flight, found.queued, found.workers) == (3, 7, 3)

            gated.gate.set()
            seen = [await kernel.ask(ref, Seen()) for ref in refs]

            assert seen == [[f"re: n{n}"] for n in range(10)]
            assert gated.most == 3
            assert (await status(kernel)).requests == 10

    run(body())


def test_user_calls_leave_the_backlog_before_background_ones(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        async with pooled(gated, concurrency=1) as kernel:
            await crowd(kernel, "first")
            slow = await crowd(kernel, *(f"slow{n}" for n in range(5)), priority="background")
            urgent = await crowd(kernel, *(f"urgent{n}" for n in range(5)), priority="user")

            gated.gate.set()
            for ref in (*slow, *urgent):
                await kernel.ask(ref, Seen())

            assert gated.begun[1:6] == [f"urgent{n}" for n in range(5)]
            assert sorted(gated.begun[6:]) == [f"slow{n}" for n in range(5)]

    run(body())


def test_a_provider_error_is_raised_where_it_was_asked_and_the_worker_lives(run: Run) -> None:
    async def body() -> None:
        wrong = InvalidRequest("no such model", "scripted", "m", "req_1")
        async with pooled(ScriptedProvider([wrong, "fine"]), workers=1, concurrency=1) as kernel:
            with pytest.raises(InvalidRequest) as caught:
                await ask(kernel, "one")
            assert caught.value.request_id == "req_1"

            assert (await ask(kernel, "two")).text == "fine"
            found = await status(kernel)
            assert (found.requests, found.failed, found.crashed_workers) == (2, 1, 0)

    run(body())


def test_a_crashed_worker_answers_its_waiter_with_a_typed_error_at_once_and_is_replaced(run: Run) -> None:
    async def body() -> None:
        def broken(request: ModelRequest) -> str:
            if request.agent == "bad":
                raise ZeroDivisionError("bug in the provider")
            return "fine"

        async with pooled(ScriptedProvider(broken), workers=1, concurrency=1) as kernel:
            with pytest.raises(ProviderError) as caught:
                await ask(kernel, "one", agent="bad")

            assert "ended (ZeroDivisionError: bug in the provider) before it answered" in str(caught.value)
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            assert (await ask(kernel, "two")).text == "fine"
            found = await status(kernel)
            assert (found.crashed_workers, found.in_flight, found.workers) == (1, 0, 1)

    run(body())


def test_a_killed_worker_frees_its_place_for_a_call_that_waits(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        async with pooled(gated, workers=0, concurrency=1) as kernel:
            first, second = await crowd(kernel, "first", "second")
            (worker,) = workers_of(kernel)

            kernel.kill(worker.pid)
            await kernel.idle()

            (error,) = await kernel.ask(first, Seen())
            assert isinstance(error, ProviderError)
            assert "ended (killed)" in str(error)
            gated.gate.set()
            assert await kernel.ask(second, Seen()) == ["re: second"]

    run(body())


def test_a_killed_idle_worker_is_not_given_work(run: Run) -> None:
    async def body() -> None:
        async with pooled(ScriptedProvider(), workers=2, concurrency=2) as kernel:
            await ask(kernel, "first")
            for cell in workers_of(kernel):
                kernel.kill(cell.pid)

            assert (await ask(kernel, "hello")).text == "You said: hello"
            assert (await status(kernel)).workers == 1

    run(body())


def test_the_waiting_calls_of_an_asker_that_ended_leave_the_backlog(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        async with pooled(gated, concurrency=1) as kernel:
            _first, doomed, last = await crowd(kernel, "first", "doomed", "last")

            kernel.kill(doomed)
            await kernel.idle()
            assert (await status(kernel)).queued == 1

            gated.gate.set()
            assert await kernel.ask(last, Seen()) == ["re: last"]
            assert gated.begun == ["first", "last"]

    run(body())


def test_a_call_whose_ask_timed_out_while_it_waited_is_not_made(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        async with pooled(gated, concurrency=1) as kernel:
            await crowd(kernel, "first")
            with pytest.raises(AskTimeout):
                await kernel.ask(front_of(kernel), Complete(prompt("late")), timeout=0)

            (last,) = await crowd(kernel, "last")
            gated.gate.set()

            assert await kernel.ask(last, Seen()) == ["re: last"]
            assert gated.begun == ["first", "last"]

    run(body())


def test_a_front_that_crashes_fails_its_calls_and_is_restarted(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        async with pooled(gated, workers=1) as kernel:
            asking = asyncio.ensure_future(ask(kernel, "lost"))
            await kernel.idle()

            kernel.kill(front_of(kernel))
            with pytest.raises(ActorExited):
                await asking

            gated.gate.set()
            await kernel.idle()
            assert (await ask(kernel, "again")).text == "re: again"

    run(body())


def test_stopping_the_pool_closes_its_provider(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        async with pooled(gated):
            assert gated.closed == 0
        assert gated.closed == 1

    run(body())


def test_latency_and_tokens_are_in_the_statistics(run: Run) -> None:
    async def body() -> None:
        reply = Completion(encode_fragment({"role": "assistant", "content": "x"}), usage=Usage(7, 2))
        async with pooled(ScriptedProvider([reply, reply])) as kernel:
            await ask(kernel, "a")
            await ask(kernel, "b")
            found = await status(kernel)

            assert (found.input_tokens, found.output_tokens) == (14, 4)
            assert 0 < found.latency_p50 <= found.latency_p99
            assert found.provider == "scripted"

    run(body())


def test_a_call_that_cannot_be_right_is_refused_and_the_pool_lives(run: Run) -> None:
    async def body() -> None:
        async with pooled() as kernel:
            front = front_of(kernel)
            with pytest.raises(
                SpecError, match="the priority of a call must be one of user, normal, background"
            ):
                await kernel.ask(front, Complete(prompt("a"), "urgent"))
            with pytest.raises(ToolError, match="tool 'f' must name its worker class, got a str"):
                await kernel.ask(tools_of(kernel), CallTool("not a tool", ToolCall("1", "f", "")))

            assert (await ask(kernel, "b")).text == "You said: b"

    run(body())


def test_a_worker_class_that_cannot_start_is_an_answer(run: Run) -> None:
    class Broken(Actor):
        def __init__(self, front: Ref) -> None:
            raise RuntimeError("no licence")

    class Licensed(Tool):
        worker = Broken

    async def body() -> None:
        @tool
        async def f() -> None:
            """Do it."""

        wanted = Licensed(**attrs.asdict(f, recurse=False))
        ATOMS.add(Licensed)
        async with pooled() as kernel:
            with pytest.raises(StartError, match="no licence"):
                await kernel.ask(tools_of(kernel), CallTool(wanted, ToolCall("1", "f", "")))
            assert (await ask(kernel, "b")).text == "You said: b"

    run(body())


def test_latency_passes_on_the_clock_of_the_vm(run: Run) -> None:
    """S103: no test of time needs to sleep."""

    async def body() -> None:
        clock = ManualClock()
        provider = ScriptedProvider(latency=Latency(50.0))
        async with pooled(provider, clock=clock) as kernel:
            asking = asyncio.ensure_future(ask(kernel, "a"))
            await kernel.idle()
            clock.advance(49.0)
            await kernel.idle()
            assert not asking.done()

            clock.advance(1.0)
            timings = (await asking).timings

            assert timings is not None
            assert timings.ended - timings.started == 50.0

    run(body())


@pytest.mark.parametrize(
    "options, says",
    [
        ({"concurrency": 0}, "concurrency must be a whole number of 1 or more, got 0"),
        ({"tool_concurrency": "many"}, "tool_concurrency must be a whole number of 1 or more, got 'many'"),
        ({"workers": -1}, "workers must be a whole number of 0 or more, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_starts(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        io_tree(ScriptedProvider(), **options)

    assert says in str(caught.value)


def test_the_pool_is_a_tree_that_prints() -> None:
    assert str(io_tree(ScriptedProvider())).startswith("io:")


def test_a_thousand_askers_at_once_are_all_answered(run: Run) -> None:
    async def body() -> None:
        async with pooled(ScriptedProvider(), concurrency=100) as kernel:
            refs = await crowd(kernel, *(f"n{n}" for n in range(1000)))
            for n, ref in enumerate(refs):
                assert await kernel.ask(ref, Seen()) == [f"You said: n{n}"]
            found = await status(kernel)
            assert (found.requests, found.in_flight, found.queued) == (1000, 0, 0)

    run(body())
