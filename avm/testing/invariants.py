"""What must hold in a VM whenever nobody is in the middle of something; each breach in one line of text.

`breaches(kernel)` looks at the kernel's own tables: addresses, names, groups, links, monitors, asks and bytes.
`Order` follows a trace and finds an event that overtook an earlier one of the same sender (S1). Both are for tests of
avm and of what is built on it; they read what no program may read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from avm.actors.cell import Cell
from avm.actors.kernel import Kernel
from avm.memory import Store
from avm.testing.trace import Entry, Trace, reason


def breaches(kernel: Kernel) -> list[str]:
    """Return what does not hold now, sorted; nothing is what there should be.

    Call it when nothing is left to do at this moment, as between two calls of a simulation.
    """
    cells = [kernel.root, *kernel.cells()]
    store = kernel.services.get("store")
    found = [
        *_tree(kernel, cells),
        *_addresses(kernel),
        *_links(cells),
        *_asks(kernel, cells),
        *_bytes(cells, store if isinstance(store, Store) else None),
    ]
    return sorted(found)


def _tree(kernel: Kernel, cells: list[Cell]) -> Iterator[str]:
    seen: set[Cell] = set()
    for cell in cells:
        if cell in seen:
            yield f"{cell.pid_text} is in the tree twice"
        seen.add(cell)
        for place, child in (cell.children or {}).items():
            if not child.is_alive():
                yield f"{child.pid_text} has ended and still has its place below {cell.pid_text} (S32)"
            elif child.parent is not cell or child.id != place:
                yield f"{child.pid_text} is kept at a place that is not its own, {place!r} below {cell.pid_text}"
    if (counted := kernel.statistics().actors) != len(cells) - 1:
        yield f"{counted} actors are counted, and {len(cells) - 1} live"
    for orphan in kernel.tree.orphans:
        if orphan.parent is not None and orphan.parent.is_alive():
            yield f"{orphan.pid_text} counts as left over, and its parent lives"


def _addresses(kernel: Kernel) -> Iterator[str]:
    holders: dict[Any, Cell] = {}
    for name in kernel.names:
        holder = kernel.names.whereis(name)
        if holder is None or not holder.is_alive():
            who = holder.pid_text if holder is not None else "nobody"
            yield f"the name {name!r} is held by {who}, who has ended (S79)"
        elif name not in kernel.names.names_of(holder):
            yield f"{holder.pid_text} does not know that it holds the name {name!r} (S78)"
        else:
            holders[name] = holder
    for cell in kernel.cells():
        for name in kernel.names.names_of(cell):
            if holders.get(name) is not cell:
                yield f"{cell.pid_text} believes it holds the name {name!r}, and {holders.get(name)} does (S78)"
    for group in kernel.groups.groups():
        members = kernel.groups.members(group)
        if not members:
            yield f"the group {group!r} is kept, and nobody is in it (S82)"
        for member in members:
            if not member.is_alive():
                yield f"{member.pid_text} has ended and is in the group {group!r} (S82)"
            elif members.count(member) != kernel.groups.groups_of(member).count(group):
                yield f"{member.pid_text} is in {group!r} more or less often than it joined (S82)"


def _links(cells: Iterable[Cell]) -> Iterator[str]:
    for cell in cells:
        for peer in cell.links or ():
            if not peer.is_alive():
                yield f"{cell.pid_text} is linked with {peer.pid_text}, who has ended (S38)"
            elif cell not in (peer.links or ()):
                yield f"{cell.pid_text} is linked with {peer.pid_text}, and not the other way round (S41)"
        for number, target in (cell.monitors or {}).items():
            if not target.is_alive():
                yield f"{cell.pid_text} watches {target.pid_text}, who has ended (S46)"
            elif (target.watchers or {}).get(number, (None,))[0] is not cell:
                yield f"{cell.pid_text} watches {target.pid_text}, which does not know it (S46)"
        for number, (watcher, _) in (cell.watchers or {}).items():
            if watcher.is_alive() and number not in (watcher.monitors or {}):
                yield f"{watcher.pid_text} would get a Down of {cell.pid_text} that it does not wait for (S48)"


def _asks(kernel: Kernel, cells: Iterable[Cell]) -> Iterator[str]:
    for cell in cells:
        more = cell.more
        waits = [cell.asking] if cell.asking is not None else []
        waits += more.asking if more is not None else []
        for target in waits:
            if not target.is_alive():
                yield (
                    f"{cell.pid_text} waits for a reply of {target.pid_text}, who has ended "
                    f"({reason(target.reason)}): a lost ask (S14)"
                )
            elif kernel.state_of(target) == "idle" and not target.length() and not _owes(target):
                yield f"{cell.pid_text} waits for a reply of {target.pid_text}, who has nothing to do: a lost ask (S13)"


def _owes(cell: Cell) -> bool:
    more = cell.more
    return more is not None and bool(more.owed or more.tasks or more.last_reply)


def _bytes(cells: Iterable[Cell], store: Store | None) -> Iterator[str]:
    for cell in cells:
        more = cell.more
        if more is not None and (more.mail_bytes < 0 or more.state_bytes < 0):
            yield f"{cell.pid_text} is charged with less than nothing: {more.mail_bytes} and {more.state_bytes} (S12)"
    if store is None:
        return
    counts = store.statistics()
    for name in ("held_bytes", "unique_bytes", "stored_bytes", "account_bytes", "conversations"):
        if (value := getattr(counts, name)) < 0:
            yield f"the store's account is below nothing: {name} is {value}"
    for kind in ("blobs", "pages", "tails"):
        for tier, value in getattr(counts, kind).items():
            if value < 0:
                yield f"the store's account is below nothing: {kind} {tier} is {value}"


class Order:
    """Follows a trace: what one actor sent to a place is handled there in the order in which it was sent (S1).

    Left out are receivers with urgent events, and events that were put aside with `postpone`: those may be overtaken.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._seen = 0
        self._sent: dict[tuple[str, Cell | None], deque[object]] = {}
        self._overtaken: dict[tuple[str, Cell | None], list[tuple[object, object]]] = {}
        # By the identity of the event, which is kept, so that no other gets it.
        self._handled: dict[tuple[Cell, int], object] = {}

    def breaches(self) -> list[str]:
        """Look at what is new in the trace."""
        found = []
        new = self._trace.count - self._seen
        self._seen = self._trace.count
        for entry in list(self._trace)[-new:] if new else ():
            if entry.kind == "send":
                self._sent.setdefault((entry.path, entry.peer), deque()).append(entry.what)
            elif (
                entry.kind == "handle" and isinstance(entry.actor, Cell) and not entry.actor.behaviour.urgent
            ):
                found += self._handle(entry, entry.actor)
        return found

    def _handle(self, entry: Entry, actor: Cell) -> list[str]:
        event, key = entry.what, (actor.path, entry.peer)
        if (actor, id(event)) in self._handled:
            return []
        self._handled[actor, id(event)] = event
        for late, first in self._overtaken.get(key, ()):
            if late is event:
                sender = entry.peer.pid_text if entry.peer is not None else "the test"
                return [
                    f"{actor.pid_text} handled {type(first).__name__} before {type(event).__name__}, which {sender} "
                    "had sent before it (S1)"
                ]
        waiting = self._sent.get(key, deque())
        if not any(each is event for each in waiting):
            return []
        overtaken = self._overtaken.setdefault(key, [])
        while (each := waiting.popleft()) is not event:
            overtaken.append((each, event))
        return []


__all__ = ["Order", "breaches"]
