"""The anthropic provider over real HTTP: a Messages API server on the loopback interface answers the real SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from avm.agents import Agent
from avm.errors import (
    BadOutput,
    ContextOverflow,
    Overloaded,
    ProviderConnection,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    Refused,
)
from avm.io import ModelRequest, encode_fragment
from avm.io.providers.anthropic import AnthropicProvider
from avm.tools import tool
from tests.io.pooled import pooled, prompt

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Importing the SDK takes a second or two, so the first of these is slow whichever it is.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Server:
    """Answers /v1/messages as it is told and keeps what it was sent."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        return await self.answer(request)


@asynccontextmanager
async def serving(answer: Answer, **options: Any) -> AsyncIterator[tuple[Server, AnthropicProvider]]:
    server = Server(answer)
    app = web.Application()
    app.router.add_post("/v1/messages", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    server.url = f"http://127.0.0.1:{port}"
    provider = AnthropicProvider("sk-test", base_url=server.url, **options)
    try:
        yield server, provider
    finally:
        await provider.close()
        await runner.cleanup()


def message(*blocks: dict[str, Any], stop_reason: str = "end_turn") -> web.Response:
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": list(blocks),
        "stop_reason": stop_reason,
        "usage": {"input_tokens": 12, "output_tokens": 3},
    }
    return web.json_response(body, headers={"request-id": "req_42"})


def failure(status: int, kind: str, text: str, **headers: str) -> web.Response:
    body = {"type": "error", "error": {"type": kind, "message": text}}
    return web.json_response(body, status=status, headers={"request-id": "req_7", **headers})


def always(make: Callable[[], web.Response]) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return make()

    return answer


def test_a_call_goes_out_in_the_shape_of_the_api_and_comes_back_neutral(run: Run) -> None:
    async def body() -> None:
        text = {"type": "text", "text": "Let me see."}
        use = {"type": "tool_use", "id": "t1", "name": "count", "input": {"text": "a b"}}
        async with serving(always(lambda: message(text, use, stop_reason="tool_use"))) as (server, provider):
            request = ModelRequest(
                model="claude-test",
                messages=(encode_fragment({"role": "user", "content": "How many words?"}),),
                system="Be brief.",
                tools=b'[{"name":"count","description":"Count.","input_schema":{"type":"object"}}]',
                max_tokens=99,
            )
            completion = await provider.complete(request)

        (sent,) = server.bodies
        assert sent == {
            "model": "claude-test",
            "max_tokens": 99,
            "system": "Be brief.",
            "tools": [{"name": "count", "description": "Count.", "input_schema": {"type": "object"}}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "How many words?"}]}],
        }
        assert any("sk-test" in value for value in server.headers[0].values())
        assert completion.text == "Let me see."
        assert completion.tool_calls[0].arguments == '{"text": "a b"}'
        assert (completion.stop_reason, completion.request_id) == ("tool_use", "req_42")
        assert completion.usage is not None
        assert completion.usage.input_tokens == 12

    run(body())


@pytest.mark.parametrize(
    "make, kind, says",
    [
        (lambda: failure(429, "rate_limit_error", "slow down"), RateLimited, "HTTP 429: slow down"),
        (lambda: failure(529, "overloaded_error", "busy"), Overloaded, "HTTP 529: busy"),
        (lambda: failure(503, "api_error", "gone"), Overloaded, "HTTP 503"),
        (lambda: failure(504, "timeout_error", "late"), ProviderTimeout, "HTTP 504"),
        (lambda: failure(413, "request_too_large", "too large"), ContextOverflow, "HTTP 413"),
        (
            lambda: failure(400, "invalid_request_error", "prompt is too long: 9 > 8"),
            ContextOverflow,
            "prompt is too long",
        ),
        (lambda: failure(400, "invalid_request_error", "no"), ProviderError, "HTTP 400: no"),
        (lambda: failure(401, "authentication_error", "bad key"), ProviderError, "check ANTHROPIC_API_KEY"),
        (lambda: failure(404, "not_found_error", "no model"), ProviderError, "check the model 'm'"),
        (lambda: failure(500, "api_error", "oops"), ProviderError, "HTTP 500: oops"),
        (lambda: message(stop_reason="refusal"), Refused, "refused to answer"),
        (lambda: message(stop_reason="model_context_window_exceeded"), ContextOverflow, "1 messages fills"),
        (
            lambda: web.Response(text="<html>proxy</html>", content_type="text/html"),
            BadOutput,
            "it begins '<html>proxy</html>'",
        ),
    ],
)
def test_failures_become_typed_errors_and_are_not_retried(
    run: Run, make: Callable[[], web.Response], kind: type[ProviderError], says: str
) -> None:
    async def body() -> None:
        async with serving(always(make)) as (server, provider):
            with pytest.raises(ProviderError) as caught:
                await provider.complete(prompt("Hello", agent="newsroom/critic"))

        assert type(caught.value) is kind
        assert says in str(caught.value)
        assert str(caught.value).startswith("anthropic could not serve 'm' to newsroom/critic: ")
        assert (caught.value.provider, caught.value.model) == ("anthropic", "m")
        assert len(server.bodies) == 1
        assert "sk-test" not in str(caught.value)

    run(body())


