"""The director: hands conversations to the agents that are free, one at a time, and takes what they kept.

    agent --Ready--> director --Play--> agent --Played--> director --Play--> ...

Nothing is handed out before `Begin`, so that the start of many agents is not held up by those that play already.
An agent is handed its next conversation when it has finished the last, so there are never more under way than agents.
If it crashes in between, its next incarnation says Ready from the same place and gets the same conversation again; it
goes on from the last turn it had committed. Each conversation that comes back is compared with its recording.
"""

from __future__ import annotations

import attrs

from avm.actors.actor import Actor, on
from avm.actors.event import Request, event
from avm.actors.ref import Pid
from avm.actors.reply import PendingReply
from avm.agents.replay import Play, PlayResult, is_exact
from avm.cli.player import Played, Ready, TurnDone
from avm.cli.workload import KeptFile
from avm.cli.writer import WRITER, WriteFailed, WriteOn
from avm.io import Recordings
from avm.memory import Conversation


@attrs.frozen(slots=True)
class DirectorStatistics:
    """What has been handed out and what came back. `resumed` counts conversations handed again after a crash."""

    handed: int
    conversations: int
    turns: int
    resumed: int
    different: int
    """Conversations kept that are not what was recorded."""
    first_different: str
    read_back: int
    """Conversations that were in the home already, whole."""
    failure: str
    """Why no more can be played; empty if nothing failed."""


@event(tag="avm.job.Begin")
class Begin(Request[None]):
    """Begin to hand out conversations; the reply comes when all have been played, or no more can be."""


@attrs.define(slots=True)
class Seat:
    """What the director knows of one agent: the incarnation that is up, and the conversation it has, by its number."""

    pid: Pid
    number: int | None = None


class Director(Actor):
    """Hands out conversations; see the module.

    Args:
        recordings: what is played, in order, round and round.
        target: conversations to play in all; None for no end.
        out: where what was kept is put; the writer is told of it.
        workload: what the recordings are called; conversations are committed under names that begin so.
        is_live: the replies are a live model's, so that nothing is compared with what was recorded.
    """

    priority = "user"

    def __init__(
        self,
        recordings: Recordings,
        target: int | None,
        out: KeptFile | None,
        workload: str = "workload",
        is_live: bool = False,
    ) -> None:
        self._is_live = is_live
        self._workload = workload
        self._recordings = recordings
        self._target = target
        self._out = out
        self._seats: dict[str, Seat] = {}
        # What an agent keeps until it has played its next conversation.
        self._kept: dict[str, Conversation] = {}
        self._waiting: list[PendingReply] = []
        self._handed = self._done = self._turns = self._resumed = self._different = self._read_back = 0
        self._first_different = self._failure = ""
        # Conversations that were handed out more than once in this run.
        self._again: set[int] = set()
        self._begun = False

    @on(Ready)
    def ready(self, ready: Ready) -> None:
        """An agent started, for the first time or again."""
        pid = self.sender
        if pid is None:
            return
        seat = self._seats.setdefault(pid.ref.path, Seat(pid))
        seat.pid = pid
        self._hand(seat)

    @on(TurnDone)
    def turn_done(self, done: TurnDone) -> None:
        """Count a turn."""
        self._turns += 1

    @on(Played)
    def played(self, played: Played) -> None:
        """Take a conversation, and hand out the next."""
        pid = self.sender
        seat = self._seats.get(pid.ref.path) if pid is not None else None
        if seat is None or seat.number is None or pid is None:
            return
        number, seat.number = seat.number, None
        self._take(number, pid.ref.path, played.result)
        if seat.pid == pid:
            self._hand(seat)

    @on(WriteFailed)
    def write_failed(self, failed: WriteFailed) -> None:
        """Give up: what is played from now on could not be kept."""
        self._failure = failed.why
        self._tell_if_over()

    @on(Begin)
    def begin(self, begin: Begin) -> None:
        """Hand conversations to all agents that are up."""
        self._waiting.append(self.defer())
        if not self._begun:
            self._begun = True
            for seat in self._seats.values():
                self._hand(seat)
        self._tell_if_over()

    def statistics(self) -> DirectorStatistics:
        """Count what was handed out and what came back."""
        return DirectorStatistics(
            handed=self._handed,
            conversations=self._done,
            turns=self._turns,
            resumed=self._resumed,
            different=self._different,
            read_back=self._read_back,
            first_different=self._first_different,
            failure=self._failure,
        )

    def _hand(self, seat: Seat) -> None:
        if self._failure or not self._begun:
            return
        if seat.number is not None:
            self._resumed += 1
            self._again.add(seat.number)
        elif self._target is None or self._handed < self._target:
            seat.number = self._handed
            self._handed += 1
        else:
            return
        # If that incarnation ends before it has played it, the next one says Ready.
        self.tell(seat.pid, self._play(seat.number))

    # Its name is the same in another run on the same home, whichever agent gets it then.
    def _play(self, number: int) -> Play:
        round, index = divmod(number, len(self._recordings))
        again = f" (round {round + 1})" if round else ""
        return Play(index, f"{self._workload}/{self._recordings[index].key}{again}")

    def _take(self, number: int, path: str, result: PlayResult) -> None:
        recording = self._recordings[result.index]
        self._kept[path] = result.conversation
        self._done += 1
        # Played to its end by a run before, on the same home.
        self._read_back += result.resumed == len(recording) and number not in self._again
        self._again.discard(number)
        if not self._is_live and not is_exact(recording, result.conversation):
            self._different += 1
            self._first_different = self._first_different or recording.key
        if self._out is not None:
            self._out.add(number, recording, result.conversation)
            self.tell(WRITER, WriteOn())
        self._tell_if_over()

    def _tell_if_over(self) -> None:
        if self._failure or (self._target is not None and self._done >= self._target):
            for reply in self._waiting:
                reply.send(None)
            self._waiting.clear()
