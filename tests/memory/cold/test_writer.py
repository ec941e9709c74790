"""The thread that writes: what comes in while it writes is its next commit, and only what cannot be written fails."""

import threading

import pytest

from avm.errors import ColdStoreError
from avm.memory.cold.writer import GROUP, Writer
from tests.memory.cold.faked import FakeCold


class Put:
    """Writes one row, and notes what it is told."""

    def __init__(self, key, name=None, *, reads=False, error=None, value=b"value"):
        self.key, self.value = key, value
        self.name = key if name is None else name
        self.reads = reads
        self.error = error
        self.told = []

    def changes(self):
        if self.error is not None:
            raise self.error
        return [("record", self.key, self.value)]

    def written(self):
        self.told.append("written")

    def failed(self):
        self.told.append("failed")


class Alone(Put):
    """One that reads everything, as a sweep does."""

    def __init__(self, key):
        super().__init__(key)
        self.name = None
        self.reads = True


@pytest.fixture
def cold():
    return FakeCold()


@pytest.fixture
def writer(cold):
    writer = Writer(cold)
    yield writer
    cold.go()
    writer.close()


def held(cold, writer):
    """Have the writer wait in a commit, so that all that is submitted now comes into the next ones."""
    cold.hold()
    first = writer.submit(Put(b"first"))
    cold.wait_held()
    return first


def keys(group):
    return [key for _, key, _ in group]


def test_what_comes_in_during_a_commit_is_the_next_one(cold, writer):
    first = held(cold, writer)
    rest = [writer.submit(Put(b"%d" % n)) for n in range(20)]
    assert writer.pending == 20
    cold.go()

    for future in (first, *rest):
        assert future.result(20) is None

    assert [len(group) for group in cold.groups] == [1, 20]
    assert writer.pending == 0


def test_a_group_has_a_greatest_size(cold, writer):
    first = held(cold, writer)
    rest = [writer.submit(Put(b"%d" % n)) for n in range(GROUP + 5)]
    cold.go()

    for future in (first, *rest):
        future.result(20)

    assert [len(group) for group in cold.groups] == [1, GROUP, 5]


def test_writes_of_one_name_happen_in_their_order(cold, writer):
    held(cold, writer)
    futures = [writer.submit(Put(b"key", b"name", value=b"%d" % n)) for n in range(5)]
    cold.go()

    futures[-1].result(20)

    assert cold.rows("record")[b"key"] == b"4"


def test_one_that_reads_what_is_committed_waits_for_the_others_of_its_name(cold, writer):
    held(cold, writer)
    writer.submit(Put(b"a", b"name"))
    writer.submit(Put(b"b", b"other", reads=True))
    last = writer.submit(Put(b"c", b"name", reads=True))
    cold.go()

    last.result(20)

    assert [keys(group) for group in cold.groups] == [[b"first"], [b"a", b"b"], [b"c"]]


def test_one_that_reads_everything_is_alone(cold, writer):
    held(cold, writer)
    writes = [Put(b"a"), Alone(b"sweep"), Put(b"b"), Put(b"c")]
    futures = [writer.submit(write) for write in writes]
    cold.go()

    futures[-1].result(20)

    assert [keys(group) for group in cold.groups] == [[b"first"], [b"a"], [b"sweep"], [b"b", b"c"]]


def test_a_group_that_fails_is_tried_one_by_one(cold, writer):
    held(cold, writer)
    writes = [Put(b"a"), Put(b"bad"), Put(b"c")]
    futures = [writer.submit(write) for write in writes]
    cold.refuses = lambda changes: b"bad" in keys(changes)
    cold.go()

    assert futures[0].result(20) is None
    assert futures[2].result(20) is None
    with pytest.raises(ColdStoreError, match="the disk is full"):
        futures[1].result(20)
    assert [write.told for write in writes] == [["written"], ["failed"], ["written"]]
    assert set(cold.rows("record")) == {b"first", b"a", b"c"}


def test_a_write_that_cannot_say_what_it_changes_fails_alone(cold, writer):
    held(cold, writer)
    error = ColdStoreError("nothing to add to.", "here")
    bad, good = writer.submit(Put(b"bad", error=error)), writer.submit(Put(b"good"))
    cold.go()

    assert good.result(20) is None
    assert bad.exception(20) is error


def test_after_a_failure_the_next_write_goes_on(cold, writer):
    cold.refuses = 1
    failed = writer.submit(Put(b"a"))
    assert isinstance(failed.exception(20), ColdStoreError)

    assert writer.submit(Put(b"a")).result(20) is None
    assert b"a" in cold.rows("record")


def test_a_write_cannot_be_taken_back(cold, writer):
    held(cold, writer)
    future = writer.submit(Put(b"a"))

    assert not future.cancel()
    cold.go()
    assert future.result(20) is None


def test_what_is_to_follow_a_write_follows_before_its_future_is_done(cold, writer):
    seen = []
    cold.refuses = lambda changes: b"bad" in keys(changes)
    for key in (b"good", b"bad"):
        future = writer.submit(Put(key), lambda: seen.append(threading.current_thread().name))
        future.exception(20)

    assert seen == ["avm-writer"] * 2


def test_latencies_are_of_what_was_written(cold, writer):
    cold.refuses = 1
    writer.submit(Put(b"a")).exception(20)
    writer.submit(Put(b"a")).result(20)

    assert writer.latencies.count == 1
    assert writer.latencies.percentile(0.5) > 0


def test_closing_writes_what_waits(cold, writer):
    held(cold, writer)
    futures = [writer.submit(Put(b"%d" % n)) for n in range(3)]
    threading.Timer(0.01, cold.go).start()

    writer.close()

    assert all(future.done() for future in futures)
    assert len(cold.rows("record")) == 4
    writer.close()


def test_a_closed_writer_takes_nothing(cold, writer):
    writer.close()

    with pytest.raises(ColdStoreError, match="fake disk is closed") as caught:
        writer.submit(Put(b"a"))

    assert caught.value.path == "fake disk"
