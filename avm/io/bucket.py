"""Token buckets: what a provider allows a minute, as far as we can know it.

A `Bucket` is one limit. It holds at most a minute's worth, fills evenly, may be in debt, and is corrected by what
responses say. `Buckets` are the three of one credential (requests, input tokens, output tokens) with the `Charge` of
every call that may still matter: taken when the call is sent, replaced by what it used when it ends.

Our own account is one estimate of the provider's level, and a response's `remaining` another. It was true when the
provider wrote it: somewhere between taking the call and answering it, which one cannot tell. So it gives two bounds:

- at most: the larger of what it says, and of what that has become if it was written when the call was sent: filled
  since, less what was sent since. What was sent within about a second of the call may have arrived before it.
- at least: the smaller of the same, with nothing of what is under way in it.

The account is moved to the nearer bound if it lies outside, down at once and up little by little, and believed in
between. Responses come out of order; only one to a call that was sent after all those heard of so far says anything
new.

A call that has to wait for tokens may be passed by smaller ones, which could go on for ever. So it is *held* for: of
what comes in while it waits, `KEPT` is kept for it, and only the rest is for those that pass. It goes after at most
twice the time it would wait alone.

To take off all that is under way, as one might, is to count most of it twice: a thousand calls that take a minute each
then use half of the limit, against 99 % (measured with the provider in tests/io/test_governor_laws.py).
"""

from __future__ import annotations

import math

import attrs

from avm.io.limits import Allowance, Limits, RateLimits

MINUTE = 60.0

TICK = 0.001
"""Seconds to wait at least, so that rounding never asks a gate to come again at once."""

MARGIN = 0.01
"""The part of a bucket by which a response must say more than we think before we believe it: times are inexact, some
providers round, and one rejected call costs more than this."""

CATCHING_UP = 0.125
"""The part of what it says more that we believe at a time."""

SLOT = 0.5
"""Seconds of calls whose order of arrival at the provider is not known."""

KEPT = 0.5
"""The part of what comes in that is kept for a call that waits for tokens and is passed."""

REMEMBERED = 600.0
"""Seconds for which is known what was sent when; no call takes longer."""

Amounts = tuple[float, float, float]
"""Of requests, input tokens and output tokens."""

NOTHING: Amounts = (0, 0, 0)


class Bucket:
    """One limit; full at first.

    Args:
        limit: a minute; None is no limit, until a response tells one.
        now: seconds on the clock of all later calls, which never goes back.
    """

    __slots__ = ("_at", "_level", "capacity", "limit")

    def __init__(self, limit: int | None, now: float) -> None:
        self.limit = limit
        self.capacity = float(limit or 0)
        self._level = self.capacity
        self._at = now

    def level(self, now: float) -> float:
        """Return what may be taken; below 0 it is in debt, infinite without a limit."""
        if self.limit is None:
            return math.inf
        if now > self._at:
            self._level = min(self.capacity, self._level + (now - self._at) * self.limit / MINUTE)
            self._at = now
        return self._level

    def ready(self, amount: float, now: float, kept: float = 0.0) -> float:
        """Return when an amount may be taken: now, or later by a tick at least.

        More than the bucket can hold may be taken when it is full; it would never be possible otherwise.

        Args:
            kept: of what is in it, for another call; above 0 `KEPT` of what comes in is kept too.
        """
        if self.limit is None:
            return now
        missing = min(amount, self.capacity) + kept - self.level(now)
        # Floats: what is missing after a wait of the right length is not always exactly nothing.
        if missing <= 1e-9 * self.capacity:
            return now
        return now + max(TICK, missing * MINUTE / (self.limit * (1.0 - KEPT) if kept else self.limit))

    def kept(self, amount: float, seconds: float) -> float:
        """Return what has been kept in so many seconds for a call that waits for an amount."""
        return min(amount, self.capacity, seconds * KEPT * (self.limit or 0) / MINUTE)

    def take(self, amount: float, now: float) -> None:
        """Take an amount, into debt if need be; one below 0 is given back, up to full."""
        if self.limit is not None:
            self._level = min(self.capacity, self.level(now) - amount)

    def correct(
        self, said: Allowance, age: float, later: float, since: float, under_way: float, now: float
    ) -> None:
        """Take over what the response to a call says.

        Args:
            age: seconds since that call was sent.
            later: what calls are charged with that surely came after it.
            since: the same of all that may have.
            under_way: the same of all that have not ended.
        """
        if said.limit is not None and said.limit >= 1 and said.limit != self.limit:
            self._rescale(said.limit, under_way, now)
        if said.remaining is None or self.limit is None:
            return
        rate = self.limit / MINUTE
        if said.reset is not None:
            self._resize(said.remaining + (said.reset + age) * rate, now)
        filled = min(self.capacity, said.remaining + age * rate)
        most = min(self.capacity, max(said.remaining, filled - later))
        least = min(filled - since, said.remaining - under_way) - MARGIN * self.capacity
        level = self.level(now)
        self._level = min(level + max(0.0, least - level) * CATCHING_UP, most)

    def lower(self, level: float, now: float) -> None:
        """Have no more than that."""
        if self.limit is not None:
            self._level = min(self.level(now), level)

    def _rescale(self, limit: int, under_way: float, now: float) -> None:
        if self.limit is None:
            self._level, self._at = limit - under_way, now
        else:
            self._level = self.level(now) * limit / self.limit
        self.limit = limit
        self.capacity = float(limit)

    # `full` is what the provider's bucket holds when `reset` is over: some hold less than a minute's worth.
    def _resize(self, full: float, now: float) -> None:
        limit = float(self.limit or 0)
        # Times of reset come in whole seconds, and so does the second of grace.
        full += limit / MINUTE
        capacity = limit if full >= 0.9 * limit else max(1.0, full)
        if capacity != self.capacity:
            self._level = min(self.level(now), capacity)
            self.capacity = capacity


