"""Hot and warm: what is idle is compressed, what is used is not, and nobody can tell by what comes back."""

import os
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest

from avm.memory import Conversation, Store, training
from avm.memory import tiers as tiers_module

TEXT = "Nothing happens, nobody comes, nobody goes. " * 200


class Later(Executor):
    """A thread that gets to work when it is told to."""

    def __init__(self):
        self.waiting = []

    def submit(self, function, /, *args, **options):
        future = Future()
        self.waiting.append((future, function, args, options))
        return future

    def work(self):
        waiting, self.waiting = self.waiting, []
        for future, function, args, options in waiting:
            future.set_result(function(*args, **options))


@pytest.fixture
def store():
    return Store()


def put(store, number=0):
    """Put a text that only the store holds."""
    return store.put(TEXT + str(number))


def talk(store, length=20, about="the weather"):
    messages = [
        {"role": "user", "content": f"{number}: tell me more about {about}"} for number in range(length)
    ]
    return Conversation.new(store).extend(messages), messages


def tiers(store):
    statistics = store.statistics()
    return statistics.blobs["hot"], statistics.blobs["warm"]


def test_what_is_unused_for_a_second_is_compressed(store):
    blob = put(store)

    assert store.compress_idle(0.0) == 0
    assert store.compress_idle(0.9) == 0
    assert store.compress_idle(1.0) == 1

    assert tiers(store) == (0, 1)
    assert blob.text == TEXT + "0"
    assert tiers(store) == (1, 0)


def test_what_is_used_stays_hot(store):
    blob = put(store)
    for now in range(5):
        assert blob.size == len(blob.content)
        assert store.compress_idle(float(now)) == 0

    assert tiers(store) == (1, 0)


def test_content_that_somebody_holds_as_it_is_stays_hot(store):
    """Compressing it would free nothing."""
    held = TEXT + "held"
    blob = store.put(held)
    for now in range(5):
        store.compress_idle(float(now))

    assert tiers(store) == (1, 0)
    assert blob.raw is held


def test_what_does_not_shrink_stays_raw_and_is_not_tried_again(store, monkeypatch):
    blob = store.put(os.urandom(5000))
    for now in range(3):
        store.compress_idle(float(now))

    monkeypatch.setattr(training, "compress", None)
    store.compress_idle(10.0)

    assert tiers(store) == (1, 0)
    assert blob.size == 5000


def test_warm_content_that_comes_in_again_is_hot_at_once(store):
    blob = put(store)
    store.compress_idle(0.0)
    store.compress_idle(1.0)
    again = TEXT + "0"

    assert store.share(again) == (blob, again)
    assert store.share(again)[1] is again
    assert store.statistics().thaws == 0
    assert tiers(store) == (1, 0)


def test_warm_content_that_comes_in_as_the_other_type_keeps_its_own(store):
    blob = put(store)
    store.compress_idle(0.0)
    store.compress_idle(1.0)
    content = (TEXT + "0").encode()

    assert store.share(content)[1] is content
    assert type(blob.raw) is str


def test_hot_reads_give_the_same_object(store):
    blob = put(store)
    store.compress_idle(0.0)
    store.compress_idle(1.0)

    assert blob.raw is blob.raw
    assert store.share(blob.raw)[1] is blob.raw
    assert blob.content is blob.content


def test_the_other_form_of_idle_content_is_dropped(store):
    body = os.urandom(2000).hex()
    blob = store.put(body)
    before = store.statistics().account_bytes
    assert len(blob.content) + len(blob.json()) == 8002
    assert store.statistics().account_bytes > before + 8000

    store.compress_idle(0.0)
    store.compress_idle(1.0)

    assert store.statistics().account_bytes == before
    assert blob.raw is body


def test_a_tail_that_grows_is_hot_and_an_idle_one_is_compressed(store):
    conversation, messages = talk(store)
    store.compress_idle(0.0)
    store.compress_idle(1.0)
    assert store.statistics().tails == {"hot": 0, "warm": 1, "cold": 0}

    grown = conversation.append({"role": "assistant", "content": "no"})

    assert store.statistics().tails == {"hot": 1, "warm": 0, "cold": 0}
    assert conversation.messages() == messages
    assert grown.messages() == [*messages, {"role": "assistant", "content": "no"}]


def test_cooling_compresses_at_once(store):
    conversation, messages = talk(store, 2000)
    size = store.statistics().account_bytes

    conversation.cool()

    statistics = store.statistics()
    assert statistics.pages["hot"] == statistics.tails["hot"] == 0
    assert statistics.pages["warm"] > 1
    assert statistics.account_bytes * 4 < size
    assert conversation.messages() == messages


# In another thread.


def test_less_than_a_batch_waits_for_more_but_not_for_ever(store):
    thread = Later()
    blob = put(store)
    store.compress_idle(0.0, thread)

    assert store.compress_idle(1.0, thread) == 0
    assert store.compress_idle(4.9, thread) == 0
    assert store.compress_idle(5.0, thread) == 1

    thread.work()
    assert tiers(store) == (0, 1)
    assert blob.size == len(TEXT) + 1


