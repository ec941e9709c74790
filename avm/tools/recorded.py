"""Recorded tool results: a tool whose calls come to what they came to when the conversation was recorded."""

from __future__ import annotations

from random import Random
from typing import ClassVar

from avm.actors.actor import Actor
from avm.actors.event import ATOMS
from avm.errors import ToolError
from avm.io.providers.recorded import Recordings
from avm.io.providers.scripted import Latency, Sleep
from avm.io.request import CallTool, ToolOutcome
from avm.tools.runner import ToolWorker


class RecordedTools:
    """All tools of recorded conversations in one: looks a result up by conversation and position.

    Args:
        recordings: where the results are.
        latency, seed, sleep: as for `ScriptedProvider`.
    """

    name = "recorded"
    timeout: float | None = None
    output_limit = 0
    worker: ClassVar[type[Actor]] = ToolWorker

    def __init__(
        self,
        recordings: Recordings,
        *,
        latency: Latency | None = None,
        seed: int = 0,
        sleep: Sleep | None = None,
    ) -> None:
        self.recordings = recordings
        self.latency = latency if latency is not None else Latency()
        self._random = Random(seed)
        self._sleep = sleep

    async def execute(self, call: CallTool, worker: ToolWorker) -> ToolOutcome:
        """Return the recorded result, whole and as it is: no cap.

        Raises:
            ToolError: the recording has no tool message there.
        """
        seconds = self.latency.sample(self._random)
        if seconds:
            await (self._sleep or worker.sleep)(seconds)
        recording = self.recordings.find(call.label)
        position = call.position
        if recording is None or recording.roles[position : position + 1] != "t":
            raise ToolError(
                f"there is no recorded result of {call.call.name!r} for conversation {call.label!r} "
                f"of {call.agent!r} at position {position}."
            )
        return ToolOutcome(call.call, "", fragment=recording.fragments[position])


ATOMS.add(RecordedTools)
