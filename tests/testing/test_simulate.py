"""Simulations: a whole VM on virtual time, driven from plain functions."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import time
import weakref
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm import VM, Actor, Down, Say, child, event, on, supervisor
from avm.errors import (
    ActorExited,
    AskTimeout,
    NoProc,
    NotSimulated,
    SimulatedCrash,
    SimulationEndless,
    SimulationError,
    SimulationStuck,
    StartError,
    VMError,
)
from avm.io import Latency, ScriptedProvider
from avm.supervision import Backoff
from avm.testing import Deviations, Drawn, Seeded, simulate
from tests.testing.shop import CarefulClerk, Diary, Get, Note, Put, Sell, Shelf, Slow, Wait, Writer, shop


@pytest.fixture(autouse=True)
def failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Failure files of expected failures go to a folder of the test."""
    monkeypatch.setenv("AVM_FAILURES", str(tmp_path))
    return tmp_path


class Idle(Actor):
    """Does nothing."""


@given(
    types=st.lists(st.sampled_from(["permanent", "transient", "temporary"]), min_size=1, max_size=6),
    data=st.data(),
)
def test_rest_for_one_restarts_the_failed_child_and_its_younger_siblings(
    types: list[str], data: st.DataObject
) -> None:
    failed = data.draw(st.integers(0, len(types) - 1))
    tree = supervisor(
        "root",
        strategy="rest_for_one",
        children=[child(f"c{n}", Idle, restart=t) for n, t in enumerate(types)],  # type: ignore[arg-type]
    )

    with simulate(tree) as sim:
        sim.crash(f"c{failed}")
        starts = sim.starts()

    hit = range(failed, len(types)) if types[failed] != "temporary" else ()
    assert starts == {f"c{n}": 2 if n in hit and t != "temporary" else 1 for n, t in enumerate(types)}


def test_an_ask_takes_virtual_time_only() -> None:
    before = time.perf_counter()

    with simulate(child("slow", Slow)) as sim:
        answer = sim.ask("slow", Wait(3000), timeout=None)

        assert answer == "3000 s"
        assert sim.now == 3000
    assert time.perf_counter() - before < 5


def test_an_ask_fails_as_in_a_vm() -> None:
    with simulate(child("slow", Slow)) as sim:
        with pytest.raises(AskTimeout):
            sim.ask("slow", Wait(10), timeout=2)
        assert sim.now == 2
        with pytest.raises(NoProc):
            sim.ask("nobody", Wait(1))
        with pytest.raises(ActorExited):
            sim.run(_asked_while_it_crashes(sim.vm))


async def _asked_while_it_crashes(vm: VM) -> None:
    asked = asyncio.ensure_future(vm.ask("slow", Wait(10)))
    await asyncio.sleep(1)
    vm.kill("slow")
    await asked


def test_time_stands_still_until_it_is_told_to_pass() -> None:
    tree = supervisor("top", children=[child("idle", Idle)], backoff=Backoff(10, 10))

    with simulate(tree) as sim:
        sim.crash("idle")
        assert sim.statuses() == {}
        sim.advance(9)
        assert sim.starts() == {"idle": 1}
        sim.advance(30)
        assert sim.starts() == {"idle": 2}
        assert sim.statuses() == {"idle": "idle"}
        assert sim.now == 39


def test_addresses_may_leave_out_the_tree() -> None:
    tree = supervisor("top", children=[supervisor("middle", children=[child("low", Shelf)])])

    with simulate(tree) as sim:
        sim.tell("middle/low", Put(3))

        assert sim.ask("top/middle/low", Get()) == 3
        assert sim.ref("low") == sim.ref("middle/low")
        assert sim.starts() == {"middle": 1, "middle/low": 1}


def test_run_until_idle_lets_handlers_finish_and_waits_for_no_timer_else() -> None:
    class Both(Actor):
        finished = 0

        @on(Note)
        async def work(self, note: Note) -> None:
            self.send_after(500, self.ref, Put(1))
            await asyncio.sleep(7)
            Both.finished += 1

        @on(Put)
        def put(self, put: Put) -> None:
            pass

    with simulate(child("both", Both)) as sim:
        sim.tell("both", Note("go"))
        assert (Both.finished, sim.is_busy()) == (0, True)
        sim.run_until_idle()
        assert (Both.finished, sim.is_busy()) == (1, False)
        assert sim.now == 7
        sim.tell("both", Note("again"))
        with pytest.raises(SimulationError, match=r"still busy after 5 s: app/both is waiting"):
            sim.run_until_idle(limit=5)


