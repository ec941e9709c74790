"""Actors and trees the VM's tests play with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from avm.actors import Actor, Request, event, on
from avm.supervision import ChildSpec, child, supervisor


@event(tag="tests.vm.Ping")
class Ping(Request[int]):
    """Answered with the number plus one."""

    number: int


@event(tag="tests.vm.Do")
class Do(Request[Any]):
    """Runs a function in the handler; what it raises escapes."""

    action: str


@event(tag="tests.vm.Unknown")
class Unknown:
    """Nobody handles it."""


ACTIONS: dict[str, Callable[[Actor], Awaitable[object] | object]] = {}


def action(function: Callable[[Actor], Any]) -> str:
    """Make a function available to `Do`; return what to call it."""
    ACTIONS[function.__qualname__] = function
    return function.__qualname__


class Player(Actor):
    """Says when it starts and stops, answers Ping, and does what it is told."""

    def __init__(self, diary: list[str] | None = None) -> None:
        self.diary = diary if diary is not None else []

    def starting(self) -> None:
        self.diary.append(f"+{self.path}")

    def stopping(self, reason: object) -> None:
        self.diary.append(f"-{self.path}")

    @on(Ping)
    def ping(self, ping: Ping) -> int:
        return ping.number + 1

    @on(Do)
    async def do(self, order: Do) -> object:
        result = ACTIONS[order.action](self)
        return await result if asyncio.iscoroutine(result) else result


class Broken(Player):
    """Never starts."""

    def starting(self) -> None:
        raise RuntimeError("no ink")


def troupe(diary: list[str] | None = None, *, max_restarts: int = 1) -> ChildSpec:
    """Two players, and one in a branch of its own."""
    inner = supervisor("branch", children=[child("leaf", Player, diary)])
    return supervisor(
        "troupe",
        max_restarts=max_restarts,
        children=[child("one", Player, diary), inner, child("two", Player, diary)],
    )


@action
def crash(player: Actor) -> None:
    """Fail as code fails."""
    raise RuntimeError("boom")
