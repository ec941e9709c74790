"""The tool gate: limits of tools, priorities, equal calls that are one, and what is given back whatever happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any, ClassVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Actor, Ref, Request, event, on
from avm.actors.event import ATOMS
from avm.errors import AskTimeout, SpecError, StartError, ToolDefinitionError, ToolError
from avm.io import CallTool, ToolCall, ToolOutcome, encode_fragment
from avm.io.dispatch import Done
from avm.io.toolgate import LOOK_EVERY, ToolGate, key_of, outcome_for
from avm.io.toolline import SPARE_LIMITS
from avm.testing.strategies import schedules
from avm.tools import Tool, ToolWorker, tool
from tests.tools.gated import Gate, gated, simulated


@event(tag="tests.toolgate.Use")
class Use:
    """Call a tool."""

    request: CallTool
    timeout: float | None = None


@event(tag="tests.toolgate.Ended")
class Ended:
    """A call has come back."""

    id: str
    how: str


@event(tag="tests.toolgate.Seen")
class Seen(Request[tuple[Ended, ...]]):
    """What came back?"""


class Asker(Actor):
    """Makes the calls it is told to make, all at once, and keeps what came of each."""

    def __init__(self, gate: Ref) -> None:
        self.gate = gate
        self.seen: list[Ended] = []

    @on(Use)
    def use(self, use: Use) -> None:
        self.pipe(self._use(use))

    async def _use(self, use: Use) -> Ended:
        id = use.request.call.id
        try:
            outcome = await self.ask(self.gate, use.request, use.timeout)
        except (ToolError, AskTimeout) as error:
            return Ended(id, type(error).__name__)
        assert outcome.call.id == id
        return Ended(id, outcome.content)

    @on(Ended)
    def ended(self, ended: Ended) -> None:
        self.seen.append(ended)

    @on(Seen)
    def tell_seen(self, seen: Seen) -> tuple[Ended, ...]:
        return tuple(self.seen)


class Workshop:
    """Makes tools that take `seconds`, and counts who is inside."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, float]] = []
        self.inside = 0
        self.most = 0

    def tool(self, seconds: float = 10.0, **options: Any) -> Tool:
        """Return a tool that says what it was asked after some seconds."""

        @tool(**options)
        async def work(text: str = "") -> str:
            """Work."""
            self.begun.append((text, asyncio.get_running_loop().time()))
            self.inside += 1
            self.most = max(self.most, self.inside)
            try:
                await asyncio.sleep(seconds)
            finally:
                self.inside -= 1
            return f"did {text}"

        return work

    @property
    def order(self) -> list[str]:
        """The texts of calls in the order in which they began."""
        return [text for text, _ in self.begun]


def text(value: str) -> str:
    return json.dumps({"text": value})


