"""The messages provider over real HTTP, against servers that answer right and wrong, byte by byte."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    Refused,
    SpecError,
)
from avm.io import Completion, ModelRequest, encode_fragment
from avm.io.limits import Allowance, Limits, RateLimits
from avm.io.providers.batches import LARGE, SLICE, encode_batch
from avm.io.providers.http import EventLines, shown_url
from avm.io.providers.messages import MAX_UNSTREAMED_TOKENS, MessagesProvider, family_of
from avm.io.providers.provider import (
    BatchProvider,
    BatchState,
    Delta,
    Price,
    Started,
    StreamEvent,
    estimate_tokens,
)
from avm.testing.messages_server import MessagesServer
from tests.io.pooled import prompt
from tests.io.providers.raw_server import (
    SHORT,
    STREAM,
    RawServer,
    Received,
    always,
    event,
    events,
    failure,
    message,
    reset,
    response,
    serving,
)

Run = Callable[[Coroutine[Any, Any, Any]], Any]
KEY = "sk-test-0123456789"


async def complete(server: RawServer, *, stream: bool = False, key: str | None = KEY, **options: Any) -> Any:
    """Make one call; with `stream` the events are looked at. Return the completion, or the error."""
    provider = MessagesProvider(server.url, key, **options)
    seen: list[StreamEvent] = []
    try:
        return await provider.complete(
            prompt("Hello", agent="critic"), on_event=seen.append if stream else None
        )
    except ProviderError as error:
        return error
    finally:
        await provider.close()


# Going right.


def test_a_call_goes_out_in_the_shape_of_the_api_and_comes_back_neutral(run: Run) -> None:
    async def body() -> None:
        use = {"type": "tool_use", "id": "t1", "name": "count", "input": {"text": "a b"}}
        reply = message(content=[{"type": "text", "text": "Let me see."}, use], stop_reason="tool_use")
        async with serving(always(response(reply))) as server:
            provider = MessagesProvider(server.url + "/v1/", f" {KEY}\n")
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
        assert (sent.method, sent.path) == ("POST", "/v1/messages")
        assert sent.headers["authorization"] == f"Bearer {KEY}"
        assert sent.headers["content-type"] == "application/json"
        assert "anthropic-version" in sent.headers
        assert sent.json["messages"] == [
            {"role": "user", "content": [{"type": "text", "text": "How many words?"}]}
        ]
        assert (sent.json["model"], sent.json["max_tokens"]) == ("claude-test", 99)
        assert "stream" not in sent.json
        assert completion.text == "Let me see."
        assert completion.tool_calls[0].arguments == '{"text": "a b"}'
        assert (completion.stop_reason, completion.request_id) == ("tool_use", "req_42")
        assert (completion.provider, completion.source) == ("messages", "provider")
        assert completion.limits is None

    run(body())


SAID = {"anthropic-ratelimit-requests-limit": "50", "Anthropic-Ratelimit-Requests-Remaining": "49"}


def test_limits_in_the_headers_are_with_the_beginning_of_a_stream(run: Run) -> None:
    """It may be long until its end."""

    async def body() -> None:
        limits = RateLimits(requests=Allowance(50, 49))
        for whole in (
            response(events("Hi"), headers={**SAID, **STREAM}),
            response(message(), headers=SAID),
        ):
            seen: list[StreamEvent] = []
            async with serving(always(whole)) as server:
                provider = MessagesProvider(server.url)
                completion = await provider.complete(prompt("a"), on_event=seen.append)
                await provider.close()
            assert seen[0] == Started("req_42", limits)
            assert completion.limits == limits

    run(body())


def test_limits_in_the_headers_are_with_the_reply(run: Run) -> None:
    async def body() -> None:
        said = SAID
        for stream in (False, True):
            whole = (
                response(events("Hi"), headers={**said, **STREAM})
                if stream
                else response(message(), headers=said)
            )
            async with serving(always(whole)) as server:
                completion = await complete(server, stream=stream)
            assert completion.limits == RateLimits(requests=Allowance(50, 49))

    run(body())


def test_a_reply_that_somebody_looks_at_comes_in_pieces(run: Run) -> None:
    async def body() -> None:
        seen: list[StreamEvent] = []
        async with serving(always(response(events("Hel", "lo"), headers=STREAM))) as server:
            provider = MessagesProvider(server.url)
            completion = await provider.complete(prompt("a"), on_event=seen.append)
            await provider.close()

        assert server.received[0].json["stream"] is True
        assert "authorization" not in server.received[0].headers
        assert seen == [Started("req_42"), Delta("Hel"), Delta("lo")]
        assert completion.text == "Hello"
        assert completion.usage.input_tokens == 12
        assert completion.request_id == "req_42"

    run(body())


def test_a_reply_that_may_take_long_is_streamed_though_nobody_looks(run: Run) -> None:
    async def body() -> None:
        async with serving(always(response(events("Hi"), headers=STREAM))) as server:
            provider = MessagesProvider(server.url)
            completion = await provider.complete(prompt("a", max_tokens=MAX_UNSTREAMED_TOKENS + 1))
            await provider.close()

        assert server.received[0].json["stream"] is True
        assert completion.text == "Hi"

    run(body())


def test_a_server_that_does_not_stream_is_understood(run: Run) -> None:
    async def body() -> None:
        seen: list[StreamEvent] = []
        async with serving(always(response(message("Hello")))) as server:
            provider = MessagesProvider(server.url)
            completion = await provider.complete(prompt("a"), on_event=seen.append)
            await provider.close()

        assert seen == [Started("req_42"), Delta("Hello")]
        assert completion.text == "Hello"

    run(body())


def test_one_connection_serves_call_after_call_streamed_or_not(run: Run) -> None:
    async def body() -> None:
        chunk = events("Hi")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

        async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
            if "stream" not in request.json:
                writer.write(response(message(), headers={"connection": ""}))
                return
            writer.write(head + b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await writer.drain()
            writer.write(b"0\r\n\r\n")

        async with serving(answer, keeps=True) as server:
            provider = MessagesProvider(server.url)
            for on_event in (None, [].append, None, [].append):
                assert (await provider.complete(prompt("a"), on_event=on_event)).text == "Hi"
            await provider.close()

        assert server.connections == 1

    run(body())


def test_a_large_request_goes_out_whole(run: Run) -> None:
    async def body() -> None:
        async with serving(always(response(message()))) as server:
            provider = MessagesProvider(server.url)
            await provider.complete(prompt("x" * (3 << 20)))
            await provider.close()

        assert len(server.received[0].json["messages"][0]["content"][0]["text"]) == 3 << 20

    run(body())


def test_a_closed_provider_opens_again(run: Run) -> None:
    async def body() -> None:
        async with serving(always(response(message()))) as server:
            provider = MessagesProvider(server.url)
            for _ in range(2):
                assert (await provider.complete(prompt("a"))).text == "Hi"
                await provider.close()

    run(body())


# Going wrong.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "whole, kind, says",
    [
        (response(failure("overloaded_error", "busy"), 529), Overloaded, "HTTP 529: busy"),
        (
            response(failure("authentication_error", f"bad key {KEY}"), 401),
            NotAuthorized,
            "bad key [key]; check",
        ),
        (response(failure("not_found_error", "none"), 404), InvalidRequest, "check the model 'm'"),
        (response(failure("api_error", "oops")), ProviderFailed, "api_error: oops"),
        (response("<html>proxy</html>", content="text/html"), BadOutput, "base_url must be the root"),
        (response("<html>proxy</html>", 502, content="text/html"), ProviderFailed, "<html>proxy</html>"),
        (response('{"content": 3}'), BadOutput, "Expected `array`"),
        (response('{"content": [{"type": "te'), ProviderConnection, "breaks off after 25 bytes"),
        (response(""), ProviderConnection, "breaks off after 0 bytes"),
        (response(message(), headers={"content-length": "5000"}), ProviderConnection, "broken one"),
        (
            response(message(), headers={"content-length": "20"}),
            ProviderConnection,
            "broken one",
        ),
        (response(message(), headers={"content-length": "-1"}), ProviderConnection, "broken one"),
        (response("no gzip", headers={"content-encoding": "gzip"}), ProviderConnection, "broken one"),
        (b"220 smtp.example ESMTP\r\n\r\n", ProviderConnection, "broken one"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", ProviderConnection, "broken one"),
        (response("", 307, {"location": "http://other/"}), InvalidRequest, "'http://other/'"),
        (response(message(stop_reason="refusal")), Refused, "refused to answer"),
        (response(message(stop_reason="model_context_window_exceeded")), ContextOverflow, "1 messages fills"),
    ],
)
def test_failures_become_typed_errors(
    run: Run, whole: bytes, kind: type[ProviderError], says: str, stream: bool
) -> None:
    async def body() -> None:
        async with serving(always(whole)) as server:
            error = await complete(server, stream=stream)

        assert type(error) is kind
        assert says in str(error)
        assert str(error).startswith("messages could not serve 'm' to critic: ")
        assert (error.provider, error.model) == ("messages", "m")
        assert len(server.received) == 1
        assert KEY not in "".join(traceback.format_exception(error))

    run(body())


@pytest.mark.parametrize(
    "pieces, kind, says",
    [
        (events("Hel", end=False), ProviderConnection, "the stream ended before its message did"),
        (events("Hel", end=False) + b"data: {]\n\n", BadOutput, "cannot be read"),
        (
            events("Hel", end=False)
            + event({"type": "error", "error": {"type": "overloaded_error", "message": "!"}}),
            Overloaded,
            "overloaded_error: !",
        ),
        (b"", ProviderConnection, "the stream ended"),
        (b"data: " + b"x" * 100_000, ProviderConnection, "the stream ended"),
    ],
)
def test_a_stream_that_goes_wrong_is_a_typed_error(
    run: Run, pieces: bytes, kind: type[ProviderError], says: str
) -> None:
    async def body() -> None:
        async with serving(always(response(pieces, headers=STREAM))) as server:
            error = await complete(server, stream=True)

        assert type(error) is kind
        assert says in str(error)
        assert error.request_id == "req_42"

    run(body())


SMALL = response(message())
SMALL_STREAM = response(SHORT, headers=STREAM)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (SHORT[:90], SHORT[90:]))
    + b"0\r\n\r\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "whole, breaks",
    [(SMALL, "end"), (SMALL, "reset"), (SMALL_STREAM, "end"), (CHUNKED, "end")],
    ids=["unary", "unary-reset", "stream", "chunked"],
)
def test_a_line_that_breaks_at_any_byte_is_a_connection_error(run: Run, whole: bytes, breaks: str) -> None:
    """Law: for every n a reply that is cut after n bytes is a ProviderConnection, and the next call works."""
    last = whole.rfind(b"\n\n") if whole is not SMALL else len(whole) - 1

    def cut_at(n: int) -> Callable[[Received, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
        async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(whole[:n])
            if breaks == "reset":
                await writer.drain()
                reset(writer)

        return answer

    async def body() -> None:
        async with serving(always(whole)) as server:
            provider = MessagesProvider(server.url, KEY)
            on_event = None if whole is SMALL else lambda _: None
            for n in range(last + 1):
                server.answer = cut_at(n)
                with pytest.raises(ProviderConnection) as caught:
                    await provider.complete(prompt("a"), on_event=on_event)
                assert KEY not in "".join(traceback.format_exception(caught.value))
            server.answer = always(whole)
            assert (await provider.complete(prompt("a"), on_event=on_event)).text == "Hi"
            await provider.close()

    run(body())


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_that_never_ends_is_cut(run: Run, stream: bool) -> None:
    async def body() -> None:
        async def drip(request: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(
                response("", headers={**STREAM, "content-type": "text/event-stream" if stream else "x/y"})
            )
            while not stream:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
            await asyncio.Event().wait()

        async with serving(drip) as server:
            error = await complete(server, stream=stream, timeout=0.1)

        assert type(error) is ProviderTimeout
        assert "no reply in 0.1 s" in str(error)

    run(body())


def test_a_response_without_end_does_not_fill_the_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async def flood(request: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(response("", headers=STREAM))
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()

        for stream in (False, True):
            async with serving(flood) as server:
                error = await complete(server, stream=stream)
            assert type(error) is ProviderConnection
            assert "more than 1 MiB came and no end" in str(error)

    monkeypatch.setattr("avm.io.providers.http.MOST", 1 << 20)
    run(body())


def test_a_server_that_says_nothing_is_a_timeout(run: Run) -> None:
    async def body() -> None:
        async def hang(request: Received, writer: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        async with serving(hang) as server:
            assert type(await complete(server, timeout=0.05)) is ProviderTimeout

    run(body())


def test_nobody_listening_is_a_connection_error_that_says_where(run: Run) -> None:
    async def body() -> None:
        async with serving(always(b"")) as server:
            pass
        error = await complete(server)
        assert type(error) is ProviderConnection
        assert f"see whether {server.url} can be reached" in str(error)

    run(body())


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_given_up_closes_its_connection(run: Run, stream: bool) -> None:
    async def body() -> None:
        arrived = asyncio.Event()

        async def hang(request: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(response("", headers=STREAM))
            arrived.set()
            # Ends when the client hangs up.
            while not writer.is_closing():
                writer.write(b": ping\n\n")
                await writer.drain()
                await asyncio.sleep(0.001)
            raise ConnectionError

        async with serving(hang) as server:
            provider = MessagesProvider(server.url)
            call = asyncio.ensure_future(
                provider.complete(prompt("a"), on_event=(lambda _: None) if stream else None)
            )
            await arrived.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await server.closed.wait()
            await provider.close()

    run(body())


# What it says of itself.


def test_the_key_is_shown_nowhere() -> None:
    provider = MessagesProvider("http://user:pw@127.0.0.1:1", KEY)

    assert KEY not in repr(provider)
    assert "pw" not in repr(provider)
    assert provider.credential.startswith("messages:")
    assert len(provider.credential) == len("messages:") + 8
    assert provider.credential != MessagesProvider("http://127.0.0.1:1", "other").credential
    assert MessagesProvider("http://127.0.0.1:1").credential == "messages"


@pytest.mark.parametrize("url", ["", "127.0.0.1:80", "ftp://x", "http://", "http://x?y=1", "http://x:99999"])
def test_what_cannot_be_a_base_url_is_refused(url: str) -> None:
    with pytest.raises(SpecError, match="base_url must be like"):
        MessagesProvider(url)


@pytest.mark.parametrize("key", ["sk\n-x", "schlüssel", "a b"])
def test_what_cannot_be_a_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(SpecError, match="printable ASCII") as caught:
        MessagesProvider("http://x", key)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "model, family",
    [
        ("claude-sonnet-5-5", "claude-sonnet-5"),
        ("claude-sonnet-5", "claude-sonnet-5"),
        ("claude-opus-4-8", "claude-opus-4"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("claude-3-5-sonnet-20241022", "claude-sonnet-3"),
        ("claude-3-opus-20240229", "claude-opus-3"),
        ("claude-mythos-preview", "claude-mythos"),
        ("anthropic.claude-fable-5-1-v1:0", "claude-fable-5"),
        ("llama3.2:1b", "llama3.2:1b"),
    ],
)
def test_models_of_one_line_are_one_family(model: str, family: str) -> None:
    assert family_of(model) == family


@pytest.mark.parametrize(
    "models, least",
    [
        (("claude-opus-4-7", "claude-opus-4-6", "claude-opus-4-5", "claude-opus-4-1-20250805"), 4096),
        (("claude-haiku-4-5", "claude-haiku-4-5-20251001"), 4096),
        (("claude-sonnet-5-5", "claude-sonnet-5"), 1024),
    ],
)
def test_models_of_one_family_cache_from_the_same_length_on(models: tuple[str, ...], least: int) -> None:
    """They share a table of prefixes, and what is too short for one of them is not cached, though nobody says so."""
    provider = MessagesProvider("http://x")

    found = [provider.capabilities(model) for model in models]

    assert len({can.family for can in found}) == 1
    assert {can.min_cached_tokens for can in found} == {least}


@pytest.mark.parametrize(
    "url, shown",
    [
        ("https://host.example/v1", "https://host.example/v1"),
        ("https://host.example:8443", "https://host.example:8443"),
        ("https://user:SECRET@host.example/v1", "https://host.example/v1"),
        ("https://SECRET@[::1]:80", "https://[::1]:80"),
        ("https://host.example/v1?api_key=SECRET", "https://host.example/v1?..."),
        ("https://host.example/v1#SECRET", "https://host.example/v1?..."),
        ("https://user:SECRET/PW@host.example/v1", "https://..."),
        ("https://user:SEC#SECRET@host/v1", "https://..."),
        ("https://user:SEC?SECRET@host/v1", "https://..."),
        ("https://host/v1?mail=a@b&key=SECRET", "https://..."),
        ("https://host/v1?key=a@SECRET", "https://..."),
        ("user:SECRET@host", "host"),
        ("user:SECRET@https://host", "https://host"),
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.slow
@given(
    st.text("ab:/?#@[]. %", max_size=12),
    st.text("ab:/?#@[]. %", max_size=12),
    st.sampled_from(["", "https://"]),
)
def test_user_password_and_query_are_never_shown(before: str, after: str, scheme: str) -> None:
    for url in (f"{scheme}u{before}SECRET{after}@host{after}", f"{scheme}host{before}?{after}SECRET{before}"):
        assert "SECRET" not in shown_url(url)


def test_capabilities_prices_and_limits_are_those_of_the_model() -> None:
    mine = Price(input=1.0, output=2.0)
    sonnet = Limits(requests=50)
    provider = MessagesProvider(
        "http://x", limits={"claude-sonnet-5": sonnet}, prices={"mine": mine}, prompt_cache="slots", slots=4
    )

    found = provider.capabilities("claude-opus-4-6")
    assert (found.family, found.min_cached_tokens, found.prompt_cache, found.slots) == (
        "claude-opus-4",
        4096,
        "slots",
        4,
    )
    assert not found.batches
    assert provider.capabilities("llama").min_cached_tokens == 1024
    assert MessagesProvider("https://api.anthropic.com").capabilities("m").batches
    assert provider.price("mine") == mine
    assert provider.price("llama") is None
    assert provider.price("claude-sonnet-5-5") is not None
    assert provider.limits("claude-sonnet-5-5") == sonnet
    assert provider.limits("claude-opus-5") == Limits()
    assert MessagesProvider("http://x", limits=sonnet).limits("any") == sonnet
    assert isinstance(provider, BatchProvider)


# Counting.


def test_the_server_counts_if_it_can(run: Run) -> None:
    async def body() -> None:
        async with serving(always(response({"input_tokens": 77}))) as server:
            provider = MessagesProvider(server.url)
            assert await provider.count(prompt("Hello", system="S")) == 77
            await provider.close()

        (sent,) = server.received
        assert sent.path == "/v1/messages/count_tokens"
        assert set(sent.json) == {"model", "messages", "system"}

    run(body())


def test_a_server_that_does_not_count_is_asked_once(run: Run) -> None:
    async def body() -> None:
        async with serving(always(response("no", 404))) as server:
            provider = MessagesProvider(server.url)
            request = prompt("Hello")
            for _ in range(2):
                assert await provider.count(request) == estimate_tokens(request)
            await provider.close()

        assert len(server.received) == 1

    run(body())


def test_a_count_that_fails_is_a_typed_error(run: Run) -> None:
    async def body() -> None:
        async with serving(always(response(failure("overloaded_error", "busy"), 529))) as server:
            provider = MessagesProvider(server.url)
            with pytest.raises(Overloaded):
                await provider.count(prompt("Hello"))
            await provider.close()

    run(body())


# Batches.


def batch(status: str = "in_progress", **fields: Any) -> dict[str, Any]:
    counts = {"processing": 0, "succeeded": 2, "errored": 1, "canceled": 1, "expired": 1}
    return {
        "id": "b1",
        "type": "message_batch",
        "processing_status": status,
        "request_counts": counts,
        **fields,
    }


def test_a_batch_is_handed_in_looked_at_and_cancelled(run: Run) -> None:
    async def body() -> None:
        async with serving(always(response(batch("ended")))) as server:
            provider = MessagesProvider(server.url)
            calls = [("a", prompt("one")), ('"b"', prompt("two", max_tokens=9))]
            assert await provider.submit_batch(calls) == "b1"
            assert await provider.poll_batch("b1") == BatchState(True, 2, 3)
            await provider.cancel_batch("b1")
            await provider.close()

        submit, poll, cancel = server.received
        assert (submit.method, submit.path) == ("POST", "/v1/messages/batches")
        assert [entry["custom_id"] for entry in submit.json["requests"]] == ["a", '"b"']
        assert submit.json["requests"][1]["params"]["max_tokens"] == 9
        assert (poll.method, poll.path) == ("GET", "/v1/messages/batches/b1")
        assert (cancel.method, cancel.path) == ("POST", "/v1/messages/batches/b1/cancel")

    run(body())


def test_encoding_a_large_batch_lets_others_in(run: Run) -> None:
    async def body() -> None:
        calls = [(str(number), b'{"x":"%b"}' % (b"x" * 1000)) for number in range(5000)]
        others = 0

        async def count() -> None:
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        found = await encode_batch(calls)
        counting.cancel()

        entries = msgspec.json.decode(found)["requests"]
        assert [(entry["custom_id"], len(entry["params"]["x"])) for entry in entries] == [
            (id, 1000) for id, _ in calls
        ]
        assert others >= len(found) // SLICE
        assert len(found) > LARGE

    run(body())


def test_a_call_that_cannot_be_encoded_is_the_error_of_its_batch(run: Run) -> None:
    async def body() -> None:
        provider = MessagesProvider("http://127.0.0.1:1")
        with pytest.raises(InvalidRequest, match="params"):
            await provider.submit_batch([("a", prompt("one")), ("b", prompt("two", params=b"[]"))])

    run(body())


def results_of(*results: dict[str, Any], url: str = "") -> Callable[[Received, asyncio.StreamWriter], Any]:
    lines = b"".join(msgspec.json.encode(result) + b"\n" for result in results)

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.path.endswith("results"):
            writer.write(response(lines, content="application/x-jsonl"))
        else:
            writer.write(response(batch("ended", results_url=url or None)))

    return answer


def test_the_results_of_a_batch_are_completions_and_typed_errors(run: Run) -> None:
    async def body() -> None:
        answer = results_of(
            {"custom_id": "a", "result": {"type": "succeeded", "message": message("one")}},
            {
                "custom_id": "b",
                "result": {"type": "errored", "error": failure("invalid_request_error", "bad schema")},
            },
            {"custom_id": "c", "result": {"type": "expired"}},
            {"custom_id": "d", "result": {"type": "canceled"}},
            {"custom_id": "e", "result": {"type": "succeeded", "message": message(stop_reason="refusal")}},
        )
        async with serving(answer) as server:
            provider = MessagesProvider(server.url)
            found = {id: outcome async for id, outcome in provider.batch_results("b1")}
            await provider.close()

        assert found["a"].text == "one"
        assert found["a"].source == "batch"
        assert type(found["b"]) is InvalidRequest
        assert "bad schema" in str(found["b"])
        assert type(found["c"]) is ProviderTimeout
        assert type(found["d"]) is ProviderError
        assert type(found["e"]) is Refused
        assert server.received[-1].path == "/v1/messages/batches/b1/results"

    run(body())


def test_results_are_read_where_the_server_says_but_the_key_goes_to_no_other_server(run: Run) -> None:
    async def body() -> None:
        answer = results_of()
        async with serving(answer) as other, serving(answer) as server:
            provider = MessagesProvider(server.url, KEY)
            server.answer = results_of(url=f"{server.url}/elsewhere/results")
            assert [found async for found in provider.batch_results("b1")] == []
            server.answer = results_of(url=f"{other.url}/steal/results")
            assert [found async for found in provider.batch_results("b1")] == []
            await provider.close()

        assert [request.path for request in server.received if request.path.endswith("results")] == [
            "/elsewhere/results",
            "/v1/messages/batches/b1/results",
        ]
        assert other.received == []

    run(body())


def test_results_that_break_off_give_what_has_come_and_then_an_error(run: Run) -> None:
    async def body() -> None:
        line = (
            msgspec.json.encode({"custom_id": "a", "result": {"type": "succeeded", "message": message()}})
            + b"\n"
        )

        async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
            if request.path.endswith("results"):
                writer.write(response(line + line[:40], headers={"content-length": "5000"}))
            else:
                writer.write(response(batch("ended")))

        async with serving(answer) as server:
            provider = MessagesProvider(server.url)
            found = []
            with pytest.raises(ProviderConnection, match="could not give the results of batch 'b1'"):
                async for id, _ in provider.batch_results("b1"):
                    found.append(id)
            await provider.close()

        assert found == ["a"]

    run(body())


def test_a_batch_that_is_not_known_is_an_invalid_request(run: Run) -> None:
    async def body() -> None:
        async with serving(always(response(failure("not_found_error", "no"), 404))) as server:
            provider = MessagesProvider(server.url)
            with pytest.raises(
                InvalidRequest, match="could not look at batch 'b9'.*check the id of the batch"
            ):
                await provider.poll_batch("b9")
            await provider.close()

    run(body())


# The splitter.

LINE = st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b""))
DATA = st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=5)


@pytest.mark.slow
@given(
    wanted=DATA,
    end=st.sampled_from([b"\n", b"\r\n"]),
    space=st.booleans(),
    cuts=st.lists(st.integers(0, 400)),
)
def test_events_are_the_same_wherever_the_bytes_are_cut(
    wanted: list[list[bytes]], end: bytes, space: bool, cuts: list[int]
) -> None:
    """Law: the data of events does not depend on chunks, line ends, comments or fields that do not matter."""
    stream = b""
    for lines in wanted:
        stream += b": comment" + end + b"event: x" + end
        for line in lines:
            # A blank after the colon is none of the data's, so data that begins with one needs it.
            blank = b" " if space or line.startswith(b" ") else b""
            stream += b"data:" + blank + line + end
        stream += b"id: 7" + end + end
    splitter = EventLines()
    places = [0, *sorted({min(cut, len(stream)) for cut in cuts}), len(stream)]

    found = [data for a, b in pairwise(places) for data in splitter.feed(stream[a:b])]

    assert found == [data for lines in wanted if (data := b"\n".join(lines))]


def test_an_event_without_its_blank_line_is_none() -> None:
    splitter = EventLines()

    assert splitter.feed(b"data: {}\n") == []
    assert splitter.feed(b"\n\n") == [b"{}"]


def test_blanks_after_the_colon_may_differ_within_an_event() -> None:
    assert EventLines().feed(b"event: x\ndata:a\ndata:  b\n\ndata: c\ndata:d\n\n") == [b"a\n b", b"c\nd"]


# The whole of it, against the server that the rest of avm is tested with.


def test_calls_counts_limits_and_batches_agree_with_the_messages_server(run: Run) -> None:
    async def body() -> None:
        server = MessagesServer("Hello, you.", limits=Limits(requests=600), api_key=KEY, batch_seconds=0.0)
        async with server:
            provider = MessagesProvider(server.base_url, KEY)
            seen: list[StreamEvent] = []
            plainly = await provider.complete(prompt("Hi"))
            streamed = await provider.complete(prompt("Hi"), on_event=seen.append)
            counted = await provider.count(prompt("Hi"))
            batch_id = await provider.submit_batch([("a", prompt("Hi"))])
            state = await provider.poll_batch(batch_id)
            found = {id: outcome async for id, outcome in provider.batch_results(batch_id)}
            await provider.close()

        assert plainly.text == streamed.text == "Hello, you."
        assert plainly.usage is not None
        assert plainly.usage.input_tokens == counted
        assert plainly.limits is not None
        assert plainly.limits.requests is not None
        assert plainly.limits.requests.limit == 600
        assert type(seen[0]) is Started
        assert "".join(each.text for each in seen if isinstance(each, Delta)) == "Hello, you."
        assert state == BatchState(True, 1, 0)
        assert isinstance(found["a"], Completion)
        assert found["a"].text == "Hello, you."

    run(body())


def test_a_wrong_key_is_not_authorized_at_the_messages_server(run: Run) -> None:
    async def body() -> None:
        async with MessagesServer(api_key="another") as server:
            provider = MessagesProvider(server.base_url, KEY)
            with pytest.raises(NotAuthorized, match="check api_key="):
                await provider.complete(prompt("Hi"))
            await provider.close()

    run(body())
