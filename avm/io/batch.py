"""Batch: calls that go to a provider as one; who waits for them, where it is recorded, and how it is carried.

    Batch --begin--> record on disk --submit--> the provider's id in the record --poll--> results
                          |
    the next process <----+  finds the calls by their digests, and goes on polling

All of these are plain objects: the courier decides when calls are gathered and who is answered, and hands in the time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import attrs

from avm.errors import (
    NotAuthorized,
    Overloaded,
    ProviderConnection,
    ProviderError,
    ProviderFailed,
    ProviderTimeout,
    RateLimited,
    SpendLimitReached,
    StoreError,
)
from avm.io.providers.provider import BatchProvider
from avm.io.request import Completion, ModelRequest
from avm.memory import Conversation, Digest, Roots, Store

PREFIX = "avm.io/batch/"
"""Records of batches are committed under this, the provider, its account and a number."""

FIRST_POLL = 5.0
"""Seconds from submitting a batch to asking for it the first time; twice as long each time after that."""

LAST_POLL = 60.0
"""Seconds between two polls at most."""

SUBMIT_FOR = 300.0
"""Seconds within which a batch that a provider has no room for is handed in again."""

CANCEL_FOR = 60.0
"""Seconds in which a batch that was cancelled may still end: what is done of it is paid."""

TRANSIENT = (RateLimited, Overloaded, ProviderTimeout, ProviderConnection, ProviderFailed)
"""What polling again helps against."""

CURABLE = (NotAuthorized, SpendLimitReached)
"""What the owner of the account can mend while the provider keeps a batch that is paid for."""

NO_ROOM = (RateLimited, Overloaded)
"""What says for sure that a batch was not taken, and may be later."""

Results = dict[str, Completion | ProviderError]
"""What came of the calls of a batch, by their ids."""

_log = logging.getLogger("avm")


@attrs.define(slots=True, eq=False)
class Entry:
    """One call in a batch, and who waits for it."""

    id: str
    digest: Digest
    batch: Batch
    request: ModelRequest | None = None
    """None once the provider has it."""
    is_cached: bool = True
    """Whether breakpoints may be placed in it."""
    asked: dict[int, float] = attrs.field(factory=dict)
    """When each serial that waits for it was asked."""


@attrs.define(slots=True, eq=False)
class Batch:
    """Calls that go together."""

    name: str
    """What its record is committed as."""
    id: str = ""
    """The provider's; empty before it has it."""
    entries: dict[str, Entry] = attrs.field(factory=dict)
    size: int = 0
    sent: float = 0.0
    deadline: float = 0.0
    """When it is given up; VM's clock."""
    first_poll: float = FIRST_POLL
    number: int = 0
    """Of the last call that came into it."""

    def add(self, digest: Digest, request: ModelRequest, *, is_cached: bool = True) -> Entry:
        """Put a call into it."""
        self.number += 1
        # Providers take ids of 64 characters at most.
        entry = Entry(f"{digest.hex()[:40]}-{self.number}", digest, self, request, is_cached)
        self.entries[entry.id] = entry
        self.size += request.size
        return entry

    def take_out(self, entry: Entry) -> None:
        """Take a call out of it that the provider does not have yet."""
        del self.entries[entry.id]
        if entry.request is not None:
            self.size -= entry.request.size

    def calls(self) -> list[tuple[str, ModelRequest]]:
        """Return what the provider is handed."""
        return [(entry.id, entry.request) for entry in self.entries.values() if entry.request is not None]

    def is_submitted(self, id: str) -> None:
        """The provider has it now."""
        self.id = id
        for entry in self.entries.values():
            entry.request = None


