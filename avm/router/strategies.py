"""Strategies: destinations that pick receivers when something is sent, over a group or a list of actors.

    self.tell(broadcast("critics"), Draft(text))
    review = await self.ask(least_loaded("critics"), Draft(text))

The members of a group are those of the moment of sending; in a list, those that live. Without any, an ask fails with
NoProc and a tell is a dead letter. A strategy may be kept and shared; `round_robin` remembers whose turn it is.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Hashable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from avm.actors.ref import Pid, Ref
from avm.errors import EventError, SpecError
from avm.memory.digest import Digest

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.kernel import Kernel

Members = str | Iterable[Ref | Pid | str]
"""The name of a group, or refs, pids, registered names and paths."""


class Broadcast:
    """All members get it, once for each membership."""

    def __init__(self, members: Members) -> None:
        self._group = members if isinstance(members, str) else None
        self._list = () if isinstance(members, str) else tuple(members)
        for member in self._list:
            if not isinstance(member, (Ref, Pid, str)):
                raise SpecError(
                    f"members are refs, pids, names or paths, or one group by its name; got {member!r}."
                )

    def resolve(self, event: object, kernel: Kernel) -> tuple[Cell, ...]:
        """Return the cells that get this event."""
        return self.living(kernel)

    def living(self, kernel: Kernel) -> tuple[Cell, ...]:
        """Return the members that live now."""
        if self._group is not None:
            return kernel.groups.members(self._group)
        found = (kernel.resolve(member) for member in self._list)
        return tuple(cell for cell in found if cell is not None)

    def __repr__(self) -> str:
        words = "".join(f"_{c.lower()}" if c.isupper() else c for c in type(self).__name__).lstrip("_")
        return f"{words}({list(self._list) if self._group is None else self._group!r})"


class RoundRobin(Broadcast):
    """One after the other."""

    def __init__(self, members: Members) -> None:
        super().__init__(members)
        self._turn = 0

    def resolve(self, event: object, kernel: Kernel) -> tuple[Cell, ...]:
        cells = self.living(kernel)
        if not cells:
            return ()
        turn = self._turn % len(cells)
        self._turn = turn + 1
        return (cells[turn],)


class LeastLoaded(RoundRobin):
    """Whoever has the fewest events waiting or being handled; among equals one after the other."""

    def resolve(self, event: object, kernel: Kernel) -> tuple[Cell, ...]:
        cells = self.living(kernel)
        if not cells:
            return ()
        turn = self._turn % len(cells)
        best = turn
        least = -1
        for n in range(turn, turn + len(cells)):
            load = load_of(cells[n % len(cells)])
            if least < 0 or load < least:
                best, least = n % len(cells), load
                if load == 0:
                    break
        self._turn = best + 1
        return (cells[best],)


def load_of(cell: Cell) -> int:
    """Count the events an actor has before it, the one it handles included."""
    return cell.length() + (cell.current is not None)


class ByKey(Broadcast):
    """Equal keys go to the same member.

    In a list the key decides the place in the list, and a place whose actor is gone is not replaced by another (S85).
    In a group the key decides among the paths of the members: one that leaves gives up its own keys only, and gets
    them back when it joins again at the same path.
    """

    def __init__(self, members: Members, key: Callable[[Any], Hashable]) -> None:
        super().__init__(members)
        self._key = key
        self._marks: weakref.WeakKeyDictionary[Cell, int] = weakref.WeakKeyDictionary()

    def resolve(self, event: object, kernel: Kernel) -> tuple[Cell, ...]:
        if self._group is None:
            if not self._list:
                return ()
            cell = kernel.resolve(self._list[self._number(event) % len(self._list)])
            return () if cell is None else (cell,)
        cells = kernel.groups.members(self._group)
        if len(cells) < 2:
            return cells
        number = self._number(event)
        return (max(cells, key=lambda cell: _mix(number ^ self._mark(cell))),)

    def _number(self, event: object) -> int:
        key = self._key(event)
        try:
            return stable_hash(key)
        except TypeError:
            name = type(event).__name__
            raise EventError(
                f"{self!r}: the key of {name} is {key!r}; return text, bytes, a whole number, a digest, "
                "or a tuple of these."
            ) from None

    def _mark(self, cell: Cell) -> int:
        mark = self._marks.get(cell)
        if mark is None:
            mark = self._marks[cell] = stable_hash(cell.path)
        return mark


def broadcast(members: Members) -> Broadcast:
    """Send to all members; only for tell."""
    return Broadcast(members)


def round_robin(members: Members) -> RoundRobin:
    """Send to one member after the other."""
    return RoundRobin(members)


def least_loaded(members: Members) -> LeastLoaded:
    """Send to the member that has the fewest events before it."""
    return LeastLoaded(members)


def by_key(members: Members, key: Callable[[Any], Hashable]) -> ByKey:
    """Send equal keys to the same member.

    Args:
        key: takes the event; returns text, bytes, a whole number, a digest, or a tuple of these.
    """
    return ByKey(members, key)


def partitions(path: str, count: int) -> tuple[str, ...]:
    """Return the paths of `count` supervised children with the ids "0", "1" ..., as members for `by_key` (S85)."""
    if type(count) is not int or count < 1:
        raise SpecError(f"partitions of {path!r}: count must be a whole number of 1 or more, got {count!r}.")
    return tuple(f"{path}/{n}" for n in range(count))


def stable_hash(key: object) -> int:
    """Return a 64-bit number that is the same for equal keys in every process and every version.

    Raises:
        TypeError: of such a key no lasting form is known.
    """
    return int.from_bytes(hashlib.blake2b(_form(key), digest_size=8).digest(), "big")


def _form(key: object) -> bytes:
    if isinstance(key, Enum):
        key = key.name
    kind = type(key)
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return b"b" + key
    if isinstance(key, int) or key is None:
        return b"i" + repr(key).encode()
    if isinstance(key, (Digest, UUID)):
        return kind.__name__.encode() + key.bytes
    if isinstance(key, (Ref, Pid)):
        return b"r" + key.path.encode() + (b"" if isinstance(key, Ref) else b"#%d" % key.serial)
    if isinstance(key, tuple):
        forms = [_form(k) for k in key]
        return b"t" + b"".join(b"%d:" % len(form) + form for form in forms)
    raise TypeError(f"{kind.__qualname__} cannot be a key")


# The finaliser of splitmix64: spreads a difference in any bit over all of them.
def _mix(number: int) -> int:
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return number ^ (number >> 31)
