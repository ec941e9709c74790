"""What holds for the pool whatever is asked of it and whatever goes wrong: everybody is answered, and nothing stays.

A play is a list of steps: calls of all kinds, time that passes, actors that are killed. Its provider
fails as it is told, then works. All time is that of a clock that jumps to what is due next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from heapq import heappop, heappush
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Actor, Kernel, Ref, event, on
from avm.errors import (
    ActorExited,
    AskTimeout,
    AVMError,
    InvalidRequest,
    NotAuthorized,
    Overloaded,
    ProviderConnection,
    ProviderError,
    ProviderFailed,
    ProviderTimeout,
    RateLimited,
    SpendLimitReached,
)
from avm.io import (
    Allowance,
    CallPolicy,
    Capabilities,
    Complete,
    Completion,
    Delta,
    GateStatistics,
    Limits,
    ModelRequest,
    ModelStream,
    OnEvent,
    Piece,
    PlainProvider,
    PoolStatistics,
    PoolStatus,
    RateLimits,
    Restart,
    Started,
    Usage,
    encode_fragment,
    hedge,
)
from avm.testing import ManualClock
from tests.io.pooled import front_of, gates_of, pooled, workers_of

LIMITS = Limits(requests=120, input_tokens=40_000, output_tokens=8_000)
CONCURRENCY = 3
LONG_ENOUGH = 4 * 3600.0
"""Virtual seconds in which all must be over."""


class Jumping(ManualClock):
    """A clock that can go to the next moment at which something is due."""

    def __init__(self) -> None:
        super().__init__()
        self._due: list[float] = []

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        """Call back, and remember when."""
        heappush(self._due, when)
        return super().call_at(when, callback)

    def jump(self, most: float) -> None:
        """Go to what is due next, `most` seconds at most."""
        while self._due and self._due[0] <= self.now():
            heappop(self._due)
        wait = self._due[0] - self.now() if self._due else most
        self.advance(min(wait, most))


# What the provider does.

Crash = ZeroDivisionError

FAULTS: dict[str, Callable[[], Exception] | None] = {
    "fine": None,
    "429": lambda: RateLimited("slow down", "wild", "m"),
    "429 for 3 s": lambda: RateLimited("slow down", "wild", "m", retry_after=3.0),
    "529": lambda: Overloaded("busy", "wild", "m"),
    "500": lambda: ProviderFailed("broken", "wild", "m", status=500),
    "connection": lambda: ProviderConnection("cut", "wild", "m"),
    "timeout": lambda: ProviderTimeout("silent", "wild", "m"),
    "key": lambda: NotAuthorized("wrong key", "wild", "m"),
    "spent": lambda: SpendLimitReached("no money", "wild", "m"),
    "invalid": lambda: InvalidRequest("no such tool", "wild", "m"),
    "bug": lambda: Crash("bug of the provider"),
}


@attrs.frozen
class Outcome:
    """How one attempt goes: the seconds until it begins, how many pieces come, how long they take, how it ends."""

    fault: str = "fine"
    before: float = 0.0
    pieces: int = 2
    after: float = 0.0
    remaining: int | None = None


class Wild(PlainProvider):
    """Goes through outcomes, one for each attempt, and works when there are no more; has a prompt cache and limits."""

    name = "wild"

    def __init__(self, outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes[::-1]
        self.attempts = 0
        self.inside = 0
        self.sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    def use_clock(self, now: Callable[[], float], sleep: Callable[[float], Awaitable[object]]) -> None:
        """Live on the clock of the pool."""
        self.sleep = sleep

    def capabilities(self, model: str) -> Capabilities:
        """Each model is a family of its own."""
        return Capabilities(family=model, prompt_cache="prefix", min_cached_tokens=100)

    def limits(self, model: str) -> Limits:
        """The same for all."""
        return LIMITS

    async def complete(self, request: ModelRequest, *, on_event: OnEvent | None = None) -> Completion:
        """Do as the next outcome says."""
        self.attempts += 1
        outcome = self.outcomes.pop() if self.outcomes else Outcome()
        self.inside += 1
        try:
            return await self._play(request, outcome, on_event)
        finally:
            self.inside -= 1

    async def _play(self, request: ModelRequest, outcome: Outcome, on_event: OnEvent | None) -> Completion:
        # Another attempt says something else, so streams have to take back.
        words = [f"{request.model} ", "says ", f"{self.attempts}"]
        if outcome.before:
            await self.sleep(outcome.before)
        fault = FAULTS[outcome.fault]
        if on_event is not None and not (fault and outcome.pieces == 0):
            on_event(Started())
            for word in words if fault is None else words[: outcome.pieces]:
                on_event(Delta(word))
        if outcome.after:
            await self.sleep(outcome.after)
        if fault is not None:
            raise fault()
        said = None
        if outcome.remaining is not None:
            said = RateLimits(requests=Allowance(LIMITS.requests, outcome.remaining))
        return Completion(
            encode_fragment({"role": "assistant", "content": "".join(words)}),
            model=request.model,
            usage=Usage(300, 20, 100),
            limits=said,
        )


# What is asked.


@attrs.frozen
class Ask:
    """One call: who makes it, of what, how, and how long it waits."""

    by: Literal["actor", "outside"]
    prompt: int
    text: int
    priority: str
    policy: CallPolicy
    listens: bool
    timeout: float | None


@attrs.frozen
class Wait:
    """Time passes."""

    seconds: float


@attrs.frozen
class Kill:
    """One of these ends, if there is one."""

    what: Literal["worker", "gate", "front", "asker"]
    which: int


PROMPTS = ("", "You are a careful reviewer of plans. " * 40, "You write letters to the editor. " * 40)


@event(tag="tests.gate_laws.Go")
class Go:
    pass


class Asker(Actor):
    """Makes one call when told to, and notes what comes of it."""

    def __init__(self, call: Complete, timeout: float | None, answers: list[object]) -> None:
        self.call = call
        self.timeout = timeout
        self.answers = answers

    @on(Go)
    async def go(self, go: Go) -> None:
        """Make it."""
        try:
            self.answers.append(await self.ask(self.service("io"), self.call, timeout=self.timeout))
        except AVMError as error:
            self.answers.append(error)


@attrs.define
class Asked:
    """A call that was made, and what is heard of it."""

    ask: Ask
    stream: ModelStream | None
    answers: list[object] = attrs.field(factory=list)
    actor: Ref | None = None
    task: asyncio.Task[None] | None = None
    killed: bool = False
    heard: list[Piece | Restart] = attrs.field(factory=list)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come."""
        return bool(self.answers) or self.killed

    def kill(self, kernel: Kernel) -> None:
        """End whoever asks."""
        if self.is_over:
            return
        self.killed = True
        if self.actor is not None:
            kernel.kill(self.actor)
        elif self.task is not None:
            self.task.cancel()

    def listen(self) -> None:
        """Take what the stream has."""
        if self.stream is not None:
            self.heard.extend(self.stream.read_nowait())

    def text(self) -> str:
        """Return what the listener has in the end."""
        text = ""
        for piece in self.heard:
            text = text[: piece.offset] if isinstance(piece, Restart) else text + piece.text
        return text