class Waiters:
    """Which calls wait for which entries, and which entries a call may still join."""

    def __init__(self) -> None:
        self._of: dict[int, Entry] = {}
        # By digest: entries whose reply is shared, and those that nobody waits for.
        self._shared: dict[Digest, Entry] = {}
        self._free: dict[Digest, dict[Entry, None]] = {}

    def __contains__(self, serial: object) -> bool:
        return serial in self._of

    def __len__(self) -> int:
        return len(self._of)

    def serials(self) -> list[int]:
        """Return all calls that wait."""
        return list(self._of)

    def find(self, digest: Digest, is_shared: bool) -> Entry | None:
        """Return an entry that a call may join: one that nobody waits for, or one whose reply is shared."""
        free = self._free.get(digest)
        return next(iter(free)) if free else self._shared.get(digest) if is_shared else None

    def join(self, entry: Entry, serial: int, asked: float, is_shared: bool) -> None:
        """Let a call wait for an entry."""
        self._claim(entry)
        entry.asked[serial] = asked
        self._of[serial] = entry
        if is_shared:
            self._shared[entry.digest] = entry

    def leave(self, serial: int) -> Entry | None:
        """Let a call give up; return its entry if nobody is left who waits for it."""
        entry = self._of.pop(serial, None)
        if entry is None:
            return None
        del entry.asked[serial]
        return entry if not entry.asked else None

    def offer(self, entry: Entry) -> None:
        """Let any call with its digest join an entry that nobody waits for."""
        self._free.setdefault(entry.digest, {})[entry] = None

    def remove(self, entry: Entry) -> None:
        """Forget an entry, and that anybody waits for it."""
        self._claim(entry)
        if self._shared.get(entry.digest) is entry:
            del self._shared[entry.digest]
        for serial in entry.asked:
            del self._of[serial]

    def _claim(self, entry: Entry) -> None:
        free = self._free.get(entry.digest)
        if free is not None:
            free.pop(entry, None)
            if not free:
                del self._free[entry.digest]


class Records:
    """Batches as conversations under names: the first message says what is in one, the second who has it.

    Args:
        store, roots: where they are committed; without roots there are none.
        prefix: what their names begin with.
        wall: the time in seconds since 1970.
    """

    def __init__(
        self, store: Store | None, roots: Roots | None, prefix: str, wall: Callable[[], float]
    ) -> None:
        self.prefix = prefix
        self._store = store
        self._roots = roots
        self._wall = wall

    async def begin(self, batch: Batch) -> None:
        """Commit what is in a batch, and wait until it is on disk.

        Raises:
            StoreError: it could not be.
        """
        lines = [f"{entry.id} {entry.digest.hex()}" for entry in batch.entries.values()]
        record = Conversation(self._store, meta={"submitted": self._wall()})
        await self._commit(batch.name, record.append({"role": "calls", "content": "\n".join(lines)}))

    async def add_id(self, batch: Batch) -> None:
        """Commit which of the provider's batches it is. Errors as `begin`."""
        record = self._roots.get(batch.name) if self._roots is not None else None
        if record is not None:
            await self._commit(batch.name, record.append({"role": "batch", "content": batch.id}))

    async def read(self, name: str, now: float, give_up: float) -> Batch | None:
        """Return the batch of a record; None if it was not submitted, for all that is known.

        Raises:
            StoreError, KeyError, ValueError: it cannot be read, or is no record.
        """
        record = self._roots.get(name) if self._roots is not None else None
        if record is None or self._roots is None or len(record) < 2:
            return None
        await self._roots.wake(record)
        calls, submitted = record.messages()
        # A clock that was set back does not give it more time than a new one has.
        left = give_up - max(0.0, self._wall() - record.meta["submitted"])
        batch = Batch(name, submitted["content"], sent=now, deadline=now + left, first_poll=0.0)
        for line in calls["content"].splitlines():
            id, digest = line.split()
            batch.entries[id] = Entry(id, Digest.from_hex(digest), batch)
        return batch

    def names(self) -> list[str]:
        """Return the names of all records."""
        return [name for name in self._roots or () if name.startswith(self.prefix)]

    def forget(self, name: str) -> None:
        """Delete a record."""
        if self._roots is None:
            return
        try:
            self._roots.forget(name)
        except StoreError as error:
            _log.warning("the record %s of a batch cannot be deleted (%s).", name, error)

    async def _commit(self, name: str, record: Conversation) -> None:
        if self._roots is None:
            return
        written = self._roots.commit(name, record)
        if written.done():
            written.result()
        else:
            await asyncio.wrap_future(written)


