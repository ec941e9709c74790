"""A law: whatever is done to a store with a home, also in between to the process, what was acknowledged is there.

Beside the store is a plain dict: for each name what was committed last. A crash leaves the files as they are between
two commits of the disk; then a name stands for what was acknowledged last, or for something that was handed in later.
"""

import gc
import importlib.util
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from avm.errors import ColdStoreError, MissingBlob, StoreFullError
from avm.memory import Conversation, Digest, Store
from avm.memory.cold import opening
from avm.memory.roots import DONE
from tests.memory.cold.faked import StoppedCold, faults, orphans, settle, sweep_to_the_end

NAMES = ("a", "b", "größer \ud800/ö")
PROMPTS = ("", "short", "long prompt " * 500)
TOOLS = ([], [{"name": "book", "parameters": {"type": "object"}}])
AT = st.integers(0, 99)
"""Which of those there are: how many that is depends on the limit and on how quick the disk is."""
SIZES = st.sampled_from([0, 10, 300, 3000, 4096, 9000])


def message(number, size):
    text = f"{number}é " + f"{number} abcdefgh" * (size // 8)
    if number % 5 == 0:
        return {"role": "assistant", "content": "", "calls": [{"id": str(number), "arguments": text[:size]}]}
    return {"role": "user", "content": text[:size]}


@attrs.frozen(eq=False)
class Version:
    """What a conversation has to read as."""

    messages: tuple
    system: str
    tools: list
    meta: dict
    root: Digest
    size: int

    @classmethod
    def of(cls, conversation, messages, before=None):
        system, tools, meta = (
            (conversation.system, conversation.tools, conversation.meta)
            if before is None
            else (before.system, before.tools, before.meta)
        )
        return cls(tuple(messages), system, tools, meta, conversation.root, conversation.size)

    def is_read_from(self, conversation):
        assert conversation.root == self.root
        assert (len(conversation), conversation.size) == (len(self.messages), self.size)
        assert conversation.messages() == list(self.messages)
        assert (conversation.system, conversation.tools) == (self.system, self.tools)
        assert conversation.meta == self.meta


@attrs.define(eq=False)
class Handle:
    """A conversation that somebody has, what it should be, and the name it depends on while it sleeps, if any."""

    conversation: Conversation
    version: Version
    depends_on: str | None = None
    may_be_lost: bool = False


class ColdModel(RuleBasedStateMachine):
    """A store with a home beside a dict from names to versions."""

    kind = "sqlite"

    @initialize(limit=st.none() | st.integers(150_000, 400_000))
    def begin(self, limit):
        self.folder = Path(tempfile.mkdtemp(prefix="avm-model-"))
        self.home = self.folder / "0"
        self.limit = limit
        self.opened = 0
        # What each name was to stand for, in order: the future, and the version; None if it was forgotten.
        self.roots = {name: [] for name in NAMES}
        self.now = 0.0
        self.open()

    def open(self):
        real = opening.open_cold
        self.cold = None

        def open_cold(home, durable):
            self.cold = StoppedCold(real(home, durable=durable))
            return self.cold

        opening.open_cold = open_cold
        try:
            self.store = Store.open(self.home, self.limit, cold=self.kind, durable=False)
        finally:
            opening.open_cold = real
        self.handles = []
        self.blobs = []

    def stands_for(self, name):
        return self.roots[name][-1][1] if self.roots[name] else None

    def expect_full(self):
        assert self.store.limit is not None

    def pick(self, at):
        return self.handles[at % len(self.handles)] if self.handles else None

    # Content.

    @rule(number=st.integers(0, 5), size=SIZES)
    def put(self, number, size):
        body = f"{number}" * size
        try:
            self.blobs.append((self.store.put(body), body))
        except StoreFullError:
            self.expect_full()

    @rule(at=AT, pins=st.booleans())
    def drop(self, at, pins):
        if not self.blobs:
            return
        blob, body = self.blobs.pop(at % len(self.blobs))
        digest = blob.digest
        if pins:
            self.store.pin(digest)
            del blob
            assert self.store.text(digest) == body
            self.store.drop(digest)

    @rule(at=AT)
    def read_content(self, at):
        if self.blobs:
            blob, body = self.blobs[at % len(self.blobs)]
            assert blob.raw == body

    # Conversations.

    @rule(prompt=st.integers(0, 2), tools=st.integers(0, 1), meta=st.sampled_from([{}, {"id": "ü"}]))
    def new(self, prompt, tools, meta):
        try:
            made = Conversation.new(self.store, PROMPTS[prompt], TOOLS[tools], meta)
        except StoreFullError:
            self.expect_full()
            return
        self.handles.append(Handle(made, Version.of(made, [])))

    @rule(at=AT, numbers=st.lists(st.integers(0, 9), min_size=1, max_size=8), size=SIZES)
    def extend(self, at, numbers, size):
        handle = self.pick(at)
        if not self.is_readable(handle):
            return
        grown, messages = handle.conversation, list(handle.version.messages)
        for number in numbers:
            try:
                grown = grown.append(message(number, size))
            except StoreFullError:
                self.expect_full()
                break
            messages.append(message(number, size))
        if grown is not handle.conversation:
            self.handles.append(Handle(grown, Version.of(grown, messages, handle.version)))

    @rule(at=AT)
    def fork(self, at):
        handle = self.pick(at)
        if self.is_readable(handle):
            try:
                self.handles.append(Handle(handle.conversation.fork(), handle.version))
            except StoreFullError:
                self.expect_full()

    @rule(at=AT, part=st.floats(0, 1))
    def rewind(self, at, part):
        handle = self.pick(at)
        left = int(part * len(handle.version.messages)) if handle is not None else 0
        if self.is_readable(handle) and left < len(handle.version.messages):
            try:
                cut = handle.conversation.rewind(len(handle.version.messages) - left)
            except StoreFullError:
                self.expect_full()
                return
            self.handles.append(Handle(cut, Version.of(cut, handle.version.messages[:left], handle.version)))

    @rule(at=AT)
    def let_go(self, at):
        if self.handles:
            del self.handles[at % len(self.handles)]

    @rule(at=AT)
    def read(self, at):
        handle = self.pick(at)
        if self.is_readable(handle):
            try:
                handle.version.is_read_from(handle.conversation)
            except StoreFullError:
                self.expect_full()

    def is_readable(self, handle):
        """Wake it, if there is one; one whose name RAM let go of, and that has another version by now, may be lost."""
        if handle is None:
            return False
        try:
            handle.conversation.wake()
        except StoreFullError:
            self.expect_full()
            return False
        except MissingBlob:
            assert handle.may_be_lost
            self.handles.remove(handle)
            return False
        return True

    # Names.

    @rule(at=AT, name=st.sampled_from(NAMES), waits=st.booleans())
    def commit(self, at, name, waits):
        handle = self.pick(at)
        if not self.is_readable(handle):
            return
        try:
            future = self.store.roots.commit(name, handle.conversation)
        except StoreFullError:
            self.expect_full()
            return
        self.name_changes(name)
        self.roots[name].append((future, handle.version))
        if waits:
            future.result(20)

    @rule(name=st.sampled_from(NAMES), waits=st.booleans())
    def forget(self, name, waits):
        try:
            future = self.store.roots.forget(name)
        except StoreFullError:
            self.expect_full()
            return
        self.name_changes(name)
        self.roots[name].append((future, None))
        if waits:
            future.result(20)

    @rule(name=st.sampled_from(NAMES))
    def release(self, name):
        self.store.roots.release(name)
        for handle in self.handles:
            if handle.version is self.stands_for(name):
                handle.depends_on = name

    def name_changes(self, name):
        for handle in self.handles:
            handle.may_be_lost |= handle.depends_on == name

    @rule(name=st.sampled_from(NAMES))
    def get(self, name):
        version = self.stands_for(name)
        found = self.store.roots.get(name)
        assert (found is None) == (version is None)
        assert (name in self.store.roots) == (version is not None)
        if found is not None:
            try:
                version.is_read_from(found)
            except StoreFullError:
                self.expect_full()
            self.handles.append(Handle(found, version))

    @rule()
    def list_names(self):
        expected = sorted(name for name in NAMES if self.stands_for(name) is not None)
        assert sorted(self.store.roots) == expected

    @rule(name=st.sampled_from(NAMES))
    def sleep(self, name):
        """Once it is on disk, what a name stands for can sleep."""
        found = self.store.roots.get(name)
        if found is not None:
            settle(self.store)
            found.sleep()

    # Tiers.

    @rule(seconds=st.floats(0.1, 3.0))
    def pass_time(self, seconds):
        self.now += seconds
        self.store.compress_idle(self.now)

    @rule()
    def spill(self):
        """Bring what can be brought to disk there, whatever the limit."""
        limit = self.store.limit
        self.now += 10
        self.store.compress_idle(self.now)
        self.store.compress_idle(self.now + 5)
        self.store.shelf.limit = 1
        try:
            while (future := self.store.spill()) is not None:
                future.result(20)
        finally:
            self.store.shelf.limit = limit

    @rule()
    def sweep(self):
        sweep_to_the_end(self.store)

    # Ends.

    @rule()
    def reopen(self):
        self.let_go_of_all()
        self.store.close()
        assert all(future.exception() is None for log in self.roots.values() for future, _ in log)
        self.roots = {name: log[-1:] for name, log in self.roots.items()}
        self.open()

    @rule()
    def crash(self):
        self.opened += 1
        copy = self.folder / str(self.opened)
        acknowledged = {name: [each[0].done() for each in log] for name, log in self.roots.items()}
        self.cold.leave_a_copy(self.home, copy)
        self.let_go_of_all()
        with suppress(ColdStoreError):
            self.store.close()
        shutil.rmtree(self.home)
        self.home = copy
        self.open()
        for name, log in self.roots.items():
            last = max((n for n, done in enumerate(acknowledged[name]) if done), default=-1)
            self.roots[name] = self.one_of(name, log[max(last, 0) :], last < 0)

    def one_of(self, name, possible, or_nothing):
        """Return what is there after a crash, which is one of the versions that were handed in since."""
        found = self.store.roots.get(name)
        if found is None:
            assert or_nothing or any(version is None for _, version in possible)
            return []
        is_it = [
            version
            for _, version in possible
            if version is not None and (version.root, version.meta) == (found.root, found.meta)
        ]
        is_it[0].is_read_from(found)
        return [(DONE, is_it[0])]

    def let_go_of_all(self):
        self.handles.clear()
        self.blobs.clear()

    # What always holds.

    @invariant()
    def account_is_in_bounds(self):
        if not hasattr(self, "store"):
            return
        statistics = self.store.statistics()
        account = self.store.shelf.account
        assert statistics.stored_bytes + statistics.tier_bytes["cold"] <= statistics.unique_bytes + 64
        assert min(statistics.unique_bytes, statistics.stored_bytes, statistics.held_bytes) >= 0
        assert min(n for counts in account.counts.values() for n in counts) >= 0
        assert statistics.account_bytes >= statistics.stored_bytes
        assert 0 <= statistics.asleep <= statistics.conversations
        assert statistics.limit is None or statistics.account_bytes <= statistics.limit

    def teardown(self):
        if not hasattr(self, "store"):
            return
        try:
            self.check_the_end()
        finally:
            self.store.close()
            shutil.rmtree(self.folder)

    def check_the_end(self):
        """With nothing left in RAM a sweep leaves nothing without an edge on disk."""
        self.let_go_of_all()
        settle(self.store)
        assert all(future.exception() is None for log in self.roots.values() for future, _ in log)
        self.store.roots.release_all()
        gc.collect(0)
        account = self.store.statistics()
        assert (account.conversations, account.asleep) == (0, 0)
        assert sum(account.pages.values()) == sum(account.tails.values()) == 0
        # The dictionaries are left.
        assert sum(account.blobs.values()) == len(account.dictionaries)
        assert account.held_bytes == account.unique_bytes
        assert faults(self.cold) == []
        sweep_to_the_end(self.store)
        assert faults(self.cold) == []
        assert orphans(self.cold) <= {digest.bytes for digest in account.dictionaries}


class LmdbModel(ColdModel):
    """The same in LMDB."""

    kind = "lmdb"


BOUNDED = settings(stateful_step_count=30)

TestColdModel = pytest.mark.slow(ColdModel.TestCase)
TestColdModel.settings = BOUNDED
TestLmdbModel = pytest.mark.slow(
    pytest.mark.skipif(importlib.util.find_spec("lmdb") is None, reason="no lmdb")(LmdbModel.TestCase)
)
TestLmdbModel.settings = BOUNDED
