"""The store: content by digest, each once, held by handles, under a ceiling; and figures that are what they say."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from avm.errors import MissingBlob, StoreError, StoreFullError, TooLargeError
from avm.memory import Blob, Digest, Store

BODY = "The quick brown fox. " * 500


@pytest.fixture
def store():
    return Store()


def fresh(text=BODY):
    """Return an equal text that is another object."""
    return text.encode().decode()


# Content.


def test_what_is_put_is_got_by_its_digest(store):
    blob = store.put(BODY)

    assert blob.digest == Digest.of(BODY)
    assert store.text(blob.digest) == BODY
    assert store.get(blob.digest) == BODY.encode()
    assert blob.digest in store


def test_equal_content_is_one_blob_whoever_puts_it(store):
    blob = store.put(BODY)

    assert blob is store.put(fresh()) is store.put(BODY.encode())
    assert store.statistics().blobs == {"hot": 1, "warm": 0, "cold": 0}


def test_sharing_gives_everyone_the_object_that_came_first(store):
    first, second = fresh(), fresh()
    handle, shared = store.share(first)

    assert store.share(second) == (handle, first)
    assert store.share(second)[1] is shared is first


def test_sharing_keeps_the_type_of_what_is_shared(store):
    text, content = fresh(), BODY.encode()
    handle, _ = store.share(text)

    other, shared = store.share(content)

    assert other is handle
    assert shared is content
    assert store.share(BODY.encode())[1] is content
    assert store.share(fresh())[1] is text
    assert handle.raw is text


def test_a_known_object_is_not_hashed_again(store, monkeypatch):
    handle, shared = store.share(fresh())
    monkeypatch.setattr("avm.memory.store.blake3", None)

    assert store.share(shared) == (handle, shared)


def test_an_object_at_the_address_of_a_dead_one_is_not_taken_for_it(store):
    """Without looking at the object itself a reused address would give the content of the dead one."""
    for number in range(300):
        body = b"%06d" % number * 1000
        handle, shared = store.share(body)
        assert handle.content == shared == body
        del handle, shared, body


def test_subclasses_and_buffers_are_kept_as_plain_content(store):
    class Text(str):
        pass

    assert type(store.share(Text(BODY))[1]) is str
    assert type(store.put(bytearray(b"abc")).raw) is bytes
    assert store.put(memoryview(b"abc")).raw == b"abc"


@pytest.mark.parametrize("wrong", [None, 5, ["x"], {"a": 1}])
def test_only_bytes_and_text_are_content(store, wrong):
    with pytest.raises(
        TypeError, match=f"the store keeps str and bytes, got {type(wrong).__name__}; encode it"
    ):
        store.put(wrong)


@pytest.mark.parametrize(
    "body", ["", b"", "x", "\ud800 alone", "größer", "\U0001f600" * 2000, b"\xff\x00\xfe"]
)
def test_any_text_and_any_bytes_come_back_as_they_are(store, body):
    blob = store.put(body)

    assert blob.raw == body
    assert type(blob.raw) is type(body)
    assert store.get(blob.digest) == (
        body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    )


def test_bytes_that_are_no_text_are_no_text(store):
    blob = store.put(b"\xff\xfe")

    with pytest.raises(UnicodeDecodeError):
        store.text(blob.digest)


def test_a_blob_says_what_it_is(store):
    blob = store.put("größer")

    assert blob.size == 8
    assert blob.text is blob.raw
    assert blob.content == "größer".encode()
    assert blob.json() == '"größer"'.encode()
    assert repr(blob) == f"Blob({blob.digest}, 8 bytes)"


def test_content_that_was_never_put_is_missed_with_its_digest(store):
    held = store.put(BODY)
    digest = Digest.of("nothing")

    with pytest.raises(MissingBlob) as caught:
        store.get(digest)
    assert str(caught.value) == (
        f"no blob {digest} in the store (hot 1, warm 0, cold 0): "
        "never put here, or dropped after its last handle or pin went."
    )
    assert isinstance(caught.value, KeyError)
    assert held.size == len(BODY)


# Handles and pins.


def test_content_goes_with_its_last_handle(store):
    blob = store.put(fresh())
    other = store.blob(blob.digest)
    digest = blob.digest
    del blob
    assert digest in store

    del other

    assert digest not in store
    assert store.statistics().account_bytes == 0


@pytest.fixture
def collect():
    """Collects what was made since the test began: quick, however large the rest is."""
    gc.freeze()
    yield gc.collect
    gc.unfreeze()


def test_content_in_a_dead_cycle_is_given_back(collect):
    store = Store()
    cycle = [store.put(fresh())]
    cycle.append(cycle)
    digest = cycle[0].digest
    del cycle
    collect()

    assert digest not in store
    assert store.statistics().account_bytes == 0


def test_a_pin_holds_content_without_a_handle(store):
    digest = store.put(fresh()).digest
    assert digest not in store
    blob = store.put(fresh())
    store.pin(digest)
    store.pin(digest)
    del blob

    store.drop(digest)
    assert store.text(digest) == BODY
    store.drop(digest)

    assert digest not in store


def test_pins_and_drops_have_to_match(store):
    blob = store.put(BODY)

    with pytest.raises(StoreError, match=f"blob {blob.digest} has no pin to drop; pin"):
        store.drop(blob.digest)
    with pytest.raises(MissingBlob):
        store.pin(Digest.of("nothing"))


# The ceiling.


def test_a_full_store_refuses_more_and_takes_it_when_something_goes():
    store = Store(limit=200_000)
    held = []
    with pytest.raises(StoreFullError, match=r"the store is full: .* of 195\.3 KB.*Raise --memory"):
        for _ in range(100):
            held.append(store.put(os.urandom(10_000)))

    assert len(held) == 18
    assert store.statistics().account_bytes <= 200_000
    held.pop()
    assert store.put(os.urandom(10_000)).size == 10_000


def test_before_it_refuses_the_store_compresses_what_it_can():
    store = Store(limit=100_000)
    held = [store.put(f"line {number} of a log\n" * 500) for number in range(60)]

    statistics = store.statistics()

    assert statistics.unique_bytes > 500_000
    assert statistics.account_bytes <= 100_000
    assert statistics.compressions > 50
    assert [blob.text for blob in held] == [f"line {number} of a log\n" * 500 for number in range(60)]
    assert store.statistics().account_bytes <= 100_000


def test_content_larger_than_its_share_is_refused_though_there_is_room():
    store = Store(limit=1_000_000)

    with pytest.raises(
        TooLargeError, match=r"an object of .* is larger than 25% of the store's limit of 976\.6 KB"
    ):
        store.put(b"x" * 300_000)
    assert store.put(b"x" * 200_000).size == 200_000


def test_a_limit_may_be_written_as_a_size():
    assert Store(limit="2GB").limit == 2 << 30
    with pytest.raises(ValueError, match="'plenty' is not a size"):
        Store(limit="plenty")


def test_content_known_already_fits_into_a_full_store():
    store = Store(limit=50_000)
    held = [store.put(os.urandom(10_000)) for _ in range(4)]

    with pytest.raises(StoreFullError):
        store.put(os.urandom(10_000))
    assert store.put(bytes(held[0].content)) is held[0]


# Figures.


def test_statistics_are_a_frozen_value(store):
    statistics = store.statistics()

    assert attrs.has(type(statistics))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        statistics.hits = 1


def test_an_empty_store_has_saved_nothing(store):
    statistics = store.statistics()

    assert (statistics.dedup_held, statistics.dedup_sent, statistics.compression) == (0.0, 0.0, 1.0)
    assert statistics.held_bytes == statistics.unique_bytes == statistics.account_bytes == 0


def test_handles_of_one_blob_count_once(store):
    """What handles hold is shared in any Python program: the store claims nothing for it."""
    held = [store.put(fresh()) for _ in range(10)]

    statistics = store.statistics()

    assert statistics.held_bytes == statistics.unique_bytes == len(BODY)
    assert statistics.dedup_held == 0.0
    assert statistics.hits == len(held) - 1


def test_compression_is_content_by_what_it_takes(store):
    held = [store.put("abc " * 5000), store.put(os.urandom(5000))]
    for now in range(4):
        store.compress_idle(float(now))

    statistics = store.statistics()

    assert statistics.unique_bytes == 25_000
    assert 5000 < statistics.stored_bytes < 5100
    assert statistics.compression == statistics.unique_bytes / statistics.stored_bytes
    assert statistics.blobs == {"hot": 1, "warm": 1, "cold": 0}
    assert len(held) == 2


def test_what_is_sent_is_counted_apart_from_what_is_held(store):
    store.sent(1000, 1000)
    store.sent(1200, 200)

    statistics = store.statistics()

    assert (statistics.sent_bytes, statistics.sent_new_bytes, statistics.held_bytes) == (2200, 1200, 0)
    assert statistics.dedup_sent == pytest.approx(1 - 1200 / 2200)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("size", [64, 4500])
def test_the_account_is_what_the_process_grows_by(size):
    """Measured in a process of its own: resident bytes against the account."""
    program = f"""
import os
from avm.memory import Store, rss_bytes
store = Store()
held = [store.put(os.urandom({size})) for _ in range(1000)]
before, account = rss_bytes(), store.statistics().account_bytes
held += [store.put(os.urandom({size})) for _ in range(30_000)]
print((rss_bytes() - before) / (store.statistics().account_bytes - account))
"""
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=root)
    ratio = float(found.stdout)

    assert 0.85 < ratio < 1.15


def test_a_handle_is_a_blob(store):
    assert isinstance(store.put("x"), Blob)
