"""Pages: sealed runs of fragments, named by what is in them and kept once."""

import pytest

from avm.memory import Store
from avm.memory.page import Page, run_key

RUN = b'{"content":"a"},\t{"content":"b"}'


@pytest.fixture
def store():
    return Store()


def page_of(store, run, blobs):
    return Page(store.shelf, run_key(run, [blob.key for blob in blobs]), run, blobs)


def test_equal_pages_are_one(store):
    page = store.shelf.intern_page(page_of(store, RUN, ()))

    assert store.shelf.intern_page(page_of(store, bytes(bytearray(RUN)), ())) is page
    assert store.statistics().pages == {"hot": 1, "warm": 0, "cold": 0}


def test_a_page_is_named_by_its_fragments_and_its_bodies(store):
    one, two = store.put("x" * 5000), store.put("y" * 5000)
    run = b'{"content":\x01}'
    pages = [page_of(store, RUN, ()), page_of(store, run, (one,)), page_of(store, run, (two,))]

    assert len({page.digest for page in pages}) == 3


def test_a_page_goes_with_its_last_holder(store):
    page = store.shelf.intern_page(page_of(store, RUN, (store.put("x" * 5000),)))
    assert page.run() == RUN

    del page

    assert store.statistics().account_bytes == 0
    assert store.shelf.intern_page(page_of(store, RUN, ())).run() == RUN


def test_a_warm_page_reads_the_same(store):
    run = b",\t".join([b'{"content":"nothing new"}'] * 500)
    page = store.shelf.intern_page(page_of(store, run, ()))
    store.compress_idle(0.0)
    store.compress_idle(1.0)
    assert store.statistics().pages == {"hot": 0, "warm": 1, "cold": 0}

    assert page.run() == run
