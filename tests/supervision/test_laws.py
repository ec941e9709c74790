"""Laws: whatever happens to the children, in whatever order, avm does what the model of OTP's supervisor does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Kill, Shutdown
from avm.errors import AVMError
from avm.supervision import (
    ChildSpec,
    child,
    delete_child,
    restart_child,
    start_child,
    supervisor,
    terminate_child,
)
from tests.supervision.model import Model
from tests.supervision.world import ENDS, Log, Probe, World, world

IDS = ["a", "b", "c", "d", "e"]

STRATEGIES = ["one_for_one", "rest_for_one", "one_for_all"]

strategies = st.sampled_from(STRATEGIES)
restarts = st.sampled_from(["permanent", "transient", "temporary"])
plans = st.lists(st.sampled_from(["ok", "fail", "ignore"]), max_size=3)


@attrs.frozen
class EndOf:
    id: str
    how: str


@attrs.frozen
class Together:
    ids: Sequence[str]


@attrs.frozen
class Wait:
    seconds: int


@attrs.frozen
class Plan:
    id: str
    plans: Sequence[str]


@attrs.frozen
class Act:
    verb: str
    id: str
    restart: str


def happenings(ids: Sequence[str]) -> st.SearchStrategy[Any]:
    """What may happen to children of these ids; failures more often than anything else."""
    one = st.sampled_from(ids)
    return st.one_of(
        st.builds(EndOf, one, st.just("exception")),
        st.builds(EndOf, one, st.sampled_from(list(ENDS))),
        st.builds(Together, st.lists(one, min_size=2, max_size=5, unique=True)),
        st.builds(Wait, st.integers(1, 8)),
        st.builds(Plan, one, plans),
        st.builds(Act, st.sampled_from(["start", "restart", "terminate", "delete"]), one, restarts),
    )


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[tuple[str, Any]], list[Any]]:
    """Children with their restart types, and what happens to them; one more id than children may be spoken of."""
    kids = list(zip(IDS, draw(st.lists(restarts, min_size=2, max_size=4)), strict=False))
    story = draw(st.lists(happenings(IDS[: len(kids) + 1]), min_size=4, max_size=20))
    return kids, story


async def happen(w: World, what: Any) -> str:
    """Let something happen to the real supervisor; return how it answered."""
    match what:
        case EndOf(id, how):
            if w.kernel.find(f"top/{id}") is not None:
                await w.end(f"top/{id}", how)
        case Together(together):
            found = [ref for id in together if (ref := w.kernel.find(f"top/{id}")) is not None]
            for ref in found:
                w.kernel.exit(ref, Kill())
            await w.settle()
        case Wait(seconds):
            await w.advance(seconds)
        case Plan(id, planned):
            w.log.plan(id, *planned)
        case Act(verb, id, restart):
            return await act(w, verb, id, restart)
    return "ok"


async def act(w: World, verb: str, id: str, restart: Any) -> str:
    try:
        if verb == "start":
            await start_child(w.top, child(id, Probe, w.log, restart=restart))
        else:
            await {"restart": restart_child, "terminate": terminate_child, "delete": delete_child}[verb](
                w.top, id
            )
    except AVMError as error:
        return type(error).__name__
    return "ok"


def predict(model: Model, what: Any) -> str:
    """Let the same happen to the model."""
    match what:
        case EndOf(id, how):
            model.end(id, how)
        case Together(together):
            model.kill_together(together)
        case Wait(seconds):
            model.wait(seconds)
        case Plan(id, planned):
            model.plans[id] = list(planned)
        case Act("start", id, restart):
            return model.start_child(id, restart)
        case Act(verb, id, _):
            answer: str = getattr(model, f"{verb}_child")(id)
            return answer
    return "ok"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@given(intensity=st.sampled_from([0, 1, 2, 3, 8, 8, 8]), life=lives())
def test_s63_to_s70_a_supervisor_does_what_the_model_of_otp_does(
    strategy: Any, intensity: int, life: tuple[list[tuple[str, Any]], list[Any]]
) -> None:
    """Same starts, stops and failures in the same order, same states, same answers, same moment of giving up."""

    async def body() -> None:
        kids, story = life
        model = Model(strategy, intensity, 5, kids)

        def tree(log: Log) -> ChildSpec:
            children = [child(id, Probe, log, restart=type) for id, type in kids]
            return supervisor(
                "top", strategy=strategy, max_restarts=intensity, max_seconds=5, children=children
            )

        async with world(tree) as w:
            for what in story:
                expected = predict(model, what)
                answer = await happen(w, what)

                assert w.log.lines == model.lines, what
                assert w.top.is_alive() == model.alive, what
                if not model.alive:
                    break
                assert answer == expected, what
                assert await w.states() == model.states(), what
            if model.alive:
                assert await w.stop() == Shutdown()
            else:
                assert await w.reason() == Shutdown("max_restarts")
            assert len(w.gave_up()) == (not model.alive)

    asyncio.run(body())


@given(intensities=st.lists(st.integers(0, 2), min_size=1, max_size=3))
def test_s71_a_child_that_always_crashes_is_started_the_product_of_all_intensities_plus_one(
    intensities: list[int],
) -> None:
    async def body() -> None:
        def tree(log: Log) -> ChildSpec:
            log.always["leaf"] = "crash"
            spec: ChildSpec = child("leaf", Probe, log)
            for depth, intensity in enumerate(intensities):
                spec = supervisor(f"level{depth}", max_restarts=intensity, children=[spec])
            return spec

        expected = 1
        for intensity in intensities:
            expected *= intensity + 1
        async with world(tree) as w:
            await w.settle()

            assert w.log.starts() == {"leaf": expected}
            assert not w.top.is_alive()

    asyncio.run(body())


shapes = st.recursive(st.none(), lambda inner: st.lists(inner, max_size=4), max_leaves=12)


@given(shape=st.lists(shapes, max_size=4), strategy=strategies)
def test_s53_s56_a_tree_stops_in_exactly_the_reverse_of_its_start(shape: list[Any], strategy: Any) -> None:
    async def body() -> None:
        def grow(id: str, shape: Any, log: Log) -> ChildSpec:
            if shape is None:
                return child(id, Probe, log)
            children = [grow(f"{id}{n}", inner, log) for n, inner in enumerate(shape)]
            return supervisor(id, strategy=strategy, children=children)

        async with world(lambda log: grow("t", shape, log)) as w:
            started = [line.removeprefix("start ") for line in w.log.take()]

            await w.stop()

            assert [line.removeprefix("stop ") for line in w.log.lines] == started[::-1]
            assert w.told() == []

    asyncio.run(body())
