"""A cell: the runtime's side of one actor. Who it is, what waits for it, and what arrives.

An idle cell is an object with slots and nothing else: no task, no queue. The first event is kept in a slot of the
cell, a deque is made for the second and given back when the mailbox is empty.

Signals never wait behind events (S9): they act on the cell at once, or stand in `lane`, which is emptied first.
`alert` is the one flag that the quick path looks at; whatever is out of the ordinary sets it.

The rest of an actor's life is in functions that take its cell: `start`, `running`, `mailbox`, `limits`, `alarms`,
`tasks`, `links` and `ending`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from avm.actors import ending, limits
from avm.actors.dead_letters import undelivered
from avm.actors.event import Handles
from avm.actors.extras import Extras
from avm.actors.ref import Pid, Ref
from avm.actors.state import DEAD, IDLE, READY, RESTING

if TYPE_CHECKING:
    from avm.actors.actor import Actor
    from avm.actors.behaviour import Behaviour, Handler
    from avm.actors.kernel import Kernel
    from avm.scheduler import Scheduler, Worker

Answer = asyncio.Future[Any]
"""Where the reply to a request goes."""

Letter = tuple[Any, "Cell | None", "Answer | None", Handles | None]
"""What a mailbox holds: event, sender, where the reply goes, handles of large bodies."""


class Cell:
    """One incarnation of one actor."""

    __slots__ = (
        "__weakref__",
        "actor",
        "alert",
        "asking",
        "behaviour",
        "born",
        "children",
        "ending",
        "handled",
        "id",
        "kernel",
        "lane",
        "letter",
        "limit",
        "links",
        "mailbox",
        "monitors",
        "more",
        "parent",
        "queue",
        "quick",
        "reason",
        "rest",
        "scheduler",
        "serial",
        "state",
        "table",
        "watchers",
        "worker",
    )

    def __init__(
        self,
        kernel: Kernel,
        behaviour: Behaviour,
        parent: Cell | None,
        id: str | int,
        serial: int,
    ) -> None:
        self.kernel = kernel
        self.scheduler: Scheduler = kernel.scheduler
        self.behaviour = behaviour
        self.table: dict[type, Handler] = behaviour.table
        self.queue: deque[Any] = kernel.scheduler.queue.lane(behaviour.priority)
        self.parent = parent
        self.id = id
        self.serial = serial
        self.actor: Actor = None  # type: ignore[assignment]
        self.state = IDLE
        self.rest = IDLE
        # The thread that may take the quick path of `tell`; 0 if none may.
        self.quick: int = kernel.quick
        self.alert = False
        self.limit = behaviour.limit
        self.letter: Letter | None = None
        self.mailbox: deque[Letter] | None = None
        self.lane: deque[Letter] | None = None
        self.worker: Worker | None = None
        self.ending: object = None
        self.reason: object = None
        self.links: dict[Cell, None] | None = None
        self.watchers: dict[int, tuple[Cell, str | None]] | None = None
        self.monitors: dict[int, Cell] | None = None
        self.children: dict[str | int, Cell] | None = None
        self.asking: Cell | None = None
        self.more: Extras | None = None
        self.handled = 0
        self.born = kernel.now()
        if behaviour.slow:
            self.rest = self.state = RESTING

    # Who it is.

    @property
    def id_text(self) -> str:
        """The last part of the path: the given id, or the class and a number."""
        if type(self.id) is int:
            return f"{self.behaviour.cls.__name__.lower()}-{self.id}"
        return str(self.id)

    @property
    def path(self) -> str:
        """The ids from below the root down to here, joined by "/"."""
        parts: list[str] = []
        cell: Cell = self
        while cell.parent is not None:
            parts.append(cell.id_text)
            cell = cell.parent
        return "/".join(reversed(parts))

    @property
    def pid(self) -> Pid:
        """The pid of this incarnation."""
        return Pid(self)

    @property
    def pid_text(self) -> str:
        """How the pid prints, as `critic#7`."""
        return f"{self.id_text}#{self.serial}"

    @property
    def ref(self) -> Ref:
        """The place of this actor."""
        return Ref(self)

    def is_alive(self) -> bool:
        """Tell whether it has not ended."""
        return self.state != DEAD

    def is_inside(self) -> bool:
        """Tell whether a handler or callback of it is under way, running or waiting."""
        return self.kernel.inside is self or self.scheduler.worker_of(self) is not None

    def extras(self) -> Extras:
        """Return the rarely needed part, made now if need be."""
        more = self.more
        if more is None:
            more = self.more = Extras()
        return more

    # What waits.

    @property
    def current(self) -> Letter | None:
        """The event whose handler is under way. It stands in `letter`, which otherwise is the first that waits."""
        return self.letter if self.letter is not None and self.is_inside() else None

    def waiting_letter(self) -> Letter | None:
        """The event in `letter` if it waits there."""
        return self.letter if self.letter is not None and not self.is_inside() else None

    def length(self) -> int:
        """Count the events that wait, postponed ones included (S7)."""
        n = 0 if self.waiting_letter() is None else 1
        if self.mailbox is not None:
            n += len(self.mailbox)
        if self.lane is not None:
            n += len(self.lane)
        if self.more is not None:
            n += len(self.more.postponed)
        return n

    def letters(self) -> Iterator[Letter]:
        """Go through what waits, in the order in which it would be handled."""
        yield from self.lane or ()
        if self.more is not None:
            yield from self.more.postponed
        first = self.waiting_letter()
        if first is not None:
            yield first
        yield from self.mailbox or ()

    def drop(self, unwanted: Callable[[Any], bool]) -> None:
        """Remove waiting events; what overtakes and what is postponed stays."""
        first = self.waiting_letter()
        if first is not None and unwanted(first[0]):
            self.letter = None
        if self.mailbox is not None:
            self.mailbox = deque(x for x in self.mailbox if not unwanted(x[0]))

    # What arrives.

    def receive(self, letter: Letter) -> None:
        """Take an event for which the quick path of `tell` is not open."""
        state = self.state
        if state == IDLE:
            self.letter = letter
            self.make_ready()
            return
        if state == DEAD:
            undelivered(self.kernel, "dead", self.pid_text, letter)
            return
        if self.limit is not None and not limits.admit(self, letter):
            return
        if state == RESTING:
            self._rouse()
            self.letter = letter
            self.make_ready()
            return
        box = self.mailbox
        if box is None:
            boxes = self.kernel.boxes
            box = self.mailbox = boxes.pop() if boxes else deque()
        box.append(letter)
        if len(box) >= self.kernel.high_water:
            limits.check_water(self)

    def overtake(self, letter: Letter) -> None:
        """Take an event that goes before all ordinary ones: a trapped exit, an urgent event."""
        if self.state == DEAD:
            return
        if self.lane is None:
            self.lane = deque()
        self.lane.append(letter)
        self.attract()

    def attract(self) -> None:
        """Have what is out of the ordinary looked at, now if the actor is idle."""
        self.alert = True
        if self.state == IDLE:
            self.make_ready()
        elif self.state == RESTING:
            self._rouse()
            self.make_ready()

    def make_ready(self) -> None:
        """Join the ready queue. Only from an idle state."""
        self.state = READY
        self.join_queue()

    def join_queue(self) -> None:
        """Stand at the end of the ready queue; there is a worker to empty it."""
        self.queue.append(self)
        if self.scheduler.active is None:
            self.scheduler.wake()

    def order_end(self, reason: object) -> None:
        """End in order, as `stop_actor` would have it (S95)."""
        ending.order_end(self, reason)

    def kill(self) -> None:
        """End now, with reason Killed, whatever it is doing (S94)."""
        ending.kill(self)

    def _rouse(self) -> None:
        more = self.more
        if more is None:
            return
        if more.idle_timer is not None:
            self.kernel.timers.cancel(more.idle_timer)
            more.idle_timer = None
        if more.hibernating:
            self.alert = True
