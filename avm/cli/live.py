"""The main job's agent on a live model: it says what the recorded users said, and keeps what the model answers.

What was recorded of the model and of its tools is left out: a live model says something else, and other tools' results
would not fit. So a conversation is the recorded system prompt, then in turn a recorded user message and a live reply.
"""

from __future__ import annotations

from avm.actors.actor import on
from avm.agents.replay import Hear
from avm.cli.player import DIRECTOR, Player, TurnDone
from avm.io import Recording, Recordings, decode_fragment
from avm.memory import Conversation
from avm.tools.recorded import RecordedTools


class LivePlayer(Player):
    """Plays the users' side of what the director hands it.

    Args:
        model: which model answers.
        max_tokens: of one reply.
        system: in place of the recorded system prompt; None is that one.
    """

    def __init__(
        self, recordings: Recordings, tools: RecordedTools, model: str, max_tokens: int, system: str | None
    ) -> None:
        super().__init__(recordings, tools)
        self._prompt_text = system
        self.model = model
        self.max_tokens = max_tokens

    @on(Hear)
    async def hear(self, hear: Hear) -> None:
        """Say one message and keep the answer."""
        recording = self._recording
        if recording is None or hear.fragment is None:
            return
        conversation = self.conversation.append(decode_fragment(hear.fragment))
        self.system = conversation.system
        completion = await self.ask_model(conversation)
        self.conversation = conversation.append(completion.message)
        index, turns, requests, calls, resumed = self._played
        self._played = (index, turns + 1, requests + 1, calls, resumed)
        await self._kept(self.conversation)
        self.tell(DIRECTOR, TurnDone())
        self._go_on(recording, len(self.conversation))

    def new_conversation(self) -> Conversation:
        """Return an empty conversation with the recording's prompt, and no tools."""
        recording, prompt = self._recording, self._prompt_text
        if prompt is None:
            prompt = recording.system if recording is not None else ""
        return Conversation(self._store(), prompt)

    def _go_on(self, recording: Recording, position: int) -> None:
        said = [place for place, role in enumerate(recording.roles) if role == "u"]
        # Each turn so far is one message of the user and one reply.
        turn = position // 2
        if turn >= len(said):
            self._end(recording)
        else:
            self.tell(self.pid, Hear(recording.fragments[said[turn]]))
