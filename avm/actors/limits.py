"""Limits: what a mailbox does with an event it has no room for (S10), high and low water (S11), max_bytes (S12)."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import TYPE_CHECKING, Literal, get_args

import attrs

from avm.actors.dead_letters import undelivered
from avm.actors.event import is_event
from avm.actors.hooks import LimitReport, MailboxWater
from avm.actors.signals import Down, Exit
from avm.errors import MailboxFull

if TYPE_CHECKING:
    from avm.actors.cell import Cell, Letter

Overflow = Literal["reject", "drop_oldest", "drop_newest", "block", "kill"]
OVERFLOWS: tuple[str, ...] = get_args(Overflow)


def admit(cell: Cell, letter: Letter) -> bool:
    """Decide on an event for a bounded mailbox; false if it was refused or the actor ended of it.

    A Down is a signal that waits its turn (S50): it is neither counted nor refused, nor dropped (S10).
    """
    if letter[0].__class__ is Down:
        cell.extras().downs += 1
        return True
    kernel, limit = cell.kernel, cell.limit
    if cell.behaviour.max_bytes is not None and not _has_memory(cell, letter):
        return False
    found = cell.length() - _signals(cell)
    if limit is None or found < limit:
        return True
    policy = cell.behaviour.overflow
    if policy == "drop_oldest":
        _drop_oldest(cell)
        return True
    if policy == "kill":
        kernel.report_limit(
            lambda at: LimitReport(at=at, path=cell.path, limit="max_mailbox", found=found + 1, allowed=limit)
        )
        undelivered(kernel, "mailbox_full", cell.pid_text, letter)
        cell.kill()
        return False
    reply = letter[2]
    if reply is not None and not reply.done():
        reply.set_exception(full(cell))
    undelivered(kernel, "mailbox_full", cell.pid_text, letter)
    return False


# How many of those that wait are signals. Looked at only where there may be some.
def _signals(cell: Cell) -> int:
    more = cell.more
    if not cell.lane and (more is None or not more.downs):
        return 0
    kinds = [letter[0].__class__ for letter in cell.letters()]
    downs = cell.extras().downs = kinds.count(Down)
    return downs + kinds.count(Exit)


# S12: what waits and what the actor says it keeps, in bytes. Measured at each arrival, and at each rest for the state.
def _has_memory(cell: Cell, letter: Letter) -> bool:
    more = cell.extras()
    more.mail_bytes += footprint(letter[0])
    return not _is_too_large(cell, letter)


def measure_state(cell: Cell) -> None:
    """The mailbox is empty and the actor rests: measure what it keeps (S12)."""
    more = cell.extras()
    more.mail_bytes = 0
    more.state_bytes = footprint(getattr(cell.actor, "__dict__", None))
    _is_too_large(cell, None)


def _is_too_large(cell: Cell, letter: Letter | None) -> bool:
    more, allowed = cell.extras(), cell.behaviour.max_bytes
    found = more.mail_bytes + more.state_bytes
    if allowed is None or found <= allowed:
        more.over_bytes = False
        return False
    if not more.over_bytes:
        more.over_bytes = True
        cell.kernel.report_limit(
            lambda at: LimitReport(at=at, path=cell.path, limit="max_bytes", found=found, allowed=allowed)
        )
    if cell.behaviour.over_bytes == "report":
        return False
    if letter is not None:
        undelivered(cell.kernel, "no_memory", cell.pid_text, letter)
    cell.kill()
    return True


def footprint(value: object) -> int:
    """Add up the bytes of a value and of what it holds, each object once; foreign objects count alone."""
    total = 0
    seen: set[int] = set()
    pending: list[object] = [value]
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        if isinstance(one, dict):
            pending.extend(one)
            pending.extend(one.values())
        elif isinstance(one, (list, tuple, set, frozenset, deque)):
            pending.extend(one)
        elif is_event(one):
            pending.extend(getattr(one, f.name) for f in attrs.fields(type(one)))  # type: ignore[arg-type]
    return total


def full(cell: Cell) -> MailboxFull:
    """Make the error of an ask that found no room."""
    return MailboxFull(
        f"mailbox of {cell.pid_text} is full: {cell.length()} of {cell.limit}. Send less, raise max_mailbox, or give "
        'the actor overflow="block": then ask() and tell_wait() wait for room.'
    )


def _drop_oldest(cell: Cell) -> None:
    oldest: Letter | None = None
    first = cell.waiting_letter()
    if first is not None and first[0].__class__ is not Down:
        oldest, cell.letter = first, None
    elif cell.mailbox and (found := _first_event(cell.mailbox)) is not None:
        oldest = cell.mailbox[found]
        del cell.mailbox[found]
    elif cell.more is not None and cell.more.postponed:
        oldest = cell.more.postponed.pop(0)
    if oldest is None:
        return
    reply = oldest[2]
    if reply is not None and not reply.done():
        reply.set_exception(full(cell))
    undelivered(cell.kernel, "dropped", cell.pid_text, oldest)


def _first_event(box: deque[Letter]) -> int | None:
    return next((n for n, letter in enumerate(box) if letter[0].__class__ is not Down), None)


async def room(cell: Cell) -> None:
    """Wait until a mailbox with the policy `block` has room; first come, first served."""
    more = cell.extras()
    if more.room is None:
        more.room = deque()
    while cell.is_alive() and cell.limit is not None and cell.length() >= cell.limit:
        future: asyncio.Future[None] = cell.kernel.loop.create_future()
        more.room.append(future)
        cell.alert = True
        await future


def make_room(cell: Cell) -> None:
    """The mailbox has room for some who wait: let as many go on."""
    more = cell.more
    if more is None or not more.room:
        return
    free = len(more.room) if cell.limit is None or not cell.is_alive() else cell.limit - cell.length()
    while more.room and free > 0:
        future = more.room.popleft()
        if not future.done():
            future.set_result(None)
            free -= 1


def check_water(cell: Cell) -> None:
    """Report once above the high mark, and once below the low one before that again (S11)."""
    more = cell.extras()
    length = cell.length()
    if not more.over_water and length >= cell.kernel.high_water:
        more.over_water = True
        cell.kernel.report_limit(lambda at: MailboxWater(at=at, path=cell.path, length=length, high=True))
    elif more.over_water and length < cell.kernel.low_water:
        more.over_water = False
        cell.kernel.report_limit(lambda at: MailboxWater(at=at, path=cell.path, length=length, high=False))