def test_eventually_waits_for_a_condition_and_no_longer() -> None:
    with simulate(shop(CarefulClerk)) as sim:
        shelf = sim.cell("shelf").actor
        assert isinstance(shelf, Shelf)
        sim.kernel.loop.call_later(42, sim.kernel.tell, sim.ref("clerk0"), Sell())

        sim.eventually(lambda: shelf.n == 1)

        assert sim.now == 42
        with pytest.raises(AssertionError, match=r"within 10 s \(virtual\)"):
            sim.eventually(lambda: shelf.n == 2, within=10)
        assert sim.now == 52


def test_await_down_returns_the_reason() -> None:
    with simulate(child("slow", Slow, restart="temporary")) as sim:
        pid = sim.ref("slow").last_pid
        with pytest.raises(AssertionError, match="still lives after 5 s"):
            sim.await_down(pid, within=5)
        sim.crash("slow", ValueError("no"))

        assert repr(sim.await_down(pid)) == "ValueError('no')"


def test_a_probe_keeps_what_it_is_sent_and_answers() -> None:
    with simulate(child("slow", Slow)) as sim:
        probe = sim.probe(lambda event: "yes", name="probe")
        sim.tell("probe", Note("one"))
        sim.tell("probe", Note("two"))

        assert sim.run(sim.kernel.ask("probe", Note("three"))) == "yes"
        assert probe.take() == [Note("one"), Note("two"), Note("three")]
        sim.kernel.loop.call_later(5, sim.kernel.tell, probe.ref, Note("late"))
        assert probe.expect(Note) == Note("late")
        probe.expect_nothing(within=5)
        with pytest.raises(AssertionError, match="the arrival of Put at"):
            probe.expect(Put, within=1)


def test_a_probe_hears_of_ends() -> None:
    class Watcher(Actor):
        @on(Note)
        def watch(self, note: Note) -> None:
            self.monitor("slow")

        @on(Down)
        def down(self, down: Down) -> None:
            self.tell("probe", Note(str(down.reason)))

    tree = supervisor("top", children=[child("slow", Slow), child("watcher", Watcher)])
    with simulate(tree) as sim:
        probe = sim.probe(name="probe")
        sim.tell("watcher", Note("watch"))
        sim.kill("slow")

        assert probe.expect(Note).text == "Killed()"


def test_messages_are_kept_by_actor_over_its_incarnations() -> None:
    with simulate(shop(CarefulClerk)) as sim:
        sim.tell("shelf", Put(1))
        sim.crash("shelf")
        sim.tell("shelf", Put(2))

        assert sim.messages("shelf") == [Put(1), Put(2)]


def test_crashes_are_kept_as_reports() -> None:
    with simulate(shop(CarefulClerk)) as sim:
        sim.crash("clerk1")

        (crash,) = sim.crashes()
        assert crash.path == "shop/clerk1"
        assert isinstance(crash.reason, SimulatedCrash)
        assert sim.crashes("clerk0") == []


def test_any_coroutine_runs_on_the_loop_of_a_simulation() -> None:
    async def story(vm: VM) -> list[str]:
        async with asyncio.timeout(100), asyncio.TaskGroup() as group:
            asked = [group.create_task(vm.ask(f"app/slow{n}", Wait(float(n)))) for n in range(3)]
        return [task.result() for task in asked]

    tree = supervisor("app", children=[child(f"slow{n}", Slow) for n in range(3)])
    with simulate(tree) as sim:
        assert sim.run(story(sim.vm)) == ["0 s", "1 s", "2 s"]


def test_agents_and_their_tools_are_simulated_whole() -> None:
    def script(request: object) -> object:
        last = list(request.history())[-1]  # type: ignore[attr-defined]
        if last["role"] == "user":
            words = {"id": "1", "name": "count_words", "arguments": '{"text": "one two three"}'}
            word = {"id": "2", "name": "look_up", "arguments": '{"word": "cat"}'}
            return {"role": "assistant", "content": "", "tool_calls": [words, word]}
        return f"It is {last['content']}."

    provider = ScriptedProvider(script, latency=Latency(2.0))  # type: ignore[arg-type]
    with simulate(child("writer", Writer), seed=3, provider=provider) as sim:
        assert sim.ask("writer", Say("Count.")) == "It is cat: a word."
        assert sim.now == 4.5


def test_a_blocking_function_runs_in_place() -> None:
    class Blocking(Actor):
        @on(Get)
        async def get(self, request: Get) -> int:
            return await self.run_blocking(sum, (1, 2, 3))

    for seed in range(3):
        with simulate(child("blocking", Blocking), seed=seed) as sim:
            assert sim.ask("blocking", Get()) == 6


