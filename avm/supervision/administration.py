"""Administration of a running supervisor: the requests it takes, and functions that send them (S75).

Every request of a static supervisor names a child by its id; those of a dynamic one by its pid or ref, since its
children have no ids. What a supervisor refuses reaches the asker as an error of `avm.errors.ChildError`; a child that
does not start, as the `StartError` it would be anywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs

from avm.actors.event import ATOMS, Request, event
from avm.actors.ref import Pid, Ref
from avm.supervision.spec import ChildSpec

Which = str | Pid | Ref
"""How a child is named: by id in a supervisor, by pid or ref in a dynamic one."""


@attrs.frozen(slots=True)
class ChildStatus:
    """One child as `which_children` shows it. `pid` is "restarting" while it waits for its next start."""

    id: str
    pid: Pid | Literal["restarting"] | None
    kind: Literal["worker", "supervisor"]


@attrs.frozen(slots=True)
class ChildCounts:
    """How many children a supervisor has; a dead or restarting one is not active."""

    specs: int
    active: int
    supervisors: int
    workers: int


@event(tag="avm.StartChild")
class StartChild(Request[Ref | None]):
    """Add a child, last in order, and start it. The answer is None if its `starting` said Ignore."""

    spec: ChildSpec


@event(tag="avm.RestartChild")
class RestartChild(Request[Ref | None]):
    """Start a child that is down. The answer is None if its `starting` said Ignore."""

    child: Which


@event(tag="avm.TerminateChild")
class TerminateChild(Request[None]):
    """Stop a child, or call off its next start; its spec stays unless it is temporary."""

    child: Which


@event(tag="avm.DeleteChild")
class DeleteChild(Request[None]):
    """Forget the spec of a child that is down."""

    child: Which


@event(tag="avm.WhichChildren")
class WhichChildren(Request[Sequence[ChildStatus]]):
    """List the children in start order."""


@event(tag="avm.CountChildren")
class CountChildren(Request[ChildCounts]):
    """Count the children."""


@event(tag="avm.GetChildSpec")
class GetChildSpec(Request[ChildSpec]):
    """Return the spec of a child with every default filled in."""

    child: Which


# Deeply immutable, and answers may hold ten thousand of them.
ATOMS.update((ChildStatus, ChildCounts))


async def start_child(supervisor: Ref, spec: ChildSpec, *, timeout: float | None = None) -> Ref | None:
    """Add a child to a running supervisor and start it; it is last in order (S65).

    Returns:
        Its ref, or None if its `starting` said Ignore.

    Raises:
        SpecError: the spec cannot be right in that supervisor.
        AlreadyStarted, AlreadyPresent: the supervisor has that id, running or not.
        TooManyChildren: a dynamic supervisor is at its `max_children`.
        StartError: the child failed; the supervisor does not keep it.
    """
    return await supervisor.ask(StartChild(spec), timeout=timeout)


async def restart_child(supervisor: Ref, child: Which, *, timeout: float | None = None) -> Ref | None:
    """Start a child that is down. A failure is not counted as a restart.

    Raises:
        ChildRunning, ChildRestarting, ChildNotFound: it is not down.
        StartError: it failed, and stays down.
    """
    return await supervisor.ask(RestartChild(child), timeout=timeout)


async def terminate_child(supervisor: Ref, child: Which, *, timeout: float | None = None) -> None:
    """Stop a child as its spec says and keep it down; does nothing if it is down, calls off its next start if due.

    Raises:
        ChildNotFound: no such child.
        CallingSelf: it was asked for by the child itself, or from below it.
    """
    await supervisor.ask(TerminateChild(child), timeout=timeout)


async def delete_child(supervisor: Ref, child: Which, *, timeout: float | None = None) -> None:
    """Forget a child that is down.

    Raises:
        ChildRunning, ChildRestarting, ChildNotFound: it is not down.
    """
    await supervisor.ask(DeleteChild(child), timeout=timeout)


async def which_children(supervisor: Ref, *, timeout: float | None = None) -> Sequence[ChildStatus]:
    """List the children in start order; in a dynamic supervisor in no promised order."""
    return await supervisor.ask(WhichChildren(), timeout=timeout)


async def count_children(supervisor: Ref, *, timeout: float | None = None) -> ChildCounts:
    """Count the children."""
    return await supervisor.ask(CountChildren(), timeout=timeout)


async def child_spec(supervisor: Ref, child: Which, *, timeout: float | None = None) -> ChildSpec:
    """Return the spec of a child with every default filled in.

    Raises:
        ChildNotFound: no such child.
    """
    return await supervisor.ask(GetChildSpec(child), timeout=timeout)
