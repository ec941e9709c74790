"""The start of an actor: its cell joins the tree, `__init__` runs at once, and `starting` in its first slice.

Whoever starts it waits until it is up (S23). If it does not come up, nothing of it is left (S24).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from avm.actors import alarms, links
from avm.actors.cell import Cell
from avm.actors.ending import discard, start_error
from avm.actors.reasons import reason_of
from avm.actors.ref import Ref
from avm.actors.signals import Timeout
from avm.actors.state import DEAD, RESTING, STARTING, STOPPING
from avm.actors.timers import check_seconds
from avm.actors.tree import check_id, vacant_id
from avm.errors import ActorDead, SpecError, StartError

if TYPE_CHECKING:
    from avm.actors.actor import Actor


async def start(
    parent: Cell,
    cls: type[Actor],
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    id: str | None = None,
    name: str | None = None,
    at: Ref | None = None,
    link: bool = False,
    monitor: bool = False,
    start_timeout: float | None = None,
    priority: str | None = None,
    max_mailbox: int | None = None,
) -> Ref:
    """Start a child of `parent` and wait until it is up; see `Actor.spawn`."""
    if start_timeout is not None:
        check_seconds(start_timeout, "start_timeout")
    cell = _make(parent, cls, id, at, priority, max_mailbox)
    _begin(cell, cls, args, kwargs, name)
    if link:
        links.join(parent, cell)
    if monitor:
        links.watch(parent, cell)
    if cell.behaviour.has_starting:
        await _started(cell, start_timeout)
    kernel = cell.kernel
    kernel.tree.up(cell)
    if at is not None:
        at.cell = cell
        kernel.restarts += 1
        return at
    return Ref(cell)


def _make(
    parent: Cell,
    cls: type[Actor],
    id: str | None,
    at: Ref | None,
    priority: str | None,
    max_mailbox: int | None,
) -> Cell:
    kernel = parent.kernel
    if parent.state >= STOPPING:
        end = "has ended" if parent.state == DEAD else "is stopping"
        raise ActorDead(f"{parent.pid_text} {end} and cannot start {getattr(cls, '__qualname__', cls)}.")
    behaviour = getattr(cls, "__avm_behaviour__", None)
    if behaviour is None or not isinstance(cls, type):
        raise SpecError(f"spawn takes a subclass of Actor, got {cls!r}.")
    if priority is not None or max_mailbox is not None:
        behaviour = behaviour.varied(priority, max_mailbox)
    kernel.started += 1
    serial = kernel.started
    place: str | int = serial
    if at is not None:
        place = vacant_id(parent, at)
    elif id is not None:
        check_id(parent, id)
        place = id
    cell = Cell(kernel, behaviour, parent, place, serial)
    kernel.tree.add(cell, parent)
    if behaviour.has_starting:
        cell.state = STARTING
        cell.extras().start = kernel.loop.create_future()
    return cell


# The object is made and `__init__` runs, as the new actor's code. An actor for which that fails never was.
def _begin(
    cell: Cell, cls: type[Actor], args: tuple[Any, ...], kwargs: dict[str, Any] | None, name: str | None
) -> None:
    if name is not None:
        _register(cell, name)
    kernel = cell.kernel
    outer, kernel.inside = kernel.inside, cell
    try:
        actor = cls.__new__(cls)
        actor._cell = cell
        cell.actor = actor
        if args or kwargs or cls.__init__ is not object.__init__:
            actor.__init__(*args, **(kwargs or {}))  # type: ignore[misc]
    except StartError as error:
        # Of one below: it goes up as it is.
        kernel.inside = outer
        _undone(cell, error)
        raise
    except BaseException as error:
        kernel.inside = outer
        raise _undone(cell, reason_of(kernel, error)) from error
    kernel.inside = outer
    if cell.alert and (cell.ending is not None or cell.state == DEAD):
        raise _undone(cell, cell.ending)
    if cell.behaviour.has_starting:
        cell.join_queue()
    elif cell.rest == RESTING and cell.state == RESTING:
        alarms.rest(cell)


# The error for a start that ended in `__init__`: it raised, stopped itself, or somebody ended it meanwhile.
def _undone(cell: Cell, reason: object) -> StartError:
    if cell.is_alive():
        discard(cell, reason)
    return start_error(cell, cell.reason)


def _register(cell: Cell, name: str) -> None:
    try:
        cell.kernel.names.register(name, cell)
    except BaseException as error:
        discard(cell, error)
        raise


async def _started(cell: Cell, timeout: float | None) -> None:
    start = cell.extras().start
    assert start is not None
    if timeout is not None:
        cell.kernel.deadlines.add(timeout, start, _too_late, cell)
    try:
        await start
    except BaseException:
        if cell.is_alive():
            cell.kill()
        raise


def _too_late(seconds: float, cell: Cell, _: object) -> StartError:
    return StartError(
        f"{cell.pid_text} did not start: starting() took more than {seconds:g} s (start_timeout).",
        Timeout(),
        (cell.path,),
    )
