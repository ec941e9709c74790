"""Agents: calls, turns, and what is kept of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from avm.actors import Kernel, Request, event, on
from avm.agents import Agent, Say
from avm.errors import (
    ActorExited,
    ProviderError,
    Refuse,
    Refused,
    ToolDefinitionError,
    TooManySteps,
    VMError,
)
from avm.io import Message, ModelRequest, ScriptedProvider
from avm.memory import Roots
from avm.tools import tool
from avm.vm.status import activity
from tests.io.pooled import Gated, pooled

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@tool
async def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


@event
class Review:
    verdict: str


@event
class Draft(Request[Review]):
    text: str


@event
class History(Request[list[Message]]):
    pass


class Critic(Agent):
    model, tools = "claude-test", [count_words]

    def __init__(self, tone: str) -> None:
        self.tone = tone

    @on(Draft)
    async def review(self, draft: Draft) -> Review:
        return Review(await self.complete(f"Be {self.tone}. Review: {draft.text}"))


class Chatty(Agent):
    tools = (count_words,)
    max_steps = 3

    @on(History)
    def history(self, history: History) -> list[Message]:
        return list(self.conversation)


@event
class Twice(Request[str]):
    then: str


class Fragile(Chatty):
    """Says two things and then does as it is told: end well, refuse or crash."""

    @on(Twice)
    async def twice(self, twice: Twice) -> str:
        await self.chat("one")
        await self.chat("two")
        if twice.then == "refuse":
            raise Refuse("not today")
        if twice.then == "crash":
            raise RuntimeError("boom")
        return "done"


def wants(*calls: tuple[str, str, str]) -> Message:
    listed = [{"id": id, "name": name, "arguments": text} for id, name, text in calls]
    return {"role": "assistant", "content": "", "tool_calls": listed}


def test_an_agent_without_handlers_answers_what_it_is_told(run: Run) -> None:
    async def body() -> None:
        async with pooled() as kernel:
            agent = await kernel.spawn(Agent)

            assert await kernel.ask(agent, "Hello") == "You said: Hello"
            assert await kernel.ask(agent, Say("Hello again")) == "You said: Hello again"

    run(body())


def test_complete_asks_the_model_outside_the_conversation(run: Run) -> None:
    async def body() -> None:
        requests: list[ModelRequest] = []

        def script(request: ModelRequest) -> str:
            requests.append(request)
            return "Good."

        async with pooled(ScriptedProvider(script)) as kernel:
            critic = await kernel.spawn(Critic, "kind", id="critic")

            assert await kernel.ask(critic, Draft("A draft.")) == Review("Good.")

        (request,) = requests
        assert list(request.history()) == [{"role": "user", "content": "Be kind. Review: A draft."}]
        assert (request.model, request.tools, request.agent) == ("claude-test", b"", "critic")

    run(body())


def test_a_turn_runs_the_tools_the_model_wants_and_keeps_everything(run: Run) -> None:
    async def body() -> None:
        script = [wants(("c1", "count_words", '{ "text": "a b c" }')), "Three words."]
        async with pooled(ScriptedProvider(script)) as kernel:
            agent = await kernel.spawn(Chatty)

            assert await kernel.ask(agent, "How many words in 'a b c'?") == "Three words."
            assert await kernel.ask(agent, History()) == [
                {"role": "user", "content": "How many words in 'a b c'?"},
                wants(("c1", "count_words", '{ "text": "a b c" }')),
                {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "count_words"},
                {"role": "assistant", "content": "Three words."},
            ]

    run(body())


def test_the_model_gets_the_history_and_the_described_tools(run: Run) -> None:
    async def body() -> None:
        seen: list[tuple[int, bytes]] = []

        def script(request: ModelRequest) -> str:
            seen.append((request.position, request.tools))
            return "ok"

        async with pooled(ScriptedProvider(script)) as kernel:
            agent = await kernel.spawn(Chatty)
            await kernel.ask(agent, "one")
            await kernel.ask(agent, "two")

        assert [position for position, _ in seen] == [1, 3]
        assert b'"name":"count_words"' in seen[0][1]

    run(body())


def test_tools_of_one_step_run_at_once_and_their_results_stand_in_the_order_of_the_calls(run: Run) -> None:
    async def body() -> None:
        second = asyncio.Event()

        @tool
        async def slow() -> str:
            """Wait for the other."""
            await second.wait()
            return "slow"

        @tool
        async def quick() -> str:
            """Let the other go."""
            second.set()
            return "quick"

        class Both(Chatty):
            tools = (slow, quick)

        script = [wants(("c1", "slow", ""), ("c2", "quick", "")), "done"]
        async with pooled(ScriptedProvider(script)) as kernel:
            agent = await kernel.spawn(Both)
            await kernel.ask(agent, "go")
            history = await kernel.ask(agent, History())

        assert [m["content"] for m in history if m["role"] == "tool"] == ["slow", "quick"]

    run(body())


def test_an_unknown_tool_is_told_to_the_model(run: Run) -> None:
    async def body() -> None:
        async with pooled(ScriptedProvider([wants(("c1", "fly", "{}")), "I cannot fly."])) as kernel:
            agent = await kernel.spawn(Chatty)

            assert await kernel.ask(agent, "Fly!") == "I cannot fly."
            result = (await kernel.ask(agent, History()))[2]
            assert result["content"] == "There is no tool 'fly'; the tools are: count_words."
            assert result["is_error"] is True

    run(body())


def test_a_tool_that_ends_its_worker_is_a_result_too(run: Run) -> None:
    async def body() -> None:
        @tool
        async def leave() -> None:
            """Leave."""
            raise SystemExit(1)

        class Leaver(Chatty):
            tools = (leave,)

        async with pooled(ScriptedProvider([wants(("c1", "leave", "")), "It is gone."])) as kernel:
            agent = await kernel.spawn(Leaver)

            assert await kernel.ask(agent, "Leave!") == "It is gone."

    run(body())


def test_a_model_that_never_stops_calling_tools_is_stopped(run: Run) -> None:
    async def body() -> None:
        always = wants(("c1", "count_words", '{"text": ""}'))
        async with pooled(ScriptedProvider(lambda request: always)) as kernel:
            agent = await kernel.spawn(Chatty, id="counter")

            with pytest.raises(ActorExited) as caught:
                await kernel.ask(agent, "Count!")

            assert isinstance(caught.value.__cause__, TooManySteps)
            assert "counter: the model still called tools after 3 replies" in str(caught.value.__cause__)

    run(body())


def test_a_failed_model_call_is_raised_in_the_handler(run: Run) -> None:
    class Careful(Chatty):
        @on(Draft)
        async def draft(self, draft: Draft) -> Review:
            try:
                return Review(await self.chat(draft.text))
            except Refused:
                return Review(f"busy, {len(self.conversation)} kept")

    async def body() -> None:
        async with pooled(ScriptedProvider([Refused("no"), "fine"])) as kernel:
            agent = await kernel.spawn(Careful)

            assert await kernel.ask(agent, Draft("a")) == Review("busy, 0 kept")
            assert await kernel.ask(agent, Draft("b")) == Review("fine")
            assert [m["content"] for m in await kernel.ask(agent, History())] == ["b", "fine"]

    run(body())


def roots_of(kernel: Kernel) -> Roots:
    roots: Roots = kernel.service("roots")
    return roots


def test_a_handler_that_ends_well_commits_before_its_reply(run: Run) -> None:
    async def body() -> None:
        async with pooled() as kernel:
            agent = await kernel.spawn(Fragile, id="a")

            await kernel.ask(agent, Twice("end"))

            root = roots_of(kernel).get("a")
            assert root is not None
            assert len(root) == 4
            assert roots_of(kernel).statistics().commits == 1

    run(body())


def test_a_handler_that_refuses_takes_back_what_was_said(run: Run) -> None:
    async def body() -> None:
        async with pooled() as kernel:
            agent = await kernel.spawn(Fragile, id="a")
            await kernel.ask(agent, "kept")
            with pytest.raises(Refuse, match="not today"):
                await kernel.ask(agent, Twice("refuse"))

            assert [m["content"] for m in await kernel.ask(agent, History())] == ["kept", "You said: kept"]

    run(body())


def test_a_crash_leaves_the_last_good_root_and_the_next_incarnation_resumes_from_it(run: Run) -> None:
    async def body() -> None:
        async with pooled() as kernel:
            agent = await kernel.spawn(Fragile, id="a")
            await kernel.ask(agent, "kept")
            with pytest.raises(ActorExited):
                await kernel.ask(agent, Twice("crash"))
            await kernel.spawn(Fragile, id="a", at=agent)

            await kernel.ask(agent, "after")
            history = await kernel.ask(agent, History())

            assert [m["content"] for m in history[::2]] == ["kept", "after"]

    run(body())


def test_an_agent_that_starts_fresh_forgets(run: Run) -> None:
    class Forgetful(Fragile):
        state = "fresh"

    async def body() -> None:
        async with pooled() as kernel:
            agent = await kernel.spawn(Forgetful, id="a")
            await kernel.ask(agent, "lost")
            kernel.kill(agent)
            await kernel.idle()
            await kernel.spawn(Forgetful, id="a", at=agent)

            assert await kernel.ask(agent, History()) == []

    run(body())


def test_a_killed_agent_whose_handler_goes_on_does_not_commit(run: Run) -> None:
    """S94: what a zombie does through avm is refused."""

    class Zombie(Fragile):
        @on(Draft)
        async def draft(self, draft: Draft) -> Review:
            self.conversation = self.conversation.append({"role": "user", "content": draft.text})
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return Review("too late")

    async def body() -> None:
        async with pooled() as kernel:
            agent = await kernel.spawn(Zombie, id="a")
            await kernel.ask(agent, "kept")
            kernel.tell(agent, Draft("ghost"))
            await kernel.idle()

            kernel.kill(agent)
            await kernel.idle()
            await asyncio.sleep(0)

            root = roots_of(kernel).get("a")
            assert root is not None
            assert [m["content"] for m in root] == ["kept", "You said: kept"]

    run(body())


def test_what_a_handler_assigns_is_committed_too(run: Run) -> None:
    class Editor(Chatty):
        @on(Draft)
        def draft(self, draft: Draft) -> Review:
            self.conversation = self.conversation.append({"role": "user", "content": draft.text})
            return Review("noted")

    async def body() -> None:
        async with pooled() as kernel:
            agent = await kernel.spawn(Editor, id="a")
            await kernel.ask(agent, Draft("note"))

            root = roots_of(kernel).get("a")
            assert root is not None
            assert list(root) == [{"role": "user", "content": "note"}]

    run(body())


def test_two_turns_at_once_are_refused(run: Run) -> None:
    class Hasty(Chatty):
        @on(Draft)
        async def draft(self, draft: Draft) -> Review:
            await asyncio.gather(self.chat("a"), self.chat("b"))
            return Review("")

    async def body() -> None:
        async with pooled() as kernel:
            agent = await kernel.spawn(Hasty, id="hasty")
            with pytest.raises(ActorExited) as caught:
                await kernel.ask(agent, Draft(""))
            assert isinstance(caught.value.__cause__, VMError)
            assert "hasty is in a turn already" in str(caught.value.__cause__)

    run(body())


def test_the_agents_priority_is_that_of_its_calls(run: Run) -> None:
    class Background(Chatty):
        priority = "background"

    async def body() -> None:
        gated = Gated()
        async with pooled(gated, concurrency=1) as kernel:
            first = await kernel.spawn(Chatty)
            slow = await kernel.spawn(Background)
            urgent = await kernel.spawn(Chatty, priority="user")
            for ref, text in ((first, "first"), (slow, "slow"), (urgent, "urgent")):
                kernel.tell(ref, Say(text))
                await kernel.idle()

            gated.gate.set()
            for ref in (slow, urgent):
                await kernel.ask(ref, History())

            assert gated.begun == ["first", "urgent", "slow"]

    run(body())


def test_what_an_agent_waits_for_can_be_seen(run: Run) -> None:
    async def body() -> None:
        gated = Gated()
        hold = asyncio.Event()

        @tool
        async def slow() -> str:
            """Wait."""
            await hold.wait()
            return ""

        class Slow(Chatty):
            tools = (slow,)

        async def wait_reasons(kernel: Kernel) -> dict[str, int]:
            await kernel.idle()
            return dict(activity(kernel).waiting)

        async with pooled(gated) as kernel:
            agent = await kernel.spawn(Agent)
            kernel.tell(agent, Say("Hello"))
            assert "LlmReply" in str(await wait_reasons(kernel))
            gated.gate.set()

        async with pooled(ScriptedProvider([wants(("1", "slow", "")), "done"])) as kernel:
            agent = await kernel.spawn(Slow)
            kernel.tell(agent, Say("Hello"))
            assert "ToolResult" in str(await wait_reasons(kernel))
            hold.set()

    run(body())


def test_a_prompt_that_changed_takes_the_place_of_the_old_one_in_a_resumed_conversation(run: Run) -> None:
    class Old(Chatty):
        system = "Be old."

    class New(Chatty):
        system = "Be new."

    async def body() -> None:
        async with pooled() as kernel:
            agent = await kernel.spawn(Old, id="a")
            await kernel.ask(agent, "one")
            kernel.kill(agent)
            await kernel.spawn(New, id="a", at=agent)
            await kernel.ask(agent, "two")

            root = roots_of(kernel).get("a")
            assert root is not None
            assert (root.system, len(root)) == ("Be new.", 4)

    run(body())


def test_what_was_sent_again_is_counted_as_such(run: Run) -> None:
    async def body() -> None:
        async with pooled() as kernel:
            agent = await kernel.spawn(Agent)
            for _ in range(10):
                await kernel.ask(agent, "Hello there, how are you today?")

            found = kernel.service("store").statistics()
            assert found.dedup_sent > 0.7

    run(body())


def test_without_a_pool_the_error_says_what_is_missing(run: Run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            agent = await kernel.spawn(Agent, id="lonely")
            with pytest.raises(ActorExited) as caught:
                await kernel.ask(agent, "Hello")
            assert isinstance(caught.value.__cause__, VMError)
            assert "lonely needs the I/O pool" in str(caught.value.__cause__)

    run(body())


def test_a_provider_error_ends_an_agent_that_does_not_catch_it(run: Run) -> None:
    async def body() -> None:
        async with pooled(ScriptedProvider([ProviderError("no")])) as kernel:
            agent = await kernel.spawn(Agent)
            with pytest.raises(ActorExited) as caught:
                await kernel.ask(agent, "Hello")
            assert isinstance(caught.value.__cause__, ProviderError)

    run(body())


def test_what_is_no_tool_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(ToolDefinitionError, match="Mark the function with @tool"):

        class Wrong(Agent):
            tools = (len,)  # type: ignore[assignment]


def test_two_tools_of_one_name_are_refused_when_the_class_is_made() -> None:
    with pytest.raises(ToolDefinitionError, match="two tools called 'count_words'"):

        class Wrong(Agent):
            tools = (count_words, count_words)


@pytest.mark.parametrize("field, value", [("state", "rewind"), ("max_steps", 0)])
def test_class_attributes_out_of_range_are_refused_when_the_class_is_made(field: str, value: object) -> None:
    with pytest.raises(ToolDefinitionError, match=field):
        type("Wrong", (Agent,), {field: value})
