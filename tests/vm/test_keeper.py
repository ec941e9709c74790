"""The VM lets idle content of its store cool by itself."""

from __future__ import annotations

from typing import Any

from avm.testing import ManualClock
from avm.vm import VM


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
