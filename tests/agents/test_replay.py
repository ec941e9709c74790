"""Recorded conversations played by agents: what is kept equals what was recorded, whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Kernel, Ref
from avm.agents.replay import Play, PlayResult, ReplayAgent, is_exact
from avm.errors import AskError, WorkloadError
from avm.io import Latency, ModelRequest, PoolStatus, RecordedProvider, Recordings
from avm.memory import Roots, read_conversations
from avm.supervision import child, start_tree, supervisor
from avm.tools.recorded import RecordedTools
from tests.io.pooled import front_of, pooled

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def record(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "r", "model": "m", "system": "Be brief.", "tools": [], "messages": list(messages), **fields}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, *ids: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if ids:
        message["tool_calls"] = [{"id": id, "name": f"f-{id}", "arguments": f"raw {id}"} for id in ids]
    return message


def result(id: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "name": f"f-{id}", "content": text}


def result_in_another_order(id: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": id, "name": f"f-{id}"}


async def play(kernel: Kernel, agent: Ref, index: int) -> PlayResult:
    """Ask until it is played: an agent that crashed goes on when it is asked again."""
    while True:
        try:
            return await kernel.ask(agent, Play(index), timeout=None)
        except AskError:
            await asyncio.sleep(0)


SHAPES = {
    "plain": [user("a"), assistant("b"), user("c"), assistant("d")],
    "one tool": [user("a"), assistant("", "1"), result("1", "x"), assistant("b")],
    "several calls in one message": [
        user("a"),
        assistant("", "1", "2", "3"),
        result("1", "x"),
        result("2", "y"),
        result("3", "z"),
        assistant("b"),
    ],
    "results in another order than their calls": [
        user("a"),
        assistant("", "1", "2"),
        result("2", "y"),
        result_in_another_order("1", "x"),
    ],
    "a result that nobody called for": [user("a"), result("9", "x"), assistant("b")],
    "a result without id": [user("a"), {"role": "tool", "content": "x"}, assistant("b")],
    "fewer results than calls": [user("a"), assistant("", "1", "2"), result("1", "x"), assistant("b")],
    "consecutive users": [user("a"), user("b"), user("c"), assistant("d")],
    "consecutive assistants": [user("a"), assistant("b"), assistant("c"), assistant("", "1"), assistant("d")],
    "begins with an assistant": [assistant("a"), user("b"), assistant("c")],
    "begins with a tool": [result("1", "x"), assistant("b")],
    "ends with a tool": [user("a"), assistant("", "1"), result("1", "x")],
    "ends with a call": [user("a"), assistant("go", "1")],
    "ends with a user": [user("a"), assistant("b"), user("c")],
    "only a user": [user("a")],
    "empty": [],
    "odd keys": [
        {"role": "user", "content": "a", "name": "Ada", "n": 1.0},
        {"content": "b", "role": "assistant", "tool_calls": [], "refusal": None},
        {"role": "tool", "content": "", "is_error": True, "tool_call_id": "1"},
    ],
    "large bodies": [
        user("a" * 9000),
        assistant("é" * 9000, "1"),
        result("1", "\u2028" * 5000),
        assistant("b"),
    ],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_recording_of_any_shape_is_kept_as_it_was_recorded(run: Run, shape: str) -> None:
    async def body() -> None:
        recordings = Recordings([record(*SHAPES[shape])])
        async with pooled(RecordedProvider(recordings)) as kernel:
            agent = await kernel.spawn(ReplayAgent, recordings, RecordedTools(recordings))

            played = await play(kernel, agent, 0)

            assert list(played.conversation) == SHAPES[shape]
            assert is_exact(recordings[0], played.conversation)
            found = await kernel.ask(front_of(kernel), PoolStatus())
            roles = recordings[0].roles
            assert (found.requests, found.tool_calls) == (roles.count("a"), roles.count("t"))
            assert (played.requests, played.tool_calls) == (roles.count("a"), roles.count("t"))

    run(body())


def test_an_agent_plays_one_recording_after_another(run: Run) -> None:
    async def body() -> None:
        recordings = Recordings([record(*SHAPES["one tool"]), record(*SHAPES["plain"])])
        async with pooled(RecordedProvider(recordings)) as kernel:
            agent = await kernel.spawn(ReplayAgent, recordings, RecordedTools(recordings))

            both = await asyncio.gather(play(kernel, agent, 0), play(kernel, agent, 1))

            assert [is_exact(recordings[p.index], p.conversation) for p in both] == [True, True]
            assert both[1].turns == 2
            roots: Roots = kernel.service("roots")
            assert len(roots) == 0

    run(body())


def test_two_agents_may_play_the_same_recording_at_once(run: Run) -> None:
    async def body() -> None:
        recordings = Recordings([record(*SHAPES["several calls in one message"])])
        async with pooled(RecordedProvider(recordings)) as kernel:
            tools = RecordedTools(recordings)
            agents = [await kernel.spawn(ReplayAgent, recordings, tools) for _ in range(5)]

            played = await asyncio.gather(*(play(kernel, agent, 0) for agent in agents))

            assert all(is_exact(recordings[0], p.conversation) for p in played)
            assert len({p.conversation.root for p in played}) == 1

    run(body())


def test_the_prompt_and_the_tools_are_the_recorded_ones(run: Run) -> None:
    async def body() -> None:
        tools = [{"type": "function", "function": {"name": "f"}}]
        recordings = Recordings([record(*SHAPES["plain"], tools=tools)])
        seen: list[ModelRequest] = []

        def keep(request: ModelRequest, number: int) -> None:
            seen.append(request)

        async with pooled(RecordedProvider(recordings, faults=keep)) as kernel:
            agent = await kernel.spawn(ReplayAgent, recordings, RecordedTools(recordings))
            played = await play(kernel, agent, 0)

        assert (seen[0].system, seen[0].model, seen[0].position) == ("Be brief.", "m", 1)
        assert (played.conversation.system, played.conversation.tools) == ("Be brief.", tools)

    run(body())


def test_an_index_that_is_not_there_is_refused_and_the_agent_lives(run: Run) -> None:
    async def body() -> None:
        recordings = Recordings([record(*SHAPES["plain"])])
        async with pooled(RecordedProvider(recordings)) as kernel:
            agent = await kernel.spawn(ReplayAgent, recordings, RecordedTools(recordings), id="player")
            with pytest.raises(WorkloadError, match="player: there are 1 recordings, got index 3"):
                await kernel.ask(agent, Play(3))

            assert (await play(kernel, agent, 0)).turns == 2

    run(body())


def test_a_restarted_agent_goes_on_from_its_last_committed_turn(run: Run) -> None:
    async def body() -> None:
        recordings = Recordings([record(*SHAPES["plain"])])
        faults = iter([RuntimeError("bug in the provider")])

        def once(request: ModelRequest, number: int) -> Exception | None:
            return next(faults, None) if request.position == 3 else None

        async with pooled(RecordedProvider(recordings, faults=once)) as kernel:
            player = child("player", ReplayAgent, recordings, RecordedTools(recordings))
            await start_tree(kernel, supervisor("players", max_restarts=9, max_seconds=1, children=[player]))
            agent = kernel.find("players/player")
            assert agent is not None

            played = await play(kernel, agent, 0)

            assert played.resumed == 2
            assert is_exact(recordings[0], played.conversation)

    run(body())


messages = st.lists(
    st.one_of(
        st.builds(user, st.text(max_size=5)),
        st.builds(
            lambda text, ids: assistant(text, *ids), st.text(max_size=5), st.lists(st.sampled_from("123"))
        ),
        st.builds(result, st.sampled_from("123"), st.text(max_size=5)),
    ),
    max_size=12,
)


@given(conversation=messages, seed=st.integers(0, 999))
def test_whatever_crashes_the_kept_conversation_is_the_recorded_one(
    conversation: list[dict[str, Any]], seed: int
) -> None:
    async def body() -> None:
        random = Random(seed)
        recordings = Recordings([record(*conversation)])

        async def nap(seconds: float) -> None:
            # The agent that asked is killed while its call is under way, now and then.
            if random.random() < 0.2:
                kernel.kill(agent)
            await asyncio.sleep(0)

        provider = RecordedProvider(recordings, latency=Latency(1.0), sleep=nap)
        tools = RecordedTools(recordings, latency=Latency(1.0), sleep=nap)
        async with pooled(provider, workers=1) as kernel:
            agent = await kernel.spawn(ReplayAgent, recordings, tools, id="player")
            while True:
                try:
                    played = await kernel.ask(agent, Play(0), timeout=None)
                    break
                except AskError:
                    await kernel.spawn(ReplayAgent, recordings, tools, id="player", at=agent)
            assert is_exact(recordings[0], played.conversation)

    asyncio.run(body())


@pytest.mark.slow
@pytest.mark.parametrize("chaos", [0.0, 0.01])
@pytest.mark.parametrize("name", ["tau_airline", "intercode", "mint", "swe_agent_java"])
def test_every_conversation_of_a_file_is_kept_as_it_was_recorded(
    run: Run, data_dir: Path, name: str, chaos: float
) -> None:
    recordings = Recordings(read_conversations(data_dir / f"{name}.jsonl.zst"))

    async def body() -> None:
        random = Random(1)

        def crash(request: ModelRequest, number: int) -> None:
            if random.random() < chaos:
                kernel.kill(request.agent)

        async with pooled(RecordedProvider(recordings, faults=crash)) as kernel:
            tools = RecordedTools(recordings)
            players = [child(f"p{n}", ReplayAgent, recordings, tools) for n in range(50)]
            window = {"max_restarts": 100_000, "max_seconds": 1.0}
            await start_tree(kernel, supervisor("players", children=players, **window))
            todo = iter(range(len(recordings)))
            done: list[int] = []

            async def drive(agent: Ref) -> None:
                for index in todo:
                    played = await play(kernel, agent, index)
                    assert is_exact(recordings[index], played.conversation)
                    done.append(index)

            agents = [kernel.find(f"players/p{n}") for n in range(50)]
            await asyncio.gather(*(drive(agent) for agent in agents if agent is not None))
            assert sorted(done) == list(range(len(recordings)))

    run(body(), timeout=60)
