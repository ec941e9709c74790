"""Addresses. A `Ref` reaches an actor by its place in the tree and survives restarts; a `Pid` is one incarnation.

Both are values: hashable, printable, allowed in events. Both keep the cell they last reached, so that a send costs
no look-up; a Ref whose cell has ended finds the present one by its path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from avm.actors.event import ATOMS, Request

if TYPE_CHECKING:
    from avm.actors.cell import Cell

R = TypeVar("R")

DEFAULT_TIMEOUT = float("-inf")
"""Stands, by identity, for the ask timeout of the VM (60 s unless told otherwise)."""


class Pid:
    """One incarnation of an actor; never used again in the life of the VM. Prints as `critic#7`."""

    __slots__ = ("cell",)

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    @property
    def serial(self) -> int:
        """The number of this incarnation, counted from 1 in each VM."""
        return self.cell.serial

    @property
    def path(self) -> str:
        """Where it lives or lived."""
        return self.cell.path

    @property
    def ref(self) -> Ref:
        """The place of this incarnation, which its successors also have."""
        return Ref(self.cell)

    def is_alive(self) -> bool:
        """Tell whether this incarnation lives."""
        return self.cell.is_alive()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pid) and other.cell is self.cell

    def __hash__(self) -> int:
        return hash(self.cell)

    def __repr__(self) -> str:
        return f"{self.cell.id_text}#{self.cell.serial}"


class Ref:
    """The place of an actor. Two refs are equal if their VM and path are."""

    __slots__ = ("cell",)

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    @property
    def path(self) -> str:
        """The place in the tree, as `newsroom/critic`."""
        return self.cell.path

    @property
    def id(self) -> str:
        """The last part of the path."""
        return self.cell.id_text

    @property
    def pid(self) -> Pid | None:
        """The incarnation that lives there now, None if there is none."""
        cell = self.reach()
        return Pid(cell) if cell is not None else None

    @property
    def last_pid(self) -> Pid:
        """The incarnation this ref last reached, dead or alive."""
        return Pid(self.cell)

    def reach(self) -> Cell | None:
        """Return the living cell at this place, None if there is none."""
        cell = self.cell
        if cell.is_alive():
            return cell
        parent = cell.parent
        if parent is not None and parent.is_alive():
            found = parent.children.get(cell.id) if parent.children is not None else None
        else:
            found = cell.kernel.find_cell(cell.path)
        if found is not None:
            self.cell = found
        return found

    def is_alive(self) -> bool:
        """Tell whether an actor lives at this place now."""
        return self.reach() is not None

    def tell(self, event: object) -> None:
        """Send an event from outside any actor, from any thread; never waits or fails for want of a receiver (S3)."""
        self.cell.kernel.tell(self, event)

    @overload
    async def ask(self, request: Request[R], timeout: float | None = ...) -> R: ...
    @overload
    async def ask(self, request: object, timeout: float | None = ...) -> Any: ...

    async def ask(self, request: Any, timeout: float | None = DEFAULT_TIMEOUT) -> Any:
        """Send a request and wait for its reply; see `Actor.ask`."""
        return await self.cell.kernel.ask(self, request, timeout)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ref):
            return False
        return other.cell is self.cell or (
            other.cell.kernel is self.cell.kernel and other.cell.path == self.cell.path
        )

    def __hash__(self) -> int:
        return hash(self.cell.path)

    def __repr__(self) -> str:
        return f"<Ref {self.cell.path}>"


ATOMS.update((Ref, Pid))
