"""Governor: when a gate may send a call, decided from the time it is told and how earlier calls ended.

    admit ──► Reservation ──► answered | failed | cancelled
      └─────► a time: ask again then

A call may go when all of these let it: the breaker (is the provider asked at all), the pause after a 429 and the ramp
that follows, the number of calls under way, and the three buckets. It then holds a reservation, which exactly one of
the three endings gives back, less what the provider counts. Smaller calls may pass one that waits for tokens; half of
what comes in meanwhile is kept for it.

No clock and no timers: every method is told `now`, in seconds. A clock that goes back counts as one that stands still.
"""

from __future__ import annotations

import math
from random import Random

import attrs

from avm.errors import (
    AVMError,
    BadOutput,
    ContextOverflow,
    InvalidRequest,
    NotAuthorized,
    Overloaded,
    ProviderConnection,
    ProviderError,
    ProviderFailed,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    Refused,
    SpendLimitReached,
)
from avm.io.breaker import OPEN_SECONDS, Breaker
from avm.io.bucket import Amounts, Buckets, Charge
from avm.io.concurrency import Concurrency
from avm.io.limits import Limits, RateLimits
from avm.io.pause import Pause
from avm.io.request import Usage
from avm.supervision import Backoff

BACKOFF = Backoff(min=0.5, max=8.0, factor=2.0, jitter=0.25)
"""Seconds before a call that failed is tried again."""

_RETRYABLE = (RateLimited, Overloaded, ProviderTimeout, ProviderConnection, ProviderFailed)
_BROKEN = (ProviderTimeout, ProviderConnection, ProviderFailed, NotAuthorized, SpendLimitReached)
"""The provider failed, or will not serve the account."""
_OWN_FAULT = (InvalidRequest, ContextOverflow, Refused, BadOutput)
"""The provider works; the request, or the reply to it, is not as it should be."""
_NOT_COUNTED = (RateLimited, NotAuthorized, SpendLimitReached)
"""The provider turned the call away before it counted anything."""
_MAYBE_READ = (ProviderTimeout, ProviderConnection)
"""The provider may have read all of the prompt before the line broke."""


def is_retryable(error: BaseException) -> bool:
    """Tell whether the same call may succeed later."""
    return isinstance(error, _RETRYABLE)


@attrs.frozen(slots=True)
class Cost:
    """Tokens a call is expected to use, as limits count them: input without what is read from the prompt cache."""

    input: int
    output: int


@attrs.define(eq=False, slots=True)
class Reservation:
    """A call may be sent, and counts as under way until it is answered, failed or cancelled."""

    cost: Cost
    charge: Charge
    generation: int
    """Of the breaker."""
    is_probe: bool
    """Whether it finds out if the provider works again."""

    @property
    def at(self) -> float:
        """When it was made, on the governor's clock: that of its caller, but for times it went back."""
        return self.charge.at


@attrs.frozen(slots=True, kw_only=True)
class GovernorStatistics:
    """What a governor believes and has seen. Levels are None where there is no limit, below 0 in debt."""

    limits: Limits
    """As believed now."""
    requests_level: float | None
    input_level: float | None
    output_level: float | None
    in_flight: int
    concurrency: int
    """Calls that may be under way now."""
    paused_until: float | None
    """None if it does not pause."""
    breaker: str
    """"closed", "open" or "half-open"."""
    answered: int
    rate_limited: int
    overloaded: int
    failed: int
    """All other failures."""
    input_tokens: int
    """Of calls that were answered, as limits count them."""
    output_tokens: int