@pytest.mark.parametrize("seed", range(5))
def test_what_one_sender_sends_stays_in_order_under_every_seed(seed: int) -> None:
    class Sender(Actor):
        @on(Note)
        async def send(self, note: Note) -> None:
            for n in range(20):
                self.tell("diary", Note(f"{note.text}{n}"))
                if n % 3 == 0:
                    await asyncio.sleep(0)

    children = [child("diary", Diary), *(child(f"s{n}", Sender) for n in range(3))]
    with simulate(supervisor("top", children=children), seed=seed) as sim:
        for n in range(3):
            sim.send(f"s{n}", Note(f"{n}:"))
        sim.run_until_idle()
        diary = sim.cell("diary").actor
        assert isinstance(diary, Diary)

    assert len(diary.notes) == 60
    for n in range(3):
        assert [note for note in diary.notes if note.startswith(f"{n}:")] == [f"{n}:{m}" for m in range(20)]


def test_different_seeds_come_to_different_orders() -> None:
    def order(seed: int | None) -> tuple[str, ...]:
        with simulate(shop(CarefulClerk, clerks=4), seed=seed) as sim:
            for n in range(4):
                sim.send(f"clerk{n}", Sell())
            sim.settle()
            return tuple(e.path for e in sim.trace if isinstance(e.what, Sell) and e.kind == "handle")

    assert order(None) == tuple(f"shop/clerk{n}" for n in range(4))
    assert len({order(seed) for seed in range(30)}) > 10


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    def trace() -> str:
        with simulate(shop(CarefulClerk, clerks=3), seed=seed) as sim:
            for n in range(3):
                sim.send(f"clerk{n}", Sell())
            sim.settle()
            sim.crash("clerk1")
            sim.advance(100)
        return sim.trace.text()

    assert trace() == trace()


def test_the_dice_of_module_random_are_seeded_within_and_as_before_afterwards() -> None:
    class Dice(Actor):
        @on(Get)
        def throw(self, request: Get) -> float:
            return random.random() + self.random.random()

    def throw() -> float:
        with simulate(child("dice", Dice), seed=4) as sim:
            return float(sim.ask("dice", Get()))

    random.seed(99)
    first = throw()
    after = random.random()
    random.seed(99)

    assert throw() == first
    assert random.random() == after


def test_a_tree_that_gives_up_ends_the_simulation_as_it_ends_a_vm() -> None:
    tree = supervisor("top", max_restarts=1, max_seconds=5, children=[child("idle", Idle)])

    with pytest.raises(VMError, match="gave up"), simulate(tree) as sim:
        sim.crash("idle")
        sim.crash("idle")

    with simulate(tree, may_end=True) as sim:
        sim.crash("idle")
        sim.crash("idle")
        assert "gave up" in str(sim.ended)
        assert sim.starts() == {"idle": 2}


def test_a_tree_that_does_not_start_raises_at_the_block() -> None:
    class Broken(Actor):
        def starting(self) -> None:
            raise RuntimeError("cannot")

    with pytest.raises(StartError, match="cannot"), simulate(child("broken", Broken)):
        pytest.fail("the block was entered")


def test_use_of_the_real_world_fails_the_test_though_the_actor_only_crashes() -> None:
    class Clock(Actor):
        @on(Note)
        def note(self, note: Note) -> None:
            time.time()

    with (
        simulate(child("clock", Clock)) as sim,
        pytest.raises(NotSimulated, match=r"time\.time\(\) is real time"),
    ):
        sim.tell("clock", Note("what time is it?"))


def test_logging_is_no_use_of_real_time() -> None:
    class Logger(Actor):
        @on(Note)
        def note(self, note: Note) -> None:
            logging.getLogger("tests").info("%s", note.text)

    with simulate(child("logger", Logger)) as sim:
        sim.tell("logger", Note("a line"))


def test_an_ask_that_can_never_be_answered_is_stuck() -> None:
    class Silent(Actor):
        @on(Get)
        async def get(self, request: Get) -> int:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    with simulate(child("silent", Silent), memory=None) as sim, pytest.raises(SimulationStuck):
        sim.ask("silent", Get(), timeout=None)


