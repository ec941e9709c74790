"""Conversations by name: what was committed last is what a name stands for, in RAM and, with a home, on disk."""

import gc
import os
import tempfile
import threading
import weakref

import pytest

from avm.errors import ColdStoreError, MissingBlob, StoreError
from avm.memory import Conversation, Store
from avm.memory.cold.records import conversation_id
from tests.memory.cold.faked import FakeCold, open_on, settle, sweep_to_the_end


def say(text):
    return {"role": "user", "content": text}


def talk(store, *texts, system="", meta=None):
    return Conversation.new(store, system, meta=meta).extend(map(say, texts))


@pytest.fixture
def cold():
    return FakeCold()


@pytest.fixture
def store(cold, tmp_path, monkeypatch):
    """A store with a home, whose disk is `cold`."""
    store = open_on(cold, tmp_path / "home", monkeypatch)
    yield store
    cold.go()
    store.close()


# In RAM.


def test_the_last_commit_of_a_name_is_its_root():
    store = Store()
    first = Conversation(store)
    second = first.append({"role": "user", "content": "x"})

    store.roots.commit("a", first)
    store.roots.commit("a", second)

    assert store.roots.get("a") is second
    assert store.roots.statistics().commits == 2
    assert (len(store.roots), list(store.roots)) == (1, ["a"])


def test_a_forgotten_root_is_gone():
    store = Store()
    store.roots.commit("a", Conversation(store))

    store.roots.forget("a")
    store.roots.forget("a")

    assert store.roots.get("a") is None
    assert "a" not in store.roots


# On disk.


def test_a_commit_is_done_when_it_is_on_disk(store, cold):
    cold.hold()

    future = store.roots.commit("a", talk(store, "x"))

    assert not future.done()
    assert store.roots.get("a").messages() == [say("x")]
    cold.go()
    assert future.result(20) is None
    assert len(cold.rows("conversation")) == 1


def test_another_store_on_the_same_disk_has_the_names(store, cold, tmp_path, monkeypatch):
    store.roots.commit("a", talk(store, "x", system="be kind", meta={"id": 7})).result(20)
    store.close()

    again = open_on(cold, tmp_path / "home", monkeypatch)
    found = again.roots.get("a")

    assert found.is_asleep
    assert (len(found), found.system, found.meta) == (1, "be kind", {"id": 7})
    assert found.messages() == [say("x")]
    assert list(again.roots) == ["a"]
    again.close()


def test_a_commit_that_fails_leaves_the_name_what_it_was(store, cold):
    before = talk(store, "x")
    store.roots.commit("a", before).result(20)
    cold.refuses = 1

    future = store.roots.commit("a", before.append(say("y")))

    with pytest.raises(ColdStoreError, match="the disk is full"):
        future.result(20)
    settle(store)
    assert store.roots.get("a") is before
    after = before.append(say("z"))
    store.roots.commit("a", after).result(20)
    assert store.roots.get("a") is after


def test_a_first_commit_that_fails_leaves_no_name(store, cold):
    cold.refuses = 1

    future = store.roots.commit("a", talk(store, "x"))

    with pytest.raises(ColdStoreError):
        future.result(20)
    settle(store)
    assert store.roots.get("a") is None
    assert "a" not in store.roots


def test_commits_that_build_on_one_that_failed_fail_too(store, cold):
    before = talk(store, "x")
    store.roots.commit("a", before).result(20)
    cold.hold()
    other = store.roots.commit("other", talk(store, "other"))
    cold.wait_held()

    grown, futures = before, []
    for text in ("y", "z"):
        grown = grown.append(say(text))
        futures.append(store.roots.commit("a", grown))
    # The group of both fails, and then the first of them alone.
    outcomes = iter([False, True, True])
    cold.refuses = lambda changes: next(outcomes, False)
    cold.go()
    other.result(20)

    with pytest.raises(ColdStoreError, match="disk is full"):
        futures[0].result(20)
    with pytest.raises(ColdStoreError, match="'a' was not committed to fake disk: the version before it"):
        futures[1].result(20)
    settle(store)
    assert store.roots.get("a") is before
    store.roots.commit("a", grown).result(20)
    assert store.roots.get("a") is grown


