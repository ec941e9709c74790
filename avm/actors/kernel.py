"""The kernel: what the actors of one VM share, and the way in for everyone who is no actor.

It is handed a clock, randomness, a store for large bodies and named services; it knows no supervisors, no router and no
models. The VM makes one and puts the tree under it. All of it runs on one loop's thread; `tell` and the blocking ask
may be called from any thread (S101). The work is in the functions that its methods name.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import weakref
from asyncio import current_task
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from avm.actors import delivery, destination, links, mailbox, status, stopping, tasks
from avm.actors.actor import Actor
from avm.actors.asking import DIRECT_IN_A_ROW, ask_blocking, ask_from
from avm.actors.cell import Cell, Letter
from avm.actors.destination import Destination, Strategy
from avm.actors.dispatch import Dispatcher
from avm.actors.ending import refuse_dead
from avm.actors.event import Put, Request
from avm.actors.hooks import Observer, Report
from avm.actors.reasons import describe
from avm.actors.ref import DEFAULT_TIMEOUT, Ref
from avm.actors.registry import Groups, Names
from avm.actors.start import start
from avm.actors.state import DEAD
from avm.actors.status import KernelStatistics
from avm.actors.timers import Deadlines, Timers
from avm.actors.tree import Tree
from avm.actors.zombies import Zombies
from avm.errors import NoProc
from avm.scheduler import Clock, LoopClock, Scheduler

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from avm.actors.signals import WaitReason

R = TypeVar("R")

_log = logging.getLogger("avm.kernel")

ASK_TIMEOUT = 60.0
HIGH_WATER = 10_000
LOW_WATER = 5_000
CLOSE_TIMEOUT = 5.0
# A chain of handlers that wait for each other's ends is quiet for a turn or two between its links.
QUIET_TURNS = 12


class Guardian(Actor):
    """The root of a kernel's tree: handles nothing, outlives everything."""


