"""The scripted provider: lists, functions, latency and faults."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.errors import BadOutput, Overloaded, ProviderError, SpecError
from avm.io import Completion, Latency, ModelRequest, ScriptedProvider, encode_fragment
from avm.io.providers import REALISTIC, echo
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
