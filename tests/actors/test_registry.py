"""Names and groups (S78-S84), and finding actors by path."""

from __future__ import annotations

from typing import Any

import pytest

from avm.actors import Actor, Kernel
from avm.actors.registry import GroupChange, Names
from avm.errors import ActorExited, NameTaken, NoProc, NotJoined
from tests.actors.cast import Call, Double, Note, Recorder, Scripted, actor_of, log_of


def script(**functions: Any) -> dict[str, Any]:
    return functions


def test_a_name_has_one_living_holder_S78(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            first = await kernel.spawn(Recorder, name="desk")
            with pytest.raises(NameTaken, match="held by recorder-1#1") as caught:
                await kernel.spawn(Recorder, name="desk")
            assert caught.value.holder == first.pid
            assert kernel.whereis("desk") == first
            assert kernel.statistics().actors == 1

    run(body())


def test_registering_the_dead_fails_S78(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Recorder)
            kernel.kill(ref)
            with pytest.raises(NameTaken, match="has ended"):
                kernel.register("desk", ref.last_pid)

    run(body())


def test_one_actor_may_hold_several_names_and_they_go_with_it_S78_S79(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Recorder, name="a")
            kernel.register("b", ref)
            kernel.register("b", ref)
            assert kernel.whereis("a") == kernel.whereis("b") == ref
            assert kernel.names.names_of(ref.cell) == ("a", "b")
            kernel.kill(ref)
            assert kernel.whereis("a") is kernel.whereis("b") is None

    run(body())


def test_names_compare_by_type_too_S78(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            refs = [await kernel.spawn(Recorder) for _ in range(3)]
            names = Names()
            for name, ref in zip((1, 1.0, True), refs, strict=True):
                names.register(name, ref.cell)
            assert [names.whereis(n) for n in (1, 1.0, True)] == [r.cell for r in refs]

    run(body())


def test_between_death_and_restart_the_name_is_unknown_S80(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Recorder, id="worker", name="desk")
            kernel.kill(ref)
            with pytest.raises(NoProc):
                await kernel.ask("desk", Double(1))
            again = await kernel.spawn(Recorder, at=ref, name="desk")
            assert await kernel.ask("desk", Double(1)) == 2
            assert again == ref
            assert kernel.whereis("desk") == ref

    run(body())


def test_a_ref_survives_restarts_and_a_pid_does_not(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Recorder, id="worker")
            held, pid = kernel.find("worker"), ref.pid
            kernel.kill(ref)
            assert ref.pid is None
            assert not pid.is_alive()
            await kernel.spawn(Recorder, id="worker")
            assert await held.ask(Double(2)) == 4
            assert held == ref
            assert held.pid != pid
            assert repr(pid) == "worker#1"
            with pytest.raises(NoProc, match=r"worker#1 has ended \(killed\)"):
                await kernel.ask(pid, Double(1))

    run(body())


def test_actors_are_found_by_path_and_by_an_id_that_is_unique(run) -> None:
    async def spawn(actor: Actor) -> Any:
        return await actor.spawn(Recorder, id="critic")

    async def body() -> None:
        async with Kernel() as kernel:
            room = await kernel.spawn(Scripted, script(go=spawn), id="newsroom")
            critic = await kernel.ask(room, Call("go"))
            assert critic.path == "newsroom/critic"
            assert kernel.find("newsroom/critic") == critic
            assert await kernel.ask("critic", Double(1)) == 2
            assert kernel.find("newsroom/nobody") is None
            other = await kernel.spawn(Scripted, script(go=spawn), id="office")
            await kernel.ask(other, Call("go"))
            with pytest.raises(NoProc, match="the id of 2 actors: newsroom/critic, office/critic"):
                await kernel.ask("critic", Double(1))

    run(body())


def test_an_actor_without_an_id_has_a_path_that_finds_it(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Recorder)
            assert ref.path == "recorder-1"
            assert kernel.find("recorder-1") == ref
            assert kernel.find("other-1") is None

    run(body())


def test_a_name_goes_before_a_path_and_a_path_before_an_id(run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            by_path = await kernel.spawn(Recorder, id="desk")
            assert kernel.resolve("desk") is by_path.cell
            by_name = await kernel.spawn(Recorder, name="desk")
            assert kernel.resolve("desk") is by_name.cell

    run(body())


class TestGroups:
    def test_n_joins_are_n_memberships_and_copies_S82(self, run) -> None:
        def join(actor: Actor) -> None:
            actor.join("g")
            actor.join("g")

        async def body() -> None:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Scripted, script(join=join, leave=lambda a: a.leave("g")))
                await kernel.ask(ref, Call("join"))
                assert kernel.publish(None, "g", Note("x")) == 2
                await kernel.ask(ref, Call("leave"))
                assert kernel.publish(None, "g", Note("y")) == 1
                await kernel.idle()
                assert log_of(ref) == ["x", "x", "y"]
                await kernel.ask(ref, Call("leave"))
                assert kernel.groups.groups() == ()
                with pytest.raises(ActorExited) as caught:
                    await kernel.ask(ref, Call("leave"))
                assert isinstance(caught.value.__cause__, NotJoined)

        run(body())

    def test_the_dead_vanish_from_all_groups_S82_S32(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                refs = [await kernel.spawn(Scripted, script(join=lambda a: a.join("g"))) for _ in range(3)]
                for ref in refs:
                    await kernel.ask(ref, Call("join"))
                kernel.kill(refs[1])
                assert kernel.groups.members("g") == (refs[0].cell, refs[2].cell)

        run(body())

    def test_publishing_reaches_the_members_of_that_moment_whatever_one_of_them_does_S83(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                refs = [await kernel.spawn(Scripted, script(join=lambda a: a.join("g"))) for _ in range(3)]
                for ref in refs[:2]:
                    await kernel.ask(ref, Call("join"))
                kernel.suspend(refs[0])
                publisher = await kernel.spawn(Scripted, script(go=lambda a: a.publish("g", Note("news"))))
                assert await kernel.ask(publisher, Call("go")) == 2
                await kernel.ask(refs[2], Call("join"))
                await kernel.idle()
                assert [log_of(ref) for ref in refs] == [[], ["news"], []]
                kernel.resume(refs[0])

        run(body())

    def test_a_watch_gives_the_members_and_then_every_change_once_S84(self, run) -> None:
        async def body() -> None:
            async with Kernel() as kernel:
                refs = [
                    await kernel.spawn(
                        Scripted, script(join=lambda a: a.join("g"), leave=lambda a: a.leave("g"))
                    )
                    for _ in range(3)
                ]
                await kernel.ask(refs[0], Call("join"))
                changes: list[GroupChange] = []
                number, members = kernel.groups.watch("g", changes.append)
                assert members == (refs[0].cell,)
                await kernel.ask(refs[1], Call("join"))
                await kernel.ask(refs[0], Call("leave"))
                kernel.kill(refs[1])
                assert [(c.cell, c.joined) for c in changes] == [
                    (refs[1].cell, True),
                    (refs[0].cell, False),
                    (refs[1].cell, False),
                ]
                kernel.groups.unwatch("g", number)
                kernel.groups.unwatch("g", number)
                await kernel.ask(refs[2], Call("join"))
                assert len(changes) == 3

        run(body())


def test_a_tap_sees_everything_and_one_that_raises_is_removed(run, caplog) -> None:
    seen: list[tuple[str, Any]] = []

    def bad(path: str, sender: Any, event: Any) -> None:
        raise RuntimeError("bad tap")

    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Recorder, id="r")
            sender = await kernel.spawn(Scripted, script(go=lambda a: a.tell(ref, Note("tapped"))), id="s")
            tap = lambda path, who, event: seen.append((path, event))  # noqa: E731
            kernel.tap(bad)
            kernel.tap(tap)
            await kernel.ask(sender, Call("go"))
            await kernel.idle()
            kernel.untap(tap)
            await kernel.ask(sender, Call("go"))
            await kernel.idle()
            assert seen == [("s", Call("go")), ("r", Note("tapped"))]
            assert log_of(ref) == ["tapped", "tapped"]
            assert "bad tap" in caplog.text
            assert kernel.quick
            assert actor_of(ref)._cell.quick

    run(body())