@attrs.define(eq=False, slots=True)
class Charge:
    """What one call counts for now."""

    serial: int
    """In the order of sending, from 1."""
    at: float
    """When it was sent."""
    amounts: Amounts
    is_settled: bool = False


class Buckets:
    """The three buckets of one credential, and the charges of its calls.

    Args:
        limits: as configured; responses correct them.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self.requests = Bucket(limits.requests, now)
        self.input = Bucket(limits.input_tokens, now)
        self.output = Bucket(limits.output_tokens, now)
        self._all = (self.requests, self.input, self.output)
        # What was sent when, by number of slot; none before that of the newest call whose response told limits.
        self._slots: dict[int, Amounts] = {}
        self._since = NOTHING
        self._heard = 0
        self._under_way = NOTHING
        # What the call takes that is held for, and since when.
        self._held: tuple[Amounts, float] | None = None
        # Most of the time there is nothing to keep: until a response tells of a limit.
        self._is_unlimited = all(bucket.limit is None for bucket in self._all)

    @property
    def under_way(self) -> Amounts:
        """What calls that have not ended are charged with."""
        return self._under_way

    def ready(self, amounts: Amounts, now: float, *, passes: bool = False) -> float:
        """Return when a call that takes this may go: now, or later; one that `passes` leaves what is held."""
        if self._is_unlimited:
            return now
        requests, tokens_in, tokens_out = amounts
        kept_in = kept_out = 0.0
        if passes and self._held is not None:
            (_, held_in, held_out), since = self._held
            kept_in = self.input.kept(held_in, now - since)
            kept_out = self.output.kept(held_out, now - since)
        return max(
            self.requests.ready(requests, now),
            self.input.ready(tokens_in, now, kept_in),
            self.output.ready(tokens_out, now, kept_out),
        )

    def hold(self, amounts: Amounts, now: float) -> None:
        """The next call, which takes this, waits: keep tokens for it; what was kept for another one is its own."""
        self._held = (amounts, now if self._held is None else self._held[1])

    def let_go(self) -> None:
        """The next call goes: nothing is held any more."""
        self._held = None

    def charge(self, charge: Charge, now: float) -> None:
        """A call is sent: take what it is expected to use. Serials ascend."""
        self._under_way = _plus(self._under_way, charge.amounts)
        if self._is_unlimited:
            return
        self._take(charge.amounts, now)
        self._since = _plus(self._since, charge.amounts)
        slot = int(now // SLOT)
        self._slots[slot] = _plus(self._slots.get(slot, NOTHING), charge.amounts)
        self._forget(int((now - REMEMBERED) // SLOT))

    def settle(self, charge: Charge, used: Amounts, now: float) -> None:
        """A call has ended: it is charged with what it used; the difference is given back, or taken."""
        self._under_way = _minus(self._under_way, charge.amounts)
        difference = _minus(used, charge.amounts)
        charge.amounts = used
        charge.is_settled = True
        if self._is_unlimited:
            return
        self._take(difference, now)
        slot = int(charge.at // SLOT)
        if slot in self._slots:
            self._slots[slot] = _plus(self._slots[slot], difference)
            self._since = _plus(self._since, difference)

    def correct(self, charge: Charge, said: RateLimits, now: float) -> None:
        """Take over what the response to a call says; nothing if one to a later call has been heard."""
        if charge.serial <= self._heard:
            return
        self._heard = charge.serial
        slot = int(charge.at // SLOT)
        self._forget(slot)
        later = self._since
        for near in (slot, slot + 1):
            later = _minus(later, self._slots.get(near, NOTHING))
        allowances = (said.requests, said.input_tokens, said.output_tokens)
        age = now - charge.at
        for kind, (bucket, allowance) in enumerate(zip(self._all, allowances, strict=True)):
            if allowance is not None:
                bucket.correct(allowance, age, later[kind], self._since[kind], self._under_way[kind], now)
        self._is_unlimited = all(bucket.limit is None for bucket in self._all)

    def refused(self, amounts: Amounts, seconds: float, now: float) -> None:
        """A call was turned away that would take this, and should find room in so many seconds.

        So one of the buckets has less than we think: taken to be the one with the least in it.
        """
        limited = [kind for kind, bucket in enumerate(self._all) if bucket.limit is not None]
        if limited:
            kind = min(limited, key=lambda kind: self._all[kind].level(now) / self._all[kind].capacity)
            bucket = self._all[kind]
            filled = seconds * (bucket.limit or 0) / MINUTE
            bucket.lower(min(amounts[kind], bucket.capacity) - filled, now)

    def limits(self, concurrency: int | None) -> Limits:
        """Return what is believed to be allowed."""
        return Limits(
            requests=self.requests.limit,
            input_tokens=self.input.limit,
            output_tokens=self.output.limit,
            concurrency=concurrency,
        )

    def _take(self, amounts: Amounts, now: float) -> None:
        for bucket, amount in zip(self._all, amounts, strict=True):
            if amount:
                bucket.take(amount, now)

    def _forget(self, before: int) -> None:
        while self._slots and (oldest := next(iter(self._slots))) < before:
            self._since = _minus(self._since, self._slots.pop(oldest))


def _plus(one: Amounts, other: Amounts) -> Amounts:
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2])


def _minus(one: Amounts, other: Amounts) -> Amounts:
    return (one[0] - other[0], one[1] - other[1], one[2] - other[2])
