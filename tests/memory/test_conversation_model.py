"""A law: whatever is done to conversations, in whatever order, each reads as a list of messages would.

The store is small enough to be full at times, and things cool and warm up in between; neither may show in what is read.
"""

import gc
import json

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from avm.errors import StoreFullError
from avm.memory import Conversation, Store

SIZES = st.sampled_from([0, 10, 300, 3000, 4095, 4096, 9000])


def message(number, size):
    text = f"{number}é " + "abcdefgh" * (size // 8)
    if number % 5 == 0:
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": str(number), "arguments": text[:size]}],
        }
    return {"role": "user", "content": text[:size]}


class ConversationModel(RuleBasedStateMachine):
    """Conversations in one store beside plain lists."""

    versions = Bundle("versions")

    def __init__(self):
        super().__init__()
        self.limit = None
        self.store = Store()
        self.held = 0
        self.now = 0.0

    @rule(target=versions, prompt=st.sampled_from(["", "short", "long " * 2000]))
    def begin(self, prompt):
        try:
            return Conversation.new(self.store, prompt), []
        except StoreFullError:
            assert self.store.limit is not None
            return Conversation.new(Store(), prompt), []

    @rule(target=versions, version=versions, numbers=st.lists(st.integers(0, 9), max_size=12), size=SIZES)
    def extend(self, version, numbers, size):
        conversation, model = version
        for number in numbers:
            try:
                conversation = conversation.append(message(number, size))
            except StoreFullError:
                assert self.store.limit is not None
                break
            model = [*model, message(number, size)]
        return conversation, model

    @rule(target=versions, version=versions)
    def fork(self, version):
        try:
            return version[0].fork(), version[1]
        except StoreFullError:
            assert self.store.limit is not None
            return version

    @rule(target=versions, version=versions, data=st.data())
    def rewind(self, version, data):
        conversation, model = version
        count = data.draw(st.integers(0, len(model)))
        try:
            return conversation.rewind(count), model[: len(model) - count]
        except StoreFullError:
            assert self.store.limit is not None
            return version

    @rule(one=versions, two=versions)
    def differ(self, one, two):
        pairs = enumerate(zip(one[1], two[1], strict=False))
        expected = next((n for n, (a, b) in pairs if a != b), None)
        if expected is None and len(one[1]) != len(two[1]):
            expected = min(len(one[1]), len(two[1]))
        assert one[0].diff(two[0]) == expected
        if expected is not None:
            assert one[0] != two[0]
        if one[0].system == two[0].system:
            assert (one[0].root == two[0].root) == (expected is None)

    @rule(version=versions, chosen=st.slices(40))
    def read(self, version, chosen):
        conversation, model = version
        assert conversation[chosen] == model[chosen]
        assert conversation.messages() == list(conversation) == model
        assert json.loads(conversation.render()) == model
        assert len(conversation) == len(model)
        if model:
            index = (chosen.start or 0) % len(model)
            assert conversation[index] == model[index]

    @rule(version=versions)
    def weigh(self, version):
        conversation, model = version
        plain = [json.dumps(m, separators=(",", ":"), ensure_ascii=False).encode() for m in model]
        bodies = sum(2 for p in plain if len(p) > 4000 and _has_body(json.loads(p)))
        assert conversation.size == len(conversation.system.encode()) + sum(map(len, plain)) - bodies

    @rule(version=versions)
    def cool(self, version):
        version[0].cool()

    @rule(seconds=st.floats(0.1, 3.0))
    def pass_time(self, seconds):
        self.now += seconds
        self.store.compress_idle(self.now)

    @rule(version=consumes(versions))
    def forget(self, version):
        del version

    @precondition(lambda self: self.store.limit is None)
    @rule(room=st.integers(0, 20_000))
    def limit_what_is_there(self, room):
        """From here on the store is nearly full. A share of it is still more than any single message."""
        self.store.shelf.limit = max(self.store.statistics().account_bytes + room, 60_000)

    @invariant()
    def account_is_in_bounds(self):
        statistics = self.store.statistics()
        assert statistics.limit is None or statistics.account_bytes <= statistics.limit
        assert min(statistics.unique_bytes, statistics.stored_bytes, statistics.held_bytes) >= 0

    def teardown(self):
        store = self.store
        self.bundles.clear()
        self.names_to_values.clear()
        gc.collect(0)
        del store


def _has_body(found):
    call = found.get("tool_calls", [{}])[0].get("arguments", "")
    return max(len(found["content"].encode()), len(call.encode())) >= 4096


TestConversationModel = pytest.mark.slow(ConversationModel.TestCase)
