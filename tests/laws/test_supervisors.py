"""Laws of supervisors, in simulations: what the model of OTP does, however the actors take turns (S51-S75)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Actor, Kill, Shutdown
from avm.errors import AVMError
from avm.supervision import (
    Backoff,
    SupervisorReport,
    SupervisorSpec,
    child,
    delete_child,
    dynamic_supervisor,
    restart_child,
    start_child,
    supervisor,
    terminate_child,
    which_children,
)
from avm.testing import Seeded
from avm.testing.invariants import breaches
from avm.testing.simulate import Simulation
from avm.testing.strategies import restart_types, schedules, trees
from tests.laws.cast import play
from tests.supervision.model import Model
from tests.supervision.test_laws import STRATEGIES, Act, EndOf, Plan, Together, Wait, lives, predict
from tests.supervision.world import End, Log, Probe, Stubborn

VERBS: dict[str, Any] = {"restart": restart_child, "terminate": terminate_child, "delete": delete_child}


def happen(sim: Simulation, log: Log, what: Any) -> str:
    """Let something happen in a simulation; return how the supervisor answered."""
    match what:
        case EndOf(id, how):
            if sim.kernel.find(f"top/{id}") is not None:
                if how == "killed":
                    sim.kill(f"top/{id}")
                else:
                    sim.tell(f"top/{id}", End(how))
        case Together(together):
            for ref in [ref for id in together if (ref := sim.kernel.find(f"top/{id}")) is not None]:
                sim.kernel.exit(ref, Kill())
            sim.settle()
        case Wait(seconds):
            sim.advance(seconds)
        case Plan(id, planned):
            log.plan(id, *planned)
        case Act(verb, id, restart):
            return act(sim, log, verb, id, restart)
    return "ok"


def act(sim: Simulation, log: Log, verb: str, id: str, restart: Any) -> str:
    try:
        if verb == "start":
            sim.run(start_child(sim.ref("top"), child(id, Probe, log, restart=restart)))
        else:
            sim.run(VERBS[verb](sim.ref("top"), id))
    except AVMError as error:
        return type(error).__name__
    return "ok"


def states(sim: Simulation) -> dict[str, str]:
    found = {status.id: status.pid for status in sim.run(which_children(sim.ref("top")))}
    return {
        id: "down" if pid is None else str(pid) if pid == "restarting" else "up" for id, pid in found.items()
    }


def live(strategy: Any, intensity: int, life: Any, choices: Any) -> None:
    """Let a life happen to a supervisor and to the model, and compare them at every step."""
    kids, story = life
    model, log = Model(strategy, intensity, 5, kids), Log()
    children = [child(id, Probe, log, restart=kind) for id, kind in kids]
    tree = supervisor("top", strategy=strategy, max_restarts=intensity, max_seconds=5, children=children)
    with play(tree, choices, may_end=True) as sim:
        for what in story:
            expected = predict(model, what)
            answer = happen(sim, log, what)
            alive = sim.kernel.find("top") is not None

            assert log.lines == model.lines, what
            assert alive == model.alive, what
            if not alive:
                break
            assert answer == expected, what
            assert states(sim) == model.states(), what
            assert breaches(sim.kernel) == []
    assert (sim.ended is not None) == (not model.alive)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(intensity=st.sampled_from([0, 1, 2, 3, 8, 8, 8]), life=lives(), schedule=schedules())
def test_s53_s63_to_s71_s75_a_supervisor_does_what_the_model_of_otp_does(
    strategy: Any, intensity: int, life: Any, schedule: Any
) -> None:
    live(strategy, intensity, life, schedule)


SEEDED_LIFE = (
    [("a", "permanent"), ("b", "transient"), ("c", "temporary"), ("d", "permanent")],
    [
        EndOf("b", "exception"),
        Plan("d", ["fail", "fail"]),
        EndOf("a", "killed"),
        Wait(3),
        Together(["a", "b", "d"]),
        Act("start", "e", "permanent"),
        Act("terminate", "b", "permanent"),
        EndOf("d", "normal"),
        Act("restart", "b", "permanent"),
        Wait(6),
        Together(["c", "e"]),
        Act("delete", "a", "permanent"),
    ],
)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_s63_to_s70_the_order_in_which_actors_run_changes_nothing_in_a_thousand_seeds(strategy: Any) -> None:
    """A thousand in all."""
    for seed in range(334):
        live(strategy, 6, SEEDED_LIFE, Seeded(seed))


def grow(spec: Any, log: Log) -> Any:
    """A tree of probes in the shape of another."""
    if not isinstance(spec, SupervisorSpec):
        return child(spec.id, Probe, log)
    return supervisor(spec.id, strategy=spec.strategy, children=[grow(each, log) for each in spec.children])


@given(tree=trees(dynamic=False), schedule=schedules(), failing=st.integers(0, 12))
def test_s53_to_s56_a_tree_starts_in_order_stops_in_reverse_and_starts_whole_or_not_at_all(
    tree: SupervisorSpec, schedule: Any, failing: int
) -> None:
    log = Log()
    ids: list[str] = []
    with play(grow(tree, log), schedule):
        ids = [line.removeprefix("start ") for line in log.take()]
    assert [line.removeprefix("stop ") for line in log.lines] == ids[::-1]

    # The same tree once more, with a child that cannot start: those before it stop, and nobody is left.
    if len(set(ids)) != len(ids) or not ids:
        return
    log = Log()
    victim = failing % len(ids)
    log.always[ids[victim]] = "fail"
    with pytest.raises(AVMError), play(grow(tree, log), schedule):
        pass
    before = [f"start {id}" for id in ids[:victim]]
    assert log.lines[: victim + 1] == [*before, f"fail {ids[victim]}"]
    assert log.lines[victim + 1 :] == [f"stop {id}" for id in reversed(ids[:victim])]


class Slow(Actor):
    """Takes its time to stop."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def stopping(self, reason: object) -> None:
        await asyncio.sleep(self.seconds)


