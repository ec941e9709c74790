"""Names and groups. A name has one living holder (S78); a group has members, each as often as it joined (S82).

Both forget an actor at its end before anyone is told of it (S32), so neither ever gives out a dead one (S79).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING

import attrs

from avm.errors import NameTaken, NotJoined

if TYPE_CHECKING:
    from avm.actors.cell import Cell

_log = logging.getLogger("avm.kernel")


def _key(name: Hashable) -> tuple[type, Hashable]:
    # 1, 1.0 and True are three names.
    return (type(name), name)


class Names:
    """Who holds which name."""

    def __init__(self) -> None:
        self._holders: dict[tuple[type, Hashable], Cell] = {}
        self._names: dict[Cell, list[Hashable]] = {}

    def register(self, name: Hashable, cell: Cell) -> None:
        """Give a name to a living cell; a cell may hold several.

        Raises:
            NameTaken: someone alive holds it; nothing is changed.
        """
        holder = self._holders.get(_key(name))
        if holder is cell:
            return
        if holder is not None:
            raise NameTaken(
                f"name {name!r} is held by {holder.pid_text}; {cell.pid_text} cannot have it. "
                "Choose another name, or stop the holder first.",
                holder.pid,
            )
        if not cell.is_alive():
            raise NameTaken(f"{cell.pid_text} has ended and cannot be given the name {name!r}.", None)
        self._holders[_key(name)] = cell
        self._names.setdefault(cell, []).append(name)

    def unregister(self, name: Hashable) -> None:
        """Take a name back; nothing happens if nobody holds it."""
        cell = self._holders.pop(_key(name), None)
        if cell is not None:
            names = self._names[cell]
            names.remove(name)
            if not names:
                del self._names[cell]

    def whereis(self, name: Hashable) -> Cell | None:
        """Return the holder, None if there is none."""
        return self._holders.get(_key(name))

    def names_of(self, cell: Cell) -> tuple[Hashable, ...]:
        """Return the names a cell holds."""
        return tuple(self._names.get(cell, ()))

    def forget(self, cell: Cell) -> None:
        """The cell ended: free its names."""
        for name in self._names.pop(cell, ()):
            self._holders.pop(_key(name), None)

    def __iter__(self) -> Iterator[Hashable]:
        return iter([key[1] for key in self._holders])


@attrs.frozen(slots=True)
class GroupChange:
    """A membership began (`joined`) or ended."""

    group: str
    cell: Cell
    joined: bool


GroupWatcher = Callable[[GroupChange], None]


class Groups:
    """Who is in which group, in the order of joining."""

    def __init__(self) -> None:
        self._members: dict[str, list[Cell]] = {}
        self._groups: dict[Cell, list[str]] = {}
        self._watchers: dict[str, dict[int, GroupWatcher]] = {}
        self._next_watch = 0

    def join(self, group: str, cell: Cell) -> None:
        """Add one membership; n joins are n memberships."""
        self._members.setdefault(group, []).append(cell)
        self._groups.setdefault(cell, []).append(group)
        self._tell(GroupChange(group, cell, joined=True))

    def leave(self, group: str, cell: Cell) -> None:
        """Remove one membership.

        Raises:
            NotJoined: it has none.
        """
        members = self._members.get(group)
        if not members or cell not in members:
            raise NotJoined(f"{cell.pid_text} is not in group {group!r}; join it first.")
        self._remove(group, cell)
        groups = self._groups[cell]
        groups.remove(group)
        if not groups:
            del self._groups[cell]
        self._tell(GroupChange(group, cell, joined=False))

    def members(self, group: str) -> tuple[Cell, ...]:
        """Return the members now, once for each membership; a snapshot (S83)."""
        return tuple(self._members.get(group, ()))

    def groups(self) -> tuple[str, ...]:
        """Return the groups that have members; an empty group does not exist (S82)."""
        return tuple(self._members)

    def groups_of(self, cell: Cell) -> tuple[str, ...]:
        """Return the groups of a cell, once for each membership."""
        return tuple(self._groups.get(cell, ()))

    def watch(self, group: str, watcher: GroupWatcher) -> tuple[int, tuple[Cell, ...]]:
        """Be called at every later change of a group; return the number of the watch and the members now (S84)."""
        self._next_watch += 1
        self._watchers.setdefault(group, {})[self._next_watch] = watcher
        return self._next_watch, self.members(group)

    def unwatch(self, group: str, number: int) -> None:
        """End a watch; nothing happens if there is none."""
        watchers = self._watchers.get(group)
        if watchers is not None:
            watchers.pop(number, None)
            if not watchers:
                del self._watchers[group]

    def forget(self, cell: Cell) -> None:
        """The cell ended: end its memberships."""
        for group in self._groups.pop(cell, ()):
            self._remove(group, cell)
            self._tell(GroupChange(group, cell, joined=False))

    def _remove(self, group: str, cell: Cell) -> None:
        members = self._members[group]
        members.remove(cell)
        if not members:
            del self._members[group]

    def _tell(self, change: GroupChange) -> None:
        watchers = self._watchers.get(change.group)
        if watchers:
            for number, watcher in list(watchers.items()):
                try:
                    watcher(change)
                except BaseException as error:
                    # Somebody's end may be under way; nothing of another may get into that (S32, S99).
                    self.unwatch(change.group, number)
                    _log.error(
                        "watcher %r of group %r failed and was removed", number, change.group, exc_info=error
                    )
