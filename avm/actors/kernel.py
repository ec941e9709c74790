"""The kernel: what the cells of one VM share, and everything that concerns more than one of them.

It is handed a clock, randomness, a store for large bodies and named services; it knows no supervisors, no router and no
models. The VM makes one and puts the tree under it. All of it runs on one loop's thread; `tell` and the blocking ask
may be called from any thread (S101).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
import weakref
from asyncio import current_task
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import attrs

from avm.actors import links, mailbox
from avm.actors.actor import Actor, Behaviour
from avm.actors.cell import (
    DEAD,
    HELD,
    IDLE,
    READY,
    RESTING,
    STARTING,
    STATES,
    Cell,
    Letter,
    describe,
    leaves,
    stop_reason,
)
from avm.actors.crash import crash_report
from avm.actors.dispatch import Dispatcher
from avm.actors.event import ATOMS, Put, Request, is_event, is_plain, seal, seal_event
from avm.actors.hooks import CrashReport, DeadLetter, Observer, Report
from avm.actors.ref import DEFAULT_TIMEOUT, Pid, Ref
from avm.actors.registry import Groups, Names
from avm.actors.signals import (
    Down,
    Exit,
    Monitor,
    Normal,
    Other,
    Reply,
    Shutdown,
    Timeout,
    WaitReason,
    is_abnormal,
)
from avm.actors.timers import Deadlines, TimerRef, Timers
from avm.actors.zombies import Zombies
from avm.errors import (
    ActorDead,
    AskCycle,
    AskTimeout,
    AVMError,
    CallingSelf,
    EventError,
    NoProc,
    SpecError,
    StartError,
    StopError,
    VMError,
)
from avm.scheduler import Clock, LoopClock, Scheduler, SchedulerStatistics

if TYPE_CHECKING:
    from avm.scheduler import Worker

T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger("avm.kernel")

ASK_TIMEOUT = 60.0
HIGH_WATER = 10_000
LOW_WATER = 5_000
DIRECT_IN_A_ROW = 64
# A chain of handlers that wait for each other's ends is quiet for a turn or two between its links.
QUIET_TURNS = 12


class Strategy(Protocol):
    """A destination that picks receivers when something is sent: the router's strategies."""

    def resolve(self, event: object, kernel: Kernel) -> tuple[Cell, ...]:
        """Return the cells that get this event; none is a dead letter, or NoProc for an ask."""


Destination = Ref | Pid | str | Strategy
Tap = Callable[["str", "Cell | None", object], None]


@attrs.frozen(slots=True)
class KernelStatistics:
    """Counts of one kernel: `actors` alive now; the others since it began, `dead_letters` by reason."""

    actors: int
    started: int
    crashed: int
    restarts: int
    zombies: int
    timers: int
    late_replies: int
    dead_letters: dict[str, int]
    scheduler: SchedulerStatistics


class Guardian(Actor):
    """The root of a kernel's tree: handles nothing, outlives everything."""


