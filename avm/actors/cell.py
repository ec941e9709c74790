"""A cell: the runtime's side of one actor. Mailbox, state, the running of handlers, and the end.

An idle cell is an object with slots and nothing else: no task, no queue. The first event is kept in a slot of the
cell, a deque is made for the second and given back when the mailbox is empty. The scheduler calls `run` with a worker;
handlers run in place in that worker's task.

Signals never wait behind events (S9): they act on the cell at once, or stand in `lane`, which is emptied first.
`alert` is the one flag that the quick path looks at; whatever is out of the ordinary sets it.

The end is one synchronous step (S32, S94): dead for everyone, then names, groups and timers released, then asks failed,
then links and monitors fired. A killed actor's handler may still be inside an `await`: it is a zombie, its worker is
cancelled again and again (S95), and whatever it does through avm is refused, because its cell is dead.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from avm.actors.event import ATOMS, INLINE_LIMIT, is_plain, seal
from avm.actors.ref import Pid, Ref
from avm.actors.signals import (
    Cancelled,
    Exit,
    Ignore,
    Kill,
    Killed,
    Monitor,
    Normal,
    Shutdown,
    StopActor,
    WaitReason,
    is_abnormal,
)
from avm.errors import ActorDead, ActorExited, NoHandler, Refuse, StartError, StartIgnored

if TYPE_CHECKING:
    from avm.actors.actor import Actor, Behaviour
    from avm.actors.kernel import Kernel
    from avm.actors.timers import Timer
    from avm.scheduler import Scheduler, Worker

IDLE = 0  # nothing to do; a send may use the quick path
READY = 1  # in the ready queue, or a worker is inside of it
STARTING = 2  # `starting` has not returned yet
HELD = 3  # suspended with nothing running
RESTING = 4  # idle, but the next event has to be looked at: bounded mailbox, idle timeout, hibernation
STOPPING = 5  # inside `stopping`
DEAD = 6

STATES = ("idle", "ready", "starting", "suspended", "idle", "stopping", "dead")

SLICE_SECONDS = 0.002
TASK_GRACE = 5.0

Reply = asyncio.Future[Any]
# event, sender, where the reply goes, handles of large bodies
Letter = tuple[Any, "Cell | None", "Reply | None", "tuple[object, ...] | None"]
Outcome = Callable[[], Any]


class Extras:
    """What only some actors need; made when first used."""

    __slots__ = (
        "asking",
        "continuing",
        "deferred",
        "generators",
        "hibernating",
        "hold",
        "idle_seconds",
        "idle_timer",
        "last_reply",
        "mail_bytes",
        "over_bytes",
        "over_water",
        "owed",
        "postpone",
        "postponed",
        "protected",
        "room",
        "start",
        "state_bytes",
        "tasks",
        "timers",
        "waiters",
        "waiting",
    )

    def __init__(self) -> None:
        self.asking: list[Cell] = []  # more asks under way than the one in the cell's slot
        self.continuing = 0  # how many letters at the head of the lane are from continue_with
        self.deferred = False  # the handler took the reply upon itself
        self.generators: list[Any] = []  # weak references to async generators begun by handlers
        self.hibernating = False
        self.hold = False  # suspended
        self.idle_seconds: float | None = None
        self.idle_timer: Timer | None = None
        self.last_reply: tuple[Reply, Any] | None = None  # stop and reply: sent after `stopping` (S21)
        self.mail_bytes = 0  # of what waits, and of the state at the last rest (S12)
        self.state_bytes = 0
        self.over_bytes = False
        self.over_water = False
        self.owed: dict[Reply, None] = {}  # deferred replies
        self.postpone = False
        self.postponed: list[Letter] = []
        self.protected = 0
        self.room: deque[asyncio.Future[None]] | None = None  # senders that wait for room
        self.start: asyncio.Future[object] | None = None
        self.tasks: dict[asyncio.Task[Any], bool] = {}  # owned tasks; True: its failure is ours
        self.timers: dict[Timer, None] = {}
        self.waiters: list[asyncio.Future[object]] = []
        self.waiting: list[tuple[WaitReason, float]] = []


class Cell:
    """One incarnation of one actor."""

    __slots__ = (
        "__weakref__",
        "actor",
        "alert",
        "asking",
        "behaviour",
        "born",
        "children",
        "ending",
        "handled",
        "id",
        "kernel",
        "lane",
        "letter",
        "limit",
        "links",
        "mailbox",
        "monitors",
        "more",
        "parent",
        "queue",
        "quick",
        "reason",
        "rest",
        "scheduler",
        "serial",
        "state",
        "table",
        "watchers",
        "worker",
    )

    def __init__(
        self,
        kernel: Kernel,
        behaviour: Behaviour,
        parent: Cell | None,
        id: str | int,
        serial: int,
    ) -> None:
        self.kernel = kernel
        self.scheduler: Scheduler = kernel.scheduler
        self.behaviour = behaviour
        self.table: dict[type, Callable[[Any, Any], Any]] = behaviour.table
        self.queue: deque[Any] = kernel.scheduler.queue.lane(behaviour.priority)
        self.parent = parent
        self.id = id
        self.serial = serial
        self.actor: Actor = None  # type: ignore[assignment]
        self.state = IDLE
        self.rest = IDLE
        self.quick = kernel.quick
        self.alert = False
        self.limit = (
            behaviour.max_mailbox if behaviour.max_bytes is None else behaviour.max_mailbox or sys.maxsize
        )
        self.letter: Letter | None = None
        self.mailbox: deque[Letter] | None = None
        self.lane: deque[Letter] | None = None
        self.worker: Worker | None = None
        self.ending: object = None
        self.reason: object = None
        self.links: dict[Cell, None] | None = None
        self.watchers: dict[int, tuple[Cell, str | None]] | None = None
        self.monitors: dict[int, Cell] | None = None
        self.children: dict[str | int, Cell] | None = None
        self.asking: Cell | None = None
        self.more: Extras | None = None
        self.handled = 0
        self.born = kernel.now()
        if behaviour.slow:
            self.rest = self.state = RESTING

    # Who it is.

    @property
    def id_text(self) -> str:
        """The last part of the path: the given id, or the class and a number."""
        if type(self.id) is int:
            return f"{self.behaviour.cls.__name__.lower()}-{self.id}"
        return str(self.id)

    @property
    def path(self) -> str:
        """The ids from below the root down to here, joined by "/"."""
        parts: list[str] = []
        cell: Cell = self
        while cell.parent is not None:
            parts.append(cell.id_text)
            cell = cell.parent
        return "/".join(reversed(parts))

    @property
    def pid(self) -> Pid:
        """The pid of this incarnation."""
        return Pid(self)

    @property
    def pid_text(self) -> str:
        """How the pid prints, as `critic#7`."""
        return f"{self.id_text}#{self.serial}"

    @property
    def ref(self) -> Ref:
        """The place of this actor."""
        return Ref(self)

    def is_alive(self) -> bool:
        """Tell whether it has not ended."""
        return self.state != DEAD

    def extras(self) -> Extras:
        """Return the rarely needed part, made now if need be."""
        more = self.more
        if more is None:
            more = self.more = Extras()
        return more

    def is_inside(self) -> bool:
        """Tell whether a handler or callback of it is under way, running or waiting."""
        return self.kernel.inside is self or self.scheduler.worker_of(self) is not None

    @property
    def current(self) -> Letter | None:
        """The event whose handler is under way. It stands in `letter`, which otherwise is the first that waits."""
        return self.letter if self.letter is not None and self.is_inside() else None

    def waiting_letter(self) -> Letter | None:
        """The event in `letter` if it waits there."""
        return self.letter if self.letter is not None and not self.is_inside() else None

    # The slot is free for the event being handled; one that waits in it goes to the head of the mailbox.
    def _shelve(self) -> None:
        if self.letter is not None:
            if self.mailbox is None:
                self.mailbox = deque()
            self.mailbox.appendleft(self.letter)
            self.letter = None

    def length(self) -> int:
        """Count the events that wait, postponed ones included (S7)."""
        n = 0 if self.waiting_letter() is None else 1
        if self.mailbox is not None:
            n += len(self.mailbox)
        if self.lane is not None:
            n += len(self.lane)
        if self.more is not None:
            n += len(self.more.postponed)
        return n

    def letters(self) -> Iterator[Letter]:
        """Go through what waits, in the order in which it would be handled."""
        yield from self.lane or ()
        if self.more is not None:
            yield from self.more.postponed
        first = self.waiting_letter()
        if first is not None:
            yield first
        yield from self.mailbox or ()

    def drop(self, unwanted: Callable[[Any], bool]) -> None:
        """Remove waiting events."""
        first = self.waiting_letter()
        if first is not None and unwanted(first[0]):
            self.letter = None
        if self.mailbox is not None:
            self.mailbox = deque(x for x in self.mailbox if not unwanted(x[0]))

    # What arrives.

    def receive(self, letter: Letter) -> None:
        """Take an event for which the quick path of `tell` is not open."""
        state = self.state
        if state == IDLE:
            self.letter = letter
            self.make_ready()
            return
        if state == DEAD:
            self.kernel.undelivered("dead", self.pid_text, letter)
            return
        if self.limit is not None and not self.kernel.admit(self, letter):
            return
        if state == RESTING:
            self._rouse()
            self.letter = letter
            self.make_ready()
            return
        box = self.mailbox
        if box is None:
            boxes = self.kernel.boxes
            box = self.mailbox = boxes.pop() if boxes else deque()
        box.append(letter)
        if len(box) >= self.kernel.high_water:
            self.kernel.check_water(self)

    def make_ready(self) -> None:
        """Join the ready queue. Only from an idle state."""
        self.state = READY
        self.queue.append(self)
        if self.scheduler.active is None:
            self.scheduler.wake()

    def overtake(self, letter: Letter) -> None:
        """Take an event that goes before all ordinary ones: a trapped exit, an urgent event."""
        if self.state == DEAD:
            return
        if self.lane is None:
            self.lane = deque()
        self.lane.append(letter)
        self.attract()

    def attract(self) -> None:
        """Make `run` look at what is out of the ordinary, now if the actor is idle."""
        self.alert = True
        if self.state == IDLE:
            self.make_ready()
        elif self.state == RESTING:
            self._rouse()
            self.make_ready()

    def _rouse(self) -> None:
        more = self.more
        if more is None:
            return
        if more.idle_timer is not None:
            self.kernel.timers.cancel(more.idle_timer)
            more.idle_timer = None
        if more.hibernating:
            self.alert = True

    # Running.

    async def run(self, worker: Worker, budget: int) -> None:
        """Handle up to `budget` events, signals first. Never raises what a handler raised."""
        if self.state == STARTING:
            if not await self._start(worker):
                return
        elif self.state != READY:
            return
        if self.ending is None:
            self._shelve()
        scheduler, actor, table = self.scheduler, self.actor, self.table
        allowed = budget
        began = 0.0
        try:
            while True:
                letter: Letter | None = None
                if self.alert:
                    if self.state != READY:
                        return
                    if self.ending is not None:
                        await self._end(worker)
                        return
                    if self._is_held():
                        return
                    letter = await self._from_lane(worker)
                    if self.ending is not None or self.state != READY:
                        continue
                if letter is None:
                    box = self.mailbox
                    if not box:
                        self._go_idle(box)
                        return
                    letter = box.popleft()
                self.letter = letter
                event, _, reply, _ = letter
                handler = table.get(event.__class__) or self.unknown(event)
                budget -= 1
                try:
                    result = handler(actor, event)
                    if result.__class__ is CoroutineType:
                        scheduler.arm(worker)
                        result = await result
                    if reply is not None and not self.alert:
                        self.answer(reply, result)
                except Refuse as refusal:
                    self.refuse(reply, refusal)
                except BaseException as error:
                    await self.failed(error, worker)
                    return
                else:
                    if self.alert and self.after(letter, reply, result):
                        return
                if not budget & 7:
                    now = perf_counter()
                    if began == 0.0:
                        began = now
                    if not budget or now - began > SLICE_SECONDS:
                        self._yield_slice()
                        return
        finally:
            self.handled += allowed - budget

    # Others want to run as well (S96).
    def _yield_slice(self) -> None:
        if self.state == READY:
            self.letter = None
            if self.more is not None and self.more.over_water:
                self.kernel.check_water(self)
            self.queue.append(self)
            if self.scheduler.active is None:
                self.scheduler.wake()

    def handle_direct(self, handler: Callable[[Any, Any], Any], letter: Letter) -> None:
        """Handle an event in the caller's own task. Only for a handler that is a plain function, only when idle."""
        kernel = self.kernel
        self.state = READY
        self.letter = letter
        reply = letter[2]
        kernel.inside = self
        self.handled += 1
        try:
            result = self.scheduler.context.copy().run(handler, self.actor, letter[0])
            if result.__class__ is CoroutineType:
                self._go_on((_Begun(result), letter[1], reply, letter[3]))
                return
            if reply is not None and not self.alert:
                self.answer(reply, result)
        except Refuse as refusal:
            self.refuse(reply, refusal)
            self._go_on()
            return
        except BaseException as error:
            self._failed_directly(error)
            return
        finally:
            kernel.inside = None
        if self.alert:
            if not self.after(letter, reply, result):
                self._go_on()
        elif self.mailbox is None:
            self.letter = None
            self.state = self.rest
            if self.rest:
                self.rested()
        else:
            self._go_on()

    # Let a worker do the rest.
    def _go_on(self, first: Letter | None = None) -> None:
        self.letter = first
        self.queue.append(self)
        if self.scheduler.active is None:
            self.scheduler.wake()

    def _failed_directly(self, error: BaseException) -> None:
        if self.state == DEAD:
            return
        if self.ending is None:
            self.ending = self.kernel.reason_of(error)
        if self.behaviour.has_stopping or self._has_loose_ends():
            self.alert = True
            self._go_on(self.letter)
        else:
            self.die(self.ending)

    def _go_idle(self, box: deque[Letter] | None) -> None:
        self.letter = None
        if box is not None:
            self.mailbox = None
            if len(self.kernel.boxes) < 1024:
                self.kernel.boxes.append(box)
        self.state = self.rest
        if self.more is not None or self.rest:
            self.rested()

    def rested(self) -> None:
        """After it became idle: what only cells with extras need."""
        more = self.more
        if self.behaviour.max_bytes is not None:
            self.kernel.measure_state(self)
        if more is None:
            if self.rest == RESTING and self.state == RESTING:
                self.kernel.rest(self)
            return
        if more.over_water:
            self.kernel.check_water(self)
        if more.room:
            self.kernel.make_room(self)
        if self.rest == RESTING and self.state == RESTING:
            self.kernel.rest(self)

    def _is_held(self) -> bool:
        if self.more is not None and self.more.hold:
            self.state = HELD
            self.letter = None
            return True
        return False

    # The next letter that overtakes; None if there is none, and then nothing is out of the ordinary any more.
    async def _from_lane(self, worker: Worker) -> Letter | None:
        more = self.more
        if more is not None and more.hibernating:
            more.hibernating = False
            try:
                await self._call(worker, self.actor.waking)
            except BaseException as error:
                await self.failed(error, worker)
                return None
        if self.lane:
            if more is not None and more.continuing:
                more.continuing -= 1
            return self.lane.popleft()
        self.lane = None
        self.alert = False
        return None

    def after(self, letter: Letter, reply: Reply | None, result: Any) -> bool:
        """A handler returned and something is out of the ordinary. True: this slice is over."""
        if self.state != READY:
            return True
        more = self.more
        if more is not None:
            if more.postpone:
                more.postpone = False
                more.postponed.append(letter)
                return False
            if more.deferred:
                more.deferred = False
                return False
        if reply is not None:
            if self.ending is not None:
                self.extras().last_reply = (reply, result)
            else:
                try:
                    self.answer(reply, result)
                except BaseException as error:
                    self.order_end(error)
        return False

    def answer(self, reply: Reply, result: Any) -> None:
        """Give a reply to whoever asked, sealed as every message is (S4); a late one is dropped and counted (S16)."""
        kind = result.__class__
        if kind not in ATOMS:
            readers = getattr(kind, "__avm_readers__", ())
            if not (readers is None or (readers and is_plain(result, readers))):
                result, _ = seal(result, self.kernel.put)
        elif (kind is str or kind is bytes) and len(result) > INLINE_LIMIT:
            result, _ = seal(result, self.kernel.put)
        if reply.done():
            self.kernel.late_replies += 1
        else:
            reply.set_result(result)

    def refuse(self, reply: Reply | None, refusal: Refuse) -> None:
        """A handler refused: the asker gets the error."""
        if reply is not None and not reply.done():
            reply.set_exception(_refused(refusal))

    def unknown(self, event: Any) -> Callable[[Any, Any], Any]:
        """Find the handler of an event that is not in the table: of a base class, or the one for strangers."""
        if event.__class__ is _Begun:
            return _go_on_with
        handler = self.behaviour.find(event.__class__)
        return handler if handler is not None else _unhandled

    # Runs a callback that may be sync or async.
    async def _call(self, worker: Worker, callback: Callable[..., Any], *args: Any) -> Any:
        result = callback(*args)
        if inspect.isawaitable(result):
            self.scheduler.arm(worker)
            result = await result
        return result

    async def _start(self, worker: Worker) -> bool:
        start = self.extras().start
        assert start is not None
        if self.ending is None:
            try:
                verdict = await self._call(worker, self.actor.starting)
            except BaseException as error:
                await self.failed(error, worker)
                return False
            if self.state == DEAD:
                return False
            if verdict is Ignore:
                self.ending = Normal()
                if not start.done():
                    start.set_exception(
                        StartIgnored(f"{self.pid_text} was not started: starting() answered Ignore.", Ignore)
                    )
                    start.exception()
                self.die(Normal())
                return False
        if self.ending is not None:
            await self._end(worker)
            return False
        self.state = READY
        if not start.done():
            start.set_result(None)
        return True

    async def failed(self, error: BaseException, worker: Worker) -> None:
        """A handler or a callback failed: find out the reason and end. Nothing if the actor is a zombie."""
        if self.state == DEAD:
            return
        reason: object
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            reason = self.ending if self.ending is not None else Cancelled()
        else:
            reason = self.kernel.reason_of(error)
        if self.ending is None or not isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            self.ending = reason
        await self._end(worker)

    # The handler is left; run `stopping` and end. A worker that was cancelled cannot do that: a fresh one will.
    async def _end(self, worker: Worker) -> None:
        if worker.spoiled:
            starting = self.state == STARTING
            self.alert = True
            self.state = STARTING if starting else READY
            self.queue.append(self)
            if self.scheduler.active is None:
                self.scheduler.wake()
            return
        reason = self.ending
        started = self.state != STARTING
        self.state = STOPPING
        if started and self.behaviour.has_stopping:
            try:
                await self._call(worker, self.actor.stopping, reason)
            except BaseException as error:
                if self.state == DEAD:
                    return
                if isinstance(error, asyncio.CancelledError):
                    reason = Cancelled() if not worker.spoiled else reason
                else:
                    reason = self.kernel.reason_of(error)
        more = self.more
        if more is not None and self.state != DEAD:
            await self._end_tasks(more)
            await self._close_generators(more)
        if self.state != DEAD:
            self.die(reason)

    async def _end_tasks(self, more: Extras) -> None:
        here = asyncio.current_task()
        tasks = [t for t in more.tasks if t is not here]
        for task in tasks:
            more.tasks[task] = False
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=TASK_GRACE)

    async def _close_generators(self, more: Extras) -> None:
        for weak in more.generators:
            generator = weak()
            if generator is not None:
                try:
                    await generator.aclose()
                except Exception as error:
                    self.kernel.log(f"{self.pid_text}: an async generator failed while it was closed", error)
        more.generators.clear()

    # The end.

    def order_end(self, reason: object, *, interrupt: bool = True) -> None:
        """End in order: a handler under way is interrupted at its next `await`, `stopping` runs, then the end (S95)."""
        state = self.state
        if state in (DEAD, STOPPING) or self.ending is not None:
            return
        if reason is None:
            reason = Normal()
        inside = self.scheduler.worker_of(self) if state in (READY, STARTING) else None
        if (
            inside is None
            and state != STARTING
            and not self.behaviour.has_stopping
            and not self._has_loose_ends()
        ):
            self.die(reason)
            return
        self.ending = reason
        self.alert = True
        if state in (IDLE, RESTING, HELD):
            self.make_ready()
        elif interrupt and inside is not None:
            self.interrupt(inside)

    def _has_loose_ends(self) -> bool:
        more = self.more
        return more is not None and bool(more.tasks or more.generators)

    def interrupt(self, worker: Worker) -> None:
        """Cancel what runs in a worker of this cell, again at each later `await` until it is left."""
        worker.spoiled = worker.look = True
        self._cancel(worker, 0.0)

    def _cancel(self, worker: Worker, delay: float) -> None:
        if worker.runnable is not self or worker.task.done():
            return
        if self.more is None or not self.more.protected or self.state == DEAD:
            worker.task.cancel()
        self.kernel.loop.call_later(delay, self._cancel, worker, min(0.1, delay * 2 + 0.001))

    def kill(self) -> None:
        """End now, with reason Killed, whatever it is doing (S94)."""
        if self.state == DEAD:
            return
        worker = self.scheduler.worker_of(self)
        self.die(Killed())
        if worker is not None:
            self.kernel.add_zombie(self, worker)
            self.interrupt(worker)

    def exit_signal(self, sender: Cell | None, reason: object, *, via_link: bool) -> None:
        """Receive an exit signal; the table of S36, and S39 for the parent's."""
        if self.state == DEAD:
            return
        if isinstance(reason, Kill) and not via_link:
            self.kill()
            return
        from_parent = sender is not None and sender is self.parent
        if self.actor is not None and self.actor.trap_exit and not from_parent:
            self.overtake((Exit(sender.pid if sender is not None else None, reason), sender, None, None))
            return
        if isinstance(reason, Normal):
            to_itself = sender is self and not via_link
            trapped_from_parent = from_parent and self.actor is not None and self.actor.trap_exit
            if not to_itself and not trapped_from_parent:
                return
        self.order_end(reason)

    def parent_ended(self, reason: object) -> None:
        """The parent is gone: nobody outlives it (S39, S62)."""
        self.order_end(Killed() if isinstance(reason, Kill) else reason)

    def die(self, reason: object) -> None:
        """End, in one step (S32). Everything that can see this actor sees it dead when this returns."""
        if self.state == DEAD:
            return
        kernel = self.kernel
        report = None
        if is_abnormal(reason):
            kernel.crashed += 1
            if kernel.observers:
                report = kernel.crash_report(self, reason)
        self.state = DEAD
        self.alert = True
        self.quick = False
        self.reason = reason
        kernel.release(self)
        if report is not None:
            kernel.emit(report)
        self._fail_asks(reason)
        kernel.announce(self, reason)
        if self.actor is not None:
            self.actor._cell = Fence(self)  # type: ignore[assignment]
            self.actor = None  # type: ignore[assignment]

    # Whoever waits for a reply of this actor hears of its end at once (S14, S31).
    def _fail_asks(self, reason: object) -> None:
        more = self.more
        kernel = self.kernel
        current = self.current
        waiting = list(self.letters()) if self._has_mail() else ()
        self.letter = self.mailbox = self.lane = None
        if more is not None and more.last_reply is not None:
            reply, result = more.last_reply
            more.last_reply = None
            self.answer(reply, result)
        elif current is not None:
            self._fail(current, reason)
        for letter in waiting:
            self._fail(letter, reason)
            if not isinstance(letter[0], Exit):
                kernel.undelivered("ended", self.pid_text, letter)
        if more is not None:
            more.postponed.clear()
            for owed in more.owed:
                if not owed.done():
                    owed.set_exception(self.exited(reason, None))
                    owed.exception()
            more.owed.clear()
            if more.start is not None and not more.start.done():
                more.start.set_exception(self._start_error(reason))
                more.start.exception()

    def _has_mail(self) -> bool:
        return bool(
            self.letter or self.mailbox or self.lane or (self.more is not None and self.more.postponed)
        )

    def _fail(self, letter: Letter, reason: object) -> None:
        reply = letter[2]
        if reply is not None and not reply.done():
            reply.set_exception(self.exited(reason, letter[0]))
            reply.exception()

    def exited(self, reason: object, event: object) -> ActorExited:
        """Make the error that somebody who asked gets."""
        what = type(event).__name__ if event is not None else "the request"
        error = ActorExited(f"{self.pid_text} exited ({describe(reason)}) before it answered {what}.", reason)
        if isinstance(reason, BaseException):
            error.__cause__ = reason
        return error

    def _start_error(self, reason: object) -> StartError:
        if isinstance(reason, StartError):
            return reason
        error = StartError(f"{self.pid_text} did not start: {describe(reason)}.", reason, (self.path,))
        if isinstance(reason, BaseException):
            error.__cause__ = reason
        return error


