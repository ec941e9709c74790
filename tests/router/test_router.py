"""The router: delivery, dead letters, taps, and events that come and go as bytes."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest

from avm.actors import Actor, DeadLetter, Kernel, Report, on
from avm.errors import DecodeError, EventError, NoProc
from avm.memory import Store
from avm.router import Address, Codec, Envelope, Router, TapFailed, broadcast
from avm.testing import ManualClock
from tests.router.town import Echo, News, Reader, Run, Small, Work, readers, router_of, texts


def test_an_event_reaches_its_receiver_by_every_kind_of_address(run: Run) -> None:
    """S79: a name is resolved when something is sent to it."""

    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            (desk,) = await readers(kernel, "desk")
            pid = desk.pid
            assert pid is not None
            kernel.register("the desk", desk)
            kernel.groups.join("desks", desk.cell)
            router.subscribe("desk.*", desk)
            places: list[Any] = [
                desk,
                pid,
                "the desk",
                "desk",
                Address("desk"),
                Address("desk", pid.serial),
                broadcast("desks"),
                router.topic("desk.a"),
            ]

            for n, place in enumerate(places):
                router.deliver(place, News(str(n)))
                assert router.resolve(place) == (desk,)
            await kernel.idle()

            assert texts(desk) == [str(n) for n in range(len(places))]

    run(main())


def test_a_path_and_an_id_below_reach_the_same_actor(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)

            class Room(Actor):
                async def starting(self) -> None:
                    await self.spawn(Reader, id="critic")

            await kernel.spawn(Room, id="newsroom")

            router.deliver("newsroom/critic", News("a"))
            router.deliver("critic", News("b"))
            await kernel.idle()

            critic = kernel.find("newsroom/critic")
            assert critic is not None
            assert texts(critic) == ["a", "b"]

    run(main())


def test_an_address_of_an_incarnation_does_not_reach_the_next(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            (old,) = await readers(kernel, "desk")
            serial = old.cell.serial
            kernel.kill(old)
            await readers(kernel, "desk")

            with pytest.raises(NoProc):
                await kernel.ask(Address("desk", serial), Echo("a"))
            assert await kernel.ask(Address("desk"), Echo("a")) == "a"
            assert str(Address("desk", 3)) == "desk#3"

    run(main())


def test_what_is_no_destination_is_refused(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            with pytest.raises(EventError, match="a destination is"):
                Router(kernel).deliver(3, News("a"))  # type: ignore[arg-type]

    run(main())


# Dead letters.


def test_dead_letters_are_counted_by_reason(run: Run) -> None:
    """S76: nothing is lost without a count."""

    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            (gone, leaving, plain) = await readers(kernel, "gone", "leaving", "plain")
            (small,) = await readers(kernel, "small", cls=Small)
            kernel.kill(gone)

            router.deliver("unknown", News("a"))
            router.deliver(gone, News("a"))
            router.deliver(small, News("a"))
            router.deliver(small, News("no room"))
            router.deliver(leaving, News("waits"))
            kernel.kill(leaving)
            router.deliver(plain, Work(1))
            await kernel.idle()

            assert router.statistics().dead_letters == {
                "nobody": 1,
                "dead": 1,
                "mailbox_full": 1,
                "ended": 1,
                "no_handler": 1,
            }

    run(main())


def test_a_flood_of_dead_letters_is_counted_whole_and_passed_on_in_part(run: Run) -> None:
    """S76: dead letters as counters always, as sampled events."""

    async def main() -> None:
        clock = ManualClock()
        async with Kernel(clock=clock) as kernel:
            router = router_of(kernel)
            passed: list[Report] = []
            watched = router.watch_dead_letters(passed.append, keep=2, per_second=3)

            for n in range(100):
                router.deliver("unknown", News(str(n)))
            assert len(passed) == 3
            clock.advance(1.0)
            for _ in range(100):
                router.deliver("other", News("b"))

            assert len(passed) == 6
            found = watched.statistics()
            assert (found.seen, found.passed_on, found.by_reason) == (200, 6, {"nobody": 200})
            assert found.destinations == (("unknown", 100), ("other", 100))
            assert [letter.dest for letter in watched.latest()] == ["other", "other"]
            first = passed[0]
            assert isinstance(first, DeadLetter)
            assert (first.why, first.dest, first.event) == ("nobody", "unknown", News("0"))

    run(main())


def test_each_reason_has_its_own_share_of_the_sample(run: Run) -> None:
    async def main() -> None:
        async with Kernel(clock=ManualClock()) as kernel:
            router = router_of(kernel)
            (gone,) = await readers(kernel, "gone")
            kernel.kill(gone)
            passed: list[Any] = []
            watched = router.watch_dead_letters(passed.append, per_second=1)

            for _ in range(50):
                router.deliver("unknown", News("a"))
            router.deliver(gone, News("b"))

            assert [letter.why for letter in passed] == ["nobody", "dead"]
            watched.close()
            router.deliver("unknown", News("a"))
            assert watched.statistics().seen == 51
            assert kernel.observers == []

    run(main())


# Taps.


class Chatty(Reader):
    @on(Work)
    async def work(self, work: Work) -> None:
        self.tell("b", News("told"))
        await self.ask("b", Echo("asked"))
        self.service("router").publish("news", News("published"))
        self.send_after(0, "b", News("timed"))


def test_a_tap_sees_every_event_that_is_sent(run: Run) -> None:
    async def main() -> None:
        clock = ManualClock()
        async with Kernel(clock=clock) as kernel:
            router = router_of(kernel)
            chatty, b = await kernel.spawn(Chatty, id="a"), (await readers(kernel, "b"))[0]
            router.subscribe("news", b)
            seen: list[Envelope] = []
            router.tap(seen.append)
            a = Address("a", chatty.cell.serial)

            kernel.tell(chatty, Work(1))
            await kernel.idle()
            clock.advance(0.0)
            await kernel.idle()

            assert seen == [
                Envelope(Work(1), "a", None),
                Envelope(News("told"), "b", a),
                Envelope(Echo("asked"), "b", a),
                Envelope(News("published"), "b", a),
                Envelope(News("timed"), "b", a),
            ]

    run(main())


def test_a_tap_that_was_taken_away_sees_nothing_and_the_quick_path_is_back(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            (a,) = await readers(kernel, "a")
            seen: list[Envelope] = []
            router.tap(seen.append)
            router.tap(seen.append)
            assert not a.cell.quick

            router.untap(seen.append)
            kernel.tell(a, News("x"))

            assert seen == []
            assert a.cell.quick
            assert router.statistics().taps == 0

    run(main())


def test_a_tap_of_the_wire_gets_what_the_codec_reads_and_packs_a_fan_out_once(run: Run) -> None:
    """S83: packed once, whatever the number of receivers."""

    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            refs = await readers(kernel, "a", "b", "c")
            for ref in refs:
                router.subscribe("news", ref)
            seen: list[bytes] = []
            router.tap_wire(seen.append)
            packs = []
            pack = router.codec.pack
            router.codec.pack = lambda event: packs.append(event) or pack(event)  # type: ignore[func-returns-value, method-assign]

            router.publish("news", News("x"))

            assert [Codec().decode(data) for data in seen] == [Envelope(News("x"), to) for to in "abc"]
            assert packs == [News("x")]

    run(main())


def test_a_tap_that_raises_is_removed_and_reported_and_the_event_arrives(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        reports: list[Report] = []
        async with Kernel(observers=[reports.append]) as kernel:
            router = router_of(kernel)
            (a,) = await readers(kernel, "a")
            calls: list[Envelope] = []

            def broken(envelope: Envelope) -> None:
                calls.append(envelope)
                raise RuntimeError("boom")

            router.tap(broken)
            kernel.tell(a, News("x"))
            kernel.tell(a, News("y"))
            await kernel.idle()

            assert texts(a) == ["x", "y"]
            assert len(calls) == 1
            (report,) = reports
            assert isinstance(report, TapFailed)
            assert report.removed
            assert str(report.error) == "boom"
            assert "broken" in report.tap

    with caplog.at_level(logging.CRITICAL, logger="avm"):
        run(main())


def test_an_event_without_wire_form_is_missed_by_the_tap_and_counted(run: Run) -> None:
    async def main() -> None:
        reports: list[Report] = []
        async with Kernel(observers=[reports.append]) as kernel:
            router = router_of(kernel)
            (a,) = await readers(kernel, "a")
            seen: list[bytes] = []
            router.tap_wire(seen.append)

            kernel.tell(a, News(7))  # type: ignore[arg-type]
            kernel.tell(a, News("x"))
            await kernel.idle()

            assert len(seen) == 1
            assert router.statistics().unwritable == 1
            assert [isinstance(r, TapFailed) and not r.removed for r in reports] == [True]
            router.untap(seen.append)
            assert router.statistics().unwritable == 1

    run(main())


def test_what_a_tap_sends_is_not_tapped(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            a, b = await readers(kernel, "a", "b")
            router.tap(lambda envelope: kernel.tell(b, News("seen")))

            kernel.tell(a, News("x"))
            await kernel.idle()

            assert texts(b) == ["seen"]

    run(main())


# Bytes in.


def test_an_event_that_came_as_bytes_is_delivered_to_where_it_says(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            a, b = await readers(kernel, "a", "b")
            data = router.codec.encode(News("x"), to="a", sender=b.pid)

            envelope = router.receive(data)
            await kernel.idle()

            assert envelope.event == News("x")
            assert texts(a) == ["x"]
            assert a.cell.actor.senders == ["b"]  # type: ignore[attr-defined]

    run(main())


def test_bytes_that_are_no_event_or_say_no_address_deliver_nothing(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)

            with pytest.raises(DecodeError):
                router.receive(b"\xc1")
            with pytest.raises(DecodeError, match="to: expected an address"):
                router.receive(router.codec.encode(News("x")))
            router.receive(router.codec.encode(News("x"), to="nobody", sender=Address("gone", 3)))

            found = router.statistics()
            assert (found.received, found.refused, found.dead_letters) == (1, 2, {"nobody": 1})

    run(main())


def test_a_large_body_crosses_the_boundary_as_a_digest_and_arrives_as_the_same_object(run: Run) -> None:
    async def main() -> None:
        store = Store("64MB")
        async with Kernel(store=store) as kernel:
            router = Router(kernel, store)
            (a,) = await readers(kernel, "a")
            wires: list[bytes] = []
            router.tap_wire(wires.append)
            text = "x" * 10_000

            kernel.tell(a, News(text))
            await kernel.idle()
            router.receive(wires[0])
            await kernel.idle()

            first, second = texts(a)
            assert len(wires[0]) < 200
            assert first is second

    run(main())


def test_refs_of_a_closed_router_do_not_keep_cells(run: Run) -> None:
    """A codec remembers the pids it wrote only for as long as somebody holds them."""

    async def main() -> None:
        async with Kernel() as kernel:
            codec = Codec(kernel=kernel)
            (a,) = await readers(kernel, "a")
            codec.encode(News("x", extra=a.pid))
            known = codec._addresses._cells  # type: ignore[union-attr]
            assert len(known) == 1

            kernel.kill(a)
            await kernel.idle()
            del a
            gc.collect()

            assert len(known) == 0

    run(main())