class Kernel:
    """One actor system on the running event loop; use it with `async with`.

    Args:
        clock: monotonic time; default is the real one (S103).
        random: where jitter and choices come from.
        store: keeps bodies over 4 KiB: `share` takes str or bytes, returns a handle and the shared object. It is also
            the service "store". None: large bodies go by reference.
        services: what actors find with `self.service(name)`.
        observers: callables that take every `Report`.
        ask_timeout: seconds an ask waits by default; None waits for ever.
        high_water, low_water: mailbox lengths that are reported (S11).
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_first_of_loop",
        "announcements",
        "ask_timeout",
        "audience",
        "boxes",
        "clock",
        "crashed",
        "dead_letters",
        "deadlines",
        "depth",
        "direct_left",
        "groups",
        "high_water",
        "inside",
        "late_replies",
        "loop",
        "low_water",
        "monitors",
        "names",
        "now",
        "observers",
        "on_bug",
        "on_interrupt",
        "owners",
        "put",
        "quick",
        "random",
        "restarts",
        "root",
        "scheduler",
        "services",
        "started",
        "taps",
        "thread",
        "threads",
        "timers",
        "tree",
        "zombies",
    )

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
        self.taps: list[delivery.Tap] = []
        # No taps: actors may take the quick way, in this thread (S101).
        self.quick = self.thread
        # What an operator of the VM is called for.
        self.on_interrupt: Callable[[], None] | None = None
        self.on_bug: Callable[[BaseException], None] | None = None
        # The actor whose handler runs directly in the task of whoever asked it, and how many more may in a row.
        self.inside: Cell | None = None
        self.direct_left = DIRECT_IN_A_ROW
        self.depth = 0
        # Empty deques for the next mailboxes.
        self.boxes: list[deque[Letter]] = []
        self.announcements = links.Announcements()
        self.zombies = Zombies(self)
        # Tasks beside mailboxes, by whom they belong to, and the pool for blocking functions.
        self.owners: dict[asyncio.Task[Any], Cell] = {}
        self.threads: ThreadPoolExecutor | None = None
        # Counts since the kernel began; `started` is also the last serial number of an actor, as `monitors` of watches.
        self.started = self.restarts = self.crashed = self.monitors = self.late_replies = 0
        self.dead_letters: Counter[str] = Counter()
        self._closed = False
        self._first_of_loop: Callable[[Any], Any] | None = None
        self.root = Cell(self, Guardian.__avm_behaviour__, None, "root", 0)
        self.root.actor = Guardian()
        self.root.actor._cell = self.root
        self.tree = Tree(self.root)

    # Life.

    async def __aenter__(self) -> Kernel:
        self._first_of_loop = sys.get_asyncgen_hooks().firstiter
        sys.set_asyncgen_hooks(firstiter=self._generator_begins)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """End all actors, youngest first and in order, kill what has not ended in `timeout` seconds (S102)."""
        if self._closed:
            return
        self._closed = True
        await stopping.stop_all(self, timeout)
        self.root.state = DEAD
        await tasks.cancel_all(self)
        await self.scheduler.close()
        self.timers.close()
        if self.threads is not None:
            self.threads.shutdown(wait=False, cancel_futures=True)
        if sys.get_asyncgen_hooks().firstiter == self._generator_begins:
            sys.set_asyncgen_hooks(firstiter=self._hook_before())

    # Whoever closes last of several kernels on a loop gives back what was there before all of them.
    def _hook_before(self) -> Callable[[Any], Any] | None:
        hook = self._first_of_loop
        owner = getattr(hook, "__self__", None)
        return owner._hook_before() if isinstance(owner, Kernel) and owner._closed else hook

    # Generators that handlers begin are closed when their actor ends.
    def _generator_begins(self, generator: Any) -> None:
        if self._first_of_loop is not None:
            self._first_of_loop(generator)
        cell = self.current()
        if cell is not None and cell.is_alive():
            kept = cell.extras().generators
            kept[weakref.ref(generator, lambda weak: kept.pop(weak, None))] = None

    async def spawn(
        self, cls: type[Actor], *args: Any, kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Ref:
        """Start an actor directly under the root and wait until it is up; options and errors as `Actor.spawn`."""
        self._refuse_zombie()
        return await start(self.root, cls, args, kwargs, **options)

    def exit(self, dest: Destination, reason: object, sender: Cell | None = None) -> None:
        """Send an exit signal (S36). Nothing happens if nobody is there."""
        self._refuse_zombie()
        stopping.send_exit(self, sender, dest, reason)

    def kill(self, dest: Destination) -> None:
        """End an actor at once (S94); its children end with it. Nothing happens if nobody is there."""
        self._refuse_zombie()
        target = self.resolve(dest)
        if target is not None:
            target.kill()

    async def stop_actor(
        self, dest: Destination, reason: object = None, timeout: float | None = None
    ) -> None:
        """End an actor in order and wait for it, `timeout` seconds or for ever (S35). The default reason is Normal().

        Raises:
            NoProc: it has ended already. AskTimeout: not ended in time; the order stands.
            StopError: it ended with another, abnormal reason.
        """
        self._refuse_zombie()
        await stopping.stop_living(self, dest, reason, timeout)

    async def stop_and_wait(
        self, sender: Cell | None, dest: Destination, reason: object, timeout: float | None
    ) -> object:
        """Order an end and wait for it, as `sender` if it is given; return the reason. See `Actor.stop_actor`."""
        return await stopping.stop_and_wait(self, sender, dest, reason, timeout)

    async def wait_stopped(self, dest: Destination) -> object:
        """Wait for the end of an actor and return its reason; at once if it has ended.

        Raises:
            NoProc: no such name, path or id.
        """
        return await stopping.wait_stopped(self, dest)

    def suspend(self, dest: Destination) -> None:
        """Let an actor's events wait after the present one, until `resume`. Signals still act."""
        mailbox.suspend(destination.cell_of(self, dest))

    def resume(self, dest: Destination) -> None:
        """Let a suspended actor go on."""
        mailbox.resume(destination.cell_of(self, dest))

    # Finding.

    def find_cell(self, path: str) -> Cell | None:
        """Return the living actor at a path, None if there is none."""
        return self.tree.find(path)

    def find(self, path: str) -> Ref | None:
        """Return the ref of the living actor at a path, None if there is none."""
        cell = self.tree.find(path)
        return Ref(cell) if cell is not None else None

    def places(self, id: str) -> list[Cell]:
        """Return the living actors whose id is `id`, wherever they are in the tree."""
        return self.tree.with_id(id)

    def whereis(self, name: str) -> Ref | None:
        """Return the living holder of a registered name, None if there is none."""
        cell = self.names.whereis(name)
        return Ref(cell) if cell is not None else None

    def register(self, name: str, dest: Destination) -> None:
        """Give a name to a living actor.

        Raises:
            NameTaken: it has another holder, or the actor has ended (S78). NoProc: nobody is there.
        """
        self._refuse_zombie()
        self.names.register(name, destination.cell_of(self, dest))

    def resolve(self, dest: Destination) -> Cell | None:
        """Return the living actor a destination means now, None if there is none: name, then path, then unique id.

        Raises:
            EventError: it is no destination, or a strategy, which needs an event to choose by.
        """
        return destination.resolve(self, dest)

    def nobody(self, dest: object) -> NoProc:
        """Make the error for a destination that nobody is at."""
        return destination.nobody(self, dest)

    def current(self) -> Cell | None:
        """Return the actor whose handler or owned task the calling code is part of, None outside of any."""
        if threading.get_ident() != self.thread:
            return None
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
        return self.owners.get(task)

    # What a killed handler does through a ref or the kernel is refused like what it does through its actor (S94). While
    # an end is under way it is the runtime's observers who speak, in the task of the one who ends.
    def _refuse_zombie(self) -> None:
        if self.inside is None and not self.zombies.kept and not self.owners:
            # There are none, nor tasks that an actor may have left behind; this is nearly always so, and quick.
            return
        cell = self.current()
        if cell is not None and cell.state == DEAD and cell.actor is None:
            refuse_dead(cell)

    def service(self, name: str, *default: Any) -> Any:
        """Return a service of the VM; `default`, if given, where there is none of that name.

        Raises:
            KeyError: there is none, and no default.
        """
        if name in self.services:
            return self.services[name]
        if default:
            return default[0]
        known = ", ".join(sorted(self.services)) or "none"
        raise KeyError(f"this VM has no service {name!r}; it has: {known}.")

    # Events.

    def tell(self, dest: Destination, event: object, *, urgent: bool = False) -> None:
        """Send from outside of actors; from any thread (S101). Never fails for a missing receiver (S3).

        Raises:
            PackError, EventError: it is nothing that can be sent (S4).
            ActorDead: the handler of an actor that was killed called it (S94).
        """
        self._refuse_zombie()
        delivery.send(self, None, dest, event, urgent=urgent)

    def send(self, sender: Cell | None, dest: Destination, event: object, *, urgent: bool = False) -> None:
        """Send as `sender`; see `Actor.tell`."""
        delivery.send(self, sender, dest, event, urgent=urgent)

    def publish(self, sender: Cell | None, group: str, event: object) -> int:
        """Send to the audience of a group or topic now, once for each membership (S83); return how many copies."""
        self._refuse_zombie()
        return delivery.publish(self, sender, group, event)

    def tap(self, tap: delivery.Tap) -> None:
        """Call `tap(path, sender, event)` for everything that is sent from now on."""
        delivery.tap(self, tap)

    def untap(self, tap: delivery.Tap) -> None:
        """End a tap."""
        delivery.untap(self, tap)

    async def tell_wait(self, sender: Cell | None, dest: Destination, event: object) -> None:
        """Send as `sender`, first waiting for room where the policy of the receiver is "block" (S10)."""
        await delivery.tell_wait(self, sender, dest, event)

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
        return ask_from(self, self.current(), dest, request, timeout)

    def ask_blocking(self, dest: Destination, request: Any, timeout: float | None = DEFAULT_TIMEOUT) -> Any:
        """Ask from another thread and block it until the reply is there (S101); see `Actor.ask`.

        Raises:
            VMError: called on the loop's own thread, which it would block for ever.
        """
        return ask_blocking(self, dest, request, timeout)

    # Time.

    async def sleep(self, seconds: float) -> None:
        """Wait on the VM's clock."""
        await self.timers.sleep(seconds)

    # Looking at it.

    def cells(self) -> Iterable[Cell]:
        """Go through all living actors, parents before children, those first whose parent is gone."""
        return iter(self.tree)

    def state_of(self, cell: Cell) -> str:
        """Name the state of an actor: starting, idle, ready, running, waiting, suspended, stopping, dead."""
        return status.state_of(cell)

    def wait_of(self, cell: Cell) -> tuple[WaitReason, float | None] | None:
        """Return what the handler of an actor waits for and since when (VM clock, None if not known); None if not."""
        return status.wait_of(cell)

    def statistics(self) -> KernelStatistics:
        """Count everything."""
        return status.statistics(self)

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

    # What an operator is told.

    def emit(self, report: Report) -> None:
        """Hand a report to all observers; one that raises is removed."""
        for observer in list(self.observers):
            try:
                observer(report)
            except BaseException as error:
                # Somebody's end may be under way; nothing of another may get into that (S32, S99).
                if observer in self.observers:
                    self.observers.remove(observer)
                self.log(f"observer {observer!r} failed and was removed", error)

    def report_limit(self, make: Callable[[float], Report]) -> None:
        """Make a report of the present time (VM clock, seconds) and emit it, if anyone listens."""
        if self.observers:
            self.emit(make(self.now()))

    def log(self, text: str, error: BaseException | None = None) -> None:
        """Log something an operator must see."""
        _log.error("%s: %s", text, describe(error) if error is not None else "", exc_info=error)

    def bug(self, error: BaseException) -> None:
        """The runtime itself failed: tell, and stop the system (S99)."""
        _log.critical("the runtime itself failed; this is a bug in avm", exc_info=error)
        if self.on_bug is not None:
            self.on_bug(error)


__all__ = ["Destination", "Kernel", "KernelStatistics", "Strategy"]
