"""Conversations: immutable sequences of messages that share what they have in common."""

import gc
import json
import os

import pytest
from blake3 import blake3

from avm.errors import StoreFullError, TooLargeError
from avm.memory import Conversation, Digest, Store
from avm.memory.page import PAGE_SIZE

TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {"z": 1, "a": 2}}}]
LARGE = "a large tool result; " * 500


@pytest.fixture
def store():
    return Store()


def say(number, text="hello"):
    return {"role": "user" if number % 2 == 0 else "assistant", "content": f"{text} {number}"}


def says(count, text="hello"):
    return [say(number, text) for number in range(count)]


def long(count=300):
    """Return messages that fill several pages, some with bodies that are blobs."""
    return [
        {"role": "tool", "content": f"{number} {LARGE}", "tool_call_id": str(number)}
        if number % 50 == 7
        else say(number, "word " * 80)
        for number in range(count)
    ]


@pytest.fixture
def conversation(store):
    return Conversation.new(store, "Be kind.", TOOLS, {"id": "c1"})


# What it is.


def test_a_new_conversation_has_a_prompt_and_no_messages(conversation):
    assert len(conversation) == 0
    assert conversation.system == "Be kind."
    assert conversation.tools == TOOLS
    assert conversation.meta == {"id": "c1"}
    assert list(conversation) == conversation.messages() == []
    assert conversation.render() == b"[]"
    assert conversation.page_digests() == ()


def test_a_conversation_without_a_prompt_is_empty_all_over(store):
    conversation = Conversation.new(store)

    assert (conversation.system, conversation.tools, conversation.meta, conversation.size) == ("", [], {}, 0)


def test_appending_leaves_the_old_conversation_as_it_is(conversation):
    one = conversation.append(say(0))
    two = one.append(say(1))

    assert (len(conversation), len(one), len(two)) == (0, 1, 2)
    assert (conversation.messages(), one.messages(), two.messages()) == ([], says(1), says(2))


def test_what_is_read_is_the_readers_own(conversation):
    grown = conversation.append({"role": "user", "content": "a", "list": [1]})

    grown[0]["list"].append(2)
    grown.tools.clear()
    grown.meta["id"] = "c2"

    assert grown[0] == {"role": "user", "content": "a", "list": [1]}
    assert grown.tools == TOOLS
    assert grown.meta == {"id": "c1"}


def test_what_was_given_may_change_afterwards(store):
    message, tools = {"content": ["a"]}, [{"name": "x"}]
    conversation = Conversation.new(store, tools=tools).append(message)

    message["content"].append("b")
    tools.clear()

    assert conversation[0] == {"content": ["a"]}
    assert conversation.tools == [{"name": "x"}]


def test_size_is_the_raw_bytes_of_prompt_and_messages(conversation):
    prefix = len("Be kind.") + len(json.dumps(TOOLS, separators=(",", ":")))
    assert conversation.size == prefix

    small = conversation.append({"content": "hé"})
    large = small.append({"content": LARGE})

    assert small.size == prefix + len('{"content":"hé"}'.encode())
    assert large.size == small.size + len('{"content":}') + len(LARGE)


def test_it_cannot_be_changed(conversation):
    with pytest.raises(TypeError):
        conversation[0] = say(0)
    with pytest.raises(AttributeError):
        conversation.extra = 1


@pytest.mark.parametrize("message", [{"a": {1}}, "text", None])
def test_a_message_that_is_not_json_is_refused_and_changes_nothing(conversation, message):
    with pytest.raises(TypeError, match="message"):
        conversation.append(message)
    assert conversation.append(say(0)).messages() == says(1)


def test_tools_and_notes_that_are_not_json_are_refused(store):
    with pytest.raises(TypeError, match=r"tools\[0\]\['x'\] is a set"):
        Conversation.new(store, tools=[{"x": set()}])
    with pytest.raises(TypeError, match=r"meta\['x'\] is a object"):
        Conversation.new(store, meta={"x": object()})


def test_a_conversation_without_a_store_keeps_itself():
    assert Conversation(system="Hi").extend(says(3)).messages() == says(3)


# Roots.


