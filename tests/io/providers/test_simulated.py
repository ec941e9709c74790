"""Limits, prompt cache and accounts of the simulated server, in simulated time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.errors import InvalidRequest, RateLimited, SpecError
from avm.io import Completion, ModelRequest, Usage, encode_fragment
from avm.io.providers.provider import Price
from avm.io.providers.simulated import (
    EXPECTED_OUTPUT,
    AcceptedCall,
    Ledger,
    SimulatedCache,
    SimulatedLimits,
    SimulatedServer,
)
from avm.io.request import Hints

SONNET = "claude-sonnet-5-5"
SHARED = "s" * 52_500  # 15,000 tokens


def said(text: str, role: str = "user") -> bytes:
    return encode_fragment({"role": role, "content": text})


def asked(*texts: str, system: str = SHARED, **fields: Any) -> ModelRequest:
    """A request whose system prompt is worth caching."""
    fields.setdefault("hints", Hints(system=True))
    fields.setdefault("model", SONNET)
    return ModelRequest(messages=tuple(said(text) for text in texts), system=system, **fields)


def answer(tokens: int) -> Completion:
    return Completion(said("x", "assistant"), usage=Usage(0, tokens))


def serve(server: SimulatedServer, request: ModelRequest, now: float, output: int = 300) -> Usage:
    """Make a whole call in no time."""
    call = server.accept(request, now)
    server.begun(call, now)
    usage = server.settle(call, answer(output), now).usage
    assert usage is not None
    return usage


def test_requests_over_the_limit_are_told_when_to_come_again() -> None:
    server = SimulatedServer(SimulatedLimits(requests=60))
    for _ in range(60):
        serve(server, asked("Hi"), 0.0)

    with pytest.raises(RateLimited) as caught:
        server.accept(asked("Hi", agent="critic"), 0.0)

    assert caught.value.retry_after == pytest.approx(1.0)
    assert caught.value.limits is not None
    assert caught.value.limits.requests is not None
    assert (caught.value.limits.requests.remaining, caught.value.limits.requests.reset) == (0, 60.0)
    assert "by critic; there is in 1.000 s" in str(caught.value)
    serve(server, asked("Hi"), 1.0)


def test_a_call_that_comes_when_it_was_told_finds_room_whatever_the_time_is() -> None:
    for start in (0.0, 1e6 + 0.1, 1e9 / 7):
        server = SimulatedServer(SimulatedLimits(input_tokens=4_000_000))
        now = start
        for _ in range(300):
            try:
                serve(server, asked("Hi", hints=None), now)
            except RateLimited as error:
                assert error.retry_after is not None
                now += error.retry_after
                serve(server, asked("Hi", hints=None), now)
        assert server.ledger().answered == 300


def test_a_request_larger_than_a_minutes_worth_goes_when_all_of_it_is_there() -> None:
    server = SimulatedServer(SimulatedLimits(input_tokens=1000))

    serve(server, asked("Hi"), 0.0)
    with pytest.raises(RateLimited) as caught:
        server.accept(asked("Hi"), 0.0)

    assert caught.value.retry_after == pytest.approx(15_000 / 1000 * 60, rel=0.02)


def test_output_is_taken_as_usual_and_settled_by_what_was_written() -> None:
    server = SimulatedServer(SimulatedLimits(output_tokens=1000))
    call = server.accept(asked("Hi"), 0.0)
    taken = server.limits.told(0.0).output_tokens
    server.begun(call, 0.0)

    completion = server.settle(call, answer(100), 0.0)

    assert taken is not None
    assert taken.remaining == 1000 - EXPECTED_OUTPUT
    assert completion.limits is not None
    assert completion.limits.output_tokens is not None
    assert completion.limits.output_tokens.remaining == 900


def test_what_the_cache_reads_does_not_count_as_input() -> None:
    server = SimulatedServer(SimulatedLimits(input_tokens=20_000), SimulatedCache())

    for _ in range(100):
        serve(server, asked("Hi"), 0.0)

    assert server.ledger().rejected == 0


def test_a_prefix_can_be_read_only_once_the_response_that_wrote_it_has_begun() -> None:
    server = SimulatedServer(cache=SimulatedCache())
    leader = server.accept(asked("one"), 0.0)
    too_early = server.accept(asked("two"), 0.5)

    server.begun(leader, 1.0)
    follower = server.accept(asked("three"), 1.0)

    assert (leader.written, too_early.written, follower.written) == (15_000, 15_000, 0)
    assert (leader.read, too_early.read, follower.read) == (0, 0, 15_000)


def test_a_prefix_lives_five_minutes_from_its_last_use_and_an_hour_if_it_is_told() -> None:
    short, long = SimulatedServer(cache=SimulatedCache()), SimulatedServer(cache=SimulatedCache())
    hour = Hints(system=True, hour=True)

    reads = [serve(short, asked("x"), now).cache_read_tokens for now in (0.0, 299.0, 598.0, 898.0)]
    serve(long, asked("x", hints=hour), 0.0)

    assert reads == [0, 15_000, 15_000, 0]
    assert serve(long, asked("x", hints=hour), 3599.0).cache_read_tokens == 15_000
    assert long.ledger().cache_write_hour_tokens == 15_000
    assert long.ledger().cache_write_tokens == 0


def test_a_short_prefix_is_silently_not_cached() -> None:
    server = SimulatedServer(cache=SimulatedCache(min_tokens=1024))
    request = asked("Hi", system="s" * 3500)

    assert serve(server, request, 0.0) == serve(server, request, 1.0)
    assert server.ledger().cache_write_tokens == 0


@pytest.mark.parametrize("change", [{"model": "other"}, {"system": SHARED + "."}, {"tools": b"[]"}])
def test_another_model_prompt_or_set_of_tools_shares_nothing(change: dict[str, Any]) -> None:
    server = SimulatedServer(cache=SimulatedCache())
    serve(server, asked("Hi"), 0.0)

    assert serve(server, asked("Hi", **change), 1.0).cache_read_tokens == 0


def test_a_conversation_that_goes_on_reads_what_its_last_turn_wrote() -> None:
    server = SimulatedServer(cache=SimulatedCache())
    turns = ["a" * 7000, "b" * 7000, "c" * 7000]

    first = serve(server, asked(turns[0], hints=Hints(system=True, marks=(1,))), 0.0)
    second = serve(server, asked(*turns, hints=Hints(system=True, marks=(3,))), 1.0)
    forked = serve(server, asked("other", hints=Hints(system=True, marks=(1,))), 2.0)

    assert first.cache_write_tokens == second.cache_read_tokens > 17_000
    assert second.cache_write_tokens > 4000
    assert forked.cache_read_tokens == 15_000


def test_an_entry_too_far_before_the_breakpoint_is_not_found() -> None:
    server = SimulatedServer(cache=SimulatedCache())
    serve(server, asked("one", hints=Hints(marks=(1,))), 0.0)

    near = serve(server, asked("one", *"x" * 20, hints=Hints(marks=(21,))), 1.0)
    far = serve(server, asked("one", *"y" * 21, hints=Hints(marks=(22,))), 1.0)

    assert near.cache_read_tokens > 15_000
    assert far.cache_read_tokens == 0


def test_more_breakpoints_than_the_api_takes_are_refused() -> None:
    server = SimulatedServer(cache=SimulatedCache())

    with pytest.raises(InvalidRequest, match="may have 4 cache breakpoints, got 5"):
        server.accept(asked(*"abcd", hints=Hints(system=True, marks=(1, 2, 3, 4))), 0.0)


def test_without_hints_nothing_is_cached() -> None:
    server = SimulatedServer(cache=SimulatedCache())

    assert serve(server, asked("Hi", hints=None), 0.0) == serve(server, asked("Hi", hints=None), 1.0)


def test_old_prefixes_make_room_for_new_ones() -> None:
    cache = SimulatedCache(most=10)
    server = SimulatedServer(cache=cache)

    for number in range(100):
        serve(server, asked("Hi", system=f"{number} {SHARED}"), 0.0)

    assert len(cache) == 10


@pytest.mark.parametrize("leads, usd", [(True, 5.54), (False, 41.5)])
def test_a_thousand_agents_on_one_prompt_pay_what_the_design_says(leads: bool, usd: float) -> None:
    server = SimulatedServer(cache=SimulatedCache())
    own = "o" * (1750 - len(said("")))
    if leads:
        serve(server, asked(own), 0.0)
    calls = [server.accept(asked(own), 1.0) for _ in range(999 if leads else 1000)]
    for call in calls:
        server.begun(call, 1.0)
        server.settle(call, answer(300), 1.0)

    ledger = server.ledger()

    assert ledger.usd == pytest.approx(usd, rel=0.002)
    assert (ledger.answered, ledger.output_tokens, ledger.unpriced) == (1000, 300_000, 0)


def test_models_without_a_price_are_counted_apart() -> None:
    server = SimulatedServer(prices={"mine": Price(input=1.0, output=0.0)})

    serve(server, asked("Hi", model="unknown"), 0.0)
    serve(server, asked("Hi", model="mine-2.1"), 0.0)

    assert server.ledger().unpriced == 1
    assert server.ledger().usd == pytest.approx(0.015, rel=0.01)


@pytest.mark.parametrize("has_begun, left", [(False, 100_000), (True, 85_000)])
def test_a_call_that_fails_before_it_begins_has_used_no_input(has_begun: bool, left: int) -> None:
    server = SimulatedServer(SimulatedLimits(input_tokens=100_000))
    call = server.accept(asked("Hi"), 0.0)
    if has_begun:
        server.begun(call, 0.0)

    server.give_up(call, 0.0)

    told = server.limits.told(0.0).input_tokens
    assert told is not None
    assert told.remaining == pytest.approx(left, abs=20)
    assert server.ledger() == Ledger(given_up=1)


def test_a_clock_that_goes_back_fills_no_bucket() -> None:
    server = SimulatedServer(SimulatedLimits(requests=1))
    serve(server, asked("Hi"), 100.0)

    for now in (50.0, 100.0, 50.0, 100.0):
        with pytest.raises(RateLimited):
            server.accept(asked("Hi"), now)


@pytest.mark.parametrize("options", [{"ttl": 0}, {"min_tokens": -1}, {"most": 0}])
def test_a_cache_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="SimulatedCache: ttl must be above 0 s"):
        SimulatedCache(**options)


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(SpecError, match="requests must be a whole number of 1 or more"):
        SimulatedLimits(requests=0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "begin", "settle", "give up"]), st.integers(0, 9), st.floats(0, 20)),
    max_size=60,
)


@pytest.mark.slow
@given(steps=STEPS)
def test_no_window_has_more_requests_than_its_share_and_a_burst_and_all_comes_back(
    steps: list[tuple[str, int, float]],
) -> None:
    server = SimulatedServer(SimulatedLimits(10, 200_000, 3000), SimulatedCache())
    open_calls: list[AcceptedCall] = []
    accepted: list[float] = []
    now = 0.0
    for step, choice, seconds in steps:
        now += seconds
        if step == "ask":
            try:
                open_calls.append(server.accept(asked("Hi", system=f"{choice} {SHARED}"), now))
                accepted.append(now)
            except RateLimited as error:
                assert error.retry_after is not None
                assert error.retry_after > 0
        elif open_calls:
            call = open_calls[choice % len(open_calls)]
            if step == "begin":
                server.begun(call, now)
            else:
                open_calls.remove(call)
                server.settle(call, answer(300), now) if step == "settle" else server.give_up(call, now)
    for call in open_calls:
        server.give_up(call, now)

    assert all(sum(start <= at <= start + 60 for at in accepted) <= 20 for start in accepted)
    ledger = server.ledger()
    assert ledger.answered + ledger.given_up == len(accepted)
    told = server.limits.told(now + 3600)
    assert [a.remaining for a in (told.requests, told.input_tokens, told.output_tokens) if a] == [
        10,
        200_000,
        3000,
    ]
