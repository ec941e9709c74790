"""How a VM starts, what ends it, and what leaving its block raises (S91)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from typing import Any

import pytest

from avm.actors import Actor, on
from avm.errors import ActorExited, Interrupted, SpecError, StartError, VMError
from avm.supervision import child, supervisor
from avm.vm import VM
from tests.vm.cast import Broken, Do, Ping, Player, action, crash, troupe


def vm_of(tree: Any = None, **options: Any) -> VM:
    """A VM that neither logs nor watches, with no store."""
    return VM(tree, **{"memory": None, "observers": [], "watchdog": None, "provider": "scripted", **options})


def test_leaving_the_block_stops_everything_in_the_reverse_order_of_its_start(run: Any) -> None:
    """S91, S56."""
    diary: list[str] = []

    async def body() -> None:
        async with vm_of(troupe(diary)) as vm:
            await vm.spawn(Player, diary, id="guest")

    run(body())

    names = ["troupe/one", "troupe/branch/leaf", "troupe/two", "guest"]
    assert diary == [*(f"+{n}" for n in names), *(f"-{n}" for n in reversed(names))]


def test_a_tree_that_does_not_start_leaves_nothing_and_names_the_path(run: Any) -> None:
    """S91, S54."""
    diary: list[str] = []
    inner = supervisor("branch", children=[child("leaf", Broken, diary)])
    tree = supervisor("troupe", children=[child("one", Player, diary), inner])
    threads, thresholds = set(threading.enumerate()), gc.get_threshold()

    async def body() -> None:
        async with vm_of(tree, watchdog=10.0):
            raise AssertionError("the block must not be entered")

    with pytest.raises(StartError, match="troupe/branch/leaf did not start: RuntimeError: no ink") as failed:
        run(body())

    assert failed.value.path == ("troupe", "branch", "leaf")
    assert diary == ["+troupe/one", "-troupe/one"]
    assert set(threading.enumerate()) <= threads
    assert gc.get_threshold() == thresholds


def test_a_tree_that_gives_up_ends_the_block_and_raises_the_words_of_its_supervisor(run: Any) -> None:
    """S91, S67."""

    async def body() -> None:
        async with vm_of(troupe(max_restarts=0)) as vm:
            vm.tell("one", Do(crash))
            await asyncio.Event().wait()

    with pytest.raises(VMError, match=r"supervisor 'troupe' gave up: 1 restart in .*RuntimeError: boom"):
        run(body())


def test_wait_stopped_returns_when_the_tree_gave_up_and_leaving_says_why(run: Any) -> None:
    """S91."""
    returned = False

    async def body() -> None:
        nonlocal returned
        async with vm_of(troupe(max_restarts=0)) as vm:
            vm.tell("two", Do(crash))
            await vm.wait_stopped()
            returned = True

    with pytest.raises(VMError, match="'troupe' gave up"):
        run(body())
    assert returned


def test_a_branch_that_gives_up_takes_the_vm_with_it_once_its_parent_has(run: Any) -> None:
    """S71: giving up is the end of a child one level up; the VM is the last level."""

    async def body() -> None:
        async with vm_of(troupe(max_restarts=0)) as vm:
            for _ in range(2):
                vm.tell("troupe/branch/leaf", Do(crash))
                await vm.kernel.idle()
            await asyncio.Event().wait()

    with pytest.raises(VMError, match=r"'troupe' gave up.*'branch'.*'troupe/branch' gave up"):
        run(body())


def test_a_tree_that_shuts_itself_down_is_no_error(run: Any) -> None:
    """S72, S91: the block goes on, and wait_stopped returns."""
    tree = supervisor(
        "troupe",
        auto_shutdown="any_significant",
        children=[child("one", Player, restart="transient", significant=True)],
    )

    async def body() -> str:
        async with vm_of(tree) as vm:
            vm.tell("one", Do(leave))
            await vm.wait_stopped()
            return "done"

    assert run(body()) == "done"


@action
def leave(player: Actor) -> None:
    """End in order."""
    player.stop()


def test_a_tree_that_is_killed_ends_the_vm(run: Any) -> None:
    """S91: it is a permanent component."""

    async def body() -> None:
        async with vm_of(troupe()) as vm:
            vm.kill("troupe")
            await asyncio.Event().wait()

    with pytest.raises(VMError, match=r"'troupe' ended \(killed\)"):
        run(body())


def test_what_a_killed_supervisor_leaves_behind_is_cleaned_up_before_the_vm_is_gone(run: Any) -> None:
    """S62: its children end with their `stopping`, and nobody outlives the block."""
    diary: list[str] = []

    async def body() -> None:
        async with vm_of(troupe(diary)) as vm:
            vm.kill("troupe")

    with contextlib.suppress(VMError):
        run(body())
    assert sorted(line for line in diary if line.startswith("-")) == [
        "-troupe/branch/leaf",
        "-troupe/one",
        "-troupe/two",
    ]


def test_the_vms_own_tree_ends_the_vm_too(run: Any) -> None:
    """S91."""

    async def body() -> None:
        async with vm_of(troupe()) as vm:
            vm.kill("system")
            await asyncio.Event().wait()

    with pytest.raises(VMError, match=r"'system' ended \(killed\)"):
        run(body())


def test_an_error_of_the_block_goes_on_with_a_note_of_what_else_went_wrong(run: Any) -> None:
    """Failures travel: the user's own is not replaced by ours."""

    async def body() -> None:
        async with vm_of(troupe()) as vm:
            vm.kill("troupe")
            await vm.wait_stopped()
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as failed:
        run(body())
    assert failed.value.__notes__ == ["The VM had ended: 'troupe' ended (killed), and the VM with it."]


