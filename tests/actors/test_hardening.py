"""What one actor's code may never do to another, to its asker or to the VM: each of these was found by attack."""

from __future__ import annotations

import abc
import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from avm.actors import (
    CrashReport,
    Down,
    Kernel,
    Killed,
    Normal,
    PendingReply,
    Request,
    StopActor,
    event,
    on,
)
from avm.errors import (
    ActorDead,
    ActorExited,
    CallingSelf,
    PackError,
    Refuse,
    SpecError,
    StartError,
)
from avm.router import Router
from avm.supervision import child, start_tree, supervisor
from avm.testing import ManualClock
from tests.actors.cast import Call, Note, Recorder, Scripted, actor_of, log_of

LIMIT = 1.0
"""Seconds an ask may take that would hang without the rule it is about."""


@event
class Order(Request[Any]):
    """Runs the function of that name, as `Call` does, in a plain `def` handler."""

    name: str


class AtOnce(Recorder):
    """Its handler is a plain function, so a request is handled in the task of whoever asks."""

    def __init__(self, script: dict[str, Callable[[Any], Any]]) -> None:
        super().__init__()
        self.script = script

    @on(Order)
    def order(self, order: Order) -> Any:
        return self.script[order.name](self)


class Unspeakable(Exception):
    """Cannot be put in words."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class Exits:
    """Ends the program when it is put in words."""

    def __repr__(self) -> str:
        sys.exit(3)


def raising(error: BaseException) -> Callable[[Any], Any]:
    def fail(_: Any) -> None:
        raise error

    return fail


def bugs_of(kernel: Kernel) -> list[BaseException]:
    """Where the kernel tells of bugs of its own."""
    bugs: list[BaseException] = []
    kernel.on_bug = bugs.append
    return bugs


class Slow(Recorder):
    """Takes for ever to stop."""

    async def stopping(self, reason: object) -> None:
        await asyncio.Event().wait()


class TestWhatAnActorSaysOfItself:
    @pytest.mark.parametrize("actor, request_of", [(Scripted, Call), (AtOnce, Order)])
    def test_an_error_that_cannot_be_put_in_words_ends_its_actor_and_is_told_S13_S32_S99(
        self, run, actor: Any, request_of: Any
    ) -> None:
        async def body() -> None:
            async with Kernel(observers=[lambda report: None]) as kernel:
                bugs = bugs_of(kernel)
                ref = await kernel.spawn(actor, {"go": raising(Unspeakable())})
                watcher = await kernel.spawn(Scripted, {"watch": lambda a: a.monitor(ref) and None})
                await kernel.ask(watcher, Call("watch"))
                with pytest.raises(ActorExited, match=r"Unspeakable \(its text failed with ValueError\)"):
                    await kernel.ask(ref, request_of("go"), LIMIT)
                await kernel.idle()
                assert [type(e) for e in log_of(watcher)] == [Down]
                assert not bugs

        run(body())

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Unspeakable()])
    def test_a_describe_that_raises_whatever_it_is_does_not_lose_the_report_S77_S99(
        self, run, error: BaseException
    ) -> None:
        class Silent(Scripted):
            def describe(self) -> dict[str, object]:
                raise error

        async def body() -> None:
            reports: list[Any] = []
            async with Kernel(observers=[reports.append]) as kernel:
                bugs = bugs_of(kernel)
                ref = await kernel.spawn(Silent, {"go": raising(ValueError("boom"))})
                with pytest.raises(ActorExited):
                    await kernel.ask(ref, Call("go"), LIMIT)
                report = next(r for r in reports if type(r) is CrashReport)
                assert report.state.startswith("(describe() failed")
                assert not bugs

        run(body())

    def test_an_observer_that_exits_is_removed_and_the_end_goes_on_S32_S99(self, run) -> None:
        async def body() -> None:
            async with Kernel(observers=[raising(SystemExit(3))]) as kernel:
                bugs = bugs_of(kernel)
                ref = await kernel.spawn(Scripted, {"go": raising(ValueError("boom"))})
                with pytest.raises(ActorExited):
                    await kernel.ask(ref, Call("go"), LIMIT)
                assert not bugs
                assert not kernel.observers

        run(body())

    def test_a_crash_in_a_def_handler_is_reported_with_its_event_which_is_no_dead_letter_S31_S76(
        self, run
    ) -> None:
        async def body() -> None:
            reports: list[Any] = []
            async with Kernel(observers=[reports.append]) as kernel:
                ref = await kernel.spawn(AtOnce, {"go": raising(ValueError("boom"))})
                with pytest.raises(ActorExited):
                    await kernel.ask(ref, Order("go"), LIMIT)
                report = next(r for r in reports if type(r) is CrashReport)
                assert (report.last_message, report.mailbox) == ("Order(name='go')", 0)
                assert not kernel.dead_letters

        run(body())

    def test_hibernating_that_exits_ends_the_actor_and_nothing_else_S98_S99(self, run) -> None:
        class Sleeper(Recorder):
            hibernate_after = 1.0

            def hibernating(self) -> None:
                sys.exit(3)

        async def body() -> None:
            clock = ManualClock()
            async with Kernel(clock=clock) as kernel:
                ref = await kernel.spawn(Sleeper)
                clock.advance(1.0)
                await kernel.idle()
                assert isinstance(ref.cell.reason, SystemExit)

        run(body())

    @pytest.mark.parametrize("what", [[Unspeakable()], Exits()])
    def test_an_argument_without_words_is_no_obstacle_for_its_supervisor_S52_S74(
        self, run, what: Any
    ) -> None:
        async def body() -> None:
            tree = supervisor("top", children=[child("one", Recorder, what)])
            assert "its repr failed" in str(tree)
            async with Kernel() as kernel:
                ref = await start_tree(kernel, tree)
                assert ref.is_alive()

        run(body())


class TestRefusing:
    @pytest.mark.parametrize(
        "error",
        [StopIteration(1), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()],
    )
    @pytest.mark.parametrize("actor, request_of", [(Scripted, Call), (AtOnce, Order)])
    def test_what_would_end_the_asker_comes_as_a_refusal_S99(
        self, run, error: BaseException, actor: Any, request_of: Any
    ) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                bugs = bugs_of(kernel)
                ref = await kernel.spawn(actor, {"go": raising(Refuse(error))})
                with pytest.raises(Refuse) as caught:
                    await kernel.ask(ref, request_of("go"), LIMIT)
                assert caught.value.__cause__ is error
                assert ref.is_alive()
                assert not bugs

        run(body())

    @pytest.mark.parametrize("error", [StopIteration(1), SystemExit(1)])
    def test_a_deferred_reply_that_fails_with_it_comes_as_a_refusal_too_S17_S99(
        self, run, error: BaseException
    ) -> None:
        def defer(actor: Any) -> None:
            actor.defer().fail(error)

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Scripted, {"go": defer})
                with pytest.raises(Refuse):
                    await kernel.ask(ref, Call("go"), LIMIT)
                assert ref.is_alive()

        run(body())

    @pytest.mark.parametrize("first", ["defer", "postpone", "both"])
    @pytest.mark.parametrize("actor, request_of", [(Scripted, Call), (AtOnce, Order)])
    def test_a_refusal_takes_back_what_the_handler_asked_for_besides_S7_S13(
        self, run, first: str, actor: Any, request_of: Any
    ) -> None:
        def refuse(actor: Any) -> None:
            if first in ("defer", "both"):
                actor.defer()
            if first in ("postpone", "both"):
                actor.postpone()
            raise Refuse(ValueError("no"))

        def later(actor: Any) -> str:
            # Something out of the ordinary, so that what is left over would be looked at.
            actor.continue_with(Note("more"))
            return "reply"

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(actor, {"refuse": refuse, "later": later})
                with pytest.raises(ValueError, match="no"):
                    await kernel.ask(ref, request_of("refuse"), LIMIT)
                assert await kernel.ask(ref, request_of("later"), LIMIT) == "reply"

        run(body())

    def test_an_event_both_deferred_and_postponed_leaves_the_next_alone_S7_S17(self, run) -> None:
        def both(actor: Any) -> None:
            kept.append(actor.defer())
            actor.postpone()

        def later(actor: Any) -> str:
            actor.continue_with(Note("more"))
            return "reply"

        kept: list[PendingReply] = []

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Scripted, {"both": both, "later": later})
                asked = asyncio.create_task(kernel.ask(ref, Call("both")))
                await kernel.idle()
                assert await kernel.ask(ref, Call("later"), LIMIT) == "reply"
                kept[0].send("at last")
                assert await asked == "at last"

        run(body())


class TestStart:
    def test_a_class_that_cannot_be_made_is_a_start_error_and_leaves_nothing_S23_S24(self, run) -> None:
        class Unfinished(Recorder, abc.ABC):
            def starting(self) -> None: ...

            @abc.abstractmethod
            def method(self) -> None: ...

        async def body() -> None:
            async with Kernel() as kernel:
                with pytest.raises(StartError, match="abstract"):
                    await kernel.spawn(Unfinished, name="desk")
                assert kernel.statistics().actors == 0
                assert kernel.whereis("desk") is None

        run(body())

    @pytest.mark.parametrize("wrong", ["x", -1, float("nan"), True])
    def test_a_start_timeout_that_is_no_time_is_refused_before_anything_starts_S24_S27(
        self, run, wrong: Any
    ) -> None:
        class Ready(Recorder):
            def starting(self) -> None: ...

        async def body() -> None:
            async with Kernel() as kernel:
                with pytest.raises(ValueError, match="start_timeout"):
                    await kernel.spawn(Ready, start_timeout=wrong)
                assert kernel.statistics().started == 0

        run(body())

    def test_a_place_that_is_taken_again_is_not_filled_twice_S24_S62(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                first = await kernel.spawn(Recorder, id="a")
                kernel.kill(first)
                second = await kernel.spawn(Recorder, id="a")
                with pytest.raises(SpecError, match="a#2 lives"):
                    await kernel.spawn(Recorder, at=first)
                assert [c.ref for c in kernel.cells()] == [second]

        run(body())

    def test_of_two_starts_at_one_place_the_second_is_refused_while_the_first_is_starting_S24(
        self, run
    ) -> None:
        class Starter(Recorder):
            async def starting(self) -> None:
                await asyncio.sleep(0)

        async def body() -> None:
            async with Kernel() as kernel:
                place = await kernel.spawn(Starter)
                kernel.kill(place)
                starts = (kernel.spawn(Starter, at=place), kernel.spawn(Starter, at=place))
                first, second = await asyncio.gather(*starts, return_exceptions=True)
                assert first == place
                assert isinstance(second, SpecError)
                assert kernel.statistics().actors == 1

        run(body())

    @pytest.mark.parametrize("has_starting", [False, True])
    def test_an_actor_that_stops_itself_in_init_did_not_start_S23(self, run, has_starting: bool) -> None:
        class Reluctant(Recorder):
            def __init__(self) -> None:
                self.tell(self.pid, Note("never read"))
                self.stop(ValueError("changed my mind"))
                self.reached = True

            if has_starting:

                def starting(self) -> None: ...

        async def body() -> None:
            async with Kernel() as kernel:
                with pytest.raises(StartError, match="changed my mind") as caught:
                    await kernel.spawn(Reluctant)
                assert isinstance(caught.value.reason, ValueError)
                await kernel.idle()
                assert kernel.statistics().actors == 0
                assert kernel.dead_letters == {"ended": 1}

        run(body())

    def test_an_actor_that_is_killed_in_init_did_not_start_S23_S24(self, run) -> None:
        class Victim(Recorder):
            def __init__(self) -> None:
                self.kill(self.pid)

        async def body() -> None:
            async with Kernel() as kernel:
                with pytest.raises(StartError) as caught:
                    await kernel.spawn(Victim)
                assert caught.value.reason == Killed()

        run(body())

    def test_what_leaves_init_is_mapped_to_a_reason_as_anywhere_S98(self, run) -> None:
        class Stops(Recorder):
            def __init__(self) -> None:
                raise StopActor(ValueError("why"))

        class Interrupted(Recorder):
            def __init__(self) -> None:
                raise KeyboardInterrupt

        async def body() -> None:
            async with Kernel() as kernel:
                interrupts: list[int] = []
                kernel.on_interrupt = lambda: interrupts.append(1)
                with pytest.raises(StartError) as caught:
                    await kernel.spawn(Stops)
                assert isinstance(caught.value.reason, ValueError)
                with pytest.raises(StartError):
                    await kernel.spawn(Interrupted)
                assert interrupts == [1]

        run(body())

    def test_init_runs_as_the_new_actor_and_the_starter_goes_on_as_itself_S23(self, run) -> None:
        class Child(Recorder):
            def __init__(self) -> None:
                self.seen = self._cell.kernel.current()

        async def start(actor: Any) -> list[Any]:
            before = actor._cell.kernel.current()
            ref = await actor.spawn(Child)
            return [before.pid, actor_of(ref).seen.pid == ref.last_pid, actor._cell.kernel.current().pid]

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Scripted, {"start": start})
                assert await kernel.ask(ref, Call("start")) == [ref.last_pid, True, ref.last_pid]
                assert kernel.current() is None

        run(body())

    def test_an_actor_that_subscribes_in_init_subscribes_itself_S23_S82(self, run) -> None:
        class Reader(Recorder):
            def __init__(self) -> None:
                super().__init__()
                self.service("router").subscribe("news")

        async def body() -> None:
            async with Kernel() as kernel:
                router = kernel.services["router"] = Router(kernel)
                parent = await kernel.spawn(Scripted, {"start": lambda a: a.spawn(Reader)})
                ref = await kernel.ask(parent, Call("start"))
                assert router.publish("news", Note("read all about it")) == 1
                await kernel.idle()
                assert log_of(ref) == ["read all about it"]

        run(body())

    def test_the_starter_is_itself_again_after_an_init_that_failed_S24(self, run) -> None:
        class Bad(Recorder):
            def __init__(self) -> None:
                raise ValueError

        async def body() -> None:
            async with Kernel() as kernel:
                with pytest.raises(StartError):
                    await kernel.spawn(Bad)
                assert kernel.current() is None

        run(body())

    def test_the_cause_of_a_failed_init_is_never_the_error_itself_S24(self, run) -> None:
        class Bad(Recorder):
            def __init__(self) -> None:
                raise StartError("the one below did not start")

        async def body() -> None:
            async with Kernel() as kernel:
                with pytest.raises(StartError) as caught:
                    await kernel.spawn(Bad)
                assert caught.value.__cause__ is not caught.value

        run(body())


class TestEnd:
    def test_a_generator_that_exits_while_it_is_closed_does_not_keep_its_actor_S99(self, run) -> None:
        async def numbers() -> Any:
            try:
                yield 1
            finally:
                sys.exit(4)

        async def begin(actor: Any) -> None:
            actor.numbers = numbers()
            await anext(actor.numbers)

        async def body() -> None:
            async with Kernel() as kernel:
                bugs = bugs_of(kernel)
                ref = await kernel.spawn(Scripted, {"begin": begin})
                await kernel.ask(ref, Call("begin"))
                await kernel.stop_actor(ref, timeout=LIMIT)
                assert ref.last_pid.cell.reason == Normal()
                assert not bugs

        run(body())

    def test_a_def_handler_that_stops_its_actor_goes_on_and_its_reply_arrives_S21_S29(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                other = await kernel.spawn(Recorder)

                def bye(actor: Any) -> int:
                    actor.stop()
                    actor.tell(other, Note("last words"))
                    return 5

                ref = await kernel.spawn(AtOnce, {"bye": bye})
                assert await kernel.ask(ref, Order("bye"), LIMIT) == 5
                await kernel.idle()
                assert log_of(other) == ["last words"]
                assert not ref.is_alive()

        run(body())

    @pytest.mark.parametrize("actor, request_of", [(Scripted, Call), (AtOnce, Order)])
    @pytest.mark.parametrize("first", ["stop", "continue_with"])
    def test_a_reply_that_cannot_be_sent_is_the_end_and_whoever_asked_hears_it_S4_S13_S21(
        self, run, first: str, actor: Any, request_of: Any
    ) -> None:
        def go(actor: Any) -> object:
            if first == "stop":
                actor.stop()
            else:
                actor.continue_with(Note("more"))
            return object()

        async def body() -> None:
            async with Kernel() as kernel:
                bugs = bugs_of(kernel)
                ref = await kernel.spawn(actor, {"go": go})
                with pytest.raises(ActorExited) as caught:
                    await kernel.ask(ref, request_of("go"), LIMIT)
                assert isinstance(caught.value.reason, PackError)
                await kernel.idle()
                assert not ref.is_alive()
                assert not bugs

        run(body())

    def test_stopping_may_not_start_children_S30(self, run) -> None:
        class Late(Recorder):
            async def stopping(self, reason: object) -> None:
                try:
                    await self.spawn(Recorder)
                except ActorDead as error:
                    refused.append(str(error))

        refused: list[str] = []

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Late, id="late")
                await kernel.stop_actor(ref)
                assert refused == ["late#1 is stopping and cannot start Recorder."]
                assert kernel.statistics().started == 1

        run(body())

    def test_what_a_killed_parent_leaves_behind_has_a_limit_S58_S62(self, run) -> None:
        async def body() -> None:
            clock = ManualClock()
            async with Kernel(clock=clock) as kernel:
                parent = await kernel.spawn(Scripted, {"start": lambda a: a.spawn(Slow, name="desk")})
                ref = await kernel.ask(parent, Call("start"))
                kernel.kill(parent)
                clock.advance(4.9)
                await kernel.idle()
                assert ref.is_alive()
                clock.advance(0.1)
                await kernel.idle()
                assert ref.last_pid.cell.reason == Killed()
                assert kernel.whereis("desk") is None

        run(body())

    def test_a_deep_tree_that_does_not_end_is_killed_at_the_close_S102(self, run) -> None:
        async def body() -> None:
            kernel = Kernel()
            ref = await kernel.spawn(Scripted, {"start": lambda a: a.spawn(Slow)})
            for _ in range(1100):
                ref = await ref.cell.actor.spawn(Slow)
            await kernel.close(timeout=0.01)
            assert kernel.statistics().actors == 0

        run(body())

    def test_what_is_below_those_left_behind_is_killed_at_the_close_too_S62_S102(self, run) -> None:
        async def body() -> None:
            kernel = Kernel()
            top = await kernel.spawn(Recorder)
            middle = await actor_of(top).spawn(Slow)
            below = await actor_of(middle).spawn(Slow)
            kernel.kill(top)
            await kernel.close(timeout=0.01)
            assert not below.is_alive()
            assert kernel.statistics().actors == 0

        run(body())

    def test_a_program_that_leaves_a_kernel_open_ends_all_the_same_S102(self, tmp_path: Any) -> None:
        program = textwrap.dedent("""
            import asyncio
            from avm.actors import Actor, Kernel, event, on

            @event(tag="left.Go")
            class Go: ...

            class Waits(Actor):
                @on(Go)
                async def go(self, _):
                    await asyncio.sleep(100)

            class Swallows(Actor):
                @on(Go)
                async def go(self, _):
                    try:
                        await asyncio.sleep(100)
                    except asyncio.CancelledError:
                        pass

            class CleansUp(Waits):
                async def stopping(self, reason):
                    async with asyncio.TaskGroup() as group:
                        group.create_task(asyncio.sleep(0))
                    print(type(reason).__name__, end="")

            async def main():
                kernel = Kernel()
                for actor in (Waits, Swallows, CleansUp):
                    (await kernel.spawn(actor)).tell(Go())
                await kernel.idle()

            asyncio.run(main())
        """)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
        assert (done.returncode, done.stdout) == (0, "Cancelled")

    def test_waiting_for_ones_own_end_is_refused_S18(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Scripted, {"go": lambda a: a.wait_stopped(a.pid)})
                with pytest.raises(ActorExited) as caught:
                    await kernel.ask(ref, Call("go"), LIMIT)
                assert isinstance(caught.value.reason, CallingSelf)

        run(body())

    def test_a_task_beside_the_mailbox_may_wait_for_it_S18_S97(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Scripted, {"go": lambda a: a.pipe(a.wait_stopped(a.pid)) and None})
                await kernel.ask(ref, Call("go"), LIMIT)
                await kernel.idle()
                assert ref.is_alive()
                await kernel.stop_actor(ref, timeout=LIMIT)

        run(body())


class TestDown:
    @pytest.mark.parametrize("overflow", ["reject", "drop_oldest", "drop_newest", "block", "kill"])
    def test_a_full_mailbox_takes_it_S10_S46(self, run, overflow: str) -> None:
        class Narrow(Scripted):
            max_mailbox = 2

        Narrow.__avm_behaviour__.overflow = overflow

        async def body() -> None:
            async with Kernel() as kernel:
                peer = await kernel.spawn(Recorder)

                async def watch(actor: Any) -> None:
                    actor.monitor(peer)
                    actor.monitor("nobody")
                    actor.entered.set()
                    await actor.gate.wait()

                log: list[Any] = []
                ref = await kernel.spawn(Narrow, {"watch": watch}, log)
                ref.tell(Call("watch"))
                await actor_of(ref).entered.wait()
                kernel.kill(peer)
                ref.tell(Note("one"))
                actor_of(ref).gate.set()
                await kernel.idle()
                downs = [e for e in log if isinstance(e, Down)]
                assert len(downs) == 2
                assert "one" in log

        run(body())
