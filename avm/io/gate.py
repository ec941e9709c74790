"""ModelGate: the actor that all calls of one credential and model family go through.

    Dispatch ─► queue (fair) ─► behind a leader, if its prefix is being warmed ─► governor admits ─► worker ─► Answered
                  ▲                                                                                    │
                  └────────────── again, in its old place, when what failed may be tried again ◄───────┘

The rules are in plain objects (`FairQueue`, `PrefixTable`, `Governor`, `Slots`); the gate has the clock, the timers and
the workers. Workers are its children: it watches them, is not linked to them, and hires another when one is gone.
"""

from __future__ import annotations

import logging
import math

import attrs

from avm.actors.actor import Actor, on
from avm.actors.event import event
from avm.actors.reasons import describe
from avm.actors.ref import Pid, Ref
from avm.actors.signals import Down, Monitor
from avm.actors.timers import TimerRef
from avm.errors import NotAuthorized, ProviderError, SpendLimitReached, StartError
from avm.io.board import Board, GateStatistics
from avm.io.call import Attempt, Call, make_call
from avm.io.crew import Crew
from avm.io.dispatch import Answered, AttemptReport, Begun, Dispatch, Done, Withdraw, Work
from avm.io.estimate import Estimator
from avm.io.fair import FairQueue
from avm.io.governor import Cost, Governor, is_retryable
from avm.io.hedge import Hedging
from avm.io.hints import make_hints
from avm.io.parking import Parking
from avm.io.prefix import PrefixTable
from avm.io.providers.provider import Provider
from avm.io.request import Completion
from avm.io.reservoir import Reservoir
from avm.io.slots import Slots
from avm.io.unfit import unfit
from avm.io.worker import ModelWorker

_log = logging.getLogger("avm")


@event(tag="avm.io.Pump")
class Pump:
    """Time to look whether more may be sent. Only from a gate to itself."""


@event(tag="avm.io.Again")
class Again:
    """Time to try a call again, or to hedge it. Only from a gate to itself."""

    serial: int


@event(tag="avm.io.LeadOver")
class LeadOver:
    """A leader has led for long enough. Only from a gate to itself."""

    serial: int


@event(tag="avm.io.Hopeless")
class Hopeless:
    """Time to look who waits in vain. Only from a gate to itself."""


LEAD_LEAST, LEAD_MOST = 5.0, 30.0
"""Seconds in which a leader's response has to begin: four times what is usual, within these."""


