"""Models that are not there: fakes to hand a VM, or a simulation, as its `provider`.

    script(["Hello.", call("order_state", number=7), "It is on its way."])   replies in order
    script(lambda request: "Yes." if request.position < 3 else "No.")        replies by function
    play("conversations.jsonl.zst")                                          replies as recorded
    ChaoticModel(seed=7)                                                     anything a model might say

All are providers as any other: latency and faults are those of `ScriptedProvider`, and none needs a key or a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from avm.errors import BadOutput, SpecError
from avm.io.providers import RecordedProvider, ScriptedProvider
from avm.io.providers.recorded import Recording, Recordings
from avm.io.providers.scripted import Faults, Latency, Script, Scripted, Sleep
from avm.io.request import Completion, Message, ModelRequest
from avm.memory import read_conversations
from avm.testing.schema import WORDS, draw_value

STEPS = 4
"""Tool results in a row after which a chaotic model answers in text, so that its turns end."""


def call(tool: str, /, *, text: str = "", id: str | None = None, **arguments: Any) -> Message:
    """Return a reply that wants a tool; `calls` joins several into one reply."""
    wanted = {"id": id or f"call_{tool}", "name": tool, "arguments": msgspec.json.encode(arguments).decode()}
    return {"role": "assistant", "content": text, "tool_calls": [wanted]}


def calls(*replies: Message) -> Message:
    """Return one reply that wants all the tools of several, each call with an id of its own."""
    wanted = [each for reply in replies for each in reply.get("tool_calls", ())]
    numbered = [{**each, "id": f"{each['id']}_{number}"} for number, each in enumerate(wanted, 1)]
    text = " ".join(reply["content"] for reply in replies if reply["content"])
    return {"role": "assistant", "content": text, "tool_calls": numbered}


def script(replies: Script, **options: Any) -> ScriptedProvider:
    """Return a model that answers from a list, or by a function of the request.

    Args:
        replies: texts, messages as `call` makes them, errors to raise; or a function that returns one, sync or async.
        options: as for `ScriptedProvider`: latency, faults, seed, concurrency, sleep.
    """
    return ScriptedProvider(replies, **options)


def play(source: str | Path | Iterable[dict[str, Any]], **options: Any) -> ConversationModel:
    """Return a model that says what was recorded; see `ConversationModel`.

    Args:
        source: a file of conversations (zstd JSON lines), or the parsed records.

    Raises:
        WorkloadError: the file cannot be read, or a record is no conversation.
    """
    records = read_conversations(source) if isinstance(source, (str, Path)) else source
    return ConversationModel(Recordings(records), **options)


class ConversationModel(RecordedProvider):
    """Gives the assistants' messages of recorded conversations, to any agent.

    A request that names a recorded conversation (its `label`) gets the reply at its position, as from
    `RecordedProvider`. Any other agent plays one conversation: `which` names it, None gives the next one to each new
    agent. It then gets the n-th reply for the n-th answer in its history, whatever it said itself.

    Raises:
        WorkloadError, SpecError: there is no conversation, or none of that key.
    """

    def __init__(self, recordings: Recordings, *, which: str | None = None, **options: Any) -> None:
        super().__init__(recordings, **options)
        if not recordings:
            raise SpecError("a model that plays conversations needs at least one; the source holds none.")
        if which is not None and recordings.find(which) is None:
            known = ", ".join(recording.key for recording in recordings[:5])
            raise SpecError(f"no conversation {which!r} is recorded; the first of them: {known}.")
        self._which = which
        self._parts: dict[str, Recording] = {}

    async def reply(self, request: ModelRequest, number: int) -> Completion:
        """Return the recorded reply."""
        if self.recordings.find(request.label) is not None:
            return await super().reply(request, number)
        recording = self._part(request.agent)
        said = sum(message["role"] == "assistant" for message in request.history())
        replies = [place for place, role in enumerate(recording.roles) if role == "a"]
        if said >= len(replies):
            raise BadOutput(
                f"conversation {recording.key!r}, which {request.agent!r} plays, has {len(replies)} replies, and this "
                f"is the request for number {said + 1}; play a longer one, or end the test before.",
                self.name,
                request.model,
            )
        place = replies[said]
        wants_tools = recording.roles[place + 1 : place + 2] == "t"
        return Completion(
            recording.fragments[place],
            "tool_use" if wants_tools else "end_turn",
            request.model,
            provider=self.name,
        )

    def _part(self, agent: str) -> Recording:
        found = self._parts.get(agent)
        if found is None:
            chosen = self.recordings.find(self._which) if self._which is not None else None
            found = chosen if chosen is not None else self.recordings[len(self._parts) % len(self.recordings)]
            self._parts[agent] = found
        return found


class ChaoticModel(ScriptedProvider):
    """A model that may say anything a model might: answers, tool calls that fit their schemas, and some that do not.

    What it answers depends on the seed, on what is asked and how often it was asked before; not on the order in which
    agents ask. So a schedule can shrink while the model stays as it is.

    Args:
        seed: of everything it says.
        random: draw from this instead, such as from Hypothesis's `randoms()`; then the order counts.
        tool_rate: how often it wants tools where there are some, 0 to 1.
        mischief: how often a tool call is wrong: not JSON, no such tool, arguments left out or invented.
        steps: tool results in a row after which it answers in text, so that a turn ends.
        latency, faults, concurrency, sleep: as for `ScriptedProvider`.
    """

    name = "chaotic"

    def __init__(
        self,
        seed: int = 0,
        *,
        random: Random | None = None,
        tool_rate: float = 0.6,
        mischief: float = 0.2,
        steps: int = STEPS,
        latency: Latency | None = None,
        faults: Faults | None = None,
        concurrency: int | None = None,
        sleep: Sleep | None = None,
    ) -> None:
        super().__init__((), latency=latency, faults=faults, seed=seed, concurrency=concurrency, sleep=sleep)
        for what, rate in (("tool_rate", tool_rate), ("mischief", mischief)):
            if not 0 <= rate <= 1:
                raise SpecError(f"ChaoticModel: {what} must be between 0 and 1, got {rate!r}.")
        self.seed = seed
        self.tool_rate = tool_rate
        self.mischief = mischief
        self.steps = steps
        self._given = random
        self._asked: dict[tuple[str, bytes], int] = {}

    async def reply(self, request: ModelRequest, number: int) -> Scripted:
        """Say something."""
        random = self._given if self._given is not None else self._source(request)
        tools: list[dict[str, Any]] = msgspec.json.decode(request.tools) if request.tools else []
        if tools and _tool_results(request) < self.steps and random.random() < self.tool_rate:
            return self._tool_calls(tools, random, request.position)
        return self._text(request, random)

    def _source(self, request: ModelRequest) -> Random:
        key = (request.agent, request.digest().bytes)
        times = self._asked[key] = self._asked.get(key, 0) + 1
        return Random(f"{self.seed}/{request.agent}/{key[1].hex()}/{times}")

    def _tool_calls(self, tools: list[dict[str, Any]], random: Random, position: int) -> Message:
        wanted = []
        for number in range(random.choice((1, 1, 1, 2, 3))):
            tool = random.choice(tools)
            name, arguments = str(tool["name"]), draw_value(tool.get("input_schema", {}), random)
            text = msgspec.json.encode(arguments).decode()
            if random.random() < self.mischief:
                name, text = _spoil(name, arguments, text, random)
            wanted.append({"id": f"call_{position}_{number}", "name": name, "arguments": text})
        return {"role": "assistant", "content": random.choice(("", "", "Let me look.")), "tool_calls": wanted}

    def _text(self, request: ModelRequest, random: Random) -> Message:
        last = ""
        for message in request.history():
            last = str(message["content"])
        said = re.findall(r"\w+", last)[:8]
        options = [
            "Yes.",
            "No.",
            f"I heard {' '.join(said)}.",
            random.choice(WORDS) or "Done.",
            "I am not sure. " * 40,
        ]
        return {"role": "assistant", "content": random.choice(options)}


def _tool_results(request: ModelRequest) -> int:
    count = 0
    for message in request.history():
        count = count + 1 if message["role"] == "tool" else count if message["role"] == "assistant" else 0
    return count


# A call as models get them wrong.
def _spoil(name: str, arguments: Any, text: str, random: Random) -> tuple[str, str]:
    ways: Iterator[tuple[str, str]] = iter(
        (
            (name, text[:-1]),
            (name, "not JSON at all"),
            (f"{name}_v2", text),
            (name, msgspec.json.encode({**arguments, "invented": 1}).decode()),
            (name, msgspec.json.encode(dict.fromkeys(arguments)).decode()),
            (name, "{}"),
            (name, ""),
        )
        if isinstance(arguments, dict)
        else ((name, "[]"),)
    )
    return random.choice(tuple(ways))


__all__ = ["ChaoticModel", "ConversationModel", "call", "calls", "play", "script"]
