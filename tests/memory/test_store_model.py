"""A law: a store is a dict from digests to content in which an entry lives as long as its handles and pins."""

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from avm.errors import MissingBlob, StoreFullError, TooLargeError
from avm.memory import Digest, Store

CONTENTS = [
    b"",
    b"x",
    "größer",
    "word " * 1000,
    ("word " * 1000).encode(),
    bytes(range(1, 91)) * 60,
    b"\xff\x00" * 3000,
    "\ud800" + "y" * 5000,
]
NO_TEXT = CONTENTS.index(b"\xff\x00" * 3000)


def as_bytes(body):
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body


def another(body):
    """Return equal content that is another object where Python has more than one."""
    return (body + body[:1])[: len(body)]


class StoreModel(RuleBasedStateMachine):
    """A store beside two lists of what is held and pinned."""

    @initialize(limit=st.none() | st.integers(6_000, 40_000))
    def begin(self, limit):
        self.store = Store(limit)
        self.now = 0.0
        self.handles = []
        self.pins = []

    def index(self):
        # Hypothesis keeps what it drew, so it must not draw handles.
        return st.integers(0, len(self.handles) - 1)

    def expected(self):
        return {Digest.of(body): body for _, body in self.handles} | {
            Digest.of(body): body for body in self.pins
        }

    @rule(number=st.integers(0, len(CONTENTS) - 1), shares=st.booleans())
    def put(self, number, shares):
        body = CONTENTS[number]
        given = another(body)
        try:
            handle, shared = self.store.share(given) if shares else (self.store.put(given), given)
        except (StoreFullError, TooLargeError):
            assert self.store.limit is not None
            assert Digest.of(body) not in self.expected()
            return
        assert shared == body
        assert type(shared) is type(body)
        assert handle.digest == Digest.of(body)
        self.handles.append((handle, body))

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def share_what_is_shared(self, data):
        handle, _ = self.handles[data.draw(self.index())]
        raw = handle.raw
        assert self.store.share(raw)[0] is handle

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def forget(self, data):
        del self.handles[data.draw(self.index())]

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def pin(self, data):
        _, body = self.handles[data.draw(self.index())]
        self.store.pin(Digest.of(body))
        self.pins.append(body)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def drop(self, data):
        self.store.drop(Digest.of(self.pins.pop(data.draw(st.integers(0, len(self.pins) - 1)))))

    @rule(seconds=st.floats(0.1, 3.0))
    def pass_time(self, seconds):
        self.now += seconds
        self.store.compress_idle(self.now)

    @rule(number=st.integers(0, len(CONTENTS) - 1))
    def get(self, number):
        body = CONTENTS[number]
        digest = Digest.of(body)
        if digest not in self.expected():
            assert digest not in self.store
            with pytest.raises(MissingBlob):
                self.store.get(digest)
            return
        assert self.store.get(digest) == as_bytes(body)
        if number != NO_TEXT:
            assert self.store.text(digest) == as_bytes(body).decode("utf-8", "surrogatepass")
        handle = self.store.blob(digest)
        assert as_bytes(handle.raw) == handle.content == as_bytes(body)

    @invariant()
    def account_is_what_is_there(self):
        if not hasattr(self, "store"):
            return
        statistics = self.store.statistics()
        expected = self.expected()
        assert sum(statistics.blobs.values()) == len(expected)
        assert statistics.unique_bytes == sum(len(as_bytes(body)) for body in expected.values())
        assert statistics.stored_bytes <= statistics.unique_bytes
        assert statistics.account_bytes >= statistics.stored_bytes
        assert statistics.limit is None or statistics.account_bytes <= statistics.limit


TestStoreModel = pytest.mark.slow(StoreModel.TestCase)