def test_a_cancellation_from_outside_stops_the_actors_and_goes_on(run: Any) -> None:
    """The VM takes back only its own cancellation."""
    diary: list[str] = []

    async def cancelled() -> None:
        entered = asyncio.Event()

        async def body() -> None:
            async with vm_of(troupe(diary)):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(body())
        await entered.wait()
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        run(cancelled())
    assert diary[-1] == "-troupe/one"


def test_the_blocks_clean_up_still_finds_the_actors_after_the_vm_was_told_to_stop(run: Any) -> None:
    """S91: a stop begins with the block, then come the actors."""
    answers: list[int] = []

    async def body() -> None:
        async with vm_of(troupe()) as vm:
            try:
                vm.tell("one", Do(interrupt))
                await asyncio.Event().wait()
            finally:
                answers.append(await vm.ask("two", Ping(1)))

    with pytest.raises(Interrupted):
        run(body())
    assert answers == [2]


@action
def interrupt(player: Actor) -> None:
    """What Ctrl+C does to a handler that is running."""
    raise KeyboardInterrupt


def test_a_keyboard_interrupt_in_a_handler_stops_the_system_in_order(run: Any) -> None:
    """S98."""
    diary: list[str] = []

    async def body() -> None:
        async with vm_of(troupe(diary)) as vm:
            vm.tell("one", Do(interrupt))
            await asyncio.Event().wait()

    with pytest.raises(Interrupted, match="KeyboardInterrupt") as stopped:
        run(body())

    assert stopped.value.status == 130
    ends = [line for line in diary if line.startswith("-")]
    assert ends[:3] == ["-troupe/one", "-troupe/two", "-troupe/branch/leaf"]


def test_an_error_of_the_block_after_a_keyboard_interrupt_is_its_consequence(run: Any) -> None:
    """S98: who asked the interrupted actor gets ActorExited, and the block ends with it."""

    async def body() -> None:
        async with vm_of() as vm:
            await (await vm.spawn(Blunt)).ask(Ping(1))

    with pytest.raises(Interrupted) as stopped:
        run(body())
    assert isinstance(stopped.value.__cause__, ActorExited)


class Blunt(Actor):
    """Is interrupted in a handler that runs in the task of whoever asks."""

    @on(Ping)
    def ping(self, ping: Ping) -> int:
        raise KeyboardInterrupt


def test_a_keyboard_interrupt_in_a_group_stops_the_system_too(run: Any) -> None:
    """S98: in any leaf."""

    async def body() -> None:
        async with vm_of(troupe()) as vm:
            vm.tell("one", Do(interrupt_in_group))
            await vm.wait_stopped()

    with pytest.raises(Interrupted):
        run(body())


@action
def interrupt_in_group(player: Actor) -> None:
    """What a TaskGroup makes of it."""
    raise BaseExceptionGroup("two", [ValueError(), KeyboardInterrupt()])


def test_a_bug_of_the_runtime_stops_the_system_and_is_not_silent(run: Any, caplog: Any) -> None:
    """S99."""

    async def body() -> None:
        async with vm_of(troupe()) as vm:
            vm.kernel.bug(ZeroDivisionError("in the scheduler"))
            await asyncio.Event().wait()

    with pytest.raises(VMError, match="the runtime itself failed") as failed:
        run(body())
    assert isinstance(failed.value.__cause__, ZeroDivisionError)