def test_the_root_rolls_over_fragments(store):
    empty = Conversation.new(store)
    grown = empty.append({"content": "a"}).append({"content": "b"})

    root = bytes(empty.root)
    for made in (b'{"content":"a"}', b'{"content":"b"}'):
        root = blake3(root + blake3(made).digest()).digest()

    assert grown.root == Digest(root)


def test_equal_conversations_have_equal_roots_in_any_store():
    one = Conversation.new(Store(), "p", TOOLS).extend(long())
    two = Conversation.new(Store(), "p", TOOLS, meta={"note": "not part of it"}).extend(long())

    assert one == two
    assert one.root == two.root
    assert hash(one) == hash(two)
    assert one.page_digests() == two.page_digests()


def test_different_conversations_have_different_roots(store):
    empty = Conversation.new(store)
    others = [
        empty,
        Conversation.new(store, "p"),
        Conversation.new(store, "", TOOLS),
        empty.append(say(0)),
        empty.append(say(0)).append(say(1)),
        empty.append(say(1)).append(say(0)),
        empty.append({"content": LARGE}),
        empty.append({"content": LARGE + "."}),
        empty.append({"content": LARGE, "x": LARGE}),
        empty.append({"content": LARGE, "x": LARGE + "."}),
        empty.append({"content": LARGE + ".", "x": LARGE}),
        empty.append({"a": 1, "b": 2}),
        empty.append({"b": 2, "a": 1}),
    ]

    assert len({conversation.root for conversation in others}) == len(others)
    assert empty != "something else"


# Versions.


def test_a_fork_goes_its_own_way(conversation):
    trunk = conversation.extend(long(100))
    fork = trunk.fork()
    assert fork == trunk

    one, two = trunk.append(say(1, "one")), fork.append(say(2, "two"))

    assert one.messages() == [*long(100), say(1, "one")]
    assert two.messages() == [*long(100), say(2, "two")]
    assert trunk.messages() == fork.messages() == long(100)


def test_two_ways_from_the_same_version_do_not_meet(conversation):
    trunk = conversation.extend(says(5))
    ways = [trunk.append(say(n, "way")) for n in range(10)]

    assert [way[-1] for way in ways] == [say(n, "way") for n in range(10)]
    assert all(way[:5] == says(5) for way in ways)


@pytest.mark.parametrize("count", [0, 1, 2, 30, 99, 100, 250, 299, 300])
def test_rewinding_gives_the_conversation_as_it_was(conversation, count):
    versions = [conversation]
    for message in long():
        versions.append(versions[-1].append(message))

    rewound = versions[-1].rewind(count)

    assert rewound == versions[300 - count]
    assert rewound.messages() == long()[: 300 - count]
    assert rewound.size == versions[300 - count].size
    assert rewound.append(say(1)) == versions[300 - count].append(say(1))
    assert rewound.extend(long()[300 - count :]) == versions[-1]
    assert rewound.extend(long()[300 - count :]).page_digests() == versions[-1].page_digests()


def test_rewinding_to_where_a_page_ends_gives_a_tail_as_before(conversation):
    versions = [conversation]
    while len(versions[-1].page_digests()) < 2:
        versions.append(versions[-1].append(say(len(versions), "word " * 80)))
    last = versions[-1]

    assert last.rewind(1).page_digests() == versions[-2].page_digests()
    assert last.rewind(1) == versions[-2]


@pytest.mark.parametrize("count", [-1, 4, 100])
def test_rewinding_more_than_there_is_is_refused(conversation, count):
    with pytest.raises(ValueError, match=f"cannot rewind {count} messages: .* has 3; give 0 to 3"):
        conversation.extend(says(3)).rewind(count)


def test_the_first_difference_is_found(conversation):
    base = conversation.extend(long())
    for at in (0, 3, 7, 57, 100, 299):
        changed = long()
        changed[at] = {**changed[at], "content": changed[at]["content"] + "."}
        assert base.diff(conversation.extend(changed)) == at


def test_equal_messages_do_not_differ(store, conversation):
    assert (
        conversation.extend(long()).diff(Conversation.new(Store(), "another prompt").extend(long())) is None
    )
    assert conversation.diff(Conversation.new(store)) is None


