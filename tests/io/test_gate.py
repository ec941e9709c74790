"""The gate: who is sent when, what is tried again, and that nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import attrs
import pytest

from avm.actors import Actor, Kernel, Report, event, on
from avm.errors import (
    AskTimeout,
    AVMError,
    InvalidRequest,
    NotAuthorized,
    Overloaded,
    ProviderConnection,
    ProviderError,
    ProviderFailed,
    RateLimited,
    SpendLimitReached,
)
from avm.io import (
    AttemptReport,
    CallPolicy,
    Capabilities,
    Complete,
    Completion,
    Delta,
    Latency,
    Limits,
    ModelRequest,
    ModelStream,
    OnEvent,
    Piece,
    PlainProvider,
    PoolStatistics,
    PoolStatus,
    Restart,
    ScriptedProvider,
    Started,
    Usage,
    encode_fragment,
)
from avm.io.providers.scripted import CutStream
from avm.memory import Conversation, Store
from avm.testing import ManualClock
from tests.io.pooled import Gated, front_of, gates_of, pooled, prompt

Run = Callable[[Coroutine[Any, Any, Any]], Any]
T = TypeVar("T")

REPLY = Completion(encode_fragment({"role": "assistant", "content": "ok"}), usage=Usage(10, 2))


async def until(kernel: Kernel, clock: ManualClock, work: Awaitable[T], most: float = 600.0) -> T:
    """Let time pass until something is done."""
    task = asyncio.ensure_future(work)
    end = clock.now() + most
    while True:
        await kernel.idle()
        if task.done() or clock.now() >= end:
            break
        clock.advance(0.05)
    return await asyncio.wait_for(task, 0.01)


async def ask(
    kernel: Kernel,
    text: str,
    priority: str = "normal",
    policy: CallPolicy | None = None,
    timeout: float | None = None,
    stream: ModelStream | None = None,
    **fields: Any,
) -> Completion:
    call = Complete(prompt(text, **fields), priority, policy or CallPolicy(), stream)
    completion: Completion = await kernel.ask(front_of(kernel), call, timeout=timeout)
    return completion


async def status(kernel: Kernel) -> PoolStatistics:
    found: PoolStatistics = await kernel.ask(front_of(kernel), PoolStatus())
    return found


def is_at_rest(found: PoolStatistics) -> bool:
    """Tell whether nothing is queued, under way or reserved."""
    return (
        found.in_flight == found.queued == 0
        and all(gate.governor.in_flight == 0 for gate in found.gates)
        and all(gate.prefixes is None or gate.prefixes.warming == 0 for gate in found.gates)
    )


class Cached(Gated):
    """A gated provider with a prompt cache: says `Started` when `start` is set, answers when `gate` is."""

    def __init__(self) -> None:
        super().__init__()
        self.start = asyncio.Event()
        self.requests: list[ModelRequest] = []
        self.fails: list[ProviderError] = []

    def capabilities(self, model: str) -> Capabilities:
        return Capabilities(family="f", prompt_cache="prefix", min_cached_tokens=100)

    async def complete(self, request: ModelRequest, *, on_event: OnEvent | None = None) -> Completion:
        self.requests.append(request)
        if self.fails:
            raise self.fails.pop(0)
        if on_event is not None:
            await self.start.wait()
            on_event(Started())
        return await super().complete(request)


LONG = "You are a careful reviewer of plans. " * 40


def test_a_429_pauses_everybody_for_as_long_as_the_provider_says(run: Run) -> None:
    async def body() -> None:
        clock = ManualClock()
        sent: list[float] = []

        def answer(request: ModelRequest) -> Any:
            sent.append(clock.now())
            return RateLimited("slow down", "scripted", "m", retry_after=5.0) if len(sent) == 1 else REPLY

        async with pooled(ScriptedProvider(answer), clock=clock) as kernel:
            asked = [ask(kernel, str(n), agent=f"a{n}") for n in range(3)]
            first = asyncio.ensure_future(asked[0])
            await kernel.idle()
            replies = await until(kernel, clock, asyncio.gather(first, *asked[1:]))

            assert [reply.text for reply in replies] == ["ok"] * 3
            assert replies[0].attempts == 2
            assert sent[0] == 0.0
            assert min(sent[1:]) >= 5.0
            found = await status(kernel)
            assert (found.requests, found.failed) == (3, 0)
            assert found.gates[0].governor.rate_limited == 1
            assert is_at_rest(found)

    run(body())


def test_what_may_pass_is_tried_again_until_its_time_is_up(run: Run) -> None:
    async def body() -> None:
        clock = ManualClock()

        def answer(request: ModelRequest) -> Any:
            return Overloaded("busy", "scripted", "m")

        async with pooled(ScriptedProvider(answer), clock=clock) as kernel:
            with pytest.raises(Overloaded):
                await until(kernel, clock, ask(kernel, "x", policy=CallPolicy(retry_for=20.0)))

            assert 5.0 < clock.now() <= 20.0
            assert (await status(kernel)).gates[0].retries >= 3
            assert is_at_rest(await status(kernel))

    run(body())


def test_every_attempt_is_a_report(run: Run) -> None:
    async def body() -> None:
        clock = ManualClock()
        reports: list[Report] = []
        script = [ProviderConnection("cut", "scripted", "m"), REPLY]
        async with pooled(ScriptedProvider(script), clock=clock) as kernel:
            kernel.observers.append(reports.append)
            await until(kernel, clock, ask(kernel, "x", agent="me"))

        attempts = [report for report in reports if isinstance(report, AttemptReport)]
        assert [(a.number, a.agent, a.error.split(":")[0], a.again_in is None) for a in attempts] == [
            (1, "me", "ProviderConnection", False),
            (2, "me", "", True),
        ]

    run(body())


def test_one_leads_on_a_cold_prompt_and_the_others_follow_when_its_response_has_begun(run: Run) -> None:
    async def body() -> None:
        provider = Cached()
        async with pooled(provider) as kernel:
            asking = [
                asyncio.ensure_future(ask(kernel, f"q{n}", system=LONG, agent=f"a{n}")) for n in range(20)
            ]
            await kernel.idle()
            assert len(provider.requests) == 1
            assert (await status(kernel)).gates[0].parked == 19
            hints = provider.requests[0].hints
            assert hints is not None
            assert hints.system

            provider.start.set()
            await kernel.idle()
            assert len(provider.requests) == 20

            provider.gate.set()
            await asyncio.gather(*asking)
            found = await status(kernel)
            assert is_at_rest(found)
            assert found.gates[0].prefixes is not None
            assert found.gates[0].prefixes.leaders == 1

    run(body())


def test_when_a_leader_fails_the_next_one_leads(run: Run) -> None:
    async def body() -> None:
        provider = Cached()
        provider.fails = [ProviderError("bad request", "gated", "m")]
        async with pooled(provider) as kernel:
            asking = [
                asyncio.ensure_future(ask(kernel, f"q{n}", system=LONG, agent=f"a{n}")) for n in range(5)
            ]
            await kernel.idle()
            first, second = [request.agent for request in provider.requests]
            assert first == "a0"
            assert second != "a0"

            provider.start.set()
            provider.gate.set()
            replies = await asyncio.gather(*asking, return_exceptions=True)
            assert [type(reply).__name__ for reply in replies] == ["ProviderError"] + ["Completion"] * 4
            assert is_at_rest(await status(kernel))

    run(body())


def test_when_a_leader_is_given_up_the_next_one_leads(run: Run) -> None:
    async def body() -> None:
        provider = Cached()
        async with pooled(provider) as kernel:
            asking = [
                asyncio.ensure_future(ask(kernel, f"q{n}", system=LONG, agent=f"a{n}")) for n in range(3)
            ]
            await kernel.idle()
            asking[0].cancel()
            await kernel.idle()
            first, second = [request.agent for request in provider.requests]
            assert first == "a0"
            assert second != "a0"

            provider.start.set()
            provider.gate.set()
            await asyncio.gather(*asking, return_exceptions=True)
            assert is_at_rest(await status(kernel))

    run(body())


def test_calls_with_the_prompt_cache_off_wait_for_no_leader(run: Run) -> None:
    async def body() -> None:
        provider = Cached()
        provider.gate.set()
        async with pooled(provider) as kernel:
            off = CallPolicy(prompt_cache="off")
            await asyncio.gather(*[ask(kernel, f"q{n}", system=LONG, policy=off) for n in range(5)])
            assert [request.hints for request in provider.requests] == [None] * 5

    run(body())


@pytest.mark.parametrize("kind", [NotAuthorized, SpendLimitReached])
def test_a_wrong_key_or_a_spent_limit_fails_those_that_wait_at_once(run: Run, kind: Any) -> None:
    async def body() -> None:
        clock = ManualClock()
        provider = ScriptedProvider(lambda request: kind("no", "scripted", "m"), latency=Latency(1.0))
        async with pooled(provider, clock=clock, concurrency=1) as kernel:
            asked = asyncio.gather(*[ask(kernel, f"q{n}") for n in range(10)], return_exceptions=True)
            errors = await until(kernel, clock, asked)

            assert clock.now() < 2.0
            assert provider.requests == 1
            assert all(isinstance(error, ProviderError) for error in errors)
            assert isinstance(errors[-1].__cause__, kind)  # type: ignore[union-attr]
            assert is_at_rest(await status(kernel))

    run(body())


def test_a_provider_that_fails_for_good_is_left_alone_and_asked_again_later(run: Run) -> None:
    async def body() -> None:
        clock = ManualClock()
        sent: list[float] = []

        def answer(request: ModelRequest) -> Any:
            sent.append(clock.now())
            return ProviderFailed("HTTP 500", "scripted", "m") if clock.now() < 60 else REPLY

        async with pooled(ScriptedProvider(answer), clock=clock) as kernel:
            asked = asyncio.gather(*[ask(kernel, f"q{n}") for n in range(50)])
            replies = await until(kernel, clock, asked)

            assert len(replies) == 50
            # 50 at once, then probes: one at a time.
            assert len([at for at in sent if 1 < at < 60]) < 12
            assert is_at_rest(await status(kernel))

    run(body())


def test_a_call_goes_on_to_the_next_model_of_its_list(run: Run) -> None:
    async def body() -> None:
        clock = ManualClock()

        def answer(request: ModelRequest) -> Any:
            if request.model != "third":
                return Overloaded("busy", "scripted", request.model)
            return f"{request.model} here"

        policy = CallPolicy(fallbacks=("second", "third"), retry_for=3.0)
        async with pooled(ScriptedProvider(answer), clock=clock) as kernel:
            reply = await until(kernel, clock, ask(kernel, "x", policy=policy))

            assert (reply.text, reply.model) == ("third here", "third")
            assert (await status(kernel)).fallbacks == 2

    run(body())


def test_equal_calls_under_way_are_one_if_they_may_be(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        share = CallPolicy(coalesce=True)
        async with pooled(gated) as kernel:
            asking = [asyncio.ensure_future(ask(kernel, "same", policy=share)) for _ in range(5)]
            other = asyncio.ensure_future(ask(kernel, "same", policy=share, sample=1))
            alone = asyncio.ensure_future(ask(kernel, "same"))
            await kernel.idle()
            assert len(gated.begun) == 3

            gated.gate.set()
            replies = await asyncio.gather(*asking)
            await asyncio.gather(other, alone)
            assert [reply.source for reply in replies] == ["provider"] + ["coalesced"] * 4
            assert {reply.fragment for reply in replies} == {replies[0].fragment}
            assert (await status(kernel)).coalesced == 4

    run(body())


def test_whoever_gives_up_an_equal_call_does_not_take_it_from_the_others(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        share = CallPolicy(coalesce=True)
        async with pooled(gated) as kernel:
            asking = [asyncio.ensure_future(ask(kernel, "same", policy=share)) for _ in range(3)]
            await kernel.idle()
            asking[0].cancel()
            await kernel.idle()
            gated.gate.set()

            assert [reply.text for reply in await asyncio.gather(*asking[1:])] == ["re: same"] * 2
            assert is_at_rest(await status(kernel))

    run(body())


def test_the_last_to_give_up_an_equal_call_stops_it(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        share = CallPolicy(coalesce=True)
        async with pooled(gated) as kernel:
            asking = [asyncio.ensure_future(ask(kernel, "same", policy=share)) for _ in range(3)]
            await kernel.idle()
            for task in asking:
                task.cancel()
            await kernel.idle()
            assert gated.inside == 0
            assert is_at_rest(await status(kernel))

            again = asyncio.ensure_future(ask(kernel, "same", policy=share))
            await kernel.idle()
            gated.gate.set()
            assert (await again).text == "re: same"

    run(body())


def test_a_reply_that_may_be_kept_is_given_again_and_its_digest_is_the_same(run: Run) -> None:
    async def body() -> None:
        provider = ScriptedProvider(["one", "two", "three"])
        keep = CallPolicy(cache=60.0)
        async with pooled(provider) as kernel:
            first = await ask(kernel, "x", policy=keep)
            again = await ask(kernel, "x", policy=keep)
            sample = await ask(kernel, "x", policy=keep, sample=1)
            plain = await ask(kernel, "x")

            assert (again.text, again.source) == ("one", "cache")
            assert again.digest == first.digest
            assert (sample.text, plain.text) == ("two", "three")
            assert (await status(kernel)).cache_hits == 1

    run(body())


def test_a_call_with_a_temperature_is_never_shared(run: Run) -> None:
    async def body() -> None:
        provider = ScriptedProvider(["one", "two"])
        policy = CallPolicy(cache=60.0, coalesce=True)
        async with pooled(provider) as kernel:
            texts = [
                (await ask(kernel, "x", policy=policy, params=b'{"temperature":1}')).text for _ in range(2)
            ]
            assert texts == ["one", "two"]

    run(body())


@event
class Go:
    pass


class Asker(Actor):
    @on(Go)
    async def go(self, go: Go) -> None:
        await self.ask(self.service("io"), Complete(prompt("mine", agent=self.path)), timeout=None)


def test_the_call_of_an_actor_that_ends_is_stopped_and_what_it_reserved_comes_back(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        async with pooled(gated) as kernel:
            asker = await kernel.spawn(Asker)
            kernel.tell(asker, Go())
            await kernel.idle()
            assert gated.inside == 1

            kernel.kill(asker)
            await kernel.idle()

            assert gated.inside == 0
            found = await status(kernel)
            assert is_at_rest(found)
            assert found.crashed_workers == 0

    run(body())


def test_an_ask_that_times_out_stops_its_call(run: Run) -> None:
    async def body() -> None:
        clock = ManualClock()
        gated = Gated()
        async with pooled(gated, clock=clock) as kernel:
            with pytest.raises(AskTimeout):
                await until(kernel, clock, ask(kernel, "x", timeout=3.0))
            await kernel.idle()
            assert gated.inside == 0
            assert is_at_rest(await status(kernel))

    run(body())


def test_a_gate_that_crashes_fails_its_calls_and_is_restarted(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        async with pooled(gated) as kernel:
            asking = asyncio.ensure_future(ask(kernel, "lost"))
            await kernel.idle()
            (gate,) = gates_of(kernel)
            kernel.kill(gate.pid)
            with pytest.raises(ProviderError, match="the gate .* ended"):
                await asking
            assert (await status(kernel)).gates == ()

            gated.gate.set()
            assert (await ask(kernel, "again")).text == "re: again"
            assert is_at_rest(await status(kernel))

    run(body())


def test_a_cut_stream_goes_on_from_a_known_offset(run: Run) -> None:
    async def body() -> None:
        clock = ManualClock()
        script = ["one two three four five six", "one two three vier fuenf sechs"]
        cuts = [CutStream(after=4)]
        provider = ScriptedProvider(script, faults=lambda request, number: cuts.pop() if cuts else None)
        async with pooled(provider, clock=clock) as kernel:
            stream = ModelStream()
            said: list[Piece | Restart] = []

            async def listen() -> None:
                async for piece in stream:
                    said.append(piece)

            listening = asyncio.ensure_future(listen())
            await until(kernel, clock, ask(kernel, "x", stream=stream))
            await listening

            text = ""
            for piece in said:
                text = text[: piece.offset] if isinstance(piece, Restart) else text + piece.text
            assert text == "one two three vier fuenf sechs"
            assert [piece.offset for piece in said if isinstance(piece, Restart)] == [14]

    run(body())


def test_a_stream_that_nobody_answers_any_more_fails(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        async with pooled(gated) as kernel:
            stream = ModelStream()
            asking = asyncio.ensure_future(ask(kernel, "x", stream=stream))
            await kernel.idle()
            asking.cancel()
            await kernel.idle()
            with pytest.raises(ProviderError, match="given up"):
                await stream.result()

    run(body())


class Slow(PlainProvider):
    """Takes 0.1 s, and every 30th call a minute to begin."""

    name = "slow"

    def __init__(self, kernel_sleep: Callable[[float], Awaitable[object]]) -> None:
        self.sleep = kernel_sleep
        self.calls = 0

    async def complete(self, request: ModelRequest, *, on_event: OnEvent | None = None) -> Completion:
        self.calls += 1
        await self.sleep(60.0 if self.calls % 60 == 0 else 0.1)
        if on_event is not None:
            on_event(Started())
            on_event(Delta("ok"))
        return REPLY


def test_a_user_call_that_is_slow_to_begin_is_made_twice_and_the_first_answer_counts(run: Run) -> None:
    async def body() -> None:
        clock = ManualClock()
        holder: list[Slow] = []

        async def sleep(seconds: float) -> None:
            future = asyncio.get_running_loop().create_future()
            clock.call_at(clock.now() + seconds, lambda: future.done() or future.set_result(None))
            await future

        holder.append(Slow(sleep))
        policy = CallPolicy(hedge=True)
        async with pooled(holder[0], clock=clock) as kernel:
            for n in range(119):
                began = clock.now()
                await until(kernel, clock, ask(kernel, f"q{n}", "user", policy))
                if n > 60:
                    assert clock.now() - began < 2.0
            found = await status(kernel)
            # Two in a hundred calls at most.
            assert found.gates[0].hedged == 2
            assert is_at_rest(found)

    run(body())


def test_limits_of_the_provider_pace_the_calls(run: Run) -> None:
    async def body() -> None:
        clock = ManualClock()
        sent: list[float] = []

        def answer(request: ModelRequest) -> Any:
            sent.append(clock.now())
            return attrs.evolve(REPLY, usage=Usage(10, 2))

        provider = ScriptedProvider(answer, limits=Limits(requests=60))
        async with pooled(provider, clock=clock) as kernel:
            await until(kernel, clock, asyncio.gather(*[ask(kernel, f"q{n}") for n in range(90)]))

            assert len([at for at in sent if at < 1]) <= 61
            assert 29 <= sent[-1] <= 32

    run(body())


def test_a_leader_whose_response_does_not_begin_lets_the_next_one_lead(run: Run) -> None:
    async def body() -> None:
        clock = ManualClock()
        provider = Cached()
        async with pooled(provider, clock=clock) as kernel:
            asking = [
                asyncio.ensure_future(ask(kernel, f"q{n}", system=LONG, agent=f"a{n}")) for n in range(4)
            ]
            await kernel.idle()
            assert len(provider.requests) == 1
            clock.advance(6.0)
            await kernel.idle()
            assert len(provider.requests) == 2

            provider.start.set()
            provider.gate.set()
            assert len(await asyncio.gather(*asking)) == 4
            assert is_at_rest(await status(kernel))

    run(body())


def test_a_page_of_an_agents_own_makes_nobody_stream(run: Run) -> None:
    async def body() -> None:
        provider = Cached()
        provider.gate.set()
        provider.start.set()
        streamed: list[bool] = []
        complete = provider.complete

        async def watched(request: ModelRequest, *, on_event: OnEvent | None = None) -> Completion:
            streamed.append(on_event is not None)
            return await complete(request, on_event=on_event)

        provider.complete = watched  # type: ignore[method-assign]
        async with pooled(provider) as kernel:
            conversation = Conversation(Store(), LONG)
            for turn in range(30):
                conversation = conversation.append({"role": "user", "content": f"{turn} " + "x" * 3000})
                request = ModelRequest("m", conversation, system=LONG, agent="one")
                await kernel.ask(front_of(kernel), Complete(request))
                conversation = conversation.append({"role": "assistant", "content": "ok"})

        # The first writes the prompt that others may have too.
        assert streamed == [True] + [False] * 29

    run(body())


@pytest.mark.parametrize("family", ["meta-llama/Llama-3.1-8B", "", "a b"])
def test_a_family_may_have_any_name(run: Run, family: str) -> None:
    class Named(ScriptedProvider):
        def capabilities(self, model: str) -> Capabilities:
            return Capabilities(family=family)

    async def body() -> None:
        async with pooled(Named()) as kernel:
            assert (await ask(kernel, "hello")).text == "You said: hello"

    run(body())


class Faulty(ScriptedProvider):
    """What it says of itself raises, for some models."""

    def capabilities(self, model: str) -> Capabilities:
        if model == "unknown":
            raise KeyError(model)
        return super().capabilities(model)

    def price(self, model: str) -> Any:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "wrong",
    [
        Complete(prompt("x", max_tokens=None)),
        Complete(prompt("x", system=None)),
        Complete(prompt("x"), ["user"]),  # type: ignore[arg-type]
        Complete(prompt("x"), policy=None),  # type: ignore[arg-type]
        Complete(prompt("x", params="{}"), policy=CallPolicy(cache=1.0)),
        Complete(attrs.evolve(prompt("x"), model="unknown")),
        Complete(attrs.evolve(prompt("x"), model="\ud800"), policy=CallPolicy(cache=1.0)),
    ],
    ids=lambda call: str(call)[:60],
)
def test_a_call_that_cannot_be_taken_fails_alone(run: Run, wrong: Complete) -> None:
    async def body() -> None:
        usage = attrs.evolve(REPLY, usage=Usage(10, 2))
        async with pooled(Faulty(lambda _: usage)) as kernel:
            with pytest.raises(AVMError):
                await kernel.ask(front_of(kernel), wrong)
            assert (await ask(kernel, "and then")).text == "ok"
            found = await status(kernel)
            assert is_at_rest(found)
            assert found.crashed_workers == 0

    run(body())


def test_what_is_wrong_with_a_call_for_good_is_not_tried_again_however_long_it_may(run: Run) -> None:
    async def body() -> None:
        provider = ScriptedProvider(lambda request: InvalidRequest("no", "scripted", "m"))
        async with pooled(provider) as kernel:
            with pytest.raises(InvalidRequest):
                await ask(kernel, "x", policy=CallPolicy(retry_for=float("inf")))
            assert provider.requests == 1

    run(body())


def test_only_calls_that_are_served_alike_share_a_reply(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        async with pooled(gated) as kernel:
            policies = [CallPolicy(coalesce=True), CallPolicy(coalesce=True, fallbacks=("other",))]
            asking = [asyncio.ensure_future(ask(kernel, "same", policy=policy)) for policy in policies]
            await kernel.idle()
            assert len(gated.begun) == 2
            gated.gate.set()
            await asyncio.gather(*asking)

    run(body())


def test_time_in_the_queue_is_not_taken_from_the_time_for_trying_again(run: Run) -> None:
    async def body() -> None:
        clock = ManualClock()
        numbers = iter(range(100))

        def answer(request: ModelRequest) -> Any:
            return Overloaded("busy", "scripted", "m") if next(numbers) == 1 else REPLY

        provider = ScriptedProvider(answer, latency=Latency(20.0))
        async with pooled(provider, clock=clock, concurrency=1) as kernel:
            asked = asyncio.gather(*[ask(kernel, f"q{n}", policy=CallPolicy(retry_for=30.0)) for n in (1, 2)])
            replies = await until(kernel, clock, asked)
            assert [reply.attempts for reply in replies] == [1, 2]

    run(body())


def test_the_readers_of_a_stream_hear_that_the_front_is_gone(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        async with pooled(gated) as kernel:
            stream = ModelStream()
            asking = asyncio.ensure_future(ask(kernel, "x", stream=stream))
            await kernel.idle()
            kernel.kill(front_of(kernel))
            with pytest.raises(ProviderError, match="front ended"):
                await stream.result()
            await asyncio.gather(asking, return_exceptions=True)

    run(body())
