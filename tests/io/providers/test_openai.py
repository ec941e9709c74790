"""Chat completions against a server on loopback that answers what the test says."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from avm.errors import (
    BadOutput,
    ContextOverflow,
    InvalidRequest,
    NotAuthorized,
    ProviderConnection,
    ProviderError,
    ProviderFailed,
    ProviderTimeout,
    RateLimited,
    Refused,
    SpendLimitReached,
)
from avm.io import ModelRequest, Usage, encode_fragment
from avm.io.limits import Allowance
from avm.io.providers.chat import ChatReply, to_chat
from avm.io.providers.openai import OpenAIProvider
from avm.io.providers.provider import Delta, Price, Started, StreamEvent
from tests.io.pooled import prompt

Run = Callable[..., Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

KEY = "sk-secret-of-mine"
CALL = {"id": "c1", "name": "count", "arguments": '{ "n":  1 }'}
USAGE = {"prompt_tokens": 50, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 40}}


def reply(content: str | None = "Hello.", finish: str = "stop", **message: Any) -> dict[str, Any]:
    """The body of a reply."""
    said = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "message": said, "finish_reason": finish}
    return {"id": "r1", "model": "m-1", "choices": [choice], "usage": USAGE}


def chunks(*deltas: dict[str, Any], finish: str | None = "stop") -> list[bytes]:
    """The data of a stream's events."""
    events: list[dict[str, Any]] = [
        {"id": "r1", "model": "m-1", "choices": [{"index": 0, "delta": delta}]} for delta in deltas
    ]
    if finish is not None:
        last = {"index": 0, "delta": {}, "finish_reason": finish}
        events.append({"id": "r1", "model": "m-1", "choices": [last]})
        events.append({"id": "r1", "model": "m-1", "choices": [], "usage": USAGE})
    return [json.dumps(event).encode() for event in events]


class Server:
    """Answers each call by a handler and keeps what came."""

    def __init__(self, handler: Handler) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.paths: list[str] = []
        self._handler = handler
        self.base_url = ""

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        self.headers.append(request.headers)
        self.bodies.append(json.loads(await request.read()))
        return await self._handler(request)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Server]:
    server = Server(handler)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.take)
    runner = web.AppRunner(app, shutdown_timeout=0.0, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def says(body: Any, status: int = 200, **headers: str) -> Handler:
    """Answer with JSON, or with bytes as they are."""

    async def handler(request: web.Request) -> web.StreamResponse:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"content-type": "application/json", **{n.replace("_", "-"): v for n, v in headers.items()}}
        return web.Response(body=content, status=status, headers=fields)

    return handler


