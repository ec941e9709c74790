"""What the tests of simulation share: a shop whose clerks count goods on a shelf, some of them wrongly."""

from __future__ import annotations

import asyncio

from avm import Actor, Agent, ChildSpec, Request, child, event, on, supervisor, tool


@event
class Get(Request[int]):
    """How many are there?"""


@event
class Put:
    """There are so many now."""

    n: int


@event
class Add:
    """There is one more."""


@event
class Sell:
    """Sell one."""


@event
class Wait(Request[str]):
    """Answer in so many seconds."""

    seconds: float


@event
class Note:
    """Something to write down."""

    text: str


class Shelf(Actor):
    """Knows how many there are."""

    def __init__(self) -> None:
        self.n = 0

    @on(Get)
    def get(self, request: Get) -> int:
        return self.n

    @on(Put)
    def put(self, order: Put) -> None:
        self.n = order.n

    @on(Add)
    def add(self, order: Add) -> None:
        self.n += 1


class CarelessClerk(Actor):
    """Reads, and writes what was read plus one: two of them at a time lose an update."""

    @on(Sell)
    async def sell(self, order: Sell) -> None:
        n = await self.ask("shelf", Get())
        self.tell("shelf", Put(n + 1))


class CarefulClerk(Actor):
    """Tells the shelf what to do."""

    @on(Sell)
    def sell(self, order: Sell) -> None:
        self.tell("shelf", Add())


class Slow(Actor):
    """Takes its time."""

    @on(Wait)
    async def wait(self, request: Wait) -> str:
        await asyncio.sleep(request.seconds)
        return f"{request.seconds:g} s"


class Diary(Actor):
    """Writes everything down."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @on(Note)
    def note(self, note: Note) -> None:
        self.notes.append(note.text)


@tool
def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


@tool(timeout=5)
async def look_up(word: str) -> str:
    """Look up a word."""
    await asyncio.sleep(0.5)
    return f"{word}: a word"


class Writer(Agent):
    """An agent with tools."""

    model, tools = "simulated", [count_words, look_up]


def shop(clerk: type[Actor], clerks: int = 2) -> ChildSpec:
    """A shelf and its clerks."""
    children = [child("shelf", Shelf), *(child(f"clerk{n}", clerk) for n in range(clerks))]
    return supervisor("shop", max_restarts=10, max_seconds=60, children=children)