def test_what_is_committed_again_after_a_failure_is_what_the_name_stands_for(store, cold):
    """The failure is taken in only after the same conversation was committed once more, and that goes well."""
    before, after = talk(store, "x"), talk(store, "y")
    store.roots.commit("a", before).result(20)
    cold.refuses = 1
    failed = store.roots.commit("a", after)
    assert failed.exception(20) is not None

    store.roots.commit("a", after).result(20)
    settle(store)

    assert store.roots.get("a") is after


def test_a_commit_that_fails_does_not_bring_back_what_was_forgotten(store, cold):
    store.roots.commit("a", talk(store, "x")).result(20)
    cold.hold()
    store.roots.commit("a", talk(store, "y"))
    cold.wait_held()
    store.roots.forget("a")
    failed = store.roots.commit("a", talk(store, "z"))
    outcomes = iter([False, False, True])
    cold.refuses = lambda changes: next(outcomes)
    cold.go()
    assert failed.exception(20) is not None
    cold.refuses = 0
    settle(store)

    assert store.roots.get("a") is None
    assert "a" not in store.roots


def test_a_commit_that_cannot_begin_changes_nothing(store):
    """What it should commit sleeps and cannot be read back."""
    lost = talk(store, "x")
    store.roots.commit("a", lost).result(20)
    settle(store)
    assert lost.sleep()
    second = talk(store, "y")
    store.roots.commit("b", second).result(20)
    # As if somebody had cleared it away behind the store's back.
    store.need_archive().cold.commit([("conversation", conversation_id("a"), None)])

    with pytest.raises(MissingBlob, match="it is not there any more"):
        store.roots.commit("b", lost)

    assert store.roots.get("b") is second


def test_a_future_that_is_kept_keeps_no_conversation(store):
    made = talk(store, "x")
    future = store.roots.commit("a", made)
    del made
    settle(store)
    gc.collect()
    gc.disable()
    try:
        more = talk(store, "y")
        tail = weakref.ref(more._chain.tail)
        another = store.roots.commit("a", more)
        del more
        settle(store)
        store.roots.release("a")

        assert tail() is None
    finally:
        gc.enable()
    assert future.done()
    assert another.done()


# Names.


@pytest.mark.parametrize(
    "name",
    ["", "a/b c\0d", "größer ✓ 😀", "\ud800 alone", "n" * 10_000],
    ids=["empty", "odd", "wide", "lone", "long"],
)
def test_any_text_is_a_name(store, cold, tmp_path, monkeypatch, name):
    store.roots.commit(name, talk(store, "x")).result(20)
    store.close()

    again = open_on(cold, tmp_path / "home", monkeypatch)
    assert list(again.roots) == [name]
    assert again.roots.get(name).messages() == [say("x")]
    again.roots.forget(name).result(20)
    settle(again)
    assert list(again.roots) == []
    again.close()


def test_two_names_can_stand_for_one_conversation(store, cold, tmp_path, monkeypatch):
    both = talk(store, "x")
    store.roots.commit("a", both).result(20)
    store.roots.commit("b", both).result(20)
    settle(store)

    assert both.sleep()
    store.roots.forget("b").result(20)
    sweep_to_the_end(store)

    assert store.roots.get("a").messages() == [say("x")]
    store.close()
    again = open_on(cold, tmp_path / "home", monkeypatch)
    assert list(again.roots) == ["a"]
    assert again.roots.get("a").messages() == [say("x")]
    again.close()


def test_a_version_that_sleeps_is_read_back_though_another_of_its_line_was_committed_elsewhere(store):
    first = talk(store, "x")
    second = first.append(say("y"))
    store.roots.commit("new", second).result(20)
    settle(store)
    assert second.sleep()

    store.roots.commit("old", first).result(20)

    assert second.messages() == [say("x"), say("y")]


def test_forgetting_one_name_of_a_line_lets_its_other_version_sleep_on(store):
    first = talk(store, "x")
    second = first.append(say("y"))
    store.roots.commit("old", first).result(20)
    store.roots.commit("new", second).result(20)
    settle(store)
    assert second.sleep()

    store.roots.forget("old").result(20)

    assert second.messages() == [say("x"), say("y")]