def test_stopping_has_a_limit_and_then_kills(run: Any, caplog: Any) -> None:
    """S91: total time limit, then kill; here an actor that waits in stopping for ever."""
    tree = supervisor(
        "troupe", children=[child("one", Player), child("stubborn", Stubborn, shutdown="infinity")]
    )

    async def body() -> None:
        async with vm_of(tree, stop_timeout=0.05):
            pass

    run(body())

    assert "stop_timeout=0.05 s; killed: troupe, troupe/one, troupe/stubborn" in caplog.text


class Stubborn(Actor):
    """Does not end by itself."""

    async def stopping(self, reason: object) -> None:
        await asyncio.Event().wait()


def test_a_block_that_does_not_let_go_keeps_the_actors_no_longer_than_a_stop_may_take(run: Any) -> None:
    """S91."""
    diary: list[str] = []

    async def body() -> None:
        async with vm_of(troupe(diary), stop_timeout=0.05) as vm:
            vm.tell("one", Do(interrupt))
            while "-troupe/two" not in diary:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)

    with pytest.raises(Interrupted):
        run(body())


def test_cancelling_the_stop_kills_what_still_lives(run: Any) -> None:
    """S91: whoever cancels leaving wants it over."""
    tree = supervisor("troupe", children=[child("stubborn", Stubborn, shutdown="infinity")])

    async def cancelled() -> None:
        leaving = asyncio.Event()

        async def body() -> None:
            async with vm_of(tree):
                leaving.set()

        task = asyncio.create_task(body())
        await leaving.wait()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        run(cancelled())


def test_a_vm_is_entered_once(run: Any) -> None:
    async def body() -> None:
        vm = vm_of()
        async with vm:
            pass
        with pytest.raises(VMError, match="make another"):
            await vm.__aenter__()

    run(body())


def test_a_vm_outside_its_block_says_so(run: Any) -> None:
    vm = vm_of()

    with pytest.raises(VMError, match="has not started; use it inside its block"):
        vm.tell("one", Ping(1))
    with pytest.raises(VMError, match="has not started"):
        vm.status()

    async def body() -> None:
        async with vm:
            pass

    run(body())
    with pytest.raises(VMError, match="has ended"):
        vm.tell("one", Ping(1))


def test_a_second_vm_may_live_beside_the_first(run: Any) -> None:
    async def body() -> tuple[int, int]:
        async with vm_of(troupe()) as one, vm_of(troupe()) as two:
            return await one.ask("one", Ping(1)), await two.ask("one", Ping(2))

    assert run(body()) == (2, 3)


def test_a_single_worker_is_a_tree_with_a_supervisor_above_it(run: Any) -> None:
    async def body() -> int:
        async with vm_of(child("one", Player)) as vm:
            vm.tell("app/one", Do(crash))
            await vm.kernel.idle()
            return await vm.ask("one", Ping(1))

    assert run(body()) == 2


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"tree": Player}, SpecError, r"Write child\('...', Player\)"),
        ({"tree": troupe}, SpecError, r"Call it: troupe\(...\)"),
        ({"tree": supervisor("system", children=[])}, SpecError, "give it another id"),
        ({"stop_timeout": 0}, VMError, "stop_timeout must be a number of seconds above 0, got 0"),
        ({"ask_timeout": "soon"}, VMError, "ask_timeout must be a number of seconds"),
        ({"memory": "much"}, VMError, "memory must be a size.*'much' is not a size"),
        ({"watchdog": -1}, VMError, "watchdog must be a number of seconds"),
        ({"seed": 1, "random": __import__("random").Random()}, VMError, "give one of them"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_before_anything_runs(
    options: Any, error: Any, text: str
) -> None:
    with pytest.raises(error, match=text):
        vm_of(**options)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"provider": "oracle"}, "provider must be one of .*, got 'oracle'"),
        ({"watchdog": 1.0, "runaway": "shoot"}, "runaway must be 'report' or 'interrupt', got 'shoot'"),
    ],
)
def test_arguments_found_wrong_at_the_start_leave_nothing(run: Any, options: Any, text: str) -> None:
    thresholds = gc.get_threshold()

    async def body() -> None:
        async with vm_of(troupe(), **options):
            pass

    with pytest.raises(VMError, match=text):
        run(body())
    assert gc.get_threshold() == thresholds
