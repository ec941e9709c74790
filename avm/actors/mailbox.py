"""The mailbox: in which order what waits for an actor is handled, and how the actor changes that.

First come the letters of the lane: those put there by `continue_with`, then what overtakes. Then the event in the
cell's slot and those in its mailbox. Postponed ones wait apart until `state_changed`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from avm.actors.delivery import seal_message
from avm.actors.ending import refuse_dead
from avm.actors.signals import Exit
from avm.actors.state import HELD, IDLE, RESTING

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.ref import Pid


def shelve(cell: Cell) -> None:
    """Free the slot for the event being handled; one that waits in it goes to the head of the mailbox."""
    if cell.letter is not None:
        if cell.mailbox is None:
            cell.mailbox = deque()
        cell.mailbox.appendleft(cell.letter)
        cell.letter = None


def drop_exits(cell: Cell, pid: Pid) -> None:
    """Remove the trapped exits of one actor (S44)."""
    if cell.lane:
        cell.lane = deque(x for x in cell.lane if not (isinstance(x[0], Exit) and x[0].pid == pid))


def continue_with(cell: Cell, event: object) -> None:
    """Put an event before all that waits, behind those put there before (S28)."""
    refuse_dead(cell)
    sealed, handles = seal_message(cell.kernel, event)
    more = cell.extras()
    if cell.lane is None:
        cell.lane = deque()
    cell.lane.insert(more.continuing, (sealed, cell, None, handles))
    more.continuing += 1
    cell.attract()


def postpone(cell: Cell) -> None:
    """Put the event being handled aside when its handler returns (S7)."""
    cell.extras().postpone = True
    cell.alert = True


def retry_postponed(cell: Cell) -> None:
    """Put postponed events back at the head of the mailbox, oldest first (S7)."""
    more = cell.more
    if more is None or not more.postponed:
        return
    box = cell.mailbox
    if box is None:
        box = cell.mailbox = deque()
    first = cell.waiting_letter()
    if first is not None:
        box.appendleft(first)
        cell.letter = None
    box.extendleft(reversed(more.postponed))
    more.postponed = []
    if cell.state in (IDLE, RESTING):
        cell.make_ready()


def suspend(cell: Cell) -> None:
    """Let events wait after the present one, until `resume`. Signals still act."""
    cell.extras().hold = True
    cell.alert = True
    if cell.state in (IDLE, RESTING):
        cell.state = HELD


def resume(cell: Cell) -> None:
    """Let a suspended actor go on."""
    cell.extras().hold = False
    if cell.state == HELD:
        cell.state = cell.rest
        if cell.length() or cell.ending is not None:
            cell.make_ready()