class Play:
    """A pool, its provider, and all who have asked."""

    def __init__(self, kernel: Kernel, clock: Jumping, provider: Wild) -> None:
        self.kernel = kernel
        self.clock = clock
        self.provider = provider
        self.asked: list[Asked] = []

    async def step(self, step: Ask | Wait | Kill) -> None:
        """Do one thing and let the actors come to rest."""
        if isinstance(step, Ask):
            await self.ask(step)
        elif isinstance(step, Wait):
            await self.wait(step.seconds)
        else:
            self.kill(step)
        await self.settle()

    async def ask(self, ask: Ask) -> None:
        """Make a call."""
        asked = Asked(ask, ModelStream() if ask.listens else None)
        request = ModelRequest(
            "m",
            messages=(encode_fragment({"role": "user", "content": f"question {ask.text}"}),),
            system=PROMPTS[ask.prompt],
            max_tokens=100,
            agent=f"agent-{len(self.asked) % 4}",
            kind="Asker",
        )
        call = Complete(request, ask.priority, ask.policy, asked.stream)
        self.asked.append(asked)
        if ask.by == "actor":
            asked.actor = await self.kernel.spawn(Asker, call, ask.timeout, asked.answers)
            self.kernel.tell(asked.actor, Go())
        else:
            asked.task = asyncio.ensure_future(self.ask_outside(call, ask.timeout, asked.answers))

    async def ask_outside(self, call: Complete, timeout: float | None, answers: list[object]) -> None:
        """Make a call that no actor makes."""
        try:
            answers.append(await self.kernel.ask(front_of(self.kernel), call, timeout=timeout))
        except AVMError as error:
            answers.append(error)

    def kill(self, kill: Kill) -> None:
        """End somebody."""
        if kill.what == "asker":
            waiting = [asked for asked in self.asked if not asked.is_over]
            if waiting:
                waiting[kill.which % len(waiting)].kill(self.kernel)
            return
        if kill.what == "front":
            self.kernel.kill(front_of(self.kernel))
            return
        found = workers_of(self.kernel) if kill.what == "worker" else gates_of(self.kernel)
        if found:
            self.kernel.kill(found[kill.which % len(found)].pid)

    async def wait(self, seconds: float) -> None:
        """Let time pass, from one due moment to the next."""
        end = self.clock.now() + seconds
        while self.clock.now() < end:
            self.clock.jump(end - self.clock.now())
            await self.settle()

    async def settle(self) -> None:
        """Let the actors come to rest, and the listeners read."""
        await self.kernel.idle()
        for asked in self.asked:
            asked.listen()

    async def finish(self) -> None:
        """Let time pass until everybody has an answer."""
        while not all(asked.is_over for asked in self.asked):
            assert self.clock.now() < LONG_ENOUGH, f"never answered: {self.unanswered()}"
            self.clock.jump(60.0)
            await self.settle()

    def unanswered(self) -> list[Ask]:
        """Return the calls that wait still."""
        return [asked.ask for asked in self.asked if not asked.is_over]


