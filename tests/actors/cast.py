"""Actors the kernel's tests play with."""

from __future__ import annotations

import asyncio
from typing import Any

from avm.actors import Actor, Down, Exit, Ref, Request, Timeout, event, on


@event
class Note:
    text: str


@event
class Double(Request[int]):
    n: int


@event
class Boom:
    text: str = "boom"


@event
class Wait(Request[str]):
    """Answered when the gate of the actor opens."""


@event
class Call(Request[Any]):
    """Runs `call(actor)` of the actor's own script; see Scripted."""

    name: str


class Recorder(Actor):
    """Writes down whatever comes; doubles; waits; fails when told to."""

    def __init__(self, log: list[Any] | None = None) -> None:
        self.log: list[Any] = [] if log is None else log
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()

    @on(Note)
    async def note(self, note: Note) -> None:
        self.log.append(note.text)

    @on(Double)
    async def double(self, request: Double) -> int:
        return request.n * 2

    @on(Boom)
    async def boom(self, boom: Boom) -> None:
        raise RuntimeError(boom.text)

    @on(Wait)
    async def wait(self, _: Wait) -> str:
        self.entered.set()
        await self.gate.wait()
        return "opened"

    @on(Exit, Down, Timeout)
    async def signal(self, signal: Exit | Down | Timeout) -> None:
        self.log.append(signal)


class Trapper(Recorder):
    """The same, and traps exits."""

    trap_exit = True


class Scripted(Recorder):
    """Runs functions handed in: `Scripted({"name": function})`, each called with the actor."""

    def __init__(self, script: dict[str, Any], log: list[Any] | None = None) -> None:
        self.log = [] if log is None else log
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.script = script

    @on(Call)
    async def call(self, call: Call) -> Any:
        result = self.script[call.name](self)
        return await result if asyncio.iscoroutine(result) else result


def log_of(ref: Ref) -> list[Any]:
    """What an actor wrote down; also after its end if the log was handed in."""
    return ref.cell.actor.log  # type: ignore[attr-defined]


def actor_of(ref: Ref) -> Any:
    """The user's object behind a ref."""
    return ref.cell.actor
