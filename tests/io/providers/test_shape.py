"""Neutral messages to the Messages API and back."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.io import encode_fragment
from avm.io.providers.shape import CLOSING, Turns, from_reply, to_input, to_turns


def test_plain_turns_are_text_blocks() -> None:
    turns = to_turns([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])

    assert turns == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
    ]


def test_all_results_of_a_step_and_what_the_user_says_next_are_one_message() -> None:
    calls = [{"id": n, "name": "f", "arguments": '{"x":1}'} for n in ("c1", "c2")]
    turns = to_turns(
        [
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "content": "1", "tool_call_id": "c1", "name": "f"},
            {"role": "tool", "content": "bad", "tool_call_id": "c2", "name": "f", "is_error": True},
            {"role": "user", "content": "go on"},
        ]
    )

    assert [turn["role"] for turn in turns] == ["assistant", "user"]
    assert turns[0]["content"][1] == {"type": "tool_use", "id": "c2", "name": "f", "input": {"x": 1}}
    assert turns[1]["content"] == [
        {"type": "tool_result", "tool_use_id": "c1", "content": "1"},
        {"type": "tool_result", "tool_use_id": "c2", "content": "bad", "is_error": True},
        {"type": "text", "text": "go on"},
    ]


def test_a_message_without_anything_in_it_is_left_out() -> None:
    assert to_turns([{"role": "user", "content": "a"}, {"role": "assistant", "content": " \n"}]) == [
        {"role": "user", "content": [{"type": "text", "text": "a"}]}
    ]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        ("ls -la", {"arguments": "ls -la"}),
        ("[1]", {"arguments": "[1]"}),
    ],
)
def test_arguments_that_are_no_object_are_shown_under_one_key(
    arguments: str, expected: dict[str, Any]
) -> None:
    call = {"id": "c", "name": "f", "arguments": arguments}

    (turn,) = to_turns([{"role": "assistant", "content": "", "tool_calls": [call]}])

    assert turn["content"][0]["input"] == expected


def reply(content: list[dict[str, Any]], **fields: Any) -> bytes:
    return msgspec.json.encode({"type": "message", "role": "assistant", "content": content, **fields})


def test_text_and_usage_are_read() -> None:
    body = reply(
        [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}],
        model="claude-x",
        stop_reason="end_turn",
        usage={"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": None},
    )

    completion = from_reply(body, "anthropic", "req_1")

    assert completion.message == {"role": "assistant", "content": "Hello"}
    assert completion.usage is not None
    assert (completion.usage.input_tokens, completion.usage.cache_read_tokens) == (5, 0)
    assert (completion.model, completion.request_id) == ("claude-x", "req_1")


def test_arguments_are_kept_as_the_model_wrote_them() -> None:
    body = b'{"content":[{"type":"tool_use","id":"t1","name":"f","input":{"b": 1.0,  "a":[ ]}}]}'

    (call,) = from_reply(body, "anthropic", "").tool_calls

    assert call.arguments == '{"b": 1.0,  "a":[ ]}'


def test_blocks_that_are_neither_text_nor_calls_go_back_as_they_came() -> None:
    blocks = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "Yes"}]

    message = from_reply(reply(blocks), "anthropic", "").message

    assert message["content"] == "Yes"
    assert to_turns([message]) == [{"role": "assistant", "content": blocks}]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"content": 3}', b'{"content":[{"type":1}]}'])
def test_what_is_no_reply_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        from_reply(body, "anthropic", "")


def test_text_with_citations_goes_back_as_it_came() -> None:
    blocks = [{"type": "text", "text": "so", "citations": [{"url": "a"}]}]

    message = from_reply(reply(blocks), "anthropic", "").message

    assert message["content"] == "so"
    assert to_turns([message]) == [{"role": "assistant", "content": blocks}]


def test_text_that_could_have_citations_and_has_none_is_text() -> None:
    body = reply([{"type": "text", "text": "so", "citations": None}])

    assert from_reply(body, "anthropic", "").message == {"role": "assistant", "content": "so"}


@pytest.mark.parametrize("arguments", ["[" * 100_000, '{"a": "\ud800"}', '{"a": 1e999}'])
def test_arguments_nobody_can_read_are_shown_as_they_are(arguments: str) -> None:
    assert to_input(arguments) == {"arguments": arguments}


def test_a_reply_that_nests_without_end_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        from_reply(b'{"content":[{"type":"x","a":' + b"[" * 100_000, "anthropic", "")


def test_a_reply_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        from_reply(b'{"content":[{"type":"tool_use","input":"\xff"}]}', "anthropic", "")


# Encoded turns.


def closed(turns: Turns, count: int | None = None) -> Any:
    """Decode the turns of the first `count` messages."""
    end = turns.ends[-1 if count is None else count - 1]
    return msgspec.json.decode(b"[" + turns.text[:end] + (CLOSING if end else b"") + b"]")


TALK = [
    {"role": "user", "content": " "},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "name": "f", "arguments": "{}"}]},
    {"role": "tool", "content": "1", "tool_call_id": "c"},
    {"role": "user", "content": "go on"},
]


def test_turns_are_what_the_messages_are_up_to_each_of_them() -> None:
    turns = Turns(TALK)

    assert len(turns) == 5
    assert turns.begins == "user"
    assert turns.roles == ["", "user", "assistant", "user", "user"]
    for count in range(1, 6):
        assert closed(turns, count) == to_turns(TALK[:count])


def test_turns_grow_at_their_end() -> None:
    turns = Turns(TALK[:3])
    before = bytes(turns.text)

    turns.extend(TALK[3:])

    assert turns.text.startswith(before)
    assert (turns.text, turns.ends, turns.marks) == (Turns(TALK).text, Turns(TALK).ends, Turns(TALK).marks)


def test_turns_are_as_they_were_if_a_message_is_none() -> None:
    turns = Turns(TALK[:2])

    with pytest.raises(KeyError):
        turns.extend([TALK[2], {"content": "of nobody"}])

    assert closed(turns) == to_turns(TALK[:2])


def test_breakpoints_go_before_the_last_brace_of_a_block_that_takes_them() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    blocks = [{"type": "text", "text": "a"}, thinking, {"type": "text", "text": " "}]
    turns = Turns([TALK[0], {"role": "assistant", "content": "a", "blocks": blocks}])

    assert turns.marks == [0, turns.text.index(b"}")]


def test_breakpoints_of_ones_own_are_counted_and_left_alone() -> None:
    block = {"type": "text", "text": '"cache_control":', "cache_control": {"type": "ephemeral"}}
    turns = Turns([{"role": "assistant", "content": "", "blocks": [block]}])

    assert (turns.own, turns.marks) == (1, [0])


@given(st.text(), st.sampled_from(["user", "assistant"]))
def test_a_plain_message_is_the_same_turn_whether_it_is_decoded_or_not(text: str, role: str) -> None:
    message = {"role": role, "content": text}

    quick, whole = Turns.of_fragment(encode_fragment(message)), Turns((message,))

    for name in ("text", "begins", "ends", "roles", "marks", "own"):
        assert getattr(quick, name) == getattr(whole, name), name
