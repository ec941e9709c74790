"""The tree of actors: who lives at which path, who has which id, and how many there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from avm.errors import SpecError

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.ref import Ref


class Tree:
    """All living actors of a kernel below its root. The children of each are kept on its cell."""

    def __init__(self, root: Cell) -> None:
        self.root = root
        self.alive = 0
        # Actors that still end although their parent is gone; nobody else reaches them from the root.
        self.orphans: dict[Cell, None] = {}
        self._by_id: dict[str, dict[Cell, None]] = {}

    def add(self, cell: Cell, parent: Cell) -> None:
        """Put an actor below its parent."""
        children = parent.children
        if children is None:
            children = parent.children = {}
        id = cell.id
        children[id] = cell
        self.alive += 1
        if type(id) is str:
            self._by_id.setdefault(id, {})[cell] = None

    def up(self, cell: Cell) -> None:
        """An actor has started; for those who look on."""

    def forget(self, cell: Cell) -> None:
        """An actor has ended, or did not start: free its place."""
        self.alive -= 1
        if self.orphans:
            self.orphans.pop(cell, None)
        parent, id = cell.parent, cell.id
        if parent is not None and parent.children is not None and parent.children.get(id) is cell:
            del parent.children[id]
        if type(id) is str:
            places = self._by_id.get(id)
            if places is not None and places.pop(cell, cell) is None and not places:
                del self._by_id[id]

    def find(self, path: str) -> Cell | None:
        """Return the living actor at a path, None if there is none."""
        cell = self.root
        for part in path.split("/"):
            found = _child(cell, part)
            if found is None:
                return None
            cell = found
        return cell

    def with_id(self, id: str) -> list[Cell]:
        """Return the living actors whose id is `id`, wherever they are."""
        return list(self._by_id.get(id, ()))

    def only(self, id: str) -> Cell | None:
        """Return the one living actor with an id; None if there is none, or more than one."""
        places = self._by_id.get(id)
        return next(iter(places)) if places is not None and len(places) == 1 else None

    def __iter__(self) -> Iterator[Cell]:
        """Go through all, parents before children, those first whose parent is gone."""
        pending = [*self.orphans, *(self.root.children or {}).values()]
        while pending:
            cell = pending.pop()
            yield cell
            if cell.children:
                pending.extend(cell.children.values())

    def __len__(self) -> int:
        return self.alive


# The id is one that was given, or a class and a number that stand for the number.
def _child(parent: Cell, part: str) -> Cell | None:
    children = parent.children
    if not children:
        return None
    found = children.get(part)
    if found is None:
        head, _, number = part.rpartition("-")
        found = children.get(int(number)) if head and number.isdigit() else None
        if found is None or found.id_text != part:
            return None
    return found


def check_id(parent: Cell, id: str) -> None:
    """Check the id of a child to be.

    Raises:
        SpecError: it is no id, or a living child has it.
    """
    if not isinstance(id, str) or not id or "/" in id:
        raise SpecError(f"the id of an actor must be a non-empty text without '/', got {id!r}.")
    if parent.children is not None and id in parent.children:
        holder = parent.children[id]
        raise SpecError(
            f"{parent.path or 'the root'} has a child {id!r} already: {holder.pid_text}. Choose another id."
        )


def vacant_id(parent: Cell, place: Ref) -> str | int:
    """Return the id of a place below an actor whose last incarnation has ended.

    Raises:
        SpecError: it is the place of someone else's child, or somebody lives there or is just starting.
    """
    old = place.cell
    if old.parent is not parent:
        raise SpecError(f"{place!r} is not a place of a child of {parent.path or 'the root'}.")
    holder = old if old.is_alive() else (parent.children or {}).get(old.id)
    if holder is not None:
        raise SpecError(f"{holder.pid_text} lives; only the place of an actor that has ended can be filled.")
    return old.id