class Carrier:
    """Takes batches to a provider, and brings their results.

    Args:
        provider: who takes them.
        name: what it is called.
        records: where they are committed.
        give_up: seconds after which a batch is cancelled.
        now, sleep: the time in seconds on the VM's clock, and how to wait.
    """

    def __init__(
        self,
        provider: BatchProvider,
        name: str,
        records: Records,
        give_up: float,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._provider = provider
        self._name = name
        self._records = records
        self._give_up = give_up
        self._now = now
        self._sleep = sleep
        # One for each batch that is being handed in.
        self._submitting: set[asyncio.Future[None]] = set()

    async def bring(self, batch: Batch) -> Results:
        """Submit a batch, unless the provider has it, wait until it has ended, and return its results.

        Raises:
            ProviderError: it was not taken, is not known any more, or has not ended in time.
            StoreError: it could not be recorded.
        """
        if not batch.id:
            await self._records.begin(batch)
            await self._submit_patiently(batch)
        return await self._results(batch)

    async def wait_submitted(self) -> None:
        """Wait until the ids of the batches that are being handed in are recorded."""
        if self._submitting:
            await asyncio.wait(self._submitting)

    async def _submit_patiently(self, batch: Batch) -> None:
        wait, last = FIRST_POLL, self._now() + SUBMIT_FOR
        while True:
            try:
                await self._submit(batch)
                return
            except NO_ROOM as error:
                if self._now() >= last:
                    raise
                asked = error.retry_after if isinstance(error, RateLimited) else None
                await self._sleep(min(max(wait, asked or 0.0), LAST_POLL))
                wait *= 2

    async def _submit(self, batch: Batch) -> None:
        over = asyncio.get_running_loop().create_future()
        self._submitting.add(over)
        try:
            batch.sent = self._now()
            batch.is_submitted(await self._provider.submit_batch(batch.calls()))
            await self._records.add_id(batch)
        except StoreError as error:
            # It is paid for: this process brings its results all the same.
            _log.warning("the id of batch %s cannot be kept (%s); a restart would lose it.", batch.id, error)
        finally:
            self._submitting.discard(over)
            over.cancel()

    async def _results(self, batch: Batch) -> Results:
        wait, deadline, is_cancelled = batch.first_poll, batch.deadline, False
        trouble: ProviderError | None = None
        while True:
            await self._sleep(wait)
            try:
                if (await self._provider.poll_batch(batch.id)).ended:
                    return await self._read(batch)
                trouble = None
            except TRANSIENT as error:
                trouble = error
            except CURABLE as error:
                if type(trouble) is not type(error):
                    _log.warning(
                        "batch %s is done or under way, and asking for it is refused (%s); it is asked for again.",
                        batch.id,
                        error,
                    )
                trouble = error
            left = deadline - self._now()
            if left > 0:
                wait = min(max(2 * wait, FIRST_POLL), LAST_POLL, left)
            elif is_cancelled:
                text = f"batch {batch.id} of {self._name} has not ended within {self._give_up:g} s"
                raise ProviderTimeout(text, self._name) from trouble
            else:
                # Whatever the provider says to that; if it has ended just now its results are there.
                with suppress(ProviderError):
                    await self._provider.cancel_batch(batch.id)
                wait, deadline, is_cancelled = FIRST_POLL, self._now() + CANCEL_FOR, True

    async def _read(self, batch: Batch) -> Results:
        results: Results = {}
        try:
            async for id, result in self._provider.batch_results(batch.id):
                results[id] = result
        except (*TRANSIENT, *CURABLE):
            raise
        except ProviderError as error:
            if not results:
                raise
            # They are paid for, and the rest will not become readable.
            _log.warning(
                "of the results of batch %s only %d of %d can be read (%s).",
                batch.id,
                len(results),
                len(batch.entries),
                error,
            )
        return results
