"""Pipelines: order, bounds, errors, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Actor, Kernel, Request, event, on
from avm.agents import pipeline
from avm.errors import ItemFailed, SpecError

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@event
class Number(Request["Number"]):
    n: int


class Doubler(Actor):
    @on(Number)
    def double(self, number: Number) -> Number:
        return Number(number.n * 2)


class Picky(Actor):
    @on(Number)
    def check(self, number: Number) -> Number:
        if number.n == 3:
            raise ValueError("three")
        return number


async def collect(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


def test_items_pass_through_refs_and_functions_in_order(run: Run) -> None:
    async def plus_one(number: Number) -> int:
        return number.n + 1

    async def body() -> None:
        async with Kernel() as kernel:
            doubler = await kernel.spawn(Doubler)
            flow = pipeline(Number, doubler, plus_one, str)

            assert await collect(flow(range(5))) == ["1", "3", "5", "7", "9"]

    run(body())


def test_results_come_in_the_order_of_the_items_however_long_each_takes(run: Run) -> None:
    async def slower_first(n: int) -> int:
        for _ in range(20 - n):
            await asyncio.sleep(0)
        return n

    async def body() -> None:
        assert await collect(pipeline(slower_first, limit=7)(range(20))) == list(range(20))

    run(body())


def test_no_more_than_the_limit_are_under_way_and_nothing_is_taken_before_it_is_wanted(run: Run) -> None:
    async def body() -> None:
        taken = 0
        inside = most = 0

        def source() -> Iterator[int]:
            nonlocal taken
            for n in range(100):
                taken += 1
                yield n

        async def stage(n: int) -> int:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1
            return n

        results = pipeline(stage, limit=4)(source())
        assert taken == 0
        async with aclosing(results):  # type: ignore[type-var]
            for expected in range(10):
                assert await anext(results) == expected
                assert taken <= expected + 4
        assert most == 4

    run(body())


def test_a_failed_item_is_raised_in_its_place_and_named(run: Run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            picky = await kernel.spawn(Picky, id="picky")
            results = pipeline(Number, picky, limit=2)(range(2, 9))

            assert (await anext(results)).n == 2
            with pytest.raises(ItemFailed) as caught:
                await anext(results)

            assert (caught.value.item, caught.value.index, caught.value.stage) == (3, 1, 1)
            assert str(caught.value).startswith("item 1 (3) failed in stage 1, picky: ActorExited: picky#")
            assert isinstance(caught.value.__cause__, Exception)

    run(body())


def test_on_error_gives_what_takes_the_place_of_a_failed_item(run: Run) -> None:
    def check(n: int) -> int:
        if n % 2:
            raise ValueError("odd")
        return n

    async def body() -> None:
        flow = pipeline(check, on_error=lambda failure: f"failed {failure.item}")

        assert await collect(flow(range(4))) == [0, "failed 1", 2, "failed 3"]

    run(body())


def test_a_consumer_that_stops_early_leaves_nothing_running(run: Run) -> None:
    """S93: streams with bounded concurrency never leak tasks when the consumer stops early."""

    async def body() -> None:
        cancelled = 0

        async def stage(n: int) -> int:
            nonlocal cancelled
            if n == 0:
                return n
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1
                raise
            return n

        async for result in pipeline(stage, limit=5)(range(100)):
            assert result == 0
            break
        for _ in range(5):
            await asyncio.sleep(0)

        assert cancelled == 4
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(body())


def test_a_consumer_that_is_cancelled_leaves_nothing_running(run: Run) -> None:
    async def body() -> None:
        async def stage(n: int) -> int:
            await asyncio.Event().wait()
            return n

        task = asyncio.ensure_future(collect(pipeline(stage)(range(3))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(body())


def test_an_async_source_may_be_slow_while_results_are_ready(run: Run) -> None:
    async def body() -> None:
        more = asyncio.Event()

        async def source() -> AsyncIterator[int]:
            yield 1
            await more.wait()
            yield 2

        results = pipeline(lambda n: n * 10)(source())

        assert await anext(results) == 10
        more.set()
        assert await collect(results) == [20]

    run(body())


def test_an_async_source_is_closed_with_its_consumer(run: Run) -> None:
    async def body() -> None:
        closed = []

        async def source() -> AsyncIterator[int]:
            try:
                for n in range(100):
                    yield n
                    await asyncio.sleep(0)
            finally:
                closed.append(True)

        async with aclosing(pipeline(str, limit=2)(source())) as results:  # type: ignore[type-var]
            assert await anext(results) == "0"

        assert closed == [True]

    run(body())


def test_an_error_of_the_source_is_raised(run: Run) -> None:
    async def body() -> None:
        async def source() -> AsyncIterator[int]:
            yield 1
            raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            await collect(pipeline(str)(source()))

    run(body())


def test_no_items_give_no_results(run: Run) -> None:
    async def body() -> None:
        assert await collect(pipeline(str)([])) == []

    run(body())


@given(items=st.lists(st.integers(), max_size=30), limit=st.integers(1, 8), turns=st.lists(st.integers(0, 5)))
def test_a_pipeline_is_a_map(items: list[int], limit: int, turns: list[int]) -> None:
    async def stage(n: int) -> int:
        for _ in range(turns[n % len(turns)] if turns else 0):
            await asyncio.sleep(0)
        return n * 2

    async def source() -> AsyncIterator[int]:
        for n in items:
            yield n

    async def body() -> None:
        expected = [n * 2 for n in items]
        assert await collect(pipeline(stage, limit=limit)(items)) == expected
        assert await collect(pipeline(stage, limit=limit)(source())) == expected

    asyncio.run(body())


@pytest.mark.parametrize(
    "stages, options, says",
    [
        ((), {}, "takes one stage or more"),
        ((str, 3), {}, "stage 1 must be a ref or a function, got 3"),
        ((str,), {"limit": 0}, "limit must be a whole number of 1 or more, got 0"),
    ],
)
def test_what_cannot_be_a_pipeline_is_refused(
    stages: tuple[Any, ...], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(SpecError) as caught:
        pipeline(*stages, **options)

    assert says in str(caught.value)
