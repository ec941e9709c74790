"""Waking: what is read back from disk is what was committed, shares what is there, and stays in bounds."""

import asyncio
import os

import pytest

from avm.errors import CorruptBlob, MissingBlob, StoreFullError
from avm.memory import Conversation
from avm.memory.cold.records import conversation_id
from tests.memory.cold.faked import FakeCold, faults, open_on, settle

BODY = "a body of its own " * 400


def say(text):
    return {"role": "user", "content": text}


def noise(size):
    return os.urandom(size // 2).hex()


def talk(store, *texts, system="be kind"):
    return Conversation.new(store, system, [{"name": "book"}], {"id": 7}).extend(map(say, texts))


@pytest.fixture
def cold():
    return FakeCold()


@pytest.fixture
def place(cold, tmp_path, monkeypatch):
    """Opens a store on the disk; what was open before is closed."""
    opened = []

    def place(limit=None):
        for store in opened:
            store.close()
        opened.append(open_on(cold, tmp_path / "home", monkeypatch, limit))
        return opened[-1]

    yield place
    for store in opened:
        store.close()


@pytest.fixture
def store(place):
    return place()


def asleep(store, conversation, name="a"):
    """Commit a conversation and send it to sleep."""
    store.roots.commit(name, conversation)
    settle(store)
    assert conversation.sleep()
    return conversation


@pytest.mark.parametrize("count", [0, 1, 3, 9, 40])
@pytest.mark.parametrize("size", [0, 500, 5000])
def test_what_wakes_is_what_was_committed(store, count, size):
    made = talk(store, *[noise(size) for _ in range(count)])
    before = (made.root, made.size, len(made), made.messages(), made.page_digests())

    asleep(store, made)

    assert (made.root, made.size, len(made)) == before[:3]
    assert (made.system, made.tools, made.meta) == ("be kind", [{"name": "book"}], {"id": 7})
    assert made.is_asleep
    assert (made.messages(), made.page_digests()) == before[3:]
    assert not made.is_asleep


def test_what_was_committed_in_many_steps_wakes_as_a_whole(store, place):
    made = talk(store)
    for number in range(80):
        made = made.append(say(f"{number} " + noise(800)))
        store.roots.commit("a", made)
    expected = made.messages()

    found = place().roots.get("a")

    assert found.messages() == expected
    assert found.root == made.root


@pytest.mark.parametrize("left", [0, 1, 5, 33])
def test_what_wakes_can_be_rewound_and_goes_on(store, left):
    texts = [noise(2000) for _ in range(34)]
    made = asleep(store, talk(store, *texts))

    again = made.rewind(34 - left).append(say("other"))

    assert again.messages() == [*map(say, texts[:left]), say("other")]
    fresh = talk(store, *texts[:left], "other")
    assert (again.root, again.size) == (fresh.root, fresh.size)


def test_the_first_commit_after_waking_adds_a_segment(store, cold, place):
    asleep(store, talk(store, "x", "y"))
    store = place()
    cold.groups.clear()

    store.roots.commit("a", store.roots.get("a").append(say("z"))).result(20)

    (group,) = cold.groups
    assert sorted(table for table, _, _ in group) == ["conversation", "segment"]
    assert place().roots.get("a").messages() == [say("x"), say("y"), say("z")]


def test_pages_are_shared_by_those_that_wake(store, place):
    made = talk(store, *[noise(3000) for _ in range(30)])
    for name in ("a", "b"):
        asleep(store, made.append(say(name)), name)
    del made
    store = place()

    woken = [store.roots.get(name) for name in ("a", "b")]
    for conversation in woken:
        conversation.wake()

    statistics = store.statistics()
    assert sum(statistics.pages.values()) == len(woken[0].page_digests())
    assert woken[0]._chain.pages[0].page is woken[1]._chain.pages[0].page


def test_bodies_are_read_when_they_are_used(store, place):
    asleep(store, talk(store, BODY, "x"))
    store = place()

    found = store.roots.get("a")
    found.wake()

    assert store.statistics().blobs["cold"] == 3
    assert found.messages() == [say(BODY), say("x")]
    assert store.statistics().blobs["cold"] == 2


def test_prompt_and_tools_are_one_for_all_that_wake(store, place):
    for name in ("a", "b", "c"):
        asleep(store, talk(store, name, system="one prompt " * 100), name)
    store = place()

    woken = [store.roots.get(name) for name in ("a", "b", "c")]

    assert all(each._head is woken[0]._head for each in woken)
    assert woken[0].system == "one prompt " * 100


def test_waking_in_another_thread(store, run):
    made = talk(store, *[noise(3000) for _ in range(20)])
    expected = made.messages()
    asleep(store, made)

    async def wake():
        await store.roots.wake(made)
        assert not made.is_asleep
        await store.roots.wake(made)

    run(wake())
    assert made.messages() == expected
    assert store.statistics().asleep == 0


def test_who_wakes_twice_at_a_time_wakes_once(store, run):
    made = asleep(store, talk(store, "x"))

    async def wake():
        await asyncio.gather(*[store.roots.wake(made) for _ in range(5)])

    run(wake())
    assert made.messages() == [say("x")]
    statistics = store.statistics()
    assert (statistics.asleep, statistics.conversations) == (0, 1)


def test_waking_another_version_meanwhile_takes_the_one_that_is_there(store, run):
    """While it is read, its name gets another version; who holds it has it read back before that."""
    made = asleep(store, talk(store, "x"))

    async def wake():
        waking = asyncio.ensure_future(store.roots.wake(made))
        await asyncio.sleep(0)
        store.roots.commit("a", talk(store, "y"))
        await waking

    run(wake())
    assert made.messages() == [say("x")]


def test_there_must_be_room_for_what_wakes(store, place):
    asleep(store, talk(store, *[noise(1000) for _ in range(80)]))
    store = place(60_000)
    found = store.roots.get("a")

    with pytest.raises(StoreFullError):
        found.wake()

    assert found.is_asleep
    store.statistics()
    assert store.statistics().account_bytes < 10_000
    store.limit_to(1_000_000)
    assert len(found.messages()) == 80


def test_a_tail_that_is_not_what_the_manifest_names_is_found(store, cold, place):
    """Each segment is sound, but they are in the wrong order."""
    made = talk(store)
    for number in range(3):
        made = made.append(say(f"{number}"))
        store.roots.commit("a", made)
    settle(store)
    rows = cold.rows("segment")
    first, second, *_ = sorted(rows)
    rows[first], rows[second] = rows[second], rows[first]

    with pytest.raises(CorruptBlob, match="conversation 'a' .* is damaged: its messages are not those"):
        place().roots.get("a").wake()


def test_a_manifest_that_went_after_it_was_looked_at_is_told(store, cold, place):
    asleep(store, talk(store, "x"))
    found = place().roots.get("a")
    del cold.rows("conversation")[conversation_id("a")]

    with pytest.raises(
        MissingBlob, match="conversation 'a' .* cannot be read back from fake disk: it is not there"
    ):
        found.messages()


def test_what_cannot_be_read_leaves_all_else_as_it_was(store, cold, place):
    asleep(store, talk(store, BODY, *[noise(2000) for _ in range(20)]), "good")
    asleep(store, talk(store, "bad"), "bad")
    store = place()
    (segment,) = cold.rows("segment")
    cold.spoil("segment", segment)
    before = store.statistics()

    bad = store.roots.get("bad")
    for _ in range(3):
        with pytest.raises(CorruptBlob):
            bad.messages()
    assert bad.is_asleep
    assert len(store.roots.get("good").messages()) == 21
    store.roots.release_all()
    del bad

    after = store.statistics()
    assert (after.account_bytes, after.unique_bytes) == (before.account_bytes, before.unique_bytes)
    assert (after.conversations, after.asleep) == (0, 0)


def test_sleeping_and_waking_leaves_nothing_behind(store, cold):
    made = talk(store, BODY, *[noise(2000) for _ in range(30)])
    store.roots.commit("a", made)
    settle(store)
    made.sleep()
    before = store.statistics()

    for _ in range(5):
        made.wake()
        assert made.sleep()

    after = store.statistics()
    assert (after.account_bytes, after.held_bytes, after.unique_bytes) == (
        before.account_bytes,
        before.held_bytes,
        before.unique_bytes,
    )
    assert (after.asleep, after.conversations) == (1, 1)
    assert faults(cold) == []
