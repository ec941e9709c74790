"""DynamicSupervisor: children that come and go at run time, in no order, keyed by pid.

It starts with none. Each `start_child` brings its own spec; one spec value can be started any number of times. A child
lives at the id of its spec if no other child is there, else at that id with a number. The strategy is one_for_one. At
the end all children are stopped at the same time, each within its own grace (S57). Every operation on one child costs
the same however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Never

from avm.actors.actor import Actor, on
from avm.actors.event import event
from avm.actors.ref import Pid, Ref
from avm.actors.signals import Exit, Shutdown, is_abnormal
from avm.errors import ChildError, ChildNotFound, Refuse, SpecError, StartError, TooManyChildren
from avm.supervision import lifecycle as one
from avm.supervision.administration import (
    ChildCounts,
    ChildStatus,
    CountChildren,
    DeleteChild,
    GetChildSpec,
    RestartChild,
    StartChild,
    TerminateChild,
    WhichChildren,
)
from avm.supervision.faults import unknown_options
from avm.supervision.intensity import NO_BACKOFF, Backoff, RestartWindow
from avm.supervision.lifecycle import Child
from avm.supervision.reports import reason_text
from avm.supervision.spec import (
    PLAIN_WINDOW,
    AutoShutdown,
    ChildSpec,
    Grace,
    RestartType,
    SupervisorSpec,
    check_children,
)


@event(tag="avm.TryAgainAt")
class _TryAgain:
    """A start failed: decide anew (S68). Only from a supervisor to itself."""

    key: Pid
    turn: int


@event(tag="avm.StartNowAt")
class _StartNow:
    """The backoff of a decision is over (S73). Only from a supervisor to itself."""

    key: Pid
    turn: int


def dynamic_supervisor(
    id: str,
    *,
    max_children: int | None = None,
    max_restarts: int = PLAIN_WINDOW[0],
    max_seconds: float = PLAIN_WINDOW[1],
    auto_shutdown: AutoShutdown = "never",
    restart: RestartType = "permanent",
    shutdown: Grace = "infinity",
    significant: bool = False,
    name: str | None = None,
    start_timeout: float | None = None,
    backoff: Backoff = NO_BACKOFF,
    **unknown: Never,
) -> SupervisorSpec:
    """Describe a supervisor whose children are started later, with `start_child`.

    Args:
        max_children: those that wait for a restart count too; None for no limit.

    Raises:
        SpecError: a field that cannot be right (S52).
    """
    if unknown:
        raise unknown_options(f"supervisor {id!r}", dynamic_supervisor, unknown)
    return SupervisorSpec(
        id=id,
        actor=DynamicSupervisor,
        restart=restart,
        shutdown=shutdown,
        significant=significant,
        name=name,
        start_timeout=start_timeout,
        max_restarts=max_restarts,
        max_seconds=max_seconds,
        auto_shutdown=auto_shutdown,
        backoff=backoff,
        dynamic=True,
        max_children=max_children,
    )


class DynamicSupervisor(Actor):
    """Unordered children, keyed by pid. Describe it with `dynamic_supervisor()`; do not subclass it."""

    trap_exit = True
    priority = "user"

    def __init__(self, spec: SupervisorSpec) -> None:
        self._spec = spec
        self._window = RestartWindow(spec.max_restarts, spec.max_seconds)
        # A child that waits for a restart keeps the pid of its last incarnation as its key.
        self._by_pid: dict[Pid | None, Child] = {}
        self._by_id: dict[str, Child] = {}
        self._serial = 0
        self._significant = 0

    async def stopping(self, reason: object) -> None:
        """Stop all children at the same time, each within its own grace (S57)."""
        running = [child for child in self._by_pid.values() if child.state == "running"]
        for child in running:
            one.order_end(self, child)
        ordered = self.now()
        # Graces run side by side, so by the order of their ends none of them is seen too late.
        odd: dict[tuple[type, str], list[tuple[Child, object]]] = {}
        for child in sorted(running, key=_grace):
            ended, as_told = await one.see_end(self, child, ordered)
            if not as_told:
                odd.setdefault((child.spec.actor, reason_text(ended)), []).append((child, ended))
        for alike in odd.values():
            child, ended = alike[0]
            one.report(
                self, "shutdown_error", ended, child.spec, child.pid if len(alike) == 1 else None, len(alike)
            )

    def describe(self) -> dict[str, object]:
        """Show the counts in crash reports."""
        return {"children": len(self._by_pid), "restarts in window": len(self._window)}

    # Ends and restarts.

    @on(Exit)
    async def child_ended(self, exit: Exit) -> None:
        """Deal with the end of a child; strangers and deaths already dealt with are ignored (S40)."""
        child = self._by_pid.get(exit.pid)
        if child is None or child.state != "running":
            return
        spec = child.spec
        abnormal = is_abnormal(exit.reason)
        if (abnormal or spec.restart == "permanent") and self.observed:
            one.report(self, "child_terminated", exit.reason, spec, child.pid)
        if spec.restart == "permanent" or (abnormal and spec.restart == "transient"):
            child.cause = exit.reason
            await self._decide(child)
            return
        self._drop(child)
        if spec.significant and (self._spec.auto_shutdown == "any_significant" or not self._significant):
            self.stop(Shutdown())

    @on(_TryAgain)
    async def try_again(self, retry: _TryAgain) -> None:
        """Decide again on a child whose start failed, unless it no longer waits for that (S68)."""
        child = self._by_pid.get(retry.key)
        if child is not None and child.turn == retry.turn:
            await self._decide(child)

    @on(_StartNow)
    async def start_now(self, retry: _StartNow) -> None:
        """Carry out a decision whose backoff is over (S73)."""
        child = self._by_pid.get(retry.key)
        if child is not None and child.turn == retry.turn:
            child.timer = None
            await self._restart(child)

    # Administration (S75).

    @on(StartChild)
    async def start_child(self, request: StartChild) -> Ref | None:
        """Add a child."""
        spec = request.spec
        try:
            check_children(self._spec, (spec,))
        except SpecError as error:
            raise Refuse(error) from error
        limit = self._spec.max_children
        if limit is not None and len(self._by_pid) >= limit:
            raise Refuse(
                TooManyChildren(
                    f"supervisor {self.path!r} has {len(self._by_pid)} children of {limit}, those that wait for a "
                    "restart included. Stop one first, or raise max_children.",
                    spec.id,
                )
            )
        child = Child(spec)
        try:
            up = await one.start(self, child, self._free_id(spec.id))
        except StartError as error:
            raise Refuse(error) from error
        if not up:
            return None
        self._keep(child)
        return child.ref

    @on(RestartChild, DeleteChild)
    def have_no_ids(self, request: RestartChild | DeleteChild) -> None:
        """Refuse what makes no sense here: a child that is down is gone."""
        raise Refuse(
            ChildError(
                f"supervisor {self.path!r} is dynamic: a child that is down is forgotten, so there is nothing to "
                "restart or delete. Call start_child() or terminate_child().",
                request.child,
            )
        )

    @on(TerminateChild)
    async def terminate_child(self, request: TerminateChild) -> None:
        """Stop a child, or call off its next start, and forget it."""
        child = self._find(request.child)
        one.refuse_suicide(self, child)
        one.cancel_retry(self, child)
        if child.state == "running":
            await one.stop(self, child)
        self._drop(child)

    @on(WhichChildren)
    def which_children(self, request: WhichChildren) -> Sequence[ChildStatus]:
        """List the children."""
        return tuple(child.status() for child in self._by_pid.values())

    @on(CountChildren)
    def count_children(self, request: CountChildren) -> ChildCounts:
        """Count the children."""
        return one.count(self._by_pid.values())

    @on(GetChildSpec)
    def child_spec(self, request: GetChildSpec) -> ChildSpec:
        """Return the spec of a child."""
        return self._find(request.child).spec

    # Restarting.

    async def _decide(self, child: Child) -> None:
        """Note a restart in the window before anything is started (S66), and give up or carry it out."""
        now = self.now()
        if not self._window.add(now):
            self._drop(child)
            self.stop(one.give_up(self, self._window, child))
            return
        child.becomes("restarting")
        backoff = self._spec.backoff
        if backoff.min > 0:
            seconds = child.delay(backoff, now, self._window.max_seconds, self.random)
            child.timer = self.send_after(seconds, self.pid, _StartNow(_key(child), child.turn))
        else:
            await self._restart(child)

    async def _restart(self, child: Child) -> None:
        key = child.pid
        try:
            up = await one.start(self, child, child.spec.id)
        except StartError:
            child.becomes("restarting")
            self.tell(self.pid, _TryAgain(_key(child), child.turn))
            return
        if up:
            del self._by_pid[key]
            self._by_pid[child.pid] = child
        else:
            self._drop(child)

    # The tables.

    def _keep(self, child: Child) -> None:
        self._by_pid[child.pid] = child
        if child.ref is not None:
            self._by_id[child.ref.id] = child
        self._significant += child.spec.significant
        if child.spec.restart == "temporary":
            child.spec = child.spec.without_args()

    def _drop(self, child: Child) -> None:
        child.becomes("down")
        if self._by_pid.pop(child.pid, None) is None:
            return
        if child.ref is not None:
            del self._by_id[child.ref.id]
        self._significant -= child.spec.significant

    def _free_id(self, id: str) -> str:
        free = id
        while free in self._by_id:
            self._serial += 1
            free = f"{id}-{self._serial}"
        return free

    def _find(self, which: str | Pid | Ref) -> Child:
        if isinstance(which, Pid):
            child = self._by_pid.get(which)
        else:
            child = self._by_id.get(which.id if isinstance(which, Ref) else which)
            if isinstance(which, Ref) and child is not None and child.ref != which:
                child = None
        if child is None:
            raise Refuse(
                ChildNotFound(
                    f"supervisor {self.path!r} has no child {which!r} among its {len(self._by_pid)}. "
                    "Name one by the pid or ref that start_child() returned.",
                    which,
                )
            )
        return child


def _key(child: Child) -> Pid:
    assert child.pid is not None, "a child that restarts has run before"
    return child.pid


def _grace(child: Child) -> float:
    grace = child.spec.shutdown
    return -1.0 if grace == "brutal_kill" else math.inf if grace == "infinity" else float(grace)