graces = st.sampled_from((0.0, 1.0, 3.0, "brutal_kill", "infinity"))
slows = st.lists(st.tuples(st.sampled_from((0.0, 0.5, 2.0, 5.0)), graces), min_size=1, max_size=4)


def time_to_stop(seconds: float, grace: Any) -> float:
    if grace == "brutal_kill":
        return 0.0
    return seconds if grace == "infinity" else min(seconds, grace)


@given(children=slows, schedule=schedules(), dynamic=st.booleans())
def test_s56_to_s60_a_stop_takes_as_long_as_the_graces_allow(
    children: list[Any], schedule: Any, dynamic: bool
) -> None:
    """One after the other, or all at once under a dynamic supervisor; who is late is killed, and reported."""
    specs = [child(f"c{n}", Slow, seconds, shutdown=grace) for n, (seconds, grace) in enumerate(children)]
    group = dynamic_supervisor("group") if dynamic else supervisor("group", children=specs)
    with play(supervisor("top", children=[group]), schedule) as sim:
        if dynamic:
            for spec in specs:
                sim.run(start_child(sim.ref("top/group"), spec))
        began = sim.now
        sim.run(terminate_child(sim.ref("top"), "group"))
        took = sim.now - began
        left = sim.statuses()
        told = [r for r in sim.reports if isinstance(r, SupervisorReport) and r.context == "shutdown_error"]

    times = [time_to_stop(seconds, grace) for seconds, grace in children]
    late = [
        n
        for n, (seconds, grace) in enumerate(children)
        if isinstance(grace, float) and (grace == 0 or seconds > grace)
    ]
    assert took == (max(times) if dynamic else sum(times))
    assert left == {}
    assert sum(r.offender.count if dynamic else 1 for r in told) == len(late)


