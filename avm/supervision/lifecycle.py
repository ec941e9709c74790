"""One child as its supervisor sees it: how it is started, how it is stopped, and where it stands now.

Both supervisors are built from these functions. They use nothing of the kernel but the public methods of `Actor`.
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import Any, Literal, Protocol, Self

from avm.actors.actor import Actor
from avm.actors.ref import Pid, Ref
from avm.actors.signals import Killed, Normal, Shutdown, Timeout
from avm.actors.timers import TimerRef
from avm.errors import AskTimeout, CallingSelf, Refuse, StartError, StartIgnored
from avm.supervision.administration import ChildCounts, ChildStatus
from avm.supervision.intensity import Backoff, RestartWindow
from avm.supervision.reports import (
    Context,
    GaveUpReport,
    ProgressReport,
    SupervisorReport,
    offender,
    reason_text,
)
from avm.supervision.spec import ChildSpec, SupervisorSpec, validate

FAILED_TO_START = "failed_to_start_child"

ORDER = Shutdown()
"""What a child is told to end with."""


class GaveUp(str):
    """The detail of the `Shutdown` of a supervisor that gave up (S67).

    Equal to "max_restarts", and printed as the whole sentence, so that it can be read where nobody observes.
    """

    text: str

    def __new__(cls, text: str) -> Self:
        word = super().__new__(cls, "max_restarts")
        word.text = text
        return word

    def __str__(self) -> str:
        return self.text

    def __format__(self, spec: str) -> str:
        return format(self.text, spec)


class Child:
    """A spec and what became of it.

    Attributes:
        ref: its place, once it was started; `pid` is the incarnation that runs, or ran last; `serial` its number.
        state: "running", "down" (ended, stopped, ignored) or "restarting" (waits for its next start).
        turn: counts the changes of state, so that a retry which comes too late is known as such.
        cause: why it has to be restarted.
    """

    __slots__ = ("_failed_at", "_failures", "cause", "pid", "ref", "serial", "spec", "state", "timer", "turn")

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.ref: Ref | None = None
        self.pid: Pid | None = None
        self.serial = 0
        self.state: Literal["running", "down", "restarting"] = "down"
        self.turn = 0
        self.timer: TimerRef | None = None
        self.cause: object = None
        self._failures = 0
        self._failed_at = 0.0

    def status(self) -> ChildStatus:
        """Return what `which_children` shows of it."""
        if self.state == "running":
            return ChildStatus(self.spec.id, self.pid, self.spec.kind)
        return ChildStatus(self.spec.id, "restarting" if self.state == "restarting" else None, self.spec.kind)

    def becomes(self, state: Literal["running", "down", "restarting"]) -> None:
        """Change the state; whatever was under way for the old one is stale now."""
        self.state = state
        self.turn += 1

    def delay(self, backoff: Backoff, now: float, forget_after: float, random: Random) -> float:
        """Count a failure and return the seconds to wait after it; failures long past are forgotten."""
        if now - self._failed_at > forget_after:
            self._failures = 0
        self._failures += 1
        self._failed_at = now
        return backoff.delay(self._failures, random)


class Spawner(Protocol):
    """Whoever can start an actor: another actor, or the kernel."""

    async def spawn(self, cls: type[Actor], *args: Any, **options: Any) -> Ref:
        """Start an actor and wait until it is up."""


async def start_tree(spawner: Spawner, tree: ChildSpec) -> Ref:
    """Start a tree, or a single child, below a kernel or an actor.

    Raises:
        SpecError: it is no tree, or one that cannot be right.
        StartError: a child failed; nothing is left of the tree, and `path` leads to that child (S54).
    """
    # A supervisor's spec was checked when it was made.
    if not isinstance(tree, SupervisorSpec):
        validate(tree)
    try:
        return await spawner.spawn(
            tree.actor,
            *tree.start_args,
            id=tree.id,
            name=tree.name,
            start_timeout=tree.start_timeout,
            priority=tree.priority,
            max_mailbox=tree.max_mailbox,
            kwargs=tree.kwargs or None,
        )
    except StartIgnored:
        raise
    except StartError as error:
        raise start_error((tree.id,), error.reason) from error


async def start(owner: Actor, child: Child, id: str) -> bool:
    """Start a child, or its next incarnation at the same place; false if its `starting` said Ignore.

    Raises:
        StartError: it failed, and is not running. Whatever the making of the actor raises is one, too (S74).
    """
    spec = child.spec
    try:
        ref = await owner.spawn(
            spec.actor,
            *spec.start_args,
            id=id,
            name=spec.name,
            at=child.ref,
            link=True,
            start_timeout=spec.start_timeout,
            priority=spec.priority,
            max_mailbox=spec.max_mailbox,
            kwargs=spec.kwargs or None,
        )
    except StartIgnored:
        child.becomes("down")
        return False
    except Exception as error:
        reason = error.reason if isinstance(error, StartError) else error
        child.cause = reason
        if owner.observed:
            report(owner, "start_error", reason, spec, None)
        raise start_error((*owner.path.split("/"), id), reason) from error
    child.ref = ref
    # It may have ended already, while this supervisor waited for its start: its Exit is on the way.
    child.pid = ref.last_pid
    child.serial = child.pid.serial
    child.state = "running"
    child.turn += 1
    # A cause holds the frames of the incarnation that failed.
    child.cause = None
    if owner.observed:
        owner.report(ProgressReport(at=owner.now(), supervisor=owner.path, started=offender(spec, child.pid)))
    return True


def start_error(place: tuple[str, ...], reason: object) -> StartError:
    """Make the error of a start that failed: it leads from the place down to the child whose fault it was (S54)."""
    path = list(place)
    cause = reason
    while (
        isinstance(cause, Shutdown)
        and isinstance(cause.detail, tuple)
        and cause.detail[:1] == (FAILED_TO_START,)
    ):
        _, failed, cause = cause.detail
        path.append(failed)
    why = "it took longer than its start_timeout" if isinstance(cause, Timeout) else reason_text(cause)
    return StartError(f"{'/'.join(path)} did not start: {why}.", reason, tuple(path))


async def stop(owner: Actor, child: Child) -> None:
    """Stop a running child as its spec says, and report it if it did not end as told (S58-S60)."""
    order_end(owner, child)
    reason, as_told = await see_end(owner, child, owner.now())
    if not as_told and owner.observed:
        report(owner, "shutdown_error", reason, child.spec, child.pid)


def order_end(owner: Actor, child: Child) -> None:
    """Tell a child to end, or kill it, without waiting."""
    pid = child.pid
    if pid is None:
        return
    grace = child.spec.shutdown
    if grace == "brutal_kill":
        owner.kill(pid)
        return
    owner.exit(pid, ORDER)
    if grace == 0 and pid.is_alive():
        owner.kill(pid)


async def see_end(owner: Actor, child: Child, ordered: float) -> tuple[object, bool]:
    """Wait for the end of a child that was told to end at `ordered`; kill it when its grace is over.

    Returns:
        Its exit reason, also if it was dead before (S61), and whether that is what was asked for (S60).
    """
    pid, spec = child.pid, child.spec
    if pid is None:
        return None, True
    if pid.is_alive() and isinstance(spec.shutdown, (int, float)):
        left = ordered + spec.shutdown - owner.now()
        try:
            if left <= 0:
                raise AskTimeout
            await owner.stop_actor(pid, ORDER, timeout=left)
        except AskTimeout:
            owner.kill(pid)
    reason = await owner.wait_stopped(pid)
    return reason, is_as_told(spec, reason)


def is_as_told(spec: ChildSpec, reason: object) -> bool:
    """Tell whether a child that was stopped ended as it should (S60)."""
    if reason == ORDER:
        return True
    if isinstance(reason, Killed):
        return spec.shutdown == "brutal_kill"
    return isinstance(reason, (Normal, Shutdown)) and spec.restart != "permanent"


def cancel_retry(owner: Actor, child: Child) -> None:
    """Forget the next start of a child, if it has one."""
    if child.timer is not None:
        owner.cancel(child.timer)
        child.timer = None


def count(children: Collection[Child]) -> ChildCounts:
    """Count children for `count_children`."""
    supervisors = sum(child.spec.kind == "supervisor" for child in children)
    return ChildCounts(
        specs=len(children),
        active=sum(child.state == "running" for child in children),
        supervisors=supervisors,
        workers=len(children) - supervisors,
    )


def refuse_suicide(owner: Actor, child: Child) -> None:
    """Refuse an order to stop a child that comes from within that child: it would wait for its own end (S75).

    Raises:
        Refuse: it does; the asker gets CallingSelf.
    """
    sender = owner.sender
    if sender is None or child.ref is None:
        return
    here = child.ref.path
    if sender.path == here or sender.path.startswith(f"{here}/"):
        raise Refuse(
            CallingSelf(
                f"{sender} asked {owner.path!r} to stop {here!r}, which it belongs to, and would wait for its own "
                "end. Call self.stop() instead, or let another actor ask.",
                (sender.path, owner.path),
            )
        )


# -- reports ------------------------------------------------------------------------------------------------------


def report(
    owner: Actor, context: Context, reason: object, spec: ChildSpec, pid: Pid | None, count: int = 1
) -> None:
    """Report what happened to a child. Ask `owner.observed` first."""
    owner.report(
        SupervisorReport(
            at=owner.now(),
            supervisor=owner.path,
            context=context,
            reason=reason,
            offender=offender(spec, pid, count),
        )
    )


def give_up(owner: Actor, window: RestartWindow, child: Child) -> Shutdown:
    """Report that a supervisor restarted too often, and return the reason it ends with (S67)."""
    told = GaveUpReport(
        at=owner.now(),
        supervisor=owner.path,
        context="shutdown",
        reason="reached_max_restart_intensity",
        offender=offender(child.spec, child.pid),
        restarts=len(window),
        span=window.span,
        max_restarts=window.max_restarts,
        max_seconds=window.max_seconds,
        cause=child.cause,
    )
    if owner.observed:
        owner.report(told)
    return Shutdown(GaveUp(str(told)))
