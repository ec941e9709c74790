"""Exit signals, links and monitors (S36-S50)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Actor, Down, Exit, Kernel, Kill, Killed, Normal, Shutdown, links, on
from avm.errors import NoProc
from tests.actors.cast import Boom, Call, Note, Recorder, Scripted, Trapper, Wait, actor_of, log_of

OTHER = "other"


def script(**functions: Any) -> dict[str, Any]:
    return functions


class ScriptedTrapper(Scripted):
    trap_exit = True


class TestExitSignals:
    """The table of S36, cell by cell."""

    @pytest.mark.parametrize(
        "reason, ends",
        [(Normal(), None), (Kill(), Killed()), (Shutdown(), Shutdown()), (OTHER, OTHER)],
    )
    def test_sent_to_one_that_does_not_trap_S36(self, run, reason: object, ends: object) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Recorder)
                kernel.exit(ref, reason)
                await kernel.idle()
                assert ref.is_alive() == (ends is None)
                assert ref.last_pid.cell.reason == ends

        run(body())

    @pytest.mark.parametrize("reason", [Normal(), Shutdown(), OTHER])
    def test_sent_to_one_that_traps_is_an_event_S36_S38(self, run, reason: object) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Trapper)
                sender = await kernel.spawn(Scripted, script(go=lambda actor: actor.exit(ref, reason)))
                await kernel.ask(sender, Call("go"))
                await kernel.idle()
                assert log_of(ref) == [Exit(sender.pid, reason)]

        run(body())

    def test_kill_cannot_be_trapped_S36(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Trapper)
                kernel.exit(ref, Kill())
                assert ref.last_pid.cell.reason == Killed()

        run(body())

    @pytest.mark.parametrize(
        "reason, ends",
        [(Normal(), None), (Kill(), Kill()), (Killed(), Killed()), (Shutdown(), Shutdown()), (OTHER, OTHER)],
    )
    def test_over_a_link_to_one_that_does_not_trap_S36(self, run, reason: object, ends: object) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                dying = await kernel.spawn(Scripted, script(end=lambda actor: actor.stop(reason)))
                ref = await kernel.spawn(Scripted, script(link=lambda actor: actor.link(dying)))
                await kernel.ask(ref, Call("link"))
                dying.tell(Call("end"))
                await kernel.idle()
                assert ref.is_alive() == (ends is None)
                assert ref.last_pid.cell.reason == ends

        run(body())

    @pytest.mark.parametrize("reason", [Normal(), Kill(), Killed(), Shutdown(), OTHER])
    def test_over_a_link_to_one_that_traps_is_an_event_S36(self, run, reason: object) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                dying = await kernel.spawn(Scripted, script(end=lambda actor: actor.stop(reason)))
                ref = await kernel.spawn(ScriptedTrapper, script(link=lambda actor: actor.link(dying)))
                await kernel.ask(ref, Call("link"))
                pid = dying.pid
                dying.tell(Call("end"))
                await kernel.idle()
                assert log_of(ref) == [Exit(pid, reason)]

        run(body())

    def test_normal_sent_to_oneself_ends_oneself_S36(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Scripted, script(go=lambda actor: actor.exit(actor.pid, Normal())))
                ref.tell(Call("go"))
                await kernel.idle()
                assert ref.last_pid.cell.reason == Normal()

        run(body())

    def test_a_trapping_actor_that_sends_itself_normal_gets_the_event_S36(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(
                    ScriptedTrapper, script(go=lambda actor: actor.exit(actor.pid, Normal()))
                )
                ref.tell(Call("go"))
                await kernel.idle()
                assert log_of(ref) == [Exit(ref.pid, Normal())]

        run(body())

    def test_a_killed_actor_spreads_killed_over_its_links_S37(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                victim = await kernel.spawn(Recorder)
                link = script(link=lambda actor: actor.link(victim))
                plain, trapping = (
                    await kernel.spawn(Scripted, link),
                    await kernel.spawn(ScriptedTrapper, link),
                )
                for ref in (plain, trapping):
                    await kernel.ask(ref, Call("link"))
                pid = victim.pid
                kernel.kill(victim)
                await kernel.idle()
                assert plain.last_pid.cell.reason == Killed()
                assert log_of(trapping) == [Exit(pid, Killed())]

        run(body())

    @pytest.mark.parametrize("reason", [Normal(), Shutdown(), OTHER])
    @pytest.mark.parametrize("by", ["signal", "end"])
    def test_the_parents_exit_ends_even_a_trapping_child_S39(self, run, reason: object, by: str) -> None:
        class Child(Trapper):
            async def stopping(self, why: object) -> None:
                self.log.append(why)

        log: list[Any] = []

        async def spawn(actor: Actor) -> Any:
            actor.child = await actor.spawn(Child, log, link=True)  # type: ignore[attr-defined]
            return actor.child  # type: ignore[attr-defined]

        async def body() -> None:
            async with Kernel() as kernel:
                parent = await kernel.spawn(
                    Scripted,
                    script(
                        spawn=spawn,
                        signal=lambda actor: actor.exit(actor.child, reason),
                        end=lambda actor: actor.stop(reason),
                    ),
                )
                child = await kernel.ask(parent, Call("spawn"))
                parent.tell(Call(by))
                await kernel.idle()
                assert child.last_pid.cell.reason == reason
                assert log == [reason]

        run(body())


class TestLinks:
    def test_linking_twice_is_linking_once_and_oneself_is_nothing_S41(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                peer = await kernel.spawn(Recorder)

                def link(actor: Actor) -> None:
                    actor.link(actor.ref)
                    for _ in range(2):
                        actor.link(peer)

                ref = await kernel.spawn(ScriptedTrapper, script(link=link))
                await kernel.ask(ref, Call("link"))
                pid = peer.pid
                kernel.kill(peer)
                await kernel.idle()
                assert log_of(ref) == [Exit(pid, Killed())]

        run(body())

    def test_either_side_may_end_a_link_S41_S44(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                one = await kernel.spawn(Scripted, {})
                two = await kernel.spawn(Scripted, script(link=lambda a: a.link(one)))
                actor_of(one).script = script(unlink=lambda a: a.unlink(two))
                await kernel.ask(two, Call("link"))
                await kernel.ask(one, Call("unlink"))
                await kernel.ask(one, Call("unlink"))
                kernel.kill(one)
                await kernel.idle()
                assert two.is_alive()

        run(body())

    @pytest.mark.parametrize("traps", [True, False])
    def test_linking_the_dead_is_an_exit_signal_noproc_S42(self, run, traps: bool) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                dead = await kernel.spawn(Recorder)
                kernel.kill(dead)
                cls = ScriptedTrapper if traps else Scripted
                ref = await kernel.spawn(cls, script(link=lambda a: a.link(dead)))
                ref.tell(Call("link"))
                await kernel.idle()
                if traps:
                    (exit,) = log_of(ref)
                    assert exit.pid == dead.last_pid
                    assert isinstance(exit.reason, NoProc)
                else:
                    assert isinstance(ref.last_pid.cell.reason, NoProc)

        run(body())

    def test_a_child_that_dies_in_its_first_moment_is_seen_by_its_starter_S43(self, run) -> None:
        class Hasty(Actor):
            def starting(self) -> None:
                self.tell(self.ref, Boom())

            @on(Boom)
            def boom(self, _: Boom) -> None:
                raise RuntimeError("at once")

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(
                    ScriptedTrapper, script(go=lambda a: a.spawn(Hasty, link=True, monitor=True))
                )
                await kernel.ask(ref, Call("go"))
                await kernel.idle()
                assert [type(entry) for entry in log_of(ref)] == [Exit, Down]

        run(body())

    def test_after_unlink_nothing_comes_and_flush_removes_what_waits_S44(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                peer = await kernel.spawn(Recorder)

                async def go(actor: Actor) -> None:
                    actor.link(peer)
                    kernel.kill(peer)
                    await asyncio.sleep(0)
                    actor.unlink(peer, flush=True)

                ref = await kernel.spawn(ScriptedTrapper, script(go=go))
                await kernel.ask(ref, Call("go"))
                await kernel.idle()
                assert log_of(ref) == []

        run(body())

    def test_a_link_made_again_counts_anew_S45(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                peer = await kernel.spawn(Recorder)

                def go(actor: Actor) -> None:
                    actor.link(peer)
                    actor.unlink(peer)
                    actor.link(peer)

                ref = await kernel.spawn(ScriptedTrapper, script(go=go))
                await kernel.ask(ref, Call("go"))
                kernel.kill(peer)
                await kernel.idle()
                assert len(log_of(ref)) == 1

        run(body())

    def test_a_ring_of_ten_thousand_links_ends_without_recursion(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                refs = [await kernel.spawn(Recorder) for _ in range(10_000)]
                for one, two in zip(refs, refs[1:] + refs[:1], strict=True):
                    links.link(one.cell, two)
                kernel.kill(refs[0])
                assert kernel.statistics().actors == 0

        run(body())


class TestMonitors:
    def test_each_monitor_gives_one_down_with_its_own_ref_S46(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                peer = await kernel.spawn(Recorder)
                ref = await kernel.spawn(
                    Scripted, script(go=lambda a: [a.monitor(peer) and None for _ in range(3)] and None)
                )
                await kernel.ask(ref, Call("go"))
                pid = peer.pid
                kernel.kill(peer)
                await kernel.idle()
                downs = log_of(ref)
                assert [(d.pid, d.reason) for d in downs] == [(pid, Killed())] * 3
                assert len({d.monitor for d in downs}) == 3

        run(body())

    def test_the_watchers_death_tells_the_watched_nothing_S46(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                peer = await kernel.spawn(Trapper)
                ref = await kernel.spawn(Scripted, script(go=lambda a: a.monitor(peer) and None))
                await kernel.ask(ref, Call("go"))
                kernel.kill(ref)
                await kernel.idle()
                assert log_of(peer) == []
                kernel.kill(peer)

        run(body())

    def test_of_the_dead_or_nobody_one_down_comes_with_noproc_S47(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                dead = await kernel.spawn(Recorder)
                kernel.kill(dead)

                def go(actor: Actor) -> None:
                    for dest in (dead, dead.last_pid, "nobody"):
                        actor.monitor(dest)
                    actor.monitor(actor.pid)

                ref = await kernel.spawn(Scripted, script(go=go))
                await kernel.ask(ref, Call("go"))
                await kernel.idle()
                assert [type(d.reason) for d in log_of(ref)] == [NoProc] * 3
                assert [d.name for d in log_of(ref)] == [None, None, "nobody"]

        run(body())

    def test_demonitor_ends_it_and_says_whether_it_was_active_S48(self, run) -> None:
        results: list[bool] = []

        async def body() -> None:
            async with Kernel() as kernel:
                peer = await kernel.spawn(Recorder)

                async def go(actor: Actor) -> None:
                    first, second = actor.monitor(peer), actor.monitor(peer)
                    results.append(actor.demonitor(first))
                    results.append(actor.demonitor(first))
                    kernel.kill(peer)
                    await asyncio.sleep(0)
                    results.append(actor.demonitor(second, flush=True))

                ref = await kernel.spawn(Scripted, script(go=go))
                await kernel.ask(ref, Call("go"))
                await kernel.idle()
                assert results == [True, False, False]
                assert log_of(ref) == []

        run(body())

    def test_a_monitored_name_means_the_holder_of_the_moment_S49(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                first = await kernel.spawn(Recorder, name="desk")
                ref = await kernel.spawn(Scripted, script(go=lambda a: a.monitor("desk") and None))
                await kernel.ask(ref, Call("go"))
                pid = first.pid
                kernel.kill(first)
                second = await kernel.spawn(Recorder, name="desk")
                kernel.kill(second)
                await kernel.idle()
                assert [(d.pid, d.name) for d in log_of(ref)] == [(pid, "desk")]

        run(body())

    @given(st.integers(0, 20), st.booleans())
    def test_down_comes_after_all_messages_of_the_dead_S50_S2(self, count: int, crash: bool) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Scripted, {})

                def end(actor: Actor) -> None:
                    for n in range(count):
                        actor.tell(ref, Note(str(n)))
                    if crash:
                        raise RuntimeError("end")
                    actor.stop()

                dying = await kernel.spawn(Scripted, script(end=end))
                actor_of(ref).script = script(go=lambda a: a.monitor(dying) and None)
                await kernel.ask(ref, Call("go"))
                dying.tell(Call("end"))
                await kernel.idle()
                log = log_of(ref)
                assert log[:-1] == [str(n) for n in range(count)]
                assert isinstance(log[-1], Down)

        asyncio.run(body())


def test_a_handler_that_waits_is_ended_by_a_link_and_its_asker_told(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            peer = await kernel.spawn(Recorder)
            ref = await kernel.spawn(Scripted, script(link=lambda a: a.link(peer)))
            await kernel.ask(ref, Call("link"))
            asked = asyncio.ensure_future(kernel.ask(ref, Wait()))
            await actor_of(ref).entered.wait()
            kernel.kill(peer)
            with pytest.raises(Exception, match="exited"):
                await asked
            assert not ref.is_alive()

    run(body())


def test_a_trapping_actor_may_switch_it_on_for_itself(run) -> None:
    class Late(Recorder):
        @on(Call)
        def trap(self, _: Call) -> None:
            self.trap_exit = True

    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Late)
            await kernel.ask(ref, Call("x"))
            kernel.exit(ref, OTHER)
            await kernel.idle()
            assert log_of(ref) == [Exit(None, OTHER)]

    run(body())
