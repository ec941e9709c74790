"""The main job's agent: a `ReplayAgent` that says when it is up and when a turn is done, and crashes when told to."""

from __future__ import annotations

from typing import Never

from avm.actors.actor import on
from avm.actors.event import event
from avm.agents.replay import Hear, PlayResult, ReplayAgent

DIRECTOR = "avm.director"
"""The name the director is registered under."""


@event(tag="avm.job.Ready")
class Ready:
    """An agent has started and can play; only from agents to the director."""


@event(tag="avm.job.TurnDone")
class TurnDone:
    """An agent has finished a turn."""


@event(tag="avm.job.Played")
class Played:
    """An agent has played a conversation to its end."""

    result: PlayResult


@event(tag="avm.job.Crash")
class Crash:
    """Raise an exception, as a fault in a handler would."""


class ChaosError(Exception):
    """A crash on purpose."""


class Player(ReplayAgent):
    """Plays what the director hands it."""

    def starting(self) -> None:
        """Tell the director, who knows what the last incarnation was at."""
        self.tell(DIRECTOR, Ready())

    @on(Hear)
    async def hear(self, hear: Hear) -> None:
        """Play one turn, and count it."""
        await super().hear(hear)
        self.tell(DIRECTOR, TurnDone())

    def finished(self, result: PlayResult) -> None:
        """Tell the director, who did not ask but tell: a question of an hour would hold its place for that long."""
        self.tell(DIRECTOR, Played(result))

    @on(Crash)
    def crash(self, crash: Crash) -> Never:
        """Fail."""
        raise ChaosError("crashed on purpose (--chaos)")
