"""A reply that comes as events is what it would have been in one piece."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.errors import Overloaded, ProviderConnection, ProviderFailed
from avm.io.limits import Allowance, RateLimits
from avm.io.providers.accumulator import Accumulator
from avm.io.providers.provider import Delta, Started, StreamEvent
from avm.io.providers.shape import from_reply
from avm.io.request import Completion

Event = dict[str, Any]

END = {"type": "message_stop"}


def begin(**message: Any) -> Event:
    return {"type": "message_start", "message": {"model": "claude-x", "content": [], **message}}


def block(index: int, **start: Any) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": start}


def delta(index: int, kind: str, **piece: Any) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": {"type": f"{kind}_delta", **piece}}


def says(*texts: str) -> list[Event]:
    """Return the events of a reply of one text."""
    deltas = [delta(0, "text", text=text) for text in texts]
    return [begin(), block(0, type="text", text=""), *deltas, {"type": "content_block_stop", "index": 0}, END]


def feed(accumulator: Accumulator, events: list[Event]) -> Accumulator:
    for event in events:
        accumulator.feed(json.dumps(event).encode())
    return accumulator


def complete(*events: Event) -> Completion:
    return feed(Accumulator("anthropic"), [begin(), *events, END]).result()


def test_what_the_headers_say_of_limits_is_told_at_the_beginning() -> None:
    seen: list[StreamEvent] = []
    limits = RateLimits(requests=Allowance(50, 49))

    feed(Accumulator("anthropic", seen.append, request_id="req_1", limits=limits), [begin()])

    assert seen == [Started("req_1", limits)]


def test_text_is_joined() -> None:
    completion = feed(Accumulator("anthropic", request_id="req_1"), says("Hel", "lo")).result()

    assert completion.message == {"role": "assistant", "content": "Hello"}
    assert (completion.provider, completion.model, completion.request_id) == (
        "anthropic",
        "claude-x",
        "req_1",
    )
    assert (completion.stop_reason, completion.usage) == ("end_turn", None)


def test_arguments_are_the_text_as_it_was_streamed() -> None:
    """Even if it is no JSON: the tokens may have run out."""
    completion = complete(
        block(0, type="tool_use", id="t1", name="f", input={}),
        delta(0, "input_json", partial_json=""),
        delta(0, "input_json", partial_json='{"b": 1.0'),
        delta(0, "input_json", partial_json=',  "a'),
        block(1, type="tool_use", id="t2", name="g", input={}),
    )

    assert [(call.id, call.name, call.arguments) for call in completion.tool_calls] == [
        ("t1", "f", '{"b": 1.0,  "a'),
        ("t2", "g", "{}"),
    ]
    assert "blocks" not in completion.message


def test_an_input_that_comes_with_the_beginning_of_its_block_is_kept() -> None:
    """As some local servers send it."""
    (call,) = complete(block(0, type="tool_use", id="t", name="f", input={"a": 1})).tool_calls

    assert json.loads(call.arguments) == {"a": 1}


def test_thinking_is_kept_with_its_signature_and_calls_go_back_as_objects() -> None:
    completion = complete(
        block(0, type="thinking", thinking="", signature=""),
        delta(0, "thinking", thinking="h"),
        delta(0, "thinking", thinking="m"),
        delta(0, "signature", signature="sig"),
        block(1, type="redacted_thinking", data="xyz"),
        block(2, type="tool_use", id="t", name="f", input={}),
        delta(2, "input_json", partial_json='{"a": 1}'),
    )

    assert completion.message["blocks"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ]
    assert completion.tool_calls[0].arguments == '{"a": 1}'


def test_citations_are_kept() -> None:
    completion = complete(
        block(0, type="text", text="", citations=[]),
        delta(0, "text", text="so"),
        delta(0, "citations", citation={"url": "a"}),
        delta(0, "citations", citation={"url": "b"}),
    )

    assert completion.message == {
        "role": "assistant",
        "content": "so",
        "blocks": [{"type": "text", "text": "so", "citations": [{"url": "a"}, {"url": "b"}]}],
    }


def test_blocks_and_deltas_that_are_not_known_are_kept() -> None:
    completion = complete(
        block(0, type="compaction", content=None),
        delta(0, "compaction", content="all "),
        delta(0, "compaction", content="of it", tokens=3),
    )

    assert completion.message["blocks"] == [{"type": "compaction", "content": "all of it"}]


def test_events_that_are_not_known_are_passed_over() -> None:
    ping, news = {"type": "ping"}, {"type": "news", "index": 4, "what": [1]}

    assert complete(ping, block(0, type="text", text="a"), news).text == "a"


def test_later_counts_of_tokens_take_the_place_of_earlier_ones() -> None:
    completion = complete(
        begin(usage={"input_tokens": 7, "output_tokens": 1, "cache_read_input_tokens": 5}),
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 9}},
    )

    usage = completion.usage
    assert completion.stop_reason == "max_tokens"
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (7, 9, 5)


# Who looks on.


def test_who_looks_on_is_told_of_the_beginning_and_of_each_piece() -> None:
    heard: list[StreamEvent] = []
    events = [
        begin(),
        block(0, type="thinking", thinking=""),
        delta(0, "thinking", thinking="hm"),
        delta(0, "signature", signature="sig"),
        block(1, type="text", text="Yes"),
        delta(1, "text", text=""),
        delta(1, "text", text=", do."),
        block(2, type="tool_use", id="t", name="f", input={}),
        delta(2, "input_json", partial_json="{}"),
    ]

    feed(Accumulator("anthropic", heard.append, request_id="req_1"), events)

    assert heard == [
        Started("req_1"),
        Delta("hm", "thinking", 0),
        Delta("Yes", "text", 1),
        Delta(", do.", "text", 1),
        Delta("{}", "tool", 2),
    ]


# What goes wrong.


@pytest.mark.parametrize("most", range(5))
def test_a_stream_that_ends_before_the_reply_is_a_broken_line(most: int) -> None:
    accumulator = feed(Accumulator("anthropic", request_id="req_1"), says("Hel", "lo")[:most])

    assert not accumulator.is_complete
    with pytest.raises(
        ProviderConnection, match="anthropic closed the stream .*before message_stop .*req_1"
    ) as broken:
        accumulator.result()
    assert broken.value.provider == "anthropic"


def test_a_whole_reply_is_complete() -> None:
    assert feed(Accumulator("anthropic"), says("a")).is_complete


ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def test_an_error_in_the_stream_is_made_by_the_provider() -> None:
    accumulator = Accumulator("anthropic", on_error=lambda kind, said: Overloaded(f"{kind}: {said}"))

    with pytest.raises(Overloaded, match="overloaded_error: Overloaded"):
        feed(accumulator, [*says("a")[:3], ERROR])


@pytest.mark.parametrize("error", [ERROR, {"type": "error"}])
def test_an_error_in_the_stream_is_the_providers_failure_if_nobody_says_otherwise(error: Event) -> None:
    with pytest.raises(ProviderFailed, match="anthropic broke off the stream of 'claude-x'"):
        feed(Accumulator("anthropic"), [begin(), error])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"type":"content_block_start","index":0}',
        b'{"type":"content_block_start","index":0,"content_block":{"text":1}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}',
        b'{"type":"content_block_start","index":0,"content_block":' + b'{"type":"x","a":' + b"[" * 9000,
        b'{"type":"ping\xff"}',
    ],
)
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        Accumulator("anthropic").feed(data)


def test_a_delta_without_content_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError, match="block 0 has no delta"):
        feed(Accumulator("a"), [block(0, type="text"), {"type": "content_block_delta", "index": 0}])


# Laws.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
OBJECTS = st.dictionaries(st.text(max_size=4), JSON, max_size=3)
CONTENT = st.lists(
    st.one_of(
        st.text(max_size=12).map(lambda text: {"type": "text", "text": text}),
        st.lists(OBJECTS, max_size=2).map(
            lambda found: {"type": "text", "text": "cited", "citations": found}
        ),
        st.text(max_size=9).map(lambda text: {"type": "thinking", "thinking": text, "signature": f"{text}="}),
        OBJECTS.map(lambda found: {"type": "tool_use", "id": "t", "name": "f", "input": found}),
        OBJECTS.map(lambda found: {"type": "server_tool_use", "id": "s", "name": "web", "input": found}),
        OBJECTS.map(lambda found: {"type": "redacted_thinking", "data": "x", "more": found}),
    ),
    max_size=4,
)


def pieces(text: str, draw: st.DataObject) -> list[str]:
    """Cut a text anywhere, also not at all, and into pieces with nothing in them."""
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def streamed(index: int, found: dict[str, Any], draw: st.DataObject) -> list[Event]:
    """Return the events that a block comes in."""
    start = dict(found)
    events: list[Event] = []
    if "input" in found:
        start["input"] = {}
        text = json.dumps(found["input"])
        events = [delta(index, "input_json", partial_json=piece) for piece in pieces(text, draw)]
    for name, kind in (("text", "text"), ("thinking", "thinking"), ("signature", "signature")):
        if name in found:
            start[name] = ""
            events += [delta(index, kind, **{name: piece}) for piece in pieces(found[name], draw)]
    if "citations" in found:
        start["citations"] = []
        events += [delta(index, "citations", citation=citation) for citation in found["citations"]]
    return [block(index, **start), *events, {"type": "content_block_stop", "index": index}]


@pytest.mark.slow
@given(content=CONTENT, draw=st.data(), stop=st.sampled_from(["end_turn", "tool_use", "pause_turn"]))
def test_however_a_reply_is_cut_it_is_what_it_would_have_been_in_one_piece(
    content: list[dict[str, Any]], draw: st.DataObject, stop: str
) -> None:
    usage = {"input_tokens": 3, "output_tokens": 4, "cache_creation_input_tokens": 2}
    whole = {"type": "message", "model": "claude-x", "content": content, "stop_reason": stop, "usage": usage}
    heard: list[StreamEvent] = []

    accumulator = Accumulator("anthropic", draw.draw(st.sampled_from([None, heard.append])), request_id="r")
    feed(accumulator, [begin(usage={**usage, "output_tokens": 0})])
    for index, found in enumerate(content):
        feed(accumulator, streamed(index, found, draw))
    feed(
        accumulator,
        [{"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 4}}, END],
    )

    completion = accumulator.result()
    assert completion == from_reply(json.dumps(whole).encode(), "anthropic", "r")
    if heard:
        text = [event.text for event in heard if isinstance(event, Delta) and event.kind == "text"]
        assert "".join(text) == completion.text


def test_a_stream_that_says_late_what_it_begins_has_begun_with_its_first_block() -> None:
    events: list[StreamEvent] = []
    accumulator = Accumulator("p", events.append, request_id="r")
    for data in (
        b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}',
        b'{"type":"message_start","message":{"model":"m"}}',
        b'{"type":"message_stop"}',
    ):
        accumulator.feed(data)

    assert events == [Started("r"), Delta("a")]
    assert accumulator.result().text == "a"
