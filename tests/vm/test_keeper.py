"""The VM lets idle content of its store cool by itself."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, cast

import pytest

from avm.errors import ColdStoreError
from avm.memory import Conversation
from avm.testing import ManualClock
from avm.vm import VM
from avm.vm.keeper import AWAKE_ROUNDS, StoreKeeper


def test_what_is_idle_is_compressed_by_the_vm(run: Any) -> None:
    async def body() -> None:
        clock = ManualClock()
        async with VM(clock=clock, provider="scripted") as vm:
            assert vm.store is not None
            blob = vm.store.put("the same words again and again " * 1000)
            for _ in range(10):
                clock.advance(1)
                await vm.kernel.idle()
            while vm.store.statistics().blobs["warm"] == 0:
                clock.advance(1)
                await vm.kernel.idle()
            assert vm.store.statistics().compression > 5
            assert blob.text.startswith("the same words")

    run(body())


def test_the_keeper_is_in_the_systems_tree_and_not_without_a_store(run: Any) -> None:
    async def body() -> None:
        async with VM(provider="scripted") as vm:
            assert vm["system/store"].is_alive()
        async with VM(provider="scripted", memory=None) as vm:
            assert vm.kernel.find("system/store") is None

    run(body())


class Rounds:
    """A VM whose rounds are gone when a test says so."""

    def __init__(self, vm: VM, clock: ManualClock) -> None:
        assert vm.store is not None
        self.vm, self.clock, self.store = vm, clock, vm.store

    async def go(self, count: int) -> None:
        """Go so many rounds."""
        for _ in range(count):
            self.clock.advance(1.01)
            await self.vm.kernel.idle()


def test_what_is_idle_goes_to_disk_before_the_ceiling_is_reached(run: Any) -> None:
    async def body() -> None:
        clock = ManualClock()
        async with VM(clock=clock, provider="scripted") as vm:
            rounds = Rounds(vm, clock)
            keeper = cast(StoreKeeper, vm["system/store"].cell.actor)
            keeper.ceiling = None
            rounds.store.limit_to(1_000_000)
            held = [rounds.store.put(os.urandom(4000).hex()) for _ in range(400)]

            assert rounds.store.statistics().account_bytes <= 1_000_000
            await rounds.go(5)
            assert rounds.store.statistics().blobs["cold"] > 200
            assert all(len(blob.text) == 8000 for blob in held)

    run(body())


def test_a_conversation_that_is_idle_for_a_minute_sleeps_if_it_is_on_disk(run: Any, tmp_path: Path) -> None:
    async def body() -> None:
        clock = ManualClock()
        async with VM(clock=clock, home=tmp_path, provider="scripted") as vm:
            rounds = Rounds(vm, clock)
            talk = Conversation(rounds.store).append({"role": "user", "content": "Hello"})
            await asyncio.wrap_future(rounds.store.roots.commit("talk", talk))

            await rounds.go(AWAKE_ROUNDS - 5)
            assert not talk.is_asleep
            await rounds.go(10)
            assert talk.is_asleep
            assert talk[0]["content"] == "Hello"

    run(body())


def test_a_disk_that_refuses_is_told_of_once_and_ends_nothing(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        clock = ManualClock()
        async with VM(clock=clock, provider="scripted") as vm:
            rounds = Rounds(vm, clock)
            keeper = cast(StoreKeeper, vm["system/store"].cell.actor)
            keeper.ceiling = None
            cold = rounds.store.need_archive().cold

            def refuse(changes: object) -> None:
                raise ColdStoreError("the disk is full.")

            commit, cold.commit = cold.commit, refuse  # type: ignore[method-assign,assignment]
            held = [rounds.store.put(f"{n} " * 2000) for n in range(100)]
            for now in range(3):
                rounds.store.compress_idle(1000.0 + now)
            rounds.store.limit_to(rounds.store.statistics().account_bytes + 100)
            await rounds.go(1)
            waiting = rounds.store.shelf.tiers.newest()
            if waiting is not None:
                with pytest.raises(ColdStoreError):
                    await asyncio.wrap_future(waiting)
            await rounds.go(3)

            assert vm["system/store"].is_alive()
            assert caplog.text.count("what is idle cannot leave RAM: the disk is full.") == 1
            assert rounds.store.statistics().blobs["cold"] == 0
            cold.commit = commit  # type: ignore[method-assign]
            assert len(held) == 100

    run(body())


def test_a_process_above_its_ceiling_is_told_of_once(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        clock = ManualClock()
        async with VM(clock=clock, memory="1MB", provider="scripted") as vm:
            rounds = Rounds(vm, clock)
            blob = rounds.store.put("x" * 30_000)
            await rounds.go(3)

            assert blob.size == 30_000
            assert caplog.text.count("more than its ceiling of 1 MB; the store has ") == 1

    run(body())
