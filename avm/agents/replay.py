"""A player of recorded conversations: the main job's agent, which does with a recording what an agent does with a user.

`Play` names a recording. Each recorded user message comes to the agent through its own mailbox and begins a turn; the
model's replies come from the pool (the `RecordedProvider` gives them), the tools' results from its tool workers (the
`RecordedTools` do). Each turn is committed when its handler ends. An agent that crashed goes on from the last commit
when it is asked to play the same recording again: its place is the number of messages it has kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import attrs
import msgspec

from avm.actors.actor import on
from avm.actors.event import ATOMS, Request, event
from avm.actors.reply import PendingReply
from avm.actors.signals import ToolResult
from avm.agents.agent import Agent
from avm.agents.turn import call_tools
from avm.errors import Refuse, WorkloadError
from avm.io.providers.recorded import Recording, Recordings
from avm.io.request import (
    CallTool,
    Completion,
    ModelRequest,
    ToolCall,
    ToolOutcome,
    decode_fragment,
    encode_fragment,
)
from avm.memory import Conversation
from avm.tools.recorded import RecordedTools


@attrs.frozen(slots=True)
class PlayResult:
    """A recording was played to its end. `turns`, `requests` and `resumed` count for the incarnation that ended it."""

    index: int
    key: str
    conversation: Conversation
    turns: int
    requests: int
    tool_calls: int
    resumed: int
    """Messages that an earlier incarnation had committed."""


ATOMS.add(PlayResult)

decode_json = msgspec.json.Decoder(list[dict[str, Any]]).decode


@event(tag="avm.replay.Play")
class Play(Request[PlayResult]):
    """Play the recording of this index to its end.

    `name` is what its conversation is committed as, the agent's path and the recording's key if it is empty. One that
    was played to its end under that name, and is in the home, is not played again.
    """

    index: int
    name: str = ""


@event(tag="avm.replay.Hear")
class Hear:
    """The next user message, as a fragment; None where the recording goes on without one."""

    fragment: bytes | None


class ReplayAgent(Agent):
    """Plays recordings, one at a time; a `Play` that comes meanwhile waits.

    Args:
        recordings: what `Play` chooses from.
        tools: where the tools' results come from.
    """

    def __init__(self, recordings: Recordings, tools: RecordedTools) -> None:
        self._recordings = recordings
        self._results = tools
        self._recording: Recording | None = None
        self._reply: PendingReply | None = None
        self._name = ""
        self._where = self.path
        self._played = (0, 0, 0, 0, 0)

    @on(Play)
    def play(self, play: Play) -> None:
        """Begin a recording, or go on with it."""
        if self._recording is not None:
            self.postpone()
            return
        if not 0 <= play.index < len(self._recordings):
            found = f"there are {len(self._recordings)} recordings, got index {play.index}"
            raise Refuse(WorkloadError(f"{self._where}: {found}; count from 0."))
        self._recording = recording = self._recordings[play.index]
        self._reply = self.defer()
        roots = self._roots()
        if roots is not None and self._name:
            # With a home it was kept for whoever had it last.
            roots.release(self._name)
        self._name = play.name or f"{self._where}:{recording.key}"
        self._conversation = self._committed = None
        self._sent = 0
        kept = len(self.conversation)
        self._played = (play.index, 0, 0, 0, kept)
        self._go_on(recording, kept)

    @on(Hear)
    async def hear(self, hear: Hear) -> None:
        """Play one turn."""
        recording = self._recording
        if recording is None:
            return
        conversation = self.conversation
        if hear.fragment is not None:
            conversation = conversation.append(decode_fragment(hear.fragment))
        self.conversation = await self._play_turn(recording, conversation)
        index, turns, requests, calls, resumed = self._played
        self._played = (index, turns + 1, requests, calls, resumed)
        await self._kept(self.conversation)
        self._go_on(recording, len(self.conversation))

    def new_conversation(self) -> Conversation:
        """Return an empty conversation with the recording's prompt and tools."""
        recording = self._recording
        if recording is None:
            return super().new_conversation()
        return Conversation(self._store(), recording.system, decode_json(recording.tools))

    @property
    def root_name(self) -> str:
        """The agent's path and the recording: an agent plays many."""
        return self._name or self._where

    def _go_on(self, recording: Recording, position: int) -> None:
        if position >= len(recording):
            self._end(recording)
        elif recording.roles[position] == "u":
            self.tell(self.pid, Hear(recording.fragments[position]))
        else:
            self.tell(self.pid, Hear(None))

    async def _play_turn(self, recording: Recording, conversation: Conversation) -> Conversation:
        roles, position = recording.roles, len(conversation)
        calls: tuple[ToolCall, ...] = ()
        index, turns, requests, called, resumed = self._played
        while position < len(roles) and roles[position] != "u":
            if roles[position] == "a":
                completion = await self._ask_recorded(recording, conversation)
                conversation = conversation.append(completion.message)
                calls = completion.tool_calls
                requests += 1
            else:
                wanted = _calls(recording, position, calls)
                for outcome in await call_tools(self, wanted, position):
                    conversation = conversation.append(outcome.message)
                called += len(wanted)
            position = len(conversation)
        self._played = (index, turns, requests, called, resumed)
        return conversation

    async def _ask_recorded(self, recording: Recording, conversation: Conversation) -> Completion:
        return await self._ask_pool(
            ModelRequest(
                model=recording.model,
                conversation=conversation,
                system=recording.system,
                tools=recording.tools,
                agent=self._where,
                label=recording.key,
            )
        )

    async def ask_tool(self, call: ToolCall, position: int) -> ToolOutcome:
        """Ask the pool for the recorded result at a position."""
        key = self._recording.key if self._recording is not None else ""
        request = CallTool(self._results, call, self._priority(), self._where, key, position)
        with self.waiting(ToolResult(call.name)):
            outcome: ToolOutcome = await self.ask(self._tools(), request, timeout=None)
        return outcome

    # The last turn is on disk before anybody hears that it is over.
    async def _kept(self, conversation: Conversation) -> None:
        roots = self._roots()
        if roots is not None and roots.is_durable:
            pending = self.commit()
            if pending is not None:
                await asyncio.wrap_future(pending)

    # The whole conversation goes out with the reply: without a home its root has done its work.
    def _end(self, recording: Recording) -> None:
        index, turns, requests, calls, resumed = self._played
        result = PlayResult(index, recording.key, self.conversation, turns, requests, calls, resumed)
        roots = self._roots()
        if roots is not None and not roots.is_durable:
            roots.forget(self.root_name)
            self._name = ""
        self._conversation = self._committed = None
        self._recording = None
        self.finished(result)
        self.state_changed()

    def finished(self, result: PlayResult) -> None:
        """Give the result to whoever asked for it; a subclass may have another way."""
        if self._reply is not None:
            self._reply.send(result)
            self._reply = None


def is_exact(recording: Recording, conversation: Conversation) -> bool:
    """Tell whether a kept conversation is the recorded one, byte for byte: every message, key and the order of keys."""
    if len(conversation) != len(recording):
        return False
    kept = (encode_fragment(message) for message in conversation)
    return all(one == other for one, other in zip(kept, recording.fragments, strict=True))


# The calls whose results stand at `position`: matched by id, for a result may be recorded that nobody called for.
def _calls(recording: Recording, position: int, asked: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    found: list[ToolCall] = []
    while recording.roles[position : position + 1] == "t":
        message = recording.message(position)
        id, name = str(message.get("tool_call_id", "")), str(message.get("name", ""))
        call = next((c for c in asked if c.id == id), None)
        found.append(call if call is not None else ToolCall(id, name, ""))
        position += 1
    return tuple(found)
