"""The anthropic provider over real HTTP: a server on the loopback interface answers the real SDK."""

from __future__ import annotations

import asyncio
import importlib
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from avm.agents import Agent
from avm.errors import (
    BadOutput,
    ContextOverflow,
    InvalidRequest,
    NotAuthorized,
    Overloaded,
    ProviderConnection,
    ProviderError,
    ProviderFailed,
    ProviderTimeout,
    RateLimited,
    Refused,
    SpendLimitReached,
)
from avm.io import ModelRequest, encode_fragment
from avm.io.limits import Allowance, Limits, RateLimits
from avm.io.providers.anthropic import AnthropicProvider
from avm.io.providers.messages import MAX_UNSTREAMED_TOKENS
from avm.io.providers.provider import BatchProvider, BatchState, Delta, Started, StreamEvent
from avm.tools import tool
from tests.io.pooled import pooled, prompt
from tests.io.providers.raw_server import (
    SHORT,
    STREAM,
    RawServer,
    Received,
    always,
    events,
    failure,
    message,
    reset,
    response,
    serving,
)

Run = Callable[[Coroutine[Any, Any, Any]], Any]
KEY = "sk-test-0123456789"

# Importing the SDK takes a second or two, so the first of these is slow whichever it is.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def sdk() -> None:
    """Import the SDK before the first test runs: on a busy machine that alone takes longer than a test may."""
    importlib.import_module("anthropic")


async def complete(server: RawServer, *, stream: bool = False, **options: Any) -> Any:
    """Make one call; with `stream` the events are looked at. Return the completion, or the error."""
    provider = AnthropicProvider(KEY, base_url=server.url, **options)
    try:
        return await provider.complete(
            prompt("Hello", agent="newsroom/critic"), on_event=(lambda _: None) if stream else None
        )
    except ProviderError as error:
        return error
    finally:
        await provider.close()


def test_a_call_goes_out_in_the_shape_of_the_api_and_comes_back_neutral(run: Run) -> None:
    async def body() -> None:
        use = {"type": "tool_use", "id": "t1", "name": "count", "input": {"text": "a b"}}
        reply = message(content=[{"type": "text", "text": "Let me see."}, use], stop_reason="tool_use")
        async with serving(always(response(reply))) as server:
            provider = AnthropicProvider(KEY, base_url=server.url)
            request = ModelRequest(
                model="claude-test",
                messages=(encode_fragment({"role": "user", "content": "How many words?"}),),
                system="Be brief.",
                tools=b'[{"name":"count","description":"Count.","input_schema":{"type":"object"}}]',
                max_tokens=99,
            )
            completion = await provider.complete(request)
            await provider.close()

        (sent,) = server.received
        assert sent.json == {
            "model": "claude-test",
            "max_tokens": 99,
            "system": "Be brief.",
            "tools": [{"name": "count", "description": "Count.", "input_schema": {"type": "object"}}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "How many words?"}]}],
        }
        assert sent.headers["authorization"] == f"Bearer {KEY}"
        assert sent.headers["content-type"] == "application/json"
        assert "x-stainless-lang" in sent.headers
        assert completion.text == "Let me see."
        assert completion.tool_calls[0].arguments == '{"text": "a b"}'
        assert (completion.stop_reason, completion.request_id) == ("tool_use", "req_42")
        assert completion.usage is not None
        assert completion.usage.input_tokens == 12

    run(body())


def test_a_stream_comes_in_pieces_and_limits_with_it(run: Run) -> None:
    async def body() -> None:
        seen: list[StreamEvent] = []
        headers = {**STREAM, "Anthropic-Ratelimit-Requests-Remaining": "49"}
        async with serving(always(response(events("Hel", "lo"), headers=headers))) as server:
            provider = AnthropicProvider(KEY, base_url=server.url)
            completion = await provider.complete(prompt("a"), on_event=seen.append)
            await provider.close()

        assert server.received[0].json["stream"] is True
        limits = RateLimits(requests=Allowance(None, 49))
        assert seen == [Started("req_42", limits), Delta("Hel"), Delta("lo")]
        assert completion.text == "Hello"
        assert completion.limits == limits

    run(body())


