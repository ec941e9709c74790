"""What a hosted provider does besides answering, in simulation: it limits, it caches prompts, and it keeps accounts.

`SimulatedServer` stands behind a `ScriptedProvider`. A call is accepted or refused by real token buckets, what it
shares with earlier calls is read from the prompt cache, and the ledger says what all of it cost. All of these are
plain objects: they are told the time, so a minute of limits passes in no time on a virtual clock.

A call is accepted, begins (what it writes to the cache can be read from then on), and is settled or given up:

    call = server.accept(request, now)       # or RateLimited
    server.begun(call, now)
    completion = server.settle(call, completion, now)
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import blake3

from avm.errors import InvalidRequest, RateLimited, SpecError
from avm.io.limits import Allowance, Limits, RateLimits
from avm.io.prices import cost, price_of
from avm.io.providers.provider import CHARACTERS_PER_TOKEN, Price
from avm.io.request import Completion, ModelRequest, Usage, encode_fragment

MINUTE = 60.0
TTL, TTL_HOUR = 300.0, 3600.0
MIN_TOKENS = 1024
MOST_BREAKPOINTS = 4
LOOK_BACK = 20
"""How many messages before a breakpoint an entry that can be read is looked for."""
TINY = 1e-9
"""Of a bucket; so little may be missing, since times are not exact."""
EXPECTED_OUTPUT = 256
"""Tokens a call is taken to write before any has been settled."""


# Not the governor's bucket, on purpose: a mistake in one must not hide the same mistake in the other.
@attrs.define(eq=False, slots=True)
class _Bucket:
    capacity: int
    level: float
    at: float = -1.0

    def fill(self, now: float) -> None:
        if self.at >= 0 and now > self.at:
            self.level = min(self.capacity, self.level + (now - self.at) * self.capacity / MINUTE)
        self.at = max(self.at, now)

    # Seconds until an amount is there; one larger than the bucket goes when that is full.
    def wait(self, amount: float) -> float:
        missing = min(amount, self.capacity) - self.level
        return max(0.0, missing * MINUTE / self.capacity) if missing > TINY * self.capacity else 0.0

    def give(self, amount: float) -> None:
        self.level = min(self.capacity, self.level + amount)

    def told(self) -> Allowance:
        missing = self.capacity - self.level
        return Allowance(self.capacity, max(0, int(self.level)), missing * MINUTE / self.capacity)


class SimulatedLimits:
    """Three token buckets, each filled evenly over a minute and full at first.

    Args:
        requests, input_tokens, output_tokens: a minute; None is no limit. What is read from the prompt cache does not
            count as input. A call takes the output that is usual at its start; its reply settles what it wrote.

    Raises:
        SpecError: a limit below 1.
    """

    def __init__(
        self,
        requests: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
    ) -> None:
        self.limits = Limits(requests=requests, input_tokens=input_tokens, output_tokens=output_tokens)
        self._buckets = {
            name: _Bucket(limit, limit)
            for name, limit in (
                ("requests", requests),
                ("input_tokens", input_tokens),
                ("output_tokens", output_tokens),
            )
            if limit is not None
        }

    def take(self, input_tokens: int, output_tokens: float, now: float) -> float:
        """Take a request and its tokens and return 0, or take nothing and return the seconds until they are there."""
        amounts = {"requests": 1.0, "input_tokens": float(input_tokens), "output_tokens": output_tokens}
        wait = 0.0
        for name, bucket in self._buckets.items():
            bucket.fill(now)
            wait = max(wait, bucket.wait(amounts[name]))
        if not wait:
            for name, bucket in self._buckets.items():
                bucket.level -= amounts[name]
        return wait

    def give(self, input_tokens: int, output_tokens: float, now: float) -> None:
        """Give tokens back; less than nothing takes more, into debt."""
        for name, amount in (("input_tokens", float(input_tokens)), ("output_tokens", output_tokens)):
            bucket = self._buckets.get(name)
            if bucket is not None:
                bucket.fill(now)
                bucket.give(amount)

    def told(self, now: float) -> RateLimits:
        """Return what a response says of the limits."""
        for bucket in self._buckets.values():
            bucket.fill(now)
        return RateLimits(**{name: bucket.told() for name, bucket in self._buckets.items()})


@attrs.frozen(slots=True)
class PromptPrefixes:
    """A request as the cache sees it: after tools and system prompt, and after each message, the digest of all that is
    before and its tokens."""

    digests: tuple[bytes, ...]
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, request: ModelRequest) -> PromptPrefixes:
        """Read a request."""
        hasher = blake3.blake3()
        digests, tokens, size = [], [], 0
        head = (request.model.encode(), request.tools, request.system.encode("utf-8", "surrogatepass"))
        for number, pieces in enumerate((head, *((encode_fragment(m),) for m in request.history()))):
            for piece in pieces:
                hasher.update(len(piece).to_bytes(8, "big") + piece)
                size += len(piece)
            if number == 0:
                size -= len(head[0])
            digests.append(hasher.digest())
            tokens.append(round(size / CHARACTERS_PER_TOKEN))
        return cls(tuple(digests), tuple(tokens))


@attrs.define(eq=False, slots=True)
class _Entry:
    until: float
    ttl: float


class SimulatedCache:
    """A prompt cache: keeps prefixes up to the breakpoints of `request.hints`, which can be read once the response that
    wrote them has begun.

    Args:
        ttl: seconds an entry lives after its last use; with `hints.hour` it is an hour.
        min_tokens: a shorter prefix is silently not cached.
        most: entries kept; the oldest go first.
    """

    def __init__(self, ttl: float = TTL, min_tokens: int = MIN_TOKENS, most: int = 100_000) -> None:
        if not ttl > 0 or min_tokens < 0 or most < 1:
            raise SpecError(
                "SimulatedCache: ttl must be above 0 s, min_tokens 0 or more and most 1 or more, "
                f"got ttl={ttl!r}, min_tokens={min_tokens!r}, most={most!r}."
            )
        self.ttl = ttl
        self.min_tokens = min_tokens
        self._most = most
        self._entries: dict[bytes, _Entry] = {}

    def look_up(
        self, request: ModelRequest, prompt: PromptPrefixes, now: float
    ) -> tuple[int, dict[bytes, int]]:
        """Return the tokens that can be read, and what is to be written: digests of prefixes and their tokens.

        Raises:
            InvalidRequest: more breakpoints than the API takes.
        """
        marks = _breakpoints(request, len(prompt.digests) - 1)
        read = max((self._readable(prompt, mark, now) for mark in marks), default=0)
        writes = {
            prompt.digests[mark]: prompt.tokens[mark]
            for mark in marks
            if prompt.tokens[mark] >= self.min_tokens and prompt.tokens[mark] > read
        }
        return read, writes

    def write(self, digests: Mapping[bytes, int], hour: bool, now: float) -> None:
        """Keep prefixes; they can be read from now on."""
        ttl = TTL_HOUR if hour else self.ttl
        for digest in digests:
            self._entries.pop(digest, None)
            self._entries[digest] = _Entry(now + ttl, ttl)
        while len(self._entries) > self._most:
            del self._entries[next(iter(self._entries))]

    def _readable(self, prompt: PromptPrefixes, mark: int, now: float) -> int:
        for place in range(mark, max(-1, mark - LOOK_BACK - 1), -1):
            entry = self._entries.get(prompt.digests[place])
            if entry is not None and now < entry.until:
                entry.until = now + entry.ttl
                return prompt.tokens[place]
        return 0

    def __len__(self) -> int:
        return len(self._entries)


def _breakpoints(request: ModelRequest, messages: int) -> list[int]:
    hints = request.hints
    if hints is None:
        return []
    marks = sorted({min(mark, messages) for mark in hints.marks if mark > 0})
    if hints.system and (request.system or request.tools):
        marks.insert(0, 0)
    if len(marks) > MOST_BREAKPOINTS:
        raise InvalidRequest(
            f"a request may have {MOST_BREAKPOINTS} cache breakpoints, got {len(marks)} by its hints {hints}.",
            "scripted",
            request.model,
        )
    return marks


@attrs.frozen(slots=True, kw_only=True)
class Ledger:
    """What a simulated server has done and what that cost. Tokens are of the calls that were answered."""

    answered: int = 0
    rejected: int = 0
    """Calls over a limit."""
    given_up: int = 0
    """Calls that failed or were cancelled after they had been accepted."""
    input_tokens: int = 0
    """Neither read from the cache nor written to it."""
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_hour_tokens: int = 0
    usd: float = 0.0
    unpriced: int = 0
    """Calls of models without a price; `usd` is without them."""


@attrs.define(eq=False, slots=True)
class AcceptedCall:
    """A call that a simulated server has accepted."""

    request: ModelRequest
    fresh: int
    read: int
    written: int
    writes: dict[bytes, int]
    output: float
    has_begun: bool = False

    @property
    def hour(self) -> bool:
        """Whether what it writes lives an hour."""
        return self.request.hints is not None and self.request.hints.hour


class SimulatedServer:
    """Limits, prompt cache and accounts of a simulated provider; see the module.

    Args:
        limits: None refuses nobody.
        cache: None caches nothing: all input is paid in full.
        prices: of models that are not in the table, or cost something else here.
    """

    def __init__(
        self,
        limits: SimulatedLimits | None = None,
        cache: SimulatedCache | None = None,
        *,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        self.limits = limits if limits is not None else SimulatedLimits()
        self.cache = cache
        self.prices = prices
        self._ledger = Ledger()
        self._usual = float(EXPECTED_OUTPUT)

    def accept(self, request: ModelRequest, now: float) -> AcceptedCall:
        """Take a call.

        Raises:
            RateLimited: it is over a limit; says when to come again.
            InvalidRequest: it has too many cache breakpoints.
        """
        prompt = PromptPrefixes.of(request)
        read, writes = self.cache.look_up(request, prompt, now) if self.cache is not None else (0, {})
        written = max(writes.values(), default=read) - read
        fresh = max(0, prompt.tokens[-1] - read - written)
        output = min(float(request.max_tokens), self._usual)
        wait = self.limits.take(fresh + written, output, now)
        if wait:
            self._ledger = attrs.evolve(self._ledger, rejected=self._ledger.rejected + 1)
            raise self._rate_limited(request, wait, now)
        return AcceptedCall(request, fresh, read, written, writes, output)

    def begun(self, call: AcceptedCall, now: float) -> None:
        """The response begins: what the call wrote to the cache can be read."""
        call.has_begun = True
        if self.cache is not None:
            self.cache.write(call.writes, call.hour, now)

    def settle(self, call: AcceptedCall, completion: Completion, now: float) -> Completion:
        """End a call with its reply; returned with its usage and what the response says of the limits."""
        output = output_tokens(completion)
        self.limits.give(0, call.output - output, now)
        self._usual += (output - self._usual) / 16
        usage = Usage(call.fresh, output, call.read, call.written)
        self._enter(call, usage)
        return attrs.evolve(completion, usage=usage, limits=self.limits.told(now))

    def give_up(self, call: AcceptedCall, now: float) -> None:
        """End a call without a reply. Input that was sent stays counted once the response has begun."""
        self.limits.give(0 if call.has_begun else call.fresh + call.written, call.output, now)
        self._ledger = attrs.evolve(self._ledger, given_up=self._ledger.given_up + 1)

    def ledger(self) -> Ledger:
        """Return the accounts so far."""
        return self._ledger

    def _rate_limited(self, request: ModelRequest, wait: float, now: float) -> RateLimited:
        error = RateLimited(
            f"the simulated limits have no room for a call of {request.model!r} by "
            f"{request.agent or 'its caller'}; there is in {wait:.3f} s.",
            "scripted",
            request.model,
            retry_after=wait,
        )
        error.limits = self.limits.told(now)
        return error

    def _enter(self, call: AcceptedCall, usage: Usage) -> None:
        before = self._ledger
        sent = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        price = price_of(call.request.model, self.prices, prompt_tokens=sent)
        self._ledger = attrs.evolve(
            before,
            answered=before.answered + 1,
            input_tokens=before.input_tokens + usage.input_tokens,
            output_tokens=before.output_tokens + usage.output_tokens,
            cache_read_tokens=before.cache_read_tokens + usage.cache_read_tokens,
            cache_write_tokens=before.cache_write_tokens + (0 if call.hour else usage.cache_write_tokens),
            cache_write_hour_tokens=before.cache_write_hour_tokens
            + (usage.cache_write_tokens if call.hour else 0),
            usd=before.usd + (0.0 if price is None else cost(usage, price, call.hour)),
            unpriced=before.unpriced + (price is None),
        )


def output_tokens(completion: Completion) -> int:
    """Return the tokens of a reply: as it says, else by its length."""
    if completion.usage is not None:
        return completion.usage.output_tokens
    size = len(completion.text) + sum(len(call.name) + len(call.arguments) for call in completion.tool_calls)
    return max(1, round(size / CHARACTERS_PER_TOKEN))