async def status(kernel: Kernel) -> PoolStatistics:
    found: PoolStatistics = await kernel.ask(front_of(kernel), PoolStatus())
    return found


# What must hold in the end.


def check_answers(asked: Asked) -> None:
    """One answer each: the reply, or an error that says what failed."""
    if asked.killed:
        return
    (answer,) = asked.answers
    if isinstance(answer, AskTimeout):
        assert asked.ask.timeout is not None
    elif isinstance(answer, ActorExited):
        # The front itself ended, and with it all that it knew.
        assert "front" in str(answer)
    else:
        assert isinstance(answer, (Completion, ProviderError)), answer
        if asked.ask.timeout is None and asked.stream is not None:
            assert asked.stream.is_over
    if isinstance(answer, Completion) and asked.stream is not None:
        assert asked.text() == answer.text


def check_gate(gate: GateStatistics) -> None:
    """Nothing waits or is reserved, and what was used has come back."""
    assert (gate.queued, gate.parked, gate.delayed, gate.in_flight) == (0, 0, 0, 0)
    assert sum(gate.depth.values()) == 0
    assert gate.workers <= CONCURRENCY
    assert gate.prefixes is not None
    assert gate.prefixes.warming == 0
    governor = gate.governor
    assert governor.in_flight == 0
    assert governor.requests_level == pytest.approx(LIMITS.requests)
    assert governor.input_level == pytest.approx(LIMITS.input_tokens)
    assert governor.output_level == pytest.approx(LIMITS.output_tokens)
    # A breaker that is open has nobody to close it before the next call.
    assert governor.breaker != "half-open"


async def check_rest(play: Play, timers: int) -> None:
    """A minute after the last answer (two, if a bucket was in debt) all is as it was."""
    await play.wait(120.0)
    found = await status(play.kernel)
    for gate in found.gates:
        check_gate(gate)
    assert (found.in_flight, found.queued) == (0, 0)
    assert play.provider.inside == 0
    assert len(workers_of(play.kernel)) == found.workers
    assert len(play.kernel.timers) <= timers


def play_out(steps: list[Ask | Wait | Kill], outcomes: list[Outcome]) -> Play:
    """Play a play to its end, and check what must hold."""

    async def body() -> Play:
        clock, provider = Jumping(), Wild(outcomes)
        async with pooled(provider, clock=clock, workers=1, concurrency=CONCURRENCY) as kernel:
            play = Play(kernel, clock, provider)
            await kernel.idle()
            timers = len(kernel.timers)
            for step in steps:
                await play.step(step)
            await play.finish()
            for asked in play.asked:
                check_answers(asked)
            await check_rest(play, timers)
            return play

    with pytest.MonkeyPatch.context() as patch:
        # Hedges are two in a hundred calls; a play has forty.
        patch.setattr(hedge, "ENOUGH", 1)
        patch.setattr(hedge, "SHARE", 1.0)
        return asyncio.run(body())


policies = st.builds(
    CallPolicy,
    cache=st.sampled_from([None, None, 30.0]),
    coalesce=st.booleans(),
    hedge=st.booleans(),
    fallbacks=st.sampled_from([(), (), ("second",), ("second", "third")]),
    retry_for=st.sampled_from([300.0, 10.0, 0.0]),
    prompt_cache=st.sampled_from(["auto", "auto", "off", "hour"]),
)
asks = st.builds(
    Ask,
    by=st.sampled_from(["actor", "outside"]),
    prompt=st.integers(0, len(PROMPTS) - 1),
    text=st.integers(0, 2),
    priority=st.sampled_from(["user", "normal", "background"]),
    policy=policies,
    listens=st.booleans(),
    timeout=st.sampled_from([None, None, None, 2.0, 20.0]),
)
waits = st.builds(Wait, st.sampled_from([0.1, 1.0, 5.0, 40.0]))
kills = st.builds(Kill, st.sampled_from(["worker", "asker", "asker", "gate", "front"]), st.integers(0, 9))
seconds = st.sampled_from([0.0, 0.0, 0.3, 2.0])
outcomes = st.builds(
    Outcome,
    fault=st.sampled_from(["fine", "fine", *FAULTS]),
    before=seconds,
    pieces=st.integers(0, 3),
    after=seconds,
    remaining=st.sampled_from([None, None, 0, 50]),
)