def streams(events: list[bytes], *, end: bytes = b"data: [DONE]\n\n", breaks: bool = False) -> Handler:
    """Answer with a stream of events."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for event in events:
            await response.write(b"data: " + event + b"\n\n")
        if breaks:
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(end)
        return response

    return handler


async def ask(
    handler: Handler,
    request: ModelRequest | None = None,
    *,
    events: list[StreamEvent] | None = None,
    timeout: float = 5.0,
) -> Any:
    """Make one call of a server and close everything."""
    async with serving(handler) as server:
        provider = OpenAIProvider(KEY, base_url=server.base_url, timeout=timeout)
        try:
            on_event = None if events is None else events.append
            return await provider.complete(request or prompt("Hi"), on_event=on_event)
        finally:
            await provider.close()


def test_a_reply_is_read_with_its_usage_and_names(run: Run) -> None:
    completion = run(
        ask(
            says(
                reply(),
                x_request_id="req-7",
                x_ratelimit_limit_requests="60",
                x_ratelimit_remaining_requests="59",
                x_ratelimit_reset_requests="1s",
            )
        )
    )

    assert completion.text == "Hello."
    assert (completion.stop_reason, completion.model, completion.provider) == ("end_turn", "m-1", "openai")
    assert completion.usage == Usage(10, 7, 40)
    assert completion.request_id == "req-7"
    assert completion.limits.requests == Allowance(60, 59, 1.0)


def test_a_call_is_sent_as_chat_with_the_key_in_its_header(run: Run) -> None:
    async def body() -> None:
        async with serving(says(reply())) as server:
            provider = OpenAIProvider(KEY, base_url=server.base_url)
            await provider.complete(prompt("Hi", system="Be kind.", max_tokens=9))
            await provider.close()

        assert server.paths == ["/v1/chat/completions"]
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
        assert server.bodies == [
            {
                "model": "m",
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": "Hi"},
                ],
                "max_tokens": 9,
            }
        ]

    run(body())


@pytest.mark.parametrize(
    "end, path",
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/v1", "/v1/chat/completions"),
        ("/openai/v1/", "/openai/v1/chat/completions"),
        ("/v1beta/openai", "/v1beta/openai/chat/completions"),
    ],
)
def test_the_path_follows_the_base_url_as_with_the_openai_sdk(run: Run, end: str, path: str) -> None:
    async def body() -> None:
        async with serving(says(reply())) as server:
            provider = OpenAIProvider(base_url=server.base_url + end)
            await provider.complete(prompt("Hi"))
            await provider.close()

        assert server.paths == [path]
        assert "authorization" not in server.headers[0]

    run(body())


def test_tool_calls_and_results_go_out_with_their_text_untouched() -> None:
    messages = (
        {"role": "user", "content": "Count."},
        {"role": "assistant", "content": "", "tool_calls": [CALL], "blocks": [{"type": "thinking"}]},
        {"role": "tool", "content": "1", "tool_call_id": "c1", "name": "count", "is_error": True},
        {"role": "assistant", "content": "One."},
    )
    request = ModelRequest(model="m", messages=tuple(encode_fragment(message) for message in messages))

    sent = json.loads(to_chat(request))["messages"]

    function = {"name": "count", "arguments": '{ "n":  1 }'}
    assert sent == [
        {"role": "user", "content": "Count."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "assistant", "content": "One."},
    ]


def test_tools_are_sent_in_the_servers_shape() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    theirs = {"type": "function", "function": {"name": "mine", "parameters": schema}}
    tools = [{"name": "count", "description": "Counts.", "input_schema": schema}, theirs]

    sent = json.loads(to_chat(prompt("Hi", tools=json.dumps(tools).encode())))["tools"]

    ours = {"name": "count", "description": "Counts.", "parameters": schema}
    assert sent == [{"type": "function", "function": ours}, theirs]


@pytest.mark.parametrize(
    "params, sent",
    [
        ({"temperature": 0.5, "seed": 3}, {"temperature": 0.5, "seed": 3}),
        ({"stop_sequences": ["x"]}, {"stop": ["x"]}),
        ({"tool_choice": {"type": "auto"}}, {"tool_choice": "auto"}),
        ({"tool_choice": {"type": "any"}}, {"tool_choice": "required"}),
        ({"tool_choice": "none"}, {"tool_choice": "none"}),
        (
            {"tool_choice": {"type": "tool", "name": "f"}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        ({"model": "other", "messages": []}, {}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {}),
        ({"max_tokens": 7}, {"max_tokens": 7}),
    ],
)
def test_parameters_go_through_and_those_with_another_name_are_translated(
    params: dict[str, Any], sent: dict[str, Any]
) -> None:
    found = json.loads(to_chat(prompt("Hi", params=json.dumps(params).encode())))

    usual = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4096}
    assert found == {**usual, **sent}


@pytest.mark.parametrize("known", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    "params, named",
    [
        ({"max_tokens": 5}, ""),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"max_completion_tokens": 5, "max_tokens": 6}, "max_completion_tokens"),
    ],
)
def test_the_limit_of_a_reply_has_one_name_only(params: dict[str, int], named: str, known: str) -> None:
    """Servers refuse requests that have both. The API's own name is translated, the other one was meant so."""
    found = json.loads(to_chat(prompt("Hi", params=json.dumps(params).encode()), max_tokens=known))

    assert {name: found[name] for name in found if name.startswith("max_")} == {named or known: 5}


@pytest.mark.parametrize("tools", [b"", b"[]", b" [ ] "])
def test_no_tools_are_left_out(tools: bytes) -> None:
    assert "tools" not in json.loads(to_chat(prompt("Hi", tools=tools)))


def test_the_limit_of_a_reply_has_the_name_the_server_knows() -> None:
    found = json.loads(to_chat(prompt("Hi", max_tokens=5), max_tokens="max_completion_tokens"))

    assert found["max_completion_tokens"] == 5
    assert "max_tokens" not in found


