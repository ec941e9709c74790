"""Faults as values: each happens to whom it names, at the occasion it names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from avm import Actor, Say, child, on, supervisor
from avm.errors import (
    ActorExited,
    AVMError,
    BadOutput,
    ContextOverflow,
    MailboxFull,
    Overloaded,
    ProviderConnection,
    ProviderTimeout,
    RateLimited,
    Refused,
    SimulatedCrash,
    SpecError,
    StartError,
)
from avm.io import CallPolicy, ModelRequest, ScriptedProvider
from avm.testing import simulate
from avm.testing.faults import (
    MODEL_FAILURES,
    ClockStep,
    Crash,
    FailStart,
    FaultPlan,
    FullMailbox,
    Kill,
    ModelAnswers,
    ModelFails,
    ModelSlow,
    ToolFails,
    ToolHangs,
    ToolSlow,
    matches,
)
from tests.testing.shop import CarefulClerk, Diary, Get, Note, Put, Shelf, Slow, Wait, Writer, shop


@pytest.fixture(autouse=True)
def failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVM_FAILURES", str(tmp_path))


class Talker(Writer):
    """Tells what went wrong with the model instead of crashing, and has nothing tried again."""

    policy = CallPolicy(retry_for=0)

    @on(Note)
    async def talk(self, note: Note) -> str:
        try:
            return await self.complete(note.text)
        except AVMError as error:
            return f"{type(error).__name__} {getattr(error, 'retry_after', '')}".strip()


def calls_tool(name: str, arguments: str) -> Callable[[ModelRequest], Any]:
    """A model that calls a tool once and tells its result."""

    def answer(request: ModelRequest) -> Any:
        last = list(request.history())[-1]
        if last["role"] == "user":
            return {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "1", "name": name, "arguments": arguments}],
            }
        return last["content"]

    return answer


def test_an_actor_crashes_at_its_nth_event() -> None:
    with simulate(shop(CarefulClerk), faults=[Crash("shelf", event=3)]) as sim:
        for n in range(5):
            sim.tell("shelf", Put(n))

        assert sim.starts()["shelf"] == 2
        (crash,) = sim.crashes()
        assert isinstance(crash.reason, SimulatedCrash)
        assert crash.last_message == "Put(n=2)"
        assert sim.ask("shelf", Get()) == 4
        assert sim.happened == [Crash("shelf", event=3)]


def test_an_actor_crashes_when_a_handler_waits_for_the_nth_time() -> None:
    class Steps(Actor):
        done: list[int] = []  # noqa: RUF012

        @on(Note)
        async def walk(self, note: Note) -> None:
            for n in range(5):
                await asyncio.sleep(1)
                Steps.done.append(n)

    with simulate(child("steps", Steps), faults=[Crash("steps", wait=3)]) as sim:
        sim.tell("steps", Note("go"))
        sim.advance(10)

        assert Steps.done == [0, 1]
        assert "while it waited (3)" in str(sim.crashes()[0].reason)


def test_a_handler_whose_actor_is_struck_elsewhere_runs_as_ever() -> None:
    """Awaiting through the look of the simulation gives results, errors and cancellations as they are."""

    class Careful(Actor):
        @on(Note)
        async def care(self, note: Note) -> str:
            try:
                await asyncio.wait_for(asyncio.sleep(100), 1)
            except TimeoutError:
                pass
            try:
                await self.ask("slow", Wait(-1.0), timeout=0.5)
            except Exception as error:
                return type(error).__name__
            return "no error"

    class Failing(Actor):
        @on(Wait)
        async def wait(self, request: Wait) -> str:
            await asyncio.sleep(0)
            raise ValueError

    tree = supervisor("top", children=[child("careful", Careful), child("slow", Failing)])
    with simulate(tree, faults=[Crash("careful", wait=100)]) as sim:
        assert sim.run(sim.kernel.ask("careful", Note("?"))) == "ActorExited"


def test_an_actor_is_killed_at_its_nth_event_and_at_its_nth_wait() -> None:
    with simulate(shop(CarefulClerk), faults=[Kill("shelf", event=1)]) as sim:
        with pytest.raises(ActorExited, match="killed"):
            sim.ask("shelf", Get())
        assert sim.ask("shelf", Get()) == 0
        assert sim.starts()["shelf"] == 2

    with simulate(child("slow", Slow), faults=[Kill("slow", wait=1)]) as sim:
        with pytest.raises(ActorExited, match="killed"):
            sim.ask("slow", Wait(5))
        assert sim.now == 0
        assert sim.ask("slow", Wait(5)) == "5 s"


def test_a_start_fails() -> None:
    with simulate(shop(CarefulClerk), faults=[FailStart("shelf", start=2)]) as sim:
        sim.crash("shelf")
        assert sim.starts()["shelf"] == 2
        assert len([e for e in sim.trace if e.kind == "fault"]) == 1

    with (
        pytest.raises(StartError, match="made to fail"),
        simulate(shop(CarefulClerk), faults=[FailStart("shelf")]),
    ):
        pytest.fail("it started")


def test_a_start_that_fails_for_ever_ends_the_tree() -> None:
    faults = [FailStart("shelf", start=2, count=100)]
    with simulate(shop(CarefulClerk), faults=faults, may_end=True) as sim:
        sim.crash("shelf")
        assert "gave up" in str(sim.ended)


def test_a_mailbox_is_full_for_some_events() -> None:
    with simulate(child("diary", Diary), faults=[FullMailbox("diary", arrival=2, count=2)]) as sim:
        for n in range(5):
            sim.tell("diary", Note(str(n)))
        diary = sim.cell("diary").actor
        assert isinstance(diary, Diary)
        assert diary.notes == ["0", "3", "4"]
        assert sim.kernel.dead_letters["mailbox_full"] == 2

    with simulate(child("shelf", Shelf), faults=[FullMailbox("shelf")]) as sim:
        with pytest.raises(MailboxFull):
            sim.ask("shelf", Get())
        assert sim.ask("shelf", Get()) == 0


ERRORS = {
    "rate_limited": RateLimited,
    "overloaded": Overloaded,
    "timeout": ProviderTimeout,
    "connection": ProviderConnection,
    "context_overflow": ContextOverflow,
    "refused": Refused,
    "bad_output": BadOutput,
}


@pytest.mark.parametrize("how", MODEL_FAILURES)
def test_a_model_call_fails_in_every_way_a_provider_knows(how: Any) -> None:
    with simulate(child("talker", Talker), faults=[ModelFails(call=2, how=how)]) as sim:
        told = [sim.run(sim.kernel.ask("talker", Note(text))) for text in ("one", "two", "three")]

    assert told[0] == "You said: one"
    assert told[1].split()[0] == ERRORS[how].__name__
    assert told[2].startswith("You said:")


@pytest.mark.parametrize("how", ["rate_limited", "overloaded", "timeout", "connection"])
def test_what_may_pass_is_tried_again_and_the_agent_does_not_see_it(how: Any) -> None:
    class Patient(Talker):
        policy = CallPolicy()

    with simulate(child("talker", Patient), faults=[ModelFails(call=1, how=how)]) as sim:
        assert sim.run(sim.kernel.ask("talker", Note("one"))) == "You said: one"
        assert 0 < sim.now < 10


def test_a_rate_limit_may_say_when_to_come_back() -> None:
    faults = [ModelFails(call=1, how="rate_limited", retry_after=12.5)]
    with simulate(child("talker", Talker), faults=faults) as sim:
        assert sim.run(sim.kernel.ask("talker", Note("?"))) == "RateLimited 12.5"


def test_model_faults_are_of_one_agent_or_of_all() -> None:
    tree = supervisor("top", children=[child("a", Talker), child("b", Talker)])
    faults = [ModelFails(call=1, how="refused", agent="b"), ModelFails(call=3, how="timeout")]
    with simulate(tree, faults=faults) as sim:
        told = [sim.run(sim.kernel.ask(f"top/{who}", Note("x"))) for who in "aba"]

    assert [text.split()[0] for text in told] == ["You", "Refused", "ProviderTimeout"]


def test_a_model_call_takes_longer() -> None:
    with simulate(child("talker", Talker), faults=[ModelSlow(call=1, seconds=40)]) as sim:
        sim.run(sim.kernel.ask("talker", Note("?")))
        assert sim.now == 40


def test_a_model_answers_with_nothing_and_with_malformed_calls() -> None:
    malformed = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "name": "count_words", "arguments": '{"text": 5'}],
    }
    faults = [ModelAnswers(call=1), ModelAnswers(call=2, answer=malformed)]
    with simulate(child("talker", Talker), faults=faults) as sim:
        assert sim.run(sim.kernel.ask("talker", Note("?"))) == ""
        assert "count_words" in sim.ask("talker", Say("!"))


def test_a_tool_fails_hangs_and_is_slow() -> None:
    provider = ScriptedProvider(calls_tool("look_up", '{"word": "cat"}'))
    faults = [ToolFails(call=1, error="no"), ToolHangs(call=2), ToolSlow(call=3, seconds=2)]
    with simulate(child("writer", Writer), provider=provider, faults=faults) as sim:
        told, times = [], []
        for text in "abcd":
            before = sim.now
            told.append(sim.ask("writer", Say(text)))
            times.append(sim.now - before)

    assert told == [
        "look_up failed: no.",
        "look_up gave no answer in 5 s and was given up.",
        "cat: a word",
        "cat: a word",
    ]
    assert times == [0.0, 5.0, 2.5, 0.5]


def test_tool_faults_are_of_one_tool_or_of_all() -> None:
    provider = ScriptedProvider(calls_tool("count_words", '{"text": "a b"}'))
    with simulate(child("writer", Writer), provider=provider, faults=[ToolFails("look_up")]) as sim:
        assert sim.ask("writer", Say("?")) == "2"


def test_a_clock_step_makes_timers_late() -> None:
    class Ticker(Actor):
        def __init__(self) -> None:
            self.at: list[float] = []

        def starting(self) -> None:
            self.send_interval(10, self.pid, Note("tick"))

        @on(Note)
        def tick(self, note: Note) -> None:
            self.at.append(self.now())

    with simulate(child("ticker", Ticker), faults=[ClockStep(at=15, seconds=100)]) as sim:
        sim.advance(150)
        ticker = sim.cell("ticker").actor
        assert isinstance(ticker, Ticker)

        assert ticker.at == [10, 115, 120, 130, 140, 150]


def test_faults_are_values() -> None:
    assert len({Crash("a", event=1), Crash("a", event=1), Kill("a", event=1)}) == 2
    assert repr(FailStart("a")) == "FailStart(actor='a', start=1, count=1)"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Crash("a"), "give event="),
        (lambda: Crash("a", event=1, wait=1), "one of them"),
        (lambda: Kill("a", event=0), "counts from 1"),
        (lambda: ModelFails(call=1, how="sad"), "how must be one of rate_limited"),  # type: ignore[arg-type]
        (lambda: ModelFails(call=1, retry_after=1.0), "goes with how='rate_limited'"),
        (lambda: ModelSlow(call=1, seconds=-1), "seconds"),
        (lambda: FaultPlan(["crash"]), "is not a fault"),  # type: ignore[list-item]
    ],
)
def test_a_fault_that_cannot_be_right_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        make()


@pytest.mark.parametrize(
    ("pattern", "subject", "meant"),
    [
        (None, "any/path", True),
        ("editor", "room/editor", True),
        ("room/editor", "house/room/editor", True),
        ("room/editor", "room/editor", True),
        ("editor", "room/subeditor", False),
        ("editor*", "room/editor7", True),
        ("room/*", "room/editor", True),
        ("room", "room/editor", False),
    ],
)
def test_a_pattern_means_a_path_its_end_or_any_part(pattern: str | None, subject: str, meant: bool) -> None:
    assert matches(pattern, subject) is meant


def test_a_plan_counts_the_occasions_of_each_subject_pattern() -> None:
    plan = FaultPlan([FailStart("a", start=2, count=2), FailStart("*", start=3)])

    found = [len(plan.reach("start", who)) for who in ("x/a", "x/b", "x/a", "x/a", "x/a")]

    assert found == [0, 0, 2, 1, 0]
    assert plan.reach("journal.write", "x/a") == []


@attrs.frozen
class DiskFull:
    """A fault of a part that has fault points of its own."""

    occasion: int
    point: ClassVar[str] = "disk.write"
    subject: ClassVar[None] = None
    count: ClassVar[int] = 1


def test_a_part_of_avm_may_bring_faults_and_fault_points_of_its_own() -> None:
    with simulate(faults=[DiskFull(2)]) as sim:
        found = [sim.world.reach("disk.write", "journal") for _ in range(3)]

        assert found == [[], [DiskFull(2)], []]
        assert sim.happened == [DiskFull(2)]
        assert "FAULT DiskFull(occasion=2)" in sim.timeline()
