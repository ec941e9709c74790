"""Hypothesis strategies for systems of actors: trees, events, schedules, faults, conversations and models.

    @given(tree=trees(), schedule=schedules(), faults=fault_plans(["c0", "c1"]))
    def test_nothing_is_lost(tree, schedule, faults):
        with simulate(tree, choices=schedule, faults=faults) as sim:
            ...

All of them shrink towards less: fewer children, no deviation from the plain order, no faults, short texts. This module
needs Hypothesis; the rest of `avm.testing` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from avm.actors import Actor, Pid, Ref
from avm.actors.event import EVENTS, EventRegistry
from avm.memory import Conversation, Store
from avm.supervision import Backoff, ChildSpec, SupervisorSpec, child, dynamic_supervisor, supervisor
from avm.supervision.spec import RESTART_TYPES, STRATEGIES, AutoShutdown
from avm.testing import faults as f
from avm.testing.choices import Choices, Deviations, Seeded
from avm.testing.fakes import ChaoticModel
from avm.testing.probe import Idle
from avm.testing.schema import draw_value
from avm.testing.values import UnknownType, values_of

DECISIONS = 400
"""Decisions of a run among which `schedules` puts its deviations."""

DEVIATIONS = 10
"""Most deviations in a schedule; so a failure is never further than that from the plain order."""


# Trees.


def restart_types() -> st.SearchStrategy[Any]:
    """permanent, transient or temporary."""
    return st.sampled_from(RESTART_TYPES)


def restart_strategies() -> st.SearchStrategy[Any]:
    """one_for_one, one_for_all or rest_for_one."""
    return st.sampled_from(STRATEGIES)


def backoffs() -> st.SearchStrategy[Backoff]:
    """None at all, or waits of up to a minute, with and without jitter."""
    grown = st.builds(
        Backoff,
        min=st.sampled_from((0.1, 1.0)),
        max=st.sampled_from((1.0, 60.0)),
        factor=st.sampled_from((1.0, 2.0)),
        jitter=st.sampled_from((0.0, 0.5)),
    )
    return st.one_of(st.just(Backoff()), grown)


def child_specs(
    ids: st.SearchStrategy[str] | None = None,
    actors: Sequence[type[Actor]] = (Idle,),
    significant: bool = False,
) -> st.SearchStrategy[ChildSpec]:
    """Specs of workers.

    Args:
        ids: default is c0 to c9.
        actors: their classes, made without arguments.
        significant: some children that are not permanent are; their supervisor needs an `auto_shutdown`.
    """

    def make(id: str, cls: type[Actor], restart: Any, shutdown: Any, counts: bool) -> ChildSpec:
        weighs = significant and counts and restart != "permanent"
        return child(id, cls, restart=restart, shutdown=shutdown, significant=weighs)

    return st.builds(
        make,
        ids if ids is not None else st.integers(0, 9).map("c{}".format),
        st.sampled_from(tuple(actors)),
        restart_types(),
        st.sampled_from((5.0, 0.0, "infinity", "brutal_kill")),
        st.booleans(),
    )


@st.composite
def trees(
    draw: st.DrawFn,
    actors: Sequence[type[Actor]] = (Idle,),
    *,
    id: str = "root",
    max_children: int = 4,
    max_depth: int = 2,
    max_restarts: st.SearchStrategy[int] | None = None,
    dynamic: bool = True,
) -> SupervisorSpec:
    """Whole supervision trees, always valid. Children are c0, c1, ... and supervisors sup0, sup1, ... in start order.

    Args:
        actors: classes of the workers, made without arguments.
        id: of the topmost supervisor.
        max_children: of each supervisor.
        max_depth: levels of supervisors below the topmost.
        max_restarts: of each supervisor; default is 0 to 5.
        dynamic: there may be dynamic supervisors, without children.
    """
    auto: AutoShutdown = draw(
        st.sampled_from(("never", "never", "never", "any_significant", "all_significant"))
    )
    children: list[ChildSpec] = []
    for number in range(draw(st.integers(0, max_children))):
        kinds = (
            ["worker", "worker", "worker"]
            + (["tree"] if max_depth else [])
            + (["dynamic"] if dynamic else [])
        )
        kind = draw(st.sampled_from(kinds))
        if kind == "tree":
            below = trees(
                actors,
                id=f"sup{number}",
                max_children=max_children,
                max_depth=max_depth - 1,
                max_restarts=max_restarts,
                dynamic=dynamic,
            )
            children.append(draw(below))
        elif kind == "dynamic":
            children.append(dynamic_supervisor(f"sup{number}", max_restarts=3, max_seconds=5.0))
        else:
            children.append(draw(child_specs(st.just(f"c{number}"), actors, auto != "never")))
    return supervisor(
        id,
        strategy=draw(restart_strategies()),
        max_restarts=draw(max_restarts if max_restarts is not None else st.integers(0, 5)),
        max_seconds=draw(st.sampled_from((5.0, 1.0, 60.0))),
        auto_shutdown=auto,
        backoff=draw(backoffs()),
        children=children,
    )


# Events.


def events(
    *classes: type,
    refs: st.SearchStrategy[Ref] | None = None,
    pids: st.SearchStrategy[Pid] | None = None,
    registry: EventRegistry = EVENTS,
) -> st.SearchStrategy[Any]:
    """Instances of event classes, made from the types of their fields.

    Args:
        classes: which; none means all of the registry that can be made, but for avm's own.
        refs, pids: where fields that are addresses come from.
        registry: where `classes` are looked for when none are given.

    Raises:
        UnknownType: a field of a class that was named is of a type that no values are known for; it says which.
    """
    given = {Ref: refs, Pid: pids}
    own = {kind: strategy for kind, strategy in given.items() if strategy is not None}
    if classes:
        return st.one_of([values_of(cls, own) for cls in classes])
    found = []
    for tag in sorted(registry):
        cls = registry.class_of(tag)
        if cls is None or tag.startswith("avm.") or cls.__module__.startswith("avm."):
            continue
        try:
            found.append(values_of(cls, own))
        except UnknownType:
            continue
    if not found:
        raise UnknownType(
            "the registry has no event that could be made; name the classes: events(Draft, Retry)."
        )
    return st.one_of(found)


# Order and faults.


def schedules(decisions: int = DECISIONS, deviations: int = DEVIATIONS) -> st.SearchStrategy[Deviations]:
    """Orders of running for `simulate(choices=)`: the plain one but for a few decisions, so that failures shrink.

    Args:
        decisions: deviations are among this many first decisions of a run.
        deviations: most of them in one schedule.
    """
    pairs = st.dictionaries(st.integers(0, decisions - 1), st.integers(1, 7), max_size=deviations)
    return pairs.map(Deviations)


def seeds() -> st.SearchStrategy[Choices]:
    """Orders of running in which every decision is left to chance: search wider, shrink worse than `schedules`."""
    return st.integers(0, 2**32 - 1).map(Seeded)


def fault_plans(
    actors: Iterable[str] = (),
    *,
    models: bool = False,
    tools: Iterable[str] = (),
    clock: bool = False,
    max_faults: int = 4,
    occasions: int = 6,
) -> st.SearchStrategy[list[f.Fault]]:
    """Lists of faults for `simulate(faults=)`.

    Args:
        actors: paths or ids of those that may crash, be killed, fail to start or have a full mailbox.
        models: calls of models may fail, be slow, or be answered with nothing.
        tools: names of those that may fail, hang or be slow.
        clock: the clock may step forward.
        max_faults: most of them in one plan.
        occasions: each happens at one of this many first occasions.
    """
    nth = st.integers(1, occasions)
    kinds: list[st.SearchStrategy[f.Fault]] = []
    if names := list(actors):
        kinds += _actor_faults(st.sampled_from(names), nth)
    if models:
        kinds += _model_faults(nth)
    if named := list(tools):
        kinds += _tool_faults(st.sampled_from(named), nth)
    if clock:
        kinds.append(
            st.builds(f.ClockStep, at=st.floats(0, 600), seconds=st.sampled_from((0.5, 60.0, 7200.0)))
        )
    return st.lists(st.one_of(kinds), max_size=max_faults) if kinds else st.just([])


def _actor_faults(
    actor: st.SearchStrategy[str], nth: st.SearchStrategy[int]
) -> list[st.SearchStrategy[f.Fault]]:
    return [
        st.builds(f.Crash, actor, event=nth),
        st.builds(f.Crash, actor, wait=nth),
        st.builds(f.Kill, actor, event=nth),
        st.builds(f.Kill, actor, wait=nth),
        # The first start is part of the start of the tree, which would fail.
        st.builds(f.FailStart, actor, start=nth.map(lambda n: n + 1), count=st.integers(1, 2)),
        st.builds(f.FullMailbox, actor, arrival=nth, count=st.integers(1, 2)),
    ]


def _model_faults(nth: st.SearchStrategy[int]) -> list[st.SearchStrategy[f.Fault]]:
    how = st.sampled_from(f.MODEL_FAILURES)
    wrong = [
        "",
        "   ",
        "I cannot help with that.",
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "name": "no_such_tool", "arguments": "{}"}],
        },
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "name": "x", "arguments": "{"}]},
    ]
    return [
        st.builds(f.ModelFails, call=nth, how=how, count=st.integers(1, 3)),
        st.builds(
            f.ModelFails, call=nth, how=st.just("rate_limited"), retry_after=st.sampled_from((0.0, 1.0, 60.0))
        ),
        st.builds(f.ModelSlow, call=nth, seconds=st.sampled_from((1.0, 30.0, 600.0))),
        st.builds(f.ModelAnswers, call=nth, answer=st.sampled_from(wrong)),
    ]


def _tool_faults(
    tool: st.SearchStrategy[str], nth: st.SearchStrategy[int]
) -> list[st.SearchStrategy[f.Fault]]:
    return [
        st.builds(f.ToolFails, tool, call=nth),
        st.builds(f.ToolHangs, tool, call=nth),
        st.builds(f.ToolSlow, tool, call=nth, seconds=st.sampled_from((1.0, 30.0, 600.0))),
    ]


# Models and what they say.


def chaotic_models(**options: Any) -> st.SearchStrategy[ChaoticModel]:
    """Models that may say anything; options as for `ChaoticModel`."""
    return st.integers(0, 2**16).map(lambda seed: ChaoticModel(seed, **options))


def texts() -> st.SearchStrategy[str]:
    """What people and models write: mostly short, sometimes empty, of any script, now and then over 4 KiB."""
    return st.one_of(
        st.text(max_size=40),
        st.sampled_from(("Hello.", "Where is order 7?", "", "ünïcode ✓")),
        st.integers(4090, 4110).map(lambda size: "long " * (size // 5)),
    )


@st.composite
def histories(
    draw: st.DrawFn,
    tools: Sequence[dict[str, Any]] = (),
    max_turns: int = 4,
    content: Callable[[], Any] = texts,
) -> list[dict[str, Any]]:
    """Lists of neutral messages as turns leave them: user, then assistant, with tool calls and results in between.

    Args:
        tools: described as a provider gets them (name, input_schema); calls fit their schemas.
        max_turns: most turns; there may be none.
        content: strategy function of the texts.
    """
    messages: list[dict[str, Any]] = []
    number = 0
    for _ in range(draw(st.integers(0, max_turns))):
        messages.append({"role": "user", "content": draw(content())})
        for _ in range(draw(st.integers(0, 2)) if tools else 0):
            wanted = []
            for tool in draw(st.lists(st.sampled_from(list(tools)), min_size=1, max_size=3)):
                number += 1
                arguments = _json(draw(arguments_for(tool.get("input_schema", {}))))
                wanted.append({"id": f"call_{number}", "name": tool["name"], "arguments": arguments})
            messages.append({"role": "assistant", "content": draw(content()), "tool_calls": wanted})
            for each in wanted:
                result = {"role": "tool", "content": draw(content()), "name": each["name"]}
                messages.append({**result, "tool_call_id": each["id"]})
        messages.append({"role": "assistant", "content": draw(content())})
    return messages


def conversations(
    store: Store | None = None, tools: Sequence[dict[str, Any]] = (), max_turns: int = 4
) -> st.SearchStrategy[Conversation]:
    """Conversations of such messages, with and without a system prompt.

    Args:
        store: where all of them are kept; without one each has its own.
    """

    def make(system: str, messages: list[dict[str, Any]]) -> Conversation:
        return Conversation(store, system=system, tools=tools).extend(messages)

    return st.builds(make, st.sampled_from(("", "You are kind.")), histories(tools, max_turns))


def arguments_for(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit a JSON schema, as a tool's."""
    return st.randoms(use_true_random=False).map(lambda random: draw_value(schema, random))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def moments() -> st.SearchStrategy[float]:
    """Virtual seconds to let pass: none, less than a usual timeout, just that much, or some minutes."""
    return st.sampled_from((0.0, 0.001, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0))


__all__ = [
    "UnknownType",
    "arguments_for",
    "backoffs",
    "chaotic_models",
    "child_specs",
    "conversations",
    "events",
    "fault_plans",
    "histories",
    "moments",
    "restart_strategies",
    "restart_types",
    "schedules",
    "seeds",
    "texts",
    "trees",
    "values_of",
]
