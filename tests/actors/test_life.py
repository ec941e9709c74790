"""The life of an actor: start, work, idleness, end (S23-S35)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from avm.actors import Actor, CrashReport, Exit, Ignore, Kernel, Killed, Normal, Shutdown, Timeout, on
from avm.errors import (
    ActorExited,
    AskTimeout,
    HandlerError,
    NoProc,
    SpecError,
    StartError,
    StartIgnored,
    StopError,
)
from avm.testing import ManualClock
from tests.actors.cast import Boom, Call, Double, Note, Recorder, Scripted, Trapper, Wait, actor_of, log_of


class Starter(Recorder):
    """Starts as its function says."""

    def __init__(self, start: Any, log: list[Any] | None = None) -> None:
        super().__init__(log)
        self.start = start

    def starting(self) -> Any:
        return self.start(self)


async def wait_for_gate(actor: Any) -> None:
    actor.entered.set()
    await actor.gate.wait()


async def fail(actor: Any) -> None:
    raise RuntimeError("no start")


async def ignore(actor: Any) -> Any:
    return Ignore


def fail_at_once(actor: Any) -> None:
    raise RuntimeError("no start")


def ignore_at_once(actor: Any) -> Any:
    return Ignore


def stop_in_start(actor: Any) -> None:
    actor.stop(Shutdown("changed my mind"))


async def no_gate(actor: Any) -> None: ...


class TestStart:
    def test_it_is_complete_when_spawn_returns_S23(self, run) -> None:
        async def slow(actor: Any) -> None:
            await asyncio.sleep(0)
            actor.log.append("started")

        async def body() -> None:
            async with Kernel() as kernel:
                log: list[Any] = []
                await kernel.spawn(Starter, slow, log)
                assert log == ["started"]

        run(body())

    @pytest.mark.parametrize("how", [fail, fail_at_once])
    def test_a_failed_start_leaves_nothing_and_the_name_can_be_used_at_once_S24(self, run, how: Any) -> None:
        class Parent(Trapper):
            @on(Call)
            async def go(self, call: Call) -> None:
                await self.spawn(Starter, how, id="child", name="desk", link=True)

        async def body() -> None:
            async with Kernel() as kernel:
                parent = await kernel.spawn(Parent)
                with pytest.raises(ActorExited) as caught:
                    await kernel.ask(parent, Call("go"))
                error = caught.value.__cause__
                assert isinstance(error, StartError)
                assert isinstance(error.reason, RuntimeError)
                assert kernel.statistics().actors == 0
                assert kernel.whereis("desk") is None
                await kernel.spawn(Recorder, name="desk")

        run(body())

    def test_an_init_that_raises_is_a_start_error_with_no_trace_left_S24(self, run) -> None:
        class Bad(Actor):
            def __init__(self) -> None:
                self.register("mine")
                raise ValueError("bad arguments")

        async def body() -> None:
            async with Kernel() as kernel:
                with pytest.raises(StartError, match=r"did not start: ValueError: bad arguments") as caught:
                    await kernel.spawn(Bad, name="desk", id="bad")
                assert isinstance(caught.value.__cause__, ValueError)
                assert caught.value.path == ("bad",)
                assert kernel.whereis("desk") is None
                assert kernel.whereis("mine") is None
                assert kernel.statistics().actors == 0

        run(body())

    def test_the_children_of_a_failed_start_end_with_it_S24(self, run) -> None:
        children: list[Any] = []

        async def begin(actor: Any) -> None:
            children.append(await actor.spawn(Recorder))
            raise RuntimeError("after the child")

        async def body() -> None:
            async with Kernel() as kernel:
                with pytest.raises(StartError):
                    await kernel.spawn(Starter, begin)
                assert not children[0].is_alive()

        run(body())

    @pytest.mark.parametrize("how", [ignore, ignore_at_once])
    def test_starting_may_answer_ignore_S25(self, run, how: Any) -> None:
        async def body() -> None:
            reports: list[Any] = []
            async with Kernel(observers=[reports.append]) as kernel:
                with pytest.raises(StartIgnored):
                    await kernel.spawn(Starter, how, name="desk")
                assert kernel.whereis("desk") is None
                assert reports == []

        run(body())

    def test_stopping_in_start_is_a_failed_start_with_that_reason(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                with pytest.raises(StartError) as caught:
                    await kernel.spawn(Starter, stop_in_start)
                assert caught.value.reason == Shutdown("changed my mind")

        run(body())

    def test_the_name_is_there_during_start_and_messages_wait_S26(self, run) -> None:
        async def look(actor: Any) -> None:
            actor.log.append(actor.whereis("desk") == actor.ref)
            await wait_for_gate(actor)
            actor.log.append("started")

        async def body() -> None:
            async with Kernel() as kernel:
                log: list[Any] = []
                spawned = asyncio.ensure_future(kernel.spawn(Starter, look, log, name="desk"))
                await asyncio.sleep(0)
                kernel.tell("desk", Note("early"))
                await kernel.idle()
                assert log == [True]
                actor_of(kernel.whereis("desk")).gate.set()
                await spawned
                await kernel.idle()
                assert log == [True, "started", "early"]

        run(body())

    def test_a_start_that_takes_too_long_is_killed_S27(self, run) -> None:
        async def body() -> None:
            clock = ManualClock()
            async with Kernel(clock=clock) as kernel:
                spawned = asyncio.ensure_future(
                    kernel.spawn(Starter, wait_for_gate, id="slow", name="desk", start_timeout=30)
                )
                await asyncio.sleep(0)
                await kernel.idle()
                clock.advance(30)
                with pytest.raises(StartError, match=r"took more than 30 s \(start_timeout\)") as caught:
                    await spawned
                assert caught.value.reason == Timeout()
                assert kernel.whereis("desk") is None
                assert kernel.find("slow") is None

        run(body())

    def test_a_cancelled_spawn_leaves_no_half_started_actor(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                spawned = asyncio.ensure_future(kernel.spawn(Starter, wait_for_gate, id="slow"))
                await kernel.idle()
                spawned.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await spawned
                assert kernel.find("slow") is None

        run(body())

    def test_an_exit_signal_during_start_ends_it(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                spawned = asyncio.ensure_future(kernel.spawn(Starter, wait_for_gate, id="slow"))
                await asyncio.sleep(0)
                await kernel.idle()
                kernel.exit("slow", Shutdown("never mind"))
                with pytest.raises(StartError) as caught:
                    await spawned
                assert caught.value.reason == Shutdown("never mind")

        run(body())

    def test_work_scheduled_by_start_runs_before_waiting_messages_S28(self, run) -> None:
        def begin(actor: Any) -> None:
            actor.tell(actor.ref, Note("told before"))
            actor.continue_with(Note("first"))
            actor.continue_with(Note("second"))

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Starter, begin)
                await kernel.idle()
                assert log_of(ref) == ["first", "second", "told before"]

        run(body())

    @pytest.mark.parametrize("id", ["", "a/b", 3])
    def test_a_wrong_id_is_refused(self, run, id: Any) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                with pytest.raises(SpecError, match="id of an actor"):
                    await kernel.spawn(Recorder, id=id)
                with pytest.raises(SpecError, match="subclass of Actor"):
                    await kernel.spawn(int)  # type: ignore[arg-type]

        run(body())

    def test_an_id_is_unique_among_the_children_of_one_parent(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                await kernel.spawn(Recorder, id="one")
                with pytest.raises(SpecError, match="has a child 'one' already"):
                    await kernel.spawn(Recorder, id="one")

        run(body())


class TestHandlers:
    def test_two_handlers_for_one_event_fail_at_import(self) -> None:
        with pytest.raises(HandlerError, match="two handlers for Note: one and two"):

            class Twice(Actor):
                @on(Note)
                def one(self, _: Note) -> None: ...

                @on(Note)
                def two(self, _: Note) -> None: ...

    def test_a_handler_that_does_not_take_an_event_fails_at_import(self) -> None:
        with pytest.raises(HandlerError, match="must take self and the event"):

            class Wrong(Actor):
                @on(Note)
                def note(self) -> None: ...

    @pytest.mark.parametrize("types", [(), ("Note",)])
    def test_on_takes_types(self, types: Any) -> None:
        with pytest.raises(HandlerError, match="event types"):
            on(*types)

    def test_a_subclass_takes_over_an_event_and_inherits_the_others(self, run) -> None:
        class Loud(Recorder):
            @on(Note)
            def shout(self, note: Note) -> None:
                self.log.append(note.text.upper())

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Loud)
                ref.tell(Note("quiet"))
                assert await kernel.ask(ref, Double(1)) == 2
                assert log_of(ref) == ["QUIET"]

        run(body())

    def test_a_handler_of_a_base_class_of_the_event_takes_it(self, run) -> None:
        class Everything(Actor):
            @on(object)
            def take(self, thing: object) -> str:
                return type(thing).__name__

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Everything)
                assert await kernel.ask(ref, Note("x")) == "Note"
                assert await kernel.ask(ref, "text") == "str"

        run(body())

    def test_a_plain_handler_may_return_a_coroutine(self, run) -> None:
        class Wrapped(Recorder):
            @on(Call)
            def call(self, call: Call) -> Any:
                return self.slowly(call.name)

            async def slowly(self, name: str) -> str:
                await asyncio.sleep(0)
                return name * 2

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Wrapped)
                assert [await kernel.ask(ref, Call("ab")) for _ in range(3)] == ["abab"] * 3

        run(body())

    def test_a_handler_that_raises_ends_the_actor_and_nothing_more_is_handled_S29(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                log: list[Any] = []
                ref = await kernel.spawn(Recorder, log)
                ref.tell(Note("before"))
                ref.tell(Boom())
                ref.tell(Note("after"))
                assert isinstance(await kernel.wait_stopped(ref.last_pid), RuntimeError)
                assert log == ["before"]

        run(body())

    def test_an_actor_may_take_strangers_itself_S29(self, run) -> None:
        class Open(Actor):
            def unhandled(self, event: Any) -> str:
                return f"stranger {type(event).__name__}"

        async def body() -> None:
            async with Kernel() as kernel:
                assert await kernel.ask(await kernel.spawn(Open), Note("x")) == "stranger Note"

        run(body())


class Stopper(Recorder):
    def __init__(self, log: list[Any]) -> None:
        super().__init__(log)

    async def stopping(self, reason: object) -> None:
        await asyncio.sleep(0)
        self.log.append(("stopping", reason))


class TestEnd:
    @pytest.mark.parametrize("reason", [Normal(), Shutdown(), Shutdown("detail"), "other"])
    def test_stopping_runs_once_and_last_for_every_end_in_order_S30(self, run, reason: object) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                log: list[Any] = []
                ref = await kernel.spawn(Stopper, log)
                ref.tell(Note("x"))
                await kernel.idle()
                assert await kernel.stop_and_wait(None, ref, reason, None) == reason
                assert log == ["x", ("stopping", reason)]

        run(body())

    def test_stopping_runs_after_a_crash_and_not_after_a_kill_S30(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                log: list[Any] = []
                ref = await kernel.spawn(Stopper, log)
                ref.tell(Boom())
                reason = await kernel.wait_stopped(ref.last_pid)
                assert log == [("stopping", reason)]
                log.clear()
                ref = await kernel.spawn(Stopper, log)
                kernel.kill(ref)
                await kernel.idle()
                assert log == []

        run(body())

    def test_mail_left_at_death_becomes_dead_letters_and_its_asks_fail_S31(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Recorder, id="victim")
                asked = asyncio.ensure_future(kernel.ask(ref, Wait()))
                await actor_of(ref).entered.wait()
                waiting = asyncio.ensure_future(kernel.ask(ref, Double(1)))
                ref.tell(Note("lost"))
                await kernel.idle()
                kernel.kill(ref)
                again = await kernel.spawn(Recorder, at=ref)
                for request in (asked, waiting):
                    with pytest.raises(ActorExited):
                        await request
                await kernel.idle()
                assert log_of(again) == []
                assert kernel.statistics().dead_letters == {"ended": 2}

        run(body())

    def test_whoever_hears_of_a_death_finds_the_name_free_S32(self, run) -> None:
        found: list[Any] = []

        class Watcher(Trapper):
            @on(Call)
            async def go(self, call: Call) -> None:
                self.child = await self.spawn(Recorder, name="desk", link=True)
                self.join_ = self.child

            @on(Exit)
            def hear(self, exit: Exit) -> None:
                found.append((self.whereis("desk"), exit.pid.is_alive() if exit.pid else None))
                self.register("desk")

        async def body() -> None:
            async with Kernel() as kernel:
                watcher = await kernel.spawn(Watcher)
                await kernel.ask(watcher, Call("go"))
                kernel.kill("desk")
                await kernel.idle()
                assert found == [(None, False)]
                assert kernel.whereis("desk") == watcher

        run(body())

    def test_stop_by_anyone_waits_for_the_end_S35(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                log: list[Any] = []
                ref = await kernel.spawn(Stopper, log)
                await kernel.stop_actor(ref)
                assert log == [("stopping", Normal())]
                with pytest.raises(NoProc):
                    await kernel.stop_actor(ref)
                with pytest.raises(NoProc):
                    await kernel.stop_actor("nobody")

        run(body())

    def test_stop_raises_what_the_actor_ended_with_instead_S35(self, run) -> None:
        class Bad(Recorder):
            def stopping(self, reason: object) -> None:
                raise RuntimeError("cannot stop")

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Bad)
                with pytest.raises(StopError, match="RuntimeError: cannot stop") as caught:
                    await kernel.stop_actor(ref)
                assert isinstance(caught.value.reason, RuntimeError)

        run(body())

    def test_a_stop_that_times_out_stands_S35(self, run) -> None:
        class Slow(Recorder):
            async def stopping(self, reason: object) -> None:
                await self.gate.wait()

        async def body() -> None:
            clock = ManualClock()
            async with Kernel(clock=clock) as kernel:
                ref = await kernel.spawn(Slow)
                gate = actor_of(ref).gate
                stopped = asyncio.ensure_future(kernel.stop_actor(ref, timeout=3))
                await asyncio.sleep(0)
                await kernel.idle()
                clock.advance(3)
                with pytest.raises(AskTimeout, match="the order stands"):
                    await stopped
                assert ref.is_alive()
                gate.set()
                await kernel.idle()
                assert not ref.is_alive()

        run(body())

    def test_an_actor_that_waits_for_its_own_end_is_told_so(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Scripted, {"go": lambda actor: actor.stop_actor(actor.ref)})
                with pytest.raises(ActorExited, match=r"use self.stop\(\)"):
                    await kernel.ask(ref, Call("go"))

        run(body())

    def test_nobody_outlives_its_parent_S39_S62(self, run) -> None:
        async def grow(actor: Any) -> None:
            child = await actor.spawn(Scripted, {"go": grow}, id="child")
            if len(actor.path) < 40:
                await actor.ask(child, Call("go"))

        async def body() -> None:
            async with Kernel() as kernel:
                for end in ("kill", "stop"):
                    top = await kernel.spawn(Scripted, {"go": grow}, id="top")
                    await kernel.ask(top, Call("go"))
                    assert kernel.statistics().actors > 5
                    if end == "kill":
                        kernel.kill(top)
                    else:
                        await kernel.stop_actor(top)
                    await kernel.idle()
                    assert kernel.statistics().actors == 0

        run(body())


class TestIdleness:
    def test_an_idle_timeout_comes_once_and_any_message_disarms_it_S33(self, run) -> None:
        async def body() -> None:
            clock = ManualClock()
            async with Kernel(clock=clock) as kernel:
                ref = await kernel.spawn(Scripted, {"arm": lambda actor: actor.idle_timeout(10)})
                await kernel.ask(ref, Call("arm"))
                clock.advance(9)
                ref.tell(Note("disarms"))
                await kernel.idle()
                clock.advance(9)
                await kernel.idle()
                assert log_of(ref) == ["disarms"]
                clock.advance(1)
                await kernel.idle()
                clock.advance(100)
                await kernel.idle()
                assert log_of(ref) == ["disarms", Timeout()]

        run(body())

    def test_an_idle_actor_hibernates_and_wakes_for_a_message_S34(self, run) -> None:
        class Sleeper(Recorder):
            hibernate_after = 60

            def hibernating(self) -> None:
                self.log.append("sleeps")

            async def waking(self) -> None:
                await asyncio.sleep(0)
                self.log.append("wakes")

        async def body() -> None:
            clock = ManualClock()
            async with Kernel(clock=clock) as kernel:
                ref = await kernel.spawn(Sleeper)
                clock.advance(59)
                ref.tell(Note("still up"))
                await kernel.idle()
                clock.advance(60)
                assert log_of(ref) == ["still up", "sleeps"]
                clock.advance(1000)
                for text in ("one", "two"):
                    ref.tell(Note(text))
                await kernel.idle()
                assert log_of(ref) == ["still up", "sleeps", "wakes", "one", "two"]
                clock.advance(60)
                assert log_of(ref)[-1] == "sleeps"

        run(body())

    def test_suspended_actors_keep_their_mail_and_still_hear_signals_S92(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Recorder)
                kernel.suspend(ref)
                ref.tell(Note("waits"))
                await kernel.idle()
                assert log_of(ref) == []
                kernel.resume(ref)
                await kernel.idle()
                assert log_of(ref) == ["waits"]
                kernel.suspend(ref)
                await kernel.stop_actor(ref)
                assert not ref.is_alive()

        run(body())


class TestReports:
    def test_a_crash_report_says_what_an_operator_asks_S76(self, run) -> None:
        async def body() -> None:
            reports: list[Any] = []
            async with Kernel(observers=[reports.append]) as kernel:
                ref = await kernel.spawn(Recorder, id="victim")
                ref.tell(Boom("a reason"))
                ref.tell(Note("waiting"))
                await kernel.wait_stopped(ref.last_pid)
                (report,) = [r for r in reports if isinstance(r, CrashReport)]
                assert report.path == "victim"
                assert report.actor_class == "Recorder"
                assert "a reason" in report.trace
                assert report.last_message == "Boom(text='a reason')"
                assert report.mailbox_types == ("Note x1",)
                assert report.handled == 1

        run(body())

    @pytest.mark.parametrize("reason", [Normal(), Shutdown(), Shutdown("x")])
    def test_an_orderly_end_makes_no_crash_report_S76(self, run, reason: object) -> None:
        async def body() -> None:
            reports: list[Any] = []
            async with Kernel(observers=[reports.append]) as kernel:
                ref = await kernel.spawn(Recorder)
                await kernel.stop_and_wait(None, ref, reason, None)
                assert reports == []

        run(body())

    def test_a_describe_that_raises_loses_neither_report_nor_actor_S77(self, run) -> None:
        class Shy(Recorder):
            def describe(self) -> dict[str, object]:
                raise RuntimeError("no")

        async def body() -> None:
            reports: list[Any] = []
            async with Kernel(observers=[reports.append]) as kernel:
                ref = await kernel.spawn(Shy)
                ref.tell(Boom())
                await kernel.wait_stopped(ref.last_pid)
                assert "describe() failed: RuntimeError" in reports[0].state

        run(body())

    def test_an_observer_that_raises_is_removed(self, run, caplog) -> None:
        def bad(report: Any) -> None:
            raise RuntimeError("bad observer")

        async def body() -> None:
            reports: list[Any] = []
            async with Kernel(observers=[bad, reports.append]) as kernel:
                for _ in range(2):
                    ref = await kernel.spawn(Recorder)
                    ref.tell(Boom())
                    await kernel.wait_stopped(ref.last_pid)
                assert len(reports) == 2
                assert kernel.observers == [reports.append]
                assert "bad observer" in caplog.text

        run(body())

    def test_killed_is_abnormal(self, run) -> None:
        async def body() -> None:
            reports: list[Any] = []
            async with Kernel(observers=[reports.append]) as kernel:
                ref = await kernel.spawn(Recorder)
                kernel.kill(ref)
                assert reports[0].reason == Killed()

        run(body())