def _few_gates(steps: list[Ask | Wait | Kill]) -> bool:
    # More restarts than its supervisor allows end the pool, which is another law.
    return sum(isinstance(step, Kill) and step.what in ("gate", "front") for step in steps) <= 5


@pytest.mark.slow
@given(
    st.lists(st.one_of(asks, asks, asks, waits, kills), max_size=40).filter(_few_gates),
    st.lists(outcomes, max_size=40),
)
def test_everybody_gets_one_answer_and_nothing_stays(
    steps: list[Ask | Wait | Kill], outcomes: list[Outcome]
) -> None:
    play_out(steps, outcomes)


# What the law has found, or could not: one play each.


def plain(**fields: Any) -> Ask:
    """Return a call of the plainest kind."""
    kind: dict[str, Any] = {
        "by": "outside",
        "prompt": 0,
        "text": 0,
        "priority": "normal",
        "policy": CallPolicy(),
        "listens": False,
        "timeout": None,
    }
    return Ask(**{**kind, **fields})


def test_a_gate_whose_front_ended_while_calls_waited_serves_the_next_front() -> None:
    async def body() -> None:
        clock, provider = Jumping(), Wild([Outcome(before=5.0)] * CONCURRENCY)
        async with pooled(provider, clock=clock, workers=1, concurrency=CONCURRENCY) as kernel:
            play = Play(kernel, clock, provider)
            for number in range(CONCURRENCY + 2):
                await play.step(plain(text=number))
            kernel.kill(front_of(kernel))
            await play.settle()
            assert all(isinstance(asked.answers[0], ActorExited) for asked in play.asked)

            await play.step(plain())
            await play.wait(1.0)
            assert isinstance(play.asked[-1].answers[0], Completion)

    asyncio.run(body())


def test_a_hedge_that_was_planned_does_not_bring_a_failed_call_back_too_early() -> None:
    async def body() -> None:
        # The first calls begin after 0.3 s, so the last one would be hedged at 0.3 s; it fails before.
        quick = Outcome(before=0.3)
        failing = Outcome("500", before=0.2, pieces=0)
        clock, provider = Jumping(), Wild([quick] * 25 + [failing] * 3)
        policy = CallPolicy(hedge=True)
        async with pooled(provider, clock=clock, workers=1, concurrency=CONCURRENCY) as kernel:
            play = Play(kernel, clock, provider)
            for _ in range(25):
                await play.step(plain(priority="user", policy=policy))
                await play.finish()
            sent = provider.attempts
            await play.step(plain(priority="user", policy=policy))
            await play.wait(0.2)
            assert provider.attempts == sent + 1

            # Tried again after half a second, less its jitter of a quarter.
            await play.wait(0.15)
            assert provider.attempts == sent + 1

    asyncio.run(body())


def test_calls_that_wait_for_a_provider_that_is_gone_fail_when_their_time_is_up() -> None:
    async def body() -> None:
        clock, provider = Jumping(), Wild([Outcome("connection", pieces=0)] * 1000)
        async with pooled(provider, clock=clock, workers=1, concurrency=CONCURRENCY) as kernel:
            play = Play(kernel, clock, provider)
            for number in range(30):
                await play.step(plain(text=number, policy=CallPolicy(retry_for=60.0)))
            await play.wait(130.0)

            assert play.unanswered() == []

    asyncio.run(body())


def test_a_user_call_that_joins_one_in_the_background_does_not_wait_like_it() -> None:
    async def body() -> None:
        busy = Outcome(before=10.0)
        clock, provider = Jumping(), Wild([busy] * 9)
        share = CallPolicy(coalesce=True)
        async with pooled(provider, clock=clock, workers=1, concurrency=1) as kernel:
            play = Play(kernel, clock, provider)
            for number in range(4):
                await play.step(plain(text=number))
            await play.step(plain(text=9, priority="background", policy=share))
            await play.step(plain(text=9, priority="user", policy=share))
            await play.wait(25.0)

            assert play.asked[-1].is_over
            await play.finish()

    asyncio.run(body())
