"""Actor: the class users subclass. Handlers are methods marked with `@on`; everything an actor can do is a method here.

The class is made into a `Behaviour` once, when it is defined: duplicate handlers fail at import. The methods only say
what is meant; the work is in the functions they call. Those take the actor's cell, and that refuses all but looking
once the actor has ended (`ending.Fence`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from random import Random
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from avm.actors import alarms, delivery, links, mailbox, stopping, tasks
from avm.actors.asking import ask_from
from avm.actors.behaviour import Behaviour, on, optional
from avm.actors.cell import Cell
from avm.actors.ending import order_end
from avm.actors.event import Handles, Request, seal_event
from avm.actors.ref import DEFAULT_TIMEOUT, Pid, Ref
from avm.actors.reply import PendingReply
from avm.actors.requests import Requests
from avm.actors.signals import Monitor, Normal, Shutdown, WaitReason
from avm.actors.start import start
from avm.actors.state import DEAD, IDLE, READY
from avm.actors.timers import TimerRef

if TYPE_CHECKING:
    from avm.actors.destination import Destination
    from avm.actors.hooks import Report

T = TypeVar("T")
R = TypeVar("R")


class Actor:
    """A mailbox and a behaviour; handles one event at a time (S5).

    Subclass it and mark handlers with `@on(EventType)`; they may be `def` or `async def`, and what they return is the
    reply. `__init__` runs again at each restart and need not call `super().__init__()`; the methods below work in it.
    An exception that leaves a handler ends the actor; its supervisor decides what then.

    Class attributes:
        priority: "user", "normal" (default) or "background".
        trap_exit: True turns exit signals of others into `Exit` events (S36). May be set on the instance.
        max_mailbox: how many events may wait; None (default) is no limit. `overflow` says what happens then: "reject"
            (default: asks fail, tells become dead letters), "drop_oldest", "drop_newest", "block", "kill".
        max_bytes: how much may wait in the mailbox and be kept in attributes, in bytes (S12); None (default) is no
            limit. `over_bytes`: "kill" (default) ends an actor that has more, "report" only tells.
        urgent: True takes `tell(..., urgent=True)` before ordinary events (S8).
        hibernate_after: seconds of idleness after which `hibernating` is called; None (default) is never.
    """

    __slots__ = ("_cell",)

    priority: ClassVar[str] = "normal"
    trap_exit: bool = False
    max_mailbox: ClassVar[int | None] = None
    overflow: ClassVar[str] = "reject"
    max_bytes: ClassVar[int | None] = None
    over_bytes: ClassVar[str] = "kill"
    urgent: ClassVar[bool] = False
    hibernate_after: ClassVar[float | None] = None

    __avm_behaviour__: ClassVar[Behaviour]
    _cell: Cell

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__avm_behaviour__ = Behaviour.of(cls)

    # Callbacks.

    @optional
    def starting(self) -> Any:
        """Get ready; may be async. The start is complete when it returns (S23). Return `Ignore` to not start (S25)."""

    @optional
    def stopping(self, reason: object) -> Any:
        """Clean up; may be async. The last thing to run, for every end but a kill (S30)."""

    @optional
    def unhandled(self, event: Any) -> Any:
        """Take an event no handler is for; may be async. The default logs it and refuses the ask (S29)."""
        raise NotImplementedError

    def hibernating(self) -> Any:
        """The actor was idle for `hibernate_after` seconds: give up what can be made again (S34)."""

    def waking(self) -> Any:
        """Called before the first event after `hibernating`; may be async."""

    def describe(self) -> dict[str, object]:
        """Return what a report may show of the state; leave secrets out. The default shows the names of attributes."""
        return dict.fromkeys(getattr(self, "__dict__", {}), "...")

    # Who I am.

    @property
    def ref(self) -> Ref:
        """My place; survives my restarts."""
        return self._cell.ref

    @property
    def pid(self) -> Pid:
        """This incarnation of me."""
        return self._cell.pid

    @property
    def path(self) -> str:
        """Where I am in the tree, as `newsroom/critic`."""
        return self._cell.path

    def is_alive(self) -> bool:
        """Tell whether I have not ended; false in a handler that goes on after a kill (S94)."""
        return self._cell.is_alive()

    @property
    def parent(self) -> Ref | None:
        """Who started me; None directly under the root."""
        parent = self._cell.parent
        return Ref(parent) if parent is not None and parent.parent is not None else None

    @property
    def children(self) -> list[Ref]:
        """The actors I started that live, in the order of their start."""
        return [Ref(c) for c in (self._cell.children or {}).values()]

    @property
    def sender(self) -> Pid | None:
        """Who sent the event being handled; None if it came from outside any actor."""
        current = self._cell.current
        return Pid(current[1]) if current is not None and current[1] is not None else None

    @property
    def effective_priority(self) -> str:
        """The priority I run with: that of `spawn(priority=)`, or else of my class."""
        return self._cell.behaviour.priority

    @property
    def random(self) -> Random:
        """The VM's source of randomness; seeded in simulations (S103)."""
        return self._cell.kernel.random

    @property
    def observed(self) -> bool:
        """Tell whether any observer listens: without one, do not build reports."""
        return bool(self._cell.kernel.observers)

    def now(self) -> float:
        """Return the VM's monotonic time in seconds."""
        return self._cell.kernel.now()

    def service(self, name: str, *default: Any) -> Any:
        """Return what the VM handed in under a name, as "io" or "store"; `default`, if given, where there is none.

        Raises:
            KeyError: the VM has no such service, and there is no default.
        """
        return self._cell.kernel.service(name, *default)

    # Messages.

    def tell(self, dest: Destination, event: object, urgent: bool = False) -> None:
        """Send an event; returns at once, never fails for a missing or full receiver (S3): that is a dead letter.

        Args:
            dest: a Ref, a Pid, a registered name, a path, the unique id of a child, or a routing strategy.
            event: an instance of an `@event` class, or a plain value such as a str.
            urgent: goes before ordinary events if the receiver's class has `urgent = True` (S8).

        Raises:
            PackError: the event holds something that cannot leave its sender (S4).
            ActorDead: this actor was killed; it can do nothing any more (S94).
        """
        me = self._cell
        try:
            target = dest.cell  # type: ignore[union-attr]
            plain = event.__avm_plain__()  # type: ignore[attr-defined]
        except (AttributeError, TypeError):
            delivery.send(me.kernel, me, dest, event, urgent=urgent)
            return
        if me.quick != get_ident() or urgent:
            delivery.send(me.kernel, me, dest, event, urgent=urgent)
            return
        handles: Handles | None = None
        if not plain:
            here = me.letter
            if here is not None and here[0] is event and here[3].__class__ is tuple:
                # Handed on as it came: sealed already, and nothing in it can be changed.
                handles = here[3]
            else:
                event, handles = seal_event(event, me.kernel.put)
        state = target.state
        if state == IDLE:
            target.letter = (event, me, None, handles)
            target.state = READY
            target.queue.append(target)
            scheduler = target.scheduler
            if scheduler.active is None:
                scheduler.wake()
        elif state == READY and target.limit is None and target.mailbox is not None:
            # High water is looked at when this is handled.
            target.mailbox.append((event, me, None, handles))
        elif state == DEAD:
            # To a ref, of an actor that was restarted: its present incarnation.
            found = dest.reach() if dest.__class__ is Ref else None
            if found is None:
                delivery.send(me.kernel, me, dest, event)
            else:
                found.receive((event, me, None, handles))
        else:
            target.receive((event, me, None, handles))

    async def tell_wait(self, dest: Destination, event: object) -> None:
        """Send an event, first waiting for room if the receiver's mailbox is bounded with the policy "block" (S10)."""
        await delivery.tell_wait(self._cell.kernel, self._cell, dest, event)

    @overload
    def ask(
        self, dest: Destination, request: Request[R], timeout: float | None = ...
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def ask(
        self, dest: Destination, request: object, timeout: float | None = ...
    ) -> Coroutine[Any, Any, Any]: ...

    def ask(
        self, dest: Destination, request: Any, timeout: float | None = DEFAULT_TIMEOUT
    ) -> Coroutine[Any, Any, Any]:
        """Send a request and wait for its reply.

        Args:
            timeout: seconds; the default is the VM's (60). None waits for ever. 0 takes only a reply that is there.

        Raises:
            AskTimeout: no reply in time; the request is still handled (S15).
            NoProc: nobody is there. ActorExited: it ended first; its reason is the `__cause__` (S13).
            AskCycle, CallingSelf: the ask would wait for itself (S18). MailboxFull, NoHandler.
            Any error the handler chose to send with `Refuse`.
        """
        me = self._cell
        return ask_from(me.kernel, me, dest, request, timeout)

    def requests(self) -> Requests:
        """Return a new collection of requests whose replies can be awaited in the order of arrival (S22)."""
        return Requests(self._cell)

    def defer(self) -> PendingReply:
        """Take the reply to the request being handled upon me: what this handler returns is ignored (S17)."""
        return PendingReply.of_current(self._cell)

    def publish(self, group: str, event: object) -> int:
        """Send an event to all members of a group now (S83); return how many copies were sent."""
        return delivery.publish(self._cell.kernel, self._cell, group, event)

    def continue_with(self, event: object) -> None:
        """Handle this event next, before all that waits (S28)."""
        mailbox.continue_with(self._cell, event)

    def postpone(self) -> None:
        """Put the event being handled aside until `state_changed` (S7)."""
        mailbox.postpone(self._cell)

    def state_changed(self) -> None:
        """My state changed: all postponed events are handled again, oldest first, before newer ones (S7)."""
        mailbox.retry_postponed(self._cell)

    # Life and death.

    def spawn(
        self,
        cls: type[Actor],
        *args: Any,
        id: str | None = None,
        name: str | None = None,
        at: Ref | None = None,
        link: bool = False,
        monitor: bool = False,
        start_timeout: float | None = None,
        priority: str | None = None,
        max_mailbox: int | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> Coroutine[Any, Any, Ref]:
        """Start a child and wait until it is up (S23). It ends when I end.

        Args:
            id: its place below me, unique among my children; made up if not given.
            name: register it under this name before it starts (S26).
            at: the place of a child of mine that has ended: this is its next incarnation.
            link: its abnormal end is an exit signal to me (S43). monitor: its end sends me a Down.
            start_timeout: seconds for `starting`; None waits for ever (S27).

        Raises:
            StartError: it did not start; nothing of it is left (S24). StartIgnored: it chose not to (S25).
        """
        return start(
            self._cell,
            cls,
            args,
            kwargs,
            id=id,
            name=name,
            at=at,
            link=link,
            monitor=monitor,
            start_timeout=start_timeout,
            priority=priority,
            max_mailbox=max_mailbox,
        )

    def stop(self, reason: object = None) -> None:
        """End myself after this handler, with reason Normal unless another is given."""
        order_end(self._cell, Normal() if reason is None else reason, interrupt=False)

    async def stop_actor(
        self, dest: Destination, reason: object = None, timeout: float | None = None
    ) -> object:
        """Tell an actor to end, wait until it has, and return its reason; the reason asked for is Shutdown().

        Raises:
            AskTimeout: it has not ended in time; the order stands (S35).
            NoProc: no such name or path. A pid or ref that has ended already returns its reason.
        """
        me, wanted = self._cell, Shutdown() if reason is None else reason
        return await stopping.stop_and_wait(me.kernel, me, dest, wanted, timeout)

    def exit(self, dest: Destination, reason: object) -> None:
        """Send an exit signal (S36). Nothing happens if nobody is there."""
        stopping.send_exit(self._cell.kernel, self._cell, dest, reason)

    def kill(self, dest: Destination) -> None:
        """End an actor now, whatever it is doing (S94). Nothing happens if nobody is there."""
        self._cell.kernel.kill(dest)

    async def wait_stopped(self, dest: Destination) -> object:
        """Wait until an actor has ended; return its reason. At once if it has."""
        return await stopping.wait_stopped(self._cell.kernel, dest)

    def link(self, dest: Destination) -> None:
        """Link with an actor: when one of us ends abnormally, so does the other, unless it traps exits (S41)."""
        links.link(self._cell, dest)

    def unlink(self, dest: Destination, *, flush: bool = False) -> None:
        """End a link. `flush` also removes an Exit of that actor that waits already (S44)."""
        links.unlink(self._cell, dest, flush=flush)

    def monitor(self, dest: Destination) -> Monitor:
        """Watch an actor: when it ends I get one `Down` (S46)."""
        return links.monitor(self._cell, dest)

    def demonitor(self, monitor: Monitor, *, flush: bool = False) -> bool:
        """End a watch; no Down comes after this. `flush` also removes one that waits. True if it was active (S48)."""
        return links.demonitor(self._cell, monitor, flush=flush)

    # Names and groups.

    def register(self, name: str, dest: Destination | None = None) -> None:
        """Give a name to me, or to another living actor.

        Raises:
            NameTaken: someone else holds it (S78).
        """
        self._cell.kernel.register(name, dest if dest is not None else self.pid)

    def unregister(self, name: str) -> None:
        """Take a name back."""
        self._cell.kernel.names.unregister(name)

    def whereis(self, name: str) -> Ref | None:
        """Return who holds a name (S79)."""
        return self._cell.kernel.whereis(name)

    def join(self, group: str) -> None:
        """Add a membership of mine (S82)."""
        self._cell.kernel.groups.join(group, self._cell)

    def leave(self, group: str) -> None:
        """Remove a membership of mine.

        Raises:
            NotJoined: I have none.
        """
        self._cell.kernel.groups.leave(group, self._cell)

    # Time.

    async def sleep(self, seconds: float) -> None:
        """Wait on the VM's clock, never shorter (S87)."""
        await self._cell.kernel.sleep(seconds)

    def send_after(self, seconds: float, dest: Destination, event: object) -> TimerRef:
        """Send an event in `seconds` of the VM's clock, never earlier (S86, S87)."""
        return alarms.send_after(self._cell, seconds, dest, event)

    def send_interval(self, seconds: float, dest: Destination, event: object) -> TimerRef:
        """Send an event every `seconds`, without drift and without bursts (S90), until cancelled or I end."""
        return alarms.send_interval(self._cell, seconds, dest, event)

    def cancel(self, timer: TimerRef) -> float | None:
        """Cancel a timer; return the seconds that were left, None if it had fired or been cancelled (S86)."""
        return self._cell.kernel.timers.cancel(timer.timer)

    def idle_timeout(self, seconds: float | None) -> None:
        """Get a `Timeout` event after `seconds` without any event; None switches it off (S33)."""
        alarms.idle_timeout(self._cell, seconds)

    # Work beside the mailbox.

    def pipe(
        self,
        work: Awaitable[T],
        into: Callable[[T], object] | None = None,
        on_error: Callable[[BaseException], object] | None = None,
    ) -> asyncio.Task[None]:
        """Run something while the mailbox stays open; its result comes back to me as an event.

        Args:
            work: a coroutine or any awaitable. It is cancelled when I end (S97).
            into: makes the event from the result; without it the result itself is sent, unless it is None.
            on_error: makes an event from its error; without it the error ends me (S97).
        """
        return tasks.pipe(self._cell, work, into, on_error)

    def run_blocking(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """Run a blocking function in a thread and wait for its result (S96)."""
        return tasks.run_blocking(self._cell.kernel, function, *args)

    @contextmanager
    def protected(self) -> Iterator[None]:
        """A section that an orderly stop does not interrupt (S95). A kill does."""
        more = self._cell.extras()
        more.protected += 1
        try:
            yield
        finally:
            more.protected -= 1

    @contextmanager
    def waiting(self, reason: WaitReason) -> Iterator[None]:
        """Say what the handler waits for, for as long as this section lasts."""
        cell = self._cell
        more = cell.extras()
        entry = (reason, cell.kernel.now())
        more.waiting.append(entry)
        try:
            yield
        finally:
            more.waiting.remove(entry)

    def report(self, report: Report) -> None:
        """Hand a report to the VM's observers."""
        self._cell.kernel.emit(report)


Actor.__avm_behaviour__ = Behaviour(Actor, {})

__all__ = ["Actor", "on"]
