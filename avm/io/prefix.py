"""The prefix table: which beginnings of prompts a provider's cache holds, as far as can be known from outside.

A provider keeps the beginning of a prompt for some minutes, and the next prompt with that beginning costs a tenth or
less. But it can be read only once the response that wrote it has begun: a thousand agents that start at once on one
prompt would all pay for writing it. So each prefix is

- *cold* at first: the first call that enters it *leads* it;
- *warming* while its leader is under way: whoever enters it is told to wait;
- *warm* once the leader's response has begun, until `ttl` seconds after it was last read; then it is cold again.

When a leader fails before it began, its prefixes are cold again and the next of those who wait leads.

A prompt is a chain of links, each a longer beginning named by a chained digest, so all prompts together are a tree: a
call that leads a branch follows on the trunk. Where two agents go on differently from one link their histories part,
and a cache breakpoint is worth its place there.

This is a plain object: it knows the time only from what it is told.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

import attrs

from avm.errors import SpecError
from avm.io.request import Usage

WINDOW = 20
"""Calls of a class of agents whose share of cached input is compared with that of as many before them."""

KINDS = 1_000
"""Classes of agents whose share is remembered: those that called last."""

_GOOD_SHARE = 0.5
"""A share below this was never good, so it cannot collapse."""

_PARTINGS = 2
"""Places for breakpoints that `shared` names at most: providers take four, and two have their place anyway."""


@attrs.frozen(slots=True)
class Link:
    """A beginning of a prompt: the digest of all of it, and its tokens, estimated."""

    key: bytes
    tokens: int


Chain = tuple[Link, ...]
"""The beginnings of one prompt, from the shortest (tools and system prompt) to the longest; tokens ascend."""


@attrs.frozen(slots=True, kw_only=True)
class PrefixStatistics:
    """What a table knows and what its calls did. Counts are since it was made."""

    known: int
    warming: int
    warm: int
    hits: int
    """Replies that say that they read from the cache."""
    leaders: int
    """Calls that led a prefix until their response had begun."""
    followed: int
    """How often a call was told to wait."""
    read_tokens: int
    """Input read from the provider's cache, as it counted."""
    written_tokens: int
    """Input written to it."""
    fresh_tokens: int
    """Input that was neither."""
    shares: dict[str, float]
    """Share of input that was read from the cache in the last calls of each class of agents, 0 to 1."""


@attrs.define(slots=True, eq=False)
class _Prefix:
    """One known prefix. `owner` is who entered it first and `child` the link that followed there the last time."""

    owner: object
    child: bytes | None
    ttl: float
    leader: int | None = None
    warm_until: float = float("-inf")
    shared: bool = False
    parts: bool = False

    def visit(self, owner: object, child: bytes | None) -> None:
        if owner == self.owner:
            self.child = child
            return
        self.shared = True
        self.parts = self.parts or child != self.child


