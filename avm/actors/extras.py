"""What only some actors need: one object beside the cell, made when first used, so that idle actors stay small."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avm.actors.cell import Answer, Cell, Letter
    from avm.actors.signals import WaitReason
    from avm.actors.timers import Timer


class Extras:
    """The rarely needed part of a cell."""

    __slots__ = (
        "asking",
        "continuing",
        "deferred",
        "downs",
        "generators",
        "hibernating",
        "hold",
        "idle_seconds",
        "idle_timer",
        "last_reply",
        "mail_bytes",
        "over_bytes",
        "over_water",
        "owed",
        "postpone",
        "postponed",
        "protected",
        "room",
        "start",
        "state_bytes",
        "tasks",
        "timers",
        "waiters",
        "waiting",
    )

    def __init__(self) -> None:
        self.asking: list[Cell] = []  # more asks under way than the one in the cell's slot
        self.continuing = 0  # how many letters at the head of the lane are from continue_with
        self.deferred = False  # the handler took the reply upon itself
        self.downs = 0  # at most so many wait in a bounded mailbox, which does not count them (S10)
        self.generators: dict[Any, None] = {}  # weak references to async generators begun by handlers
        self.hibernating = False
        self.hold = False  # suspended
        self.idle_seconds: float | None = None
        self.idle_timer: Timer | None = None
        self.last_reply: tuple[Answer, Any] | None = None  # stop and reply: sent after `stopping` (S21)
        self.mail_bytes = 0  # of what waits, and of the state at the last rest (S12)
        self.state_bytes = 0
        self.over_bytes = False
        self.over_water = False
        self.owed: dict[Answer, Cell | None] = {}  # deferred replies, and who asked
        self.postpone = False
        self.postponed: list[Letter] = []
        self.protected = 0
        self.room: deque[asyncio.Future[None]] | None = None  # senders that wait for room
        self.start: asyncio.Future[object] | None = None
        self.tasks: dict[asyncio.Task[Any], bool] = {}  # owned tasks; True: its failure is ours
        self.timers: dict[Timer, None] = {}
        self.waiters: list[asyncio.Future[object]] = []  # those who wait for the end
        self.waiting: list[tuple[WaitReason, float]] = []
