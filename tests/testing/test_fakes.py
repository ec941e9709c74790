"""Model fakes: by list, by function, from a conversation file, and chaotic."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avm import Agent, child, supervisor, tool
from avm.errors import ActorExited, BadOutput, SpecError, ToolError
from avm.io import ModelRequest
from avm.io.request import encode_fragment
from avm.memory import write_conversations
from avm.testing import simulate
from avm.testing.fakes import ChaoticModel, call, calls, play, script
from avm.testing.schema import draw_value
from avm.testing.strategies import chaotic_models, fault_plans, schedules


@tool
async def order_state(number: int, detail: bool = False) -> str:
    """Look up where an order is."""
    return f"order {number} is on its way"


@tool
async def note(texts: list[str], kind: str | None = None, weight: float = 1.0) -> str:
    """Write something down."""
    return f"noted {len(texts)}"


class Clerk(Agent):
    tools = (order_state, note)


def shop(*ids: str) -> Any:
    return supervisor("shop", max_restarts=100, children=[child(id, Clerk) for id in ids or ("clerk",)])


def request(*contents: str, agent: str = "clerk", tools: bytes = b"") -> ModelRequest:
    messages = tuple(encode_fragment({"role": "user", "content": c}) for c in contents)
    return ModelRequest("m", messages=messages, agent=agent, tools=tools)


def test_a_script_of_replies_and_calls_plays_a_turn() -> None:
    model = script([call("order_state", number=7), "It is on its way."])

    with simulate(shop(), provider=model) as sim:
        assert sim.ask("clerk", "Where is order 7?") == "It is on its way."
        said = [message["content"] for message in sim.vm.roots.get("shop/clerk") or ()]

    assert "order 7 is on its way" in said


def test_calls_joins_calls_with_ids_of_their_own() -> None:
    both = calls(call("order_state", number=1), call("order_state", number=2, text="Wait."))

    assert [c["id"] for c in both["tool_calls"]] == ["call_order_state_1", "call_order_state_2"]
    assert both["content"] == "Wait."


def test_a_script_by_function_sees_the_request() -> None:
    with simulate(shop(), provider=script(lambda request: request.agent)) as sim:
        assert sim.ask("clerk", "Who are you?") == "shop/clerk"


RECORDS = [
    {
        "id": id,
        "messages": [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": f"{id} 1"},
            {"role": "user", "content": "and?"},
            {"role": "assistant", "content": f"{id} 2"},
        ],
    }
    for id in ("one", "two")
]


def test_a_conversation_file_is_played_to_each_agent_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl.zst"
    write_conversations(path, RECORDS)

    with simulate(shop("a", "b"), provider=play(path)) as sim:
        assert sim.ask("a", "x") == "one 1"
        assert sim.ask("b", "y") == "two 1"
        assert sim.ask("a", "z") == "one 2"
        with pytest.raises(ActorExited) as caught:
            sim.ask("a", "more")

    assert isinstance(caught.value.reason, BadOutput)
    assert "has 2 replies" in str(caught.value.reason)


def test_one_conversation_can_be_chosen_and_must_be_there() -> None:
    with simulate(shop(), provider=play(RECORDS, which="two")) as sim:
        assert sim.ask("clerk", "x") == "two 1"
    with pytest.raises(SpecError, match="no conversation 'three' is recorded; the first of them: one, two"):
        play(RECORDS, which="three")
    with pytest.raises(SpecError, match="at least one"):
        play([])


def test_the_recorded_data_is_played(data_dir: Path) -> None:
    model = play(data_dir / "tau_airline.jsonl.zst")

    assert len(model.recordings) > 100


@given(seed=st.integers(0, 2**20))
def test_chaotic_arguments_fit_the_schema_of_the_tool(seed: int) -> None:
    """Without mischief, so that a tool never refuses one."""
    random = Random(seed)

    for each in (order_state, note):
        arguments = draw_value(msgspec.json.decode(each.schema), random)
        each.check(msgspec.json.encode(arguments).decode())


SCHEMA = {
    "type": "object",
    "required": ["count", "mode", "tree", "where", "share"],
    "properties": {
        "count": {"type": "integer", "minimum": 3, "maximum": 9, "multipleOf": 3},
        "mode": {"enum": ["fast", "slow"]},
        "tree": {"$ref": "#/$defs/node"},
        "where": {
            "type": "array",
            "items": {"type": "string", "minLength": 2, "maxLength": 4},
            "minItems": 1,
        },
        "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "more": {"anyOf": [{"type": "null"}, {"const": 4}]},
    },
    "$defs": {
        "node": {
            "type": "object",
            "required": ["left"],
            "properties": {"left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        }
    },
}


@given(seed=st.integers(0, 2**20))
def test_values_of_a_schema_keep_its_limits(seed: int) -> None:
    value = draw_value(SCHEMA, Random(seed))

    assert value["count"] in (3, 6, 9)
    assert value["mode"] in ("fast", "slow")
    assert value["where"]
    assert all(2 <= len(text) <= 4 for text in value["where"])
    assert 0 < value["share"] <= 1
    assert value.get("more") in (None, 4)
    while value is not None:
        value = value.get("tree", value.get("left"))


def test_a_chaotic_model_says_the_same_whatever_the_order_of_asking(run: Any) -> None:
    async def body() -> None:
        one, other = ChaoticModel(3), ChaoticModel(3)
        first = [await one.reply(request(t, agent=t), 1) for t in "abc"]
        second = [await other.reply(request(t, agent=t), 1) for t in "cba"]

        assert first == second[::-1]
        assert await one.reply(request("a", agent="a"), 2) == await other.reply(request("a", agent="a"), 2)

    run(body())


def test_a_chaotic_model_has_rates_between_0_and_1() -> None:
    with pytest.raises(SpecError, match="mischief must be between 0 and 1, got 2"):
        ChaoticModel(mischief=2)


@pytest.mark.slow
@settings(max_examples=20)
@given(model=chaotic_models(), schedule=schedules(), faults=fault_plans(models=True, tools=["order_state"]))
def test_an_agent_survives_whatever_its_model_says(model: ChaoticModel, schedule: Any, faults: Any) -> None:
    """Each turn ends, in an answer or a crash, and the next one is taken."""
    with simulate(shop(), provider=model, choices=schedule, faults=faults, may_end=True) as sim:
        for turn in range(3):
            sim.advance(400.0)
            try:
                assert isinstance(sim.ask("clerk", f"turn {turn}", None), str)
            except ActorExited as error:
                assert not isinstance(error.reason, (ToolError, TypeError, KeyError, AssertionError))
