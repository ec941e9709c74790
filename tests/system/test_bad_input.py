"""Everything a user can do wrong gives an error that says who, what was found, what was expected and what to do; the
VM runs on: whatever happened, another actor still answers (S13, S29, S52, S96, S98, S99)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard

from avm.actors import Actor, Request, event, on
from avm.actors.hooks import Report, WatchdogReport
from avm.errors import (
    ActorExited,
    AlreadyStarted,
    AskTimeout,
    AVMError,
    HandlerError,
    MailboxFull,
    NameTaken,
    NoHandler,
    NoSuchActor,
    PackError,
    RunawayError,
    SpecError,
    StartError,
)
from avm.supervision import child, start_child, supervisor
from avm.vm import VM

ROOT = Path(__file__).resolve().parent.parent.parent


@event(tag="tests.bad_input.Ping")
class Ping(Request[str]):
    """Answered by whoever is well."""


@event(tag="tests.bad_input.Refund")
class Refund(Request[str]):
    """Nobody handles it."""


@event(tag="tests.bad_input.Parcel")
class Parcel:
    """Holds something."""

    content: object


@event(tag="tests.bad_input.Misbehave")
class Misbehave(Request[str]):
    """Do something bad."""


Deed = Callable[[], Awaitable[str]]


class Good(Actor):
    """Answers."""

    @on(Ping)
    def ping(self, ping: Ping) -> str:
        return "well"


class Bad(Good):
    """Misbehaves as told by whoever started it."""

    def __init__(self, deed: Deed | None = None) -> None:
        self.deed = deed

    @on(Misbehave)
    async def misbehave(self, order: Misbehave) -> str:
        assert self.deed is not None
        return await self.deed()


class Narrow(Bad):
    """Room for one."""

    max_mailbox = 1


@asynccontextmanager
async def stage(deed: Deed | None = None, bad: type[Bad] = Bad, **options: Any) -> AsyncIterator[VM]:
    """Run a tree with one that misbehaves and one that is good, and see at the end that both are well."""
    tree = supervisor("stage", children=[child("bad", bad, deed, shutdown=0.01), child("good", Good)])
    async with VM(tree, memory=None, watchdog=None, handle_signals=False, **options) as vm:
        yield vm
        assert await vm.ask("good", Ping(), timeout=5) == "well"
        await vm.kernel.idle()
        assert await vm.ask("bad", Ping(), timeout=5) == "well"


# -- messages ----------------------------------------------------------------------------------------------------------


def test_an_event_nobody_handles_names_those_that_are_and_the_mark_to_add(run: Any) -> None:
    async def body() -> None:
        async with stage() as vm:
            with pytest.raises(NoHandler) as caught:
                await vm.ask("bad", Refund())
            vm.tell("bad", Refund())

        assert re.fullmatch(
            r"bad#\d+ has no handler for Refund; it handles Misbehave, Ping. Add a method marked @on\(Refund\).",
            str(caught.value),
        )

    run(body())


def test_two_handlers_for_one_event_fail_where_the_class_is_made(run: Any) -> None:
    async def body() -> None:
        async with stage():
            with pytest.raises(HandlerError) as caught:

                class Twice(Actor):
                    @on(Ping)
                    def one(self, ping: Ping) -> str:
                        return ""

                    @on(Ping)
                    def two(self, ping: Ping) -> str:
                        return ""

        text = str(caught.value)
        assert text.endswith("Twice has two handlers for Ping: one and two. Keep one of them.")

    run(body())


def test_a_field_that_cannot_be_packed_fails_at_the_sender_with_its_path(run: Any) -> None:
    async def body() -> None:
        async with stage() as vm:
            with pytest.raises(PackError) as caught:
                vm.tell("good", Parcel([1, {"key": open}]))  # type: ignore[arg-type, unused-ignore]

        assert caught.value.where == "Parcel.content[1]['key']"
        assert str(caught.value).startswith(
            "Parcel.content[1]['key'] holds a builtins.builtin_function_or_method"
        )
        assert "events hold numbers, text, bytes" in str(caught.value)

    run(body())


def test_asking_nobody_says_what_was_looked_for(run: Any) -> None:
    async def body() -> None:
        async with stage() as vm:
            with pytest.raises(NoSuchActor, match="'godo'.*good"):
                await vm.ask("godo", Ping())
            vm.tell("godo", Ping())
            assert vm.status().dead_letters == {"nobody": 1}

    run(body())


def test_an_ask_without_an_answer_in_time_says_how_long_and_what_to_do(run: Any) -> None:
    async def body() -> None:
        gate = asyncio.Event()

        async def dawdle() -> str:
            await gate.wait()
            return "late"

        async with stage(dawdle) as vm:
            with pytest.raises(AskTimeout) as caught:
                await vm.ask("bad", Misbehave(), timeout=0.01)
            gate.set()

        assert re.fullmatch(
            r"bad#\d+ did not answer Misbehave in 0.01 s; it still may handle it, and the reply will be dropped. "
            r"Give ask\(\) a longer timeout=, or look at what it waits for.",
            str(caught.value),
        )

    run(body())


def test_a_full_mailbox_says_how_full_and_what_to_raise(run: Any) -> None:
    async def body() -> None:
        gate = asyncio.Event()

        async def dawdle() -> str:
            await gate.wait()
            return "late"

        async with stage(dawdle, Narrow) as vm:
            vm.tell("bad", Misbehave())
            await vm.kernel.idle()
            vm.tell("bad", Misbehave())
            with pytest.raises(MailboxFull) as caught:
                await vm.ask("bad", Ping())
            gate.set()
            await vm.kernel.idle()

        assert re.match(r"mailbox of bad#\d+ is full: 1 of 1. .*raise max_mailbox", str(caught.value))

    run(body())


def test_a_name_that_is_taken_names_its_holder(run: Any) -> None:
    async def body() -> None:
        async with stage() as vm:
            vm.kernel.register("star", vm["good"])
            with pytest.raises(NameTaken) as caught:
                vm.kernel.register("star", vm["bad"])
            with pytest.raises(NameTaken, match="'star' is held by good#"):
                await vm.spawn(Good, name="star")
            assert vm.whereis("star") == vm["good"]

        assert re.fullmatch(
            r"name 'star' is held by good#\d+; bad#\d+ cannot have it. Choose another name, or stop the holder first.",
            str(caught.value),
        )

    run(body())


# -- trees -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, said",
    [
        ({"restart": "always"}, "restart must be 'permanent', 'transient' or 'temporary', got 'always'"),
        ({"shutdown": -1}, "shutdown must be"),
        ({"priority": "high"}, "priority must be"),
        ({"max_mailbox": 0}, "max_mailbox must be"),
        ({"start_timeout": "soon"}, "start_timeout must be"),
        ({"retries": 3}, "retries"),
    ],
)
def test_a_wrong_field_of_a_spec_is_named_with_its_value(
    run: Any, options: dict[str, Any], said: str
) -> None:
    async def body() -> None:
        async with stage() as vm:
            with pytest.raises(SpecError, match=re.escape(said)) as caught:
                await start_child(vm["stage"], child("extra", Good, **options))
            assert "child 'extra'" in str(caught.value)

    run(body())


def test_a_child_id_that_is_there_twice_is_named_before_and_after_the_start(run: Any) -> None:
    async def body() -> None:
        with pytest.raises(SpecError, match="supervisor 'stage'.*'twin'"):
            supervisor("stage", children=[child("twin", Good), child("twin", Bad)])
        async with stage() as vm:
            with pytest.raises(AlreadyStarted, match="good"):
                await start_child(vm["stage"], child("good", Good))

    run(body())


def test_a_start_that_fails_names_the_actor_and_the_cause(run: Any) -> None:
    class Broken(Actor):
        def starting(self) -> None:
            sys.exit("no ink")

    async def body() -> None:
        async with stage() as vm:
            with pytest.raises(StartError, match="broken-.* did not start: SystemExit: no ink"):
                await vm.spawn(Broken)

    run(body())


# -- handlers ----------------------------------------------------------------------------------------------------------


class Foul(BaseException):
    """No Exception."""


@pytest.mark.parametrize(
    "error, said",
    [
        (SystemExit(3), "SystemExit: 3"),
        (Foul("bah"), "Foul: bah"),
        (GeneratorExit(), "cancelled"),
        (asyncio.CancelledError(), "cancelled"),
        (BaseExceptionGroup("both", [Foul(), ValueError()]), "BaseExceptionGroup: both"),
        (RecursionError("deep"), "RecursionError: deep"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_a_handler_raises_ends_only_its_actor(run: Any, error: BaseException, said: str) -> None:
    async def body() -> None:
        async def fail() -> str:
            raise error

        async with stage(fail) as vm:
            with pytest.raises(ActorExited) as caught:
                await vm.ask("bad", Misbehave())

        expected = rf"bad#\d+ exited \({re.escape(said)}.*\) before it answered Misbehave\."
        assert re.fullmatch(expected, str(caught.value))

    run(body())


def test_a_handler_that_calls_sys_exit_ends_only_its_actor(run: Any) -> None:
    async def body() -> None:
        async def leave() -> str:
            sys.exit("out of money")

        async with stage(leave) as vm:
            with pytest.raises(ActorExited, match=r"exited \(SystemExit: out of money\)") as caught:
                await vm.ask("bad", Misbehave())
            assert isinstance(caught.value.__cause__, SystemExit)

    run(body())


def test_a_handler_that_swallows_cancellation_is_killed_and_replaced(run: Any) -> None:
    async def body() -> None:
        free = asyncio.Event()

        async def cling() -> str:
            while not free.is_set():
                try:
                    await asyncio.sleep(0.001)
                except asyncio.CancelledError:
                    pass
            return "never"

        async with stage(cling) as vm:
            waiting = asyncio.ensure_future(vm.ask("bad", Misbehave()))
            await vm.kernel.idle()
            vm.kill("bad")
            with pytest.raises(ActorExited, match="killed"):
                await waiting
            await vm.kernel.idle()
            assert await vm.ask("bad", Ping()) == "well"
            free.set()
            await asyncio.sleep(0.005)
            assert vm.kernel.statistics().zombies == 0

    run(body())


async def reports_while(
    deed: Deed, seconds: float, **options: Any
) -> tuple[list[WatchdogReport], BaseException | None]:
    """Let an actor hold the loop, and return what the watchdog said and what the asker got."""
    reports: list[Report] = []
    error: BaseException | None = None
    tree = supervisor("stage", children=[child("bad", Bad, deed), child("good", Good)])
    async with VM(tree, memory=None, watchdog=seconds, handle_signals=False, **options) as vm:
        vm.kernel.observers.append(reports.append)
        try:
            await vm.ask("bad", Misbehave())
        except AVMError as found:
            error = found
        await vm.kernel.idle()
        assert await vm.ask("good", Ping(), timeout=5) == "well"
        assert await vm.ask("bad", Ping(), timeout=5) == "well"
    return [r for r in reports if isinstance(r, WatchdogReport)], error


def test_a_handler_that_blocks_is_reported_with_its_event_and_place(run: Any) -> None:
    async def block() -> str:
        time.sleep(0.06)  # noqa: ASYNC251
        return "done"

    reports, error = run(reports_while(block, 0.02))

    assert error is None
    assert (reports[0].path, reports[0].event) == ("stage/bad", "Misbehave")
    assert "in block" in reports[0].stack
    assert not reports[0].interrupted


def test_a_handler_that_spins_is_interrupted_if_the_vm_is_told_so(run: Any) -> None:
    async def spin() -> str:
        while True:
            pass

    reports, error = run(reports_while(spin, 0.02, runaway="interrupt"))

    assert any(report.interrupted for report in reports)
    assert isinstance(error, ActorExited)
    assert isinstance(error.__cause__, RunawayError)
    assert re.match(r"bad#\d+ exited \(RunawayError: .*run_blocking\(\)", str(error))


# -- the command line --------------------------------------------------------------------------------------------------


def avm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the main job as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "avm.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def refused(*arguments: str) -> str:
    """Run the main job, see that it refuses in one line, and return that line."""
    done = avm(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"avm: [^\n]+\n", done.stderr), done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--memory", "nonsense"), "--memory 'nonsense' is not a size; write a number and a unit: '16GB'"),
        (("--memory", "1KB"), "--memory '1KB' is below the floor of 64 MB; give at least that"),
        (("--memory=-5GB",), "--memory '-5GB' is not a size"),
        (("--agents", "0"), "--agents must be a whole number of 1 or more, got '0'"),
        (("--agents", "-3"), "--agents must be a whole number of 1 or more, got '-3'"),
        (("--agents", "1.5"), "--agents must be a whole number of 1 or more, got '1.5'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_size_or_a_number_that_cannot_be_is_one_line_and_status_2(
    arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(*arguments)


LINE = json.dumps({"messages": [{"role": "user", "content": "Hello " * 50}]}).encode() + b"\n"


def packed(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


@pytest.mark.slow
@pytest.mark.parametrize(
    "content, said",
    [
        (None, r"there is no file; expected a zstd frame of JSON lines"),
        (
            b"plain text\n",
            r"is not zstd: it begins with b'plain te'; expected a zstd frame .*zstd FILE makes one",
        ),
        (b"", r"is not zstd: it is empty"),
        (packed(LINE * 3)[:-9], r"line \d+: the file is cut off; fetch or write it again"),
        (packed(LINE * 2 + b"{broken\n" + LINE), r"line 3: not JSON: .*expected one conversation a line"),
        (packed(LINE + b'{"messages": 5}\n'), r"line 2: 'messages' must be a list of messages, got int"),
    ],
    ids=["missing", "not zstd", "empty", "cut off", "broken line", "no conversation"],
)
def test_a_workload_that_cannot_be_read_is_told_with_its_file_and_line(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "work.jsonl.zst"
    if content is not None:
        file.write_bytes(content)

    text = refused("--workload", str(file), "--once")

    assert str(file) in text
    assert re.search(said, text), text
