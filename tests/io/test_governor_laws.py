"""What holds for a governor whatever happens, and what comes of it against a provider with real limits."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from random import Random
from typing import Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.errors import (
    InvalidRequest,
    NotAuthorized,
    Overloaded,
    ProviderConnection,
    ProviderError,
    ProviderFailed,
    ProviderTimeout,
    RateLimited,
    SpendLimitReached,
)
from avm.io.breaker import PROBE_SECONDS
from avm.io.governor import Cost, Governor, Reservation
from avm.io.limits import Allowance, Limits, RateLimits
from avm.io.request import Usage

LIMITS = Limits(requests=60, input_tokens=6_000, output_tokens=1_200)
COST = Cost(input=100, output=20)

ERRORS: list[Callable[[], ProviderError]] = [
    lambda: RateLimited("too many", retry_after=3.0),
    lambda: RateLimited("too many"),
    lambda: Overloaded("busy"),
    lambda: ProviderFailed("500"),
    lambda: ProviderTimeout("slow"),
    lambda: ProviderConnection("cut"),
    lambda: InvalidRequest("no such model"),
    lambda: NotAuthorized("no"),
    lambda: SpendLimitReached("spent"),
]

costs = st.builds(Cost, input=st.integers(0, 9_000), output=st.integers(0, 2_000))
usages = st.none() | st.builds(Usage, input_tokens=st.integers(0, 9_000), output_tokens=st.integers(0, 2_000))
steps = st.tuples(
    st.sampled_from(["admit", "admit", "answered", "failed", "cancelled"]),
    st.floats(-5.0, 40.0),  # seconds that pass; the clock may go back
    costs,
    usages,
    st.sampled_from(ERRORS),
    st.booleans(),
)


class Play:
    """A governor, its calls under way, and the rules that are checked at every step."""

    def __init__(self, limits: Limits, concurrency: int = 8) -> None:
        self.now = 1_000.0
        self.governor = Governor(limits, concurrency, Random(1), self.now)
        self.under_way: list[Reservation] = []

    def admit(self, cost: Cost) -> Reservation | float:
        admitted = self.governor.admit(cost, self.now)
        if isinstance(admitted, Reservation):
            self.under_way.append(admitted)
        return admitted

    def step(self, what: str, cost: Cost, usage: Usage | None, error: ProviderError, sent: bool) -> None:
        if what == "admit":
            admitted = self.admit(cost)
            assert isinstance(admitted, Reservation) or admitted > self.now
        elif self.under_way:
            self.end(self.under_way.pop(0), what, usage, error, sent)
        assert self.governor.in_flight == len(self.under_way)

    def end(
        self, reservation: Reservation, how: str, usage: Usage | None, error: ProviderError, sent: bool
    ) -> None:
        if how == "answered":
            self.governor.answered(reservation, usage, None, self.now)
        elif how == "failed":
            self.governor.failed(reservation, error, None, self.now)
        else:
            self.governor.cancelled(reservation, self.now, sent)


@pytest.mark.slow
@given(st.lists(steps, max_size=60))
def test_when_all_calls_have_ended_and_time_has_passed_nothing_is_missing(
    script: list[tuple[str, float, Cost, Usage | None, Callable[[], ProviderError], bool]],
) -> None:
    play = Play(LIMITS)
    for what, seconds, cost, usage, error, sent in script:
        play.now += seconds
        play.step(what, cost, usage, error(), sent)
    for reservation in play.under_way:
        play.governor.cancelled(reservation, play.now, sent=False)

    # A minute fills an empty bucket; one in debt takes as much longer as the debt is.
    now = play.now + 60.0
    debts = play.governor.statistics(play.now)
    now += 60.0 * max(0.0, -(debts.input_level or 0) / 6_000, -(debts.output_level or 0) / 1_200)
    after = play.governor.statistics(now)
    assert after.in_flight == 0
    assert after.requests_level == pytest.approx(60)
    assert after.input_level == pytest.approx(6_000)
    assert after.output_level == pytest.approx(1_200)


@pytest.mark.slow
@given(
    tries=st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(0, 100), st.integers(0, 20)), max_size=200),
    share=st.floats(0.0, 1.0),
)
def test_in_any_minute_no_more_is_sent_than_a_minutes_worth_and_one_burst(
    tries: list[tuple[float, int, int]], share: float
) -> None:
    play = Play(LIMITS, concurrency=1_000)
    sent: list[tuple[float, int, int]] = []
    for seconds, tokens_in, tokens_out in tries:
        play.now += seconds
        while isinstance(admitted := play.admit(Cost(tokens_in * 10, tokens_out * 10)), Reservation):
            used = int(tokens_in * 10 * share)
            play.governor.answered(admitted, Usage(used, int(tokens_out * 10 * share)), None, play.now)
            sent.append((play.now, used, int(tokens_out * 10 * share)))

    for start, _, _ in sent:
        window = [call for call in sent if start <= call[0] <= start + 60.0]
        assert len(window) <= 2 * 60
        assert sum(call[1] for call in window) <= 2 * 6_000
        assert sum(call[2] for call in window) <= 2 * 1_200


@given(
    st.lists(
        st.tuples(st.floats(0.0, 90.0), st.sampled_from(["failed", "answered", "cancelled"])), max_size=60
    )
)
def test_nothing_goes_beside_a_probe_but_the_next_one_if_it_hangs(endings: list[tuple[float, str]]) -> None:
    play = Play(Limits(), concurrency=100)
    for seconds, how in endings:
        play.now += seconds
        while isinstance(admitted := play.admit(COST), Reservation) and not admitted.is_probe:
            pass
        if isinstance(admitted, Reservation):
            assert play.governor.admit(COST, play.now) >= play.now + PROBE_SECONDS
        if play.under_way:
            reservation = play.under_way.pop()
            play.end(reservation, how, None, ProviderFailed("500"), True)


@pytest.mark.slow
@given(start=st.floats(0.0, 1e10), costs=st.lists(costs, min_size=1, max_size=20))
def test_whoever_comes_when_told_gets_in_after_a_few_times_at_most(start: float, costs: list[Cost]) -> None:
    play = Play(LIMITS)
    play.now, play.governor = start, Governor(LIMITS, 8, Random(1), start)
    for cost in costs:
        for _ in range(4):
            admitted = play.governor.admit(cost, play.now)
            if isinstance(admitted, Reservation):
                break
            assert admitted > play.now
            play.now = admitted
        assert isinstance(admitted, Reservation)
        play.governor.answered(admitted, None, None, play.now)


# A provider with real limits.


@attrs.define
class Meter:
    """One limit of the provider: filled evenly, full at first."""

    limit: float
    level: float
    at: float = 0.0

    def fill(self, now: float) -> None:
        self.level = min(self.limit, self.level + (now - self.at) * self.limit / 60.0)
        self.at = now

    def told(self, now: float) -> Allowance:
        self.fill(now)
        seconds = (self.limit - self.level) * 60.0 / self.limit
        return Allowance(int(self.limit), max(0, int(self.level)), math.ceil(seconds))


@attrs.frozen
class Habits:
    """How a provider counts and tells: providers differ."""

    tells: Literal["taking", "ending", "never"] = "taking"
    """When it writes what remains."""
    counts_output: Literal["taking", "ending"] = "taking"
    seconds: float = 5.0
    """Of a reply, about."""
    way: float = 0.2
    """Seconds until a call arrives, at most."""
    others: float = 0.0
    """The part of the limits that others use up, evenly."""


@attrs.frozen
class Job:
    """A call: what it will use, and what is expected."""

    tokens_in: int
    tokens_out: int
    expected: Cost


@attrs.define
class Outcome:
    done: int = 0
    sent: int = 0
    rejected: int = 0
    last: float = 0.0


class Race:
    """Calls that all want to go at once, a governor that paces them, and a provider that counts."""

    def __init__(
        self, limits: Limits, habits: Habits, jobs: list[Job], configured: Limits, seed: int
    ) -> None:
        self.habits = habits
        self.random = Random(seed)
        self.governor = Governor(configured, 1_000, self.random, 0.0)
        self.meters = [
            Meter(float(limit), float(limit))
            for limit in (limits.requests, limits.input_tokens, limits.output_tokens)
            if limit is not None
        ]
        self.waiting = list(reversed(jobs))
        self.outcome = Outcome()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self._woken = math.inf

    def run(self) -> Outcome:
        self._pump(0.0)
        while self._events:
            now, _, happen = heapq.heappop(self._events)
            happen(now)
            self._pump(now)
        return self.outcome

    def _at(self, when: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), happen))

    def _pump(self, now: float) -> None:
        while self.waiting:
            admitted = self.governor.admit(self.waiting[-1].expected, now)
            if not isinstance(admitted, Reservation):
                if admitted < self._woken or self._woken <= now:
                    self._woken = admitted
                    self._at(admitted, lambda _: None) if admitted < math.inf else None
                return
            self.outcome.sent += 1
            self._send(self.waiting.pop(), admitted, now)

    def _send(self, job: Job, reservation: Reservation, now: float) -> None:
        arrival = now + self.random.uniform(0.01, self.habits.way)
        self._at(arrival, lambda then: self._take(job, reservation, then))

    # The call arrives: the provider takes it, or turns it away.
    def _take(self, job: Job, reservation: Reservation, now: float) -> None:
        counts = self.habits.counts_output == "taking"
        wanted = (1, job.tokens_in, job.tokens_out if counts else 0)
        waits = []
        for meter, amount in zip(self.meters, wanted, strict=True):
            self._others(meter, now)
            waits.append((amount - meter.level) * 60.0 / meter.limit)
        if max(waits) > 0:
            told = None if self.habits.tells == "never" else self._told(now)
            error = RateLimited("over the limit", retry_after=max(waits))
            self._at(now + 0.05, lambda then: self._reject(job, reservation, error, told, then))
            return
        for meter, amount in zip(self.meters, wanted, strict=True):
            meter.level -= amount
        self.outcome.last = now
        told = self._told(now) if self.habits.tells == "taking" else None
        seconds = self.habits.seconds * self.random.lognormvariate(0.0, 0.4)
        self._at(now + seconds, lambda then: self._answer(job, reservation, told, then))

    def _others(self, meter: Meter, now: float) -> None:
        theirs = (now - meter.at) * meter.limit / 60.0 * self.habits.others
        meter.fill(now)
        meter.level -= theirs

    def _reject(
        self, job: Job, reservation: Reservation, error: RateLimited, told: RateLimits | None, now: float
    ) -> None:
        self.outcome.rejected += 1
        self.governor.failed(reservation, error, told, now)
        self._at(self.governor.retry_at(error, 1, now), lambda _: self.waiting.append(job))

    def _answer(self, job: Job, reservation: Reservation, told: RateLimits | None, now: float) -> None:
        if self.habits.counts_output == "ending":
            self.meters[2].fill(now)
            self.meters[2].level -= job.tokens_out
        if self.habits.tells == "ending":
            told = self._told(now)
        self.outcome.done += 1
        usage = Usage(input_tokens=job.tokens_in, output_tokens=job.tokens_out, cache_read_tokens=15_000)
        self.governor.answered(reservation, usage, told, now)

    def _told(self, now: float) -> RateLimits:
        for meter in self.meters:
            self._others(meter, now)
        requests, tokens_in, tokens_out = (meter.told(now) for meter in self.meters)
        return RateLimits(requests=requests, input_tokens=tokens_in, output_tokens=tokens_out)


WORK = Limits(requests=400, input_tokens=220_000, output_tokens=120_000)


def jobs(number: int, seed: int) -> list[Job]:
    """Calls of different sizes, whose expected costs are up to 30 % wrong."""
    random = Random(seed)
    made = []
    for _ in range(number):
        tokens_in, tokens_out = random.randint(200, 900), random.randint(100, 500)
        wrong_in, wrong_out = random.uniform(0.7, 1.3), random.uniform(0.7, 1.3)
        made.append(Job(tokens_in, tokens_out, Cost(int(tokens_in * wrong_in), int(tokens_out * wrong_out))))
    return made


def least_seconds(limits: Limits, work: list[Job]) -> float:
    """In how long the provider could take all of it at best: a full bucket, and then by the minute."""
    used = (len(work), sum(job.tokens_in for job in work), sum(job.tokens_out for job in work))
    allowed = (limits.requests, limits.input_tokens, limits.output_tokens)
    return max((amount / (limit or math.inf) - 1) * 60.0 for amount, limit in zip(used, allowed, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "habits",
    [
        Habits("taking", "taking", seconds=0.12),
        Habits("taking", "ending", seconds=5.0),
        Habits("taking", "taking", seconds=60.0),
        Habits("ending", "ending", seconds=0.12),
        Habits("ending", "taking", seconds=5.0),
        Habits("ending", "ending", seconds=60.0),
        Habits("never", "taking", seconds=60.0),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(Limits(requests=400, input_tokens=10**7, output_tokens=10**7), id="requests"),
        pytest.param(Limits(requests=4_000, input_tokens=220_000, output_tokens=10**7), id="input"),
        pytest.param(Limits(requests=4_000, input_tokens=10**7, output_tokens=100_000), id="output"),
        pytest.param(WORK, id="all"),
    ],
)
def test_a_thousand_calls_use_the_limit_and_are_hardly_ever_rejected(limits: Limits, habits: Habits) -> None:
    work = jobs(1_000, seed=1)

    outcome = Race(limits, habits, work, configured=limits, seed=1).run()

    assert outcome.done == 1_000
    assert outcome.rejected < 20
    assert least_seconds(limits, work) >= 0.95 * outcome.last


@pytest.mark.slow
@pytest.mark.parametrize("tells", ["taking", "ending"])
def test_a_limit_that_is_configured_too_low_is_found_by_the_first_responses(
    tells: Literal["taking", "ending"],
) -> None:
    work = jobs(1_000, seed=2)
    configured = Limits(requests=200, input_tokens=110_000, output_tokens=60_000)

    outcome = Race(WORK, Habits(tells, seconds=0.5), work, configured, seed=2).run()

    assert (outcome.done, outcome.rejected < 20) == (1_000, True)
    assert least_seconds(WORK, work) >= 0.95 * outcome.last


@pytest.mark.slow
@pytest.mark.parametrize("tells", ["taking", "ending", "never"])
def test_what_others_use_with_the_same_key_slows_us_down_and_stops_nothing(
    tells: Literal["taking", "ending", "never"],
) -> None:
    work = jobs(1_000, seed=3)

    outcome = Race(WORK, Habits(tells, others=0.5), work, configured=WORK, seed=3).run()

    assert outcome.done == 1_000
    assert outcome.rejected < 150
    assert least_seconds(WORK, work) * 2 >= 0.9 * outcome.last
