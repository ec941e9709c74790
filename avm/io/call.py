"""Call: one model call on its way through a gate."""

from __future__ import annotations

from typing import Literal

import attrs

from avm.actors.ref import Pid
from avm.actors.timers import TimerRef
from avm.io.chain import Prompt, chain_of
from avm.io.dispatch import Dispatch
from avm.io.governor import Cost, Reservation
from avm.io.request import Completion, ModelRequest

Place = Literal["queue", "parked", "delayed", "sent"]
"""Where a call is: in the fair queue; behind the leader of its prefix; until it is tried again; with a worker."""


@attrs.define(slots=True, eq=False)
class Attempt:
    """One worker at one call."""

    call: Call
    reservation: Reservation
    at: float
    slot: int | None = None
    is_awaited: bool = False
    """Whether others wait, or may come to wait, for its response to begin."""
    begun: bool = False


@attrs.define(slots=True, eq=False)
class Call:
    """One model call; `cost` is what it counts for in the fair queue, in tokens."""

    dispatch: Dispatch
    request: ModelRequest
    serial: int
    priority: str
    agent: str
    asked: float
    size: int
    """Bytes of the request, about."""
    cost: int
    prompt: Prompt
    expected: Cost
    withdrawn: bool = False
    place: Place = "queue"
    attempts: int = 0
    workers: list[Pid] = attrs.field(factory=list)
    """Those at it now; two while it is hedged."""
    first_at: float | None = None
    """When it was sent the first time."""
    timer: TimerRef | None = None
    """Of its next attempt, or of its hedge."""
    lead: TimerRef | None = None
    """When it stops leading on its prefix, if its response has not begun by then."""
    answer: Completion | None = None


NO_PROMPT = Prompt((), ())


def make_call(dispatch: Dispatch, size: int, expected: Cost, least: int | None) -> Call:
    """Return the call of a dispatch.

    Args:
        least: tokens from which on the chain of its prompt's prefixes matters; None if it does not matter at all.
    """
    request = dispatch.request
    prompt = chain_of(request) if least is not None else NO_PROMPT
    if prompt.chain and prompt.chain[-1].tokens < (least or 0):
        # Too short to be cached: nothing is to be led or measured.
        prompt = NO_PROMPT
    return Call(
        dispatch,
        request,
        dispatch.serial,
        dispatch.priority,
        request.agent,
        dispatch.asked,
        size,
        max(1, expected.input + expected.output),
        prompt,
        expected,
    )
