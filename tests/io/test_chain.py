"""Chains: equal prefixes of prompts have equal keys, and no others do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.io.chain import chain_of
from avm.io.request import Message, ModelRequest, encode_fragment
from avm.memory import Conversation, Store

TOOLS = b'[{"name":"f"}]'
LARGE = "a large document; " * 500


def say(number: int, text: str = "word " * 80) -> Message:
    return {"role": "user" if number % 2 == 0 else "assistant", "content": f"{number} {text}"}


def talk(count: int, store: Store | None = None) -> Conversation:
    """Make a conversation; about 80 messages are a page."""
    return Conversation(store).extend(say(number) for number in range(count))


def asks(conversation: Conversation | None = None, *messages: Message, **fields: Any) -> ModelRequest:
    return ModelRequest("m", conversation, tuple(encode_fragment(message) for message in messages), **fields)


def test_a_prompt_begins_with_tools_and_system_prompt() -> None:
    prompt = chain_of(asks(None, say(0), system="s" * 340, tools=TOOLS))

    assert prompt.messages == (0,)
    assert [link.tokens for link in prompt.chain] == [int((340 + len(TOOLS)) / 3.5)]


@pytest.mark.parametrize("tools", [b"", b"[]"])
def test_what_is_not_there_has_no_link(tools: bytes) -> None:
    prompt = chain_of(asks(talk(3), tools=tools))

    assert (prompt.chain, prompt.messages) == ((), ())


@pytest.mark.parametrize(
    "change", [{"system": "b"}, {"tools": b"[{}]"}, {"model": "n"}, {"system": TOOLS.decode()}]
)
def test_another_model_tool_or_system_prompt_is_another_prefix(change: dict[str, Any]) -> None:
    fields = {"model": "m", "system": "a", "tools": TOOLS}

    (one,), (other,) = (chain_of(ModelRequest(**found)).chain for found in (fields, {**fields, **change}))

    assert one.key != other.key


def test_what_a_reply_may_be_is_no_part_of_the_prefix() -> None:
    one, other = asks(system="a"), asks(system="a", max_tokens=9, agent="/b", sample=3, params=b'{"top_k":1}')

    assert chain_of(one) == chain_of(other)


def test_each_sealed_page_is_a_link() -> None:
    conversation = talk(250)
    pieces = list(conversation.pieces())

    prompt = chain_of(asks(conversation, system="s" * 700))

    sizes = itertools.accumulate((piece.size for piece in pieces[:-1]), initial=700)
    assert prompt.messages == (0, *[piece.first for piece in pieces[1:]])
    assert [link.tokens for link in prompt.chain] == [int(size / 3.5) for size in sizes]
    assert len(set(prompt.chain)) == len(pieces) > 3


def test_conversations_that_part_have_the_links_before_in_common() -> None:
    """Whichever store they are in."""
    one, other = talk(200, Store()), talk(200, Store())
    branch = other.rewind(50).extend(say(number, "other " * 80) for number in range(150))

    chains = [chain_of(asks(found, system="s")).chain for found in (one, branch)]

    pages = [found.page_digests() for found in (one, branch)]
    common = sum(a == b for a, b in zip(*pages, strict=False))
    assert 0 < common < len(pages[1])
    assert chains[0][: 1 + common] == chains[1][: 1 + common]
    assert not set(chains[0][1 + common :]) & set(chains[1][1 + common :])


def test_the_conversation_is_a_link_if_messages_follow_it() -> None:
    conversation = talk(4)
    one, other = (chain_of(asks(conversation, say(number))) for number in (4, 6))

    assert one == other
    assert one.messages == (4,)
    assert one.chain[0].tokens == int(conversation.size / 3.5)


def test_an_empty_conversation_is_no_link() -> None:
    assert chain_of(asks(Conversation(), say(0))).chain == ()


def test_a_large_body_in_the_tail_ends_a_link() -> None:
    """Agents that got one document and then part share it."""
    trunk = Conversation(Store()).extend([say(0), say(1), say(2, LARGE)])
    branches = [trunk.append(say(number)) for number in (3, 5)]

    prompts = [chain_of(asks(branch)) for branch in branches]

    assert prompts[0] == prompts[1]
    assert prompts[0].messages == (3,)
    assert prompts[0].chain[0].tokens == int(trunk.size / 3.5)


def test_another_body_or_another_message_before_it_is_another_prefix() -> None:
    chains = [
        chain_of(asks(Conversation(Store()).extend(messages))).chain
        for messages in (
            [say(0), say(2, LARGE)],
            [say(0), say(2, LARGE + "!")],
            [say(4), say(2, LARGE)],
            [say(0), {**say(2, LARGE), "role": "assistant"}],
        )
    ]

    assert len({link.key for chain in chains for link in chain}) == 4


def test_each_message_with_bodies_is_one_link_however_many_it_has() -> None:
    calls = [{"id": "c", "name": "f", "arguments": f"{number}{LARGE}"} for number in range(3)]
    messages: list[Message] = [
        say(0, LARGE),
        say(1),
        {"role": "assistant", "content": LARGE, "tool_calls": calls},
        say(2),
        say(3, LARGE),
    ]
    conversation = Conversation(Store()).extend(messages)

    prompt = chain_of(asks(conversation, say(4)))

    assert prompt.messages == (1, 3, 5)
    assert [link.tokens for link in prompt.chain] == [
        int(conversation.rewind(5 - count).size / 3.5) for count in prompt.messages
    ]


def test_the_end_of_the_conversation_is_one_link_also_if_it_is_a_large_body() -> None:
    assert chain_of(asks(talk(2).append(say(2, LARGE)), say(3))).messages == (3,)


def test_nothing_is_read_for_it_if_the_tail_has_no_bodies() -> None:
    store = Store()
    conversation = talk(200, store)
    conversation.cool()

    chain_of(asks(conversation, say(0), system="s"))

    assert store.statistics().pages["hot"] == 0


@pytest.mark.slow
@given(
    lists=st.tuples(*[st.lists(st.integers(0, 3), max_size=12)] * 2),
    system=st.sampled_from(["", "s"]),
)
def test_links_of_one_key_cover_equal_messages(lists: tuple[list[int], list[int]], system: str) -> None:
    """And a prefix of a conversation's links are links of whatever goes on from where it ends."""
    texts = ["short", LARGE, LARGE + "2", "word " * 700]
    requests = [
        asks(Conversation(Store()).extend([say(0, texts[n]) for n in numbers]), say(1), system=system)
        for numbers in lists
    ]
    prompts = [chain_of(request) for request in requests]

    for prompt in prompts:
        tokens = [link.tokens for link in prompt.chain]
        assert tokens == sorted(tokens)
        assert list(prompt.messages) == sorted(set(prompt.messages))
    covered = [dict(zip([link.key for link in p.chain], p.messages, strict=True)) for p in prompts]
    for key in covered[0].keys() & covered[1].keys():
        count = covered[0][key]
        assert count == covered[1][key]
        assert lists[0][:count] == lists[1][:count]
    if lists[0] == lists[1]:
        assert prompts[0] == prompts[1]
