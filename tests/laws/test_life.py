"""Laws of life and death: a start is whole or leaves nothing, an end is one step for all who look (S23-S33)."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Actor, Ignore, Normal, Request, Shutdown, event, on
from avm.actors.signals import Down
from avm.errors import StartError, StartIgnored
from avm.supervision import child, supervisor
from avm.testing.invariants import breaches
from avm.testing.strategies import schedules
from tests.laws.cast import Do, Note, Puppet, lines, outcome, play, stage


@event(tag="laws.Plan")
class Plan:
    """How a start goes: what `starting` does, after how many seconds, and what it leaves behind."""

    how: str
    seconds: float
    helpers: int
    timeout: float | None


class Starter(Actor):
    """Starts as planned."""

    def __init__(self, log: list[Any], plan: Plan) -> None:
        self.log = log
        self.plan = plan
        if plan.how == "fail at once":
            raise RuntimeError("cannot be made")

    async def starting(self) -> Any:
        self.register("second name")
        self.join("group")
        self.send_after(1000.0, self.pid, Note(-1))
        for _ in range(self.plan.helpers):
            await self.spawn(Puppet, [])
        if self.plan.seconds:
            await asyncio.sleep(self.plan.seconds)
        self.log.append("started")
        if self.plan.how == "fail":
            raise RuntimeError("cannot start")
        return Ignore if self.plan.how == "ignore" else None

    @on(Note)
    def note(self, note: Note) -> None:
        self.log.append(note.n)


class Parent(Actor):
    """Starts one, and tells how that went, and when."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    @on(Plan)
    async def start(self, plan: Plan) -> Any:
        began = self.now()
        try:
            ref = await self.spawn(
                Starter, self.log, plan, id="it", name="first name", start_timeout=plan.timeout
            )
        except StartIgnored:
            return "ignored", self.now() - began
        except StartError:
            return "failed", self.now() - began
        return ref.path, self.now() - began


plans = st.builds(
    Plan,
    st.sampled_from(("start", "start", "fail", "fail at once", "ignore")),
    st.sampled_from((0.0, 1.0, 3.0)),
    st.integers(0, 2),
    st.sampled_from((None, 2.0)),
)


@given(plan=plans, told=st.integers(0, 4), schedule=schedules())
def test_s23_to_s27_a_start_is_whole_or_leaves_nothing(plan: Plan, told: int, schedule: Any) -> None:
    log: list[Any] = []
    with play(supervisor("top", children=[child("parent", Parent, log)]), schedule) as sim:
        timers = len(sim.kernel.timers)
        task = sim.loop.create_task(sim.kernel.ask("parent", plan, None))
        if plan.seconds and plan.how != "fail at once":
            sim.advance(0.5)
            # The name is registered before the start is through, and what is sent meanwhile waits (S26).
            assert sim.kernel.whereis("first name") is not None
            for n in range(told):
                sim.kernel.tell("first name", Note(n))
        sim.advance(5.0)
        found, when = task.result()

        late = plan.timeout is not None and plan.seconds > plan.timeout
        if plan.how == "fail at once":
            assert (found, when) == ("failed", 0.0)
        elif late:
            assert (found, when) == ("failed", plan.timeout)
        else:
            assert when == plan.seconds
            assert found == {"fail": "failed", "ignore": "ignored"}.get(plan.how, "top/parent/it")
        if found == "ignored":
            # Not a failure of any kind (S25).
            assert sim.kernel.statistics().crashed == 0
        if found == "top/parent/it":
            sent = list(range(told)) if plan.seconds else []
            assert log == ["started", *sent]
            sim.stop("first name")
        assert [line for line in log if line in range(told)] == (log[1:] if found == "top/parent/it" else [])
        assert sim.kernel.whereis("first name") is None
        assert sim.kernel.whereis("second name") is None
        assert sim.kernel.groups.members("group") == ()
        assert sim.statuses() == {"parent": "idle"}
        assert len(sim.kernel.timers) - timers <= len(sim.kernel.deadlines._lanes)
        assert breaches(sim.kernel) == []


@given(
    before=st.integers(0, 3),
    nexts=st.lists(st.integers(10, 19), max_size=4, unique=True),
    after=st.integers(0, 3),
    schedule=schedules(),
)
def test_s28_what_continues_goes_before_all_that_waits(
    before: int, nexts: list[int], after: int, schedule: Any
) -> None:
    log: list[tuple[Any, ...]] = []
    with play(stage(log, ["a"]), schedule) as sim:
        sim.kernel.suspend("stage/a")
        for n in range(before):
            sim.kernel.tell("stage/a", Note(n))
        sim.kernel.tell("stage/a", Do(tuple(("next", n) for n in nexts)))
        for n in range(after):
            sim.kernel.tell("stage/a", Note(100 + n))
        sim.kernel.resume("stage/a")
        sim.run_until_idle()

    seen = [n for _, n in lines(log, "a", "note")]
    assert seen[before : before + len(nexts)] == nexts
    assert seen[:before] == list(range(before))
    assert seen[before + len(nexts) :] == [100 + n for n in range(after)]


