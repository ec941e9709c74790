"""Asks: exactly one outcome, at once when the other side ends, and nothing left behind (S13-S22)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from avm.actors import Actor, Kernel, Killed, Normal, Request, Shutdown, event, on
from avm.errors import (
    ActorExited,
    AskCycle,
    AskTimeout,
    CallingSelf,
    NoProc,
    PackError,
    Refuse,
)
from avm.testing import ManualClock
from tests.actors.cast import Boom, Call, Double, Note, Recorder, Scripted, Wait, actor_of, log_of


@event
class Later(Request[str]):
    text: str


class Deferring(Actor):
    def __init__(self) -> None:
        self.replies: list[Any] = []

    @on(Later)
    def later(self, _: Later) -> str:
        self.replies.append(self.defer())
        return "ignored"


@pytest.mark.parametrize("plain", [True, False])
def test_an_ask_gives_what_the_handler_returns_S13(run, plain: bool) -> None:
    class Plain(Actor):
        @on(Double)
        def double(self, request: Double) -> int:
            return request.n * 2

    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Plain if plain else Recorder)
            assert [await kernel.ask(ref, Double(n)) for n in range(200)] == [2 * n for n in range(200)]

    run(body())


@pytest.mark.parametrize("reason", [Normal(), Shutdown("x"), Killed(), "other"])
@pytest.mark.parametrize("busy_with_it", [True, False])
def test_an_ask_fails_at_once_when_the_actor_exits_before_replying_S13_S14(
    run, reason: object, busy_with_it: bool
) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Recorder)
            if not busy_with_it:
                first = asyncio.ensure_future(kernel.ask(ref, Wait()))
            asked = asyncio.ensure_future(
                kernel.ask(ref, Wait() if busy_with_it else Double(1), timeout=None)
            )
            await actor_of(ref).entered.wait()
            if reason == Killed():
                kernel.kill(ref)
            else:
                await kernel.stop_and_wait(None, ref, reason, None)
            with pytest.raises(ActorExited) as caught:
                await asked
            assert caught.value.reason == reason
            if not busy_with_it:
                with pytest.raises(ActorExited):
                    await first

    run(body())


def test_the_exception_of_a_crash_is_the_cause_S13(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Recorder)
            with pytest.raises(
                ActorExited, match=r"exited \(RuntimeError: boom\) before it answered Boom"
            ) as caught:
                await kernel.ask(ref, Boom())
            assert isinstance(caught.value.__cause__, RuntimeError)
            with pytest.raises(NoProc):
                await kernel.ask(ref, Double(1))

    run(body())


def test_a_refusal_reaches_the_asker_and_the_actor_lives_on_S13(run) -> None:
    class Picky(Actor):
        @on(Double)
        async def double(self, request: Double) -> int:
            raise Refuse(ValueError(f"not {request.n}"))

        @on(Later)
        def later(self, request: Later) -> str:
            raise Refuse("no")

    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Picky)
            for _ in range(3):
                with pytest.raises(ValueError, match="not 4"):
                    await kernel.ask(ref, Double(4))
                with pytest.raises(Refuse, match="no"):
                    await kernel.ask(ref, Later("x"))
            ref.tell(Double(4))
            await kernel.idle()
            assert ref.is_alive()

    run(body())


def test_a_reply_that_cannot_be_packed_ends_the_actor_and_says_why_S4(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            for function in (lambda actor: object(), lambda actor: asyncio.sleep(0, object())):
                ref = await kernel.spawn(Scripted, {"go": function})
                with pytest.raises(ActorExited) as caught:
                    await kernel.ask(ref, Call("go"))
                assert isinstance(caught.value.__cause__, PackError)

    run(body())


def test_a_timeout_is_by_the_clock_and_cancels_nothing_S15(run) -> None:
    async def body() -> None:
        clock = ManualClock()
        async with Kernel(clock=clock) as kernel:
            ref = await kernel.spawn(Recorder)
            asked = asyncio.ensure_future(kernel.ask(ref, Wait(), timeout=5))
            await actor_of(ref).entered.wait()
            clock.advance(4.999)
            await asyncio.sleep(0)
            assert not asked.done()
            clock.advance(0.001)
            with pytest.raises(AskTimeout, match=r"did not answer Wait in 5 s"):
                await asked
            assert ref.is_alive()
            actor_of(ref).gate.set()
            await kernel.idle()
            assert await kernel.ask(ref, Double(2)) == 4

    run(body())


def test_the_default_timeout_is_the_kernels(run) -> None:
    async def body() -> None:
        clock = ManualClock()
        async with Kernel(clock=clock, ask_timeout=7) as kernel:
            ref = await kernel.spawn(Recorder)
            asked = asyncio.ensure_future(ref.ask(Wait()))
            await actor_of(ref).entered.wait()
            clock.advance(7)
            with pytest.raises(AskTimeout):
                await asked

    run(body())


@pytest.mark.parametrize("timeout", [-1, -0.001, "5", True, float("nan"), float("-inf")])
def test_a_wrong_timeout_is_refused_before_anything_is_sent_S15(run, timeout: Any) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Recorder)
            with pytest.raises(ValueError, match="timeout must be a number of seconds"):
                await kernel.ask(ref, Note("never"), timeout=timeout)
            await kernel.idle()
            assert log_of(ref) == []

    run(body())


def test_a_timeout_of_zero_sends_and_gives_up_S15(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Recorder)
            asked = asyncio.ensure_future(kernel.ask(ref, Wait()))
            await actor_of(ref).entered.wait()
            with pytest.raises(AskTimeout):
                await kernel.ask(ref, Note("sent all the same"), timeout=0)
            actor_of(ref).gate.set()
            await asked
            await kernel.idle()
            assert log_of(ref) == ["sent all the same"]

    run(body())


def test_a_late_reply_is_dropped_and_counted_S16(run) -> None:
    async def body() -> None:
        clock = ManualClock()
        async with Kernel(clock=clock) as kernel:
            ref = await kernel.spawn(Recorder)
            asked = asyncio.ensure_future(kernel.ask(ref, Wait(), timeout=1))
            cancelled = asyncio.ensure_future(kernel.ask(ref, Double(1)))
            await actor_of(ref).entered.wait()
            cancelled.cancel()
            clock.advance(1)
            with pytest.raises(AskTimeout):
                await asked
            actor_of(ref).gate.set()
            await kernel.idle()
            assert kernel.statistics().late_replies == 2
            assert await kernel.ask(ref, Double(5)) == 10

    run(body())


def test_a_reply_may_come_later_from_elsewhere_and_the_first_wins_S17(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Deferring)
            asked = asyncio.ensure_future(kernel.ask(ref, Later("x")))
            await kernel.idle()
            assert not asked.done()
            (reply,) = actor_of(ref).replies
            assert reply.is_waited_for
            reply.send("first")
            reply.send("second")
            reply.fail(RuntimeError("third"))
            assert await asked == "first"
            assert kernel.statistics().late_replies == 2

    run(body())


def test_a_deferred_reply_may_be_an_error_and_fails_if_its_actor_ends_S17(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Deferring)
            asked = [asyncio.ensure_future(kernel.ask(ref, Later("x"))) for _ in range(2)]
            await kernel.idle()
            actor_of(ref).replies[0].fail(KeyError("no"))
            with pytest.raises(KeyError):
                await asked[0]
            kernel.kill(ref)
            with pytest.raises(ActorExited):
                await asked[1]

    run(body())


def test_asking_oneself_fails_at_once_S18(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Scripted, {"go": lambda actor: actor.ask(actor.ref, Double(1))})
            with pytest.raises(ActorExited) as caught:
                await kernel.ask(ref, Call("go"))
            assert isinstance(caught.value.__cause__, CallingSelf)

    run(body())


@pytest.mark.parametrize("length", [2, 3, 5])
def test_an_ask_that_closes_a_ring_fails_at_once_and_names_the_ring_S18(run, length: int) -> None:
    found: list[AskCycle] = []

    async def go(actor: Any) -> Any:
        try:
            return await actor.ask(actor.next, Call("go"))
        except AskCycle as error:
            found.append(error)
            return "noticed"

    async def body() -> None:
        async with Kernel() as kernel:
            refs = [await kernel.spawn(Scripted, {"go": go}, id=f"a{n}") for n in range(length)]
            for n, ref in enumerate(refs):
                actor_of(ref).next = refs[(n + 1) % length]
            assert await kernel.ask(refs[0], Call("go"), timeout=5) == "noticed"
            assert len(found) == 1
            assert {name.split("#")[0] for name in found[0].ring} == {f"a{n}" for n in range(length)}

    run(body())


def test_asks_that_cross_without_a_ring_are_fine_S18(run) -> None:
    async def both(actor: Any) -> int:
        first, second = await asyncio.gather(actor.ask(actor.one, Double(1)), actor.ask(actor.two, Double(2)))
        return first + second

    async def body() -> None:
        async with Kernel() as kernel:
            one, two = await kernel.spawn(Recorder), await kernel.spawn(Recorder)
            ref = await kernel.spawn(Scripted, {"go": both})
            actor_of(ref).one, actor_of(ref).two = one, two
            assert [await kernel.ask(ref, Call("go")) for _ in range(3)] == [6, 6, 6]

    run(body())


def test_a_ring_through_a_piped_ask_is_no_ring_S18(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:

            def pipe(actor: Any) -> None:
                actor.pipe(actor.ask(actor.ref, Double(4)), into=lambda n: Note(str(n)))

            ref = await kernel.spawn(Scripted, {"go": pipe})
            await kernel.ask(ref, Call("go"))
            for _ in range(5):
                await asyncio.sleep(0)
            await kernel.idle()
            assert log_of(ref) == ["8"]

    run(body())


def test_an_ask_by_name_is_not_sent_again_to_the_next_holder_S19(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            first = await kernel.spawn(Recorder, name="desk")
            asked = asyncio.ensure_future(kernel.ask("desk", Wait()))
            await actor_of(first).entered.wait()
            kernel.kill(first)
            second = await kernel.spawn(Recorder, name="desk")
            with pytest.raises(ActorExited):
                await asked
            await kernel.idle()
            assert not actor_of(second).entered.is_set()

    run(body())


def test_an_ask_costs_no_look_through_the_callers_mailbox_S20(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            callee = await kernel.spawn(Recorder)
            answers: list[int] = []

            async def go(actor: Any) -> None:
                answers.append(await actor.ask(callee, Double(3)))

            caller = await kernel.spawn(Scripted, {"go": go})
            for _ in range(100_000):
                caller.cell.receive((Note("waiting"), None, None, None))
            caller.cell.receive((Call("go"), None, None, None))
            caller.cell.mailbox.rotate(1)
            while not answers:
                await asyncio.sleep(0)
            assert answers == [6]
            assert caller.cell.length() > 10_000

    run(body())


def test_stop_and_reply_answers_after_stopping_ran_S21(run) -> None:
    order: list[str] = []

    class Closing(Recorder):
        @on(Later)
        async def later(self, request: Later) -> str:
            self.stop()
            return request.text

        async def stopping(self, reason: object) -> None:
            await asyncio.sleep(0.005)
            order.append("stopped")

    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Closing)
            assert await kernel.ask(ref, Later("bye")) == "bye"
            assert order == ["stopped"]
            assert not ref.is_alive()

    run(body())


def test_replies_of_many_requests_come_in_the_order_of_arrival_S22(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            workers = [await kernel.spawn(Recorder, id=f"w{n}") for n in range(3)]

            async def collect(actor: Any) -> list[Any]:
                requests = actor.requests()
                for n, worker in enumerate(workers):
                    requests.add(n, worker, Wait())
                with pytest.raises(AskTimeout):
                    await requests.wait(timeout=0.001)
                assert len(requests) == 3
                got = []
                for n in (2, 0):
                    actor_of(workers[n]).gate.set()
                    got.append(await requests.wait(timeout=5))
                kernel.kill(workers[1])
                label, error = await requests.wait(timeout=5)
                got.append((label, type(error).__name__))
                return got

            ref = await kernel.spawn(Scripted, {"go": collect})
            assert await kernel.ask(ref, Call("go")) == [(2, "opened"), (0, "opened"), (1, "ActorExited")]

    run(body())


def test_receive_abandons_the_requests_at_a_timeout_S22(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            worker = await kernel.spawn(Recorder)

            async def collect(actor: Any) -> int:
                requests = actor.requests()
                requests.add("only", worker, Wait())
                with pytest.raises(AskTimeout):
                    await requests.receive(timeout=0.001)
                with pytest.raises(LookupError):
                    await requests.wait()
                return len(requests)

            ref = await kernel.spawn(Scripted, {"go": collect})
            assert await kernel.ask(ref, Call("go")) == 0
            actor_of(worker).gate.set()
            await kernel.idle()
            assert kernel.statistics().late_replies == 1

    run(body())
