"""Records: compressed content that fits its memory, and comes back whole or not at all."""

import os
import threading
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.errors import CorruptBlob
from avm.memory.compression import compress, decompress, train

TEXT = b"".join(b'{"role":"tool","content":"row %d of the table"}' % n for n in range(300))


@pytest.fixture(scope="module")
def dictionary():
    samples = [
        b'{"role":"user","content":"flight HAT%03d on May %d, economy"}' % (n, n % 30) for n in range(4000)
    ]
    return train(samples)


@given(st.binary(max_size=5000))
def test_what_is_compressed_comes_back(content):
    assert decompress(compress(content)) == content


@given(content=st.binary(max_size=300))
def test_what_is_compressed_with_a_dictionary_comes_back(dictionary, content):
    assert decompress(compress(content, dictionary), dictionary) == content


def test_text_shrinks_and_noise_stays_as_it_is_but_for_a_flag():
    noise = os.urandom(1000)

    assert len(compress(TEXT)) * 10 < len(TEXT)
    assert compress(noise) == b"\x00" + noise


def test_a_record_takes_no_more_memory_than_it_is_long():
    """`ZstdCompressor.compress` returns bytes that keep their worst-case buffer, which no length shows."""
    contents = [TEXT + b"%d" % n for n in range(200)]
    compress(TEXT)
    tracemalloc.start()

    records = [compress(content) for content in contents]
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert taken < sum(len(record) + 64 for record in records) + 16 * 1024


def test_a_dictionary_makes_small_records_smaller(dictionary):
    message = b'{"role":"user","content":"flight HAT777 on May 31, economy, please"}'

    assert len(compress(message, dictionary)) * 2 < len(message)
    assert len(compress(message)) > len(message) * 0.9


def test_there_is_no_dictionary_of_next_to_nothing():
    assert train([b"one", b"two"]) is None


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"", "begins with b''"),
        (b"\x09abc", "expected flag 0, 1 or 2"),
        (b"\x01no frame at all", "no whole zstd frame"),
        (compress(TEXT)[:-5], "no whole zstd frame"),
    ],
)
def test_a_damaged_record_is_refused(record, words):
    with pytest.raises(CorruptBlob, match=words):
        decompress(record)


def test_a_record_asks_for_the_dictionary_it_was_made_with(dictionary):
    record = compress(b'{"role":"user","content":"flight HAT777 on May 31"}' * 3, dictionary)

    with pytest.raises(CorruptBlob, match="a dictionary that was not given"):
        decompress(record)


def test_threads_compress_at_the_same_time(dictionary):
    results = []

    def work(number):
        contents = [TEXT + b"%d" % n for n in range(number, number + 50)]
        records = [compress(content, dictionary) for content in contents]
        results.append([decompress(record, dictionary) for record in records] == contents)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [True] * 4