def test_a_reply_that_may_take_long_is_streamed_though_nobody_looks(run: Run) -> None:
    async def body() -> None:
        async with serving(always(response(events("Hi"), headers=STREAM))) as server:
            provider = AnthropicProvider(KEY, base_url=server.url)
            completion = await provider.complete(prompt("a", max_tokens=MAX_UNSTREAMED_TOKENS + 1))
            await provider.close()

        assert server.received[0].json["stream"] is True
        assert completion.text == "Hi"

    run(body())


@pytest.mark.parametrize(
    "whole, kind, says",
    [
        (response(failure("rate_limit_error", "slow down"), 429), RateLimited, "HTTP 429: slow down"),
        (
            response(failure("rate_limit_error", "no", error_code="enforced_spend_limit_reached"), 429),
            SpendLimitReached,
            "enforced_spend_limit_reached",
        ),
        (response(failure("overloaded_error", "busy"), 529), Overloaded, "HTTP 529: busy"),
        (response(failure("api_error", "gone"), 503), Overloaded, "HTTP 503"),
        (response(failure("timeout_error", "late"), 504), ProviderTimeout, "HTTP 504"),
        (response(failure("request_too_large", "too large"), 413), ContextOverflow, "HTTP 413"),
        (response(failure("invalid_request_error", "no"), 400), InvalidRequest, "HTTP 400: no"),
        (response(failure("authentication_error", KEY), 401), NotAuthorized, "check ANTHROPIC_API_KEY"),
        (response(failure("not_found_error", "no model"), 404), InvalidRequest, "check the model 'm'"),
        (response(failure("api_error", "oops"), 500), ProviderFailed, "HTTP 500: oops"),
        (response("", 307, {"location": "http://other/"}), InvalidRequest, "'http://other/'"),
        (response(message(stop_reason="refusal")), Refused, "refused to answer"),
        (response(message(stop_reason="model_context_window_exceeded")), ContextOverflow, "1 messages fills"),
        (response("<html>proxy</html>", content="text/html"), BadOutput, "it begins '<html>proxy</html>'"),
        (response('{"content": [{"type": "te'), ProviderConnection, "breaks off after 25 bytes"),
        (response(message(), headers={"content-length": "5000"}), ProviderConnection, "broken one"),
        (b"220 smtp.example ESMTP\r\n\r\n", ProviderConnection, "broken one"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", ProviderConnection, "broken one"),
        (response("no gzip", headers={"content-encoding": "gzip"}), ProviderConnection, "broken one"),
        (response(events("Hel", end=False), headers=STREAM), ProviderConnection, "ended before"),
    ],
)
def test_failures_become_typed_errors_and_are_not_retried(
    run: Run, whole: bytes, kind: type[ProviderError], says: str
) -> None:
    async def body() -> None:
        for stream in (True,) if b"event-stream" in whole else (False, True):
            async with serving(always(whole)) as server:
                error = await complete(server, stream=stream)

            assert type(error) is kind
            assert says in str(error)
            assert str(error).startswith("anthropic could not serve 'm' to newsroom/critic: ")
            assert (error.provider, error.model) == ("anthropic", "m")
            assert len(server.received) == 1
            assert KEY not in "".join(traceback.format_exception(error))
            assert error.__context__ is None or KEY not in repr(error.__context__)

    run(body())


def test_what_a_rate_limit_says_is_in_the_error(run: Run) -> None:
    async def body() -> None:
        headers = {"retry-after": "17", "anthropic-ratelimit-requests-remaining": "0"}
        whole = response(failure("rate_limit_error", "slow down"), 429, headers)
        async with serving(always(whole)) as server:
            error = await complete(server)
        assert error.retry_after == 17.0
        assert error.request_id == "req_42"
        assert error.limits == RateLimits(requests=Allowance(None, 0))

    run(body())


@pytest.mark.parametrize("stream", [False, True])
def test_a_line_that_breaks_at_any_byte_is_a_connection_error(run: Run, stream: bool) -> None:
    """Law: for every n a reply that is cut after n bytes is a ProviderConnection."""
    whole = response(SHORT, headers=STREAM) if stream else response(message())
    last = whole.rfind(b"\n\n") if stream else len(whole) - 1

    def cut_at(n: int) -> Callable[[Received, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
        async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(whole[:n])

        return answer

    async def body() -> None:
        async with serving(always(whole)) as server:
            provider = AnthropicProvider(KEY, base_url=server.url)
            on_event = (lambda _: None) if stream else None
            for n in range(last + 1):
                server.answer = cut_at(n)
                with pytest.raises(ProviderConnection):
                    await provider.complete(prompt("a"), on_event=on_event)
            server.answer = always(whole)
            assert (await provider.complete(prompt("a"), on_event=on_event)).text == "Hi"
            await provider.close()

    run(body())


def test_a_line_that_is_reset_is_a_connection_error(run: Run) -> None:
    async def body() -> None:
        async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(response(events("Hel", end=False), headers=STREAM))
            await writer.drain()
            reset(writer)

        async with serving(answer) as server:
            assert type(await complete(server, stream=True)) is ProviderConnection

    run(body())


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_does_not_answer_in_time_is_a_timeout(run: Run, stream: bool) -> None:
    async def body() -> None:
        async def hang(request: Received, writer: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        async with serving(hang) as server:
            error = await complete(server, stream=stream, timeout=0.05)
        assert type(error) is ProviderTimeout
        assert "no reply in 0.05 s" in str(error)

    run(body())


def test_a_response_that_never_ends_is_cut(run: Run) -> None:
    async def body() -> None:
        async def drip(request: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(response("", headers={"content-length": ""}))
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)

        async with serving(drip) as server:
            assert type(await complete(server, timeout=0.1)) is ProviderTimeout

    run(body())


def test_nobody_listening_is_a_connection_error(run: Run) -> None:
    async def body() -> None:
        async with serving(always(b"")) as server:
            pass
        assert type(await complete(server)) is ProviderConnection

    run(body())


def test_a_call_that_is_given_up_closes_its_connection(run: Run) -> None:
    async def body() -> None:
        arrived = asyncio.Event()

        async def hang(request: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(response("", headers=STREAM))
            arrived.set()
            while not writer.is_closing():
                writer.write(b": ping\n\n")
                await writer.drain()
                await asyncio.sleep(0.001)
            raise ConnectionError

        async with serving(hang) as server:
            provider = AnthropicProvider(KEY, base_url=server.url)
            call = asyncio.ensure_future(provider.complete(prompt("a"), on_event=lambda _: None))
            await arrived.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await server.closed.wait()
            await provider.close()

    run(body())


def test_a_large_request_goes_out_whole(run: Run) -> None:
    async def body() -> None:
        async with serving(always(response(message()))) as server:
            provider = AnthropicProvider(KEY, base_url=server.url)
            await provider.complete(prompt("x" * (3 << 20)))
            await provider.close()

        assert len(server.received[0].json["messages"][0]["content"][0]["text"]) == 3 << 20

    run(body())


def test_a_closed_provider_opens_again(run: Run) -> None:
    async def body() -> None:
        async with serving(always(response(message()))) as server:
            provider = AnthropicProvider(KEY, base_url=server.url)
            for _ in range(2):
                assert (await provider.complete(prompt("a"))).text == "Hi"
                await provider.close()

    run(body())


def test_one_connection_serves_call_after_call_streamed_or_not(run: Run) -> None:
    async def body() -> None:
        chunk = events("Hi")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

        async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
            if "stream" in request.json:
                writer.write(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(chunk), chunk))
            else:
                writer.write(response(message(), headers={"connection": ""}))

        async with serving(answer, keeps=True) as server:
            provider = AnthropicProvider(KEY, base_url=server.url)
            for on_event in (None, [].append, None, [].append):
                assert (await provider.complete(prompt("a"), on_event=on_event)).text == "Hi"
            await provider.close()

        assert server.connections == 1

    run(body())


def test_without_a_key_the_error_says_where_to_put_it(run: Run) -> None:
    async def body() -> None:
        with pytest.raises(NotAuthorized, match="set ANTHROPIC_API_KEY or pass api_key="):
            await AnthropicProvider(None).complete(prompt("Hello"))

    run(body())


def test_the_key_is_shown_nowhere() -> None:
    provider = AnthropicProvider(KEY, limits=Limits(requests=50))

    assert repr(provider) == "AnthropicProvider('https://api.anthropic.com', timeout=600)"
    assert provider.credential.startswith("anthropic:")
    assert KEY not in provider.credential
    assert provider.limits("claude-sonnet-5") == Limits(requests=50)
    assert provider.capabilities("claude-sonnet-5").batches
    assert isinstance(provider, BatchProvider)


def test_two_first_calls_at_once_open_one_client(run: Run) -> None:
    async def body() -> None:
        async with serving(always(response(message()))) as server:
            provider = AnthropicProvider(KEY, base_url=server.url)
            both = await asyncio.gather(provider.complete(prompt("a")), provider.complete(prompt("b")))
            await provider.close()

        assert [completion.text for completion in both] == ["Hi", "Hi"]
        assert len(server.received) == 2

    run(body())


def test_the_server_counts(run: Run) -> None:
    async def body() -> None:
        async with serving(always(response({"input_tokens": 77}))) as server:
            provider = AnthropicProvider(KEY, base_url=server.url)
            assert await provider.count(prompt("Hello")) == 77
            await provider.close()

        assert set(server.received[0].json) == {"model", "messages"}

    run(body())


def test_batches_go_through_the_sdk_too(run: Run) -> None:
    async def body() -> None:
        state = {"id": "b1", "processing_status": "ended", "request_counts": {"succeeded": 1}}
        line = b'{"custom_id":"a","result":{"type":"succeeded","message":%b}}\n' % encode_fragment(message())

        async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(response(line if request.path.endswith("results") else state))

        async with serving(answer) as server:
            provider = AnthropicProvider(KEY, base_url=server.url)
            assert await provider.submit_batch([("a", prompt("one"))]) == "b1"
            assert await provider.poll_batch("b1") == BatchState(True, 1, 0)
            found = {id: outcome async for id, outcome in provider.batch_results("b1")}
            await provider.cancel_batch("b1")
            await provider.close()

        completion = found["a"]
        assert not isinstance(completion, ProviderError)
        assert (completion.text, completion.source) == ("Hi", "batch")
        assert [(request.method, request.path) for request in server.received] == [
            ("POST", "/v1/messages/batches"),
            ("GET", "/v1/messages/batches/b1"),
            ("GET", "/v1/messages/batches/b1"),
            ("GET", "/v1/messages/batches/b1/results"),
            ("POST", "/v1/messages/batches/b1/cancel"),
        ]

    run(body())


def test_an_agents_turn_with_a_tool_goes_over_http(run: Run) -> None:
    @tool
    async def count_words(text: str) -> int:
        """Count the words of a text."""
        return len(text.split())

    class Clerk(Agent):
        model, system, tools = "claude-test", "Count.", (count_words,)

    async def body() -> None:
        use = {"type": "tool_use", "id": "t1", "name": "count_words", "input": {"text": "a b c"}}
        answers = iter([message(content=[use], stop_reason="tool_use"), message("Three.")])

        async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(response(next(answers)))

        async with serving(answer) as server:
            provider = AnthropicProvider(KEY, base_url=server.url)
            async with pooled(provider, workers=1) as kernel:
                clerk = await kernel.spawn(Clerk)
                assert await kernel.ask(clerk, "How many?") == "Three."
            await provider.close()

        first, second = (request.json for request in server.received)
        assert [turn["role"] for turn in second["messages"]] == ["user", "assistant", "user"]
        (result,) = second["messages"][2]["content"]
        assert (result["type"], result["tool_use_id"], result["content"]) == ("tool_result", "t1", "3")
        assert [each["name"] for each in first["tools"]] == ["count_words"]
        assert first["tools"][0]["input_schema"]["required"] == ["text"]

    run(body())