class Fence:
    """What the object of an actor that has ended holds instead of its cell: it may look, but not act (S94)."""

    __slots__ = ("_cell", "quick")

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self.quick = False

    def __getattr__(self, name: str) -> Any:
        if name in ("children", "current", "parent", "path", "pid", "pid_text", "ref"):
            return getattr(self._cell, name)
        raise ActorDead(f"{self._cell.pid_text} has ended; its handler may not act any more.")


def describe(reason: object) -> str:
    """Put an exit reason in a few words."""
    if isinstance(reason, BaseException):
        text = str(reason)
        return f"{type(reason).__name__}: {text}" if text else type(reason).__name__
    if isinstance(reason, Shutdown):
        return "shutdown" if reason.detail is None else f"shutdown: {reason.detail}"
    if isinstance(reason, (Normal, Killed, Kill, Cancelled)):
        return type(reason).__name__.lower()
    return repr(reason)


def _refused(refusal: Refuse) -> BaseException:
    first = refusal.args[0] if refusal.args else None
    return first if isinstance(first, BaseException) else refusal


class _Begun:
    """A handler that is no coroutine function but gave a coroutine: a worker has to wait for it."""

    __slots__ = ("coroutine",)

    def __init__(self, coroutine: Any) -> None:
        self.coroutine = coroutine


def _go_on_with(_: Any, begun: _Begun) -> Any:
    return begun.coroutine


def _unhandled(actor: Any, event: Any) -> Any:
    return actor._avm_unhandled(event)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Go through the errors of a group, or give the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def stop_reason(error: BaseException) -> object:
    """Map what escaped a handler to an exit reason (S98)."""
    if isinstance(error, StopActor):
        return error.reason
    if isinstance(error, KeyboardInterrupt):
        return Shutdown("interrupt")
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return Cancelled()
    if isinstance(error, BaseExceptionGroup):
        found = list(leaves(error))
        if all(isinstance(e, StopActor) and not is_abnormal(e.reason) for e in found):
            first = found[0]
            assert isinstance(first, StopActor)
            return first.reason
    return error


__all__ = ["Cell", "Extras", "Letter", "Monitor", "NoHandler", "describe", "leaves", "stop_reason"]
