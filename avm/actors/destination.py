"""Destinations: what an event may be sent to, and which actors that means now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from avm.actors.reasons import describe
from avm.actors.ref import Pid, Ref
from avm.errors import EventError, NoProc

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.kernel import Kernel


class Strategy(Protocol):
    """A destination that picks receivers when something is sent: the router's strategies."""

    def resolve(self, event: object, kernel: Kernel) -> tuple[Cell, ...]:
        """Return the cells that get this event; none is a dead letter, or NoProc for an ask."""


Destination = Ref | Pid | str | Strategy


def resolve(kernel: Kernel, dest: Destination) -> Cell | None:
    """Return the living actor a destination means now, None if there is none: name, then path, then unique id.

    Raises:
        EventError: it is no destination, or a strategy, which needs an event to choose by.
    """
    if isinstance(dest, Ref):
        return dest.reach()
    if isinstance(dest, Pid):
        return dest.cell if dest.cell.is_alive() else None
    if isinstance(dest, str):
        found = kernel.names.whereis(dest)
        if found is None:
            found = kernel.tree.find(dest)
        if found is None:
            found = kernel.tree.only(dest)
        return found
    raise _no_destination(dest)


def check_destination(dest: object) -> None:
    """Check that a value can be a destination.

    Raises:
        EventError: it cannot.
    """
    if not isinstance(dest, (Ref, Pid, str)) and not hasattr(dest, "resolve"):
        raise _no_destination(dest)


def receivers(kernel: Kernel, dest: Destination, event: object) -> tuple[Cell, ...]:
    """Return the actors that get an event.

    Raises:
        EventError: `dest` is no destination.
    """
    if isinstance(dest, (Ref, Pid, str)):
        target = resolve(kernel, dest)
        return (target,) if target is not None else ()
    if hasattr(dest, "resolve"):
        return tuple(dest.resolve(event, kernel))
    raise _no_destination(dest)


def last_at(kernel: Kernel, dest: Destination) -> Cell | None:
    """Return the living actor a destination means; for a pid or ref without one, the last that was there."""
    target = resolve(kernel, dest)
    if target is None and isinstance(dest, (Ref, Pid)):
        return dest.cell
    return target


def cell_of(kernel: Kernel, dest: Destination) -> Cell:
    """Return the actor a destination means; one that has ended only for its pid or ref.

    Raises:
        NoProc: no such name, path or id.
    """
    target = last_at(kernel, dest)
    if target is None:
        raise nobody(kernel, dest)
    return target


def nobody(kernel: Kernel, dest: object) -> NoProc:
    """Make the error for a destination that nobody is at."""
    if isinstance(dest, str):
        places = kernel.tree.with_id(dest)
        if places:
            paths = ", ".join(c.path for c in places)
            return NoProc(f"{dest!r} is the id of {len(places)} actors: {paths}. Use one of these paths.")
        return NoProc(f"nobody is registered as {dest!r}, and no actor has that path or id.")
    if isinstance(dest, Pid):
        return NoProc(f"{dest!r} has ended ({describe(dest.cell.reason)}).")
    if isinstance(dest, Ref):
        return NoProc(f"no actor lives at {dest.path} now.")
    return NoProc(f"{dest!r} has no receiver now.")


def text_of(dest: object) -> str:
    """Put a destination in words, for a dead letter."""
    if isinstance(dest, Pid):
        return repr(dest)
    return dest.path if isinstance(dest, Ref) else str(dest)


def _no_destination(dest: object) -> EventError:
    return EventError(f"a destination is a Ref, a Pid, a name, a path or a routing strategy; got {dest!r}.")