def simulates(body: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a test of a coroutine function: it runs on virtual time."""

    def test() -> None:
        simulated(body())

    test.__name__, test.__doc__ = body.__name__, body.__doc__
    return test


async def asker(gate: Gate, *uses: Use) -> Ref:
    """Start an actor that makes calls."""
    ref = await gate.kernel.spawn(Asker, gate.ref)
    for use in uses:
        gate.kernel.tell(ref, use)
    await gate.kernel.idle()
    return ref


def use(wanted: Tool, value: str = "", *, id: str = "a1", priority: str = "normal") -> Use:
    return Use(CallTool(wanted, ToolCall(id, wanted.name, text(value)), priority))


def workers_of(gate: Gate) -> list[Ref]:
    return gate.actor.children


# Priority.


@simulates
async def test_user_calls_leave_the_line_before_background_ones_of_which_none_starves() -> None:
    shop = Workshop()
    work = shop.tool(1.0)
    async with gated(concurrency=1) as gate:
        calls = [await gate.begin(work, text("first"))]
        for _ in range(3):
            calls.append(await gate.begin(work, text("slow"), priority="background"))
        for _ in range(20):
            calls.append(await gate.begin(work, text("urgent"), priority="user"))
        await asyncio.gather(*calls)

    assert shop.order == ["first", *["urgent"] * 16, "slow", *["urgent"] * 4, "slow", "slow"]


@simulates
async def test_calls_above_the_concurrency_of_the_gate_wait_and_are_all_answered() -> None:
    shop = Workshop()
    work = shop.tool()
    async with gated(concurrency=3) as gate:
        calls = [await gate.begin(work, text(str(n))) for n in range(10)]

        assert await gate.load() == (3, 7)
        assert [outcome.content for outcome in await asyncio.gather(*calls)] == [
            f"did {n}" for n in range(10)
        ]
        assert shop.most == 3
        assert (await gate.status()).workers == 3


# Limits of tools.


@simulates
async def test_no_more_calls_of_a_tool_are_under_way_than_it_allows() -> None:
    shop = Workshop()
    async with gated() as gate:
        work = shop.tool(concurrency=2)
        calls = [await gate.begin(work) for _ in range(7)]

        assert await gate.load() == (2, 5)
        await asyncio.gather(*calls)
        assert shop.most == 2


@simulates
async def test_a_tool_at_its_limit_holds_up_nobody_else() -> None:
    shop, other = Workshop(), Workshop()
    async with gated(concurrency=2) as gate:
        narrow, free = shop.tool(100.0, concurrency=1), other.tool(1.0)
        held = [await gate.begin(narrow) for _ in range(5)]

        assert (await gate.call(free, text("through"))).content == "did through"
        assert await gate.load() == (1, 4)
        await asyncio.gather(*held)


@simulates
async def test_a_tool_with_a_rate_begins_no_more_calls_a_second_once_its_burst_is_spent() -> None:
    shop = Workshop()
    async with gated() as gate:
        work = shop.tool(0.0, rate=2.0)
        await asyncio.gather(*[gate.call(work) for _ in range(6)])

    assert [when for _, when in shop.begun] == [0.0, 0.0, 0.5, 1.0, 1.5, 2.0]


@simulates
async def test_a_rate_below_one_a_second_lets_the_first_call_through_at_once() -> None:
    shop = Workshop()
    async with gated() as gate:
        work = shop.tool(0.0, rate=0.1)
        await asyncio.gather(*[gate.call(work) for _ in range(3)])

    assert [round(when, 9) for _, when in shop.begun] == [0.0, 10.0, 20.0]


@simulates
async def test_calls_that_waited_for_a_worker_keep_to_the_rate_too() -> None:
    shop, other = Workshop(), Workshop()
    async with gated(concurrency=3) as gate:
        busy = [await gate.begin(other.tool(60.0)) for _ in range(3)]
        work = shop.tool(0.0, rate=1.0)
        await asyncio.gather(*busy, *[gate.call(work) for _ in range(4)])

    assert [round(when, 9) for _, when in shop.begun] == [60.0, 61.0, 62.0, 63.0]


@simulates
async def test_the_timeout_of_a_tool_begins_when_it_runs_and_not_while_it_waits() -> None:
    async with gated() as gate:
        work = Workshop().tool(8.0, timeout=10.0, concurrency=1)
        outcomes = await asyncio.gather(*[gate.call(work) for _ in range(4)])

    assert not any(outcome.failed for outcome in outcomes)


@simulates
async def test_tools_with_limits_that_are_at_rest_are_forgotten() -> None:
    async with gated() as gate:
        for _ in range(SPARE_LIMITS + 1):
            await gate.call(Foreign(concurrency=1, rate=1.0))

        assert len(gate.actor.limits) < SPARE_LIMITS // 2


# Equal calls of pure tools.


@simulates
async def test_equal_calls_of_a_pure_tool_under_way_are_one_and_each_has_its_own_id() -> None:
    shop = Workshop()
    async with gated() as gate:
        work = shop.tool(pure=True)
        one = await gate.begin(work, '{"text": "x"}', id="one")
        two = await gate.begin(work, ' {"text":"x"} ', id="two")
        other = await gate.begin(work, '{"text": "y"}', id="other")

        assert [(o.call.id, o.content) for o in await asyncio.gather(one, two, other)] == [
            ("one", "did x"),
            ("two", "did x"),
            ("other", "did y"),
        ]
        assert shop.order == ["x", "y"]
        found = await gate.status()
        assert (found.calls, found.coalesced) == (3, 1)


@simulates
async def test_equal_calls_of_a_tool_that_is_not_pure_are_made_each() -> None:
    shop = Workshop()
    async with gated() as gate:
        work = shop.tool()
        await asyncio.gather(gate.call(work), gate.call(work))

    assert len(shop.begun) == 2


@simulates
async def test_a_pure_call_that_has_ended_is_made_again() -> None:
    shop = Workshop()
    async with gated() as gate:
        work = shop.tool(pure=True)
        await gate.call(work)
        await gate.call(work)

    assert len(shop.begun) == 2


@simulates
async def test_a_waiter_that_dies_takes_nothing_from_the_others() -> None:
    shop = Workshop()
    async with gated() as gate:
        work = shop.tool(pure=True)
        first = await asker(gate, use(work, "x", id="first"))
        second = await asker(gate, use(work, "x", id="second"))

        gate.kernel.kill(first)
        await gate.kernel.idle()
        assert await gate.load() == (1, 0)

        await asyncio.sleep(11.0)
        assert await gate.kernel.ask(second, Seen()) == (Ended("second", "did x"),)
        assert len(shop.begun) == 1


@simulates
async def test_a_call_that_waits_goes_up_to_the_priority_of_an_equal_one_that_joins_it() -> None:
    shop = Workshop()
    async with gated(concurrency=1) as gate:
        work = shop.tool(1.0, pure=True)
        calls = [
            await gate.begin(work, text("first")),
            await gate.begin(work, text("shared"), priority="background"),
            await gate.begin(work, text("normal")),
            await gate.begin(work, text("shared"), priority="user"),
        ]
        await asyncio.gather(*calls)

    assert shop.order == ["first", "shared", "normal"]


@simulates
async def test_a_crash_is_an_error_for_each_waiter_of_a_shared_call() -> None:
    async with gated() as gate:
        work = Workshop().tool(pure=True)
        calls = [await gate.begin(work, id=f"c{n}") for n in range(3)]
        (worker,) = workers_of(gate)

        gate.kernel.kill(worker)
        found = await asyncio.gather(*calls, return_exceptions=True)

        assert [type(error) for error in found] == [ToolError] * 3
        assert (await gate.status()).failed == 3


@pytest.mark.parametrize(
    "one, other",
    [
        ('{"a": 1, "b": [1.5]}', '{"b":[1.5],"a":1}'),
        ("", " {} "),
        ('{"a": "\\u00e9"}', '{"a": "é"}'),
        ('{"a": "half \\ud800"}', '{"a":"half \\ud800"}'),
    ],
)
def test_arguments_that_say_the_same_are_equal(one: str, other: str) -> None:
    assert key_of(call_with(one)) == key_of(call_with(other))


@pytest.mark.parametrize(
    "one, other",
    [
        ('{"a": 1}', '{"a": "1"}'),
        ('{"a": 1}', '{"a": 1.0}'),
        ('{"a": 1}', '{"a": true}'),
        ('{"a": 0.1}', '{"a": 0.10000000000000000555}'),
        ('{"a": 0.30000000000000001}', '{"a": 0.3}'),
        ("{", "[" * 100_000),
        ("1" * 5000, "1" * 5001),
    ],
)
def test_arguments_that_differ_or_cannot_be_compared_are_not_equal(one: str, other: str) -> None:
    assert key_of(call_with(one)) != key_of(call_with(other))


def call_with(arguments: str) -> CallTool:
    return CallTool(None, ToolCall("c", "f", arguments))


def test_a_whole_message_of_a_shared_call_gets_the_id_of_each_call() -> None:
    fragment = encode_fragment({"role": "tool", "content": "x", "tool_call_id": "one", "name": "f"})
    outcome = ToolOutcome(ToolCall("one", "f", ""), "", fragment=fragment)

    found = outcome_for(ToolCall("two", "f", ""), outcome)

    assert isinstance(found, ToolOutcome)
    assert found.message["tool_call_id"] == found.call.id == "two"
    assert found.message["content"] == "x"


# Ends: of askers, of asks, of workers.


@simulates
async def test_the_waiting_calls_of_an_asker_that_ended_leave_the_line() -> None:
    shop = Workshop()
    work = shop.tool()
    async with gated(concurrency=1) as gate:
        first = await gate.begin(work, text("first"))
        doomed = await asker(gate, use(work, "doomed", id="d1"), use(work, "doomed", id="d2"))
        last = await gate.begin(work, text("last"))
        assert await gate.load() == (1, 3)

        gate.kernel.kill(doomed)
        await gate.kernel.idle()

        assert await gate.load() == (1, 1)
        await asyncio.gather(first, last)
        assert shop.order == ["first", "last"]


@simulates
async def test_a_call_under_way_whose_asker_ended_is_stopped_and_its_place_given_to_the_next() -> None:
    shop = Workshop()
    async with gated() as gate:
        work = shop.tool(1e6, timeout=None, concurrency=1)
        doomed = await asker(gate, use(work, "doomed"))
        other = await asker(gate, use(work, "other"))

        gate.kernel.kill(doomed)
        await gate.kernel.idle()

        assert shop.order == ["doomed", "other"]
        assert shop.inside == 1
        found = await gate.status()
        assert (found.in_flight, found.queued, found.workers, found.crashed_workers) == (1, 0, 1, 0)
        gate.kernel.kill(other)


@simulates
async def test_an_asker_that_ends_in_order_takes_its_calls_with_it_too() -> None:
    shop = Workshop()
    async with gated() as gate:
        leaving = await asker(gate, use(shop.tool()))

        await gate.kernel.stop_actor(leaving)
        await gate.kernel.idle()

        assert await gate.load() == (0, 0)
        assert shop.inside == 0


@simulates
async def test_an_asker_is_watched_once_and_only_while_it_has_calls() -> None:
    async with gated() as gate:
        work = Workshop().tool(5.0)
        ref = await asker(gate, *[use(work, id=f"c{n}") for n in range(20)])
        gate_cell, asker_cell = gate.ref.reach(), ref.reach()
        assert gate_cell is not None
        assert asker_cell is not None
        assert len(asker_cell.watchers or ()) == 1

        await asyncio.sleep(6.0)

        assert not asker_cell.watchers
        assert not gate.actor.askers


@simulates
async def test_a_call_whose_ask_timed_out_in_line_is_not_made() -> None:
    shop = Workshop()
    work = shop.tool(0.5)
    async with gated(concurrency=1) as gate:
        first = await gate.begin(work, text("first"))
        with pytest.raises(AskTimeout):
            await gate.call(work, text("late"), timeout=0.1)
        await gate.call(work, text("last"))
        await first

    assert shop.order == ["first", "last"]


@simulates
async def test_a_call_that_never_ends_and_that_nobody_waits_for_gives_its_place_to_one_that_waits() -> None:
    shop = Workshop()
    async with gated(concurrency=1) as gate:
        hangs, work = shop.tool(1e6, timeout=None), shop.tool(1.0)
        with pytest.raises(AskTimeout):
            await gate.call(hangs, timeout=5.0)
        before = asyncio.get_running_loop().time()

        assert (await gate.call(work, text("next"))).content == "did next"
        assert asyncio.get_running_loop().time() <= before + LOOK_EVERY + 1.0


@simulates
async def test_a_worker_that_crashes_is_an_error_at_once_and_its_place_is_taken_by_the_next() -> None:
    shop = Workshop()
    work = shop.tool(concurrency=1)
    async with gated(concurrency=1) as gate:
        lost = await gate.begin(work, text("lost"))
        last = await gate.begin(work, text("last"))
        (worker,) = workers_of(gate)

        gate.kernel.kill(worker)

        with pytest.raises(
            ToolError, match=r"ended \(killed\) before it answered tool 'work'; call it again"
        ):
            await lost
        assert (await last).content == "did last"
        found = await gate.status()
        assert (found.calls, found.failed, found.crashed_workers, found.workers) == (2, 1, 1, 1)


@simulates
async def test_an_idle_worker_that_was_killed_is_not_given_work() -> None:
    work = Workshop().tool(1.0)
    async with gated(concurrency=1) as gate:
        await gate.call(work)
        gate.kernel.kill(workers_of(gate)[0])

        assert (await gate.call(work, text("again"))).content == "did again"
        assert (await gate.status()).workers == 1


@simulates
async def test_an_answer_from_somebody_who_was_not_given_the_call_is_no_answer() -> None:
    async with gated() as gate:
        call = await gate.begin(Workshop().tool(5.0), text("mine"))
        (serial,) = gate.actor.flights

        gate.kernel.tell(gate.ref, Done(serial, "forged"))
        gate.kernel.tell(gate.ref, Done(serial + 1, "stray"))

        assert (await call).content == "did mine"


# What is counted, and what is refused.


@simulates
async def test_the_statistics_count_by_tool() -> None:
    async with gated() as gate:
        one, two = Workshop().tool(1.0, name="one"), Workshop().tool(9.0, name="two", concurrency=1)
        calls = [await gate.begin(wanted) for wanted in (one, one, two, two, two)]
        await asyncio.gather(*calls[:2])

        found = await gate.status()

        assert found.tools == {"one": (2, 0, 0), "two": (0, 1, 2)}
        assert (found.calls, found.failed, found.in_flight, found.queued) == (2, 0, 1, 2)
        assert gate.actor.describe()["tools"] == found.tools
        await asyncio.gather(*calls)


@simulates
async def test_calls_that_cannot_be_right_are_refused_and_the_gate_lives() -> None:
    async with gated() as gate:
        work = Workshop().tool(1.0)
        with pytest.raises(SpecError, match="must be one of user, normal, background, got 'urgent'"):
            await gate.call(work, priority="urgent")
        with pytest.raises(ToolError, match="tool 'odd' must name its worker class, got a str"):
            await gate.call("not a tool")
        with pytest.raises(ToolDefinitionError, match="tool 'odd': rate must be a number of calls a second"):
            await gate.call(Foreign(rate="often"))

        assert (await gate.call(work, text("right"))).content == "did right"
        assert (await gate.status()).tools == {"work": (1, 0, 0)}


class Foreign:
    """A tool that somebody else has written: none of the optional attributes but those it is given."""

    worker: ClassVar[type[Actor]] = ToolWorker
    name = "odd"
    timeout: float | None = None
    output_limit = 1000

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    async def execute(self, call: CallTool, worker: ToolWorker) -> object:
        await worker.sleep(1.0)
        return "foreign"


ATOMS.add(Foreign)


@simulates
async def test_a_foreign_tool_without_limits_runs_as_it_is() -> None:
    async with gated() as gate:
        assert (await gate.call(Foreign())).content == "foreign"


@simulates
async def test_a_worker_class_that_cannot_start_is_an_answer_and_takes_no_place() -> None:
    class Broken(Actor):
        def __init__(self, gate: Ref) -> None:
            raise RuntimeError("no licence")

    async with gated(concurrency=1) as gate:
        licensed = Foreign(worker=Broken, concurrency=1)
        for _ in range(3):
            with pytest.raises(StartError, match="no licence"):
                await gate.call(licensed)

        assert await gate.load() == (0, 0)
        assert (await gate.status()).workers == 0


@pytest.mark.parametrize("concurrency", [0, -1, True, "many", 1.5])
def test_a_concurrency_that_is_no_number_of_calls_is_refused(concurrency: Any) -> None:
    with pytest.raises(SpecError, match="ToolGate: concurrency must be a whole number of 1 or more"):
        ToolGate(concurrency)


# The law.


@attrs.frozen
class Step:
    """One thing that happens: "call", "kill" (an asker), "crash" (a worker) or "pass" (some seconds)."""

    what: str
    who: int = 0
    tool: int = 0
    text: str = ""
    priority: str = "normal"
    timeout: float | None = None


ASKERS = 3

steps = st.lists(
    st.one_of(
        st.builds(
            Step,
            what=st.just("call"),
            who=st.integers(0, ASKERS - 1),
            tool=st.integers(0, 5),
            text=st.sampled_from(["x", "y"]),
            priority=st.sampled_from(["user", "normal", "background"]),
            timeout=st.sampled_from([None, None, 0.5, 4.0]),
        ),
        st.builds(Step, what=st.just("kill"), who=st.integers(0, ASKERS - 1)),
        st.builds(Step, what=st.just("crash"), who=st.integers(0, 7)),
        st.builds(Step, what=st.just("pass"), timeout=st.sampled_from([0.0, 0.3, 1.0, 7.0])),
    ),
    max_size=30,
)


def tools_of(shops: list[Workshop]) -> list[Tool]:
    free, narrow, paced, shared, slow, stuck = shops
    return [
        free.tool(3.0, name="free"),
        narrow.tool(2.0, name="narrow", concurrency=1),
        paced.tool(1.0, name="paced", rate=0.5),
        shared.tool(2.0, name="shared", pure=True, concurrency=2, rate=3.0),
        slow.tool(100.0, name="slow", timeout=5.0),
        stuck.tool(1e9, name="stuck", timeout=6.0, pure=True),
    ]


async def play(gate: Gate, tools: list[Tool], plan: list[Step]) -> dict[Ref, list[str]]:
    """Let all steps happen; return the ids of the calls of each asker."""
    refs = [await gate.kernel.spawn(Asker, gate.ref) for _ in range(ASKERS)]
    made: dict[Ref, list[str]] = {ref: [] for ref in refs}
    for number, step in enumerate(plan):
        ref = refs[step.who % ASKERS]
        if step.what == "call" and ref.is_alive():
            wanted = tools[step.tool]
            call = ToolCall(f"c{number}", wanted.name, text(step.text))
            gate.kernel.tell(ref, Use(CallTool(wanted, call, step.priority), step.timeout))
            made[ref].append(call.id)
        elif step.what == "kill":
            gate.kernel.kill(ref)
        elif step.what == "crash" and workers_of(gate):
            workers = workers_of(gate)
            gate.kernel.kill(workers[step.who % len(workers)])
        elif step.what == "pass":
            await asyncio.sleep(step.timeout or 0.0)
    return made


@pytest.mark.slow
@given(plan=steps, concurrency=st.integers(1, 4), choices=schedules())
def test_whatever_happens_every_live_asker_is_answered_once_and_nothing_is_left(
    plan: list[Step], concurrency: int, choices: Any
) -> None:
    async def body() -> None:
        shops = [Workshop() for _ in range(6)]
        async with gated(concurrency=concurrency) as gate:
            made = await play(gate, tools_of(shops), plan)
            await asyncio.sleep(1000.0)

            for ref, ids in made.items():
                if ref.is_alive():
                    seen = await gate.kernel.ask(ref, Seen())
                    assert sorted(ended.id for ended in seen) == sorted(ids)
            found = await gate.status()
            assert (found.in_flight, found.queued) == (0, 0)
            assert all(counts[1:] == (0, 0) for counts in found.tools.values())
            assert found.workers == len(workers_of(gate)) <= concurrency
            assert nothing_is_kept(gate.actor)
            assert all(shop.inside == 0 for shop in shops)
            assert all(shop.most <= concurrency for shop in shops)
            assert shops[1].most <= 1
            assert shops[3].most <= 2
            begun = [when for _, when in shops[2].begun]
            assert all(after - before >= 2.0 - 1e-6 for before, after in pairwise(begun))

    simulated(body(), choices)


def nothing_is_kept(gate: ToolGate) -> bool:
    """Tell whether the gate's books are empty, but for idle workers and limits at rest."""
    lanes = list(gate.lanes)
    return (
        not gate.flights
        and not gate.shared
        and not gate.askers
        and all(limit.flights == limit.under_way == 0 for limit in gate.limits)
        and not any(lane.line or any(lane.workers.values()) for lane in lanes)
        and all(set(lane.idle) == set(lane.workers) for lane in lanes)
        and all(len(lane.idle) == len(lane.workers) for lane in lanes)
    )


# What one call must not do to the others.


@attrs.frozen
class Broken:
    """A tool that raises when it is looked at."""

    worker: ClassVar[type[Actor]] = ToolWorker

    @property
    def name(self) -> str:
        raise ZeroDivisionError("a bug")


@simulates
async def test_a_call_that_cannot_be_read_fails_alone() -> None:
    slow = Workshop().tool(1.0, pure=True)
    async with gated() as gate:
        bystander = asyncio.ensure_future(
            gate.kernel.ask(gate.ref, CallTool(slow, ToolCall("1", "work", "{}")))
        )
        bad: Any = {"text": "no text"}
        with pytest.raises(ToolError, match="'work': the arguments of a call must be the text .* got a dict"):
            await gate.kernel.ask(gate.ref, CallTool(slow, ToolCall("2", "work", bad)))
        with pytest.raises(ToolError, match="'work', a Broken, .*ZeroDivisionError: a bug"):
            await gate.kernel.ask(gate.ref, CallTool(Broken(), ToolCall("3", "work", "{}")))

        assert (await bystander).content == "did "
