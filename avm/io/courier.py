"""BatchCourier: an actor that gathers calls which can wait into the provider's batches, at half the price.

    Dispatch --> gathering --full, or old enough--> record committed --> submitted --> polled --> results --> Answered
                                                          |  (the provider's id is added to the record)
    the next process <------------------------------------+  joins what is pending instead of paying again

What is in a batch is committed under a name of its own before the provider gets it: the id of each call in it, and the
digest of its request. A process that starts finds these records and goes on polling; a call whose digest is in one
waits for that result. Results that nobody waits for are kept for as long as a batch may take. What a batch could not do
is answered with `BatchFailed`, and the front makes the call the normal way. Equal calls are one in a batch where their
policy says that they may be. A batch that takes too long is cancelled; what the provider has done of it by then counts.

A process that is killed after it has submitted a batch and before the provider's id is on disk does not know whether
the provider has it. The next one takes it as not submitted: its calls are made again, and the lost batch is paid in
vain. A process that stops in order waits for the id.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import attrs

from avm.actors.actor import Actor, on
from avm.actors.event import event
from avm.actors.reasons import describe
from avm.actors.ref import Pid, Ref
from avm.actors.signals import Down, Monitor
from avm.actors.timers import TimerRef
from avm.errors import ProviderError, SpecError, StoreError
from avm.io.batch import PREFIX, Batch, Carrier, Entry, Records, Waiters
from avm.io.cache import ReplyCache
from avm.io.chain import Prompt, chain_of
from avm.io.dispatch import Answered, Dispatch, Withdraw
from avm.io.prefix import PrefixTable
from avm.io.providers.provider import BatchProvider, Capabilities
from avm.io.request import Completion, Hints, ModelRequest, Timings
from avm.memory import Digest, Roots

UNCLAIMED = "avm.io/unclaimed/"
"""Results that nobody waited for are committed under this and the digest of their request."""

DAY = 24 * 3600.0
"""Seconds after which a provider gives a batch up."""

AT_ONCE = 200
"""Results that are handed on before others get their turn."""

_log = logging.getLogger("avm")


class BatchFailed(ProviderError):
    """A call could not be made in a batch, so it is to be made the normal way; the cause is what went wrong."""


@event(tag="avm.io.courier.Due")
class Due:
    """The calls gathered under a name have waited long enough."""

    name: str


@event(tag="avm.io.courier.Brought")
class Brought:
    """A batch has ended; the results by the ids of its calls."""

    name: str
    results: dict[str, Any]


@event(tag="avm.io.courier.Lost")
class Lost:
    """A batch could not be submitted, or was given up."""

    name: str
    error: Any


@attrs.frozen(slots=True, kw_only=True)
class CourierStatistics:
    """What the courier carries, and has carried."""

    gathering: int
    """Calls of the batch that is being gathered."""
    batches: int
    """Submitted, or being so."""
    pending: int
    """Calls in these."""
    waiting: int
    """Calls that are to be answered."""
    unclaimed: int
    """Results that nobody has asked for yet."""
    answered: int
    failed: int
    """Answered with `BatchFailed`."""


class BatchCourier(Actor):
    """Gathers calls into batches. See the module.

    Args:
        front: who gets the answers. When whoever sends the calls ends, nobody waits for them any more.
        provider: who takes the batches.
        roots: where records are committed, on disk with a home; None keeps none.
        most_calls, most_bytes: of one batch; a larger call goes alone.
        most_seconds: how long the first call of a batch waits for others.
        give_up: seconds after which a batch is cancelled, and its calls are made the normal way; results that nobody
            waits for are kept for as long.
        wall: the time in seconds since 1970; None takes that of the service "wall", or the real one.

    Raises:
        SpecError: a limit that nothing fits in.
    """

    def __init__(
        self,
        front: Ref,
        provider: BatchProvider,
        roots: Roots | None,
        *,
        most_calls: int = 10_000,
        most_bytes: int = 64 << 20,
        most_seconds: float = 60.0,
        give_up: float = DAY,
        wall: Callable[[], float] | None = None,
    ) -> None:
        for name, value in (("most_calls", most_calls), ("most_bytes", most_bytes), ("give_up", give_up)):
            if not value > 0:
                raise SpecError(f"BatchCourier: {name} must be above 0, got {value!r}.")
        self.front = front
        self.provider = provider
        self.provider_name = str(getattr(provider, "name", "provider"))
        self.most_calls = most_calls
        self.most_bytes = most_bytes
        self.most_seconds = most_seconds
        self.give_up = give_up
        store = self.service("store", None)
        wall = wall or self.service("wall", time.time)
        prefix = f"{PREFIX}{self.provider_name}/{getattr(provider, 'credential', '')}/"
        self.records = Records(store, roots, prefix, wall)
        self.unclaimed = ReplyCache(store, roots, most_bytes, wall=wall, prefix=UNCLAIMED, reasons=None)
        self.carrier = Carrier(provider, self.provider_name, self.records, give_up, self.now, self.sleep)
        self.waiters = Waiters()
        self.gathering: Batch | None = None
        self.due: TimerRef | None = None
        self.batches: dict[str, Batch] = {}
        self.asker: Pid | None = None
        self.watch: Monitor | None = None
        self.answered = 0
        self.failed = 0

    async def starting(self) -> None:
        """Go on with the batches that a former incarnation, or process, has submitted."""
        for name in self.records.names():
            try:
                batch = await self.records.read(name, self.now(), self.give_up)
            except (StoreError, KeyError, ValueError) as error:
                _log.warning(
                    "record %s of a batch cannot be read (%s); its calls are made again.", name, error
                )
                batch = None
            if batch is None:
                self.records.forget(name)
                continue
            for entry in batch.entries.values():
                self.waiters.offer(entry)
            self._carry(batch)

    async def stopping(self, reason: object) -> None:
        """Wait until the provider has told the ids of the batches it is getting: without them they are lost."""
        await self.carrier.wait_submitted()

    # What comes in.

    @on(Dispatch)
    def take(self, dispatch: Dispatch) -> None:
        """Take a call: its result is there, it joins one that is pending, or those that are being gathered."""
        self._follow(self.sender)
        if dispatch.serial in self.waiters:
            return
        digest = dispatch.request.digest()
        kept = self.unclaimed.get(digest)
        if kept is not None:
            self.unclaimed.drop(digest)
            self._answer(dispatch.serial, _stamped(kept, dispatch.asked, self.now(), self.now()))
            return
        is_shared = dispatch.policy.coalesce and not dispatch.request.wants_variety
        entry = self.waiters.find(digest, is_shared) or self._gather(digest, dispatch)
        self.waiters.join(entry, dispatch.serial, dispatch.asked, is_shared)
        batch = entry.batch
        if len(batch.entries) >= self.most_calls or batch.size >= self.most_bytes:
            self._close(batch)

    @on(Withdraw)
    def withdraw(self, withdraw: Withdraw) -> None:
        """Nobody waits for a call any more; if it is in a batch already its result is kept."""
        self._leave(withdraw.serial)

    @on(Due)
    def send_what_is_due(self, due: Due) -> None:
        """The first of the calls that are gathered has waited long enough."""
        if self.gathering is not None and self.gathering.name == due.name:
            self._close(self.gathering)

    @on(Brought)
    async def hand_on(self, brought: Brought) -> None:
        """Answer the calls of a batch that has ended."""
        batch = self.batches.pop(brought.name)
        for number, entry in enumerate(batch.entries.values(), 1):
            self._conclude(entry, self._outcome(entry, brought.results.get(entry.id)))
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        self.records.forget(batch.name)

    @on(Lost)
    def hand_back(self, lost: Lost) -> None:
        """Let the calls of a batch be made the normal way."""
        batch = self.batches.pop(lost.name)
        error = lost.error
        if not isinstance(error, BatchFailed):
            what = f"{self.provider_name} did not take, or lost, a batch of {len(batch.entries)} calls"
            error = self._failure(f"{what} ({describe(error)}); they are made the normal way.", error)
        for entry in batch.entries.values():
            self._conclude(entry, error)
        self.records.forget(batch.name)

    @on(Down)
    def down(self, down: Down) -> None:
        """Who sent the calls has ended."""
        if down.monitor == self.watch:
            self._abandon()

    # Looking at it.

    def statistics(self) -> CourierStatistics:
        """Count calls and batches."""
        return CourierStatistics(
            gathering=len(self.gathering.entries) if self.gathering is not None else 0,
            batches=len(self.batches),
            pending=sum(len(batch.entries) for batch in self.batches.values()),
            waiting=len(self.waiters),
            unclaimed=len(self.unclaimed),
            answered=self.answered,
            failed=self.failed,
        )

    def describe(self) -> dict[str, object]:
        """Show the statistics in reports."""
        return attrs.asdict(self.statistics())

    # Gathering.

    def _gather(self, digest: Digest, dispatch: Dispatch) -> Entry:
        batch, request = self.gathering, dispatch.request
        if batch is not None and batch.size + request.size > self.most_bytes:
            self._close(batch)
            batch = None
        if batch is None:
            batch = self.gathering = Batch(f"{self.records.prefix}{self.random.getrandbits(64):016x}")
            self.due = self.send_after(self.most_seconds, self.pid, Due(batch.name))
        return batch.add(digest, request, is_cached=dispatch.policy.prompt_cache != "off")

    def _close(self, batch: Batch) -> None:
        """Gather no more into a batch, and send it if there is anything in it."""
        if batch is not self.gathering:
            return
        if self.due is not None:
            self.cancel(self.due)
        self.gathering = self.due = None
        if batch.entries:
            batch.deadline = self.now() + self.give_up
            self._place_breakpoints(batch)
            self._carry(batch)

    def _place_breakpoints(self, batch: Batch) -> None:
        """Have the provider cache what calls of a batch share, for an hour: in which order is not known."""
        capabilities = getattr(self.provider, "capabilities", None)
        prompts: list[tuple[Entry, ModelRequest, Prompt, int]] = []
        tables: dict[int, PrefixTable] = {}
        for entry in batch.entries.values():
            request = entry.request
            if request is None or capabilities is None or not entry.is_cached:
                continue
            can: Capabilities = capabilities(request.model)
            if can.prompt_cache != "prefix":
                continue
            try:
                prompt = chain_of(request)
            except StoreError:
                # Whoever encodes it says what is wrong.
                continue
            least = can.min_cached_tokens
            tables.setdefault(least, PrefixTable(least)).expect(prompt.chain, entry.id)
            prompts.append((entry, request, prompt, least))
        for entry, request, prompt, least in prompts:
            if prompt.chain:
                entry.request = request.hinted(_batch_hints(prompt, tables[least], least))

    # Who waits.

    def _follow(self, sender: Pid | None) -> None:
        if sender is None or sender == self.asker:
            return
        if self.asker is not None and not self.asker.is_alive():
            self._abandon()
        self.asker = sender
        self.watch = self.monitor(sender)

    def _abandon(self) -> None:
        self.asker = self.watch = None
        for serial in self.waiters.serials():
            self._leave(serial)

    def _leave(self, serial: int) -> None:
        entry = self.waiters.leave(serial)
        if entry is None:
            return
        batch = entry.batch
        if batch is not self.gathering:
            self.waiters.offer(entry)
            return
        self.waiters.remove(entry)
        batch.take_out(entry)
        if not batch.entries:
            self._close(batch)

    # Carrying.

    def _carry(self, batch: Batch) -> None:
        name = batch.name
        self.batches[name] = batch
        self.pipe(
            self.carrier.bring(batch),
            lambda results: Brought(name, results),
            lambda error: Lost(name, error),
        )

    # Answering.

    def _outcome(self, entry: Entry, result: object) -> Completion | BatchFailed:
        if isinstance(result, Completion):
            return result
        id, name = entry.batch.id, self.provider_name
        if isinstance(result, BaseException):
            text = (
                f"{name} could not make a call in batch {id} ({describe(result)}); it is made the normal way."
            )
            return self._failure(text, result)
        return self._failure(
            f"batch {id} of {name} has no result for a call; it is made the normal way.", None
        )

    def _conclude(self, entry: Entry, outcome: Completion | BatchFailed) -> None:
        """Answer who waits for an entry; a reply that nobody waits for is kept."""
        self.waiters.remove(entry)
        if not isinstance(outcome, Completion):
            for serial in entry.asked:
                self._answer(serial, outcome)
            return
        if not entry.asked:
            self.unclaimed.put(entry.digest, outcome, self.give_up)
        for serial, asked in entry.asked.items():
            self._answer(serial, _stamped(outcome, asked, entry.batch.sent, self.now()))

    def _answer(self, serial: int, outcome: Completion | BatchFailed) -> None:
        self.answered += 1
        if isinstance(outcome, BatchFailed):
            self.failed += 1
        self.tell(self.front, Answered(serial, outcome))

    def _failure(self, text: str, cause: BaseException | None) -> BatchFailed:
        model, request_id = getattr(cause, "model", ""), getattr(cause, "request_id", "")
        error = BatchFailed(text, self.provider_name, model, request_id)
        error.__cause__ = cause
        return error


def _batch_hints(prompt: Prompt, table: PrefixTable, least: int) -> Hints:
    marks = {prompt.messages[index] for index in table.shared(prompt.chain)} - {0}
    return Hints(
        system=prompt.messages[0] == 0 and prompt.chain[0].tokens >= least,
        # The system's is one of the four that a request may have.
        marks=tuple(sorted(marks)[-3:]),
        hour=True,
    )


def _stamped(completion: Completion, asked: float, sent: float, ended: float) -> Completion:
    return attrs.evolve(completion, source="batch", timings=Timings(asked, sent, ended))
