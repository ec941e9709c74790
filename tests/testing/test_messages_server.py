"""The Messages server over real HTTP: what it answers, charges and refuses, and how it breaks."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.errors import SpecError
from avm.io.limits import Limits
from avm.io.providers.provider import Price
from avm.testing.messages_server import Call, MessagesServer, ServerFault, ServerReply
from avm.testing.messages_server.__main__ import main
from avm.testing.messages_server.buckets import Buckets
from avm.testing.messages_server.cache import HOUR, MINUTES, Prefixes, PromptCache
from avm.testing.messages_server.connection import Connection, HTTPRequest
from avm.testing.messages_server.problem import ProblemError

Run = Callable[[Coroutine[Any, Any, Any]], Any]

SONNET = Price(input=2, output=10, cache_read=0.1, cache_write=2.5, cache_write_hour=4)
LONG = "All agents share this. " * 200


class Reply:
    """A response as its bytes say it."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        head, _, self.body = raw.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split()[1])
        self.headers = dict(line.split(": ", 1) for line in lines)
        if self.headers.get("transfer-encoding") == "chunked":
            self.body = unchunk(self.body)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str, str]:
        error = self.json["error"]
        return self.status, error["type"], error["message"]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(part.split("data: ", 1)[1]) for part in self.body.decode().split("\n\n") if part]


def unchunk(body: bytes) -> bytes:
    pieces = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        pieces.append(rest[: int(size, 16)])
        body = rest[int(size, 16) + 2 :]
    return b"".join(pieces)


class Clock:
    """Time that is moved by hand; whoever sleeps moves it."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


class Gate:
    """Holds all who sleep until so many requests have come."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.server: MessagesServer | None = None

    async def sleep(self, seconds: float) -> None:
        assert self.server is not None
        while self.server.received < self.count:
            await asyncio.sleep(0)


def body(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": "claude-test", "max_tokens": 100, "messages": [user(text)], **fields}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def marked(text: str, ttl: str = "5m") -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}}]


def encoded(
    content: Any, path: str = "/v1/messages", method: str = "POST", headers: str = "", last: bool = True
) -> bytes:
    text = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
    close = "connection: close\r\n" if last else ""
    head = f"{method} {path} HTTP/1.1\r\nhost: here\r\n{headers}{close}content-length: {len(text)}\r\n\r\n"
    return head.encode() + text


async def send(server: MessagesServer, content: Any = None, **options: Any) -> Reply:
    """Send one request on a connection of its own and read until it ends."""
    return Reply(await exchange(server, encoded(content if content is not None else body(), **options)))


async def get(server: MessagesServer, path: str) -> Reply:
    return Reply(await exchange(server, encoded(None, path, "GET")))


async def exchange(server: MessagesServer, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.base_url.rsplit(":", 1)[1]))
    try:
        writer.write(raw)
        return await reader.read()
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


def serve(
    run: Run, test: Callable[[MessagesServer], Coroutine[Any, Any, Any]], *args: Any, **options: Any
) -> Any:
    """Run a test's body against a server."""

    async def serving() -> Any:
        async with MessagesServer(*args, **options) as server:
            return await test(server)

    return run(serving())


# --- replies ---------------------------------------------------------------------------------------------------


def test_without_a_script_it_says_what_was_said(run: Run) -> None:
    reply = serve(run, lambda server: send(server, body("What a day!")))

    assert reply.status == 200
    assert reply.json["content"] == [{"type": "text", "text": "You said: What a day!"}]
    assert reply.json["stop_reason"] == "end_turn"
    assert reply.json["usage"]["input_tokens"] == round(len("What a day!") / 3.5)
    assert reply.headers["request-id"].startswith("req_")


