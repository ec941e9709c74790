"""Agents in a VM with a home: what was committed is on disk before its reply, and the next VM goes on from there."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from avm.actors import Request, event, on
from avm.agents import Agent
from avm.errors import ColdStoreError, HomeInUse, StoreError, VMError
from avm.io import ScriptedProvider
from avm.memory import Store
from avm.supervision import Backoff, child, supervisor
from avm.vm import VM

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@event
class Length(Request[int]):
    pass


@event
class Note(Request[None]):
    text: str


class Clerk(Agent):
    system = "You are a clerk."
    restart_backoff = Backoff()

    @on(Length)
    def length(self, _: Length) -> int:
        return len(self.conversation)

    @on(Note)
    def note(self, note: Note) -> None:
        self.conversation = self.conversation.append({"role": "user", "content": note.text})


def office(home: Path, **options: Any) -> VM:
    tree = supervisor("office", children=[child("clerk", Clerk)])
    return VM(tree, home=home, provider=ScriptedProvider(["one", "two", "three"]), observers=[], **options)


def on_disk(home: Path, name: str = "office/clerk") -> list[str] | None:
    """Read what a copy of the home holds: what a kill at this moment would leave."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(home, copy, ignore=shutil.ignore_patterns("lock"))
        with Store.open(copy) as store:
            found = store.roots.get(name)
            return [message["content"] for message in found] if found is not None else None


def test_a_turn_is_on_disk_before_its_answer(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with office(tmp_path) as vm:
            assert await vm.ask("clerk", "Hello") == "one"
            assert on_disk(tmp_path) == ["Hello", "one"]

    run(body())


def test_a_plain_handlers_commit_is_on_disk_before_its_reply_too(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with office(tmp_path) as vm:
            await vm.ask("clerk", Note("remember"))
            assert on_disk(tmp_path) == ["remember"]

    run(body())


def test_another_vm_on_the_same_home_goes_on(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with office(tmp_path) as vm:
            await vm.ask("clerk", "Hello")
        async with office(tmp_path) as vm:
            assert await vm.ask("clerk", Length()) == 2
            await vm.ask("clerk", "Again")
            found = vm.roots.get("office/clerk")
            assert found is not None
            assert [message["role"] for message in found] == ["user", "assistant"] * 2
            assert found.system == "You are a clerk."

    run(body())


def test_an_agent_that_slept_answers_as_if_it_had_not(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with office(tmp_path) as vm:
            await vm.ask("clerk", "Hello")
            found = vm.roots.get("office/clerk")
            assert found is not None
            assert found.sleep()

            assert await vm.ask("clerk", "Again") == "two"
            assert await vm.ask("clerk", Length()) == 4
            assert vm.status().store is not None

    run(body())


def test_a_home_is_one_vms_at_a_time(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with office(tmp_path):
            with pytest.raises(HomeInUse, match="process"):
                async with office(tmp_path):
                    pass
        async with office(tmp_path) as vm:
            assert await vm.ask("clerk", Length()) == 0

    run(body())


def test_a_commit_that_cannot_be_written_fails_the_handler_and_is_taken_back(
    run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with office(tmp_path) as vm:
            await vm.ask("clerk", "Hello")
            assert vm.store is not None
            cold = vm.store.need_archive().cold
            commit = cold.commit

            def refuse(changes: object) -> None:
                raise ColdStoreError("the disk is full.", str(tmp_path))

            cold.commit = refuse  # type: ignore[method-assign,assignment]
            with pytest.raises(Exception, match="the disk is full"):
                await vm.ask("clerk", Note("lost"))
            cold.commit = commit  # type: ignore[method-assign]
            while "clerk" not in vm:
                await asyncio.sleep(0)

            await vm.ask("clerk", Note("kept"))
            assert await vm.ask("clerk", Length()) == 3
        assert on_disk(tmp_path) == ["Hello", "one", "kept"]

    run(body())


@pytest.mark.parametrize("home", ["", 7, b"x"])
def test_a_home_that_is_no_path_is_refused(home: Any) -> None:
    with pytest.raises(VMError, match="home must be the path of a directory"):
        VM(home=home)


def test_a_home_needs_a_store(tmp_path: Path) -> None:
    with pytest.raises(VMError, match="leave memory=None out"):
        VM(home=tmp_path, memory=None)


def test_a_home_that_is_a_file_is_refused_on_entering(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")

    async def body() -> None:
        with pytest.raises(StoreError, match="file"):
            async with VM(home=place):
                pass

    run(body())
