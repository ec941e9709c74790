"""Recorded conversations go through the store and come out as they went in, and the figures are what they took."""

import json

import pytest

from avm.memory import Conversation, Store, read_conversations

FILES = ["tau_airline", "swe_agent_java", "mint", "intercode"]


def as_bytes(messages):
    return json.dumps(messages).encode()


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_recorded_conversations_come_back_byte_for_byte(data_dir, name):
    """Hot, compressed, and read again; the order of keys and all unknown keys too."""
    store = Store()
    kept = []
    for record in read_conversations(data_dir / f"{name}.jsonl.zst"):
        conversation = Conversation.new(store, record["system"], record["tools"], record["meta"])
        kept.append(conversation.extend(record["messages"]))
        if len(kept) % 10 == 0:
            store.compress_idle(len(kept) / 10)
    for conversation in kept[::2]:
        conversation.cool()

    for conversation, record in zip(kept, read_conversations(data_dir / f"{name}.jsonl.zst"), strict=True):
        expected = as_bytes(record["messages"])
        assert as_bytes(conversation.messages()) == expected
        assert as_bytes(json.loads(conversation.render())) == expected
        assert as_bytes(conversation.tools) == as_bytes(record["tools"])
        assert as_bytes(conversation.meta) == as_bytes(record["meta"])
        assert conversation.system == record["system"]


@pytest.mark.slow
def test_the_figures_for_recorded_conversations_are_honest(data_dir):
    """Against sums made here from the records alone."""
    store = Store()
    kept, naive, rest, shared = [], 0, 0, {}
    for record in read_conversations(data_dir / "tau_airline.jsonl.zst"):
        kept.append(Conversation.new(store, record["system"], record["tools"]).extend(record["messages"]))
        prefix = {text: len(text.encode()) for text in (record["system"], compact(record["tools"]))}
        bodies = [m["content"] for m in record["messages"] if len(m["content"].encode()) >= 4096]
        inline = [len(compact(m).encode()) for m in record["messages"]]
        shared |= prefix | {text: len(text.encode()) for text in bodies}
        naive += sum(prefix.values()) + sum(inline)
        rest += sum(inline) + 2 * len(inline) - sum(len(compact(text).encode()) for text in bodies)
    del record, prefix, bodies

    hot = store.statistics()

    assert hot.conversations == len(kept) == 140
    assert hot.held_bytes == pytest.approx(naive, rel=0.005), "bodies are counted as texts, without escapes"
    assert hot.unique_bytes == pytest.approx(sum(shared.values()) + rest, rel=0.001)
    assert hot.compression == 1.0
    shared.clear()

    for now in range(20):
        store.compress_idle(float(now))
    warm = store.statistics()

    dictionaries = sum(len(store.get(digest)) for digest in warm.dictionaries)
    assert warm.held_bytes == hot.held_bytes + dictionaries
    assert warm.compression > 4.9
    assert warm.account_bytes < naive / 6.5
    assert warm.account_bytes / 140 < 4000


@pytest.mark.slow
def test_agents_that_play_the_same_recording_share_its_full_pages(data_dir):
    store = Store()
    records = sorted(
        read_conversations(data_dir / "swe_agent_java.jsonl.zst"), key=lambda r: -len(r["messages"])
    )[:5]

    kept = [Conversation.new(store, r["system"], r["tools"]).extend(r["messages"]) for r in records * 4]

    statistics = store.statistics()
    assert statistics.pages["hot"] == len({digest for one in kept for digest in one.page_digests()}) > 0
    assert statistics.dedup_held > 0.5
