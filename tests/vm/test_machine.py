"""What a VM offers inside its block: finding, asking, starting and ending actors, and its status."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from avm.actors import Actor, Request, event, on
from avm.errors import (
    ActorExited,
    AskTimeout,
    AVMError,
    MailboxFull,
    NameTaken,
    NoHandler,
    NoProc,
    NoSuchActor,
    PackError,
    SpecError,
    StopError,
)
from avm.supervision import child, start_child, supervisor
from avm.vm import VM
from tests.vm.cast import Do, Ping, Player, Unknown, action, crash, troupe


def vm_of(tree: Any = None, **options: Any) -> VM:
    return VM(tree, **{"memory": None, "observers": [], "watchdog": None, "provider": "scripted", **options})


# -- finding ---------------------------------------------------------------------------------------------------


def test_an_actor_is_found_by_name_by_path_and_by_an_id_that_only_it_has(run: Any) -> None:
    tree = supervisor("troupe", children=[child("one", Player, name="star"), child("two", Player)])

    async def body() -> None:
        async with vm_of(tree) as vm:
            assert vm["star"] == vm["troupe/one"] == vm["one"]
            assert vm["one"].path == "troupe/one"
            assert vm.whereis("star") == vm["one"]
            assert vm.whereis("one") is None
            assert "two" in vm
            assert "three" not in vm

    run(body())


def test_an_unknown_key_names_what_may_have_been_meant(run: Any) -> None:
    async def body() -> None:
        async with vm_of(troupe()) as vm:
            with pytest.raises(KeyError, match=r"the name, path or id 'twoo'. Did you mean 'troupe/two'"):
                vm["twoo"]
            with pytest.raises(NoProc, match="Did you mean 'troupe/branch/leaf'"):
                vm["troop/branch/leaf"]
            with pytest.raises(NoSuchActor) as failed:
                vm["xyzzy"]
            assert str(failed.value) == "no actor has the name, path or id 'xyzzy'."
            with pytest.raises(NoSuchActor, match="is found by text"):
                vm[7]  # type: ignore[index]

    run(body())


def test_an_id_of_several_actors_is_refused_with_their_paths(run: Any) -> None:
    branches = [supervisor(b, children=[child("critic", Player)]) for b in ("news", "sports")]

    async def body() -> None:
        async with vm_of(supervisor("paper", children=branches)) as vm:
            with pytest.raises(NoSuchActor, match="is the id of 2 actors") as failed:
                vm["critic"]
            assert failed.value.near == ("paper/news/critic", "paper/sports/critic")

    run(body())


def test_a_ref_reaches_the_next_incarnation(run: Any) -> None:
    """S80: the place outlives the incarnation."""

    async def body() -> None:
        async with vm_of(troupe()) as vm:
            one = vm["one"]
            before = one.pid
            with pytest.raises(ActorExited):
                await one.ask(Do(crash))
            await vm.kernel.idle()

            assert await one.ask(Ping(1)) == 2
            assert one.pid != before
            assert vm["one"] == one

    run(body())


# -- starting and ending ---------------------------------------------------------------------------------------


def test_a_spawned_actor_stands_beside_the_tree_and_is_not_restarted(run: Any) -> None:
    async def body() -> None:
        async with vm_of(troupe()) as vm:
            guest = await vm.spawn(Player, id="guest")
            assert guest.path == "guest"
            assert await vm.ask("guest", Ping(1)) == 2
            vm.kill(guest)
            assert not guest.is_alive()
            assert await vm.ask("one", Ping(1)) == 2

    run(body())


def test_stop_waits_for_the_end_and_tells_of_another_one(run: Any) -> None:
    """S35."""

    async def body() -> None:
        diary: list[str] = []
        async with vm_of() as vm:
            guest = await vm.spawn(Player, diary, id="guest")
            await vm.stop(guest)
            assert diary == ["+guest", "-guest"]
            with pytest.raises(NoProc):
                await vm.stop(guest)
            bad = await vm.spawn(BadLeaver)
            with pytest.raises(StopError, match="told to stop"):
                await vm.stop(bad)

    run(body())


class BadLeaver(Actor):
    """Fails in its clean-up."""

    def stopping(self, reason: object) -> None:
        raise OSError("disk full")


def test_an_event_from_another_thread_arrives(run: Any) -> None:
    """S101."""

    async def body() -> list[int]:
        seen: list[int] = []
        async with vm_of() as vm:
            await vm.spawn(Counter, seen, id="counter")
            thread = threading.Thread(target=lambda: [vm.tell("counter", Ping(n)) for n in range(100)])
            thread.start()
            await asyncio.to_thread(thread.join)
            await vm.kernel.idle()
        return seen

    assert run(body()) == list(range(100))


class Counter(Actor):
    """Keeps the numbers it gets."""

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    @on(Ping)
    def ping(self, ping: Ping) -> None:
        self.seen.append(ping.number)


def test_actors_find_the_parts_of_the_vm_as_services(run: Any) -> None:
    async def body() -> None:
        async with VM(troupe(), memory="64MB", provider="scripted", observers=[], watchdog=None) as vm:
            ref = await vm.spawn(Curious)
            assert await ref.ask(Ping(1)) == ["avm.io", "Roots", "Router", "Store"]
            assert vm.status().store is not None
            assert vm.router.statistics().published == 0

    run(body())


class Curious(Actor):
    """Looks at what the VM hands in."""

    @on(Ping)
    def ping(self, ping: Ping) -> list[str]:
        io = self.service("io")
        named = "avm.io" if io == self.whereis("avm.io") else "?"
        return [named, *(type(self.service(name)).__name__ for name in ("roots", "router", "store"))]


def test_a_seed_makes_the_randomness_of_actors_repeat(run: Any) -> None:
    """S103."""

    async def drawn(**options: Any) -> float:
        async with vm_of(troupe(), **options) as vm:
            return float(await vm.ask("one", Do(draw)))

    assert run(drawn(seed=7)) == run(drawn(seed=7))
    assert run(drawn(seed=7)) != run(drawn(seed=8))


@action
def draw(player: Actor) -> float:
    """Take a number."""
    return player.random.random()


# -- bad input -------------------------------------------------------------------------------------------------


class Worse(BaseException):
    """Not even an Exception."""


@action
def exit_process(player: Actor) -> None:
    """What a tool's code may do."""
    raise SystemExit(3)