def test_a_released_name_is_read_from_disk_again(store):
    made = talk(store, "x")
    store.roots.commit("a", made).result(20)
    settle(store)

    store.roots.release("a")

    found = store.roots.get("a")
    assert found is not made
    assert (found == made, found.is_asleep) == (True, True)


def test_a_name_that_is_being_written_is_released_when_it_is_there(store, cold):
    cold.hold()
    made = talk(store, "x")
    store.roots.commit("a", made)

    store.roots.release("a")
    assert store.roots.get("a") is made
    cold.go()
    settle(store)

    assert store.roots.get("a") is not made


def test_a_name_is_gone_as_soon_as_it_is_forgotten(store, cold):
    store.roots.commit("a", talk(store, "x")).result(20)
    settle(store)
    cold.hold()

    future = store.roots.forget("a")

    assert store.roots.get("a") is None
    assert list(store.roots) == []
    assert len(cold.rows("conversation")) == 1
    cold.go()
    future.result(20)
    assert len(cold.rows("conversation")) == 0


# Sleep.


def test_a_stub_costs_at_most_400_bytes(store):
    for number in range(100):
        store.roots.commit(f"agent-{number}", talk(store, f"{number} " * 1000, system="one prompt"))
    settle(store)
    for number in range(100):
        assert store.roots.get(f"agent-{number}").sleep()

    statistics = store.statistics()
    assert (statistics.conversations, statistics.asleep) == (100, 100)
    assert statistics.account_bytes - 1000 <= 100 * 400


def test_what_is_being_written_does_not_sleep(store, cold):
    cold.hold()
    made = talk(store, "x")
    store.roots.commit("a", made)

    assert not made.sleep()
    cold.go()
    settle(store)
    assert made.sleep()


def test_only_what_was_committed_sleeps(store):
    made = talk(store, "x")
    store.roots.commit("a", made).result(20)
    settle(store)
    grown = made.append(say("y"))

    assert not grown.sleep()
    assert not talk(store, "z").sleep()
    assert made.sleep()
    assert grown.messages() == [say("x"), say("y")]


def test_whoever_holds_a_sleeper_has_it_read_back_before_its_name_gets_another_version(store):
    held = talk(store, "x")
    store.roots.commit("a", held).result(20)
    settle(store)
    held.sleep()

    store.roots.commit("a", talk(store, "y")).result(20)

    assert not held.is_asleep
    assert held.messages() == [say("x")]


def test_whoever_holds_a_sleeper_has_it_read_back_before_its_name_is_forgotten(store):
    held = talk(store, "x")
    store.roots.commit("a", held).result(20)
    settle(store)
    held.sleep()

    store.roots.forget("a").result(20)
    sweep_to_the_end(store)

    assert held.messages() == [say("x")]


def test_a_sleeper_can_be_committed_under_a_second_name(store):
    made = talk(store, "x")
    store.roots.commit("a", made).result(20)
    settle(store)
    made.sleep()

    store.roots.commit("b", made).result(20)
    settle(store)

    assert store.roots.get("b") is made
    for name in ("a", "b"):
        store.roots.release(name)
        assert store.roots.get(name).messages() == [say("x")]


def test_a_fork_of_a_sleeper_is_awake(store):
    made = talk(store, "x")
    store.roots.commit("a", made).result(20)
    settle(store)
    made.sleep()

    fork = made.fork().append(say("y"))

    assert fork.messages() == [say("x"), say("y")]
    assert made.messages() == [say("x")]
    store.roots.commit("b", fork).result(20)
    assert (len(store.roots.get("a")), len(store.roots.get("b"))) == (1, 2)


def test_the_account_counts_each_sleeper_once(store):
    first = talk(store, "x")
    second = first.append(say("y"))
    store.roots.commit("a", first).result(20)
    store.roots.commit("b", second).result(20)
    settle(store)
    store.roots.commit("a", first).result(20)
    settle(store)
    first.sleep()
    store.roots.commit("b", second).result(20)
    settle(store)
    second.sleep()
    first.wake()
    second.wake()

    assert store.statistics().asleep == 0
    del first, second
    store.roots.release_all()
    assert (store.statistics().asleep, store.statistics().conversations) == (0, 0)