@pytest.mark.parametrize("count", [0, 1, 60, 150, 299])
def test_a_beginning_differs_where_it_ends(conversation, count):
    whole = conversation.extend(long())
    beginning = conversation.extend(long()[:count])

    assert whole.diff(beginning) == beginning.diff(whole) == count


# Messages.


@pytest.mark.parametrize(
    "chosen",
    [
        slice(None),
        slice(5),
        slice(-5, None),
        slice(70, 210),
        slice(210, 70),
        slice(None, None, 7),
        slice(None, None, -1),
        slice(250, 10, -13),
        slice(1000, 2000),
        slice(299, 300),
        slice(0, 0),
    ],
)
def test_slices_are_lists_of_messages(conversation, chosen):
    assert conversation.extend(long())[chosen] == long()[chosen]


def test_single_messages_are_found_by_index(conversation):
    whole = conversation.extend(long())

    assert [whole[n] for n in range(300)] == long()
    assert [whole[-n] for n in range(1, 301)] == long()[::-1]


@pytest.mark.parametrize("index", [3, -4, 100])
def test_an_index_outside_is_refused(conversation, index):
    with pytest.raises(IndexError, match=f"no message {index} in Conversation"):
        conversation.extend(says(3))[index]


def test_rendering_gives_one_json_array(conversation):
    whole = conversation.extend(long())

    assert json.loads(whole.render()) == long()
    assert whole.render() == whole.fork().render()
    assert b"\n" not in whole.render(), "it fits in a line of JSON lines"


def test_rendering_does_not_encode_history_again(conversation, monkeypatch):
    whole = conversation.extend(says(100))
    monkeypatch.setattr("avm.memory.fragment._encode", None)

    assert json.loads(whole.render()) == says(100)


def test_large_texts_are_kept_once_for_all_conversations(store):
    one = Conversation.new(store).append({"role": "tool", "content": LARGE + "!"})
    two = Conversation.new(store).append({"role": "user", "content": [{"text": LARGE + "!"}]})
    read = store.put(LARGE + "!")

    assert store.statistics().blobs == {"hot": 1, "warm": 0, "cold": 0}
    assert one[0]["content"] is two[0]["content"][0]["text"] is read.raw


def test_a_message_larger_than_a_page_has_a_page_for_itself(conversation):
    wide = {"content": [{"n": n, "text": "x" * 100} for n in range(1000)]}

    whole = conversation.append(say(0)).append(wide).append(say(1))

    assert len(whole.page_digests()) == 2
    assert whole.messages() == [say(0), wide, say(1)]


def test_pages_are_sealed_before_they_grow_over_32_kib(store):
    whole = Conversation.new(store).extend(says(2000))
    sizes = [sealed.page.size for sealed in whole._chain.pages]

    assert len(sizes) >= 2
    assert all(PAGE_SIZE - 100 < size <= PAGE_SIZE for size in sizes)


# What it takes, and what the figures say.


def test_conversations_with_one_prompt_share_it(store):
    prompt = "You are an agent. " * 1000
    held = [Conversation.new(store, prompt, TOOLS).extend(says(3, str(n))) for n in range(50)]

    statistics = store.statistics()

    assert statistics.conversations == 50
    assert statistics.held_bytes == sum(conversation.size for conversation in held)
    assert statistics.unique_bytes < statistics.held_bytes / 20
    assert statistics.dedup_held == 1 - statistics.unique_bytes / statistics.held_bytes


def test_versions_of_one_conversation_are_held_once_and_forks_each(store):
    """Old versions are no second copy in any program: dedup must not be claimed for them."""
    versions = [Conversation.new(store, "prompt")]
    for message in says(50):
        versions.append(versions[-1].append(message))
    whole = versions[-1]
    assert store.statistics().held_bytes == whole.size

    forks = [whole.fork() for _ in range(9)]

    assert store.statistics().held_bytes == 10 * whole.size
    assert store.statistics().conversations == 10
    del forks
    assert store.statistics().held_bytes == whole.size


def test_ways_that_parted_are_both_held(store):
    trunk = Conversation.new(store).extend(says(10))
    ways = [trunk.append(say(n, "way")) for n in range(3)]

    assert store.statistics().held_bytes == sum(way.size for way in ways)


