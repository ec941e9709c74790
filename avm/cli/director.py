"""The director: hands conversations to the agents that are free, one at a time, and takes what they kept.

    agent --Ready--> director --ask Play--> agent --PlayResult--> director --ask Play--> ...

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
from avm.cli.player import Ready, TurnDone
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
    failure: str
    """Why no more can be played; empty if nothing failed."""


@event(tag="avm.job.Begin")
class Begin(Request[None]):
    """Begin to hand out conversations; the reply comes when all have been played, or no more can be."""


@event(tag="avm.job.Finished")
class Finished:
    """An agent has played a conversation to its end; only from the director to itself."""

    path: str
    result: PlayResult


@event(tag="avm.job.Lost")
class Lost:
    """An agent ended, or failed, before it had played its conversation; only from the director to itself."""

    path: str


@attrs.define(slots=True)
class Seat:
    """What the director knows of one agent: the incarnation that is up, and the conversation it has, by its number."""

    path: str
    pid: Pid | None = None
    number: int | None = None
    asked: Pid | None = None


class Director(Actor):
    """Hands out conversations; see the module.

    Args:
        recordings: what is played, in order, round and round.
        target: conversations to play in all; None for no end.
        out: where what was kept is put; the writer is told of it.
    """

    priority = "user"

    def __init__(self, recordings: Recordings, target: int | None, out: KeptFile | None) -> None:
        self._recordings = recordings
        self._target = target
        self._out = out
        self._seats: dict[str, Seat] = {}
        # What an agent keeps until it has played its next conversation.
        self._kept: dict[str, Conversation] = {}
        self._waiting: list[PendingReply] = []
        self._handed = self._done = self._turns = self._resumed = self._different = 0
        self._first_different = self._failure = ""
        self._begun = False

    @on(Ready)
    def ready(self, ready: Ready) -> None:
        """An agent started, for the first time or again."""
        pid = self.sender
        if pid is None:
            return
        path = pid.ref.path
        seat = self._seats.setdefault(path, Seat(path))
        seat.pid = pid
        if seat.asked is None:
            self._hand(seat)

    @on(TurnDone)
    def turn_done(self, done: TurnDone) -> None:
        """Count a turn."""
        self._turns += 1

    @on(Finished)
    def finished(self, finished: Finished) -> None:
        """Take a conversation, and hand out the next."""
        seat = self._seats[finished.path]
        number, seat.number, seat.asked = seat.number, None, None
        assert number is not None
        self._take(number, finished.path, finished.result)
        self._hand(seat)

    @on(Lost)
    def lost(self, lost: Lost) -> None:
        """An agent lost its conversation: it gets it again when it is up, which it may be already."""
        seat = self._seats[lost.path]
        asked, seat.asked = seat.asked, None
        if seat.pid != asked:
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
            first_different=self._first_different,
            failure=self._failure,
        )

    def _hand(self, seat: Seat) -> None:
        if seat.pid is None or self._failure or not self._begun:
            return
        if seat.number is not None:
            self._resumed += 1
        elif self._target is None or self._handed < self._target:
            seat.number = self._handed
            self._handed += 1
        else:
            return
        seat.asked, path = seat.pid, seat.path
        self.pipe(
            self.ask(seat.pid, Play(seat.number % len(self._recordings)), timeout=None),
            into=lambda result: Finished(path, result),
            on_error=lambda error: Lost(path),
        )

    def _take(self, number: int, path: str, result: PlayResult) -> None:
        recording = self._recordings[result.index]
        self._kept[path] = result.conversation
        self._done += 1
        if not is_exact(recording, result.conversation):
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
