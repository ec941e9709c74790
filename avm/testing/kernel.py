"""A kernel whose choices are not its own: which ready actor runs next, for how many events, and when others get a turn.

It is the kernel of `avm.actors` with its own dispatcher and its own cells. Three places are taken over from outside:

- the lanes of the ready queue: any actor of the lane may be the next, not only the first;
- the length of a slice and of a batch of slices, which the real dispatcher measures with a clock;
- the handlers' table of each cell, through which every event is seen before it is handled, and faults come in.

What a mailbox holds stays in order, so the order of one sender's events to one receiver is that of the real kernel.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from avm.actors import limits
from avm.actors.behaviour import Behaviour
from avm.actors.cell import Cell
from avm.actors.dispatch import Dispatcher
from avm.actors.kernel import Kernel
from avm.actors.running import handler_of, run
from avm.actors.state import READY
from avm.actors.tree import Tree
from avm.scheduler import ReadyQueue, Scheduler, Worker
from avm.testing.choices import Halt
from avm.testing.in_place import InPlace

if TYPE_CHECKING:
    from avm.testing.world import World

SLICE = 8
"""Most events in one slice; the kernel looks at the clock only in longer ones."""

BATCH = 3
"""Most slices before the loop gets a turn."""

Handler = Callable[[Any, Any], Any]


class SimulatedKernel(Kernel):
    """The kernel of one simulation; `world` decides and looks on."""

    def __init__(self, world: World, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.world = world
        world.kernel = self
        self._tables: dict[int, tuple[Behaviour, SeenTable]] = {}
        self.scheduler = Scheduler(self.loop, ChosenDispatcher(self, world).work, self.bug)
        self.scheduler.queue = ChosenQueue(self, world)
        self.root.scheduler = self.scheduler
        self.root.queue = self.scheduler.queue.lane(self.root.behaviour.priority)
        self.tree = SeenTree(self.root, world)
        self.threads = InPlace()  # type: ignore[assignment]
        # With a tap every message takes the general way: it is seen, and no handler runs in the task of its asker.
        self.tap(world.sent)

    def bug(self, error: BaseException) -> None:
        """The runtime failed; unless it was stopped on purpose."""
        if not isinstance(error, Halt):
            super().bug(error)

    def see(self, cell: Cell) -> None:
        """Give a cell the table in which every event is seen."""
        if cell.table.__class__ is not SeenTable:
            behaviour = cell.behaviour
            found = self._tables.get(id(behaviour))
            if found is None:
                # The behaviour is kept with its table, so that no other gets its id.
                found = self._tables[id(behaviour)] = (behaviour, SeenTable(self.world, behaviour))
            cell.table = found[1]


class SeenTree(Tree):
    """The tree of actors, whose world hears of every coming and going."""

    def __init__(self, root: Cell, world: World) -> None:
        super().__init__(root)
        self._world = world

    def add(self, cell: Cell, parent: Cell) -> None:
        """Put an actor below its parent; a fault may be that it cannot be."""
        self._world.starts_soon(cell)
        super().add(cell, parent)

    def up(self, cell: Cell) -> None:
        """An actor is up."""
        super().up(cell)
        self._world.started(cell)

    def forget(self, cell: Cell) -> None:
        """An actor has ended, or did not start."""
        self._world.ended(cell)
        super().forget(cell)


class SeenTable(dict[type, Handler]):
    """The handlers of one class, each behind a look of the world at the event."""

    def __init__(self, world: World, behaviour: Behaviour) -> None:
        super().__init__({kind: _seen(world, handler) for kind, handler in behaviour.table.items()})
        self._stranger = _seen(world, _by_cell)

    def get(self, kind: type, default: Any = None) -> Any:
        """Return the handler of a type of event; one that is not listed is left to the cell, seen all the same."""
        return dict.get(self, kind) or self._stranger

    def __missing__(self, kind: type) -> Handler:
        return self._stranger


def _seen(world: World, handler: Handler) -> Handler:
    def handle(actor: Any, event: Any) -> Any:
        return world.handle(actor._cell, event, handler)

    return handle


# A base class of the event may have a handler, or nobody has; the cell finds out.
def _by_cell(actor: Any, event: Any) -> Any:
    return handler_of(actor._cell, event)(actor, event)


class ChosenLane(deque[Any]):
    """A lane of the ready queue from which any may be taken."""

    def __init__(self, kernel: SimulatedKernel, world: World) -> None:
        super().__init__()
        self._kernel = kernel
        self._world = world

    def append(self, cell: Any) -> None:
        """Let a cell wait for its turn."""
        self._kernel.see(cell)
        super().append(cell)

    def popleft(self) -> Any:
        """Take the one the schedule chooses."""
        chosen = self._world.schedule.choose(len(self)) if len(self) > 1 else 0
        if chosen == 0:
            cell = super().popleft()
        else:
            cell = self[chosen]
            del self[chosen]
        self._world.runs = (cell, cell.handled)
        return cell

    def first(self) -> Any:
        """Take the first."""
        return super().popleft()


class ChosenQueue(ReadyQueue[Any]):
    """A ready queue of such lanes."""

    user: ChosenLane
    normal: ChosenLane
    background: ChosenLane

    __slots__ = ()

    def __init__(self, kernel: SimulatedKernel, world: World) -> None:
        self.user = ChosenLane(kernel, world)
        self.normal = ChosenLane(kernel, world)
        self.background = ChosenLane(kernel, world)

    def age(self, *args: object) -> None:
        """Move the head of each lower lane to the front, as the real queue does; nothing is chosen for that."""
        if self.background and (self.user or self.normal):
            self.user.appendleft(self.background.first())
        if self.normal and self.user:
            self.user.appendleft(self.normal.first())


class ChosenDispatcher(Dispatcher):
    """The real dispatcher, with slices and batches as long as the schedule says."""

    __slots__ = ("_world",)

    def __init__(self, kernel: SimulatedKernel, world: World) -> None:
        super().__init__(kernel)
        self._world = world
        self._slices = 1

    def _next_batch(self, took: float) -> int:
        if not self._kernel.scheduler.queue:
            return 1
        return BATCH - self._world.schedule.choose(BATCH)

    # The dispatcher calls this after the event in the slot too; then the others may have their turn first.
    async def _run(self, cell: Cell, me: Worker) -> None:
        world = self._world
        plain = not cell.alert and cell.state == READY and cell.ending is None
        if plain and world.runs == (cell, cell.handled - 1) and cell.mailbox and world.schedule.choose(2):
            limits.check_water(cell)
            cell.join_queue()
            return
        try:
            await run(cell, me, SLICE - (world.schedule.choose(SLICE) if plain and cell.mailbox else 0))
        except BaseException as error:
            if not (isinstance(error, asyncio.CancelledError) and me.spoiled):
                self._kernel.bug(error)
            me.spoiled = me.look = True