def test_work_is_handed_out_in_batches_worth_a_threads_while(store):
    thread = Later()
    blobs = [put(store, number) for number in range(100)]
    store.compress_idle(0.0, thread)
    store.compress_idle(1.0, thread)

    sizes = [sum(order[0].size for order in args[0]) for _, _, args, _ in thread.waiting]

    assert len(sizes) == 4
    assert all(256 * 1024 <= size < 300 * 1024 for size in sizes[:-1])
    assert store.compress_idle(3.0, thread) == 0, "what is out is not handed out again"
    thread.work()
    assert tiers(store) == (0, 100)
    assert [blob.text for blob in blobs] == [TEXT + str(number) for number in range(100)]


def test_what_was_used_while_it_was_out_stays_hot(store):
    thread = Later()
    blobs = [put(store, number) for number in range(40)]
    store.compress_idle(0.0, thread)
    store.compress_idle(1.0, thread)

    text = blobs[3].text
    thread.work()

    assert tiers(store) == (1, 39)
    assert blobs[3].raw is text


def test_a_tail_that_grew_while_it_was_out_stays_as_it_is(store, monkeypatch):
    monkeypatch.setattr(tiers_module, "BATCH_SIZE", 100)
    thread = Later()
    conversation, messages = talk(store)
    store.compress_idle(0.0, thread)
    store.compress_idle(1.0, thread)

    waiting = thread.waiting[0][2][0]
    thread.work()
    grown = conversation.append({"role": "user", "content": "wait"})

    assert waiting
    assert store.statistics().tails == {"hot": 1, "warm": 0, "cold": 0}
    assert grown.messages() == [*messages, {"role": "user", "content": "wait"}]


def test_what_died_while_it_was_out_is_gone(store):
    thread = Later()
    blobs = [put(store, number) for number in range(40)]
    store.compress_idle(0.0, thread)
    store.compress_idle(1.0, thread)

    del blobs
    thread.work()
    thread.waiting.clear()
    store.shelf.settle()

    assert store.statistics().account_bytes == 0


def test_a_real_thread_does_it(store):
    blobs = [put(store, number) for number in range(100)]
    with ThreadPoolExecutor(1) as thread:
        store.compress_idle(0.0, thread)
        assert store.compress_idle(1.0, thread) == 100

    assert tiers(store) == (0, 100)
    assert [blob.text for blob in blobs] == [TEXT + str(number) for number in range(100)]


# The dictionary.


@pytest.fixture
def quick_training(monkeypatch):
    monkeypatch.setattr(training, "TRAINING_SIZE", 100_000)


def orders(store, count, first=0):
    return [
        Conversation.new(store).extend(
            {
                "role": role,
                "content": f"order {n * 7919 % 100_003}: please book flight HAT{n % 700} to seat {n}",
            }
            for n in range(m, m + 3)
            for role in ("user", "assistant")
        )
        for m in range(first, first + count * 10, 10)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("threaded", [False, True])
def test_a_dictionary_is_trained_from_what_was_seen_and_kept_under_its_digest(
    store, quick_training, threaded
):
    thread = Later() if threaded else None
    talks = orders(store, 400)
    assert store.statistics().dictionaries == ()
    for now in range(8):
        store.compress_idle(float(now), thread)
        if thread is not None:
            thread.work()

    (digest,) = store.statistics().dictionaries
    before = store.statistics().stored_bytes

    assert len(store.get(digest)) > 1000
    fresh = orders(store, 400, first=50_000)
    for now in range(10, 18):
        store.compress_idle(float(now))
    added = store.statistics().stored_bytes - before
    assert added * 6 < sum(talk.size for talk in fresh), (
        "with it, small conversations shrink to less than a sixth"
    )
    assert [talk.messages() for talk in talks + fresh] == [
        talk.messages() for talk in orders(Store(), 400) + orders(Store(), 400, first=50_000)
    ]


@pytest.mark.slow
def test_a_store_too_small_for_a_dictionary_does_without(quick_training):
    store = Store(limit=300_000)
    talks = orders(store, 150)

    for now in range(4):
        store.compress_idle(float(now))

    assert store.statistics().dictionaries == ()
    assert store.statistics().tails == {"hot": 0, "warm": 150, "cold": 0}
    assert talks[0].messages() == orders(Store(), 1)[0].messages()


def test_samples_are_not_taken_twice(store, quick_training):
    talks = [talk(store, 100)[0] for _ in range(30)]
    store.compress_idle(0.0)
    store.compress_idle(5.0)

    assert store.statistics().dictionaries == ()
    assert len(talks) == 30


# Under the ceiling.


def test_reading_works_in_a_store_that_has_no_room_for_what_is_read():
    store = Store(limit=30_000)
    blobs = []
    try:
        for number in range(100):
            blobs.append(store.put(f"{number} " * 2000 + "end"))
    except MemoryError:
        pass

    for number, blob in enumerate(blobs):
        assert blob.text == f"{number} " * 2000 + "end"
        assert blob.content == blob.text.encode()
        assert store.statistics().account_bytes <= 30_000


def test_a_conversation_goes_on_until_the_store_is_really_full():
    store = Store(limit=200_000)
    conversation = Conversation.new(store, "Be brief.")
    messages = []
    with pytest.raises(MemoryError):
        for number in range(1000):
            message = {"role": "user", "content": os.urandom(500).hex()}
            conversation = conversation.append(message)
            messages.append(message)
            assert store.statistics().account_bytes <= 200_000, number

    assert conversation.size > 220_000, "hexadecimal digits shrink to little more than a half"
    assert conversation.messages() == messages
    assert store.statistics().account_bytes <= 200_000
