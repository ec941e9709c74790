"""SIGINT, SIGTERM and a clean end, in processes of their own (S91, S98, S102)."""

from __future__ import annotations

import signal

import pytest

from tests.vm.programs import play

pytestmark = pytest.mark.slow

STOPPED = ["stopped tree/b", "stopped tree/a"]

WAIT = """
async def main():
    async with vm():
        say("ready")
        await asyncio.sleep(60)

run(main{loop})
"""


@pytest.mark.parametrize("loop", ["", ", loop='asyncio'"])
@pytest.mark.parametrize("signum, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_stops_everything_in_order_and_the_status_says_which(
    signum: signal.Signals, status: int, loop: str
) -> None:
    """S91."""
    ended = play(WAIT.format(loop=loop), signals=[signum])

    assert ended.out == ["ready", *STOPPED]
    assert ended.err == f"avm: stopped by {signum.name}.\n"
    assert ended.status == status


def test_a_second_sigint_kills_what_does_not_stop() -> None:
    """S91."""
    ended = play(
        """
        class Stubborn(Actor):
            async def stopping(self, reason):
                say("ready")
                await asyncio.sleep(60)

        async def main():
            async with vm(child("stubborn", Stubborn, shutdown="infinity")):
                say("ready")
                await asyncio.sleep(60)

        run(main)
        """,
        signals=[signal.SIGINT, signal.SIGINT],
    )

    assert ended.out == ["ready", "ready"]
    assert ended.err == "avm: killed by a second SIGINT before it had stopped.\n"
    assert ended.status == 130


def test_a_second_sigterm_changes_nothing() -> None:
    """S91: supervisors of processes send it twice at times."""
    ended = play(
        """
        class Slow(Actor):
            async def stopping(self, reason):
                say("ready")
                await asyncio.sleep(0.3)
                say("stopped slow")

        async def main():
            async with vm(child("slow", Slow)):
                say("ready")
                await asyncio.sleep(60)

        run(main)
        """,
        signals=[signal.SIGTERM, signal.SIGTERM],
    )

    assert ended.out == ["ready", "ready", "stopped slow", *STOPPED]
    assert ended.status == 143


def test_a_second_sigint_reaches_a_handler_that_never_yields() -> None:
    """S96, S98: the loop does not turn, so the KeyboardInterrupt is raised in the handler itself."""
    ended = play(
        """
        class Spinner(Actor):
            @on(Go)
            def go(self, go):
                say("ready")
                began = time.monotonic()
                while time.monotonic() - began < 0.6:
                    pass
                say("ready")
                while True:
                    pass

        async def main():
            async with vm(child("spinner", Spinner)) as machine:
                await machine.ask("spinner", Go())

        run(main)
        """,
        signals=[signal.SIGINT, signal.SIGINT],
    )

    assert ended.out == ["ready", "ready", *STOPPED]
    assert ended.status == 130


def test_a_signal_while_no_vm_is_up_ends_the_program() -> None:
    ended = play(
        """
        async def main():
            try:
                say("ready")
                await asyncio.sleep(60)
            finally:
                say("cleaned up")

        run(main)
        """,
        signals=[signal.SIGTERM],
    )

    assert ended.out == ["ready", "cleaned up"]
    assert ended.err == "avm: stopped by SIGTERM.\n"
    assert ended.status == 143


def test_a_signal_while_the_tree_starts_stops_what_is_up() -> None:
    """S91."""
    ended = play(
        """
        class Slow(Actor):
            async def starting(self):
                say("ready")
                await asyncio.sleep(60)

        async def main():
            async with vm(child("slow", Slow)):
                say("never")

        run(main)
        """,
        signals=[signal.SIGINT],
    )

    assert ended.out[0] == "ready"
    assert sorted(ended.out[1:]) == sorted(STOPPED)
    assert ended.err == "avm: stopped by SIGINT.\n"
    assert ended.status == 130


def test_a_vm_in_a_task_group_ends_the_program_with_the_same_status() -> None:
    ended = play(
        """
        async def one():
            async with vm():
                say("ready")
                await asyncio.sleep(60)

        async def main():
            async with asyncio.TaskGroup() as group:
                group.create_task(one())

        run(main)
        """,
        signals=[signal.SIGINT],
    )

    assert ended.out == ["ready", *STOPPED]
    assert (ended.err, ended.status) == ("avm: stopped by SIGINT.\n", 130)


def test_a_vm_can_handle_signals_without_run() -> None:
    ended = play(
        """
        from avm.errors import Interrupted

        async def main():
            try:
                async with vm(handle_signals=True):
                    say("ready")
                    await asyncio.sleep(60)
            except Interrupted as end:
                say(f"{end} {end.status}")

        asyncio.run(main())
        """,
        signals=[signal.SIGTERM],
    )

    assert ended.out == ["ready", *STOPPED, "stopped by SIGTERM. 143"]
    assert ended.status == 0


def test_plain_asyncio_run_stops_the_actors_in_order_on_sigint() -> None:
    """S91: without our handlers asyncio's own do it."""
    ended = play(
        """
        async def main():
            async with vm():
                say("ready")
                await asyncio.sleep(60)

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            say("interrupted")
        """,
        signals=[signal.SIGINT],
    )

    assert ended.out == ["ready", *STOPPED, "interrupted"]


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_clean_stop_leaves_nothing_that_python_warns_of(loop: str) -> None:
    """S102: in debug mode and with every warning shown."""
    ended = play(
        f"""
        class Busy(Actor):
            async def starting(self):
                self.send_after(60, self.ref, Go())
                self.pipe(asyncio.sleep(60))

            @on(Go)
            async def go(self, go):
                await asyncio.sleep(60)

        async def main():
            async with vm(child("busy", Busy)) as machine:
                machine.tell("busy", Go())
                task = asyncio.create_task(machine.ask("busy", Go()))
                await machine.kernel.idle()
            try:
                await task
            except Exception as error:
                say(type(error).__name__)

        run(main, loop={loop!r})
        say("done")
        """,
        debug=True,
    )

    assert ended.out == [*STOPPED, "ActorExited", "done"]
    assert ended.err == ""
    assert ended.status == 0


def test_an_interrupted_stop_leaves_nothing_that_python_warns_of() -> None:
    """S102: killed actors too."""
    ended = play(
        """
        class Zombie(Actor):
            @on(Go)
            async def go(self, go):
                for _ in range(3):
                    try:
                        await asyncio.sleep(60)
                    except asyncio.CancelledError:
                        pass

        async def main():
            async with vm(child("zombie", Zombie)) as machine:
                machine.tell("zombie", Go())
                await machine.kernel.idle()
                machine.kill("zombie")
                machine.tell("a", Go())

        run(main)
        say("done")
        """,
        debug=True,
    )

    assert ended.out == [*STOPPED, "done"]
    assert "pending" not in ended.err
    assert "never" not in ended.err
    assert ended.status == 0
