"""Hypothesis strategies of avm.testing: what they draw is valid, and covers what it should."""

from __future__ import annotations

import datetime
import enum
from typing import Any, Literal

import attrs
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from avm.actors import Exit, Pid, Ref, Request, event
from avm.actors.event import EventRegistry
from avm.memory import Conversation
from avm.router import Codec
from avm.supervision import SupervisorSpec, validate
from avm.testing import simulate
from avm.testing.faults import FaultPlan
from avm.testing.strategies import (
    UnknownType,
    arguments_for,
    backoffs,
    child_specs,
    conversations,
    events,
    fault_plans,
    histories,
    schedules,
    seeds,
    trees,
    values_of,
)


class Colour(enum.Enum):
    RED = 1


@attrs.frozen
class Point:
    x: int
    y: float


@event(tag="strategies.Full")
class Full(Request[str]):
    text: str
    maybe: int | None
    many: list[Point]
    pair: tuple[str, bytes]
    row: tuple[int, ...]
    table: dict[str, Colour]
    kind: Literal["a", "b"]
    when: datetime.datetime
    names: frozenset[str]


@event(tag="strategies.Tree")
class Tree:
    left: Tree | None
    right: Tree | None = None


@event(tag="strategies.Addressed")
class Addressed:
    to: Ref
    who: Pid | None


@given(made=events(Full))
def test_events_are_made_from_the_types_of_their_fields(made: Full) -> None:
    assert isinstance(made.text, str)
    assert made.kind in ("a", "b")
    assert all(isinstance(point, Point) for point in made.many)
    assert set(made.table.values()) <= {Colour.RED}


@settings(max_examples=20)
@given(made=events(Tree))
def test_an_event_may_hold_itself(made: Tree) -> None:
    codec = Codec()

    assert codec.decode(codec.encode(made)).event == made


def test_addresses_come_from_where_they_are_told() -> None:
    with pytest.raises(UnknownType, match=r"Addressed.to is a Ref, which no values are known for"):
        events(Addressed).example()
    with simulate() as sim:
        ref = sim.probe().ref
        found = find(
            events(Addressed, refs=st.just(ref), pids=st.just(ref.last_pid)), lambda e: e.who is not None
        )

    assert found.to == ref


def test_without_classes_events_are_those_of_the_registry_that_can_be_made() -> None:
    registry = EventRegistry()
    for cls in (Tree, Addressed, Exit):
        registry.add(cls.__avm_tag__, cls)  # type: ignore[attr-defined]

    assert type(find(events(registry=registry), lambda made: True)) is Tree
    with pytest.raises(UnknownType, match="name the classes"):
        events(registry=EventRegistry())


def test_a_type_without_values_is_an_error_that_names_the_place() -> None:
    with pytest.raises(UnknownType, match="memoryview"):
        values_of(list[memoryview])


@given(tree=trees())
def test_trees_are_valid(tree: SupervisorSpec) -> None:
    validate(tree)


@given(spec=child_specs(significant=True), backoff=backoffs())
def test_specs_and_backoffs_are_valid(spec: Any, backoff: Any) -> None:
    assert not (spec.significant and spec.restart == "permanent")
    assert backoff.min <= backoff.max


@settings(max_examples=20)
@given(tree=trees(), choices=st.one_of(schedules(), seeds()))
def test_trees_start_and_stop(tree: SupervisorSpec, choices: Any) -> None:
    with simulate(tree, choices=choices, memory=None) as sim:
        assert len(sim.statuses()) == sum(sim.starts().values())


def test_trees_have_all_that_trees_may_have() -> None:
    deep = find(trees(), lambda t: any(isinstance(c, SupervisorSpec) and c.children for c in t.children))
    assert deep.children
    assert find(trees(), lambda t: any(c.significant for c in t.children)).auto_shutdown != "never"
    assert find(trees(), lambda t: any(getattr(c, "dynamic", False) for c in t.children))


@given(plan=fault_plans(["a", "b"], models=True, tools=["t"], clock=True))
def test_fault_plans_are_plans(plan: list[Any]) -> None:
    assert len(FaultPlan(plan).faults) <= 4


def test_no_faults_can_be_drawn_of_nothing() -> None:
    assert find(fault_plans(), lambda plan: True) == []


TOOL = {
    "name": "look",
    "input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
}


@given(messages=histories([TOOL]))
def test_histories_answer_every_call(messages: list[dict[str, Any]]) -> None:
    wanted = [c["id"] for m in messages for c in m.get("tool_calls", ())]
    answered = [m["tool_call_id"] for m in messages if m["role"] == "tool"]

    assert wanted == answered
    assert len(set(wanted)) == len(wanted)
    assert not messages or messages[-1]["role"] == "assistant"


@settings(max_examples=25)
@given(conversation=conversations(tools=[TOOL]))
def test_conversations_are_values(conversation: Conversation) -> None:
    assert len(conversation.messages()) == len(conversation)


@given(arguments=arguments_for(TOOL["input_schema"]))
def test_arguments_fit(arguments: dict[str, int]) -> None:
    assert isinstance(arguments["n"], int)