@action
def raise_base(player: Actor) -> None:
    """Fail with a BaseException."""
    raise Worse("base")


@action
async def swallow_cancellation(player: Actor) -> None:
    """Go on whatever happens."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if not player.is_alive():
                raise


@action
async def send_unpackable(player: Actor) -> None:
    """Send what cannot leave its sender."""
    player.tell(player.ref, Holder(object()))


@event(tag="tests.vm.Holder")
class Holder:
    thing: object


@action
def take_name(player: Actor) -> None:
    """Register a name that another holds."""
    player.register("star")


@action
async def spin(player: Actor) -> None:
    """Hold the loop a little."""
    for _ in range(100_000):
        pass


CRASHES = [
    (exit_process, "SystemExit"),
    (raise_base, "Worse: base"),
    (send_unpackable, "PackError"),
    (take_name, "NameTaken"),
]


@pytest.mark.parametrize("order, reason", CRASHES)
def test_whatever_a_handler_raises_only_it_ends_and_the_vm_runs_on(run: Any, order: str, reason: str) -> None:
    """S98, S99."""

    async def body() -> None:
        async with vm_of(troupe()) as vm:
            vm.kernel.register("star", vm["two"])
            with pytest.raises(ActorExited, match=reason):
                await vm.ask("one", Do(order))
            await vm.kernel.idle()
            assert await vm.ask("one", Ping(1)) == 2
            assert await vm.ask("two", Ping(1)) == 2

    run(body())


def test_a_handler_that_swallows_cancellation_is_killed_and_replaced(run: Any) -> None:
    """S94: dead for everyone at once; its place is free for the next incarnation."""

    async def body() -> None:
        async with vm_of(troupe()) as vm:
            waiting = asyncio.create_task(vm.ask("one", Do(swallow_cancellation)))
            await vm.kernel.idle()
            vm.kill("one")
            with pytest.raises(ActorExited, match="killed"):
                await waiting
            await vm.kernel.idle()
            assert await vm.ask("one", Ping(1)) == 2

    run(body())


class Narrow(Player):
    """Room for one."""

    max_mailbox = 1


def test_bad_messages_give_their_errors_and_the_vm_runs_on(run: Any) -> None:
    tree = supervisor("troupe", children=[child("one", Player), child("narrow", Narrow)])

    async def body() -> None:
        async with vm_of(tree) as vm:
            with pytest.raises(NoHandler, match=r"has no handler for Unknown; it handles Do, Ping"):
                await vm.ask("one", Unknown())
            with pytest.raises(PackError, match=r"Holder.thing"):
                vm.tell("one", Holder(object()))
            with pytest.raises(NoSuchActor, match="no actor has the name, path or id 'nobody'"):
                await vm.ask("nobody", Ping(1))
            vm.tell("nobody", Ping(1))
            with pytest.raises(AskTimeout):
                await vm.ask("one", Do(swallow_cancellation), timeout=0.01)
            with pytest.raises(MailboxFull):
                await asyncio.gather(*(vm.ask("narrow", Ping(n)) for n in range(3)))
            vm.kernel.register("star", vm["one"])
            with pytest.raises(NameTaken, match="'star' is held by"):
                vm.kernel.register("star", vm["narrow"])
            with pytest.raises(AVMError, match="one"):
                await start_child(vm["troupe"], child("one", Player))
            with pytest.raises(SpecError, match="restart must be"):
                await start_child(vm["troupe"], child("x", Player, restart="always"))  # type: ignore[arg-type]
            assert vm.status().dead_letters == {"no_handler": 1, "nobody": 1, "mailbox_full": 2}
            assert await vm.ask("narrow", Ping(1)) == 2
            vm.kill("one")

    run(body())


# -- status ----------------------------------------------------------------------------------------------------


def test_the_status_shows_every_actor_with_its_place_and_state(run: Any) -> None:
    async def body() -> None:
        async with vm_of(troupe()) as vm:
            vm.tell("one", Do(wait_for_two))
            vm.tell("two", Do(swallow_cancellation))
            await vm.kernel.idle()
            vm.tell("one", Ping(1))
            await vm.kernel.idle()

            status = vm.status()
            nodes = {node.path: node for node in status.walk()}

            assert [node.id for node in status.tree] == ["system", "troupe"]
            assert [node.id for node in nodes["troupe"].children] == ["one", "branch", "two"]
            assert nodes["troupe/branch/leaf"].state == "idle"
            assert nodes["troupe"].below == 4
            assert (nodes["troupe/one"].state, nodes["troupe/one"].mailbox) == ("waiting", 1)
            assert type(nodes["troupe/one"].waiting).__name__ == "Reply"
            assert status.waiting == {"Reply": 1, "Other": 1}
            assert (status.mailbox, status.deepest) == (2, 1)
            assert status.actors == len(nodes)
            assert "Player waiting for Reply(path='troupe/two'), 1 queued" in str(status)
            vm.kill("one")
            vm.kill("two")

    run(body())


@action
async def wait_for_two(player: Actor) -> int:
    """Ask somebody who is busy."""
    return await player.ask("troupe/two", Ping(1), timeout=None)


def test_the_status_counts_restarts_dead_letters_and_the_pool(run: Any) -> None:
    async def body() -> None:
        async with vm_of(troupe()) as vm:
            vm.tell("one", Do(crash))
            vm.tell("nobody", Ping(1))
            await vm.kernel.idle()

            status = vm.status()

            assert status.restarts == 1
            assert status.dead_letters == {"nobody": 1}
            assert status.io is not None
            assert status.io.provider == "scripted"
            assert status.store is None

    run(body())


def test_the_status_can_leave_out_what_is_deep(run: Any) -> None:
    async def body() -> None:
        async with vm_of(troupe()) as vm:
            shallow = vm.status(depth=1)
            assert {node.path for node in shallow.walk()} == {"system", "troupe"}
            assert [node.below for node in shallow.tree if node.id == "troupe"] == [4]
            assert "4 more below" in str(shallow)
            assert vm.status(depth=0).tree == ()
            assert vm.status(depth=0).actors == vm.status().actors

    run(body())


def test_a_chain_of_thousands_of_actors_has_a_status_too(run: Any) -> None:
    async def body() -> None:
        async with vm_of() as vm:
            ref = await vm.spawn(Link)
            for _ in range(1100):
                ref = await ref.ask(Grow())
            assert vm.status().tree[-1].below == 1100

    run(body())


@event(tag="tests.vm.Grow")
class Grow(Request[Any]):
    """Start a child and return it."""


class Link(Actor):
    """One of a chain."""

    @on(Grow)
    async def grow(self, grow: Grow) -> Any:
        return await self.spawn(Link)