@pytest.mark.parametrize(
    "finish, reason",
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        ("eos", "eos"),
    ],
)
def test_why_a_model_stopped_is_told_in_our_words(run: Run, finish: str, reason: str) -> None:
    assert run(ask(says(reply(finish=finish)))).stop_reason == reason


def test_a_models_tool_calls_keep_the_text_of_their_arguments(run: Run) -> None:
    function = {"name": "count", "arguments": '{ "n":  1 }'}
    calls = [
        {"id": "c1", "type": "function", "function": function},
        {"type": "function", "function": function},
    ]

    # Some servers say "stop" where they should not, and give no ids.
    completion = run(ask(says(reply(None, "stop", tool_calls=calls))))

    assert completion.stop_reason == "tool_use"
    assert completion.message["tool_calls"] == [CALL, {**CALL, "id": "r1-1"}]
    assert completion.text == ""


def test_a_stream_gives_its_pieces_and_then_what_a_whole_reply_would_be(run: Run) -> None:
    events: list[StreamEvent] = []
    deltas = (
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Well"},
        {"content": "Hel"},
        {"content": "lo."},
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "count", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{ "n":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "  1 }"}}]},
    )

    completion = run(ask(streams(chunks(*deltas, finish="tool_calls")), events=events))

    assert events == [
        Started("r1"),
        Delta("Well", "thinking", 0),
        Delta("Hel", "text", 1),
        Delta("lo.", "text", 1),
        Delta('{ "n":', "tool", 2),
        Delta("  1 }", "tool", 2),
    ]
    assert completion.message == {"role": "assistant", "content": "Hello.", "tool_calls": [CALL]}
    assert (completion.stop_reason, completion.usage) == ("tool_use", Usage(10, 7, 40))


def test_a_stream_is_asked_for_with_its_usage(run: Run) -> None:
    async def body() -> None:
        async with serving(streams(chunks({"content": "x"}))) as server:
            provider = OpenAIProvider(base_url=server.base_url)
            await provider.complete(prompt("Hi"), on_event=lambda event: None)
            await provider.close()

        assert server.bodies[0]["stream"] is True
        assert server.bodies[0]["stream_options"] == {"include_usage": True}

    run(body())


def test_a_server_that_cannot_stream_is_read_whole(run: Run) -> None:
    events: list[StreamEvent] = []

    completion = run(ask(says(reply()), events=events))

    assert completion.text == "Hello."
    assert events == [Started("r1"), Delta("Hello.")]


def test_a_stream_without_its_last_mark_is_complete_once_the_model_has_stopped(run: Run) -> None:
    completion = run(ask(streams(chunks({"content": "x"}), end=b""), events=[]))

    assert (completion.text, completion.stop_reason) == ("x", "end_turn")


@pytest.mark.parametrize("breaks", [True, False])
def test_a_stream_that_ends_in_the_middle_is_a_broken_line(run: Run, breaks: bool) -> None:
    with pytest.raises(ProviderConnection):
        run(ask(streams(chunks({"content": "x"}, finish=None), end=b"", breaks=breaks), events=[]))


def test_an_error_within_a_stream_is_the_calls_error(run: Run) -> None:
    event = json.dumps({"error": {"message": "It broke.", "type": "server_error"}}).encode()

    with pytest.raises(ProviderFailed, match="It broke"):
        run(ask(streams([*chunks({"content": "x"}, finish=None), event]), events=[]))


@pytest.mark.parametrize("body", [reply(None, "content_filter"), reply(None, refusal="I cannot do that.")])
def test_a_refusal_is_an_error(run: Run, body: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="refused to answer"):
        run(ask(says(body)))


@pytest.mark.parametrize(
    "status, code, kind",
    [
        (400, "context_length_exceeded", ContextOverflow),
        (400, "invalid_value", InvalidRequest),
        (401, "invalid_api_key", NotAuthorized),
        (404, "model_not_found", InvalidRequest),
        (429, "rate_limit_exceeded", RateLimited),
        (429, "insufficient_quota", SpendLimitReached),
        (500, None, ProviderFailed),
    ],
)
def test_a_failure_has_its_class_and_the_servers_words_without_the_key(
    run: Run, status: int, code: str | None, kind: type[ProviderError]
) -> None:
    error = {"message": f"No, not with {KEY}.", "type": "invalid_request_error", "code": code}

    with pytest.raises(kind) as caught:
        run(ask(says({"error": error}, status, retry_after="7", x_request_id="req-9")))

    assert type(caught.value) is kind
    assert "No, not with [key]" in str(caught.value)
    assert (caught.value.provider, caught.value.model, caught.value.request_id) == ("openai", "m", "req-9")
    assert KEY not in "".join(traceback.format_exception(caught.value))
    if isinstance(caught.value, RateLimited):
        assert caught.value.retry_after == 7.0


