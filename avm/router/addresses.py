"""Addresses as text and numbers: how a Pid or Ref that came over the wire is turned back into one.

A pid on the wire is a path and a serial number. If that incarnation is known here, the very same one is
meant; if not, a cell that has ended stands in for it: a Pid of it is never alive, and a Ref of it finds
whoever lives at the path.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import attrs

from avm.actors.actor import Actor
from avm.actors.cell import Cell
from avm.actors.ref import Pid, Ref
from avm.actors.state import DEAD
from avm.errors import NoProc

if TYPE_CHECKING:
    from avm.actors.kernel import Kernel


@attrs.frozen(slots=True)
class Address:
    """Where an event goes to or comes from, as it is on the wire; may be used as the `dest` of tell and ask.

    Attributes:
        path: of the actor.
        serial: of the incarnation; None means whoever lives there.
    """

    path: str
    serial: int | None = None

    def resolve(self, event: object, kernel: Kernel) -> tuple[Cell, ...]:
        """Return the living actor that is meant, if there is one."""
        cell = kernel.find_cell(self.path)
        return () if cell is None or self.serial not in (None, cell.serial) else (cell,)

    def __str__(self) -> str:
        return self.path if self.serial is None else f"{self.path}#{self.serial}"


class Addresses:
    """Turns paths and serial numbers into pids and refs of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._cells: weakref.WeakValueDictionary[int, Cell] = weakref.WeakValueDictionary()

    def note(self, pid: Pid) -> None:
        """Remember an incarnation that was written, for as long as anyone holds it."""
        if pid.cell.kernel is self._kernel:
            self._cells[pid.serial] = pid.cell

    def pid(self, path: str, serial: int) -> Pid:
        """Return the pid of an incarnation, alive or not."""
        cell = self._cells.get(serial)
        if cell is None or cell.path != path:
            cell = self._kernel.find_cell(path)
        if cell is None or cell.serial != serial:
            cell = self._absent(path, serial)
            self._cells[serial] = cell
        return Pid(cell)

    def ref(self, path: str) -> Ref:
        """Return the ref of a place, whether anyone lives there or not."""
        cell = self._kernel.find_cell(path)
        return Ref(cell if cell is not None else self._absent(path, 0))

    # Cells that never lived, one for each part of the path.
    def _absent(self, path: str, serial: int) -> Cell:
        cell = self._kernel.root
        for part in path.split("/"):
            cell = Cell(self._kernel, Actor.__avm_behaviour__, cell, part, serial)
            cell.state = DEAD
            cell.quick = 0
            cell.reason = NoProc(f"{path} is not known here.")
        return cell
