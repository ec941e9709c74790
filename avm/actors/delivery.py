"""The way of an event from who sends it to a mailbox: sealed, resolved, shown to taps, delivered.

`Actor.tell` has a quicker way for the common case, a ref or pid of an idle actor; all else comes here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from avm.actors import limits
from avm.actors.dead_letters import undelivered
from avm.actors.destination import receivers, resolve, text_of
from avm.actors.event import ATOMS, Handles, is_event, seal, seal_event
from avm.actors.ref import Pid, Ref
from avm.actors.state import DEAD
from avm.errors import ActorDead, EventError

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.destination import Destination
    from avm.actors.kernel import Kernel

"""What keeps the large bodies of an event in the store."""

Tap = Callable[[str, "Cell | None", object], None]
"""Sees all that is sent: path of the receiver, sender, event."""


def send(
    kernel: Kernel, sender: Cell | None, dest: Destination, event: object, *, urgent: bool = False
) -> None:
    """Send by the general way, from any thread; never fails for a missing receiver (S3).

    Raises:
        ActorDead: the sender has ended (S94). PackError, EventError: it is nothing that can be sent (S4).
    """
    if sender is not None and sender.state == DEAD:
        raise ActorDead(f"{sender.pid_text} has ended; its handler may not send any more.")
    sealed, handles = seal_message(kernel, event)
    if threading.get_ident() != kernel.thread:
        kernel.loop.call_soon_threadsafe(deliver, kernel, sender, dest, sealed, handles, urgent)
    else:
        deliver(kernel, sender, dest, sealed, handles, urgent)


def seal_message(kernel: Kernel, event: object) -> tuple[object, Handles | None]:
    """Make an event safe to hand to another actor; see `event.seal`.

    Raises:
        PackError: something in it cannot leave its sender. EventError: it is no event.
    """
    if is_event(event):
        if event.__avm_plain__():  # type: ignore[attr-defined]
            return event, None
        return seal_event(event, kernel.put)
    if type(event) in ATOMS:
        return seal(event, kernel.put)
    if isinstance(event, type) and "__avm_tag__" in vars(event):
        raise EventError(
            f"{event.__name__} is the class of an event; send an instance: {event.__name__}(...)."
        )
    raise EventError(
        f"{type(event).__module__}.{type(event).__qualname__} is not an event; mark the class with @event, "
        "or send a plain value such as a str."
    )


def deliver(
    kernel: Kernel,
    sender: Cell | None,
    dest: Destination,
    sealed: object,
    handles: Handles | None,
    urgent: bool = False,
) -> None:
    """Put a sealed event in the mailboxes of whoever is meant; nobody is a dead letter."""
    targets = receivers(kernel, dest, sealed)
    letter = (sealed, sender, None, handles)
    for target in targets:
        if kernel.taps:
            show(kernel, target, sender, sealed)
        if urgent and target.behaviour.urgent:
            target.overtake(letter)
        else:
            target.receive(letter)
    if not targets:
        undelivered(kernel, "dead" if isinstance(dest, (Ref, Pid)) else "nobody", text_of(dest), letter)


def publish(kernel: Kernel, sender: Cell | None, group: str, event: object) -> int:
    """Send to the audience of a group or topic now, once for each membership; sealed once (S83).

    Returns:
        How many copies were sent.
    """
    sealed, handles = seal_message(kernel, event)
    members = kernel.audience(group)
    letter = (sealed, sender, None, handles)
    for member in members:
        if kernel.taps:
            show(kernel, member, sender, sealed)
        member.receive(letter)
    return len(members)


async def tell_wait(kernel: Kernel, sender: Cell | None, dest: Destination, event: object) -> None:
    """Send, first waiting for room where the policy of the receiver is "block" (S10)."""
    target = resolve(kernel, dest) if isinstance(dest, (Ref, Pid, str)) else None
    if target is not None and target.behaviour.overflow == "block":
        await limits.room(target)
    send(kernel, sender, dest, event)


# Taps. While there are any, no actor takes the quick way.


def tap(kernel: Kernel, tap: Tap) -> None:
    """Show everything that is sent from now on."""
    kernel.taps.append(tap)
    _set_quick(kernel, 0)


def untap(kernel: Kernel, tap: Tap) -> None:
    """End a tap; nothing happens if it is none."""
    if tap in kernel.taps:
        kernel.taps.remove(tap)
    if not kernel.taps:
        _set_quick(kernel, kernel.thread)


def show(kernel: Kernel, target: Cell, sender: Cell | None, event: object) -> None:
    """Show an event to all taps; one that raises is removed."""
    for tap in list(kernel.taps):
        try:
            tap(target.path, sender, event)
        except Exception as error:
            untap(kernel, tap)
            kernel.log(f"tap {tap!r} failed and was removed", error)


def _set_quick(kernel: Kernel, quick: int) -> None:
    kernel.quick = quick
    for cell in kernel.tree:
        cell.quick = quick
