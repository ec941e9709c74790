"""The scripted provider: lists, functions, latency and faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.errors import BadOutput, Overloaded, ProviderConnection, ProviderError, RateLimited, SpecError
from avm.io import (
    Completion,
    Latency,
    ModelRequest,
    RecordedProvider,
    Recordings,
    ScriptedProvider,
    encode_fragment,
)
from avm.io.limits import Allowance, Limits, RateLimits
from avm.io.prices import price_of
from avm.io.providers import REALISTIC, echo
from avm.io.providers.provider import Delta, Provider, Started, StreamEvent
from avm.io.providers.scripted import PIECES, CutStream, pieces_of
from avm.io.providers.simulated import SimulatedCache, SimulatedLimits, SimulatedServer
from avm.io.request import Hints
from tests.io.pooled import prompt

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def test_replies_of_a_list_are_given_in_order_and_their_end_is_an_error(run: Run) -> None:
    async def body() -> None:
        provider = ScriptedProvider(["one", {"role": "assistant", "content": "two"}])

        assert (await provider.complete(prompt("a"))).text == "one"
        assert (await provider.complete(prompt("b"))).text == "two"
        with pytest.raises(BadOutput, match="no reply for request 3"):
            await provider.complete(prompt("c"))

    run(body())


def test_a_function_answers_the_request(run: Run) -> None:
    async def slow(request: ModelRequest) -> str:
        return f"async {request.model}"

    async def body() -> None:
        plain = ScriptedProvider(lambda request: f"{request.position} messages")

        assert (await plain.complete(prompt("a"))).text == "1 messages"
        assert (await ScriptedProvider(slow).complete(prompt("a"))).text == "async m"

    run(body())


def test_a_message_with_tool_calls_stops_for_them(run: Run) -> None:
    async def body() -> None:
        call = {"id": "c1", "name": "f", "arguments": "{ }"}
        provider = ScriptedProvider([{"role": "assistant", "content": "", "tool_calls": [call]}])

        completion = await provider.complete(prompt("a"))

        assert completion.stop_reason == "tool_use"
        assert completion.tool_calls[0].arguments == "{ }"

    run(body())


def test_an_error_in_the_script_is_raised(run: Run) -> None:
    async def body() -> None:
        with pytest.raises(Overloaded):
            await ScriptedProvider([Overloaded("busy")]).complete(prompt("a"))

    run(body())


def test_faults_are_injected_by_request_and_number(run: Run) -> None:
    def every_second(request: ModelRequest, number: int) -> Exception | None:
        return ProviderError(f"fault {number}") if number % 2 == 0 else None

    async def body() -> None:
        provider = ScriptedProvider(faults=every_second)
        await provider.complete(prompt("a"))
        with pytest.raises(ProviderError, match="fault 2"):
            await provider.complete(prompt("a"))
        await provider.complete(prompt("a"))

    run(body())


def test_latency_is_slept_on_the_clock_that_is_handed_in_and_is_the_same_in_every_run(run: Run) -> None:
    async def waits_of_one_run() -> list[float]:
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        provider = ScriptedProvider(latency=REALISTIC, seed=7, sleep=sleep)
        for _ in range(200):
            await provider.complete(prompt("a"))
        return waits

    one, other = run(waits_of_one_run()), run(waits_of_one_run())

    assert one == other
    assert 0.1 < sorted(one)[100] < 0.14
    assert len(set(one)) == 200


def test_a_message_that_is_none_of_an_assistant_is_refused(run: Run) -> None:
    async def body() -> None:
        with pytest.raises(BadOutput, match="'role': 'assistant'"):
            await ScriptedProvider([{"role": "user", "content": "x"}]).complete(prompt("a"))

    run(body())


def test_a_whole_completion_is_passed_on(run: Run) -> None:
    async def body() -> None:
        reply = Completion(encode_fragment({"role": "assistant", "content": "x"}), source="cache")

        assert await ScriptedProvider([reply]).complete(prompt("a")) is reply

    run(body())


@pytest.mark.parametrize(
    "text, median, sigma",
    [
        ("120ms", 0.12, 0.0),
        ("0.2s", 0.2, 0.0),
        ("0", 0.0, 0.0),
        ("120ms~0.4", 0.12, 0.4),
        (" 2 s ~ 1 ", 2.0, 1.0),
    ],
)
def test_latencies_are_read_from_text(text: str, median: float, sigma: float) -> None:
    found = Latency.parse(text)

    assert (found.median, found.sigma) == pytest.approx((median, sigma))


@pytest.mark.parametrize("text", ["", "fast", "-1", "1.2.3", "10 minutes", "120ms~", "99999", "1~9"])
def test_a_latency_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        Latency.parse(text)


@given(median=st.floats(0.001, 10), sigma=st.floats(0, 3), seed=st.integers())
def test_latencies_are_never_negative_and_print_as_they_are_read(
    median: float, sigma: float, seed: int
) -> None:
    latency = Latency(median, sigma)

    assert latency.sample(Random(seed)) > 0
    assert Latency.parse(str(latency)).median == pytest.approx(median, rel=1e-4)


@pytest.mark.parametrize(
    "said, answer",
    [
        ("Hello  there", "You said: Hello there"),
        ("  ", "You said nothing."),
        ("First one. " + "word " * 40, "In 42 words you said, first of all: First one."),
        ("word " * 40, "In 40 words you said, first of all: " + " ".join(["word"] * 20) + " ..."),
    ],
)
def test_the_default_script_gives_back_what_was_said(said: str, answer: str) -> None:
    assert echo(prompt(said)) == answer


def test_the_default_script_tells_a_tools_result() -> None:
    result = encode_fragment({"role": "tool", "content": "3", "tool_call_id": "c", "name": "count"})

    assert echo(ModelRequest(model="m", messages=(result,))) == "count says: 3"


class Seconds:
    """A clock on which waiting takes no time."""

    def __init__(self) -> None:
        self.time = 100.0
        self.waits: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.time += seconds


def test_whoever_looks_gets_the_reply_in_pieces_over_its_time(run: Run) -> None:
    async def body() -> None:
        clock = Seconds()
        provider = ScriptedProvider(["one two three four five six seven"], latency=Latency(10.0, first=0.3))
        provider.use_clock(clock.now, clock.sleep)
        came: list[tuple[float, StreamEvent]] = []

        completion = await provider.complete(
            prompt("a"), on_event=lambda event: came.append((round(clock.time - 100, 2), event))
        )

        assert came == [
            (3.0, Started()),
            (4.75, Delta("one two")),
            (6.5, Delta(" three four")),
            (8.25, Delta(" five six")),
            (10.0, Delta(" seven")),
        ]
        assert completion.text == "one two three four five six seven"

    run(body())


def test_without_anybody_looking_there_is_one_wait(run: Run) -> None:
    async def body() -> None:
        clock = Seconds()
        provider = ScriptedProvider(latency=Latency(10.0), sleep=clock.sleep)

        await provider.complete(prompt("a"))

        assert clock.waits == [10.0]

    run(body())


def test_arguments_of_tool_calls_come_after_the_text_as_blocks_of_their_own(run: Run) -> None:
    calls = [{"id": f"c{n}", "name": "f", "arguments": f"{{{n}}}"} for n in range(2)]

    async def body(content: str) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        message = {"role": "assistant", "content": content, "tool_calls": calls}
        await ScriptedProvider([message]).complete(prompt("a"), on_event=events.append)
        return events

    assert run(body("Look.")) == [
        Started(),
        Delta("Look."),
        Delta("{0}", "tool", 1),
        Delta("{1}", "tool", 2),
    ]
    assert run(body("")) == [Started(), Delta("{0}", "tool", 0), Delta("{1}", "tool", 1)]


def test_a_recorded_reply_comes_in_pieces_too(run: Run) -> None:
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]

    async def body() -> None:
        recordings = Recordings([{"id": "a", "messages": said}])
        events: list[StreamEvent] = []
        request = ModelRequest(model="m", messages=recordings[0].fragments[:1], label="a")

        await RecordedProvider(recordings).complete(request, on_event=events.append)

        assert events == [Started(), Delta("Good"), Delta(" day.")]

    run(body())


@given(text=st.text())
def test_the_pieces_of_a_text_are_few_and_together_the_text(text: str) -> None:
    pieces = pieces_of(Completion(encode_fragment({"role": "assistant", "content": text})))

    assert "".join(piece.text for piece in pieces) == text
    assert len(pieces) <= PIECES
    assert all(piece.text for piece in pieces)


@pytest.mark.parametrize(
    "after, said", [(0, []), (2, ["one", " two"]), (99, ["one", " two", " three", " four", " five"])]
)
def test_a_stream_is_cut_after_as_many_pieces_as_the_fault_says(
    run: Run, after: int, said: list[str]
) -> None:
    async def body() -> None:
        provider = ScriptedProvider(
            ["one two three four five"], faults=lambda request, number: CutStream(after)
        )
        events: list[StreamEvent] = []

        with pytest.raises(ProviderConnection, match=f"broke after {after} pieces"):
            await provider.complete(prompt("a"), on_event=events.append)

        assert events == [Started(), *[Delta(word) for word in said]]

    run(body())


def test_a_call_nobody_looks_at_is_cut_at_its_end(run: Run) -> None:
    async def body() -> None:
        clock = Seconds()
        provider = ScriptedProvider(
            latency=Latency(2.0), sleep=clock.sleep, faults=lambda request, number: CutStream(1)
        )

        with pytest.raises(CutStream):
            await provider.complete(prompt("a"))

        assert clock.waits == [2.0]

    run(body())


def test_any_other_fault_comes_before_the_reply_begins(run: Run) -> None:
    async def body() -> None:
        events: list[StreamEvent] = []
        provider = ScriptedProvider(faults=lambda request, number: Overloaded("busy"))

        with pytest.raises(Overloaded):
            await provider.complete(prompt("a"), on_event=events.append)

        assert events == []

    run(body())


def test_a_cut_before_the_beginning_cannot_be() -> None:
    with pytest.raises(SpecError, match="after must be 0 pieces or more, got -1"):
        CutStream(-1)


@pytest.mark.parametrize("first", [-0.1, 1.1])
def test_a_share_that_is_none_is_refused(first: float) -> None:
    with pytest.raises(SpecError, match="first 0 to 1"):
        Latency(1.0, first=first)


def test_a_clock_of_the_pool_does_not_replace_the_sleep_that_was_chosen(run: Run) -> None:
    async def body() -> None:
        chosen, pools = Seconds(), Seconds()
        provider = ScriptedProvider(latency=Latency(1.0), sleep=chosen.sleep)
        provider.use_clock(pools.now, pools.sleep)

        await provider.complete(prompt("a"))

        assert (chosen.waits, pools.waits) == ([1.0], [])

    run(body())


def test_it_says_what_its_server_limits_caches_and_charges() -> None:
    plain: Provider = ScriptedProvider()
    told = ScriptedProvider(limits=Limits(requests=9))
    served = ScriptedProvider(
        server=SimulatedServer(SimulatedLimits(requests=5), SimulatedCache(min_tokens=7))
    )

    assert (plain.limits("m"), plain.capabilities("m").prompt_cache, plain.price("m")) == (
        Limits(),
        "none",
        None,
    )
    assert told.limits("m") == Limits(requests=9)
    assert served.limits("m") == Limits(requests=5)
    assert served.capabilities("m").prompt_cache == "prefix"
    assert served.capabilities("m").min_cached_tokens == 7
    assert served.price("claude-opus-5-5") == price_of("claude-opus-5-5")


def test_behind_a_server_calls_are_limited_cached_and_charged(run: Run) -> None:
    async def body() -> None:
        clock = Seconds()
        server = SimulatedServer(SimulatedLimits(requests=2), SimulatedCache())
        provider = ScriptedProvider(lambda request: "Yes.", latency=Latency(1.0, first=0.5), server=server)
        provider.use_clock(clock.now, clock.sleep)
        request = prompt("Hi", system="x" * 7000, hints=Hints(system=True))

        first = await provider.complete(request)
        second = await provider.complete(request)
        with pytest.raises(RateLimited) as caught:
            await provider.complete(request)

        assert first.usage is not None
        assert second.usage is not None
        assert (first.usage.cache_write_tokens, first.usage.cache_read_tokens) == (2000, 0)
        assert (second.usage.cache_write_tokens, second.usage.cache_read_tokens) == (0, 2000)
        assert second.limits is not None
        assert second.limits.requests is not None
        assert second.limits.requests.limit == 2
        assert caught.value.retry_after == pytest.approx(28.0)
        assert caught.value.limits is not None
        assert server.ledger().rejected == 1
        assert clock.waits == [0.5, 0.5] * 2

    run(body())


def test_behind_a_server_the_beginning_of_a_reply_says_what_is_left(run: Run) -> None:
    async def body() -> None:
        clock, seen = Seconds(), list[StreamEvent]()
        server = SimulatedServer(SimulatedLimits(requests=60))
        provider = ScriptedProvider(lambda request: "Yes.", latency=Latency(4.0, first=0.5), server=server)
        provider.use_clock(clock.now, clock.sleep)

        completion = await provider.complete(prompt("Hi"), on_event=seen.append)

        assert isinstance(seen[0], Started)
        assert seen[0].limits == RateLimits(requests=Allowance(60, 60, 0.0))
        assert completion.limits == seen[0].limits

    run(body())


def test_a_cancelled_call_gives_back_what_it_took(run: Run) -> None:
    async def body() -> None:
        server = SimulatedServer(SimulatedLimits(output_tokens=1000))
        provider = ScriptedProvider(latency=Latency(3000.0), server=server)
        call = asyncio.create_task(provider.complete(prompt("Hi")))
        await asyncio.sleep(0)

        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

        told = server.limits.told(asyncio.get_running_loop().time()).output_tokens
        assert told is not None
        assert told.remaining == 1000
        assert server.ledger().given_up == 1

    run(body())
