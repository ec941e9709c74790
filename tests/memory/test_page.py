"""Pages: sealed runs of fragments, named by what is in them and kept once."""

import pytest

from avm.memory import Store
from avm.memory.page import Page

RUN = b'{"content":"a"},\t{"content":"b"}'


@pytest.fixture
def store():
    return Store()


def test_equal_pages_are_one(store):
    page = store.shelf.intern_page(Page(store.shelf, RUN, ()))

    assert store.shelf.intern_page(Page(store.shelf, bytes(bytearray(RUN)), ())) is page
    assert store.statistics().pages == {"hot": 1, "warm": 0}


def test_a_page_is_named_by_its_fragments_and_its_bodies(store):
    one, two = store.put("x" * 5000), store.put("y" * 5000)
    run = b'{"content":\x01}'
    pages = [Page(store.shelf, RUN, ()), Page(store.shelf, run, (one,)), Page(store.shelf, run, (two,))]

    assert len({page.digest for page in pages}) == 3


def test_a_page_goes_with_its_last_holder(store):
    page = store.shelf.intern_page(Page(store.shelf, RUN, (store.put("x" * 5000),)))
    assert page.run() == RUN

    del page

    assert store.statistics().account_bytes == 0
    assert store.shelf.intern_page(Page(store.shelf, RUN, ())).run() == RUN


def test_a_warm_page_reads_the_same(store):
    run = b",\t".join([b'{"content":"nothing new"}'] * 500)
    page = store.shelf.intern_page(Page(store.shelf, run, ()))
    store.compress_idle(0.0)
    store.compress_idle(1.0)
    assert store.statistics().pages == {"hot": 0, "warm": 1}

    assert page.run() == run
