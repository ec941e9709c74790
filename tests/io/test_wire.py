"""Bodies of requests, joined from pieces: they say what the messages say, and nothing is encoded twice."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.errors import InvalidRequest
from avm.io.providers.shape import to_turns
from avm.io.request import Hints, Message, ModelRequest, encode_fragment
from avm.io.wire import Wire
from avm.memory import Conversation, Store, read_conversations

FILES = ["tau_airline", "swe_agent_java", "mint", "intercode"]
TOOLS = b'[{"name":"f","input_schema":{"type":"object"}},{"name":"g","input_schema":{"type":"object"}}]'
EPHEMERAL = {"type": "ephemeral"}


def say(number: int, text: str = "word") -> Message:
    return {"role": "user" if number % 2 == 0 else "assistant", "content": f"{text} {number}"}


def talk(count: int, text: str = "word " * 80) -> Conversation:
    """Make a conversation; 80 words a message are a page in about 80 messages."""
    return Conversation(Store()).extend(say(number, text) for number in range(count))


def asks(conversation: Conversation | None = None, *messages: Message, **fields: Any) -> ModelRequest:
    return ModelRequest("m", conversation, tuple(encode_fragment(message) for message in messages), **fields)


def read(wire: Wire, request: ModelRequest, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(wire.body(request, **options))
    return found


def marked(turns: list[dict[str, Any]]) -> list[str]:
    """Return the text of all blocks that carry a breakpoint."""
    return [block["text"] for turn in turns for block in turn["content"] if "cache_control" in block]


# What is in a body.


def test_a_small_request_is_model_tokens_and_messages() -> None:
    body = Wire().body(asks(None, say(0), max_tokens=5))

    assert body == (
        b'{"model":"m","max_tokens":5,'
        b'"messages":[{"role":"user","content":[{"type":"text","text":"word 0"}]}]}'
    )


def test_prompt_tools_and_stream_come_before_the_messages() -> None:
    body = read(Wire(), asks(None, say(0), system='Be "kind".', tools=TOOLS), stream=True)

    assert list(body) == ["model", "max_tokens", "stream", "system", "tools", "messages"]
    assert (body["system"], body["tools"], body["stream"]) == ('Be "kind".', json.loads(TOOLS), True)


def test_members_of_the_parameters_are_members_of_the_body() -> None:
    body = read(Wire(), asks(None, say(0), params=b' { "top_k": 3, "thinking": {"type": "adaptive"} } '))

    assert (body["top_k"], body["thinking"]) == (3, {"type": "adaptive"})


@pytest.mark.parametrize("params", [b"", b"{}", b" { } "])
def test_parameters_may_be_empty(params: bytes) -> None:
    assert list(read(Wire(), asks(None, say(0), params=params))) == ["model", "max_tokens", "messages"]


@pytest.mark.parametrize(
    "params", [b"[1]", b'"a"', b'{"a":1', b"{a}", b'{"a":1}}', b'{"a":' + b"[" * 100_000]
)
def test_parameters_that_are_no_object_are_refused(params: bytes) -> None:
    with pytest.raises(InvalidRequest, match="of /a for 'm' has params that begin .* a JSON object"):
        Wire().body(asks(None, say(0), params=params, agent="/a"))


@pytest.mark.parametrize("name", ["model", "max_tokens", "messages", "system", "tools", "stream"])
@pytest.mark.parametrize("params", ['{"%s":1}', '{"top_k":3, "%s" : {"a":1}}'])
def test_parameters_may_not_say_again_what_the_request_says(params: str, name: str) -> None:
    """Of two members of one name a server takes the one or the other."""
    request = asks(None, say(0), params=(params % name).encode(), agent="/a")

    for _ in range(2):
        with pytest.raises(InvalidRequest) as caught:
            Wire().body(request)
        assert str(caught.value) == (
            f"the request of /a for 'm' has params with the member {name!r}, which its body has from the request "
            "itself; leave it out of params=."
        )
        assert caught.value.model == "m"


def test_a_member_that_is_written_with_an_escape_is_found_too() -> None:
    with pytest.raises(InvalidRequest, match="the member 'model'"):
        Wire().body(asks(None, say(0), params=b'{"\\u006dodel":"other"}'))


def test_members_within_the_parameters_have_any_name() -> None:
    body = read(Wire(), asks(None, say(0), params=b'{"metadata":{"model":"x","stream":1}}'))

    assert body["metadata"] == {"model": "x", "stream": 1}


@pytest.mark.parametrize("system, tools", [("", b""), (" \n", b"[]")])
def test_an_empty_prompt_and_no_tools_are_left_out(system: str, tools: bytes) -> None:
    body = read(Wire(), asks(None, say(0), system=system, tools=tools, hints=Hints(system=True)))

    assert list(body) == ["model", "max_tokens", "messages"]


def test_a_request_without_messages_has_an_empty_list() -> None:
    assert read(Wire(), asks(talk(0)))["messages"] == []


def test_the_slot_of_a_local_server_is_sent() -> None:
    assert read(Wire(), asks(None, say(0), hints=Hints(slot=0)))["id_slot"] == 0


def test_half_a_surrogate_pair_is_escaped_wherever_it_is() -> None:
    call = {"id": "c", "name": "f", "arguments": '"\ud800'}
    messages: list[Message] = [
        {"role": "user", "content": "\ud83d"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]

    body = read(Wire(), asks(Conversation().extend(messages), *messages, system="\udc00"))

    assert body["system"] == "\udc00"
    assert body["messages"] == to_turns(messages * 2)
    assert body["messages"][1]["content"][0]["input"] == {"arguments": '"\ud800'}


# The history.


def test_what_follows_a_page_in_the_same_role_is_one_turn_with_it() -> None:
    results = [{"role": "tool", "content": "x" * 4000, "tool_call_id": str(n)} for n in range(20)]
    conversation = Conversation(Store()).extend([say(1), *results])
    request = asks(conversation, {"role": "user", "content": "go on"})

    turns = read(Wire(), request)["messages"]

    assert len(conversation.page_digests()) == 2
    assert [turn["role"] for turn in turns] == ["assistant", "user"]
    assert turns == to_turns(request.history())


def test_pieces_without_anything_in_them_are_left_out() -> None:
    nothing = {"role": "assistant", "content": " ", "note": "n" * 4000}
    conversation = Conversation(Store()).extend([say(0), *[nothing] * 30, say(2)])
    request = asks(conversation, nothing, say(4))

    turns = read(Wire(), request)["messages"]

    assert len(conversation.page_digests()) > 2
    assert turns == to_turns(request.history())
    assert len(turns) == 1


def test_the_next_turn_of_a_long_conversation_encodes_only_what_is_new() -> None:
    wire, conversation = Wire(), talk(400)
    wire.body(asks(conversation))
    before = wire.statistics().encoded

    wire.body(asks(conversation.append(say(400)).append(say(401))))

    assert (before, wire.statistics().encoded) == (400, 402)


def test_forks_encode_their_common_pages_once() -> None:
    wire, store = Wire(), Store()
    trunk = Conversation(store).extend(say(number, "word " * 80) for number in range(200))
    in_pages = 200 - list(trunk.pieces())[-1].count
    for number in range(10):
        wire.body(asks(trunk.fork().append(say(number, "branch"))))

    # What is in the open tail is each branch's own.
    assert wire.statistics().encoded == in_pages + 10 * (201 - in_pages)


def test_an_older_version_uses_what_a_newer_one_encoded() -> None:
    wire, conversation = Wire(), talk(20)
    older = [conversation]
    for number in range(20, 30):
        older.append(older[-1].append(say(number)))
    newest = asks(older[-1])
    wire.body(newest)

    turns = [read(wire, asks(version))["messages"] for version in older]

    assert turns == [to_turns(version) for version in older]
    assert wire.statistics().encoded == 30


def test_a_message_that_is_none_spoils_no_other_version() -> None:
    wire, good = Wire(), talk(3)
    bad = good.append({"role": "user", "content": "fine"}).append({"role": "user"})

    for _ in range(2):
        with pytest.raises(KeyError):
            wire.body(asks(bad))

    assert read(wire, asks(bad.rewind(1)))["messages"] == to_turns(bad.rewind(1))


def test_a_conversation_grows_after_a_request_of_it_was_refused() -> None:
    wire, conversation = Wire(), talk(3)
    with pytest.raises(InvalidRequest) as refused:
        wire.body(asks(conversation, params=b"x"))

    grown = conversation.append(say(3))

    assert read(wire, asks(grown))["messages"] == to_turns(grown)
    del refused


def test_large_messages_outside_of_the_conversation_are_encoded_once() -> None:
    wire = Wire()
    for number in range(5):
        wire.body(asks(None, say(0, "long " * 1000), say(number)))

    assert wire.statistics().encoded == 1 + 5


def test_what_was_compressed_stays_so_if_its_turns_are_kept() -> None:
    store = Store()
    wire, conversation = Wire(), Conversation(store).extend(say(n, "word " * 80) for n in range(300))
    wire.body(asks(conversation))
    conversation.cool()

    body = wire.body(asks(conversation))

    assert store.statistics().pages["hot"] == 0
    assert json.loads(body)["messages"] == to_turns(conversation)


# What is kept.


def test_no_more_is_kept_than_it_was_told() -> None:
    wire = Wire(most=100_000)
    for number in range(20):
        request = asks(talk(100, f"{number} " + "word " * 80))
        assert read(wire, request)["messages"] == to_turns(request.history())
        assert wire.statistics().bytes <= 100_000


def test_a_piece_larger_than_all_that_may_be_kept_is_still_sent() -> None:
    wire = Wire(most=10)
    request = asks(talk(5), system="Be kind.")

    for _ in range(2):
        assert read(wire, request)["messages"] == to_turns(request.history())
    assert (wire.statistics().pieces, wire.statistics().bytes) == (0, 0)


def test_the_turns_of_a_tail_go_with_its_conversation() -> None:
    wire, conversation = Wire(), talk(5)
    wire.body(asks(conversation))
    assert wire.statistics().pieces == 1

    del conversation
    gc.collect()

    assert (wire.statistics().pieces, wire.statistics().bytes) == (0, 0)


# Breakpoints.


@pytest.mark.parametrize("hour, control", [(False, EPHEMERAL), (True, {**EPHEMERAL, "ttl": "1h"})])
def test_a_system_prompt_worth_caching_carries_a_breakpoint(hour: bool, control: dict[str, str]) -> None:
    request = asks(None, say(0), system="Be kind.", tools=TOOLS, hints=Hints(system=True, hour=hour))

    body = read(Wire(), request)

    assert body["system"] == [{"type": "text", "text": "Be kind.", "cache_control": control}]
    assert body["tools"] == json.loads(TOOLS)


@pytest.mark.parametrize("tools", [TOOLS, TOOLS[:-1] + b" ] "])
def test_without_a_system_prompt_the_last_tool_carries_it(tools: bytes) -> None:
    body = read(Wire(), asks(None, say(0), tools=tools, hints=Hints(system=True)))

    first, last = json.loads(tools)
    assert body["tools"] == [first, {**last, "cache_control": EPHEMERAL}]


def test_a_tool_that_has_one_keeps_its_own() -> None:
    tools = b'[{"name":"f","cache_control":{"type":"ephemeral"}}]'

    assert read(Wire(), asks(None, say(0), tools=tools, hints=Hints(system=True)))["tools"] == json.loads(
        tools
    )


@pytest.mark.parametrize("tools", [b"[{}]", b'[{"name":"f"},{ } ]', b'[{"a":{}}]'])
def test_a_tool_without_members_is_marked_as_others_are(tools: bytes) -> None:
    body = read(Wire(), asks(None, say(0), tools=tools, hints=Hints(system=True)))

    *before, last = json.loads(tools)
    assert body["tools"] == [*before, {**last, "cache_control": EPHEMERAL}]


@pytest.mark.parametrize(
    "control, ours",
    [
        (EPHEMERAL, EPHEMERAL),
        ({**EPHEMERAL, "ttl": "5m"}, EPHEMERAL),
        ({**EPHEMERAL, "ttl": "1h"}, {**EPHEMERAL, "ttl": "1h"}),
    ],
)
def test_after_a_tool_that_is_cached_for_five_minutes_nothing_is_for_an_hour(
    control: dict[str, str], ours: dict[str, str]
) -> None:
    """The API refuses an hour behind five minutes, and tools come first."""
    tools = json.dumps([{"name": "f", "cache_control": control}, {"name": "g"}]).encode()
    hints = Hints(system=True, marks=(1,), hour=True)

    body = read(Wire(), asks(None, say(0), system="Be kind.", tools=tools, hints=hints))

    assert body["tools"] == json.loads(tools)
    assert body["system"][0]["cache_control"] == ours
    assert body["messages"][0]["content"][0]["cache_control"] == ours


def test_a_tool_that_only_speaks_of_breakpoints_leaves_the_hour() -> None:
    tools = b'[{"name":"f","input_schema":{"properties":{"cache_control":{"type":"string"}}}}]'

    body = read(Wire(), asks(None, say(0), system="s", tools=tools, hints=Hints(system=True, hour=True)))

    assert body["system"][0]["cache_control"] == {**EPHEMERAL, "ttl": "1h"}


def test_tools_that_are_no_array_of_objects_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="has tools that begin '\"f\"'; tools= takes"):
        Wire().body(asks(None, say(0), tools=b'"f"', hints=Hints(system=True)))


def test_marks_are_breakpoints_on_the_last_block_before_them() -> None:
    conversation = talk(200)
    page = next(conversation.pieces()).count
    request = asks(conversation, say(200), say(201), hints=Hints(marks=(page, 200, 202)))

    turns = read(Wire(), request)["messages"]

    texts = [block["text"] for turn in to_turns(request.history()) for block in turn["content"]]
    assert marked(turns) == [texts[page - 1], texts[199], texts[201]]


def test_a_mark_inside_a_piece_is_where_it_says() -> None:
    conversation = talk(6, "word")

    for mark in range(1, 7):
        turns = read(Wire(), asks(conversation, hints=Hints(marks=(mark,))))["messages"]
        assert marked(turns) == [f"word {mark - 1}"]


def test_a_mark_behind_the_end_is_at_the_end_and_one_before_the_beginning_is_none() -> None:
    request = asks(talk(2, "word"), hints=Hints(marks=(0, 9)))

    assert marked(read(Wire(), request)["messages"]) == ["word 1"]


def test_marks_that_come_to_one_block_are_one_breakpoint() -> None:
    request = asks(talk(2, "word"), {"role": "user", "content": ""}, hints=Hints(marks=(2, 3)))

    body = Wire().body(request)

    assert body.count(b"cache_control") == 1


def test_thinking_takes_no_breakpoint_so_the_block_before_does() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    request = asks(
        talk(1, "word"),
        {"role": "assistant", "content": "", "blocks": [thinking]},
        hints=Hints(marks=(2,)),
    )

    turns = read(Wire(), request)["messages"]

    assert marked(turns) == ["word 0"]
    assert turns[1]["content"] == [thinking]


def test_a_request_has_four_breakpoints_at_most_and_the_last_ones_win() -> None:
    hints = Hints(system=True, marks=(1, 2, 3, 4, 5))

    body = read(Wire(), asks(talk(5, "word"), system="Be kind.", hints=hints))

    assert marked([{"content": body["system"]}]) == ["Be kind."]
    assert marked(body["messages"]) == ["word 2", "word 3", "word 4"]


def test_breakpoints_that_messages_and_tools_brought_along_count() -> None:
    block = {"type": "text", "text": "mine", "cache_control": EPHEMERAL}
    tools = b'[{"name":"f","cache_control":{"type":"ephemeral"}}]'
    conversation = talk(3, "word").append({"role": "assistant", "content": "mine", "blocks": [block]})

    hints = Hints(system=True, marks=(1, 2, 3, 4))
    body = Wire().body(asks(conversation, tools=tools, hints=hints))

    assert body.count(b'"cache_control"') == 4
    assert marked(json.loads(body)["messages"]) == ["word 1", "word 2", "mine"]


def test_text_that_speaks_of_breakpoints_is_none() -> None:
    message = {"role": "user", "content": '{"cache_control":1}'}

    turns = read(Wire(), asks(None, *[message] * 4, hints=Hints(marks=(1, 2, 3, 4))))["messages"]

    assert len(marked(turns)) == 4


# Laws.

TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "\n",
            "a",
            "\ud800",
            '"\\',
            "\u2028",
            "\x01",
            ",\t",
            "é" * 1100,
            "body " * 900,
            "word " * 700,
        ]
    ),
    st.text(max_size=8),
)
ARGUMENTS = st.one_of(
    st.sampled_from(['{"a": 1.50, "b": [ ]}', "ls -la", "[1]", "", '{"a":' + '"x' * 3000]), TEXTS
)
CALLS = st.lists(
    st.builds(lambda name, text: {"id": "c", "name": name, "arguments": text}, TEXTS, ARGUMENTS), max_size=2
)
BLOCKS = st.lists(
    st.one_of(
        st.builds(lambda text: {"type": "thinking", "thinking": text, "signature": "s"}, TEXTS),
        st.builds(lambda text: {"type": "text", "text": text}, TEXTS),
        st.just({"type": "server_tool_use", "id": "s", "name": "search", "input": {"q": [1, None, 2.5]}}),
    ),
    max_size=3,
)
MESSAGES = st.one_of(
    st.builds(
        lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "assistant"]), TEXTS
    ),
    st.builds(lambda text, calls: {"role": "assistant", "content": text, "tool_calls": calls}, TEXTS, CALLS),
    st.builds(lambda text, blocks: {"role": "assistant", "content": text, "blocks": blocks}, TEXTS, BLOCKS),
    st.builds(
        lambda text, failed: {"role": "tool", "content": text, "tool_call_id": "c", "is_error": failed},
        TEXTS,
        st.booleans(),
    ),
)
STEPS = st.lists(
    st.one_of(
        st.lists(MESSAGES, min_size=1, max_size=6),
        st.tuples(st.lists(MESSAGES, min_size=1, max_size=3), st.integers(5, 30)).map(lambda p: p[0] * p[1]),
        st.integers(0, 3),
        st.just("fork"),
        st.just("cool"),
    ),
    max_size=8,
)


@pytest.mark.slow
@given(steps=STEPS, most=st.sampled_from([0, 50_000, 16 << 20]), after=st.lists(MESSAGES, max_size=2))
def test_a_body_says_what_the_history_says(steps: list[Any], most: int, after: list[Message]) -> None:
    """Whatever was asked of the wire before, and however the conversation came to be."""
    wire, conversation = Wire(most), Conversation(Store())
    versions = [conversation]
    for step in steps:
        if step == "fork":
            conversation = versions[len(versions) // 2].fork()
        elif step == "cool":
            conversation.cool()
        elif isinstance(step, int):
            conversation = conversation.rewind(min(step, len(conversation)))
        else:
            conversation = conversation.extend(step)
        versions.append(conversation)
        for version in (conversation, versions[len(versions) // 2]):
            request = asks(version, *after)
            assert read(wire, request)["messages"] == to_turns(request.history())
        assert wire.statistics().bytes <= most


@pytest.mark.slow
@given(
    messages=st.lists(MESSAGES, max_size=8),
    after=st.lists(MESSAGES, max_size=3),
    marks=st.lists(st.integers(0, 12), max_size=6).map(lambda found: tuple(sorted(found))),
    system=st.sampled_from(["", "s"]),
    tools=st.sampled_from([b"", TOOLS]),
)
def test_breakpoints_change_nothing_else(
    messages: list[Message], after: list[Message], marks: tuple[int, ...], system: str, tools: bytes
) -> None:
    conversation = Conversation(Store()).extend(messages)
    request = asks(conversation, *after, system=system, tools=tools, hints=Hints(system=True, marks=marks))

    body = read(Wire(), request)

    controls = 0
    for block in (
        *(body.get("system") or ()),
        *(body.get("tools") or ()),
        *[block for turn in body["messages"] for block in turn["content"]],
    ):
        if block.pop("cache_control", None) is not None:
            controls += 1
            assert block.get("type") != "thinking"
            assert block.get("text", "x").strip()
    assert controls <= 4
    assert body["messages"] == to_turns(request.history())


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_bodies_of_recorded_conversations_say_what_they_say(data_dir: Path, name: str) -> None:
    """At every few messages, as they grow, and at the page borders."""
    wire, store = Wire(), Store()
    for record in read_conversations(data_dir / f"{name}.jsonl.zst"):
        conversation = Conversation.new(store, record["system"], record["tools"])
        step = max(len(record["messages"]) // 3, 1)
        for begin in range(0, len(record["messages"]), step):
            pages = len(conversation.page_digests())
            conversation = conversation.extend(record["messages"][begin : begin + step])
            if pages != len(conversation.page_digests()):
                cut = conversation.rewind(len(conversation) - list(conversation.pieces())[-1].first)
                assert read(wire, asks(cut))["messages"] == to_turns(cut)
            assert read(wire, asks(conversation))["messages"] == to_turns(conversation)
