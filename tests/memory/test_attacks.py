"""Attacks on the memory manager: what was found by trying to break it."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from avm.errors import StoreError
from avm.memory import Conversation, Store


def say(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def block_writes(store: Store) -> Callable[[], None]:
    """Have all commits of the disk wait; return what lets them go on."""
    cold: Any = store.need_archive().cold
    going, commit = threading.Event(), cold.commit

    def wait(changes: object) -> None:
        going.wait(10)
        commit(changes)

    cold.commit = wait
    return going.set


def test_a_conversation_of_another_store_is_refused_or_is_whole_on_disk(tmp_path: Path) -> None:
    with Store.open(tmp_path / "one") as one, Store.open(tmp_path / "two") as two:
        talk = Conversation(one, "You are brief.").append(say("x" * 5000))
        one.roots.commit("talk", talk).result()
        try:
            two.roots.commit("talk", talk).result()
        except StoreError:
            return
    with Store.open(tmp_path / "two") as two:
        found = two.roots.get("talk")
        assert found is not None
        assert found.messages() == [say("x" * 5000)]


def test_a_conversation_of_a_store_of_its_own_can_sleep_under_a_name_or_is_refused(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        talk = Conversation(system="You are brief.").append(say("Hello"))
        try:
            store.roots.commit("talk", talk).result()
        except StoreError:
            return
        for _ in range(3):
            store.roots.passivate_idle(0)
        assert talk[0] == say("Hello")


def test_what_sleeps_and_was_released_can_be_read_when_another_version_took_its_place(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        old = Conversation(store).append(say("old"))
        store.roots.commit("talk", old).result()
        assert old.sleep()
        store.roots.release("talk")

        store.roots.commit("talk", Conversation(store).append(say("new"))).result()

        assert old[0] == say("old")


def test_what_sleeps_and_was_released_can_be_read_when_its_name_was_forgotten(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        old = Conversation(store).append(say("old"))
        store.roots.commit("talk", old).result()
        assert old.sleep()
        store.roots.release("talk")

        store.roots.forget("talk").result()

        assert old[0] == say("old")


def test_one_conversation_under_two_names_outlives_one_of_them(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        talk = Conversation(store).append(say("Hello"))
        for name in ("one", "two"):
            store.roots.commit(name, talk).result()
        assert talk.sleep()
        store.roots.release("two")

        store.roots.commit("two", Conversation(store).append(say("other"))).result()

        found = store.roots.get("one")
        assert found is not None
        assert found.messages() == [say("Hello")]


@pytest.mark.parametrize("how", ["passivate", "passivate_idle"])
def test_a_released_commit_that_ends_while_others_are_put_to_sleep_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with Store.open(tmp_path) as store:
        roots = store.roots
        for name in ("one", "two"):
            roots.commit(name, Conversation(store).append(say("Hello " * 50))).result()
        two = roots.get("two")
        assert two is not None
        for name in ("one", "two"):
            found = roots.get(name)
            assert found is not None
            found.cool()
        go_on = block_writes(store)
        written = roots.commit("two", two.append(say("more " * 50)))
        roots.release("two")
        put_to_sleep = roots.put_to_sleep

        def put(conversation: Conversation, name: str | None = None) -> bool:
            # What was being written is, just before the store takes note of it.
            go_on()
            written.result()
            return put_to_sleep(conversation, name)

        monkeypatch.setattr(roots, "put_to_sleep", put)
        roots._round += 5

        if how == "passivate":
            roots.passivate(10**9)
        else:
            roots.passivate_idle(2)


def test_what_does_not_shrink_goes_to_disk_too() -> None:
    with Store(4 << 20, spills=True) as store:
        held = []
        for now in range(16):
            held.append(store.put(os.urandom(500_000)))
            store.compress_idle(2.0 * now)

        assert store.statistics().blobs["cold"] >= 8
        assert all(len(blob.content) == 500_000 for blob in held)


def test_conversations_with_a_short_end_sleep_when_ram_is_short() -> None:
    with Store(300_000, spills=True) as store:
        # A stub takes 300 bytes, one that is awake 700.
        for number in range(800):
            store.roots.commit(f"talk {number}", Conversation(store).append(say("Hi")))
            if number % 50 == 0:
                store.compress_idle(2.0 * number)
                spilling = store.spill()
                if spilling is not None:
                    spilling.result()

        assert store.statistics().asleep > 300


def test_what_a_thread_is_to_compress_is_no_reason_to_be_full() -> None:
    with Store(2 << 20, spills=True) as store, ThreadPoolExecutor(1) as thread:
        held = [store.put(os.urandom(50_000).hex()) for _ in range(19)]
        for blob in held:
            blob.touched = False
        # The thread is busy, as when it trains a dictionary; all that is idle waits for it.
        thread.submit(time.sleep, 0.05)
        store.compress_idle(10.0, thread)

        held.append(store.put(os.urandom(150_000).hex()))

        assert store.statistics().account_bytes <= 2 << 20


def test_what_was_warm_and_died_leaves_nothing_behind() -> None:
    store = Store()
    for number in range(5000):
        blob = store.put(f"{number} " * 50)
        store.shelf.tiers.compress([blob])
        del blob
    store.compress_idle(1.0)

    assert len(store.shelf.tiers._warm) < 2500


@pytest.mark.slow
def test_commits_that_wait_for_a_slow_disk_do_not_pile_up_copies_of_the_whole_tail(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        talk = Conversation(store).append(say("x" * 3000)).extend(say("y" * 3000) for _ in range(8))
        go_on = block_writes(store)
        tracemalloc.start()
        try:
            for number in range(500):
                talk = talk.append(say(str(number)))
                store.roots.commit("talk", talk)
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            go_on()

        # Each adds some 40 bytes; what has to be written are these, and one manifest.
        assert taken < 4 << 20