def test_equal_pages_of_different_agents_are_kept_once(store):
    held = [Conversation.new(store, f"agent {n}").extend(says(2000)) for n in range(5)]

    assert store.statistics().pages["hot"] == len(held[0].page_digests()) >= 2


def test_a_conversation_gives_everything_back(store):
    conversation = Conversation.new(store, "p" * 5000, TOOLS).extend(long())
    forks = [conversation.fork().append(say(n)) for n in range(3)] + [conversation.rewind(200)]
    conversation.cool()
    assert store.statistics().account_bytes > 10_000

    del conversation, forks

    statistics = store.statistics()
    assert statistics.account_bytes == statistics.held_bytes == statistics.unique_bytes == 0
    assert statistics.stored_bytes == statistics.conversations == 0
    assert statistics.blobs == statistics.pages == statistics.tails == {"hot": 0, "warm": 0, "cold": 0}


@pytest.fixture
def collect():
    """Collects what was made since the test began: quick, however large the rest is."""
    gc.freeze()
    yield gc.collect
    gc.unfreeze()


@pytest.mark.parametrize("is_warm", [False, True])
def test_a_conversation_in_a_dead_cycle_gives_everything_back(collect, is_warm):
    """The collector tells of a death only if the weak reference itself is held from outside."""
    store = Store()
    cycle = [Conversation.new(store, "p" * 5000).extend(long())]
    if is_warm:
        cycle[0].cool()
    cycle.append(cycle)
    del cycle
    collect()

    assert store.statistics().account_bytes == 0
    assert store.statistics().conversations == 0


def test_a_message_larger_than_its_share_is_refused():
    store = Store(limit=400_000)
    conversation = Conversation.new(store).extend(says(3))

    with pytest.raises(TooLargeError):
        conversation.append({"content": os.urandom(80_000).hex()})
    with pytest.raises(TooLargeError):
        conversation.append({"content": list(range(40_000))})

    assert conversation.append(say(3)).messages() == says(4)


def test_a_full_store_leaves_the_conversation_as_it_was():
    store = Store(limit=150_000)
    held = []
    conversation = Conversation.new(store, "Be kind.").extend(says(10))
    with pytest.raises(StoreFullError):
        while True:
            held.append(store.put(os.urandom(5000)))
    with pytest.raises(StoreFullError):
        while True:
            conversation = conversation.append({"content": os.urandom(1000).hex()})

    assert conversation[:10] == says(10)
    before = conversation.messages()
    held.clear()
    assert conversation.append(say(1)).messages() == [*before, say(1)]


# Its pieces.


def test_pieces_are_the_pages_and_the_open_tail(store):
    conversation = Conversation.new(store, "Be kind.", TOOLS).extend(long())

    pieces = list(conversation.pieces())

    assert tuple(Digest(piece.key) for piece in pieces[:-1]) == conversation.page_digests()
    assert len(pieces) > 3
    assert pieces[-1].key is None
    assert [message for piece in pieces for message in piece.messages()] == long()
    assert [piece.first for piece in pieces] == [sum(p.count for p in pieces[:n]) for n in range(len(pieces))]
    assert conversation.prefix_size + sum(piece.size for piece in pieces) == conversation.size
    assert [piece.end for piece in pieces] == [len(piece.run()) for piece in pieces]


def test_an_empty_conversation_has_no_pieces(conversation):
    assert list(conversation.pieces()) == []


def test_what_a_longer_version_adds_to_a_tail_can_be_read_alone(conversation):
    older = conversation.append(say(0)).append(say(1, LARGE))
    newer = older.append(say(2)).append(say(3, LARGE))

    (old,), (new,) = older.pieces(), newer.pieces()

    assert old.holder is new.holder
    assert old.messages() == [say(0), say(1, LARGE)]
    assert new.messages(old.end, len(old.blobs)) == [say(2), say(3, LARGE)]
    assert new.messages(new.end, len(new.blobs)) == []


def test_looking_at_pieces_reads_nothing(store):
    conversation = Conversation.new(store).extend(long())
    conversation.cool()

    assert sum(piece.count for piece in conversation.pieces()) == len(conversation)

    assert store.statistics().pages["hot"] == 0
