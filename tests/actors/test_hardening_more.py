"""What was found by attacking the kernel from beside the mailbox: threads, zombies, timers, tasks, kept references."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from avm.actors import Actor, Kernel, Killed, Ref, Request, event, on
from avm.actors.registry import Groups
from avm.actors.signals import Cancelled
from avm.actors.timers import Deadlines, Timers
from avm.errors import ActorDead, ActorExited, AskTimeout, EventError
from avm.testing import ManualClock
from tests.actors.cast import Call, Double, Note, Recorder, Scripted, Wait, actor_of, log_of


async def do(kernel: Kernel, function: Callable[[Any], Any], log: list[Any] | None = None) -> Ref:
    """Start an actor that has carried out a function when this returns."""
    ref = await kernel.spawn(Scripted, {"go": function}, log)
    # Without a deadline, so that no timer but those of the function is there.
    await kernel.ask(ref, Call("go"), None)
    return ref


class Stubborn(Recorder):
    """Does not end when told to."""

    async def stopping(self, reason: object) -> None:
        await asyncio.Event().wait()


class TestThreads:
    @pytest.mark.parametrize("run_in_thread", [None, asyncio.to_thread], ids=["run_blocking", "to_thread"])
    def test_a_tell_from_a_thread_wakes_the_loop_and_keeps_its_sender_S101(self, run, run_in_thread) -> None:
        class Receiver(Recorder):
            @on(Note)
            def heard(self, note: Note) -> None:
                self.log.append((note.text, self.sender, threading.get_ident()))
                seen.set()

        asleep, seen = threading.Event(), threading.Event()

        async def body() -> None:
            async with Kernel() as kernel:
                receiver = await kernel.spawn(Receiver)

                def work(me: Actor) -> bool:
                    asleep.wait(5)
                    me.tell(receiver, Note("from a thread"))
                    return seen.wait(5)

                async def go(me: Actor) -> bool:
                    # By then no worker has the queue, and one has to be woken.
                    kernel.loop.call_later(0.01, asleep.set)
                    return await (run_in_thread or me.run_blocking)(work, me)

                # Then the loop refuses what only its own thread may do; it would be seen only by chance otherwise.
                kernel.loop.set_debug(True)
                asker = await kernel.spawn(Scripted, {"go": go})
                assert await kernel.ask(asker, Call("go"), None)
                assert log_of(receiver) == [("from a thread", asker.pid, threading.get_ident())]

        run(body())

    def test_a_blocking_function_that_raises_stop_iteration_is_an_error_and_no_endless_wait_S96(
        self, run
    ) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Scripted, {"go": lambda me: wait(me)})

                async def wait(me: Actor) -> str:
                    with pytest.raises(RuntimeError, match="StopIteration"):
                        await me.run_blocking(next, iter(()))
                    return "told"

                assert await kernel.ask(ref, Call("go"), 5) == "told"

        run(body())


class TestZombies:
    @pytest.mark.parametrize(
        "deed", ["tell", "kernel_tell", "kill", "exit", "spawn", "publish", "register", "stop"]
    )
    def test_what_a_zombie_does_through_a_ref_or_the_kernel_is_refused_S94(self, run, deed) -> None:
        found: list[object] = []

        async def body() -> None:
            async with Kernel() as kernel:
                other = await kernel.spawn(Recorder, id="other")
                deeds: dict[str, Callable[[], Any]] = {
                    "tell": lambda: other.tell(Note("from the grave")),
                    "kernel_tell": lambda: kernel.tell(other, Note("from the grave")),
                    "kill": lambda: kernel.kill(other),
                    "exit": lambda: kernel.exit(other, RuntimeError("from the grave")),
                    "spawn": lambda: kernel.spawn(Recorder),
                    "publish": lambda: kernel.publish(None, "all", Note("from the grave")),
                    "register": lambda: kernel.register("grave", other),
                    "stop": lambda: kernel.stop_actor(other),
                }

                async def go(me: Any) -> None:
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        pass
                    try:
                        result = deeds[deed]()
                        if asyncio.iscoroutine(result):
                            await result
                    except ActorDead as error:
                        found.append(error)

                victim = await kernel.spawn(Scripted, {"go": go})
                victim.tell(Call("go"))
                await kernel.idle()
                kernel.kill(victim)
                await kernel.idle()

                assert len(found) == 1
                assert other.is_alive()
                assert log_of(other) == []

        run(body())

    def test_an_observer_may_send_while_an_actor_ends_in_its_own_task_S77_S94(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                listener = await kernel.spawn(Recorder)

                def observer(report: object) -> None:
                    listener.tell(Note(type(report).__name__))

                kernel.observers.append(observer)

                async def fail(me: Any) -> None:
                    raise RuntimeError("boom")

                victim = await kernel.spawn(Scripted, {"go": fail})
                victim.tell(Call("go"))
                await kernel.wait_stopped(victim)
                await kernel.idle()

                assert log_of(listener) == ["CrashReport"]
                assert kernel.observers == [observer]

        run(body())

    def test_a_kill_keeps_no_timer_when_the_handler_has_let_go_S94(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                for _ in range(20):
                    ref = await kernel.spawn(Recorder)
                    ref.tell(Wait())
                    await kernel.idle()
                    kernel.kill(ref)
                await kernel.idle()

                assert kernel.statistics().zombies == 0
                assert kernel.statistics().timers == 0

        run(body())


class TestWorkBeside:
    def test_a_pipe_of_work_that_is_cancelled_by_others_ends_the_actor_as_cancelled_S97_S98(
        self, run
    ) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                future = kernel.loop.create_future()
                ref = await do(kernel, lambda me: me.pipe(future) and None)
                future.cancel()

                assert await kernel.wait_stopped(ref.last_pid) == Cancelled()

        run(body())

    def test_a_pipe_of_work_that_is_cancelled_by_others_gives_its_error_to_on_error_S97(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                future = kernel.loop.create_future()
                ref = await do(
                    kernel, lambda me: me.pipe(future, on_error=lambda e: Note(type(e).__name__)) and None
                )
                future.cancel()
                await kernel.idle()

                assert log_of(ref) == ["CancelledError"]

        run(body())

    def test_a_pipe_whose_task_was_cancelled_by_its_actor_is_no_failure_S97(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                tasks: list[asyncio.Task[None]] = []
                ref = await do(
                    kernel,
                    lambda me: tasks.append(
                        me.pipe(asyncio.Event().wait(), on_error=lambda e: Note("failed"))
                    ),
                )
                await kernel.idle()
                tasks[0].cancel()
                await kernel.idle()

                assert ref.is_alive()
                assert log_of(ref) == []

        run(body())

    @pytest.mark.parametrize("what", ["pipe", "requests"])
    def test_work_whose_actor_ends_before_it_began_is_closed_without_a_warning_S102(self, run, what) -> None:
        async def work() -> None: ...

        def pipe(me: Any) -> None:
            me.pipe(work())
            me.stop()

        def requests(me: Any) -> None:
            me.requests().add("one", me.pid, Double(1))
            me.stop()

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Scripted, {"pipe": pipe, "requests": requests})
                with warnings.catch_warnings(record=True) as found:
                    warnings.simplefilter("always")
                    ref.tell(Call(what))
                    await kernel.idle()
                    gc.collect()

                assert [str(w.message) for w in found] == []

        run(body())

    def test_generators_that_are_gone_are_forgotten_at_once_S34(self, run) -> None:
        async def numbers() -> AsyncIterator[int]:
            yield 1

        async def go(me: Any) -> int:
            for _ in range(100):
                async for _ in numbers():
                    pass
            gc.collect()
            return len(me._cell.more.generators)

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Scripted, {"go": go})

                assert await kernel.ask(ref, Call("go")) == 0

        run(body())

    def test_the_wait_for_many_requests_is_by_the_clock_of_the_vm_S22_S103(self, run) -> None:
        clock = ManualClock()

        async def body() -> None:
            async with Kernel(clock=clock) as kernel:
                silent = await kernel.spawn(Recorder)

                async def go(me: Any) -> str:
                    requests = me.requests()
                    requests.add("one", silent, Wait())
                    with pytest.raises(AskTimeout):
                        await requests.wait(3600)
                    actor_of(silent).gate.set()
                    return (await requests.wait(3600))[1]

                ref = await kernel.spawn(Scripted, {"go": go})
                asked = asyncio.ensure_future(kernel.ask(ref, Call("go"), None))
                await kernel.idle()
                assert not asked.done()
                clock.advance(3600)

                assert await asked == "opened"
                assert kernel.statistics().timers == 0

        run(body())


class TestTimers:
    def test_an_interval_to_a_pid_ends_with_that_pid_S89(self, run) -> None:
        clock = ManualClock()

        async def body() -> None:
            async with Kernel(clock=clock) as kernel:
                receiver = await kernel.spawn(Recorder)
                sender = await do(kernel, lambda me: me.send_interval(1, receiver.pid, Note("tick")) and None)
                clock.advance(1)
                await kernel.idle()
                assert log_of(receiver) == ["tick"]
                kernel.kill(receiver)
                clock.advance(10)
                await kernel.idle()

                assert not kernel.statistics().dead_letters
                assert len(kernel.timers) == 0
                assert not sender.cell.more.timers  # type: ignore[union-attr]

        run(body())

    def test_a_cancelled_timer_is_kept_by_nobody_S86(self, run) -> None:
        def go(me: Any) -> int:
            for _ in range(10):
                me.cancel(me.send_after(60, me.pid, Note("never")))
                me.cancel(me.send_interval(60, me.pid, Note("never")))
            return len(me._cell.more.timers)

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Scripted, {"go": go})

                assert await kernel.ask(ref, Call("go")) == 0

        run(body())

    @pytest.mark.parametrize("send", ["send_after", "send_interval"])
    def test_a_timer_to_what_is_no_destination_fails_where_it_is_armed_S3_S99(self, run, send) -> None:
        def go(me: Any) -> None:
            with pytest.raises(EventError, match="a destination is"):
                getattr(me, send)(5, 42, Note("never"))

        async def body() -> None:
            async with Kernel() as kernel:
                await do(kernel, go)

                assert len(kernel.timers) == 0

        run(body())

    def test_a_strategy_that_fails_when_a_timer_fires_ends_the_sender_and_stops_no_other_timer_S99(
        self, run
    ) -> None:
        clock = ManualClock()

        class Broken:
            def resolve(self, event: object, kernel: Kernel) -> tuple[Any, ...]:
                raise SystemExit("no receivers")

        async def body() -> None:
            async with Kernel(clock=clock) as kernel:
                sender = await do(kernel, lambda me: me.send_after(1, Broken(), Note("lost")) and None)
                other = await do(kernel, lambda me: me.send_after(1, me.pid, Note("due")) and None)
                clock.advance(1)
                await kernel.idle()

                assert isinstance(await kernel.wait_stopped(sender.last_pid), SystemExit)
                assert log_of(other) == ["due"]

        run(body())

    def test_a_timer_made_while_another_fails_is_not_lost_S89_S99(self) -> None:
        clock = ManualClock()
        timers = Timers(clock)
        fired: list[str] = []

        def arm() -> None:
            timers.at(1.2, lambda: fired.append("armed in time"))

        def fail() -> None:
            raise RuntimeError("boom")

        timers.at(1.0, arm)
        timers.at(1.5, fail)
        clock._now = 2.0  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="boom"):
            timers._fire()
        clock.advance(1)

        assert fired == ["armed in time"]

    def test_deadlines_of_many_lengths_are_forgotten_when_nobody_waits_any_more_S16(self, run) -> None:
        async def body() -> None:
            clock = ManualClock()
            timers = Timers(clock)
            deadlines = Deadlines(timers, clock.now)
            loop = asyncio.get_running_loop()
            waiting = loop.create_future()
            deadlines.add(5000.0, waiting, lambda *_: AskTimeout("too late"))
            for n in range(1000):
                future = loop.create_future()
                deadlines.add(1000 + n / 7, future, lambda *_: AskTimeout("too late"))
                future.set_result(None)

            assert len(timers) < 200
            assert deadlines.pending() < 200
            clock.advance(5000)
            with pytest.raises(AskTimeout):
                await waiting
            assert len(timers) == 0

        run(body())

    def test_a_lane_of_deadlines_keeps_no_reply_at_its_head_and_still_expires_in_time_S15_S16(
        self, run
    ) -> None:
        async def body() -> None:
            clock = ManualClock()
            timers = Timers(clock)
            deadlines = Deadlines(timers, clock.now)
            loop = asyncio.get_running_loop()
            for _ in range(63):
                future = loop.create_future()
                deadlines.add(10.0, future, lambda *_: AskTimeout("too late"))
                future.set_result(None)
            clock.advance(5)
            last = loop.create_future()
            deadlines.add(10.0, last, lambda *_: AskTimeout("too late"))
            assert deadlines.pending() == 1
            clock.advance(9)
            assert not last.done()
            clock.advance(1)

            assert isinstance(last.exception(), AskTimeout)

        run(body())


class TestMessages:
    @pytest.mark.parametrize("way", ["tell", "ask"])
    def test_a_subclass_of_an_event_that_is_no_event_is_not_sent_S4(self, run, way) -> None:
        class Loose(Double):
            pass

        loose = Loose(1)
        vars(loose)["extra"] = []

        async def go(me: Any) -> object:
            if way == "ask":
                return await me.ask(other[0], loose, 5)
            return me.tell(other[0], loose)

        other: list[Ref] = []

        async def body() -> None:
            async with Kernel() as kernel:
                other.append(await kernel.spawn(Recorder))
                ref = await kernel.spawn(Scripted, {"go": go})
                with pytest.raises(ActorExited) as caught:
                    await kernel.ask(ref, Call("go"), 5)

                assert isinstance(caught.value.__cause__, EventError)

        run(body())

    def test_the_class_of_an_event_is_not_sent_in_place_of_an_instance_S4(self, run) -> None:
        async def go(me: Any) -> None:
            with pytest.raises(EventError, match="send an instance"):
                me.tell(me.pid, Wait)
            with pytest.raises(EventError, match="send an instance"):
                await me.ask(other[0], Wait, 1)

        other: list[Ref] = []

        async def body() -> None:
            async with Kernel() as kernel:
                other.append(await kernel.spawn(Recorder))
                await do(kernel, go)

        run(body())

    def test_an_event_may_derive_from_an_event_and_keep_a_hook_for_its_subclasses_S4(self, run) -> None:
        seen: list[str] = []

        class Counted(Recorder):
            @on(Basic)
            def basic(self, basic: Basic) -> int:
                return basic.n

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Counted)

                assert await kernel.ask(ref, Derived(2)) == 2

        Basic.seen = seen  # type: ignore[attr-defined]
        run(body())
        assert HOOKED

    def test_an_ask_of_who_handed_its_reply_on_closes_no_ring_S17_S18(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                pending: list[Any] = []

                async def ask_b(me: Any) -> object:
                    return await me.ask(b, Call("take"), 5)

                async def ask_a(me: Any) -> object:
                    return await me.ask(a, Call("easy"), 5)

                a = await kernel.spawn(Scripted, {"ask": ask_b, "easy": lambda me: "easy"})
                b = await kernel.spawn(
                    Scripted, {"take": lambda me: pending.append(me.defer()), "ask": ask_a}
                )
                first = asyncio.ensure_future(kernel.ask(a, Call("ask"), 5))
                await kernel.idle()
                second = asyncio.ensure_future(kernel.ask(b, Call("ask"), 5))
                await kernel.idle()
                pending[0].send("handed on")

                assert await first == "handed on"
                assert await second == "easy"

        run(body())


HOOKED: list[str] = []


@event
class Basic(Request[int]):
    n: int

    def __init_subclass__(cls, **kwargs: Any) -> None:
        HOOKED.append(cls.__name__)


@event
class Derived(Basic):
    pass


class TestEnds:
    def test_an_orphan_that_does_not_end_is_killed_after_its_grace_S58_S62(self, run) -> None:
        clock = ManualClock()

        async def body() -> None:
            async with Kernel(clock=clock) as kernel:
                child: list[Ref] = []

                async def go(me: Any) -> None:
                    child.append(await me.spawn(Stubborn, name="taken"))

                parent = await do(kernel, go)
                kernel.kill(parent)
                clock.advance(4.9)
                await kernel.idle()
                assert child[0].is_alive()
                clock.advance(0.1)

                assert await kernel.wait_stopped(child[0].last_pid) == Killed()
                assert kernel.whereis("taken") is None

        run(body())

    def test_an_orphan_that_ends_leaves_no_timer_S62(self, run) -> None:
        class Slow(Recorder):
            async def stopping(self, reason: object) -> None:
                await asyncio.sleep(0)

        async def body() -> None:
            async with Kernel() as kernel:

                async def go(me: Any) -> None:
                    await me.spawn(Slow)

                kernel.kill(await do(kernel, go))
                assert kernel.statistics().timers == 1
                await kernel.idle()

                assert kernel.statistics().timers == 0

        run(body())

    def test_a_tree_deeper_than_the_stack_is_closed_although_nobody_in_it_ends_S102(self, run) -> None:
        class Deep(Stubborn):
            @on(Call)
            async def call(self, call: Call) -> Ref:
                return await self.spawn(Deep)

        async def body() -> None:
            async with Kernel() as kernel:
                first = ref = await kernel.spawn(Deep)
                for _ in range(sys.getrecursionlimit()):
                    ref = await kernel.ask(ref, Call("deeper"))
                await kernel.close(timeout=0.01)

                assert first.last_pid.cell.reason == Killed()
                assert ref.last_pid.cell.reason == Killed()

        run(body())

    def test_a_group_watcher_that_fails_is_removed_and_stops_nobodys_end_S84_S99(self, run, caplog) -> None:
        def broken(change: object) -> None:
            calls.append(change)
            raise SystemExit("broken watcher")

        calls: list[object] = []

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await do(kernel, lambda me: me.join("all"))
                kernel.groups.watch("all", broken)
                waiter = asyncio.ensure_future(kernel.wait_stopped(ref))
                await kernel.idle()
                kernel.kill(ref)

                assert await waiter == Killed()
                assert len(calls) == 1
                assert not kernel.groups._watchers

        with caplog.at_level(logging.CRITICAL, "avm.kernel"):
            run(body())

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_kernels_of_one_loop_may_be_closed_in_any_order_and_leave_no_hook_S102(self, run, order) -> None:
        async def numbers() -> AsyncIterator[int]:
            yield 1

        async def body() -> None:
            before = sys.get_asyncgen_hooks().firstiter
            kernels = [Kernel(), Kernel()]
            for kernel in kernels:
                await kernel.__aenter__()
            await kernels[order[0]].close()
            last = kernels[order[1]]

            async def go(me: Any) -> int:
                generator = numbers()
                await anext(generator)
                return len(me._cell.more.generators)

            ref = await last.spawn(Scripted, {"go": go})
            assert await last.ask(ref, Call("go")) == 1
            await last.close()

            assert sys.get_asyncgen_hooks().firstiter == before

        run(body())


def test_groups_are_told_of_changes_after_a_watcher_was_removed_S84(caplog) -> None:
    def broken(change: object) -> None:
        raise RuntimeError("broken watcher")

    class Somebody:
        pid_text = "somebody#1"

    groups, seen = Groups(), []
    groups.watch("all", broken)
    groups.watch("all", seen.append)
    somebody: Any = Somebody()
    groups.join("all", somebody)
    groups.leave("all", somebody)

    assert [change.joined for change in seen] == [True, False]
