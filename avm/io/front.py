"""IoFront: the actor that takes every model call of every agent.

    agent --ask Complete--> front --Dispatch--> gate --Work--> worker
    agent <----reply------- front <--Answered-- gate <--Done-- worker

It answers from the cache, joins equal calls, hands the rest to the gate of the model's family (started when it is first
needed) or to the courier, and goes on to another model when a provider fails. Replies are deferred (S17), so its
mailbox is always open. Who asks is watched: calls of an actor that ended, and asks that timed out, are withdrawn.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import attrs

from avm.actors.actor import Actor, on
from avm.actors.event import event
from avm.actors.reasons import describe
from avm.actors.ref import Pid, Ref
from avm.actors.reply import PendingReply
from avm.actors.signals import Down
from avm.errors import (
    NotAuthorized,
    ProviderError,
    ProviderUnavailable,
    SpecError,
    SpendLimitReached,
    StartError,
)
from avm.io.askers import Askers
from avm.io.backlog import WEIGHTS
from avm.io.batch import PREFIX
from avm.io.board import Board
from avm.io.cache import ReplyCache
from avm.io.courier import BatchCourier, BatchFailed
from avm.io.dispatch import Answered, Dispatch, Withdraw
from avm.io.flight import Flights
from avm.io.gate import ModelGate
from avm.io.governor import is_retryable
from avm.io.providers.provider import BatchProvider, Provider
from avm.io.request import Complete, Completion, ModelRequest, PoolStatistics, PoolStatus
from avm.io.tally import Tally
from avm.io.unfit import unfit
from avm.memory import Digest
from avm.supervision import child, start_child

GATES = "avm.io.gates"
"""The name of the supervisor of the gates."""

LONGEST_WAIT = 60.0
"""Seconds between two tries to start the courier, at most."""

FAMILIES = 10_000
"""Models whose family is remembered."""


_log = logging.getLogger("avm")


@event(tag="avm.io.GivenUp")
class GivenUp:
    """Whoever asked does not wait any more. Only from the front to itself."""

    serial: int


@event(tag="avm.io.Resume")
class Resume:
    """Go on with what is on disk; if that fails, again after so many seconds. Only from the front to itself."""

    wait: float = 0.1


@attrs.define(slots=True, eq=False)
class Call:
    """One call, as the front knows it."""

    serial: int
    complete: Complete
    reply: PendingReply
    asked: float
    asker: Pid | None
    digest: Digest | None = None
    """Of the request, if equal calls may share its reply."""
    tried: int = 0
    """How many of its fallback models were tried."""
    at: Pid | None = None
    """Which gate or courier has it; None if it waits for an equal call's reply."""


