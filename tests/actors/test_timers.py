"""Timers on the VM's clock (S86-S90, S103)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Kernel
from avm.actors.timers import Timers
from avm.testing import ManualClock
from tests.actors.cast import Call, Note, Recorder, Scripted, log_of


def test_a_timer_sends_its_event_at_its_time_and_not_before_S86_S87(run) -> None:
    async def body() -> None:
        clock = ManualClock()
        async with Kernel(clock=clock) as kernel:
            ref = await kernel.spawn(Scripted, {"go": lambda a: a.send_after(5, a.pid, Note("due")) and None})
            await kernel.ask(ref, Call("go"))
            clock.advance(4.999)
            await kernel.idle()
            assert log_of(ref) == []
            clock.advance(0.001)
            await kernel.idle()
            assert log_of(ref) == ["due"]

    run(body())


def test_cancel_tells_what_was_left_and_then_nothing_comes_S86(run) -> None:
    results: list[Any] = []

    async def body() -> None:
        clock = ManualClock()
        async with Kernel(clock=clock) as kernel:

            def go(actor: Any) -> None:
                timer = actor.send_after(5, actor.pid, Note("never"))
                clock.advance(2)
                results.append(actor.cancel(timer))
                results.append(actor.cancel(timer))

            ref = await kernel.spawn(Scripted, {"go": go})
            await kernel.ask(ref, Call("go"))
            clock.advance(10)
            await kernel.idle()
            assert results == [3, None]
            assert log_of(ref) == []

    run(body())


@pytest.mark.parametrize("uv", [True, False])
def test_on_a_real_loop_no_timer_is_early_S87(uv: bool) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            early: list[float] = []
            done = asyncio.Event()
            left = 200

            def fired(deadline: float) -> None:
                nonlocal left
                left -= 1
                if kernel.now() < deadline:
                    early.append(deadline)
                if not left:
                    done.set()

            for n in range(200):
                deadline = kernel.now() + n * 0.0001
                kernel.timers.at(deadline, lambda deadline=deadline: fired(deadline))
            async with asyncio.timeout(5):
                await done.wait()
            assert early == []

    if uv:
        pytest.importorskip("uvloop").run(body())
    else:
        asyncio.run(body())


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=50))
def test_timers_fire_in_order_of_deadline_and_then_of_creation_S88(made: list[tuple[int, bool]]) -> None:
    clock = ManualClock()
    timers = Timers(clock)
    fired: list[tuple[int, int]] = []
    expected = []
    for n, (delay, cancelled) in enumerate(made):
        timer = timers.after(delay, lambda key=(delay, n): fired.append(key))
        if cancelled:
            assert timers.cancel(timer) == delay
        else:
            expected.append((delay, n))

    clock.advance(10)

    assert fired == sorted(expected)
    assert len(timers) == 0


def test_a_timer_of_zero_comes_after_what_is_queued_S88(run) -> None:
    async def body() -> None:
        clock = ManualClock()
        async with Kernel(clock=clock) as kernel:

            def go(actor: Any) -> None:
                actor.send_after(0, actor.pid, Note("timer"))
                actor.tell(actor.pid, Note("told"))

            ref = await kernel.spawn(Scripted, {"go": go})
            await kernel.ask(ref, Call("go"))
            clock.advance(0)
            await kernel.idle()
            assert log_of(ref) == ["told", "timer"]

    run(body())


def test_a_timer_to_a_pid_is_freed_with_it_and_one_to_a_name_is_resolved_then_S89(run) -> None:
    async def body() -> None:
        clock = ManualClock()
        async with Kernel(clock=clock) as kernel:
            first = await kernel.spawn(Recorder, name="desk")

            def go(actor: Any) -> None:
                actor.send_after(5, first.pid, Note("to the pid"))
                actor.send_after(5, "desk", Note("to the name"))
                actor.send_after(5, "nobody", Note("to nobody"))

            sender = await kernel.spawn(Scripted, {"go": go})
            await kernel.ask(sender, Call("go"))
            before = kernel.statistics().timers
            kernel.kill(first)
            assert kernel.statistics().timers == before - 1
            second = await kernel.spawn(Recorder, name="desk")
            clock.advance(5)
            await kernel.idle()
            assert log_of(second) == ["to the name"]
            assert kernel.statistics().dead_letters == {"nobody": 1}

    run(body())


def test_an_interval_does_not_drift_skips_what_it_missed_and_ends_with_its_owner_S89_S90(run) -> None:
    async def body() -> None:
        clock = ManualClock(100.0)
        async with Kernel(clock=clock) as kernel:
            ticks: list[float] = []

            class Timed(Recorder):
                pass

            receiver = await kernel.spawn(Scripted, {"tick": lambda a: ticks.append(kernel.now())})
            owner = await kernel.spawn(
                Scripted, {"go": lambda a: a.send_interval(10, receiver, Call("tick")) and None}
            )
            await kernel.ask(owner, Call("go"))
            for _ in range(3):
                clock.advance(10)
                await kernel.idle()
            assert ticks == [110.0, 120.0, 130.0]
            clock._now += 37  # the loop was blocked: no callback in all that time
            clock.advance(0)
            await kernel.idle()
            assert ticks == [110.0, 120.0, 130.0, 167.0]
            clock.advance(3)
            await kernel.idle()
            assert ticks[-1] == 170.0
            kernel.kill(owner)
            clock.advance(100)
            await kernel.idle()
            assert ticks[-1] == 170.0

    run(body())


def test_a_cancelled_interval_stops_S86(run) -> None:
    async def body() -> None:
        clock = ManualClock()
        async with Kernel(clock=clock) as kernel:

            def go(actor: Any) -> None:
                actor.timer = actor.send_interval(1, actor.pid, Note("tick"))

            ref = await kernel.spawn(
                Scripted,
                {"go": go, "cancel": lambda a: a.cancel(a.timer), "again": lambda a: a.cancel(a.timer)},
            )
            await kernel.ask(ref, Call("go"))
            for _ in range(2):
                clock.advance(1)
                await kernel.idle()
            assert await kernel.ask(ref, Call("cancel")) == 1
            assert await kernel.ask(ref, Call("again")) is None
            clock.advance(10)
            await kernel.idle()
            assert log_of(ref) == ["tick", "tick"]

    run(body())


@pytest.mark.parametrize("seconds", [-1, "1", None, float("nan")])
def test_wrong_seconds_are_refused(run, seconds: Any) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            for method in ("send_after", "send_interval"):
                ref = await kernel.spawn(
                    Scripted, {"go": lambda a, method=method: getattr(a, method)(seconds, a.pid, Note("x"))}
                )
                with pytest.raises(Exception, match="seconds must be a number") as caught:
                    await kernel.ask(ref, Call("go"))
                assert isinstance(caught.value.__cause__, ValueError)

    run(body())


@given(st.lists(st.tuples(st.sampled_from([1.0, 2.0, 60.0]), st.booleans()), max_size=300))
def test_deadlines_fail_what_is_pending_and_forget_what_is_done(asks: list[tuple[float, bool]]) -> None:
    async def body() -> None:
        clock = ManualClock()
        async with Kernel(clock=clock) as kernel:
            futures = []
            for seconds, done in asks:
                future: asyncio.Future[object] = kernel.loop.create_future()
                kernel.deadlines.add(seconds, future, lambda s, _, __: TimeoutError(s))
                if done:
                    future.set_result(None)
                futures.append((seconds, done, future))
            for now in (1.0, 2.0, 60.0):
                clock.advance(now - clock.now())
                for seconds, done, future in futures:
                    assert future.done() == (done or seconds <= now)
                    if future.done() and not done:
                        assert isinstance(future.exception(), TimeoutError)
            assert kernel.deadlines.pending() == 0

    asyncio.run(body())


def test_deadlines_of_answered_asks_do_not_pile_up(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Scripted, {"go": lambda a: 1})
            for _ in range(5000):
                await kernel.ask(ref, Call("go"))
            assert kernel.deadlines.pending() < 200

    run(body())


def test_sleep_waits_on_the_clock_of_the_vm_S87(run) -> None:
    async def body() -> None:
        clock = ManualClock()
        async with Kernel(clock=clock) as kernel:
            ref = await kernel.spawn(Scripted, {"go": lambda a: a.sleep(5)})
            asked = asyncio.ensure_future(kernel.ask(ref, Call("go")))
            await kernel.idle()
            clock.advance(4.999)
            await kernel.idle()
            assert not asked.done()
            clock.advance(0.001)
            assert await asked is None
            assert len(kernel.timers) == 1, "the deadline of the ask"

    run(body())
