"""Messages: order, isolation, one at a time, bounded mailboxes (S1-S12)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Actor, DeadLetter, Kernel, Killed, Request, Shutdown, event, on
from avm.actors.hooks import LimitReport, MailboxWater
from avm.errors import AskTimeout, EventError, MailboxFull, NoHandler, NoProc, PackError, SpecError
from avm.memory import Store
from tests.actors.cast import Boom, Call, Double, Note, Recorder, Scripted, Trapper, Wait, actor_of, log_of


@event
class Holding:
    values: list[Any]


@event
class Body(Request[int]):
    text: str | bytes


class Keeper(Actor):
    def __init__(self) -> None:
        self.kept: list[Any] = []

    @on(Holding)
    def hold(self, holding: Holding) -> None:
        self.kept.append(holding.values)
        holding.values.append("changed by the receiver")

    @on(Body)
    def body(self, body: Body) -> int:
        self.kept.append(body.text)
        return len(body.text)

    @on(Call)
    def give(self, call: Call) -> list[Any]:
        return self.kept


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), max_size=60))
def test_messages_of_one_sender_to_one_receiver_arrive_in_order_S1(sends: list[tuple[int, int]]) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            receivers = [await kernel.spawn(Recorder) for _ in range(2)]
            expected: dict[tuple[int, int], list[str]] = {}

            def sender(number: int) -> Any:
                async def go(actor: Actor) -> None:
                    for n, (who, to) in enumerate(sends):
                        if who == number:
                            actor.tell(receivers[to], Note(f"{who}:{n}"))
                            expected.setdefault((who, to), []).append(f"{who}:{n}")
                            if n % 3 == 0:
                                await asyncio.sleep(0)

                return go

            senders = [await kernel.spawn(Scripted, {"go": sender(n)}) for n in range(3)]
            await asyncio.gather(*(kernel.ask(s, Call("go")) for s in senders))
            await kernel.idle()
            for (who, to), texts in expected.items():
                assert [t for t in log_of(receivers[to]) if t.startswith(f"{who}:")] == texts

    asyncio.run(body())


def test_a_message_sent_after_an_exit_signal_is_never_seen_S2(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            log: list[Any] = []
            victim = await kernel.spawn(Recorder, log)

            def go(actor: Actor) -> None:
                actor.tell(victim, Note("m1"))
                actor.exit(victim, Shutdown())
                actor.tell(victim, Note("m2"))

            sender = await kernel.spawn(Scripted, {"go": go})
            await kernel.ask(sender, Call("go"))
            await kernel.idle()
            assert "m2" not in log

    run(body())


def test_telling_the_dead_or_nobody_is_silent_and_counted_S3(run) -> None:
    async def body() -> None:
        reports: list[Any] = []
        async with Kernel(observers=[reports.append]) as kernel:
            ref = await kernel.spawn(Recorder)
            await kernel.stop_actor(ref)
            ref.tell(Note("to the dead"))
            kernel.tell("nobody", Note("to nobody"))
            assert kernel.statistics().dead_letters == {"dead": 1, "nobody": 1}
            assert [r.why for r in reports if isinstance(r, DeadLetter)] == ["dead", "nobody"]

    run(body())


def test_what_either_side_does_to_a_sent_object_is_not_seen_by_the_other_S4(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Keeper)
            values = ["sent"]
            message = Holding(values)
            ref.tell(message)
            values.append("changed by the sender")
            await kernel.idle()
            assert actor_of(ref).kept == [["sent", "changed by the receiver"]]
            assert values == ["sent", "changed by the sender"]

            reply = await kernel.ask(ref, Call("x"))
            reply.append("changed by the asker")
            assert len(actor_of(ref).kept) == 1

    run(body())


@pytest.mark.parametrize("value, where", [(object(), "Holding.values[1]"), (lambda: 0, "Holding.values[1]")])
def test_what_cannot_be_packed_fails_at_the_sender_with_its_path_S4(run, value: object, where: str) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Keeper)
            with pytest.raises(PackError) as caught:
                ref.tell(Holding([1, value]))
            assert caught.value.where == where
            assert where in str(caught.value)
            await kernel.idle()
            assert actor_of(ref).kept == []

    run(body())


def test_a_deeply_immutable_event_is_passed_as_it_is_S4(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Keeper)
            text = "small"
            await kernel.ask(ref, Body(text))
            assert actor_of(ref).kept[0] is text

    run(body())


def test_large_bodies_that_are_equal_are_one_object_for_all_receivers(run) -> None:
    async def body() -> None:
        async with Kernel(store=Store()) as kernel:
            keepers = [await kernel.spawn(Keeper) for _ in range(3)]
            for ref in keepers:
                assert await kernel.ask(ref, Body("".join(["x"] * 10_000))) == 10_000
            first = actor_of(keepers[0]).kept[0]
            assert first == "x" * 10_000

    run(body())


@pytest.mark.parametrize("thing", [Note, object(), [1], {"a": 1}])
def test_what_is_no_event_is_refused_where_it_is_sent(run, thing: object) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Recorder)
            with pytest.raises(EventError):
                ref.tell(thing)
            with pytest.raises(EventError):
                await kernel.ask(ref, thing)

    run(body())


def test_one_message_at_a_time_while_others_interleave_S5(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            busy, other = await kernel.spawn(Recorder), await kernel.spawn(Recorder)
            asked = asyncio.ensure_future(kernel.ask(busy, Wait()))
            await actor_of(busy).entered.wait()
            busy.tell(Note("second"))
            other.tell(Note("elsewhere"))
            await kernel.idle()
            assert log_of(busy) == []
            assert log_of(other) == ["elsewhere"]
            actor_of(busy).gate.set()
            assert await asked == "opened"
            await kernel.idle()
            assert log_of(busy) == ["second"]

    run(body())


def test_postponed_messages_are_retried_oldest_first_before_newer_ones_S7(run) -> None:
    class Door(Actor):
        def __init__(self) -> None:
            self.open = False
            self.log: list[str] = []

        @on(Note)
        def note(self, note: Note) -> None:
            if note.text == "open":
                self.open = True
                self.continue_with(Note("internal"))
                self.state_changed()
            elif not self.open and note.text != "internal":
                self.postpone()
            else:
                self.log.append(note.text)

    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Door)
            for text in ("a", "b", "open", "c"):
                ref.tell(Note(text))
            await kernel.idle()
            assert actor_of(ref).log == ["internal", "a", "b", "c"]

    run(body())


def test_a_postponed_request_is_answered_after_its_retry_S7(run) -> None:
    class Door(Actor):
        open = False

        @on(Double)
        def double(self, request: Double) -> int | None:
            if not self.open:
                self.postpone()
                return None
            return request.n * 2

        @on(Note)
        async def note(self, note: Note) -> None:
            self.open = True
            self.state_changed()

    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Door)
            asked = asyncio.ensure_future(kernel.ask(ref, Double(4)))
            await kernel.idle()
            assert not asked.done()
            ref.tell(Note("open"))
            assert await asked == 8

    run(body())


@pytest.mark.parametrize(
    "takes, order", [(True, ["first", "u1", "u2", "a"]), (False, ["first", "a", "u1", "u2"])]
)
def test_urgent_messages_go_first_in_order_if_the_receiver_opted_in_S8(
    run, takes: bool, order: list[str]
) -> None:
    class Desk(Recorder):
        urgent = takes

    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Desk)
            asked = asyncio.ensure_future(kernel.ask(ref, Wait()))
            await actor_of(ref).entered.wait()
            log_of(ref).append("first")
            kernel.tell(ref, Note("a"))
            kernel.tell(ref, Note("u1"), urgent=True)
            kernel.tell(ref, Note("u2"), urgent=True)
            actor_of(ref).gate.set()
            await asked
            await kernel.idle()
            assert log_of(ref) == order

    run(body())


def test_signals_act_with_a_hundred_thousand_messages_waiting_S9(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            trapper, other = await kernel.spawn(Trapper), await kernel.spawn(Recorder)
            for _ in range(100_000):
                trapper.tell(Note("flood"))
                other.tell(Note("flood"))
            kernel.exit(trapper, "hello")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert any(getattr(entry, "reason", None) == "hello" for entry in log_of(trapper)[:100])
            kernel.exit(other, Shutdown())
            assert not other.is_alive()
            kernel.kill(trapper)
            assert not trapper.is_alive()

    run(body())


class Small(Recorder):
    max_mailbox = 2


def policy(name: str) -> type[Recorder]:
    return type(f"Small_{name}", (Small,), {"overflow": name})


async def fill(kernel: Kernel, cls: type[Recorder]) -> Any:
    """An actor that is busy, with two messages waiting."""
    ref = await kernel.spawn(cls)
    asked = asyncio.ensure_future(kernel.ask(ref, Wait()))
    await actor_of(ref).entered.wait()
    ref.tell(Note("a"))
    ref.tell(Note("b"))
    return ref, asked


@pytest.mark.parametrize(
    "name, handled", [("reject", ["a", "b"]), ("drop_newest", ["a", "b"]), ("drop_oldest", ["b", "c"])]
)
def test_a_full_mailbox_follows_its_policy_S10(run, name: str, handled: list[str]) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref, asked = await fill(kernel, policy(name))
            ref.tell(Note("c"))
            actor_of(ref).gate.set()
            await asked
            await kernel.idle()
            assert log_of(ref) == handled
            assert sum(kernel.statistics().dead_letters.values()) == 1

    run(body())


def test_an_ask_to_a_full_mailbox_fails_at_once_S10(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref, asked = await fill(kernel, policy("reject"))
            with pytest.raises(MailboxFull, match=r"is full: 2 of 2"):
                await kernel.ask(ref, Double(1))
            actor_of(ref).gate.set()
            await asked

    run(body())


def test_a_full_mailbox_may_block_those_who_await_S10(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref, asked = await fill(kernel, policy("block"))
            told = asyncio.ensure_future(kernel.tell_wait(None, ref, Note("c")))
            second = asyncio.ensure_future(kernel.ask(ref, Double(4)))
            await kernel.idle()
            assert not told.done()
            assert not second.done()
            with pytest.raises((MailboxFull, AskTimeout)):
                await kernel.ask(ref, Double(1), timeout=0.01)
            actor_of(ref).gate.set()
            await asked
            await told
            assert await second == 8
            await kernel.idle()
            assert log_of(ref) == ["a", "b", "c"]

    run(body())


def test_those_who_wait_for_room_go_on_when_the_receiver_dies_S10(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref, asked = await fill(kernel, policy("block"))
            told = asyncio.ensure_future(kernel.tell_wait(None, ref, Note("c")))
            second = asyncio.ensure_future(kernel.ask(ref, Double(4)))
            await kernel.idle()
            kernel.kill(ref)
            await told
            for waiting in (second, asked):
                with pytest.raises(Exception, match="ended|exited"):
                    await waiting

    run(body())


def test_a_full_mailbox_may_kill_its_owner_S10(run) -> None:
    async def body() -> None:
        reports: list[Any] = []
        async with Kernel(observers=[reports.append]) as kernel:
            ref, asked = await fill(kernel, policy("kill"))
            ref.tell(Note("c"))
            assert not ref.is_alive()
            assert ref.last_pid.cell.reason == Killed()
            with pytest.raises(Exception, match="killed"):
                await asked
            assert [r.limit for r in reports if isinstance(r, LimitReport)] == ["max_mailbox"]

    run(body())


@pytest.mark.parametrize("attributes", [{"max_mailbox": 0}, {"overflow": "explode"}, {"priority": "urgent"}])
def test_wrong_mailbox_settings_fail_when_the_class_is_made(attributes: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="Wrong"):
        type("Wrong", (Actor,), attributes)


def test_high_and_low_water_are_reported_once_each_S11(run) -> None:
    async def body() -> None:
        reports: list[Any] = []
        async with Kernel(observers=[reports.append], high_water=10, low_water=3) as kernel:
            ref = await kernel.spawn(Recorder)
            for _ in range(2):
                for _ in range(30):
                    ref.tell(Note("x"))
                await kernel.idle()
            found = [r.high for r in reports if isinstance(r, MailboxWater)]
            assert found == [True, False, True, False]

    run(body())


@pytest.mark.parametrize("policy_, lives", [("kill", False), ("report", True)])
@pytest.mark.parametrize("where", ["mailbox", "state"])
def test_an_actor_over_its_bytes_is_killed_or_only_reported_S12(
    run, policy_: str, lives: bool, where: str
) -> None:
    class Heavy(Recorder):
        max_bytes = 100_000
        over_bytes = policy_

    async def body() -> None:
        reports: list[Any] = []
        async with Kernel(observers=[reports.append]) as kernel:
            ref = await kernel.spawn(Heavy)
            if where == "mailbox":
                kernel.suspend(ref)
            for n in range(60):
                ref.tell(Note(f"{n:04}" * 500))
            await kernel.idle()
            assert ref.is_alive() == lives
            (report,) = [r for r in reports if isinstance(r, LimitReport)]
            assert (report.limit, report.allowed) == ("max_bytes", 100_000)
            assert report.found > 100_000
            if lives:
                kernel.resume(ref)
            else:
                assert ref.last_pid.cell.reason == Killed()

    run(body())


def test_an_actor_within_its_bytes_goes_on_S12(run) -> None:
    class Light(Actor):
        max_bytes = 100_000

        @on(Note)
        def note(self, note: Note) -> None: ...

    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Light)
            for n in range(300):
                ref.tell(Note(f"{n:04}" * 500))
                if n % 10 == 0:
                    await kernel.idle()
            assert ref.is_alive()

    run(body())


def test_an_unknown_event_is_logged_and_lived_through_S29(run, caplog) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Keeper)
            ref.tell(Boom())
            await kernel.idle()
            assert ref.is_alive()
            with pytest.raises(NoHandler, match=r"has no handler for Boom; it handles Body, Call, Holding"):
                await kernel.ask(ref, Boom())
            assert "no handler for Boom" in caplog.text

    run(body())


def test_a_destination_that_is_none_is_refused(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            with pytest.raises(EventError, match="a destination is"):
                kernel.tell(42, Note("x"))  # type: ignore[arg-type]
            with pytest.raises(NoProc, match="nobody is registered as 'nobody'"):
                await kernel.ask("nobody", Double(1))

    run(body())


def test_an_urgent_event_from_a_thread_is_urgent_S8_S101(run) -> None:
    class Hasty(Recorder):
        urgent = True

    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Hasty)
            kernel.tell(ref, Wait())
            await kernel.idle()
            kernel.tell(ref, Note("ordinary"))

            await asyncio.to_thread(kernel.tell, ref, Note("urgent"), urgent=True)
            actor_of(ref).gate.set()
            await kernel.idle()

            assert log_of(ref) == ["urgent", "ordinary"]

    run(body())