class PrefixTable:
    """The prefixes of one gate."""

    __slots__ = (
        "_followed",
        "_fresh",
        "_hits",
        "_known",
        "_leaders",
        "_leading",
        "_min_tokens",
        "_most",
        "_read",
        "_shares",
        "_ttl",
        "_warming",
        "_written",
    )

    def __init__(self, min_tokens: int, *, ttl: float = 300.0, most: int = 10_000) -> None:
        """Make a table that knows nothing.

        Args:
            min_tokens: the provider does not cache a shorter prefix, so nobody waits for one.
            ttl: seconds that the provider keeps a prefix after it was last read.
            most: prefixes to know at once; those that were not met for longest are forgotten, unless they are warming.

        Raises:
            SpecError: ttl or most is not above 0.
        """
        if not ttl > 0 or most < 1:
            raise SpecError(f"PrefixTable: ttl and most must be above 0, got ttl={ttl!r}, most={most!r}.")
        self._min_tokens = min_tokens
        self._ttl = ttl
        self._most = most
        self._known: OrderedDict[bytes, _Prefix] = OrderedDict()
        self._leading: dict[int, dict[bytes, _Prefix]] = {}
        self._warming = 0
        self._hits = self._leaders = self._followed = 0
        self._read = self._written = self._fresh = 0
        self._shares: OrderedDict[str, _Share] = OrderedDict()

    def expect(self, chain: Chain, owner: str) -> None:
        """Note that a call of `owner` with this prompt has come and will enter later.

        `enter` notes it too; said before, the first of many can be told by `shared` where the others will part from it.
        """
        self._visit(chain, owner)
        self._forget_oldest()

    def enter(
        self, chain: Chain, who: int, now: float, *, owner: str = "", ttl: float | None = None
    ) -> bytes | None:
        """Tell whether a call may go.

        Args:
            chain: the prompt; links of fewer than `min_tokens` are ignored.
            who: the serial of the call; one that leads a link itself need not wait for it.
            now: in seconds.
            owner: the path of the agent; calls without one count as of different agents.
            ttl: seconds that what it leads will live, if not the table's.

        Returns:
            None if it may go: it leads all links that are cold, until `begun` or `failed`. Otherwise the key of the
            first link that another call is warming: enter again when `begun` or `failed` returns that key.
        """
        met = self._visit(chain, owner or who)
        for key, prefix in met:
            if prefix.leader is not None and prefix.leader != who:
                self._followed += 1
                self._forget_oldest()
                return key
        cold = [(key, prefix) for key, prefix in met if prefix.warm_until <= now]
        if cold:
            self._lead(who, cold, self._ttl if ttl is None else ttl)
        self._forget_oldest()
        return None

    def begun(self, who: int, now: float) -> list[bytes]:
        """The response to a call has begun: what it led is warm. Returns those keys; who waits for them may enter."""
        led = self._release(who)
        self._leaders += bool(led)
        for prefix in led.values():
            prefix.warm_until = now + prefix.ttl
        return list(led)

    def failed(self, who: int, now: float) -> list[bytes]:
        """A call has failed, was cancelled, or ended without having begun: what it led is cold.

        Returns those keys; of those who wait for them the first to enter leads. A second time, or after `begun`, there
        is nothing left to return.
        """
        return list(self._release(who))

    def leads(self, who: int) -> bool:
        """Tell whether a call leads: others may wait for it."""
        return who in self._leading

    def used(self, chain: Chain, now: float) -> None:
        """A response has read this prompt's warm links: they live on from now."""
        for prefix in self._links(chain):
            if prefix.warm_until > now:
                prefix.warm_until = max(prefix.warm_until, now + prefix.ttl)

    def covered(self, chain: Chain, now: float) -> int:
        """Return the tokens of the longest warm link, 0 if there is none: input that does not count."""
        for link in reversed(chain):
            prefix = self._known.get(link.key)
            if prefix is not None and prefix.warm_until > now:
                return link.tokens
        return 0

    def shared(self, chain: Chain) -> list[int]:
        """Return where other agents' histories part from this prompt: indices of links, deepest first, at most two.

        The deepest link that another agent has entered is always among them.
        """
        found: list[int] = []
        for index in range(len(chain) - 1, -1, -1):
            prefix = self._known.get(chain[index].key)
            if prefix is not None and prefix.shared and (prefix.parts or not found):
                found.append(index)
                if len(found) == _PARTINGS:
                    break
        return found

    def measured(self, kind: str, usage: Usage, now: float) -> str | None:
        """Account what a reply says of the cache.

        Args:
            kind: the class of its agent.
            usage: `input_tokens` without what was read from the cache or written to it.
            now: in seconds.

        Returns:
            A sentence to log if the share of cached input of this class was half or more over `WINDOW` calls and less
            than half of that over the next; once, until it is good again. None otherwise.
        """
        read, written = usage.cache_read_tokens, usage.cache_write_tokens
        total = usage.input_tokens + read + written
        if total <= 0:
            return None
        self._hits += read > 0
        self._read += read
        self._written += written
        self._fresh += usage.input_tokens
        share = self._shares.get(kind)
        if share is None:
            share = self._shares[kind] = _Share()
            if len(self._shares) > KINDS:
                self._shares.popitem(last=False)
        else:
            self._shares.move_to_end(kind)
        fallen = share.add(read, total, now)
        return None if fallen is None else self._complaint(kind, share, *fallen)

    def statistics(self, now: float) -> PrefixStatistics:
        """Return what it knows and has done."""
        return PrefixStatistics(
            known=len(self._known),
            warming=self._warming,
            warm=sum(prefix.warm_until > now for prefix in self._known.values()),
            hits=self._hits,
            leaders=self._leaders,
            followed=self._followed,
            read_tokens=self._read,
            written_tokens=self._written,
            fresh_tokens=self._fresh,
            shares={kind: share.recent for kind, share in self._shares.items()},
        )

    def _visit(self, chain: Chain, owner: object) -> list[tuple[bytes, _Prefix]]:
        met = []
        known, last = self._known, len(chain) - 1
        for index, link in enumerate(chain):
            if link.tokens < self._min_tokens:
                continue
            key = link.key
            child = chain[index + 1].key if index < last else None
            prefix = known.get(key)
            if prefix is None:
                prefix = known[key] = _Prefix(owner, child, self._ttl)
            else:
                prefix.visit(owner, child)
                known.move_to_end(key)
            met.append((key, prefix))
        return met

    def _links(self, chain: Chain) -> Iterator[_Prefix]:
        for link in chain:
            prefix = self._known.get(link.key)
            if prefix is not None:
                self._known.move_to_end(link.key)
                yield prefix

    def _lead(self, who: int, cold: list[tuple[bytes, _Prefix]], ttl: float) -> None:
        led = self._leading.setdefault(who, {})
        for key, prefix in cold:
            if prefix.leader is None:
                self._warming += 1
            prefix.leader, prefix.ttl = who, ttl
            led[key] = prefix

    def _release(self, who: int) -> dict[bytes, _Prefix]:
        led = self._leading.pop(who, {})
        self._warming -= len(led)
        for key, prefix in led.items():
            prefix.leader = None
            # Those who waited for it are about to come.
            self._known.move_to_end(key)
        self._forget_oldest()
        return led

    def _forget_oldest(self) -> None:
        known = self._known
        while len(known) - self._warming > self._most:
            key, prefix = next(iter(known.items()))
            # Who waits for a prefix must find its leader.
            if prefix.leader is not None:
                known.move_to_end(key)
            else:
                del known[key]

    def _complaint(self, kind: str, share: _Share, before: float, after: float) -> str:
        apart = share.apart
        if apart > self._ttl:
            why = f"They come {apart:.0f} s apart and the cache lives {self._ttl:.0f} s: use prompt_cache='hour'."
        else:
            why = "Look for what changes early in their prompts: the model, the tools, the system prompt."
        return (
            f"prompt cache: {kind or 'agents without a class'} read {after:.0%} of the input from it in the last "
            f"{WINDOW} calls, and {before:.0%} in the {WINDOW} before. {why}"
        )


