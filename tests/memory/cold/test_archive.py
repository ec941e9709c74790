"""Content and conversations on disk: written once, found damaged alone, swept when nobody needs it."""

import os

import pytest

from avm.errors import ColdStoreError, CorruptBlob, MissingBlob
from avm.memory import Conversation, Digest, Store, training
from avm.memory.cold import records
from avm.memory.cold.records import conversation_id, segment_key
from tests.memory.cold.faked import FakeCold, faults, open_on, orphans, settle, sweep_to_the_end

BODY = "a body of its own " * 400


def say(text):
    return {"role": "user", "content": text}


def talk(store, *texts, system=""):
    return Conversation.new(store, system).extend(map(say, texts))


def varied(number, size):
    """Return a text that compresses a little, and that no other number has."""
    return "".join(f"{number}.{n} " + os.urandom(8).hex() for n in range(size // 22))


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
    cold.refuses = 0
    cold.go()
    for store in opened:
        store.close()


@pytest.fixture
def store(place):
    return place()


# What is written.


def test_many_commits_are_few_transactions(store, cold):
    cold.hold()
    store.roots.commit("first", talk(store, "x"))
    cold.wait_held()
    futures = [store.roots.commit(f"agent-{n}", talk(store, f"{n}")) for n in range(100)]
    cold.go()

    for future in futures:
        future.result(20)

    assert len(cold.groups) == 2
    assert len(cold.rows("conversation")) == 101
    assert store.statistics().cold.commits == 101


def test_a_commit_writes_what_it_adds(store, cold):
    made = talk(store, "x" * 3000, BODY, system="a prompt")
    store.roots.commit("a", made).result(20)
    cold.groups.clear()

    store.roots.commit("a", made.append(say("y" * 100))).result(20)

    (group,) = cold.groups
    assert sorted(table for table, _, _ in group) == ["conversation", "segment"]
    assert sum(len(value) for _, _, value in group) < 700


def test_content_is_written_once_for_all_conversations(store, cold):
    for name in ("a", "b", "c"):
        store.roots.commit(name, talk(store, BODY, name, system="one prompt " * 50)).result(20)

    assert len(cold.rows("record")) == 2
    assert len(cold.rows("edge")) == 6


def test_equal_tails_that_are_written_as_a_whole_are_kept_once(store, cold):
    texts = [varied(n, 3000) for n in range(4)]
    for name in ("a", "b", "c"):
        store.roots.commit(name, talk(store, *texts)).result(20)

    assert len(cold.rows("record")) == 1
    assert len(cold.rows("segment")) == 0
    assert faults(cold) == []


def test_a_page_that_is_sealed_takes_the_place_of_its_segments(store, cold, place):
    made = talk(store)
    for number in range(60):
        made = made.append(say(varied(number, 1000)))
        store.roots.commit("a", made)
        if number == 20:
            settle(store)
            assert 0 < len(cold.rows("segment")) <= 21
            assert len(cold.rows("record")) == 0
    settle(store)

    assert len(made.page_digests()) == 1
    assert {digest.bytes for digest in made.page_digests()} <= set(cold.rows("record"))
    assert 0 < len(cold.rows("segment")) < 40
    assert faults(cold) == []
    assert place().roots.get("a").messages() == made.messages()


def test_a_version_that_was_cut_short_leaves_nothing_of_the_longer_one(store, cold, place):
    made = talk(store, *[varied(n, 3000) for n in range(30)], BODY)
    store.roots.commit("a", made).result(20)
    short = made.rewind(29)

    store.roots.commit("a", short).result(20)
    expected = short.messages()
    del made, short

    again = place()
    assert again.roots.get("a").messages() == expected
    assert faults(cold) == []
    assert len(cold.rows("edge")) == len(orphans(cold) ^ set(cold.rows("record")))


def test_a_commit_that_fails_leaves_the_disk_as_it_was(store, cold):
    store.roots.commit("a", talk(store, BODY)).result(20)
    before = {table: dict(cold.rows(table)) for table in cold.tables}
    cold.refuses = 1

    with pytest.raises(ColdStoreError):
        store.roots.commit("a", talk(store, "another " * 700)).result(20)

    assert {table: dict(cold.rows(table)) for table in cold.tables} == before


def test_content_whose_commit_failed_is_written_with_the_next(store, cold, place):
    cold.refuses = 1
    made = talk(store, BODY, varied(1, 3000), system="a prompt")
    store.roots.commit("a", made).exception(20)

    store.roots.commit("b", made).result(20)

    assert faults(cold) == []
    assert place().roots.get("b").messages() == made.messages()


def test_when_the_disk_has_room_again_all_goes_on(store, cold, place):
    cold.refuses = True
    made = talk(store, "x")
    for number in range(5):
        made = made.append(say(f"{number}"))
        assert isinstance(store.roots.commit("a", made).exception(20), ColdStoreError)
    cold.refuses = 0

    store.roots.commit("a", made).result(20)

    assert place().roots.get("a").messages() == made.messages()


# Damage.


def committed(store, name="a"):
    """Commit a conversation that has pages, a segment, a body, a prompt; return its messages."""
    made = talk(store, BODY, *[varied(n, 2000) for n in range(20)], system="a prompt " * 20)
    store.roots.commit(name, made).result(20)
    made = made.append(say("the last"))
    store.roots.commit(name, made).result(20)
    return made.messages()


@pytest.mark.parametrize("at", [0, 1, 3, 40, -1])
def test_a_wrong_byte_in_a_record_is_found_and_sets_only_that_record_aside(store, cold, place, at):
    committed(store)
    good = store.roots.commit("good", talk(store, "other " * 900)).result(20)
    key = Digest.of(BODY).bytes
    cold.spoil("record", key, at)
    store = place()

    with pytest.raises(
        CorruptBlob, match=f"record of blob {key[:4].hex()} in fake disk is damaged"
    ) as caught:
        store.roots.get("a").messages()

    assert (caught.value.digest, caught.value.path) == (key.hex(), "fake disk")
    settle(store)
    assert list(cold.rows("quarantine")) == [key]
    assert key not in cold.rows("record")
    assert store.statistics().cold.quarantined == 1
    assert store.roots.get("good").messages() == [say("other " * 900)]
    assert good is None


@pytest.mark.slow
def test_no_byte_of_a_record_can_be_wrong_unseen(store, cold):
    """Neither in the content nor in what is said of the blobs it refers to."""
    committed(store)
    for key in list(cold.rows("record")):
        sound = cold.rows("record")[key]
        for at in range(min(len(sound), 400)):
            value = bytearray(sound)
            value[at] ^= 0x01
            with pytest.raises(CorruptBlob):
                records.decode_record(key, bytes(value), store.need_archive().dictionary, "disk")


def test_putting_the_content_again_mends_it(store, cold, place):
    expected = committed(store)
    cold.spoil("record", Digest.of(BODY).bytes)
    store = place()
    found = store.roots.get("a")
    with pytest.raises(CorruptBlob):
        found.messages()
    settle(store)
    with pytest.raises(MissingBlob, match="it was damaged and set aside"):
        found.messages()

    blob = store.put(BODY)

    assert found.messages() == expected
    del blob, found
    settle(store)
    assert place().roots.get("a").messages() == expected


def test_a_page_that_is_damaged_is_mended_by_the_same_messages(store, cold, place):
    expected = committed(store)
    page = next(key for key in cold.rows("record") if len(cold.rows("record")[key]) > 10_000)
    cold.spoil("record", page)
    store = place()
    with pytest.raises(CorruptBlob, match=page[:4].hex()):
        store.roots.get("a").messages()

    made = Conversation.new(store, "a prompt " * 20).extend(expected)
    store.roots.commit("a", made).result(20)

    assert place().roots.get("a").messages() == expected
    assert faults(cold) == []


def test_a_record_that_is_gone_is_named(store, cold, place):
    committed(store)
    key = Digest.of(BODY).bytes
    del cold.rows("record")[key]

    with pytest.raises(MissingBlob, match=f"no blob {key[:4].hex()} in fake disk: it is not there"):
        place().roots.get("a").messages()


def test_a_wrong_byte_in_a_manifest_is_found(store, cold, place):
    committed(store)
    store.roots.commit("good", talk(store, "x")).result(20)
    for at in (0, 20, -1):
        cold.spoil("conversation", conversation_id("a"), at)
        store = place()

        with pytest.raises(CorruptBlob, match="manifest of .* in fake disk is damaged"):
            store.roots.get("a")
        assert list(store.roots) == ["good"]
        cold.spoil("conversation", conversation_id("a"), at)
    assert len(place().roots.get("a")) == 22


def test_a_conversation_whose_manifest_is_damaged_can_be_committed_again(store, cold, place):
    expected = committed(store)
    cold.spoil("conversation", conversation_id("a"))
    store = place()

    store.roots.commit("a", talk(store, "new")).result(20)

    assert place().roots.get("a").messages() == [say("new")] != expected


def test_a_manifest_that_is_another_ones_is_not_taken_for_it(store, cold, place):
    store.roots.commit("a", talk(store, "a")).result(20)
    store.roots.commit("b", talk(store, "b")).result(20)
    rows = cold.rows("conversation")
    rows[conversation_id("a")] = rows[conversation_id("b")]

    with pytest.raises(CorruptBlob, match="manifest of 'a' in fake disk is damaged: it is that of 'b'"):
        place().roots.get("a")


@pytest.mark.parametrize("at", range(0, 40, 3))
def test_a_wrong_byte_in_a_segment_is_found(store, cold, place, at):
    committed(store)
    key = max(cold.rows("segment"))
    assert key == segment_key(conversation_id("a"), len(cold.rows("segment")) - 1)
    cold.spoil("segment", key, at)

    with pytest.raises(CorruptBlob, match="conversation 'a' .* in fake disk is damaged") as caught:
        place().roots.get("a").messages()

    assert caught.value.path == "fake disk"


def test_a_segment_that_is_gone_is_told(store, cold, place):
    committed(store)
    cold.rows("segment").clear()

    with pytest.raises(CorruptBlob, match="conversation 'a' .*: a segment is missing"):
        place().roots.get("a").messages()


def with_dictionary(store):
    """Compress enough for a dictionary to be trained, and commit what is made with it."""

    def orders(first):
        return talk(
            store,
            *[
                f"order {n * 7919 % 100_003}: please book HAT{n % 700} to {n}"
                for n in range(first, first + 9)
            ],
        )

    kept = [orders(n * 10) for n in range(400)]
    for now in range(8):
        store.compress_idle(float(now))
    assert store.statistics().dictionaries
    for number in range(100):
        store.roots.commit(f"agent-{number}", orders(50_000 + 10 * number))
    settle(store)
    del kept


@pytest.fixture
def quick_training(monkeypatch):
    monkeypatch.setattr(training, "TRAINING_SIZE", 100_000)


@pytest.mark.slow
def test_what_was_made_with_a_dictionary_is_read_with_it_by_another_process(
    store, cold, place, quick_training
):
    with_dictionary(store)
    assert cold.rows("dictionary")
    expected = store.roots.get("agent-7").messages()

    assert place().roots.get("agent-7").messages() == expected
    assert faults(cold) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_dictionary_that_is_not_what_it_was_is_named(store, cold, place, quick_training, how):
    with_dictionary(store)
    for key in list(cold.rows("dictionary")):
        if how == "damaged":
            cold.spoil("dictionary", key, 1000)
        else:
            del cold.rows("dictionary")[key]
    store = place()

    with pytest.raises(CorruptBlob, match=f"the dictionary [0-9a-f]{{8}} in fake disk is {how}"):
        for number in range(100):
            store.roots.get(f"agent-{number}").messages()


# Sweeping.


def test_what_a_forgotten_conversation_had_is_swept(store, cold):
    committed(store)
    store.roots.commit("kept", talk(store, "kept " * 1000)).result(20)
    assert sweep_to_the_end(store) == 0

    store.roots.forget("a").result(20)
    settle(store)

    assert len(cold.rows("segment")) == 1
    assert sweep_to_the_end(store) > 0
    assert set(cold.rows("record")) == {Digest.of("kept " * 1000).bytes}
    assert (orphans(cold), faults(cold)) == (set(), [])
    assert store.statistics().cold.swept > 0


def test_what_two_conversations_share_stays_until_both_are_forgotten(store, cold):
    for name in ("a", "b"):
        store.roots.commit(name, talk(store, BODY)).result(20)
    store.roots.forget("a").result(20)
    settle(store)
    assert sweep_to_the_end(store) == 0

    store.roots.forget("b").result(20)
    settle(store)

    assert sweep_to_the_end(store) == 1
    assert cold.rows("record") == {}


def test_a_sweep_goes_by_slices(store, cold):
    cold.commit([("record", bytes([n // 256, n % 256]) * 16, b"nobody's") for n in range(1200)])

    sweep = store.need_archive().sweep()
    sweep.future.result(20)

    assert (sweep.seen, sweep.deleted) == (500, 500)
    assert sweep_to_the_end(store) == 700


def spilled(store):
    """Bring all that is in RAM to disk."""
    for now in range(3):
        store.compress_idle(now * 100.0)
    future = store.shelf.tiers.spill(1 << 30)
    if future is not None:
        future.result(20)
    store.statistics()


@pytest.mark.parametrize("size", [1000, 60_000], ids=["tail", "pages"])
def test_a_sweep_spares_what_ram_has_only_on_disk(store, cold, size):
    made = talk(store, *[varied(n, 1000) for n in range(size // 1000)])
    expected = made.messages()
    spilled(store)
    statistics = store.statistics()
    assert statistics.tails["cold"] == 1
    assert statistics.pages["cold"] == (size > 32_000)

    assert sweep_to_the_end(store) == 0

    assert made.messages() == expected
    del made
    store.statistics()
    sweep_to_the_end(store)
    assert cold.rows("record") == {}


def test_a_sweep_spares_content_that_somebody_has_a_handle_of(store, cold):
    blob = store.put(varied(1, 5000))
    spilled(store)
    assert store.statistics().blobs["cold"] == 1

    assert sweep_to_the_end(store) == 0
    assert blob.text.startswith("1.0 ")


def test_a_sweep_spares_what_sleeps(store):
    expected = committed(store)
    settle(store)
    assert store.roots.get("a").sleep()

    assert sweep_to_the_end(store) == 0
    assert store.roots.get("a").messages() == expected


def test_a_sweep_spares_a_tail_that_is_written_and_not_taken_note_of(store, cold):
    made = talk(store, varied(1, 3000))
    expected = made.messages()
    for now in range(3):
        store.compress_idle(now * 100.0)
    store.shelf.tiers.spill(1 << 30).result(20)

    # Between the write and the store's next step.
    assert sweep_to_the_end(store) == 0
    store.statistics()
    assert store.statistics().tails["cold"] == 1
    assert made.messages() == expected


def test_of_two_equal_tails_in_limbo_each_is_spared(store, cold):
    """The store takes note of the one, that one grows, and the other still has its content nowhere else."""
    text = varied(1, 3000)
    one, two = talk(store, text), talk(store, text)
    for now in range(3):
        store.compress_idle(now * 100.0)
    store.shelf.tiers.spill(1 << 30).result(20)
    finished = store.shelf.tiers.finished
    archive = store.need_archive()
    (key,) = cold.rows("record")
    for conversation in (one, two):
        assert conversation._chain.tail.key is None
    assert len(finished) == 1
    store.shelf.tiers.collect()
    assert archive.is_needed(key)
    one = one.append(say("y"))

    assert sweep_to_the_end(store) == 0
    assert two.messages() == [say(text)]
    assert one.messages() == [say(text), say("y")]


def test_content_that_comes_back_before_the_sweep_is_spared(store, cold):
    store.roots.commit("a", talk(store, BODY)).result(20)
    store.roots.forget("a").result(20)
    settle(store)

    store.roots.commit("b", talk(store, BODY)).result(20)

    assert sweep_to_the_end(store) == 0
    assert store.roots.get("b").messages() == [say(BODY)]


def test_content_on_disk_is_found_by_its_digest(store, place):
    store.roots.commit("a", talk(store, BODY)).result(20)
    store = place()

    assert Digest.of(BODY) in store
    assert store.text(Digest.of(BODY)) == BODY
    assert Digest.of("never put") not in store
    with pytest.raises(MissingBlob, match="never put here"):
        store.get(Digest.of("never put"))


# The real disks.


@pytest.mark.parametrize("kind", ["sqlite", "lmdb"])
def test_a_home_is_read_back_by_the_next_store(tmp_path, kind):
    pytest.importorskip("lmdb")
    with Store.open(tmp_path / "home", cold=kind, durable=False) as store:
        expected = committed(store)

    with Store.open(tmp_path / "home") as store:
        found = store.roots.get("a")
        assert (found.is_asleep, found.messages()) == (True, expected)
        assert found.system == "a prompt " * 20