def test_the_seconds_to_wait_are_in_the_error(run: Run) -> None:
    async def body() -> None:
        limit = failure(429, "rate_limit_error", "slow down", **{"retry-after": "17"})
        async with serving(always(lambda: limit)) as (_, provider):
            with pytest.raises(RateLimited) as caught:
                await provider.complete(prompt("Hello"))
        assert caught.value.retry_after == 17.0
        assert caught.value.request_id == "req_7"

    run(body())


def test_a_server_that_does_not_answer_in_time_is_a_timeout(run: Run) -> None:
    async def body() -> None:
        enough = asyncio.Event()

        async def hang(request: web.Request) -> web.StreamResponse:
            await enough.wait()
            return web.Response()

        async with serving(hang, timeout=0.05) as (_, provider):
            with pytest.raises(ProviderTimeout):
                await provider.complete(prompt("Hello"))
            enough.set()

    run(body())


def test_a_line_that_breaks_is_a_connection_error(run: Run) -> None:
    async def body() -> None:
        async def cut(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": "5000"})
            await response.prepare(request)
            await response.write(b'{"content"')
            assert request.transport is not None
            request.transport.abort()
            return response

        async with serving(cut) as (_, provider):
            with pytest.raises(ProviderConnection):
                await provider.complete(prompt("Hello"))

    run(body())


def test_nobody_listening_is_a_connection_error(run: Run) -> None:
    async def body() -> None:
        async with serving(always(message)) as (server, _):
            gone = server.url
        provider = AnthropicProvider("sk-test", base_url=gone)
        try:
            with pytest.raises(ProviderConnection):
                await provider.complete(prompt("Hello"))
        finally:
            await provider.close()

    run(body())


def test_a_closed_provider_opens_again(run: Run) -> None:
    async def body() -> None:
        async with serving(always(lambda: message({"type": "text", "text": "Hi"}))) as (_, provider):
            assert (await provider.complete(prompt("a"))).text == "Hi"
            await provider.close()
            assert (await provider.complete(prompt("b"))).text == "Hi"

    run(body())


def test_without_a_key_the_error_says_where_to_put_it(run: Run) -> None:
    async def body() -> None:
        with pytest.raises(ProviderError, match="set ANTHROPIC_API_KEY or pass api_key="):
            await AnthropicProvider(None).complete(prompt("Hello"))

    run(body())


def test_more_tokens_than_can_come_in_one_piece_are_refused(run: Run) -> None:
    async def body() -> None:
        with pytest.raises(ProviderError, match="max_tokens must be 21333 or less, got 50000"):
            await AnthropicProvider("k").complete(prompt("Hello", max_tokens=50_000))

    run(body())


def test_two_first_calls_at_once_open_one_client(run: Run) -> None:
    async def body() -> None:
        async with serving(always(lambda: message({"type": "text", "text": "Hi"}))) as (server, provider):
            both = await asyncio.gather(provider.complete(prompt("a")), provider.complete(prompt("b")))
            assert [completion.text for completion in both] == ["Hi", "Hi"]
            assert len(server.bodies) == 2

    run(body())


def test_an_agents_turn_with_a_tool_goes_over_http(run: Run) -> None:
    @tool
    async def count_words(text: str) -> int:
        """Count the words of a text."""
        return len(text.split())

    class Clerk(Agent):
        model, system, tools = "claude-test", "Count.", (count_words,)

    async def body() -> None:
        answers = iter(
            [
                message(
                    {"type": "tool_use", "id": "t1", "name": "count_words", "input": {"text": "a b c"}},
                    stop_reason="tool_use",
                ),
                message({"type": "text", "text": "Three."}),
            ]
        )
        async with (
            serving(always(lambda: next(answers))) as (server, provider),
            pooled(provider, workers=1) as kernel,
        ):
            clerk = await kernel.spawn(Clerk)
            assert await kernel.ask(clerk, "How many?") == "Three."

        first, second = server.bodies
        assert [turn["role"] for turn in second["messages"]] == ["user", "assistant", "user"]
        assert second["messages"][2]["content"] == [
            {"type": "tool_result", "tool_use_id": "t1", "content": "3"}
        ]
        assert first["tools"] == second["tools"]
        assert first["tools"][0]["input_schema"]["required"] == ["text"]

    run(body())