@given(
    ends=st.lists(st.sampled_from((0.0, 0.5, 1.0, 2.5)), min_size=1, max_size=8),
    allowed=st.integers(0, 3),
    schedule=schedules(),
)
def test_s66_s67_a_supervisor_gives_up_at_exactly_one_restart_too_many(
    ends: list[float], allowed: int, schedule: Any
) -> None:
    log = Log()
    tree = supervisor("top", max_restarts=allowed, max_seconds=2.0, children=[child("a", Probe, log)])
    times: list[float] = []
    with play(tree, schedule, may_end=True) as sim:
        for wait in ends:
            sim.advance(wait)
            times = [t for t in times if t >= sim.now - 2.0] + [sim.now]
            sim.kill("top/a")
            if len(times) > allowed:
                assert sim.kernel.find("top") is None
                break
            assert sim.kernel.find("top/a") is not None
    assert (sim.ended is not None) == (len(times) > allowed)


@given(
    crashes=st.integers(1, 5),
    least=st.sampled_from((0.5, 1.0)),
    factor=st.sampled_from((1.0, 2.0)),
    schedule=schedules(),
)
def test_s73_a_backoff_waits_before_each_start(
    crashes: int, least: float, factor: float, schedule: Any
) -> None:
    log = Log()
    backoff = Backoff(min=least, max=4.0, factor=factor)
    tree = supervisor(
        "top", max_restarts=100, max_seconds=1000, backoff=backoff, children=[child("a", Probe, log)]
    )
    with play(tree, schedule) as sim:
        for n in range(crashes):
            sim.kill("top/a")
            wait = min(least * factor**n, 4.0)
            sim.advance(wait - 0.01)
            assert log.starts()["a"] == n + 1
            assert states(sim) == {"a": "restarting"}
            sim.advance(0.01)
            assert log.starts()["a"] == n + 2


@given(
    significant=st.lists(st.booleans(), min_size=1, max_size=4),
    how=st.sampled_from(("normal", "shutdown")),
    auto=st.sampled_from(("any_significant", "all_significant")),
    order=st.randoms(use_true_random=False),
    schedule=schedules(),
)
def test_s72_significant_children_that_end_may_end_their_supervisor(
    significant: list[bool], how: str, auto: Any, order: Any, schedule: Any
) -> None:
    log = Log()
    kids = [child(f"c{n}", Probe, log, restart="transient", significant=s) for n, s in enumerate(significant)]
    victims = list(range(len(kids)))
    order.shuffle(victims)
    living = {n for n, counts in enumerate(significant) if counts}
    with play(supervisor("top", auto_shutdown=auto, children=kids), schedule) as sim:
        top = sim.cell("top")
        for n in victims:
            sim.tell(f"top/c{n}", End(how))
            living.discard(n)
            if significant[n] and (auto == "any_significant" or not living):
                assert top.reason == Shutdown()
                break
            assert top.is_alive()


@given(
    tree=trees(max_restarts=st.just(100)),
    which=st.lists(st.integers(0, 40), max_size=6),
    schedule=schedules(),
)
def test_s62_no_child_outlives_its_supervisor_whoever_is_killed(
    tree: SupervisorSpec, which: list[int], schedule: Any
) -> None:
    with play(tree, schedule, may_end=True) as sim:
        for n in which:
            living = sorted(
                (c for c in sim.kernel.cells() if c.path.startswith("root")), key=lambda c: c.serial
            )
            if not living:
                break
            sim.kill(living[n % len(living)].pid)
            assert breaches(sim.kernel) == []
            assert all(c.parent is not None and c.parent.is_alive() for c in sim.kernel.cells())
            sim.advance(1.0)


@given(types=st.lists(restart_types(), min_size=1, max_size=4), schedule=schedules())
def test_s58_one_that_does_not_let_go_is_killed_when_its_grace_is_over(
    types: list[Any], schedule: Any
) -> None:
    log = Log()
    kids = [child(f"c{n}", Stubborn, log, restart=kind, shutdown=2.0) for n, kind in enumerate(types)]
    with play(supervisor("top", children=kids), schedule) as sim:
        began = sim.now
        sim.stop("top", Shutdown())

        assert sim.now - began == 2.0 * len(kids)
