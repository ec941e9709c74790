"""Where Python is not BEAM: kill and cancel, what escapes a handler, threads, the end of the loop (S94-S103)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest

from avm.actors import Actor, Kernel, Killed, Normal, Request, Shutdown, StopActor, event, on
from avm.actors.signals import Cancelled
from avm.errors import ActorDead, ActorExited, AskTimeout, VMError


@event
class Do(Request[Any]):
    what: str


@event
class Note:
    text: str


class Doer(Actor):
    """Runs the method named in the event."""

    def __init__(self, log: list[Any] | None = None) -> None:
        self.log = [] if log is None else log

    @on(Do)
    async def do(self, request: Do) -> Any:
        return await getattr(self, request.what)()

    @on(Note)
    async def note(self, note: Note) -> None:
        self.log.append(note.text)


async def reason_after(kernel: Kernel, cls: type[Actor], what: str) -> object:
    ref = await kernel.spawn(cls)
    ref.tell(Do(what))
    return await kernel.wait_stopped(ref.last_pid)


async def inside(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 5)


class TestKill:
    def test_a_killed_actor_is_dead_for_all_when_kill_returns_S94(self, run) -> None:
        class Waiter(Doer):
            async def work(self) -> None:
                self.entered.set()
                await asyncio.sleep(10)

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Waiter, name="victim")
                entered = ref.cell.actor.entered = asyncio.Event()
                asked = asyncio.ensure_future(kernel.ask(ref, Do("work")))
                await inside(entered)

                kernel.kill(ref)

                assert not ref.is_alive()
                assert kernel.whereis("victim") is None
                assert ref.last_pid.cell.reason == Killed()
                with pytest.raises(ActorExited):
                    await asked

        run(body())

    def test_what_a_zombie_does_through_avm_is_refused_and_its_actor_gets_nothing_S94(self, run) -> None:
        class Stubborn(Doer):
            async def work(self) -> None:
                self.entered.set()
                for attempt in range(3):
                    try:
                        await asyncio.sleep(10)
                    except asyncio.CancelledError:
                        self.log.append(f"cancel {attempt}")
                for act in (
                    lambda: self.tell(self.peer, Note("from a zombie")),
                    lambda: self.send_after(0, self.peer, Note("late")),
                    lambda: self.monitor(self.peer),
                    lambda: self.link(self.peer),
                    lambda: self.register("name"),
                    lambda: self.join("group"),
                    lambda: self.stop(),
                ):
                    try:
                        act()
                        self.log.append("allowed")
                    except ActorDead:
                        self.log.append("refused")
                for wait in (lambda: self.ask(self.peer, Do("x")), lambda: self.spawn(Doer)):
                    try:
                        await wait()
                        self.log.append("allowed")
                    except ActorDead:
                        self.log.append("refused")
                    except asyncio.CancelledError:
                        self.log.append("cancelled")
                self.gone.set()

        async def body() -> None:
            async with Kernel() as kernel:
                peer = await kernel.spawn(Doer)
                log: list[Any] = []
                ref = await kernel.spawn(Stubborn, log)
                actor: Any = ref.cell.actor
                actor.entered, actor.gone, actor.peer = asyncio.Event(), asyncio.Event(), peer
                ref.tell(Do("work"))
                await inside(actor.entered)
                kernel.kill(ref)
                assert kernel.statistics().zombies == 1
                await inside(actor.gone)
                await kernel.idle()
                assert log[:3] == ["cancel 0", "cancel 1", "cancel 2"]
                assert "allowed" not in log
                assert log.count("refused") >= 7
                assert peer.cell.actor.log == []
                assert kernel.statistics().zombies == 0

        run(body())

    def test_the_replacement_runs_beside_the_zombie_S94(self, run) -> None:
        class Stubborn(Doer):
            async def work(self) -> str:
                self.entered.set()
                while not self.let_go.is_set():
                    try:
                        await self.let_go.wait()
                    except asyncio.CancelledError:
                        pass
                return "zombie"

            async def quick(self) -> str:
                return "replacement"

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Stubborn, id="worker")
                old: Any = ref.cell.actor
                old.entered, old.let_go = asyncio.Event(), asyncio.Event()
                ref.tell(Do("work"))
                await inside(old.entered)
                kernel.kill(ref)

                again = await kernel.spawn(Stubborn, at=ref)

                assert await kernel.ask(again, Do("quick")) == "replacement"
                old.let_go.set()
                await kernel.idle()

        run(body())


class TestCancel:
    def test_a_stop_interrupts_a_handler_that_waits_and_then_runs_stopping_S95(self, run) -> None:
        class Waiter(Doer):
            async def work(self) -> None:
                self.log.append("began")
                self.entered.set()
                await asyncio.sleep(10)

            async def stopping(self, reason: object) -> None:
                await asyncio.sleep(0)
                self.log.append(reason)

        async def body() -> None:
            async with Kernel() as kernel:
                log: list[Any] = []
                ref = await kernel.spawn(Waiter, log)
                entered = ref.cell.actor.entered = asyncio.Event()
                ref.tell(Do("work"))
                await inside(entered)
                await kernel.stop_actor(ref, Shutdown())
                assert log == ["began", Shutdown()]

        run(body())

    def test_a_handler_that_swallows_the_cancel_is_cancelled_at_each_later_await_S95(self, run) -> None:
        class Swallower(Doer):
            async def work(self) -> None:
                self.entered.set()
                for n in range(3):
                    try:
                        await asyncio.sleep(10)
                    except asyncio.CancelledError:
                        self.log.append(n)
                await asyncio.sleep(10)

        async def body() -> None:
            async with Kernel() as kernel:
                log: list[Any] = []
                ref = await kernel.spawn(Swallower, log)
                entered = ref.cell.actor.entered = asyncio.Event()
                ref.tell(Do("work"))
                await inside(entered)
                assert await kernel.stop_and_wait(None, ref.last_pid, Shutdown("enough"), 5) == Shutdown(
                    "enough"
                )
                assert log == [0, 1, 2]

        run(body())

    def test_a_protected_section_is_finished_before_the_cancel_acts_S95(self, run) -> None:
        class Writer(Doer):
            async def work(self) -> None:
                with self.protected():
                    self.entered.set()
                    for _ in range(5):
                        await asyncio.sleep(0.001)
                    self.log.append("written")
                await asyncio.sleep(10)
                self.log.append("never")

        async def body() -> None:
            async with Kernel() as kernel:
                log: list[Any] = []
                ref = await kernel.spawn(Writer, log)
                entered = ref.cell.actor.entered = asyncio.Event()
                ref.tell(Do("work"))
                await inside(entered)
                await kernel.stop_actor(ref, Shutdown(), timeout=5)
                assert log == ["written"]

        run(body())

    def test_kill_does_not_wait_for_a_protected_section_S94(self, run) -> None:
        class Writer(Doer):
            async def work(self) -> None:
                with self.protected():
                    self.entered.set()
                    await asyncio.sleep(10)

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Writer)
                entered = ref.cell.actor.entered = asyncio.Event()
                ref.tell(Do("work"))
                await inside(entered)
                kernel.kill(ref)
                assert not ref.is_alive()
                await asyncio.sleep(0.01)
                assert kernel.statistics().zombies == 0

        run(body())

    def test_a_plain_handler_is_not_interrupted_and_the_stop_acts_when_it_returns_S100(self, run) -> None:
        class Plain(Actor):
            def __init__(self, log: list[str]) -> None:
                self.log = log

            @on(Do)
            def do(self, request: Do) -> str:
                self.exit(self.pid, Shutdown("mid-way"))
                self.log.append("ran to its end")
                return "done"

        async def body() -> None:
            async with Kernel() as kernel:
                log: list[str] = []
                ref = await kernel.spawn(Plain, log)
                ref.tell(Do("x"))
                ref.tell(Do("y"))
                assert await kernel.wait_stopped(ref.last_pid) == Shutdown("mid-way")
                assert log == ["ran to its end"]

        run(body())

    def test_a_plain_handler_that_kills_itself_is_dead_at_once_S100(self, run) -> None:
        class Plain(Actor):
            def __init__(self, log: list[object]) -> None:
                self.log = log

            @on(Do)
            def do(self, request: Do) -> str:
                pid = self.pid
                self.kill(pid)
                self.log.append(pid.is_alive())
                return "done"

        async def body() -> None:
            async with Kernel() as kernel:
                log: list[object] = []
                ref = await kernel.spawn(Plain, log)
                with pytest.raises(ActorExited):
                    await kernel.ask(ref, Do("x"))
                assert log == [False]

        run(body())


class TestWhatEscapes:
    """The table of S98."""

    class Escaper(Doer):
        async def returns(self) -> None: ...

        async def stops(self) -> None:
            self.stop()

        async def stops_with(self) -> None:
            self.stop(Shutdown("mine"))

        async def raises_stop(self) -> None:
            raise StopActor(Shutdown("raised"))

        async def recursion(self) -> None:
            raise RecursionError("deep")

        async def memory(self) -> None:
            raise MemoryError("full")

        async def exits(self) -> None:
            sys.exit(3)

        async def foreign_cancel(self) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

        async def cancelled(self) -> None:
            raise asyncio.CancelledError

        async def generator_exit(self) -> None:
            raise GeneratorExit

        async def group(self) -> None:
            raise ExceptionGroup("two", [ValueError(1), KeyError(2)])

        async def group_of_stops(self) -> None:
            raise BaseExceptionGroup("stops", [StopActor(Shutdown("first")), StopActor(Normal())])

        async def mixed_group(self) -> None:
            raise BaseExceptionGroup("mixed", [StopActor(Normal()), ValueError(1)])

        async def base(self) -> None:
            class Odd(BaseException):
                pass

            raise Odd("odd")

    @pytest.mark.parametrize(
        "what, reason",
        [
            ("stops", Normal()),
            ("stops_with", Shutdown("mine")),
            ("raises_stop", Shutdown("raised")),
            ("foreign_cancel", Cancelled()),
            ("cancelled", Cancelled()),
            ("generator_exit", Cancelled()),
            ("group_of_stops", Shutdown("first")),
        ],
    )
    def test_it_becomes_a_reason_S98(self, run, what: str, reason: object) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                assert await reason_after(kernel, self.Escaper, what) == reason

        run(body())

    @pytest.mark.parametrize(
        "what, kind",
        [
            ("recursion", RecursionError),
            ("memory", MemoryError),
            ("exits", SystemExit),
            ("group", ExceptionGroup),
            ("mixed_group", BaseExceptionGroup),
            ("base", BaseException),
        ],
    )
    def test_an_exception_is_the_reason_and_everyone_else_goes_on_S98_S99(
        self, run, what: str, kind: type
    ) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                other = await kernel.spawn(self.Escaper)
                reason = await reason_after(kernel, self.Escaper, what)
                assert isinstance(reason, kind)
                assert await kernel.ask(other, Do("returns")) is None

        run(body())

    def test_a_keyboard_interrupt_ends_the_actor_and_asks_the_system_to_stop_S98(self, run) -> None:
        class Interrupted(Doer):
            async def work(self) -> None:
                raise KeyboardInterrupt

        async def body() -> None:
            async with Kernel() as kernel:
                asked: list[bool] = []
                kernel.on_interrupt = lambda: asked.append(True)
                assert await reason_after(kernel, Interrupted, "work") == Shutdown("interrupt")
                assert asked == [True]

        run(body())

    def test_a_failing_stopping_replaces_the_reason_S30(self, run) -> None:
        class Bad(Doer):
            async def work(self) -> None:
                raise RuntimeError("first")

            def stopping(self, reason: object) -> None:
                raise ValueError("second")

        async def body() -> None:
            async with Kernel() as kernel:
                assert repr(await reason_after(kernel, Bad, "work")) == "ValueError('second')"

        run(body())


class TestOwnedTasks:
    def test_a_piped_result_comes_back_as_an_event_while_the_mailbox_is_open_S97(self, run) -> None:
        class Piper(Doer):
            async def work(self) -> None:
                self.pipe(self.slow(), into=Note)

            async def slow(self) -> str:
                await self.go.wait()
                return "piped"

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Piper)
                actor: Any = ref.cell.actor
                actor.go = asyncio.Event()
                await kernel.ask(ref, Do("work"))
                ref.tell(Note("between"))
                await kernel.idle()
                actor.go.set()
                await asyncio.sleep(0)
                await kernel.idle()
                assert actor.log == ["between", "piped"]

        run(body())

    def test_a_failing_piped_task_ends_its_actor_unless_the_error_is_taken_S97(self, run) -> None:
        class Piper(Doer):
            async def fatal(self) -> None:
                self.pipe(self.bad())

            async def taken(self) -> None:
                self.pipe(self.bad(), on_error=lambda error: Note(str(error)))

            async def bad(self) -> None:
                raise RuntimeError("bad")

        async def body() -> None:
            async with Kernel() as kernel:
                reason = await reason_after(kernel, Piper, "fatal")
                assert isinstance(reason, RuntimeError)
                ref = await kernel.spawn(Piper)
                await kernel.ask(ref, Do("taken"))
                await asyncio.sleep(0)
                await kernel.idle()
                assert ref.cell.actor.log == ["bad"]

        run(body())

    @pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
    def test_what_would_stop_the_loop_does_not_leave_a_piped_task_S98_S99(self, run, error: type) -> None:
        class Piper(Doer):
            async def work(self) -> None:
                self.pipe(self.bad())

            async def bad(self) -> None:
                raise error

        async def body() -> None:
            async with Kernel() as kernel:
                reason = await reason_after(kernel, Piper, "work")
                assert (
                    reason == Shutdown("interrupt")
                    if error is KeyboardInterrupt
                    else isinstance(reason, error)
                )

        run(body())

    def test_piped_tasks_are_cancelled_and_awaited_when_the_actor_ends_S97(self, run) -> None:
        class Piper(Doer):
            async def work(self) -> None:
                self.pipe(self.slow())
                await asyncio.sleep(0)

            async def slow(self) -> None:
                try:
                    await asyncio.sleep(10)
                finally:
                    self.log.append("cleaned up")

        async def body() -> None:
            async with Kernel() as kernel:
                log: list[Any] = []
                ref = await kernel.spawn(Piper, log)
                await kernel.ask(ref, Do("work"))
                await kernel.stop_actor(ref)
                assert log == ["cleaned up"]

        run(body())

    def test_an_async_generator_left_by_a_handler_is_closed_when_the_actor_ends(self, run) -> None:
        class Reader(Doer):
            async def work(self) -> None:
                self.lines = self.read()
                async for _ in self.lines:
                    self.entered.set()
                    await asyncio.sleep(10)

            async def read(self) -> Any:
                try:
                    while True:
                        yield "line"
                finally:
                    self.log.append("closed")

        async def body() -> None:
            async with Kernel() as kernel:
                log: list[Any] = []
                ref = await kernel.spawn(Reader, log)
                entered = ref.cell.actor.entered = asyncio.Event()
                ref.tell(Do("work"))
                await inside(entered)
                await kernel.stop_actor(ref, Shutdown(), timeout=5)
                assert log == ["closed"]

        run(body())


class TestThreads:
    def test_telling_from_a_thread_is_safe_and_keeps_its_order_S101(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Doer)

                def send() -> None:
                    for n in range(200):
                        ref.tell(Note(str(n)))

                thread = threading.Thread(target=send)
                thread.start()
                while thread.is_alive() or len(ref.cell.actor.log) < 200:
                    await asyncio.sleep(0)
                assert ref.cell.actor.log == [str(n) for n in range(200)]

        run(body())

    def test_an_actor_may_tell_from_its_own_blocking_function_S101(self, run) -> None:
        class Blocker(Doer):
            async def work(self) -> str:
                return await self.run_blocking(self.blocking)

            def blocking(self) -> str:
                self.tell(self.peer, Note("from a thread"))
                return threading.current_thread().name

        async def body() -> None:
            async with Kernel() as kernel:
                peer = await kernel.spawn(Doer)
                ref = await kernel.spawn(Blocker)
                ref.cell.actor.peer = peer
                assert (await kernel.ask(ref, Do("work"))).startswith("avm-blocking")
                await asyncio.sleep(0)
                await kernel.idle()
                assert peer.cell.actor.log == ["from a thread"]

        run(body())

    def test_a_blocking_ask_works_from_a_thread_and_is_refused_on_the_loop_S101(self, run) -> None:
        class Answerer(Doer):
            async def work(self) -> str:
                await asyncio.sleep(0)
                return "answer"

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Answerer)
                assert await asyncio.to_thread(kernel.ask_blocking, ref, Do("work")) == "answer"
                with pytest.raises(VMError, match="await ask"):
                    kernel.ask_blocking(ref, Do("work"))

        run(body())


class TestFairness:
    def test_a_flooded_actor_does_not_starve_another_S96(self, run) -> None:
        order: list[str] = []

        class Flooded(Actor):
            @on(Note)
            def note(self, note: Note) -> None:
                order.append(note.text)

        async def body() -> None:
            async with Kernel() as kernel:
                flooded, other = await kernel.spawn(Flooded), await kernel.spawn(Flooded)
                for _ in range(10_000):
                    flooded.tell(Note("flood"))
                other.tell(Note("other"))
                await kernel.idle()
                assert order.index("other") < 200
                assert len(order) == 10_001

        run(body())

    def test_asking_without_end_does_not_keep_the_loop_S96(self, run) -> None:
        class Plain(Actor):
            @on(Do)
            def do(self, request: Do) -> str:
                return "answer"

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Plain)
                turns: list[int] = []
                ticker = asyncio.ensure_future(tick(turns))
                for _ in range(1000):
                    await kernel.ask(ref, Do("x"))
                ticker.cancel()
                assert len(turns) > 5

        async def tick(turns: list[int]) -> None:
            while True:
                await asyncio.sleep(0)
                turns.append(1)

        run(body())


def test_a_timed_out_ask_of_a_blocked_loop_loses_to_a_reply_that_is_there_S15_S96(run) -> None:
    class Plain(Actor):
        @on(Do)
        async def do(self, request: Do) -> str:
            await asyncio.sleep(0)
            return "reply"

    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Plain)
            try:
                answer = await kernel.ask(ref, Do("x"), timeout=5)
            except AskTimeout:
                answer = "timeout"
            assert answer == "reply"

    run(body())


def test_closing_leaves_no_pending_tasks_and_prints_nothing_S102() -> None:
    code = textwrap.dedent(
        """
        import asyncio
        from avm.actors import Actor, Kernel, event, on

        @event
        class Go: pass

        class Waiter(Actor):
            @on(Go)
            async def go(self, _):
                self.pipe(asyncio.sleep(100))
                await asyncio.sleep(100)

        async def main():
            async with Kernel() as kernel:
                refs = [await kernel.spawn(Waiter) for _ in range(10)]
                for ref in refs:
                    ref.tell(Go())
                await asyncio.sleep(0.01)
        asyncio.run(main())
        """
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        env={"PYTHONASYNCIODEBUG": "1", "PYTHONPATH": ":".join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