class Ending(Actor):
    """Ends as it is told; `stopping` may fail and takes time."""

    def __init__(self, log: list[Any], fails: bool) -> None:
        self.log = log
        self.fails = fails

    @on(str)
    async def end(self, how: str) -> str:
        if how == "crash":
            raise RuntimeError("crash")
        if how == "stop":
            self.stop()
        if how == "hang":
            await asyncio.sleep(1000.0)
        return how

    async def stopping(self, reason: object) -> None:
        self.log.append(type(reason).__name__)
        await asyncio.sleep(1.0)
        if self.fails:
            raise ZeroDivisionError("while stopping")


@given(
    how=st.sampled_from(("crash", "stop", "killed", "exit", "hang and exit", "hang and kill")),
    fails=st.booleans(),
    waiting=st.integers(0, 3),
    schedule=schedules(),
)
def test_s29_to_s31_stopping_runs_last_and_once_but_for_a_kill(
    how: str, fails: bool, waiting: int, schedule: Any
) -> None:
    log: list[Any] = []
    tree = supervisor("top", children=[child("it", Ending, log, fails, restart="temporary")])
    with play(tree, schedule) as sim:
        pid = sim.cell("it").pid
        letters = sim.kernel.dead_letters.total()
        sim.kernel.tell(pid, how if how in ("crash", "stop") else "hang" if "hang" in how else "stay")
        for _ in range(waiting if "hang" in how or how in ("crash", "stop") else 0):
            sim.kernel.tell(pid, "stay")
        if how == "killed":
            sim.kernel.kill(pid)
        if "hang" in how:
            sim.advance(1.0)
        if "exit" in how:
            sim.kernel.exit(pid, Shutdown("told"))
        if how == "hang and kill":
            sim.kernel.kill(pid)
        sim.advance(5.0)
        reason = type(pid.cell.reason).__name__
        lost = sim.kernel.dead_letters.total() - letters

    killed = how in ("killed", "hang and kill")
    first = {"crash": "RuntimeError", "stop": "Normal"}.get(how, "Shutdown")
    assert log == ([] if killed else [first])
    assert reason == ("Killed" if killed else "ZeroDivisionError" if fails else first)
    if how not in ("exit", "killed"):
        assert lost == waiting


@event(tag="laws.WatchIt")
class WatchIt(Request[None]):
    """Watch someone, by pid."""

    pid: Any


class Witness(Actor):
    """Looks around at the very moment it hears of an end."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    @on(WatchIt)
    def watch(self, order: WatchIt) -> None:
        self.monitor(order.pid)

    @on(Down)
    async def down(self, down: Down) -> None:
        assert down.pid is not None
        try:
            await self.ask(down.pid, "are you there?")
            answer = "it answered"
        except Exception as error:
            answer = type(error).__name__
        self.register("wanted")
        self.seen.append((down.pid.is_alive(), self.whereis("wanted") == self.ref, answer))


@given(
    kills=st.sampled_from(("kill", "crash", "stop")),
    witnesses=st.integers(1, 3),
    waits=st.booleans(),
    schedule=schedules(),
)
def test_s32_who_hears_of_an_end_finds_the_name_free(
    kills: str, witnesses: int, waits: bool, schedule: Any
) -> None:
    """Each in its turn; the next is asked when the name has moved on, and finds it taken by a living one."""
    seen: list[Any] = []
    log: list[tuple[Any, ...]] = []
    with play(stage(log, ["a"]), schedule) as sim:
        first = sim.spawn(Witness, seen)
        sim.tell("a", Do((("register", "wanted"), ("join", "group"))))
        pid = sim.cell("a").pid
        sim.ask(first, WatchIt(pid))
        for _ in range(witnesses - 1):
            sim.ask(sim.spawn(Witness, []), WatchIt(pid))
        others = [ref for ref in sim.kernel.cells() if ref.behaviour.cls is Witness and ref is not first.cell]
        for cell in others:
            cell.kill()
        if waits:
            sim.kernel.tell("stage/a", Do((("sleep", 500.0),)))
            sim.settle()
        if kills == "stop":
            sim.stop("stage/a", Normal())
        else:
            (sim.kill if kills == "kill" else sim.crash)("stage/a")
        sim.run_until_idle()

        assert seen == [(False, True, "NoProc")]
        assert outcome(sim, "group", "hello") == "NoProc"
        assert breaches(sim.kernel) == []


class Sleepy(Actor):
    """Wants to know when nothing happened for a while."""

    def __init__(self, log: list[float]) -> None:
        self.log = log
        self.idle_timeout(10.0)

    @on(Note)
    def note(self, note: Note) -> None:
        self.idle_timeout(10.0)

    def unhandled(self, event: Any) -> None:
        self.log.append(self.now())


@given(gaps=st.lists(st.sampled_from((1.0, 5.0, 9.0)), max_size=5), schedule=schedules())
def test_s33_an_idle_timeout_comes_after_that_time_without_any_event(
    gaps: list[float], schedule: Any
) -> None:
    log: list[float] = []
    with play(child("sleepy", Sleepy, log), schedule) as sim:
        for gap in gaps:
            sim.advance(gap)
            sim.tell("sleepy", Note(1))
        last = sim.now
        sim.advance(30.0)

    assert log == [last + 10.0]