class _Share:
    """What one class of agents read from the cache in its last `WINDOW` calls, and in those before them."""

    __slots__ = ("_complained", "_earlier", "_last", "_sums")

    def __init__(self) -> None:
        self._last: deque[tuple[int, int, float]] = deque()
        self._earlier: deque[tuple[int, int, float]] = deque()
        self._complained = False
        # What was read and what was sent, of the last calls and of those before them.
        self._sums = [0, 0, 0, 0]

    def add(self, read: int, total: int, now: float) -> tuple[float, float] | None:
        """Count one call; returns the share before and now when it has just collapsed."""
        last, earlier, sums = self._last, self._earlier, self._sums
        last.append((read, total, now))
        sums[0] += read
        sums[1] += total
        if len(last) > WINDOW:
            old = last.popleft()
            earlier.append(old)
            for place, amount in enumerate((-old[0], -old[1], old[0], old[1])):
                sums[place] += amount
            if len(earlier) > WINDOW:
                old = earlier.popleft()
                sums[2] -= old[0]
                sums[3] -= old[1]
        if len(earlier) < WINDOW:
            return None
        before, after = sums[2] / max(1, sums[3]), self.recent
        if after >= _GOOD_SHARE:
            self._complained = False
        elif before >= _GOOD_SHARE and after < before / 2 and not self._complained:
            self._complained = True
            return before, after
        return None

    @property
    def recent(self) -> float:
        """The share over the last calls."""
        return self._sums[0] / max(1, self._sums[1])

    @property
    def apart(self) -> float:
        """Seconds between two of the last calls, on average."""
        return (self._last[-1][2] - self._last[0][2]) / max(1, len(self._last) - 1)
