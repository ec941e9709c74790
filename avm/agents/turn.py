"""The turn loop: model, tools, model ... until the model has nothing more to call.

A turn works on a conversation of its own, an immutable value that grows; the agent's is replaced when the turn has
ended well. So a turn that fails leaves nothing behind, wherever it fails.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avm.errors import TooManySteps
from avm.io.request import ToolCall, ToolOutcome
from avm.memory import Conversation

if TYPE_CHECKING:
    from avm.agents.agent import Agent


async def play_turn(agent: Agent, conversation: Conversation) -> tuple[Conversation, str]:
    """Run the steps of one turn; return the conversation with them and what the model said last.

    Raises:
        TooManySteps: the model still calls tools after `max_steps` replies.
        ProviderError: a model call failed; the subclass says how.
    """
    for _ in range(agent.max_steps):
        completion = await agent.ask_model(conversation)
        conversation = conversation.append(completion.message)
        calls = completion.tool_calls
        if not calls:
            return conversation, completion.text
        for outcome in await call_tools(agent, calls, len(conversation)):
            conversation = conversation.append(outcome.message)
    raise TooManySteps(
        f"{agent.path}: the model still called tools after {agent.max_steps} replies (max_steps={agent.max_steps}). "
        "Raise max_steps, or tell the model in its system prompt when to stop."
    )


async def call_tools(agent: Agent, calls: tuple[ToolCall, ...], position: int) -> list[ToolOutcome]:
    """Run the tool calls of one step, all at once; return what they came to in the order of the calls."""
    if len(calls) == 1:
        return [await agent.ask_tool(calls[0], position)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(agent.ask_tool(call, position + n)) for n, call in enumerate(calls)]
    return [task.result() for task in tasks]