class IoFront(Actor):
    """Takes all model calls, and answers them. See the module.

    Args:
        provider: who serves.
        workers, concurrency: of each gate.
        cache: bytes of kept replies.
        board: where the others hang out their statistics.
    """

    priority = "user"

    def __init__(self, provider: Provider, workers: int, concurrency: int, cache: int, board: Board) -> None:
        self.provider = provider
        self.workers = workers
        self.concurrency = concurrency
        self.board = board
        self.cache_bytes = cache
        # None until a call wants it: reading what a home keeps takes a moment.
        self.cache: ReplyCache | None = None
        self.flights = Flights()
        self.calls: dict[int, Call] = {}
        self.askers: Askers[int] = Askers(self.monitor, self.demonitor)
        self.gates: dict[tuple[str, str], Ref] = {}
        self.families: dict[str, tuple[str, str]] = {}
        self.held: dict[Pid, set[int]] = {}
        self.courier: Ref | None = None
        self.has_warned = False
        # A late answer to a former incarnation must not be taken for one to this.
        self.serial = self.random.getrandbits(40) << 20
        self.tally = Tally(provider)

    def starting(self) -> None:
        """Give a provider that simulates time the VM's clock, and look for batches that a run before has left."""
        use_clock = getattr(self.provider, "use_clock", None)
        if use_clock is not None:
            use_clock(self.now, self.sleep)
        roots = self.service("roots", None)
        if roots is not None and roots.is_durable and any(name.startswith(PREFIX) for name in roots):
            self.tell(self.pid, Resume())

    async def stopping(self, reason: object) -> None:
        """Close the provider; the next incarnation opens it again."""
        await self.provider.close()

    # What comes in.

    @on(Complete)
    async def complete(self, complete: Complete) -> None:
        """Take a model call. Whatever is wrong with it is its own error, and not the end of all others."""
        self.serial += 1
        call = Call(self.serial, complete, self.defer(), self.now(), self.sender)
        try:
            await self._take(call)
        except Exception as error:
            self._conclude(call, unfit(complete, error))

    async def _take(self, call: Call) -> None:
        complete = call.complete
        if complete.priority not in WEIGHTS:
            known = ", ".join(WEIGHTS)
            raise SpecError(f"the priority of a call must be one of {known}, got {complete.priority!r}.")
        policy, request = complete.policy, complete.request
        shares = (policy.cache is not None or policy.coalesce) and not request.wants_variety
        call.digest = request.digest() if shares else None
        if call.digest is not None and self._answer_from_cache(call, policy.cache):
            return
        self.calls[call.serial] = call
        self._watch(call)
        joined = None
        if call.digest is not None and policy.coalesce:
            # Only calls that are served alike: a user's must not wait as long as one for a batch may.
            joined = self.flights.join((call.digest, complete.priority, policy), call.serial)
        if joined is not None:
            return
        await self._send(call, request)

    @on(Answered)
    async def answered(self, answered: Answered) -> None:
        """A gate or the courier is done with a call."""
        call = self.calls.get(answered.serial)
        if call is None:
            return
        self._let_go(call)
        outcome = answered.outcome
        if isinstance(outcome, BatchFailed):
            await self._send(call, self._request_of(call), at_once=True)
        elif isinstance(outcome, Exception) and (request := self._fallback(call, outcome)) is not None:
            await self._send(call, request)
        else:
            self._conclude(call, outcome)

    @on(Resume)
    async def resume(self, resume: Resume) -> None:
        """Start the courier, which finds its batches again."""
        # The supervisor of the gates is started after the front.
        if self.whereis(GATES) is None or await self._find_courier() is None:
            self.send_after(resume.wait, self.pid, Resume(min(resume.wait * 2, LONGEST_WAIT)))

    @on(GivenUp)
    def given_up(self, given_up: GivenUp) -> None:
        """An ask has timed out."""
        call = self.calls.get(given_up.serial)
        if call is not None and not call.reply.is_waited_for:
            self._withdraw(call)

    @on(Down)
    async def down(self, down: Down) -> None:
        """Someone who asked ended, or a gate or the courier did."""
        if down.pid is None:
            return
        for serial in self.askers.ended(down.pid):
            if serial in self.calls:
                self._withdraw(self.calls[serial])
        was_courier = self.courier is not None and self.courier.last_pid == down.pid
        for serial in self.held.pop(down.pid, ()):
            call = self.calls.get(serial)
            if call is None:
                continue
            call.at = None
            if was_courier:
                # The next courier finds it in the batch it was handed in with.
                await self._send(call, self._request_of(call))
            else:
                self._conclude(call, self._crash(call, down))

    @on(PoolStatus)
    def status(self, status: PoolStatus) -> PoolStatistics:
        """Answer with the statistics."""
        return self.statistics()

    # Sending.

    async def _send(self, call: Call, request: ModelRequest, *, at_once: bool = False) -> None:
        """Hand a call to whoever is to make it: the courier, unless it is to be made at once, or a gate."""
        try:
            to = None if at_once else await self._courier_for(call, request)
            self._hand(call, request, to if to is not None else await self._find_gate(request.model))
        except Exception as error:
            self._conclude(call, unfit(call.complete, error))

    async def _courier_for(self, call: Call, request: ModelRequest) -> Ref | None:
        complete, provider = call.complete, self.provider
        if complete.priority != "background" or not complete.policy.batch or complete.stream is not None:
            return None
        if not isinstance(provider, BatchProvider) or not provider.capabilities(request.model).batches:
            return None
        return await self._find_courier()

    def _hand(self, call: Call, request: ModelRequest, to: Ref) -> None:
        pid = to.pid or to.last_pid
        held = self.held.get(pid)
        if held is None:
            held = self.held[pid] = set()
            self.monitor(pid)
        held.add(call.serial)
        call.at = pid
        complete = call.complete
        self.tell(
            pid,
            Dispatch(call.serial, request, complete.policy, complete.priority, call.asked, complete.stream),
        )

    async def _find_gate(self, model: str) -> Ref:
        key = self.families.get(model)
        if key is None:
            if len(self.families) >= FAMILIES:
                self.families.clear()
            key = self.families[model] = (self.provider.credential, self.provider.capabilities(model).family)
        gate = self.gates.get(key)
        if gate is None or not gate.is_alive():
            gate = self.gates[key] = await self._start(
                f"avm.io.gate:{':'.join(key)}",
                "gate",
                ModelGate,
                (self.ref, self.provider, model, self.concurrency, self.workers, self.board),
            )
        return gate

    async def _find_courier(self) -> Ref | None:
        """Return the courier; None if it cannot start, so that calls go the normal way."""
        if self.courier is None or not self.courier.is_alive():
            args = (self.ref, self.provider, self.service("roots", None))
            try:
                self.courier = await self._start("avm.io.courier", "courier", BatchCourier, args)
            except StartError as error:
                if not self.has_warned:
                    self.has_warned = True
                    _log.warning("%s: batches have to wait: %s", self.path, error)
                return None
        return self.courier

    async def _start(self, name: str, id: str, cls: type[Actor], args: tuple[Any, ...]) -> Ref:
        """Return the actor of a name; it is started under the gates' supervisor if there is none."""
        found = self.whereis(name)
        if found is not None:
            return found
        gates = self.whereis(GATES)
        if gates is None:
            raise StartError("the I/O pool has no supervisor of gates now; ask again.")
        try:
            ref = await start_child(
                gates, child(id, cls, *args, name=name, restart="temporary", shutdown=5.0)
            )
        except StartError:
            # A former front may have started one meanwhile.
            ref = self.whereis(name)
            if ref is None:
                raise
        assert ref is not None
        return ref

    # Sharing.

    def _answer_from_cache(self, call: Call, seconds: float | None) -> bool:
        if seconds is None or call.digest is None:
            return False
        found = self._replies().get(call.digest, seconds)
        if found is None:
            return False
        self.tally.cache_hits += 1
        self._give(call, found)
        return True

    def _replies(self) -> ReplyCache:
        if self.cache is None:
            self.cache = ReplyCache(
                self.service("store", None),
                self.service("roots", None),
                most=self.cache_bytes,
                wall=self.service("wall", time.time),
            )
        return self.cache

    # Answering.

    def _fallback(self, call: Call, error: Exception) -> ModelRequest | None:
        """Return the request to the next model of the list; None if there is none, or the request itself is wrong."""
        policy = call.complete.policy
        if call.tried >= len(policy.fallbacks) or not _is_providers_fault(error):
            return None
        call.tried += 1
        self.tally.fallbacks += 1
        return self._request_of(call)

    def _request_of(self, call: Call) -> ModelRequest:
        request = call.complete.request
        if not call.tried:
            return request
        return attrs.evolve(request, model=call.complete.policy.fallbacks[call.tried - 1])

    def _conclude(self, call: Call, outcome: object) -> None:
        """Answer a call, and those equal to it."""
        policy = call.complete.policy
        if isinstance(outcome, Completion):
            self._pay(call, outcome)
            if call.digest is not None and policy.cache is not None and not call.tried:
                self._replies().put(call.digest, outcome, policy.cache)
        self._end(call)
        self._give(call, outcome)
        if call.digest is None or not policy.coalesce:
            return
        for serial in self.flights.land(call.serial):
            other = self.calls.get(serial)
            if other is not None:
                self._end(other)
                if isinstance(outcome, Completion):
                    self.tally.coalesced += 1
                    self._give(other, attrs.evolve(outcome, source="coalesced"))
                else:
                    self._give(other, outcome)

    def _give(self, call: Call, outcome: object) -> None:
        stream = call.complete.stream
        self.tally.done += 1
        if isinstance(outcome, Completion):
            self.tally.latency.add(self.now() - call.asked)
            if stream is not None:
                try:
                    stream.finish(outcome)
                except Exception as unreadable:
                    # The fragment is no message: whoever reads it as one gets the error too.
                    stream.fail(unreadable)
            call.reply.send(outcome)
            return
        self.tally.failed += 1
        error = outcome if isinstance(outcome, BaseException) else ProviderError(f"no reply but {outcome!r}.")
        if stream is not None:
            stream.fail(error)
        call.reply.fail(error)

    # What a provider says of its prices is its own, and no reason to fail a call that was answered.
    def _pay(self, call: Call, completion: Completion) -> None:
        try:
            self.tally.paid(completion, self._request_of(call), call.complete.policy.prompt_cache == "hour")
        except Exception as error:
            if not self.has_warned:
                self.has_warned = True
                _log.warning("%s: the cost of a call cannot be counted: %s", self.path, describe(error))

    def _crash(self, call: Call, down: Down) -> ProviderError:
        model = call.complete.request.model
        error = ProviderError(
            f"the gate {down.pid} ended ({describe(down.reason)}) before it answered a call of {model!r}; ask again.",
            self.provider.name,
            model,
        )
        error.__cause__ = down.reason if isinstance(down.reason, BaseException) else None
        return error

    # Who waits.

    def _watch(self, call: Call) -> None:
        call.reply.when_given_up(lambda: self._given_up(call))
        self.askers.add(call.asker, call.serial)

    # Called on the loop; when the front itself ends nobody has to be told.
    def _given_up(self, call: Call) -> None:
        if call.serial in self.calls and self.is_alive():
            self.tell(self.pid, GivenUp(call.serial))

    def _end(self, call: Call) -> None:
        """Forget a call."""
        self.calls.pop(call.serial, None)
        self._let_go(call)
        self.askers.remove(call.asker, call.serial)

    def _let_go(self, call: Call) -> None:
        if call.at is not None:
            self.held.get(call.at, set()).discard(call.serial)
            call.at = None

    def _withdraw(self, call: Call) -> None:
        """Nobody waits for a call: it is stopped, unless others wait for the same reply."""
        stream = call.complete.stream
        if stream is not None:
            stream.fail(ProviderError("the call was given up.", self.provider.name))
        leader = call.serial
        if call.digest is not None and call.complete.policy.coalesce:
            leader, is_last = self.flights.leave(call.serial)
            if not is_last:
                self._leave(call, leader)
                return
        holder = self.calls.get(leader)
        if holder is None:
            holder = call
        if holder.at is not None:
            self.tell(holder.at, Withdraw(leader))
        self._end(call)
        self._end(holder)

    def _leave(self, call: Call, leader: int) -> None:
        """One of several leaves. The call that was sent stays in the books for the others, whoever made it."""
        if call.serial == leader:
            self.askers.remove(call.asker, call.serial)
            call.asker = None
        else:
            self._end(call)

    # Looking at it.

    def statistics(self) -> PoolStatistics:
        """Count calls and workers, and read the latencies."""
        gates, tools = self.board.read_gates(), self.board.read_tools()
        found = attrs.evolve(
            self.tally.statistics(),
            in_flight=sum(gate.in_flight for gate in gates),
            queued=sum(gate.queued + gate.parked + gate.delayed for gate in gates),
            workers=sum(gate.workers for gate in gates),
            crashed_workers=sum(gate.crashed_workers for gate in gates),
            gates=gates,
        )
        if tools is None:
            return found
        return attrs.evolve(
            found,
            tool_calls=tools.calls,
            tool_failures=tools.failed,
            tools_in_flight=tools.in_flight,
            tools_queued=tools.queued,
            tool_workers=tools.workers,
            crashed_workers=found.crashed_workers + tools.crashed_workers,
        )

    def describe(self) -> dict[str, object]:
        """Show the statistics in reports."""
        return attrs.asdict(self.statistics())


def _is_providers_fault(error: Exception) -> bool:
    return is_retryable(error) or isinstance(error, (ProviderUnavailable, NotAuthorized, SpendLimitReached))