def test_choices_come_from_any_source() -> None:
    drawn: list[int] = []

    def draw(n: int) -> int:
        drawn.append(n)
        return n - 1

    with simulate(shop(CarefulClerk), choices=Drawn(draw)) as sim:
        for n in range(2):
            sim.send(f"clerk{n}", Sell())
        sim.settle()
    assert drawn
    assert sim.schedule.taken == [n - 1 for n in sim.schedule.sizes]

    with pytest.raises(SimulationError, match="two sources"):
        simulate(shop(CarefulClerk), seed=1, choices=Seeded(2))
    with (
        pytest.raises(SimulationError, match="chose 99"),
        simulate(shop(CarefulClerk), choices=Drawn(lambda n: 99)) as sim,
    ):
        for n in range(2):
            sim.send(f"clerk{n}", Sell())
        sim.settle()


def test_a_source_that_fails_ends_the_simulation_with_its_own_error() -> None:
    class Enough(BaseException):
        pass

    def draw(n: int) -> int:
        raise Enough

    with pytest.raises(Enough), simulate(shop(CarefulClerk), choices=Drawn(draw)) as sim:
        for n in range(2):
            sim.send(f"clerk{n}", Sell())
        sim.settle()


@given(deviations=st.dictionaries(st.integers(0, 30), st.integers(1, 5), max_size=5))
def test_careful_clerks_lose_nothing_in_any_order(deviations: dict[int, int]) -> None:
    with simulate(shop(CarefulClerk, clerks=3), choices=Deviations(deviations)) as sim:
        for n in range(3):
            sim.send(f"clerk{n}", Sell())
        sim.settle()
        assert sim.ask("shelf", Get()) == 3


def test_a_simulation_runs_once_and_not_within_a_loop() -> None:
    sim = simulate(child("idle", Idle))
    with pytest.raises(SimulationError, match="has not started"):
        sim.statuses()
    with sim:
        pass
    with pytest.raises(SimulationError, match="has run already"), sim:
        pass

    async def within() -> None:
        with pytest.raises(SimulationError, match="plain function"), simulate(child("idle", Idle)):
            pass

    asyncio.run(within())


def test_a_failure_says_what_happened_and_how_to_run_it_again(failures: Path) -> None:
    with pytest.raises(AssertionError) as caught, simulate(shop(CarefulClerk), seed=5) as sim:
        sim.tell("clerk0", Sell())
        assert sim.ask("shelf", Get()) == 2

    story, command = caught.value.__notes__
    assert "shop/clerk0              handles Sell()" in story
    assert "handles Add() from clerk0#" in story
    (file,) = failures.iterdir()
    assert command == f"To run it again with the same decisions: avm replay {file}"


def test_a_timeline_leaves_out_what_is_the_vms_own_unless_asked() -> None:
    with simulate(shop(CarefulClerk)) as sim:
        sim.tell("clerk0", Sell())
        sim.advance(2)

        assert "system" not in sim.timeline()
        assert "system/store" in sim.timeline(None, system=True)
        assert "is sent Add()" in sim.timeline(None, sends=True)
        assert "lines before" in sim.timeline(2)


@event
class Big:
    """Something with much in it."""

    text: str


def test_a_long_event_is_cut_in_the_trace() -> None:
    with simulate(child("diary", Diary)) as sim:
        sim.tell("diary", Note("x" * 10_000))

        line = next(line for line in sim.trace.text().splitlines() if "handles Note" in line)
    assert len(line) < 400
    assert "10000 in all" in line


def test_a_simulation_needs_no_tree() -> None:
    with simulate() as sim:
        sim.spawn(Shelf, id="shelf")
        sim.spawn(Shelf, id="other", name="second")
        sim.tell("second", Put(4))

        assert sim.ask("other", Get()) == 4
        assert sim.starts() == {"shelf": 1, "other": 1}
        assert sim.statuses() == {"shelf": "idle", "other": "idle"}


@pytest.mark.parametrize("unstoppable", [False, True])
def test_actors_that_never_rest_are_an_error_and_are_ended(
    unstoppable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy(Actor):
        def starting(self) -> None:
            if unstoppable:
                self.spinning = asyncio.ensure_future(spin())

        @on(Note)
        def again(self, note: Note) -> None:
            self.tell(self.ref, note)

    async def spin() -> None:
        while True:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                pass

    monkeypatch.setattr("avm.testing.loop.MAX_TURNS", 500)
    frozen = gc.get_freeze_count()

    sim = simulate(child("busy", Busy))

    with pytest.raises(SimulationEndless), sim:
        sim.tell("busy", Note("go"))

    assert sim.loop.is_closed()
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_a_simulation_that_is_over_is_gone():
    """What it was made of is in circles, and the collector sees all of them."""

    def play():
        with simulate(child("shelf", Shelf)) as sim:
            sim.ask("shelf", Get())
            return weakref.ref(sim.world)

    world = play()
    gc.collect()

    assert world() is None
