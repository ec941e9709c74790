"""What a VM looks like at one moment, as frozen values. Observers, the status line and `avm top` only
render these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import attrs

from avm.actors.cell import Cell
from avm.actors.kernel import Kernel, KernelStatistics
from avm.actors.signals import WaitReason
from avm.io.request import PoolStatistics
from avm.memory import StoreStatistics
from avm.router import RouterStatistics


@attrs.frozen(slots=True)
class ActorStatus:
    """One actor, and those below it in the order of their start.

    Attributes:
        state: starting, idle, ready, running, waiting, suspended, stopping.
        waiting: what its handler waits for; None if it does not. `waited` is for how many seconds, None if
            not known.
        mailbox: events that wait.
        handled: events handled by this incarnation; uptime: its age in seconds.
        below: how many actors there are below it, listed in `children` or not.
    """

    id: str
    path: str
    pid: str
    actor_class: str
    state: str
    waiting: WaitReason | None
    waited: float | None
    mailbox: int
    handled: int
    uptime: float
    below: int = 0
    children: tuple[ActorStatus, ...] = ()

    def walk(self) -> Iterator[ActorStatus]:
        """Go through this actor and all below it, parents first."""
        pending = [self]
        while pending:
            node = pending.pop()
            yield node
            pending.extend(reversed(node.children))

    def __str__(self) -> str:
        what = f" for {self.waiting}" if self.waiting is not None else ""
        queued = f", {self.mailbox} queued" if self.mailbox else ""
        hidden = self.below - sum(child.below + 1 for child in self.children)
        more = f", {hidden} more below" if hidden else ""
        return f"{self.pid} {self.actor_class} {self.state}{what}{queued}{more}"


@attrs.frozen(slots=True)
class VMStatus:
    """A whole VM at one moment.

    Attributes:
        uptime: seconds since it started, on its clock.
        actors: alive, the VM's own included.
        active: inside a handler that does not wait, or ready for one. waiting: inside handlers that wait,
            by what for.
        mailbox: events that wait, in all mailboxes; deepest: in the fullest.
        restarts: since the start. dead_letters: by reason.
        tree: the user's tree, the VM's own, and what was spawned beside them.
        store, io, router, kernel: statistics of the parts; `store` is None without one, `io` while its front restarts.
    """

    uptime: float
    actors: int
    active: int
    waiting: Mapping[str, int]
    mailbox: int
    deepest: int
    restarts: int
    dead_letters: Mapping[str, int]
    tree: tuple[ActorStatus, ...]
    store: StoreStatistics | None
    io: PoolStatistics | None
    router: RouterStatistics
    kernel: KernelStatistics

    def walk(self) -> Iterator[ActorStatus]:
        """Go through all actors that are listed, parents first."""
        for node in self.tree:
            yield from node.walk()

    def __str__(self) -> str:
        lines = [f"{self.actors} actors, up {self.uptime:.1f} s, {self.restarts} restarts"]
        for node in self.tree:
            lines.extend(_draw(node))
        return "\n".join(lines)


def tree_status(kernel: Kernel, depth: int | None = None) -> tuple[ActorStatus, ...]:
    """Look at all actors of a kernel, without recursion: a chain of a hundred thousand is a tree too.

    Args:
        depth: how many levels are listed; what is deeper is only counted in `below`. None lists all.
    """
    if depth == 0:
        return ()
    made: dict[Cell, ActorStatus] = {}
    top = _children(kernel.root)
    for cell, level, path in reversed(_by_level(top)):
        below = [made.pop(child) for child in _children(cell) if child in made]
        count = sum(node.below + 1 for node in below)
        listed = tuple(below) if depth is None or level < depth else ()
        made[cell] = _actor_status(kernel, cell, path, listed, count)
    return tuple(made[cell] for cell in top)


@attrs.frozen(slots=True)
class Activity:
    """What all actors do, without their names. Cheap enough for every second with 100,000 actors."""

    active: int
    waiting: Mapping[str, int]
    mailbox: int
    deepest: int


def activity(kernel: Kernel) -> Activity:
    """Count what the actors of a kernel do."""
    active = mailbox = deepest = 0
    waiting: Counter[str] = Counter()
    for cell in kernel.cells():
        wait = kernel.wait_of(cell)
        if wait is not None:
            waiting[type(wait[0]).__name__] += 1
        elif kernel.state_of(cell) in ("ready", "running", "starting", "stopping"):
            active += 1
        length = cell.length()
        mailbox += length
        deepest = max(deepest, length)
    return Activity(active, dict(waiting), mailbox, deepest)


def _children(cell: Cell) -> list[Cell]:
    return list((cell.children or {}).values())


# Cells with their level and path, parents before children. A path made from the parent's costs no climb to the root.
def _by_level(top: Iterable[Cell]) -> list[tuple[Cell, int, str]]:
    found = [(cell, 1, cell.id_text) for cell in top]
    for cell, level, path in found:
        found.extend((child, level + 1, f"{path}/{child.id_text}") for child in _children(cell))
    return found


def _actor_status(
    kernel: Kernel, cell: Cell, path: str, children: tuple[ActorStatus, ...], below: int
) -> ActorStatus:
    now = kernel.now()
    wait = kernel.wait_of(cell)
    since = wait[1] if wait is not None else None
    return ActorStatus(
        id=cell.id_text,
        path=path,
        pid=cell.pid_text,
        actor_class=cell.behaviour.cls.__qualname__,
        state=kernel.state_of(cell),
        waiting=wait[0] if wait is not None else None,
        waited=now - since if since is not None else None,
        mailbox=cell.length(),
        handled=cell.handled,
        uptime=now - cell.born,
        below=below,
        children=children,
    )


def _draw(top: ActorStatus) -> Iterator[str]:
    pending: list[tuple[ActorStatus, str, str]] = [(top, "", "")]
    while pending:
        node, first, rest = pending.pop()
        yield f"{first}{node}"
        for child in reversed(node.children):
            last = child is node.children[-1]
            mark, bar = ("└── ", "    ") if last else ("├── ", "│   ")
            pending.append((child, rest + mark, rest + bar))