@pytest.mark.parametrize(
    "content, kind, says_what",
    [
        (b"<html>Log in</html>", BadOutput, "check base_url"),
        (b'{"choices": [{"message": {"cont', ProviderConnection, "breaks off after 31 bytes"),
        (b"", ProviderConnection, "breaks off after 0 bytes"),
        (b'{"choices": []}', BadOutput, "`choices` is empty"),
        (b'{"object": "list"}', BadOutput, "choices"),
        (b'\xff"\xff', BadOutput, "is not a message"),
    ],
)
def test_a_body_that_is_no_reply_is_told_as_what_it_is(
    run: Run, content: bytes, kind: type[ProviderError], says_what: str
) -> None:
    with pytest.raises(kind) as caught:
        run(ask(says(content)))

    assert says_what in str(caught.value)


def test_a_server_that_is_silent_is_given_up_after_the_timeout(run: Run) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(ProviderTimeout, match="no reply in 0.05 s"):
        run(ask(hang, timeout=0.05))


def test_a_server_that_is_not_there_is_a_broken_line(run: Run) -> None:
    async def body() -> None:
        async with serving(says(reply())) as server:
            pass
        provider = OpenAIProvider(KEY, base_url=server.base_url)
        with pytest.raises(ProviderConnection, match="can be reached"):
            await provider.complete(prompt("Hi"))
        await provider.close()

    run(body())


def test_the_hosted_api_is_not_called_without_a_key(run: Run) -> None:
    with pytest.raises(NotAuthorized, match="set OPENAI_API_KEY or pass api_key="):
        run(OpenAIProvider().complete(prompt("Hi")))


def test_it_says_what_it_was_told_of_prices_and_nothing_of_unknown_ones() -> None:
    mine = Price(input=1.0, output=2.0)
    provider = OpenAIProvider(KEY, prices={"m": mine})

    assert provider.price("m") == mine
    assert OpenAIProvider(KEY).price("gpt-9") is None
    assert provider.capabilities("m").family == "m"
    assert provider.credential.startswith("openai:")
    assert KEY not in provider.credential + repr(provider)


def cut(text: str, places: list[int]) -> Iterator[str]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return (text[start:end] for start, end in pairwise(edges))


@pytest.mark.slow
@given(
    text=st.text(max_size=30),
    arguments=st.lists(st.text(min_size=1, max_size=20), max_size=3),
    places=st.lists(st.integers(0, 60), max_size=6),
)
def test_however_a_reply_is_cut_it_is_the_whole_one(
    text: str, arguments: list[str], places: list[int]
) -> None:
    calls = [
        {"id": f"c{n}", "function": {"name": "f", "arguments": said}} for n, said in enumerate(arguments)
    ]
    whole = ChatReply("p")
    whole.take(encode_fragment(reply(text, "tool_calls" if calls else "stop", tool_calls=calls)))
    deltas: list[dict[str, Any]] = [{"content": piece} for piece in cut(text, places)]
    for number, call in enumerate(calls):
        deltas.append({"tool_calls": [{"index": number, "id": call["id"], "function": {"name": "f"}}]})
        pieces = cut(arguments[number], places)
        deltas.extend({"tool_calls": [{"index": number, "function": {"arguments": p}}]} for p in pieces)
    events: list[StreamEvent] = []
    parts = ChatReply("p", on_event=events.append)

    for event in chunks(*deltas, finish="tool_calls" if calls else "stop"):
        parts.feed(event)

    assert parts.completion() == whole.completion()
    assert "".join(e.text for e in events if isinstance(e, Delta) and e.kind == "text") == text
    assert "".join(e.text for e in events if isinstance(e, Delta) and e.kind == "tool") == "".join(arguments)