class ModelGate(Actor):
    """Sends calls when they may be sent, tries again what failed, and answers the front. See the module.

    Args:
        front: who dispatches.
        provider: who serves.
        model: one of the family: says what the provider can do and allows.
        concurrency: calls under way at once.
        workers: how many are hired at the start.
        board: where its statistics can be read.
    """

    priority = "user"

    def __init__(
        self, front: Ref, provider: Provider, model: str, concurrency: int, workers: int, board: Board
    ) -> None:
        self.front = front
        self.provider = provider
        self.can = provider.capabilities(model)
        limits = provider.limits(model)
        if self.can.prompt_cache == "slots" and self.can.slots:
            concurrency = min(concurrency, self.can.slots)
        self.concurrency = min(concurrency, limits.concurrency or concurrency)
        self.first = min(workers, self.concurrency)
        self.board = board
        self.governor = Governor(limits, self.concurrency, self.random, self.now())
        self.queue: FairQueue[Call] = FairQueue()
        self.prefixes = PrefixTable(self.can.min_cached_tokens) if self.can.prompt_cache == "prefix" else None
        self.slots = Slots(self.can.slots) if self.can.prompt_cache == "slots" and self.can.slots else None
        self.estimator = Estimator()
        self.hedging = Hedging()
        self.calls: dict[int, Call] = {}
        self.parking = Parking()
        self.crew = Crew()
        self.latency = Reservoir()
        self.retries = 0
        self.wake: tuple[float, TimerRef] | None = None
        self.blocked_until = 0.0
        self.looks_soon = False
        self.watch: Monitor | None = None
        self.front_pid: Pid | None = None

    async def starting(self) -> None:
        """Hire the first workers, and show the statistics."""
        for _ in range(self.first):
            self.crew.rest(await self._hire())
        self.board.gates[self.path] = self.statistics

    def stopping(self, reason: object) -> None:
        """Take the statistics down."""
        self.board.gates.pop(self.path, None)

    # What comes in.

    @on(Dispatch)
    async def arrive(self, dispatch: Dispatch) -> None:
        """Take a call."""
        if self.sender != self.front_pid:
            self._follow_front(self.sender)
        try:
            call = self._make(dispatch)
        except Exception as error:
            # A request that cannot be read, or a conversation that cannot: no reason to fail the others.
            self.tell(self.front, Answered(dispatch.serial, unfit(dispatch, error)))
            return
        self.calls[call.serial] = call
        refusal = self.governor.refusal(self.now())
        if refusal is not None and self._is_hopeless(call, refusal):
            self._answer(call, refusal)
            return
        if self.prefixes is not None and call.prompt.chain:
            self.prefixes.expect(call.prompt.chain, call.agent)
        if not self.queue and self.blocked_until <= self.now():
            # Nobody is before it: it need not stand in line.
            attempt = self._clear(call, self.now())
            if isinstance(attempt, Attempt):
                await self._man(attempt)
                return
        self.queue.put(call)
        if call.priority != "background" or self.blocked_until <= self.now():
            await self._pump()

    @on(Withdraw)
    async def withdraw(self, withdraw: Withdraw) -> None:
        """Nobody waits for it any more."""
        call = self.calls.get(withdraw.serial)
        if call is None:
            return
        self._forget(call)
        if call.place == "queue":
            self.queue.withdraw(call)
        call.withdrawn = True
        self._abandon(call)
        self._unlead(call)
        await self._pump()

    @on(Begun)
    async def begun(self, begun: Begun) -> None:
        """A response has begun: what its request wrote to the prompt cache can be read now."""
        call = self.calls.get(begun.serial)
        attempt = self.crew.attempt_of(self.sender)
        if call is None or attempt is None or attempt.call is not call:
            return
        attempt.begun = True
        if begun.limits is not None:
            self.governor.heard(attempt.reservation, begun.limits, self.now())
        self._stop_lead(call)
        self.hedging.began(self.now() - attempt.at)
        if self.prefixes is not None and self._release(self.prefixes.begun(call.serial, self.now())):
            await self._pump()

    @on(Done)
    async def done(self, done: Done) -> None:
        """A worker is back with an answer or an error."""
        worker = self.sender
        attempt = self.crew.end(worker)
        if worker is not None:
            self.crew.rest(worker)
        if attempt is not None:
            self._return_slot(attempt)
            if isinstance(done.outcome, Completion):
                self._succeeded(attempt, done.outcome)
            else:
                self._failed(attempt, done.outcome)
        await self._pump()

    @on(LeadOver)
    async def lead_over(self, over: LeadOver) -> None:
        """A leader's response has not begun in good time: the next one leads."""
        call = self.calls.get(over.serial)
        if call is not None and call.lead is not None:
            call.lead = None
            self._unlead(call)
            await self._pump()

    @on(Hopeless)
    def look_at_hopeless(self, _: Hopeless) -> None:
        """Answer those that have no prospect while the breaker is open."""
        self.looks_soon = False
        self._refuse_hopeless()

    @on(Down)
    async def down(self, down: Down) -> None:
        """A worker ended, or the front did."""
        if down.pid == self.front_pid:
            self._drop_all()
            return
        if not self.crew.lost(down.pid):
            return
        attempt = self.crew.end(down.pid)
        if attempt is not None:
            call = attempt.call
            self._return_slot(attempt)
            self.governor.cancelled(attempt.reservation, self.now(), sent=True)
            error = ProviderError(
                f"the I/O worker {down.pid} ended ({describe(down.reason)}) before it answered a call of "
                f"{call.request.model!r}; ask again.",
                self.provider.name,
                call.request.model,
            )
            error.__cause__ = down.reason if isinstance(down.reason, BaseException) else None
            self._report(attempt, error, None)
            self._answer(call, error)
        await self._pump()

    @on(Pump)
    async def pump(self, _: Pump) -> None:
        """Look again."""
        self.wake = None
        await self._pump()

    @on(Again)
    async def again(self, again: Again) -> None:
        """Try a call again, or a second time at once."""
        call = self.calls.get(again.serial)
        if call is None:
            return
        call.timer = None
        if call.place == "delayed":
            self._requeue(call)
        elif call.place == "sent" and len(call.workers) == 1 and not self._has_begun(call):
            await self._hedge(call)
        await self._pump()

    def _make(self, dispatch: Dispatch) -> Call:
        request, estimator = dispatch.request, self.estimator
        size = request.size
        expected = Cost(estimator.input_tokens(size), estimator.output_tokens(request))
        least: int | None = None
        if self.slots is not None:
            least = 0
        elif self.prefixes is not None and dispatch.policy.prompt_cache != "off":
            least = self.can.min_cached_tokens
        return make_call(dispatch, size, expected, least)

    # Sending.

    async def _pump(self) -> None:
        """Send all that may be sent now."""
        self.blocked_until, at = 0.0, math.inf
        # Calls of higher classes pass one that has to wait; lower ones would only make it wait longer.
        above: str | None = None
        while self.queue:
            now = self.now()
            call = self.queue.take(now, above)
            if call is None:
                break
            found = self._clear(call, now, passes=above is not None)
            if isinstance(found, Attempt):
                await self._man(found)
            elif isinstance(found, bytes):
                self.parking.park(found, call)
            else:
                self.queue.put_back(call)
                at, above = min(at, found), call.priority
                if found == math.inf:
                    break
        if above is not None:
            self._wake_at(at)

    def _clear(self, call: Call, now: float, *, passes: bool = False) -> Attempt | bytes | float:
        """Return the attempt that may be made now, else the prefix to wait for, or the time to ask again.

        Args:
            passes: whether it goes before one that has to wait.
        """
        cost = call.expected
        prefixes = self.prefixes
        is_awaited = False
        if prefixes is not None and call.prompt.chain:
            hour = call.dispatch.policy.prompt_cache == "hour"
            trunk = call.prompt.chain[:1]
            is_cold = trunk[0].tokens >= self.can.min_cached_tokens and not prefixes.covered(trunk, now)
            key = prefixes.enter(
                call.prompt.chain, call.serial, now, owner=call.agent, ttl=3600.0 if hour else None
            )
            if key is not None:
                return key
            covered = self.estimator.tokens(prefixes.covered(call.prompt.chain, now))
            cost = Cost(max(1, cost.input - covered), cost.output)
            # Nobody waits for what is an agent's own, such as a new page of its history.
            is_awaited = prefixes.leads(call.serial) and (is_cold or bool(prefixes.shared(call.prompt.chain)))
        admitted = self.governor.admit(cost, now, passes=passes)
        if isinstance(admitted, float):
            self._unlead(call)
            return admitted
        slot = self.slots.take(call.agent, call.prompt.chain) if self.slots is not None else None
        return Attempt(call, admitted, now, slot, is_awaited)

    async def _man(self, attempt: Attempt) -> None:
        """Find a worker for an attempt, and send it."""
        worker = self.crew.take_idle()
        if worker is None:
            try:
                worker = await self._hire()
            except StartError as error:
                self.governor.cancelled(attempt.reservation, self.now(), sent=False)
                self._return_slot(attempt)
                # A hedge is not needed: the first attempt at its call goes on.
                if not attempt.call.workers:
                    self._answer(attempt.call, error)
                return
        self._send(attempt.call, attempt, worker)

    def _send(self, call: Call, attempt: Attempt, worker: Pid) -> None:
        dispatch = call.dispatch
        request = call.request
        if call.prompt.chain or attempt.slot is not None:
            request = request.hinted(
                make_hints(call, self.prefixes, self.can.min_cached_tokens, attempt.slot)
            )
        hedges = dispatch.policy.hedge and call.priority == "user"
        call.place = "sent"
        call.attempts += 1
        attempt.at = now = self.now()
        if call.first_at is None:
            call.first_at = now
        self.crew.begin(worker, attempt)
        wants_start = attempt.is_awaited or hedges
        self.tell(worker, Work(call.serial, request, call.asked, dispatch.stream, wants_start))
        if self.prefixes is not None and self.prefixes.leads(call.serial):
            usual = self.hedging.delay() or 0.0
            seconds = min(LEAD_MOST, max(LEAD_LEAST, 4 * usual))
            call.lead = self.send_after(seconds, self.pid, LeadOver(call.serial))
        if hedges and len(call.workers) == 1:
            after = self.hedging.delay()
            if after is not None:
                call.timer = self.send_after(after, self.pid, Again(call.serial))

    async def _hedge(self, call: Call) -> None:
        """Make a call a second time: the first to answer wins. One that somebody listens to is not, nor is a leader."""
        leads = self.prefixes is not None and self.prefixes.leads(call.serial)
        if leads or call.dispatch.stream is not None or not self.hedging.may():
            return
        now = self.now()
        admitted = self.governor.admit(call.expected, now, passes=True)
        if isinstance(admitted, float):
            return
        self.hedging.hedged += 1
        await self._man(Attempt(call, admitted, now))

    def _has_begun(self, call: Call) -> bool:
        attempt = self.crew.attempt_of(call.workers[0])
        return attempt is not None and attempt.begun

    async def _hire(self) -> Pid:
        ref = await self.spawn(ModelWorker, self.ref, self.provider, monitor=True, priority="user")
        pid = ref.last_pid
        self.crew.add(pid)
        return pid

    # How attempts end.

    def _succeeded(self, attempt: Attempt, completion: Completion) -> None:
        call, now, usage = attempt.call, self.now(), completion.usage
        self.governor.answered(attempt.reservation, usage, completion.limits, now)
        self.hedging.calls += 1
        if usage is not None:
            self.estimator.learn(call.request, call.size, usage)
        if self.prefixes is not None and call.prompt.chain:
            self._release(self.prefixes.begun(call.serial, now))
            self.prefixes.used(call.prompt.chain, now)
            if usage is not None:
                said = self.prefixes.measured(call.request.kind or "calls", usage, now)
                if said is not None:
                    _log.warning("%s: %s", self.path, said)
        self._report(attempt, None, None)
        if call.attempts > 1:
            completion = attrs.evolve(completion, attempts=call.attempts)
        self._answer(call, completion)

    def _failed(self, attempt: Attempt, error: ProviderError) -> None:
        call, now = attempt.call, self.now()
        self.governor.failed(attempt.reservation, error, getattr(error, "limits", None), now)
        if call.workers:
            # Another attempt at it is under way.
            self._report(attempt, error, None)
            return
        # The hedge that was planned was one of this attempt.
        self._stop_timer(call)
        self._unlead(call)
        again = self.governor.retry_at(error, call.attempts, now) if is_retryable(error) else math.inf
        first = call.first_at if call.first_at is not None else call.asked
        if again == math.inf or again - first > call.dispatch.policy.retry_for:
            self._report(attempt, error, None)
            self._answer(call, error)
            self._look_at_breaker()
            return
        self.retries += 1
        self._report(attempt, error, max(0.0, again - now))
        if again > now:
            call.place = "delayed"
            call.timer = self.send_after(again - now, self.pid, Again(call.serial))
        else:
            self._requeue(call)
        self._look_at_breaker()

    def _answer(self, call: Call, outcome: object) -> None:
        self._forget(call)
        self._abandon(call)
        if isinstance(outcome, Completion):
            self.latency.add(self.now() - call.asked)
        else:
            self._unlead(call)
        self.tell(self.front, Answered(call.serial, outcome))

    def _report(self, attempt: Attempt, error: ProviderError | None, again_in: float | None) -> None:
        if self.observed:
            call, now = attempt.call, self.now()
            self.report(
                AttemptReport(
                    at=now,
                    agent=call.agent,
                    provider=self.provider.name,
                    model=call.request.model,
                    number=call.attempts,
                    seconds=now - attempt.at,
                    error="" if error is None else f"{type(error).__name__}: {error}",
                    again_in=again_in,
                )
            )

    # Leaving and waiting.

    def _is_hopeless(self, call: Call, refusal: ProviderError) -> bool:
        """Tell whether waiting for the breaker is of no use to a call, or not wanted."""
        policy = call.dispatch.policy
        if policy.fallbacks or isinstance(refusal.__cause__, (NotAuthorized, SpendLimitReached)):
            return True
        # It has waited as long as it may be tried again.
        return self.now() - call.asked >= policy.retry_for > 0

    def _look_at_breaker(self) -> None:
        """If the breaker is open, answer those that have no prospect; once for all failures of a second."""
        if not self.looks_soon and self.governor.refusal(self.now()) is not None:
            self.looks_soon = True
            self.send_after(1.0, self.pid, Hopeless())
            self._refuse_hopeless()

    def _refuse_hopeless(self) -> None:
        refusal = self.governor.refusal(self.now())
        if refusal is None:
            return
        for call in list(self.calls.values()):
            if call.place != "sent" and self._is_hopeless(call, refusal):
                if call.place == "queue":
                    self.queue.withdraw(call)
                call.withdrawn = True
                self._answer(call, refusal)

    def _forget(self, call: Call) -> None:
        self.calls.pop(call.serial, None)
        self._stop_timer(call)
        self._stop_lead(call)

    def _stop_timer(self, call: Call) -> None:
        if call.timer is not None:
            self.cancel(call.timer)
            call.timer = None

    def _stop_lead(self, call: Call) -> None:
        if call.lead is not None:
            self.cancel(call.lead)
            call.lead = None

    def _abandon(self, call: Call) -> None:
        """Stop those that are at a call which is over; what they had reserved comes back."""
        for worker in list(call.workers):
            attempt = self.crew.dismiss(worker)
            if attempt is not None:
                self._return_slot(attempt)
                self.governor.cancelled(attempt.reservation, self.now(), sent=True)
            self.kill(worker)

    def _return_slot(self, attempt: Attempt) -> None:
        if attempt.slot is not None and self.slots is not None:
            self.slots.give_back(attempt.slot)
            attempt.slot = None

    def _unlead(self, call: Call) -> None:
        self._stop_lead(call)
        if self.prefixes is not None:
            self._release(self.prefixes.failed(call.serial, self.now()))

    def _release(self, keys: list[bytes]) -> bool:
        """Put those that waited for a prefix back into the queue; tell whether there were any."""
        freed = self.parking.free(keys)
        for call in freed:
            call.place = "queue"
            self.queue.put_back(call)
        return bool(freed)

    def _requeue(self, call: Call) -> None:
        call.place = "queue"
        self.queue.put_front(call)

    def _wake_at(self, at: float) -> None:
        self.blocked_until = at
        if at == math.inf:
            return
        if self.wake is not None:
            if self.wake[0] <= at:
                return
            self.cancel(self.wake[1])
        self.wake = (at, self.send_after(max(0.0, at - self.now()), self.pid, Pump()))

    # The front.

    def _follow_front(self, front: Pid | None) -> None:
        if self.watch is not None:
            self.demonitor(self.watch, flush=True)
            self._drop_all()
        self.front_pid = front
        self.watch = self.monitor(front) if front is not None else None

    def _drop_all(self) -> None:
        """The front is gone, and with it all who waited."""
        for call in list(self.calls.values()):
            self._forget(call)
            if call.dispatch.stream is not None:
                call.dispatch.stream.fail(ProviderError("the I/O pool's front ended.", self.provider.name))
            if call.place == "queue":
                self.queue.withdraw(call)
            call.withdrawn = True
            self._abandon(call)
            self._unlead(call)
        self.watch = self.front_pid = None
        # What blocked them has ended with them: the next front's calls must not wait for it.
        self.blocked_until = 0.0

    # Looking at it.

    def statistics(self) -> GateStatistics:
        """Return how it is now."""
        p50, p99 = self.latency.quantiles(0.5, 0.99)
        now = self.now()
        return GateStatistics(
            family=self.can.family,
            credential=self.provider.credential,
            queued=len(self.queue),
            parked=len(self.parking),
            delayed=sum(call.place == "delayed" for call in self.calls.values()),
            in_flight=self.crew.at_work,
            workers=len(self.crew),
            crashed_workers=self.crew.crashed,
            retries=self.retries,
            hedged=self.hedging.hedged,
            latency_p50=p50,
            latency_p99=p99,
            depth=self.queue.depth(),
            governor=self.governor.statistics(now),
            prefixes=self.prefixes.statistics(now) if self.prefixes is not None else None,
        )

    def describe(self) -> dict[str, object]:
        """Show the statistics in reports."""
        return attrs.asdict(self.statistics())