class Governor:
    """Paces the calls of one credential and one family of models.

    Args:
        limits: as configured; responses correct them.
        concurrency: calls under way at once, never more; 1 or more.
        random: for the jitter.
        now: seconds, on the clock of all later calls.

    Raises:
        SpecError: a concurrency below 1.
    """

    def __init__(self, limits: Limits, concurrency: int, random: Random, now: float) -> None:
        self._now = self._told = float(now)
        self._random = random
        self._limits = limits
        self._buckets = Buckets(limits, self._now)
        self._concurrency = Concurrency(min(concurrency, limits.concurrency or concurrency))
        self._pause = Pause(random)
        self._breaker = Breaker()
        self._newest = 0
        self._in_flight = 0
        self._answered = self._rate_limited = self._overloaded = self._failed = 0
        self._input_tokens = self._output_tokens = 0

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return self._in_flight

    @property
    def paused_until(self) -> float | None:
        """When the pause ends; None if there was none at the time last told."""
        until = self._pause.until
        return self._outside(until) if until > self._now else None

    # Sending.

    def admit(self, cost: Cost, now: float, *, passes: bool = False) -> Reservation | float:
        """Let a call go, or not yet.

        Args:
            passes: whether it goes before one that was told to wait and is next: it leaves what is kept for that one.

        Returns:
            Its reservation; or the time at which to ask again, later than `now`; infinity if first a call under way
            has to end.
        """
        now = self._pass(now)
        ready = self._ready(cost, now, passes)
        if ready > now:
            if not passes:
                self._buckets.hold(_amounts(cost), now)
            # A clock far from 0 has coarse floats: never answer that it is time, if it is not.
            return max(self._outside(ready), math.nextafter(self._told, math.inf))
        if not passes:
            self._buckets.let_go()
        self._newest += 1
        self._in_flight += 1
        self._pause.sent(now, self._buckets.requests.limit)
        is_probe = self._breaker.sent(now)
        charge = Charge(self._newest, now, _amounts(cost))
        self._buckets.charge(charge, now)
        return Reservation(cost, charge, self._breaker.generation, is_probe)

    def refusal(self, now: float) -> ProviderUnavailable | None:
        """Return what calls should fail with now, its cause the last failure; None while the breaker lets them wait."""
        return self._breaker.refusal(self._pass(now))

    def retry_at(self, error: BaseException, attempt: int, now: float) -> float:
        """Return when a call may be tried again.

        Args:
            error: how it failed.
            attempt: which attempt that was, from 1.

        Returns:
            After a 429 the end of the pause, after other failures a while that doubles with each attempt; infinity
            for one that would fail again.
        """
        now = self._pass(now)
        if not is_retryable(error):
            return math.inf
        if isinstance(error, RateLimited):
            return self._outside(max(now, self._pause.until))
        return self._outside(now + BACKOFF.delay(max(1, attempt), self._random))

    def heard(self, reservation: Reservation, limits: RateLimits, now: float) -> None:
        """The response to a call has begun, and says this of the limits: it counts at once, not when the call ends."""
        self._buckets.correct(reservation.charge, limits, self._pass(now))

    # Endings.

    def answered(
        self, reservation: Reservation, usage: Usage | None, limits: RateLimits | None, now: float
    ) -> None:
        """A call was answered.

        Args:
            usage: what it used; None if the provider does not say: it is taken to be what was expected.
            limits: what the response says of them, if anything.

        Raises:
            AVMError: the call has ended before.
        """
        now = self._pass(now)
        used = _amounts(reservation.cost) if usage is None else _used(usage)
        self._end(reservation, used, limits, now)
        self._answered += 1
        self._input_tokens += int(used[1])
        self._output_tokens += int(used[2])
        self._went_well(reservation)

    def failed(
        self, reservation: Reservation, error: ProviderError, limits: RateLimits | None, now: float
    ) -> None:
        """A call failed. Arguments and errors as `answered`.

        A request that was turned away counts nothing; any other counts as a request, and as input too if it may have
        been read before the line broke.
        """
        now = self._pass(now)
        requests, tokens_in, _ = reservation.charge.amounts
        read = tokens_in if isinstance(error, _MAYBE_READ) else 0
        counted = not isinstance(error, _NOT_COUNTED)
        self._end(reservation, (requests, read, 0) if counted else (0, 0, 0), limits, now)
        self._count(error)
        if isinstance(error, RateLimited):
            self._limited(reservation, error, limits, now)
        elif isinstance(error, _OWN_FAULT):
            self._went_well(reservation)
        elif isinstance(error, _BROKEN):
            self._breaker.failed(reservation.generation, error, now)
        else:
            if isinstance(error, Overloaded):
                self._concurrency.troubled(reservation.charge.serial, self._newest)
            self._breaker.dropped(reservation.generation, now, OPEN_SECONDS)

    def cancelled(self, reservation: Reservation, now: float, sent: bool) -> None:
        """A call was given up; what did not reach the provider is given back.

        Args:
            sent: whether it had been sent: then its request and its input are used.

        Raises:
            AVMError: the call has ended before.
        """
        now = self._pass(now)
        requests, tokens_in, _ = reservation.charge.amounts
        self._end(reservation, (requests, tokens_in, 0) if sent else (0, 0, 0), None, now)
        self._breaker.dropped(reservation.generation, now)

    def statistics(self, now: float) -> GovernorStatistics:
        """Return what is believed now, and counts since the start."""
        now = self._pass(now)
        buckets = self._buckets
        return GovernorStatistics(
            limits=buckets.limits(self._limits.concurrency),
            requests_level=_finite(buckets.requests.level(now)),
            input_level=_finite(buckets.input.level(now)),
            output_level=_finite(buckets.output.level(now)),
            in_flight=self._in_flight,
            concurrency=self._concurrency.allowed,
            paused_until=self.paused_until,
            breaker=self._breaker.state,
            answered=self._answered,
            rate_limited=self._rate_limited,
            overloaded=self._overloaded,
            failed=self._failed,
            input_tokens=self._input_tokens,
            output_tokens=self._output_tokens,
        )

    def _ready(self, cost: Cost, now: float, passes: bool) -> float:
        ready = self._breaker.ready(now)
        if ready > now:
            return ready
        if now < self._pause.until:
            return self._pause.until
        allowed = self._concurrency.allowed
        if self._in_flight >= allowed:
            return math.inf
        ramp = self._pause.ready(now, self._buckets.requests.limit, self._in_flight, allowed)
        return max(ramp, self._buckets.ready(_amounts(cost), now, passes=passes))

    def _end(self, reservation: Reservation, used: Amounts, limits: RateLimits | None, now: float) -> None:
        charge = reservation.charge
        if charge.is_settled:
            raise AVMError(
                f"Governor: call {charge.serial} has ended already; say once of each reservation whether it was "
                "answered, failed or cancelled."
            )
        self._in_flight -= 1
        self._buckets.settle(charge, used, now)
        if limits is not None:
            self._buckets.correct(charge, limits, now)

    def _went_well(self, reservation: Reservation) -> None:
        serial = reservation.charge.serial
        self._pause.answered(serial)
        self._concurrency.answered(serial, self._newest)
        self._breaker.worked(reservation.generation)

    def _limited(
        self, reservation: Reservation, error: RateLimited, limits: RateLimits | None, now: float
    ) -> None:
        serial = reservation.charge.serial
        seconds = self._pause.begin(serial, self._newest, error.retry_after, now)
        self._buckets.refused(_amounts(reservation.cost), seconds, now)
        if limits is None and error.retry_after is None:
            self._concurrency.troubled(serial, self._newest)
        # It is there and knows the account: what a probe is to find out. Among other calls it is no success.
        if reservation.is_probe:
            self._breaker.worked(reservation.generation)

    def _count(self, error: ProviderError) -> None:
        if isinstance(error, RateLimited):
            self._rate_limited += 1
        elif isinstance(error, Overloaded):
            self._overloaded += 1
        else:
            self._failed += 1

    # The clock of all parts is the caller's, less the times it went back: what was to end in 5 s still does.
    def _pass(self, now: float) -> float:
        self._now += max(0.0, now - self._told)
        self._told = now
        return self._now

    def _outside(self, time: float) -> float:
        return self._told + (time - self._now)


def _amounts(cost: Cost) -> Amounts:
    return (1, cost.input, cost.output)


def _used(usage: Usage) -> Amounts:
    return (1, usage.input_tokens + usage.cache_write_tokens, usage.output_tokens)


def _finite(level: float) -> float | None:
    return level if math.isfinite(level) else None