# Without a home.


def test_a_store_that_spills_brings_its_conversations_to_a_scratch_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = Store(400_000, spills=True)
    kept = []
    for number in range(40):
        kept.append(talk(store, *[f"{number} {n} " + os.urandom(1000).hex() for n in range(10)]))

    statistics = store.statistics()
    assert statistics.account_bytes <= 400_000
    assert statistics.spills > 0
    assert len(list(tmp_path.iterdir())) == 1
    for number, conversation in enumerate(kept):
        assert conversation[3]["content"].startswith(f"{number} 3 ")
    store.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_three_megabytes_in_a_thousand_conversations_fit_under_300_kilobytes(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = Store.open(tmp_path / "home", 300_000, durable=False)
    for number in range(1000):
        store.roots.commit(str(number), talk(store, f"{number} " + os.urandom(750).hex(), "y" * 1500))
        if store.limit - store.statistics().account_bytes < 50_000:
            while (waiting := store.spill()) is not None:
                waiting.result(20)
        # Which conversations there are is told by the home: RAM need not hold a stub of each.
        store.roots.release(str(number))

    assert store.statistics().account_bytes <= 300_000
    assert len(store.roots) == 1000
    for number in range(1000):
        found = store.roots.get(str(number))
        assert found[0]["content"].startswith(f"{number} ")
        assert found.size > 3000
        store.roots.release(str(number))
    store.close()


def test_after_a_spill_that_failed_there_is_room_again_when_the_disk_has(cold, tmp_path, monkeypatch):
    store = open_on(cold, tmp_path / "home", monkeypatch, 300_000)
    cold.refuses = True
    kept = []
    with pytest.raises(ColdStoreError, match="the disk is full"):
        for number in range(100):
            kept.append(talk(store, f"{number} " + os.urandom(3000).hex()))
    count = len(kept)
    cold.refuses = 0

    kept += [talk(store, f"{number} " + os.urandom(3000).hex()) for number in range(count, 100)]

    assert store.statistics().account_bytes <= 300_000
    assert [each[0]["content"].split()[0] for each in kept] == [str(number) for number in range(100)]
    store.close()


# The end.


def test_closing_writes_what_was_committed(store, cold):
    cold.hold()
    futures = [store.roots.commit(f"{n}", talk(store, f"{n}")) for n in range(10)]
    cold.go()

    store.close()

    assert all(future.done() and future.exception() is None for future in futures)
    assert len(cold.rows("conversation")) == 10
    assert cold.is_closed
    store.close()


def test_a_store_is_closed_while_it_spills(store, cold):
    made = talk(store, os.urandom(1000).hex())
    for now in range(3):
        store.compress_idle(now * 100.0)
    cold.hold()
    spilling = store.shelf.tiers.spill(1 << 30)
    threading.Timer(0.01, cold.go).start()

    store.close()

    assert spilling.done()
    with pytest.raises(StoreError, match="the store is closed"):
        made.messages()


def test_a_closed_store_says_so(store):
    made = talk(store, "x")
    store.roots.commit("a", made)
    store.roots.commit("b", talk(store, "b"))
    settle(store)
    assert store.roots.get("b").sleep()
    store.close()

    assert made.messages() == [say("x")]
    for use in (
        lambda: store.roots.commit("a", made.append(say("y"))),
        lambda: store.roots.get("c"),
        lambda: store.roots.get("b").messages(),
        lambda: list(store.roots),
        store.need_archive,
    ):
        with pytest.raises(StoreError, match="the store is closed"):
            use()
    assert store.roots.get("a") is made


def test_closing_says_when_not_all_could_be_written(store, cold, tmp_path, monkeypatch):
    cold.hold()
    cold.refuses = True
    store.roots.commit("a", talk(store, "x"))
    threading.Timer(0.01, cold.go).start()

    with pytest.raises(ColdStoreError, match="the disk is full"):
        store.close()

    assert cold.is_closed
    store.close()
    cold.refuses = 0
    open_on(cold, tmp_path / "home", monkeypatch).close()
