"""Attacks on a VM with a store or a home: what was found by trying to break it."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from avm.actors import on
from avm.agents import Agent
from avm.errors import ColdStoreError, HomeError
from avm.memory import Ceiling, Store
from avm.memory.cold.home import Home
from avm.supervision import Backoff, child, supervisor
from avm.testing import ManualClock
from avm.vm import VM

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Careful(Agent):
    """Commits by itself, and then the handler ends."""

    restart_backoff = Backoff()

    @on(str)
    async def hear(self, text: str) -> str:
        self.conversation = self.conversation.append({"role": "user", "content": text})
        self.commit()
        return "kept"


class Clumsy(Agent):
    """Fails in the middle of a turn."""

    restart_backoff = Backoff()

    @on(int)
    async def hear(self, size: int) -> None:
        grown = self.conversation.append({"role": "user", "content": os.urandom(size).hex()})
        raise ValueError(f"{len(grown)} messages are too many")


def office(cls: type[Agent], **options: Any) -> VM:
    tree = supervisor("office", max_restarts=1000, children=[child("clerk", cls)])
    return VM(tree, provider="scripted", observers=[], **options)


class Disk:
    """The disk of a store, which waits or refuses as a test says."""

    def __init__(self, store: Store | None) -> None:
        assert store is not None
        cold: Any = store.need_archive().cold
        self.going, self.commit, self.refuses = threading.Event(), cold.commit, False
        cold.commit = self._commit

    def _commit(self, changes: object) -> None:
        self.going.wait(10)
        if self.refuses:
            raise ColdStoreError("the disk is full.")
        self.commit(changes)


def test_a_reply_waits_for_what_its_handler_committed_by_itself(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with office(Careful, home=tmp_path) as vm:
            await vm.ask("clerk", "first")
            disk = Disk(vm.store)
            asked = asyncio.ensure_future(vm.ask("clerk", "second"))
            done, _ = await asyncio.wait([asked], timeout=0.1)
            disk.going.set()
            await asked
            assert not done

    run(body())


def test_a_handler_fails_if_what_it_committed_by_itself_cannot_be_written(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with office(Careful, home=tmp_path) as vm:
            await vm.ask("clerk", "first")
            disk = Disk(vm.store)
            disk.refuses = True
            disk.going.set()
            with pytest.raises(Exception, match="full"):
                await vm.ask("clerk", "second")
            disk.refuses = False

    run(body())


def test_a_scratch_folder_that_cannot_be_made_does_not_end_the_vm(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(ceiling: Ceiling) -> bool:
        ceiling._store.limit_to(1_000_000)
        return False

    def refuse() -> Home:
        raise HomeError("/tmp cannot hold a scratch home: no space left.")

    async def body() -> None:
        clock = ManualClock()
        monkeypatch.setattr(Ceiling, "check", check)
        monkeypatch.setattr(Home, "scratch", refuse)
        async with VM(clock=clock, provider="scripted", observers=[]) as vm:
            assert vm.store is not None
            held = [vm.store.put(os.urandom(4000).hex()) for _ in range(110)]
            before = vm["system/store"]
            for _ in range(6):
                clock.advance(1.01)
                await vm.kernel.idle()
            assert before.is_alive()
            assert len(held) == 110

    run(body())


@pytest.mark.slow
def test_the_loop_goes_on_while_a_vm_that_stops_waits_for_the_disk(run: Run, tmp_path: Path) -> None:
    went: list[bool] = []

    async def body() -> None:
        async with office(Careful, home=tmp_path) as vm:
            await vm.ask("clerk", "first")
            disk = Disk(vm.store)
            found = vm.roots.get("office/clerk")
            assert found is not None
            vm.roots.commit("other", found)

            def go_on() -> None:
                went.append(True)
                disk.going.set()

            # Only a loop that goes on lets the disk go on; else it gives in by itself after a while.
            asyncio.get_running_loop().call_later(0.1, go_on)
            threading.Timer(2.0, disk.going.set).start()
        assert went

    run(body())


def test_what_a_handler_that_failed_had_made_is_gone_with_the_next_collection(run: Run) -> None:
    """No deadline of an ask that has failed holds on to the error, and with it to the frames it went through."""

    async def body() -> None:
        async with office(Clumsy) as vm:
            gc.collect()
            gc.disable()
            try:
                for _ in range(20):
                    with pytest.raises(Exception, match="too many"):
                        await vm.ask("clerk", 5000)
                    await vm.kernel.idle()
                assert vm.store is not None
                gc.collect(1)
                assert vm.store.statistics().blobs["hot"] < 10
            finally:
                gc.enable()

    run(body())


def test_a_home_that_was_deleted_is_told_by_the_next_commit(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        home = tmp_path / "home"
        async with office(Careful, home=home) as vm:
            await vm.ask("clerk", "first")
            shutil.rmtree(home)
            assert vm.store is not None
            vm.store.sweep()
            with pytest.raises(Exception, match=r"home .* is gone: its directory was deleted"):
                await vm.ask("clerk", "second")
            found = vm.roots.get("office/clerk")
            assert found is not None
            assert len(found) == 1

    run(body())