class Kernel:
    """One actor system on the running event loop; use it with `async with`.

    Args:
        clock: monotonic time; default is the real one (S103).
        random: where jitter and choices come from.
        share: keeps bodies over 4 KiB: takes str or bytes, returns a handle and the shared object. None: by reference.
        services: what actors find with `self.service(name)`.
        observers: callables that take every `Report`.
        ask_timeout: seconds an ask waits by default.
        high_water, low_water: mailbox lengths that are reported (S11).
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        random: Random | None = None,
        store: Any = None,
        services: dict[str, Any] | None = None,
        observers: Iterable[Observer] = (),
        ask_timeout: float | None = ASK_TIMEOUT,
        high_water: int = HIGH_WATER,
        low_water: int = LOW_WATER,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.clock: Clock = clock if clock is not None else LoopClock(self.loop)
        self.now: Callable[[], float] = self.clock.now
        self.random = random if random is not None else Random()
        self.put: Put | None = store.share if store is not None else None
        self.services: dict[str, Any] = dict(services or {})
        if store is not None:
            self.services.setdefault("store", store)
        self.observers: list[Observer] = list(observers)
        self.ask_timeout = ask_timeout
        self.high_water = high_water
        self.low_water = low_water
        self.scheduler = Scheduler(self.loop, Dispatcher(self).work, self.bug)
        self.timers = Timers(self.clock)
        self.deadlines = Deadlines(self.timers, self.now)
        self.names = Names()
        self.groups = Groups()
        # Who gets what is published under a group's name; the router puts its topics here.
        self.audience: Callable[[str], tuple[Cell, ...]] = self.groups.members
        self.zombies = Zombies(self)
        self.dead_letters: Counter[str] = Counter()
        self.taps: list[Tap] = []
        self.quick = True
        self.boxes: list[deque[Letter]] = []
        self.late_replies = 0
        # Actors that still end although their parent is gone; nobody else reaches them from the root.
        self.orphans: dict[Cell, None] = {}
        self.on_interrupt: Callable[[], None] | None = None
        self.on_bug: Callable[[BaseException], None] | None = None
        # The actor whose handler runs directly in the task of whoever asked it, and how many more may in a row.
        self.inside: Cell | None = None
        self._direct = DIRECT_IN_A_ROW
        self._announcements = links.Announcements()
        self._serial = 0
        self._watches = 0
        self._alive = 0
        self.crashed = 0
        self._restarts = 0
        self._owners: dict[asyncio.Task[Any], Cell] = {}
        self._places: dict[str, dict[Cell, None]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False
        self._varied: dict[tuple[type, str | None, int | None], Behaviour] = {}
        self.root = Cell(self, Guardian.__avm_behaviour__, None, "root", 0)
        self.root.actor = Guardian()
        self.root.actor._cell = self.root

    async def __aenter__(self) -> Kernel:
        hooks = sys.get_asyncgen_hooks()
        self._first_of_loop = hooks.firstiter
        sys.set_asyncgen_hooks(firstiter=self._generator_begins)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, timeout: float = 5.0) -> None:
        """End all actors, youngest first and in order, kill what has not ended in `timeout` seconds (S102)."""
        if self._closed:
            return
        self._closed = True
        children = list((self.root.children or {}).values())
        for child in reversed(children):
            child.order_end(Shutdown())
        deadline = self.loop.time() + timeout
        while (left := list(self.cells())) and self.loop.time() < deadline:
            waiters: list[asyncio.Future[Any]] = [self._waiter(cell) for cell in left]
            await asyncio.wait(waiters, timeout=deadline - self.loop.time())
        self._kill_tree(self.root)
        for orphan in list(self.orphans):
            orphan.kill()
        self.root.state = DEAD
        for task in list(self._owners):
            task.cancel()
        if self._owners:
            await asyncio.wait(list(self._owners), timeout=1.0)
        await self.scheduler.close()
        self.timers.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        sys.set_asyncgen_hooks(firstiter=self._first_of_loop)

    # Starting.

    async def spawn(self, cls: type[Actor], *args: Any, **options: Any) -> Ref:
        """Start an actor directly under the root; options as `Actor.spawn`."""
        kwargs = options.pop("kwargs", None)
        return await self.spawn_from(self.root, cls, args, kwargs, **options)

    async def spawn_from(
        self,
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
        """Start a child of `parent`; see `Actor.spawn`."""
        cell = self._make(parent, cls, args, kwargs, id, name, at, priority, max_mailbox)
        if link:
            links.link(parent, cell)
        if monitor:
            self.monitor(parent, cell.pid)
        if cell.behaviour.has_starting:
            await self._started(cell, start_timeout)
        if at is not None:
            at.cell = cell
            self._restarts += 1
            return at
        return Ref(cell)

    def _make(
        self,
        parent: Cell,
        cls: type[Actor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        id: str | None,
        name: str | None,
        at: Ref | None,
        priority: str | None,
        max_mailbox: int | None,
    ) -> Cell:
        if parent.state == DEAD:
            raise ActorDead(
                f"{parent.pid_text} has ended and cannot start {getattr(cls, '__qualname__', cls)}."
            )
        if not (isinstance(cls, type) and issubclass(cls, Actor)):
            raise SpecError(f"spawn takes a subclass of Actor, got {cls!r}.")
        behaviour = cls.__avm_behaviour__
        if priority is not None or max_mailbox is not None:
            behaviour = self._vary(cls, priority, max_mailbox)
        self._serial += 1
        serial = self._serial
        place: str | int = serial if id is None else id
        if at is not None:
            place = self._vacant(parent, at)
        elif id is not None:
            self._check_id(parent, id)
        cell = Cell(self, behaviour, parent, place, serial)
        children = parent.children
        if children is None:
            children = parent.children = {}
        children[place] = cell
        self._alive += 1
        if type(place) is str:
            self._places.setdefault(place, {})[cell] = None
        if behaviour.has_starting:
            cell.state = STARTING
            cell.extras().start = self.loop.create_future()
        actor = cls.__new__(cls)
        actor._cell = cell
        cell.actor = actor
        try:
            if name is not None:
                self.names.register(name, cell)
            if args or kwargs or cls.__init__ is not object.__init__:
                actor.__init__(*args, **(kwargs or {}))  # type: ignore[misc]
        except BaseException as error:
            self._discard(cell, error)
            if isinstance(error, AVMError) and not isinstance(error, StartError) and name is not None:
                raise
            raise self._start_error(cell, error) from error
        if behaviour.has_starting:
            cell.queue.append(cell)
            if self.scheduler.active is None:
                self.scheduler.wake()
        elif cell.rest == RESTING and cell.state == RESTING:
            self.rest(cell)
        return cell

    # An actor whose __init__ failed leaves no report beyond the error: it never was.
    def _discard(self, cell: Cell, error: BaseException) -> None:
        cell.state = DEAD
        cell.quick = False
        cell.reason = error
        self.release(cell)
        cell._fail_asks(error)
        self._announcements.add(cell, error)
        cell.actor = None  # type: ignore[assignment]

    async def _started(self, cell: Cell, timeout: float | None) -> None:
        start = cell.extras().start
        assert start is not None
        if timeout is not None:
            self.deadlines.add(
                timeout,
                start,
                lambda seconds, cell, _: StartError(
                    f"{cell.pid_text} did not start: starting() took more than {seconds:g} s (start_timeout).",
                    Timeout(),
                    (cell.path,),
                ),
                cell,
            )
        try:
            await start
        except BaseException:
            if cell.is_alive():
                cell.kill()
            raise

    def _start_error(self, cell: Cell, error: BaseException) -> StartError:
        if isinstance(error, StartError):
            return error
        return StartError(f"{cell.pid_text} did not start: {describe(error)}.", error, (cell.path,))

    def _vary(self, cls: type[Actor], priority: str | None, max_mailbox: int | None) -> Behaviour:
        key = (cls, priority, max_mailbox)
        found = self._varied.get(key)
        if found is None:
            found = self._varied[key] = cls.__avm_behaviour__.varied(priority, max_mailbox)
        return found

    def _check_id(self, parent: Cell, id: str) -> None:
        if not isinstance(id, str) or not id or "/" in id:
            raise SpecError(f"the id of an actor must be a non-empty text without '/', got {id!r}.")
        if parent.children is not None and id in parent.children:
            holder = parent.children[id]
            raise SpecError(
                f"{parent.path or 'the root'} has a child {id!r} already: {holder.pid_text}. Choose another id."
            )

    def _vacant(self, parent: Cell, at: Ref) -> str | int:
        old = at.cell
        if old.parent is not parent:
            raise SpecError(f"{at!r} is not a place of a child of {parent.path or 'the root'}.")
        if old.is_alive():
            raise SpecError(f"{old.pid_text} lives; only the place of an actor that has ended can be filled.")
        return old.id

    # Finding.

    def find_cell(self, path: str) -> Cell | None:
        """Return the living actor at a path, None if there is none."""
        cell = self.root
        for part in path.split("/"):
            children = cell.children
            if not children:
                return None
            found = children.get(part)
            if found is None:
                head, _, number = part.rpartition("-")
                found = children.get(int(number)) if head and number.isdigit() else None
                if found is None or found.id_text != part:
                    return None
            cell = found
        return cell

    def find(self, path: str) -> Ref | None:
        """Return the ref of the living actor at a path, None if there is none."""
        cell = self.find_cell(path)
        return Ref(cell) if cell is not None else None

    def places(self, id: str) -> list[Cell]:
        """Return the living actors whose id is `id`, wherever they are in the tree."""
        return list(self._places.get(id, ()))

    def whereis(self, name: str) -> Ref | None:
        """Return the living holder of a registered name, None if there is none."""
        cell = self.names.whereis(name)
        return Ref(cell) if cell is not None else None

    def resolve(self, dest: Destination) -> Cell | None:
        """Return the living actor a destination means now, None if there is none: name, then path, then unique id."""
        if isinstance(dest, Ref):
            return dest.reach()
        if isinstance(dest, Pid):
            return dest.cell if dest.cell.is_alive() else None
        if isinstance(dest, str):
            found = self.names.whereis(dest)
            if found is None:
                found = self.find_cell(dest)
            if found is None:
                places = self._places.get(dest)
                found = next(iter(places)) if places is not None and len(places) == 1 else None
            return found
        raise EventError(
            f"a destination is a Ref, a Pid, a name, a path or a routing strategy; got {dest!r}."
        )

    def nobody(self, dest: object) -> NoProc:
        """Make the error for a destination that nobody is at."""
        if isinstance(dest, str):
            places = self._places.get(dest)
            if places:
                paths = ", ".join(c.path for c in places)
                return NoProc(f"{dest!r} is the id of {len(places)} actors: {paths}. Use one of these paths.")
            return NoProc(f"nobody is registered as {dest!r}, and no actor has that path or id.")
        if isinstance(dest, Pid):
            return NoProc(f"{dest!r} has ended ({describe(dest.cell.reason)}).")
        if isinstance(dest, Ref):
            return NoProc(f"no actor lives at {dest.path} now.")
        return NoProc(f"{dest!r} has no receiver now.")

    def current(self) -> Cell | None:
        """Return the actor whose handler or owned task the calling code is part of, None outside of any."""
        if self.inside is not None:
            return self.inside
        try:
            task: Any = current_task()
        except RuntimeError:
            return None
        worker = self.scheduler.workers.get(task)
        if worker is not None:
            cell: Any = worker.runnable
            return cell  # type: ignore[no-any-return]
        return self._owners.get(task)

    # Sending.

    def tell(self, dest: Destination, event: object, *, urgent: bool = False) -> None:
        """Send from outside of actors; from any thread (S101)."""
        if threading.get_ident() != self.thread:
            sealed = self._seal(event)
            self.loop.call_soon_threadsafe(self._tell_sealed, dest, *sealed)
            return
        self.send(None, dest, event, urgent=urgent)

    def _tell_sealed(self, dest: Destination, event: object, handles: tuple[object, ...] | None) -> None:
        self._deliver(None, dest, event, handles, None, urgent=False)

    def send(self, sender: Cell | None, dest: Destination, event: object, *, urgent: bool = False) -> None:
        """Send by the general way: any destination, taps, urgent events. Never fails for a missing receiver (S3)."""
        if sender is not None:
            if sender.state == DEAD:
                raise ActorDead(f"{sender.pid_text} has ended; its handler may not send any more.")
            if threading.get_ident() != self.thread:
                self.loop.call_soon_threadsafe(self._tell_sealed, dest, *self._seal(event))
                return
        sealed, handles = self._seal(event)
        self._deliver(sender, dest, sealed, handles, None, urgent=urgent)

    def _seal(self, event: object) -> tuple[object, tuple[object, ...] | None]:
        if is_event(event):
            readers = event.__avm_readers__  # type: ignore[attr-defined]
            if readers is None or is_plain(event, readers):
                return event, None
            return seal_event(event, readers, self.put)
        if type(event) in ATOMS:
            return seal(event, self.put)
        if isinstance(event, type) and "__avm_tag__" in vars(event):
            raise EventError(
                f"{event.__name__} is the class of an event; send an instance: {event.__name__}(...)."
            )
        raise EventError(
            f"{type(event).__module__}.{type(event).__qualname__} is not an event; mark the class with @event, "
            "or send a plain value such as a str."
        )

    def _deliver(
        self,
        sender: Cell | None,
        dest: Destination,
        event: object,
        handles: tuple[object, ...] | None,
        reply: asyncio.Future[Any] | None,
        *,
        urgent: bool,
    ) -> None:
        if isinstance(dest, (Ref, Pid, str)):
            target = self.resolve(dest)
            targets: Iterable[Cell] = (target,) if target is not None else ()
        elif hasattr(dest, "resolve"):
            targets = dest.resolve(event, self)
        else:
            raise EventError(
                f"a destination is a Ref, a Pid, a name, a path or a routing strategy; got {dest!r}."
            )
        letter = (event, sender, reply, handles)
        for target in targets:
            if self.taps:
                self._tap(target, sender, event)
            if urgent and target.behaviour.urgent:
                target.overtake(letter)
            else:
                target.receive(letter)
        if not targets:
            self.undelivered("dead" if isinstance(dest, (Ref, Pid)) else "nobody", _dest_text(dest), letter)

    def _targets(self, dest: Destination, event: object) -> tuple[Cell, ...]:
        if isinstance(dest, (Ref, Pid, str)):
            target = self.resolve(dest)
            return (target,) if target is not None else ()
        if hasattr(dest, "resolve"):
            return tuple(dest.resolve(event, self))
        raise EventError(
            f"a destination is a Ref, a Pid, a name, a path or a routing strategy; got {dest!r}."
        )

    def publish(self, sender: Cell | None, group: str, event: object) -> int:
        """Send to the audience of a group or topic now, once for each membership; sealed once (S83)."""
        sealed, handles = self._seal(event)
        members = self.audience(group)
        letter = (sealed, sender, None, handles)
        for member in members:
            if self.taps:
                self._tap(member, sender, sealed)
            member.receive(letter)
        return len(members)

    def tap(self, tap: Tap) -> None:
        """Call `tap(path, sender, event)` for everything that is sent from now on."""
        self.taps.append(tap)
        self._set_quick(False)

    def untap(self, tap: Tap) -> None:
        """End a tap."""
        if tap in self.taps:
            self.taps.remove(tap)
        if not self.taps:
            self._set_quick(True)

    def _set_quick(self, quick: bool) -> None:
        self.quick = quick
        for cell in self.cells():
            cell.quick = quick

    def _tap(self, target: Cell, sender: Cell | None, event: object) -> None:
        for tap in list(self.taps):
            try:
                tap(target.path, sender, event)
            except Exception as error:
                self.untap(tap)
                self.log(f"tap {tap!r} failed and was removed", error)

    async def tell_wait(self, sender: Cell | None, dest: Destination, event: object) -> None:
        """Send, waiting for room where the policy of the receiver is "block"."""
        target = self.resolve(dest) if isinstance(dest, (Ref, Pid, str)) else None
        if target is not None and target.behaviour.overflow == "block":
            await mailbox.room(self, target)
        self.send(sender, dest, event)

    # Asking.

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
        """Ask from anywhere on the loop's thread; see `Actor.ask`."""
        return self.ask_from(self.current(), dest, request, timeout)

    def ask_blocking(self, dest: Destination, request: Any, timeout: float | None = DEFAULT_TIMEOUT) -> Any:
        """Ask from another thread and block it until the reply is there (S101).

        Raises:
            VMError: called on the loop's own thread, which it would block for ever.
        """
        if threading.get_ident() == self.thread:
            raise VMError(
                "ask_blocking on the VM's own thread would wait for itself; use `await ask(...)` there."
            )
        return asyncio.run_coroutine_threadsafe(
            self.ask_from(None, dest, request, timeout), self.loop
        ).result()

    async def ask_from(
        self, sender: Cell | None, dest: Destination, request: Any, timeout: float | None
    ) -> Any:
        """Send a request and wait for the reply, as `sender` if it is given."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.ask_timeout
        elif timeout is not None:
            _check_timeout(timeout)
        try:
            target = dest.cell  # type: ignore[union-attr]
            readers = request.__avm_readers__
        except AttributeError:
            return await self._ask_slowly(sender, dest, request, timeout)
        if not target.quick or (target.state != IDLE and (target.state == DEAD or target.limit is not None)):
            return await self._ask_slowly(sender, dest, request, timeout)
        handles = None
        if readers is not None and not is_plain(request, readers):
            request, handles = seal_event(request, readers, self.put)
        future: asyncio.Future[Any] = self.loop.create_future()
        letter = (request, sender, future, handles)
        if sender is not None:
            if (
                sender.state == DEAD
                or target is sender
                or target.asking is not None
                or target.more is not None
            ):
                self._check_cycle(sender, target)
            if sender.more is not None or sender.asking is not None:
                return await self._ask_beside(sender, target, letter, timeout)
            sender.asking = target
        if target.state == IDLE:
            handler = target.behaviour.direct.get(request.__class__)
            if handler is not None and self._direct:
                # Nobody waits there and the handler cannot suspend: it may as well run here and now. Once in a
                # while it may not, so that someone who only asks does not keep the loop to himself.
                self._direct -= 1
                target.handle_direct(handler, letter)
                if future.done():
                    if sender is not None:
                        sender.asking = None
                    return future.result()
            else:
                self._direct = DIRECT_IN_A_ROW
                target.letter = letter
                target.state = READY
                target.queue.append(target)
                if self.scheduler.active is None:
                    self.scheduler.wake()
        else:
            target.receive(letter)
        if timeout is not None:
            self.deadlines.add(timeout, future, _too_late, target, request.__class__)
        if sender is None:
            return await future
        try:
            return await future
        finally:
            sender.asking = None

    async def _ask_slowly(
        self, sender: Cell | None, dest: Destination, request: Any, timeout: float | None
    ) -> Any:
        self._refuse_dead(sender)
        request, handles = self._seal(request)
        targets = self._targets(dest, request)
        if not targets:
            raise self.nobody(dest)
        if len(targets) > 1:
            raise EventError(
                f"an ask has one receiver, but {dest!r} stands for {len(targets)}; use tell, or ask each."
            )
        target = targets[0]
        if sender is not None:
            self._check_cycle(sender, target)
        if target.behaviour.overflow == "block" and target.limit is not None:
            await self._room_in_time(target, timeout)
            if not target.is_alive():
                raise self.nobody(target.pid)
        if self.taps:
            self._tap(target, sender, request)
        future: asyncio.Future[Any] = self.loop.create_future()
        letter = (request, sender, future, handles)
        if sender is not None:
            return await self._ask_beside(sender, target, letter, timeout)
        return await self._send_and_wait(target, letter, timeout)

    async def _room_in_time(self, target: Cell, timeout: float | None) -> None:
        if timeout is None:
            await mailbox.room(self, target)
            return
        waiting = self.loop.create_task(mailbox.room(self, target))
        expired: asyncio.Future[None] = self.loop.create_future()
        self.deadlines.add(timeout, expired, lambda *_: mailbox.full(target))
        try:
            await asyncio.wait((waiting, expired), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            expired.cancel()
        if not expired.cancelled():
            raise mailbox.full(target)

    # An ask of an actor that has others under way, or that is made by one of its tasks.
    async def _ask_beside(self, sender: Cell, target: Cell, letter: Letter, timeout: float | None) -> Any:
        more = sender.extras()
        blocking = not (more.tasks and asyncio.current_task() in more.tasks)
        if blocking:
            more.asking.append(target)
        try:
            return await self._send_and_wait(target, letter, timeout)
        finally:
            if blocking:
                more.asking.remove(target)

    async def _send_and_wait(self, target: Cell, letter: Letter, timeout: float | None) -> Any:
        future = letter[2]
        assert future is not None
        target.receive(letter)
        if timeout is not None:
            self.deadlines.add(timeout, future, _too_late, target, letter[0].__class__)
        return await future

    # Does `target`'s handler wait, through whatever chain of asks, for `sender`? (S18)
    def _check_cycle(self, sender: Cell, target: Cell) -> None:
        self._refuse_dead(sender)
        if sender.more is not None and sender.more.tasks:
            try:
                if asyncio.current_task() in sender.more.tasks:
                    return
            except RuntimeError:
                pass
        if target is sender:
            raise CallingSelf(
                f"{sender.pid_text} asks itself while it handles an event, and would wait for ever. "
                "Call the method, or use tell().",
                (sender.pid_text,),
            )
        chain: list[tuple[Cell, tuple[Cell, ...]]] = [(target, (sender, target))]
        seen = {target}
        while chain:
            cell, ring = chain.pop()
            for waited in _asked_by(cell):
                if waited is sender:
                    names = tuple(c.pid_text for c in ring)
                    raise AskCycle(
                        f"this ask closes a ring: {' asks '.join((*names, sender.pid_text))}. "
                        "One of them has to use tell(), pipe() or a deferred reply.",
                        names,
                    )
                if waited not in seen:
                    seen.add(waited)
                    chain.append((waited, (*ring, waited)))

    # Ending.

    def exit(self, dest: Destination, reason: object, sender: Cell | None = None) -> None:
        """Send an exit signal (S36)."""
        target = self.resolve(dest)
        if target is not None:
            if sender is not None and sender.state == DEAD:
                raise ActorDead(
                    f"{sender.pid_text} has ended; its handler may not send exit signals any more."
                )
            target.exit_signal(sender, reason, via_link=False)

    def kill(self, dest: Destination) -> None:
        """End an actor at once (S94); its children end with it."""
        target = self.resolve(dest)
        if target is not None:
            target.kill()

    async def stop_actor(
        self, dest: Destination, reason: object = None, timeout: float | None = None
    ) -> None:
        """End an actor in order and wait for it (S35).

        Raises:
            NoProc: it has ended already. AskTimeout: not ended in time; the order stands.
            StopError: it ended with another, abnormal reason.
        """
        target = self.resolve(dest)
        if target is None:
            raise self.nobody(dest)
        wanted = Normal() if reason is None else reason
        found = await self.stop_and_wait(self.current(), target.pid, wanted, timeout)
        if is_abnormal(found) and found != wanted:
            cause = found if isinstance(found, BaseException) else None
            raise StopError(
                f"{target.pid_text} ended with {describe(found)} when told to stop.", found
            ) from cause

    async def stop_and_wait(
        self, sender: Cell | None, dest: Destination, reason: object, timeout: float | None
    ) -> object:
        """Order an end and wait for it; return the reason. See `Actor.stop_actor`."""
        if timeout is not None:
            _check_timeout(timeout)
        target = self._cell_of(dest)
        if target is sender:
            raise CallingSelf(
                f"{target.pid_text} waits for its own end; use self.stop().", (target.pid_text,)
            )
        if target.is_alive():
            target.order_end(reason)
        if not target.is_alive():
            return target.reason
        waiter = self._waiter(target)
        if timeout is not None:
            self.deadlines.add(
                timeout,
                waiter,
                lambda *_: AskTimeout(f"{target.pid_text} has not ended in {timeout} s; the order stands."),
            )
        return await waiter

    async def wait_stopped(self, dest: Destination) -> object:
        """Wait for the end of an actor and return its reason."""
        target = self._cell_of(dest)
        if not target.is_alive():
            return target.reason
        return await self._waiter(target)

    # A pid or ref of one that has ended is fine here: its end is what is asked for.
    def _cell_of(self, dest: Destination) -> Cell:
        target = self.resolve(dest)
        if target is None:
            if isinstance(dest, (Ref, Pid)):
                return dest.cell
            raise self.nobody(dest)
        return target

    def _waiter(self, cell: Cell) -> asyncio.Future[object]:
        waiter: asyncio.Future[object] = self.loop.create_future()
        cell.extras().waiters.append(waiter)
        return waiter

    def _kill_tree(self, cell: Cell) -> None:
        for child in list((cell.children or {}).values()):
            self._kill_tree(child)
            child.kill()

    # What cells call.

    def release(self, cell: Cell) -> None:
        """The cell is dead: free its place, names, groups, timers and tasks, before anyone is told (S32)."""
        self._alive -= 1
        if self.orphans:
            self.orphans.pop(cell, None)
        parent = cell.parent
        if parent is not None and parent.children is not None and parent.children.get(cell.id) is cell:
            del parent.children[cell.id]
        if type(cell.id) is str:
            places = self._places.get(cell.id)
            if places is not None and places.pop(cell, cell) is None and not places:
                del self._places[cell.id]
        self.names.forget(cell)
        self.groups.forget(cell)
        more = cell.more
        if more is not None:
            for timer in list(more.timers):
                self.timers.cancel(timer)
            more.timers.clear()
            if more.idle_timer is not None:
                self.timers.cancel(more.idle_timer)
                more.idle_timer = None
            for task in list(more.tasks):
                more.tasks[task] = False
                task.cancel()

    def announce(self, cell: Cell, reason: object) -> None:
        """Tell links, monitors, waiters and children of an end."""
        self._announcements.add(cell, reason)

    def crash_report(self, cell: Cell, reason: object) -> CrashReport:
        """Make the report of an abnormal end (S76)."""
        return crash_report(cell, reason, self.now())

    def emit(self, report: Report) -> None:
        """Hand a report to all observers; one that raises is removed."""
        for observer in list(self.observers):
            try:
                observer(report)
            except Exception as error:
                if observer in self.observers:
                    self.observers.remove(observer)
                self.log(f"observer {observer!r} failed and was removed", error)

    def report_limit(self, make: Callable[[float], Report]) -> None:
        """Make and emit a report if anyone listens."""
        if self.observers:
            self.emit(make(self.now()))

    def undelivered(self, why: str, dest: str, letter: Letter) -> None:
        """Count a dead letter; an ask in it fails."""
        event, sender, reply, _ = letter
        self.dead_letters[why] += 1
        if reply is not None and not reply.done():
            reply.set_exception(NoProc(f"{dest} has ended."))
        if self.observers:
            sender_text = sender.pid_text if sender is not None else None
            self.emit(DeadLetter(at=self.now(), why=why, dest=dest, sender=sender_text, event=event))

    def count_unhandled(self, cell: Cell, event: object) -> None:
        """Count an event its receiver has no handler for."""
        sender = cell.current[1] if cell.current is not None else None
        self.undelivered("no_handler", cell.pid_text, (event, sender, None, None))

    def admit(self, cell: Cell, letter: Letter) -> bool:
        """Decide on an event for a bounded mailbox."""
        return mailbox.admit(self, cell, letter)

    def measure_state(self, cell: Cell) -> None:
        """Compare what an actor keeps with its `max_bytes` (S12)."""
        mailbox.measure_state(self, cell)

    def check_water(self, cell: Cell) -> None:
        """Compare a mailbox with the high and low marks."""
        mailbox.check_water(self, cell)

    def make_room(self, cell: Cell) -> None:
        """Let senders go on that wait for room."""
        mailbox.make_room(cell)

    def reason_of(self, error: BaseException) -> object:
        """Map what escaped a handler to an exit reason; a KeyboardInterrupt also stops the system (S98)."""
        if isinstance(error, Exception) and not isinstance(error, ExceptionGroup):
            return error
        if any(isinstance(e, KeyboardInterrupt) for e in leaves(error)) and self.on_interrupt is not None:
            self.on_interrupt()
        return stop_reason(error)

    def add_zombie(self, cell: Cell, worker: Worker) -> None:
        """A killed actor's handler is still inside an await."""
        self.zombies.add(cell, worker)

    def log(self, text: str, error: BaseException | None = None) -> None:
        """Log something an operator must see."""
        _log.error("%s: %s", text, describe(error) if error is not None else "", exc_info=error)

    def bug(self, error: BaseException) -> None:
        """The runtime itself failed: tell, and stop the system (S99)."""
        _log.critical("the runtime itself failed; this is a bug in avm", exc_info=error)
        if self.on_bug is not None:
            self.on_bug(error)

    # Links, monitors, names.

    def link(self, cell: Cell, dest: Destination) -> None:
        """Link a cell with a destination; nobody there is an exit signal NoProc (S42)."""
        target = self.resolve(dest)
        if target is None and isinstance(dest, (Ref, Pid)):
            target = dest.cell
        if target is None:
            cell.exit_signal(None, self.nobody(dest), via_link=True)
        else:
            links.link(cell, target)

    def unlink(self, cell: Cell, dest: Destination, *, flush: bool) -> None:
        """End a link."""
        target = self.resolve(dest)
        if target is None and isinstance(dest, (Ref, Pid)):
            target = dest.cell
        if target is None:
            return
        links.unlink(cell, target)
        if flush and cell.lane:
            pid = target.pid
            kept = [x for x in cell.lane if not (isinstance(x[0], Exit) and x[0].pid == pid)]
            cell.lane = deque(kept)

    def monitor(self, cell: Cell, dest: Destination) -> Monitor:
        """Watch a destination for a cell."""
        self._watches += 1
        name = dest if isinstance(dest, str) else None
        target = self.resolve(dest)
        if target is None and isinstance(dest, (Ref, Pid)):
            target = dest.cell
        if target is None:
            watch = Monitor(self._watches)
            cell.receive((Down(watch, None, name, self.nobody(dest)), None, None, None))
            return watch
        return links.monitor(cell, target, self._watches, name)

    def demonitor(self, cell: Cell, watch: Monitor, *, flush: bool) -> bool:
        """End a watch; with `flush` a Down that waits is removed."""
        active = links.demonitor(cell, watch)
        if flush and not active:
            cell.drop(lambda event: isinstance(event, Down) and event.monitor == watch)
        return active

    def register(self, name: str, dest: Destination) -> None:
        """Give a name to a living actor.

        Raises:
            NameTaken: it has another holder, or the actor has ended (S78).
        """
        target = self._cell_of(dest)
        self.names.register(name, target)

    def service(self, name: str) -> Any:
        """Return a service of the VM.

        Raises:
            KeyError: there is none of that name.
        """
        try:
            return self.services[name]
        except KeyError:
            known = ", ".join(sorted(self.services)) or "none"
            raise KeyError(f"this VM has no service {name!r}; it has: {known}.") from None

    # Time.

    def send_after(self, cell: Cell, seconds: float, dest: Destination, event: object) -> TimerRef:
        """Send an event later; to a pid the timer ends with that pid, to a name it is resolved then (S89)."""
        _check_timeout(seconds, "seconds")
        self._refuse_dead(cell)
        sealed, handles = self._seal(event)
        owner = dest.cell if isinstance(dest, Pid) else None
        timer = self.timers.after(seconds, lambda: fire())

        def fire() -> None:
            if owner is not None:
                owner.extras().timers.pop(timer, None)
            self._deliver(cell, dest, sealed, handles, None, urgent=False)

        if owner is not None:
            if not owner.is_alive():
                self.timers.cancel(timer)
            else:
                owner.extras().timers[timer] = None
        return TimerRef(timer)

    def send_interval(self, cell: Cell, seconds: float, dest: Destination, event: object) -> TimerRef:
        """Send an event again and again until the cell ends; late ticks are skipped, not made up for (S90)."""
        if _check_timeout(seconds, "seconds") <= 0:
            raise ValueError(f"seconds of an interval must be more than 0, got {seconds!r}.")
        self._refuse_dead(cell)
        sealed, handles = self._seal(event)
        began = self.now()
        more = cell.extras()

        def fire() -> None:
            more.timers.pop(ref.timer, None)
            ticks = int((self.now() - began) / seconds + 1e-9) + 1
            ref.timer = self.timers.at(began + ticks * seconds, fire)
            more.timers[ref.timer] = None
            self._deliver(cell, dest, sealed, handles, None, urgent=False)

        ref = TimerRef(self.timers.after(seconds, fire))
        more.timers[ref.timer] = None
        return ref

    def idle_timeout(self, cell: Cell, seconds: float | None) -> None:
        """Arm or switch off the idle timeout of an actor."""
        if seconds is not None:
            _check_timeout(seconds, "seconds")
        more = cell.extras()
        more.idle_seconds = seconds
        if more.idle_timer is not None:
            self.timers.cancel(more.idle_timer)
            more.idle_timer = None
        cell.rest = RESTING if seconds is not None or cell.behaviour.slow else IDLE
        if cell.state in (IDLE, RESTING):
            cell.state = cell.rest
            self.rest(cell)

    def rest(self, cell: Cell) -> None:
        """A cell that is not left in peace when idle became idle: arm what it asked for."""
        more = cell.more
        if cell.behaviour.hibernate_after is None and (more is None or more.idle_seconds is None):
            return
        more = cell.extras()
        if more.idle_timer is not None:
            return
        if more.idle_seconds is not None:
            more.idle_timer = self.timers.after(more.idle_seconds, partial(self._idle_too_long, cell))
        elif not more.hibernating and cell.behaviour.hibernate_after is not None:
            more.idle_timer = self.timers.after(
                cell.behaviour.hibernate_after, partial(self._hibernate, cell)
            )

    def _idle_too_long(self, cell: Cell) -> None:
        more = cell.extras()
        more.idle_timer = None
        more.idle_seconds = None
        cell.rest = RESTING if cell.behaviour.slow else IDLE
        cell.receive((Timeout(), None, None, None))

    def _hibernate(self, cell: Cell) -> None:
        more = cell.extras()
        more.idle_timer = None
        if cell.state == RESTING and not more.hibernating:
            try:
                cell.actor.hibernating()
            except Exception as error:
                cell.order_end(error)
                return
            more.hibernating = True

    # The order of events.

    def continue_with(self, cell: Cell, event: object) -> None:
        """Put an event before all that waits (S28)."""
        self._refuse_dead(cell)
        sealed, handles = self._seal(event)
        more = cell.extras()
        if cell.lane is None:
            cell.lane = deque()
        cell.lane.insert(more.continuing, (sealed, cell, None, handles))
        more.continuing += 1
        cell.attract()

    def retry_postponed(self, cell: Cell) -> None:
        """Put postponed events back at the head of the mailbox, oldest first (S7)."""
        more = cell.more
        if more is None or not more.postponed:
            return
        box = cell.mailbox
        if box is None:
            box = cell.mailbox = deque()
        first = cell.waiting_letter()
        if first is not None:
            box.appendleft(first)
            cell.letter = None
        box.extendleft(reversed(more.postponed))
        more.postponed = []
        if cell.state in (IDLE, RESTING):
            cell.make_ready()

    # Work beside the mailbox.

    def own(self, cell: Cell, work: Coroutine[Any, Any, T], *, fatal: bool = True) -> asyncio.Task[T]:
        """Run a coroutine as a task that belongs to an actor (S97); with `fatal` its failure ends the actor."""
        if not cell.is_alive():
            work.close()
            self._refuse_dead(cell)
        task = self.loop.create_task(_shielded(work))
        more = cell.extras()
        more.tasks[task] = fatal
        self._owners[task] = cell
        task.add_done_callback(partial(self._task_ended, cell))
        return task

    def _task_ended(self, cell: Cell, task: asyncio.Task[Any]) -> None:
        self._owners.pop(task, None)
        more = cell.extras()
        fatal = more.tasks.pop(task, False)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Escaped):
            error = error.error
        if error is not None and fatal and cell.is_alive():
            cell.order_end(self.reason_of(error))

    def pipe(
        self,
        cell: Cell,
        work: Awaitable[Any],
        into: Callable[[Any], object] | None,
        on_error: Callable[[BaseException], object] | None,
    ) -> asyncio.Task[None]:
        """Run something beside the mailbox; see `Actor.pipe`."""

        async def run() -> None:
            try:
                result = await work
            except Exception as error:
                if on_error is None:
                    raise
                event = on_error(error)
            else:
                event = into(result) if into is not None else result
            if event is not None and cell.is_alive():
                self.send(cell, cell.pid, event)

        return self.own(cell, run())

    def run_blocking(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """Run a function in a thread of the kernel's own pool."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(thread_name_prefix="avm-blocking")
        context = contextvars.copy_context()
        return self.loop.run_in_executor(self._threads, partial(context.run, function, *args))

    def _refuse_dead(self, cell: Cell | None) -> None:
        if cell is not None and cell.state == DEAD:
            raise ActorDead(f"{cell.pid_text} has ended; its handler may not act any more.")

    def _generator_begins(self, generator: Any) -> None:
        if self._first_of_loop is not None:
            self._first_of_loop(generator)
        cell = self.current() if threading.get_ident() == self.thread else None
        if cell is not None and cell.is_alive():
            cell.extras().generators.append(weakref.ref(generator))

    # Looking at it.

    def suspend(self, dest: Destination) -> None:
        """Let an actor's events wait after the present one, until `resume`. Signals still act."""
        cell = self._cell_of(dest)
        cell.extras().hold = True
        cell.alert = True
        if cell.state in (IDLE, RESTING):
            cell.state = HELD

    def resume(self, dest: Destination) -> None:
        """Let a suspended actor go on."""
        cell = self._cell_of(dest)
        more = cell.extras()
        more.hold = False
        if cell.state == HELD:
            cell.state = cell.rest
            if cell.length() or cell.ending is not None:
                cell.make_ready()

    def cells(self) -> Iterable[Cell]:
        """Go through all living actors, parents before children, those first whose parent is gone."""
        pending = [*self.orphans, *(self.root.children or {}).values()]
        while pending:
            cell = pending.pop()
            yield cell
            if cell.children:
                pending.extend(cell.children.values())

    def state_of(self, cell: Cell) -> str:
        """Name the state of an actor: starting, idle, ready, running, waiting, suspended, stopping, dead."""
        if cell.state == READY and self.scheduler.worker_of(cell) is not None:
            return "running" if cell is self.scheduler.current() else "waiting"
        return STATES[cell.state]

    def wait_of(self, cell: Cell) -> tuple[WaitReason, float | None] | None:
        """Return what the handler of an actor waits for and since when (VM clock, None if not known); None if not."""
        if self.state_of(cell) != "waiting":
            return None
        more = cell.more
        if more is not None and more.waiting:
            return more.waiting[-1]
        asked = _asked_by(cell)
        if asked:
            return (Reply(asked[0].path), None)
        return (Other(), None)

    def is_quiet(self) -> bool:
        """Tell whether no actor is ready and no handler runs but those that wait."""
        return self.scheduler.is_quiet()

    async def idle(self) -> None:
        """Wait until nothing has been ready or running for `QUIET_TURNS` turns of the loop; for tests.

        Handlers that wait do not count, so what a timer, a socket or a thread will start later is not waited for.
        """
        quiet = 0
        while quiet < QUIET_TURNS:
            await asyncio.sleep(0)
            quiet = quiet + 1 if self.is_quiet() else 0

    def statistics(self) -> KernelStatistics:
        """Count everything."""
        return KernelStatistics(
            actors=self._alive,
            started=self._serial,
            crashed=self.crashed,
            restarts=self._restarts,
            zombies=len(self.zombies),
            timers=len(self.timers),
            late_replies=self.late_replies,
            dead_letters=dict(self.dead_letters),
            scheduler=self.scheduler.statistics(),
        )


class Escaped(Exception):
    """What would stop the whole loop if it left a task: SystemExit or KeyboardInterrupt (S98, S99)."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


async def _shielded(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise Escaped(error) from error


def _asked_by(cell: Cell) -> tuple[Cell, ...]:
    asked: tuple[Cell, ...] = (cell.asking,) if cell.asking is not None else ()
    return (*asked, *cell.more.asking) if cell.more is not None else asked


def _too_late(timeout: float, target: Cell, request: type) -> AskTimeout:
    return AskTimeout(
        f"{target.pid_text} did not answer {request.__name__} in {timeout:g} s; it still may handle it, "
        "and the reply will be dropped. Give ask() a longer timeout=, or look at what it waits for."
    )


def _check_timeout(timeout: object, what: str = "timeout") -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise ValueError(f"{what} must be a number of seconds, 0 or more, got {timeout!r}.")
    return float(timeout)


def _dest_text(dest: object) -> str:
    if isinstance(dest, Pid):
        return repr(dest)
    return dest.path if isinstance(dest, Ref) else str(dest)


__all__ = ["Destination", "Kernel", "KernelStatistics", "Strategy"]
