"""The cast: the messages that actors and tasks send each other here, the sizes, and the VM that actors run in.

All run in a `VM` as it comes: store, I/O pool and watchdog are there, supervisors supervise. Only the observers are
switched off, so that a million crashes are not a million lines of log.
"""

from __future__ import annotations

from avm.actors import Actor, Ref, Request, event, on
from avm.supervision import ChildSpec
from avm.vm import VM

PRODUCERS = 100
BATCH = 64
RING = 1_000
HOPS = 10
BODY = 100_000
LIMITLESS = 10**9


@event
class Ping:
    """The smallest message: no fields."""


@event
class Ball:
    """A small message, with one field."""

    n: int


@event
class Question(Request[int]):
    """A small request, with one field."""

    n: int


@event(tag="bench.Draft")
class Draft:
    """A small message with a few fields."""

    text: str
    turn: int
    weight: float


@event
class Page:
    """A message with a large body."""

    body: bytes


@event
class Play(Request[None]):
    """Do it n times with a peer; the reply says that it is done."""

    n: int
    peer: Ref


@event
class Work(Request[float]):
    """Do it n times; the reply is the seconds it took, where that is measured."""

    n: int


@event
class Neighbour(Request[None]):
    """Who comes after you."""

    ref: Ref


PING = Ping()
BALL = Ball(1)
QUESTION = Question(1)


def machine(tree: ChildSpec | None = None) -> VM:
    """Make the VM of a measurement."""
    return VM(tree, provider="scripted", observers=[])


def bodies(n: int) -> list[bytes]:
    """Make n distinct bodies of 100 KB."""
    rest = bytes(range(250)) * (BODY // 250)
    return [i.to_bytes(8, "big") + rest[8:] for i in range(n)]


class Idle(Actor):
    """Does nothing until it is asked; has no attributes."""

    @on(Question)
    async def answer(self, question: Question) -> int:
        return question.n


class Attributes(Actor):
    """As Idle, with three attributes."""

    def __init__(self) -> None:
        self.name, self.mood, self.answers = "idle", None, 0

    @on(Question)
    async def answer(self, question: Question) -> int:
        self.answers += 1
        return question.n