def test_a_script_is_played_in_order_and_its_end_is_an_error(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        texts = [(await send(server)).json["content"][0]["text"] for _ in range(2)]
        assert texts == ["One.", "Two."]
        assert (await send(server)).error[:2] == (500, "api_error")

    serve(run, test, ["One.", "Two."])


def test_a_function_replies_to_the_request_it_gets_and_may_be_async(run: Run) -> None:
    async def reply(call: Call) -> str:
        return f"{call.number} {call.model} {call.system} {call.messages[0]['content']} {call.max_tokens}"

    found = serve(run, lambda server: send(server, body("Hi", system="Be kind.")), reply)

    assert found.json["content"][0]["text"] == "1 claude-test Be kind. Hi 100"


@pytest.mark.parametrize(
    "reason", ["end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal"]
)
def test_a_reply_ends_for_the_reason_the_script_gives(run: Run, reason: Any) -> None:
    found = serve(run, send, ServerReply("So.", stop_reason=reason))

    assert found.json["stop_reason"] == reason


def test_a_reply_is_cut_at_its_tokens_its_stop_sequences_and_the_context(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        short = (await send(server, body(max_tokens=2))).json
        assert (short["stop_reason"], short["usage"]["output_tokens"]) == ("max_tokens", 2)
        assert short["content"][0]["text"] == "abcdefg"
        stopped = (await send(server, body(stop_sequences=["jk"]))).json
        assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "jk")
        assert stopped["content"][0]["text"] == "abcdefghi"
        full = (await send(server, body("x" * 66))).json
        assert full["stop_reason"] == "model_context_window_exceeded"
        nothing = (await send(server, body(max_tokens=0))).json
        assert (nothing["content"], nothing["usage"]["output_tokens"]) == ([], 0)

    serve(run, test, "abcdefghijklmnopqrstuvwxyz", context=20)


def test_a_stream_says_the_same_as_a_message(run: Run) -> None:
    thought = {"type": "thinking", "thinking": "Hm, two words.", "signature": "sig"}
    text = {"type": "text", "text": "Let me count – ünd see what it is."}
    use = {"type": "tool_use", "id": "toolu_1", "name": "count", "input": {"text": "a b", "n": 2}}

    async def test(server: MessagesServer) -> None:
        whole = (await send(server)).json
        events = (await send(server, body(stream=True))).events
        kinds = [event["type"] for event in events]
        assert kinds[:3] == ["message_start", "content_block_start", "ping"]
        assert kinds[-2:] == ["message_delta", "message_stop"]
        assert pieces(events, 0, "thinking") == "Hm, two words."
        assert pieces(events, 0, "signature") == "sig"
        assert pieces(events, 1, "text") == text["text"]
        assert json.loads(pieces(events, 2, "partial_json")) == use["input"]
        assert events[0]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
        assert events[-2]["delta"]["stop_reason"] == whole["stop_reason"] == "tool_use"
        assert events[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]

    serve(run, test, lambda call: [thought, text, use])


def pieces(events: list[dict[str, Any]], index: int, field: str) -> str:
    deltas = [e["delta"] for e in events if e["type"] == "content_block_delta" and e["index"] == index]
    return "".join(delta.get(field, "") for delta in deltas)


def test_requests_of_one_connection_are_answered_in_order(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        both = encoded(body("one"), last=False) + encoded(body("two"))
        raw = await exchange(server, both)
        assert raw.index(b"You said: one") < raw.index(b"You said: two")

    serve(run, test, latency="50ms", sleep=Clock().sleep)


def test_a_body_in_chunks_is_a_body(run: Run) -> None:
    text = json.dumps(body("in chunks")).encode()
    head = b"POST /v1/messages HTTP/1.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    halves = b"".join(b"%x\r\n%s\r\n" % (len(half), half) for half in (text[:20], text[20:]))

    raw = serve(run, lambda server: exchange(server, head + halves + b"0\r\n\r\n"))

    assert b"You said: in chunks" in raw


@pytest.mark.slow
@given(cuts=st.lists(st.integers(1, 200), max_size=5))
def test_however_a_request_is_cut_on_its_way_it_is_the_same(cuts: list[int]) -> None:
    raw = encoded(body("whole"), last=False) + encoded(body("again"), last=False)
    found: list[HTTPRequest] = []

    class Line:
        def write(self, content: bytes) -> None: ...

    connection = Connection(lambda request, _: found.append(request) or b"", set())  # type: ignore[func-returns-value]
    connection.connection_made(Line())  # type: ignore[arg-type]
    at = 0
    for cut in [*cuts, len(raw)]:
        connection.data_received(raw[at : at + cut])
        at += cut

    assert [json.loads(request.body)["messages"][0]["content"] for request in found] == ["whole", "again"]


# --- what is refused -------------------------------------------------------------------------------------------


USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]}
RESULT = user([{"type": "tool_result", "tool_use_id": "t1", "content": "3"}])


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"model": None}, "model: Input should be a valid string"),
        ({"max_tokens": "many"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
        ({"max_tokens": 9000}, "max_tokens: 9000 > 8192, which is the maximum allowed"),
        ({"max_tokens": 0, "stream": True}, "max_tokens: 0 cannot be combined with stream"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        ({"messages": [{"role": "system", "content": "x"}]}, 'messages: Unexpected role "system"'),
        ({"messages": [{"role": "tool", "content": "x"}]}, 'messages: Unexpected role "tool"'),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages: first message must use"),
        ({"messages": [user("")]}, "messages.0: all messages must have non-empty content"),
        ({"messages": [user(" \n")]}, "messages: text content blocks must contain non-whitespace text"),
        ({"messages": [user([{"type": "text", "text": ""}])]}, "messages: text content blocks must be non-"),
        ({"messages": [user([{"text": "x"}])]}, "messages.0.content.0.type: Field required"),
        ({"messages": [user("x"), USE, user("y")]}, "messages.1: `tool_use` ids were found without"),
        ({"messages": [user("x"), RESULT]}, "messages.1.content: unexpected `tool_use_id` found in"),
        ({"system": [{"type": "text", "text": ""}]}, "system: text content blocks must be non-empty"),
        ({"tools": [{"name": "f"}]}, "tools.0.custom.input_schema: Field required"),
        ({"tools": [{"name": "f", "input_schema": {}}]}, "tools.0.custom.input_schema.type: Field required"),
        (
            {"tools": [{"name": "a b", "input_schema": {}}]},
            "tools.0.custom.name: String should match pattern",
        ),
        (
            {"tools": [{"name": "f", "input_schema": {"type": "object"}}] * 2},
            "tools: Tool names must be unique.",
        ),
        ({"messages": [user("x" * 8000)]}, "prompt is too long: 2286 tokens > 2000 maximum"),
        ({"messages": [user(marked("x") * 5)]}, "A maximum of 4 blocks with cache_control may be provided"),
        (
            {"messages": [user([*marked("x"), *marked("y", "1h")])]},
            "a ttl='1h' cache_control block must not come after a ttl='5m'",
        ),
    ],
)
def test_what_is_wrong_with_a_request_is_said_as_the_api_says_it(
    run: Run, wrong: dict[str, Any], says: str
) -> None:
    async def test(server: MessagesServer) -> Reply:
        found = await send(server, body(**wrong))
        assert server.ledger().invalid == 1
        return found

    found = serve(run, test, context=2000, max_output_tokens=8192)

    assert found.error[:2] == (400, "invalid_request_error")
    assert found.error[2].startswith(says)
    assert found.json["request_id"] == found.headers["request-id"]


def test_a_tool_call_and_its_result_are_taken(run: Run) -> None:
    found = serve(run, lambda server: send(server, body(messages=[user("x"), USE, RESULT])))

    assert found.json["content"][0]["text"] == "The tool says: 3"


def test_what_is_no_json_or_no_path_or_no_model_is_refused(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        assert (await send(server, b'{"model": ')).error[:2] == (400, "invalid_request_error")
        assert (await send(server, path="/v2/nothing")).error[:2] == (404, "not_found_error")
        assert (await send(server, body(model="gpt"))).error == (404, "not_found_error", "model: gpt")

    serve(run, test, models=["claude-test"])


def test_only_the_right_key_is_taken_and_it_is_not_shown(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        assert (await send(server)).error == (401, "authentication_error", "x-api-key header is required")
        wrong = await send(server, headers="x-api-key: sk-wrong\r\n")
        assert wrong.error == (401, "authentication_error", "invalid x-api-key")
        assert (await send(server, headers="X-Api-Key: sk-right\r\n")).status == 200
        assert (await send(server, headers="authorization: Bearer sk-right\r\n")).status == 200
        assert "sk-" not in f"{server!r} {server.requests!r} {wrong.raw!r}"
        assert server.requests[0].headers["x-api-key"] == "sk-right"

    serve(run, test, api_key="sk-right")


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: -4\r\n\r\n"])
def test_what_is_no_http_is_answered_400_and_the_connection_closed(run: Run, raw: bytes) -> None:
    found = serve(run, lambda server: exchange(server, raw))

    assert Reply(found).status == 400


# --- limits ----------------------------------------------------------------------------------------------------


def test_requests_over_the_limit_get_429_with_the_seconds_until_one_fits(run: Run) -> None:
    clock = Clock()

    async def test(server: MessagesServer) -> None:
        first = await send(server)
        assert first.headers["anthropic-ratelimit-requests-limit"] == "2"
        assert first.headers["anthropic-ratelimit-requests-remaining"] == "1"
        await send(server)
        late = await send(server)
        assert late.error[:2] == (429, "rate_limit_error")
        assert late.headers["retry-after"] == "30"
        clock.time += 30
        assert (await send(server)).status == 200
        ledger = server.ledger()
        assert (ledger.accepted, ledger.rejected) == (3, 1)

    serve(run, test, limits=Limits(requests=2), now=clock.now)


def test_what_is_read_from_the_cache_does_not_count_as_input(run: Run) -> None:
    clock = Clock()

    async def test(server: MessagesServer) -> None:
        request = body("x" * 35, system=marked(LONG))
        first = await send(server, request)
        second = await send(server, request)
        name = "anthropic-ratelimit-input-tokens-remaining"
        assert int(first.headers[name]) - int(second.headers[name]) == 10

    serve(run, test, limits=Limits(input_tokens=10_000), now=clock.now)


def test_output_may_overdraw_its_bucket_and_then_has_to_be_waited_for(run: Run) -> None:
    clock = Clock()

    async def test(server: MessagesServer) -> None:
        assert (await send(server)).headers["anthropic-ratelimit-output-tokens-remaining"] == "0"
        late = await send(server)
        # 30 too much and one to have, at one a second.
        assert late.headers["retry-after"] == "31"
        reset = late.headers["anthropic-ratelimit-output-tokens-reset"]
        assert reset.endswith("Z")

    serve(run, test, ServerReply("x", output_tokens=90), limits=Limits(output_tokens=60), now=clock.now)


def test_families_of_models_have_limits_of_their_own(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        assert (await send(server, body(model="claude-opus-9"))).status == 200
        assert (await send(server, body(model="claude-opus-8"))).status == 429
        assert (await send(server, body(model="claude-haiku-9"))).status == 200

    serve(run, test, limits={"claude-opus": Limits(requests=1)})


def test_over_its_capacity_it_is_overloaded(run: Run) -> None:
    gate = Gate(3)

    async def test(server: MessagesServer) -> None:
        gate.server = server
        found = await asyncio.gather(*[send(server) for _ in range(3)])
        assert sorted(reply.status for reply in found) == [200, 529, 529]
        assert server.in_flight == 0

    serve(run, test, latency="20ms", capacity=1, sleep=gate.sleep)


@pytest.mark.slow
@given(
    steps=st.lists(st.tuples(st.floats(0, 20), st.integers(1, 120)), max_size=40),
    limit=st.integers(1, 100),
)
def test_no_window_lets_in_more_than_a_bucket_and_what_it_gained(
    steps: list[tuple[float, int]], limit: int
) -> None:
    buckets = Buckets(Limits(input_tokens=limit), 0.0)
    now, taken = 0.0, 0
    for wait, amount in steps:
        now += wait
        try:
            buckets.check(amount, now)
        except ProblemError as problem:
            assert problem.retry_after is not None
            if amount <= limit:
                buckets.check(amount, now + problem.retry_after)
                now += problem.retry_after
            continue
        buckets.take(amount, now)
        taken += amount
        assert taken <= limit + now * limit / 60 + 1e-6


# --- prompt cache ----------------------------------------------------------------------------------------------


def usage(reply: Reply) -> tuple[int, int, int]:
    found = reply.json["usage"]
    return found["input_tokens"], found["cache_creation_input_tokens"], found["cache_read_input_tokens"]


def test_a_marked_prefix_is_written_once_and_read_until_its_time_is_over(run: Run) -> None:
    clock = Clock()
    shared = round(len(LONG) / 3.5)

    async def test(server: MessagesServer) -> None:
        request = body("x" * 35, system=marked(LONG))
        assert usage(await send(server, request)) == (10, shared, 0)
        clock.time += 299
        assert usage(await send(server, request)) == (10, 0, shared)
        clock.time += 299
        assert usage(await send(server, request)) == (10, 0, shared)
        clock.time += 301
        assert usage(await send(server, request)) == (10, shared, 0)
        tokens = server.ledger().live
        assert (tokens.written, tokens.read, tokens.input) == (2 * shared, 2 * shared, 40)
        assert tokens.usd(SONNET) == pytest.approx(
            (2 * shared * 2.5 + 2 * shared * 0.1 + 40 * 2 + tokens.output * 10) / 1e6
        )

    serve(run, test, now=clock.now)


def test_equal_prompts_at_once_all_pay_for_writing(run: Run) -> None:
    """What is written can be read once the first response has begun, so a leader has to go first."""

    gate = Gate(5)

    async def test(server: MessagesServer) -> None:
        gate.server = server
        request = body(system=marked(LONG))
        found = await asyncio.gather(*[send(server, request) for _ in range(5)])
        assert sum(usage(reply)[2] for reply in found) == 0
        assert usage(await send(server, request))[1] == 0

    serve(run, test, latency="20ms", sleep=gate.sleep)


def test_a_conversation_that_goes_on_reads_what_its_last_turn_wrote(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        first = user(marked(LONG))
        await send(server, body(messages=[first]))
        plain = user([{"type": "text", "text": LONG}])
        said = {"role": "assistant", "content": "So it is."}
        longer = await send(server, body(messages=[plain, said, user(marked("And then?"))]))
        fresh, written, read = usage(longer)
        assert read == round(len(LONG) / 3.5)
        assert (fresh, written) == (0, round((len(LONG) + 18) / 3.5) - read)

    serve(run, test)


@pytest.mark.parametrize(
    "change, reads",
    [
        ({}, True),
        ({"max_tokens": 7}, True),
        ({"tool_choice": {"type": "auto"}}, False),
        ({"model": "claude-other"}, False),
        ({"tools": [{"name": "g", "input_schema": {"type": "object"}}]}, False),
        ({"system": "Be other."}, False),
    ],
)
def test_a_change_before_the_mark_loses_the_cache(run: Run, change: dict[str, Any], reads: bool) -> None:
    async def test(server: MessagesServer) -> None:
        await send(server, body(messages=[user(marked(LONG))]))
        found = await send(server, body(messages=[user(marked(LONG))], **change) | change)
        assert (usage(found)[2] > 0) == reads

    serve(run, test)


def test_a_prefix_that_is_too_short_is_not_cached_and_nothing_is_said(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        for _ in range(2):
            assert usage(await send(server, body(system=marked("x" * 3500))))[1:] == (0, 0)

    serve(run, test)


def test_the_hour_is_charged_up_to_its_last_mark_and_five_minutes_behind_it(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        await send(server, body(system=marked(LONG, "1h"), messages=[user(marked(LONG + "!" * 5))]))
        tokens = server.ledger().live
        assert tokens.written_hour == round(len(LONG) / 3.5)
        assert tokens.written == round((2 * len(LONG) + 5) / 3.5) - tokens.written_hour

    serve(run, test)


def test_a_mark_at_the_top_is_one_at_the_last_block(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        request = body(LONG, cache_control={"type": "ephemeral"})
        await send(server, request)
        assert usage(await send(server, request)) == (0, 0, round(len(LONG) / 3.5))

    serve(run, test)


@pytest.mark.slow
@given(
    blocks=st.integers(1, 60),
    marks=st.sets(st.integers(0, 59), min_size=1, max_size=4),
    hours=st.integers(0, 4),
    before=st.integers(0, 60),
)
def test_what_is_read_written_and_fresh_is_all_of_the_prompt(
    blocks: int, marks: set[int], hours: int, before: int
) -> None:
    """And only what lies at most 19 blocks before a mark is read."""
    cache = PromptCache(min_tokens=100)
    keys = [b"%d" % number for number in range(blocks)]
    tokens = [100 * (number + 1) for number in range(blocks)]
    places = sorted(mark for mark in marks if mark < blocks)
    prompt = Prefixes(keys, tokens, [(m, HOUR if n < hours else MINUTES) for n, m in enumerate(places)])
    cache.commit(cache.plan(Prefixes(keys, tokens, [(min(before, blocks - 1), MINUTES)]), 0.0), 0.0)

    plan = cache.plan(prompt, 1.0)

    last = tokens[places[-1]] if places else 0
    reached = [m for m in places if m - 20 < min(before, blocks - 1) <= m]
    assert plan.read == (tokens[min(before, blocks - 1)] if reached else 0)
    assert plan.read + plan.written + plan.written_hour == max(plan.read, last)
    assert min(plan.written, plan.written_hour) >= 0


# --- faults ----------------------------------------------------------------------------------------------------


def always(fault: ServerFault) -> Callable[[int, Call], ServerFault]:
    return lambda number, call: fault


def struck(run: Run, fault: ServerFault, request: dict[str, Any] | None = None, **options: Any) -> bytes:
    return serve(
        run,
        lambda server: exchange(server, encoded(request or body())),
        faults=always(fault),
        **options,
    )


@pytest.mark.parametrize("status", [400, 403, 413, 429, 500, 502, 504, 529])
def test_a_status_is_answered_as_told_and_nothing_is_charged(run: Run, status: int) -> None:
    async def test(server: MessagesServer) -> None:
        found = await send(server)
        assert found.status == status
        assert found.headers["retry-after"] == "7"
        assert server.ledger().live.requests == 0
        assert server.ledger().faults == 1

    serve(run, test, faults=always(ServerFault.status(status, retry_after=7)))


def test_a_status_that_is_no_error_is_refused() -> None:
    with pytest.raises(SpecError, match="400 to 599"):
        ServerFault.status(200)


def test_a_spend_limit_is_a_429_with_a_code_and_no_time(run: Run) -> None:
    found = Reply(struck(run, ServerFault.spend_limit()))

    assert found.status == 429
    assert "retry-after" not in found.headers
    assert found.json["error"]["details"]["error_code"] == "enforced_spend_limit_reached"


def test_a_reply_can_be_closed_after_every_byte(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        whole = await exchange(server, encoded(body()))
        for count in range(0, len(whole), 37):
            cut[0] = count
            assert len(await exchange(server, encoded(body()))) == count

    cut = [100_000]
    serve(run, test, faults=lambda number, call: ServerFault.close(after=cut[0]))


@pytest.mark.parametrize("after", [0, 40])
def test_a_reset_is_a_reset(run: Run, after: int) -> None:
    async def test(server: MessagesServer) -> None:
        with pytest.raises(ConnectionResetError):
            await exchange(server, encoded(body()))

    serve(run, test, faults=always(ServerFault.reset(after=after)))


def test_a_page_comes_in_place_of_the_json(run: Run) -> None:
    found = Reply(struck(run, ServerFault.html()))

    assert (found.status, found.headers["content-type"]) == (200, "text/html")


def test_half_a_json_comes_as_if_it_were_all(run: Run) -> None:
    found = Reply(struck(run, ServerFault.half()))

    assert int(found.headers["content-length"]) == len(found.body)
    with pytest.raises(json.JSONDecodeError):
        found.json  # noqa: B018


@pytest.mark.parametrize("by", [-5, 5])
def test_a_length_can_be_wrong_both_ways(run: Run, by: int) -> None:
    found = Reply(struck(run, ServerFault.wrong_length(by)))

    assert int(found.headers["content-length"]) == len(found.body) + by


def test_a_stream_is_cut_after_its_events_without_an_end(run: Run) -> None:
    raw = struck(run, ServerFault.cut(events=3), body(stream=True))

    assert raw.count(b"event: ") == 3
    assert not raw.endswith(b"0\r\n\r\n")


def test_an_error_can_come_within_a_stream(run: Run) -> None:
    found = Reply(struck(run, ServerFault.error_event(events=2), body(stream=True)))

    assert [event["type"] for event in found.events] == ["message_start", "content_block_start", "error"]
    assert found.events[-1]["error"]["type"] == "overloaded_error"


def test_a_slow_stream_waits_before_each_event(run: Run) -> None:
    clock = Clock()
    found = Reply(struck(run, ServerFault.slow(2.0), body(stream=True), sleep=clock.sleep, now=clock.now))

    assert clock.slept == [2.0] * len(found.events)


@pytest.mark.parametrize("fault", [ServerFault.hang(), ServerFault.endless()])
@pytest.mark.parametrize("stream", [False, True])
def test_what_never_ends_ends_with_the_client(run: Run, fault: ServerFault, stream: bool) -> None:
    async def test(server: MessagesServer) -> None:
        waiting = asyncio.create_task(exchange(server, encoded(body(stream=stream))))
        while not server.received:
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        while server.connections or server.in_flight:
            await asyncio.sleep(0)

    serve(run, test, faults=always(fault))


def test_leaving_the_block_ends_what_hangs(run: Run) -> None:
    async def test() -> None:
        async with MessagesServer(faults=always(ServerFault.hang())) as server:
            waiting = asyncio.create_task(exchange(server, encoded(body())))
            while not server.received:
                await asyncio.sleep(0)
        with pytest.raises(ConnectionResetError):
            await waiting

    run(test())


# --- counting, batches, the rest -------------------------------------------------------------------------------


def test_tokens_are_counted_as_they_are_charged(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        tools = [{"name": "f", "description": "d" * 50, "input_schema": {"type": "object"}}]
        request = body("Hello", system="Be kind.", tools=tools)
        counted = await send(server, request, path="/v1/messages/count_tokens?beta=true")
        assert counted.json["input_tokens"] == usage(await send(server, request))[0]

    serve(run, test)


def entries(*texts: str) -> dict[str, Any]:
    return {"requests": [{"custom_id": text, "params": body(text)} for text in texts]}


def test_a_batch_is_worked_off_in_its_time_at_half_the_price(run: Run) -> None:
    clock = Clock()

    async def test(server: MessagesServer) -> None:
        made = (await send(server, entries("a", "b", "c"), path="/v1/messages/batches")).json
        path = f"/v1/messages/batches/{made['id']}"
        assert (made["processing_status"], made["request_counts"]["processing"]) == ("in_progress", 3)
        assert (await get(server, f"{path}/results")).status == 404
        clock.time += 60
        ended = (await get(server, path)).json
        assert (ended["processing_status"], ended["request_counts"]["succeeded"]) == ("ended", 3)
        lines = (await get(server, f"{path}/results")).body.splitlines()
        results = {line["custom_id"]: line["result"] for line in map(json.loads, lines)}
        assert results["b"]["message"]["content"][0]["text"] == "You said: b"
        ledger = server.ledger()
        assert ledger.batched.requests == 3
        assert ledger.usd(SONNET) == ledger.batched.usd(SONNET) / 2

    serve(run, test, batch_seconds=60, now=clock.now)


def test_requests_of_a_batch_can_fail_expire_or_be_wrong(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        wanted = entries("good", "bad", "late", "wrong")
        wanted["requests"][3]["params"]["messages"] = []
        made = (await send(server, wanted, path="/v1/messages/batches")).json
        counts = (await get(server, f"/v1/messages/batches/{made['id']}")).json["request_counts"]
        assert counts == {"processing": 0, "succeeded": 1, "errored": 2, "canceled": 0, "expired": 1}

    serve(run, test, batch_seconds=0, batch_outcomes={"bad": "errored", "late": "expired"}.get)


def test_a_batch_that_is_cancelled_ends_with_nothing_done(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        made = (await send(server, entries("a"), path="/v1/messages/batches")).json
        path = f"/v1/messages/batches/{made['id']}"
        assert (await send(server, b"", path=f"{path}/cancel")).json["processing_status"] == "canceling"
        assert (await get(server, path)).json["request_counts"]["canceled"] == 1
        assert server.ledger().batched.requests == 0
        assert (await send(server, b"", path=f"{path}/cancel")).status == 400

    serve(run, test, batch_seconds=60)


def test_the_ledger_and_the_models_can_be_asked_for(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        await send(server)
        assert (await get(server, "/ledger")).json["accepted"] == 1
        assert (await get(server, "/v1/models")).json["data"][0]["id"] == "claude-test"

    serve(run, test, models=["claude-test"])


def test_only_the_last_requests_are_kept(run: Run) -> None:
    async def test(server: MessagesServer) -> None:
        for text in "abc":
            await send(server, body(text))
        assert [call.text for call in server.requests] == ["b", "c"]
        assert server.received == 3

    serve(run, test, kept=2)


def test_a_reply_that_cannot_be_one_says_so(run: Run) -> None:
    found = serve(run, send, lambda call: 7)

    assert found.error[:2] == (500, "api_error")
    assert "got 7" in found.error[2]


# --- the real SDK ----------------------------------------------------------------------------------------------

# Its import takes a second or two, so the first of these is slow whichever it is.
sdk = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def with_sdk(
    run: Run, test: Callable[[Any, MessagesServer], Coroutine[Any, Any, Any]], *args: Any, **options: Any
) -> None:
    import anthropic

    async def serving() -> None:
        async with (
            MessagesServer(*args, **options) as server,
            anthropic.AsyncAnthropic(api_key="sk-test", base_url=server.base_url, max_retries=0) as client,
        ):
            await test(client, server)

    run(serving())


ASK = {"model": "claude-test", "max_tokens": 50, "messages": [{"role": "user", "content": "How many?"}]}
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "count", "input": {"text": "a b"}}


class TestTheSDK:
    pytestmark = sdk

    def test_it_reads_a_message(self, run: Run) -> None:
        async def test(client: Any, server: MessagesServer) -> None:
            message = await client.messages.create(**ASK)
            assert message.content[0].text == "Let me see."
            assert message.content[1].input == {"text": "a b"}
            assert (message.stop_reason, message.usage.input_tokens) == ("tool_use", 3)
            assert message._request_id == "req_0000000000000001"
            assert server.requests[0].body["messages"] == ASK["messages"]

        with_sdk(run, test, lambda call: [{"type": "text", "text": "Let me see."}, TOOL], api_key="sk-test")

    def test_it_reads_a_stream(self, run: Run) -> None:
        async def test(client: Any, server: MessagesServer) -> None:
            async with client.messages.stream(**ASK) as stream:
                text = "".join([piece async for piece in stream.text_stream])
                message = await stream.get_final_message()
            assert text == "Two of them, if I am not wrong."
            assert message.content[1].input == {"text": "a b"}
            assert (message.stop_reason, message.usage.output_tokens) == ("tool_use", 29)

        reply = [{"type": "text", "text": "Two of them, if I am not wrong."}, TOOL]
        with_sdk(run, test, lambda call: reply)

    def test_it_counts_tokens(self, run: Run) -> None:
        async def test(client: Any, server: MessagesServer) -> None:
            asked = {name: value for name, value in ASK.items() if name != "max_tokens"}
            counted = await client.messages.count_tokens(**asked, system="Be kind.")
            assert counted.input_tokens == round(17 / 3.5)

        with_sdk(run, test)

    def test_it_takes_a_batch_through(self, run: Run) -> None:
        clock = Clock()

        async def test(client: Any, server: MessagesServer) -> None:
            batches = client.messages.batches
            made = await batches.create(
                requests=[
                    {"custom_id": "a", "params": ASK},
                    {"custom_id": "b", "params": {**ASK, "model": "x"}},
                ]
            )
            assert (await batches.retrieve(made.id)).processing_status == "in_progress"
            clock.time += 10
            assert (await batches.retrieve(made.id)).request_counts.succeeded == 1
            results = {each.custom_id: each.result async for each in await batches.results(made.id)}
            assert results["a"].message.content[0].text == "You said: How many?"
            assert results["b"].error.error.type == "not_found_error"
            assert [batch.id async for batch in batches.list()] == [made.id]
            other = await batches.create(requests=[{"custom_id": "c", "params": ASK}])
            assert (await batches.cancel(other.id)).processing_status == "canceling"

        with_sdk(run, test, models=["claude-test"], batch_seconds=10, now=clock.now)

    @pytest.mark.parametrize(
        "fault, error",
        [
            (ServerFault.status(429, retry_after=3), "RateLimitError"),
            (ServerFault.spend_limit(), "RateLimitError"),
            (ServerFault.status(529), "OverloadedError"),
            (ServerFault.status(500), "InternalServerError"),
            (ServerFault.status(403), "PermissionDeniedError"),
            (ServerFault.reset(), "APIConnectionError"),
            (ServerFault.close(), "APIConnectionError"),
        ],
    )
    def test_it_raises_what_a_fault_is(self, run: Run, fault: ServerFault, error: str) -> None:
        import anthropic

        async def test(client: Any, server: MessagesServer) -> None:
            with pytest.raises(getattr(anthropic, error)) as caught:
                await client.messages.create(**ASK)
            code = "enforced_spend_limit_reached" if fault.kind == "spend_limit" else None
            assert getattr(caught.value, "error_code", None) == code

        with_sdk(run, test, faults=always(fault))

    def test_it_meets_an_error_within_a_stream(self, run: Run) -> None:
        import anthropic

        async def test(client: Any, server: MessagesServer) -> None:
            with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
                async for _ in await client.messages.create(**ASK, stream=True):
                    pass

        with_sdk(run, test, faults=always(ServerFault.error_event(events=3)))


# --- the command -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_where_it_is_and_its_ledger_when_interrupted() -> None:
    command = [sys.executable, "-m", "avm.testing.messages_server", "--port", "0", "--requests", "1"]
    with subprocess.Popen(
        [*command, "--price", "2,10,0.1,2.5,4"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/ledger", timeout=10) as response:
            asked = json.load(response)
        process.send_signal(signal.SIGINT)
        ledger = json.loads(process.stdout.read())

    assert process.returncode == 0
    assert ledger == {**asked, "usd": 0.0}


@pytest.mark.parametrize(
    "option", [["--latency", "fast"], ["--fault", "boredom:0.1"], ["--fault", "529:2"], ["--price", "1,2"]]
)
def test_the_command_refuses_what_it_cannot_read(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(option)

    assert caught.value.code == 2
    assert option[1] in capsys.readouterr().err
