"""Supervisor: an actor that starts its children in order, restarts them by strategy, and stops them in reverse.

It is an ordinary actor: it traps exits, spawns its children linked, and hears of their ends as `Exit` events. All its
decisions are in `child_ended` (is it to restart?), `_may_restart` (may it?) and `_start_again` (who does, in order?).

A death is dealt with once: whoever the supervisor stops or finds dead is no longer in `_running`, and an `Exit` of a
pid that is not there is ignored. That is all it takes for crashes that arrive together to count as OTP counts them
(S70). After a start that failed, the supervisor returns to its mailbox and tells itself to try again (S68), so it can
be asked, told and stopped in between; `turn` on the child says whether that retry is still wanted.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Never

from avm.actors.actor import Actor, on
from avm.actors.event import event
from avm.actors.ref import Pid, Ref
from avm.actors.signals import Exit, Shutdown, is_abnormal
from avm.errors import (
    AlreadyPresent,
    AlreadyStarted,
    ChildNotFound,
    ChildRestarting,
    ChildRunning,
    Refuse,
    SpecError,
    StartError,
)
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
from avm.supervision.intensity import Backoff, RestartWindow
from avm.supervision.lifecycle import FAILED_TO_START, Child
from avm.supervision.spec import (
    AutoShutdown,
    ChildSpec,
    Grace,
    RestartType,
    Strategy,
    SupervisorSpec,
    backoff_of,
    check_children,
    window_of,
)


@event(tag="avm.TryAgain")
class _TryAgain:
    """A start failed: decide anew (S68). Only from a supervisor to itself."""

    id: str
    turn: int


@event(tag="avm.StartNow")
class _StartNow:
    """The backoff of a decision is over (S73). Only from a supervisor to itself."""

    id: str
    turn: int


def supervisor(
    id: str,
    *,
    strategy: Strategy = "one_for_one",
    max_restarts: int | None = None,
    max_seconds: float | None = None,
    auto_shutdown: AutoShutdown = "never",
    children: Iterable[ChildSpec] = (),
    restart: RestartType = "permanent",
    shutdown: Grace = "infinity",
    significant: bool = False,
    name: str | None = None,
    start_timeout: float | None = None,
    backoff: Backoff | None = None,
    **unknown: Never,
) -> SupervisorSpec:
    """Describe a supervisor and its children; the result is a tree, and may be a child of another.

    Args:
        max_restarts, max_seconds: the restart intensity (S66). The default is OTP's, 1 in 5 s, unless the class of a
            child asks for another with `restart_window = (max_restarts, max_seconds)`; of several the longest counts.
        backoff: the wait before a restart; the default is none, unless the class of a child has a `restart_backoff`.

    Raises:
        SpecError: a field of it or of a child that cannot be right (S52).
    """
    if unknown:
        raise unknown_options(f"supervisor {id!r}", supervisor, unknown)
    given = tuple(children) if isinstance(children, Iterable) and not isinstance(children, str) else children
    listed = given if isinstance(given, tuple) else ()
    restarts, seconds = window_of(listed)
    return SupervisorSpec(
        id=id,
        actor=Supervisor,
        restart=restart,
        shutdown=shutdown,
        significant=significant,
        name=name,
        start_timeout=start_timeout,
        strategy=strategy,
        children=given,
        max_restarts=restarts if max_restarts is None else max_restarts,
        max_seconds=seconds if max_seconds is None else max_seconds,
        auto_shutdown=auto_shutdown,
        backoff=backoff_of(listed) if backoff is None else backoff,
    )


class Supervisor(Actor):
    """Ordered children under one of three strategies. Describe it with `supervisor()`; do not subclass it."""

    trap_exit = True
    # Restarts are short, and a system under load needs them first.
    priority = "user"

    def __init__(self, spec: SupervisorSpec) -> None:
        self._spec = spec
        self._window = RestartWindow(spec.max_restarts, spec.max_seconds)
        self._by_id: dict[str, Child] = {}
        # By the serial of the pid: a number is found much faster, and this is done at every restart.
        self._running: dict[int, Child] = {}

    async def starting(self) -> None:
        """Start the children in order; if one fails, stop those before it and fail with its path (S53, S54)."""
        for spec in self._spec.children:
            try:
                await self._add(spec)
            except StartError as error:
                await self._stop_all()
                self.stop(Shutdown((FAILED_TO_START, spec.id, error.reason)))
                return

    async def stopping(self, reason: object) -> None:
        """Stop the children in reverse order, one at a time (S56)."""
        await self._stop_all()

    def describe(self) -> dict[str, object]:
        """Show strategy and children in crash reports."""
        states = {id: child.state for id, child in self._by_id.items()}
        return {"strategy": self._spec.strategy, "children": states, "restarts in window": len(self._window)}

    # Ends and restarts.

    @on(Exit)
    async def child_ended(self, exit: Exit) -> None:
        """Deal with the end of a child; strangers and deaths already dealt with are ignored (S40, S70)."""
        pid = exit.pid
        child = self._running.pop(pid.serial, None) if pid is not None else None
        if child is None:
            return
        spec, reason = child.spec, exit.reason
        abnormal = is_abnormal(reason)
        if (abnormal or spec.restart == "permanent") and self.observed:
            one.report(self, "child_terminated", reason, spec, child.pid)
        if spec.restart == "permanent" or (abnormal and spec.restart == "transient"):
            child.cause = reason
            if self._may_restart(child):
                await self._restart(child)
            return
        child.becomes("down")
        if spec.restart == "temporary":
            del self._by_id[spec.id]
        if spec.significant and self._is_over():
            self.stop(Shutdown())

    @on(_TryAgain)
    async def try_again(self, retry: _TryAgain) -> None:
        """Decide again on a child whose start failed, unless it no longer waits for that (S68)."""
        child = self._by_id.get(retry.id)
        if child is not None and child.turn == retry.turn and self._may_restart(child):
            await self._restart(child)

    @on(_StartNow)
    async def start_now(self, retry: _StartNow) -> None:
        """Carry out a decision whose backoff is over (S73)."""
        child = self._by_id.get(retry.id)
        if child is not None and child.turn == retry.turn:
            child.timer = None
            await self._start_again(child)

    # Administration (S75).

    @on(StartChild)
    async def start_child(self, request: StartChild) -> Ref | None:
        """Add a child, last in order (S65)."""
        spec = request.spec
        try:
            check_children(self._spec, (spec,))
        except SpecError as error:
            raise Refuse(error) from error
        present = self._by_id.get(spec.id)
        if present is not None:
            raise Refuse(self._present(present))
        try:
            return await self._add(spec)
        except StartError as error:
            raise Refuse(error) from error

    @on(RestartChild)
    async def restart_child(self, request: RestartChild) -> Ref | None:
        """Start a child that is down; a failure is the asker's, and not counted."""
        child = self._find_down(request.child, "restart")
        try:
            return child.ref if await self._start(child) else None
        except StartError as error:
            raise Refuse(error) from error

    @on(TerminateChild)
    async def terminate_child(self, request: TerminateChild) -> None:
        """Stop a child, or call off its next start."""
        child = self._find(request.child)
        one.refuse_suicide(self, child)
        await self._stop(child)
        if child.spec.restart == "temporary":
            del self._by_id[child.spec.id]

    @on(DeleteChild)
    def delete_child(self, request: DeleteChild) -> None:
        """Forget a child that is down."""
        del self._by_id[self._find_down(request.child, "delete").spec.id]

    @on(WhichChildren)
    def which_children(self, request: WhichChildren) -> Sequence[ChildStatus]:
        """List the children in start order."""
        return tuple(child.status() for child in self._by_id.values())

    @on(CountChildren)
    def count_children(self, request: CountChildren) -> ChildCounts:
        """Count the children."""
        return one.count(self._by_id.values())

    @on(GetChildSpec)
    def child_spec(self, request: GetChildSpec) -> ChildSpec:
        """Return the spec of a child."""
        return self._find(request.child).spec

    # Who is restarted, whether, and how (S63-S70).

    def _may_restart(self, child: Child) -> bool:
        """Decide on a restart: note it in the window before anything is started, and give up if it is one too many."""
        if self._window.add(self.now()):
            child.becomes("restarting")
            return True
        child.becomes("down")
        self.stop(one.give_up(self, self._window, child))
        return False

    def _restart(self, child: Child) -> Coroutine[Any, Any, None]:
        """Carry out a decision, now or after the backoff."""
        return self._start_later(child) if self._spec.backoff.min else self._start_again(child)

    async def _start_later(self, child: Child) -> None:
        """Wait for the backoff in the state restarting; siblings that restart with the child stop now (S73)."""
        spec = self._spec
        seconds = child.delay(spec.backoff, self.now(), spec.max_seconds, self.random)
        await self._stop_siblings(child)
        child.timer = self.send_after(seconds, self.pid, _StartNow(child.spec.id, child.turn))

    async def _start_again(self, child: Child) -> None:
        """Start the child, after its strategy's siblings were stopped and before they start again (S64)."""
        alone = self._spec.strategy == "one_for_one"
        for member in (child,) if alone else await self._stop_siblings(child):
            try:
                if await one.start(self, member, member.spec.id):
                    self._running[member.serial] = member
            except StartError:
                member.becomes("restarting")
                self.tell(self.pid, _TryAgain(member.spec.id, member.turn))
                return

    async def _stop_siblings(self, child: Child) -> list[Child]:
        """Stop whoever restarts with a child, in reverse; return those that start again, in order, it included."""
        members = self._members(child)
        for member in reversed(members):
            if member is child:
                continue
            await self._stop(member)
            if member.spec.restart == "temporary":
                del self._by_id[member.spec.id]
        return [member for member in members if member.spec.restart != "temporary"]

    def _members(self, child: Child) -> list[Child]:
        if self._spec.strategy == "one_for_one":
            return [child]
        children = list(self._by_id.values())
        return children if self._spec.strategy == "one_for_all" else children[children.index(child) :]

    def _is_over(self) -> bool:
        """Tell whether the end of a significant child ends the supervisor (S72)."""
        if self._spec.auto_shutdown == "any_significant":
            return True
        return not any(c.spec.significant and c.state != "down" for c in self._by_id.values())

    # One child.

    async def _add(self, spec: ChildSpec) -> Ref | None:
        """Start a new child and keep it; one that ignores its start is kept unless it is temporary (S55)."""
        child = Child(spec)
        up = await self._start(child)
        if spec.restart == "temporary":
            if not up:
                return None
            child.spec = spec.without_args()
        self._by_id[spec.id] = child
        return child.ref

    async def _start(self, child: Child) -> bool:
        up = await one.start(self, child, child.spec.id)
        if up:
            self._running[child.serial] = child
        return up

    async def _stop(self, child: Child) -> None:
        one.cancel_retry(self, child)
        if child.state == "running":
            await one.stop(self, child)
            self._running.pop(child.serial, None)
        child.becomes("down")

    async def _stop_all(self) -> None:
        for child in reversed(list(self._by_id.values())):
            await self._stop(child)

    # Finding a child, or refusing.

    def _find(self, which: str | Pid | Ref) -> Child:
        id = which.id if isinstance(which, Ref) else which.ref.id if isinstance(which, Pid) else which
        child = self._by_id.get(id)
        if child is not None and not isinstance(which, str) and which not in (child.ref, child.pid):
            child = None
        if child is None:
            known = ", ".join(list(self._by_id)[:10]) or "none"
            raise Refuse(
                ChildNotFound(f"supervisor {self.path!r} has no child {which!r}; its children: {known}.", id)
            )
        return child

    def _find_down(self, which: str | Pid | Ref, verb: str) -> Child:
        child = self._find(which)
        id = child.spec.id
        if child.state == "running":
            raise Refuse(
                ChildRunning(
                    f"cannot {verb} child {id!r} of supervisor {self.path!r}: it runs as {child.pid}. "
                    "Call terminate_child() first.",
                    id,
                    child.pid,
                )
            )
        if child.state == "restarting":
            raise Refuse(
                ChildRestarting(
                    f"cannot {verb} child {id!r} of supervisor {self.path!r}: it waits for its next start. "
                    "terminate_child() calls that off.",
                    id,
                )
            )
        return child

    def _present(self, child: Child) -> AlreadyStarted | AlreadyPresent:
        id = child.spec.id
        if child.state == "running":
            return AlreadyStarted(
                f"supervisor {self.path!r} has a child {id!r} already; it runs as {child.pid}. Use another id.",
                id,
                child.pid,
            )
        return AlreadyPresent(
            f"supervisor {self.path!r} has a child {id!r} already, which is {child.state}. Call restart_child(), or "
            "terminate_child() and delete_child() and start it anew.",
            id,
        )
