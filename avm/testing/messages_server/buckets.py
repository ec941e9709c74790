"""The server's rate limits: token buckets, refused requests and the headers that tell of them.

A bucket holds a minute's worth and is refilled all the time. A request has to fit into those of requests and of input
tokens (what is read from the prompt cache does not count). Output is not known before, so that bucket only has to be
above zero; what a reply takes may bring it below.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache

from avm.io.limits import Limits
from avm.testing.messages_server.problem import ProblemError

MINUTE = 60.0


class Bucket:
    """So many a minute, and a minute's worth at once."""

    __slots__ = ("_at", "_level", "_lines", "limit", "name")

    def __init__(self, name: str, limit: int, now: float) -> None:
        self.name = name
        self.limit = limit
        self._level = float(limit)
        self._at = now
        header = b"anthropic-ratelimit-" + name.encode()
        self._lines = b"%s-limit: %d\r\n%s-remaining: %%d\r\n%s-reset: %%s\r\n" % (
            header,
            limit,
            header,
            header,
        )

    def level(self, now: float) -> float:
        """Return what is there; below 0 if too much was taken."""
        if now > self._at:
            self._level = min(self.limit, self._level + (now - self._at) * self.limit / MINUTE)
            self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        """Take an amount out, even if it is not there."""
        self._level = self.level(now) - amount

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until an amount is there; of more than it can hold, until it is full."""
        missing = min(amount, self.limit) - self.level(now)
        if missing > 0:
            return missing * MINUTE / self.limit
        # What it can never hold does not fit, however full it is.
        return 0.0 if amount <= self.limit else MINUTE

    def headers(self, now: float, wall: float) -> bytes:
        """Return its three header lines.

        Args:
            wall: seconds since the epoch, now.
        """
        level = self.level(now)
        full = math.ceil(wall + (self.limit - level) * MINUTE / self.limit)
        return self._lines % (max(0, int(level)), stamp(full))


class Buckets:
    """The three buckets of a family of models; a limit that is None has none."""

    def __init__(self, limits: Limits, now: float) -> None:
        wanted = (
            ("requests", limits.requests),
            ("input-tokens", limits.input_tokens),
            ("output-tokens", limits.output_tokens),
        )
        made = {name: Bucket(name, limit, now) for name, limit in wanted if limit is not None}
        self._all = tuple(made.values())
        self._requests = made.get("requests")
        self._input = made.get("input-tokens")
        self._output = made.get("output-tokens")
        self._concurrency = limits.concurrency
        self.in_flight = 0

    def check(self, input_tokens: int, now: float) -> None:
        """Refuse a request that does not fit; nothing is taken.

        Args:
            input_tokens: those that count.

        Raises:
            ProblemError: 429, with the seconds until it fits.
        """
        if self._concurrency is not None and self.in_flight >= self._concurrency:
            raise _exceeded("concurrent connections", self._concurrency, 1.0)
        for bucket, amount in ((self._requests, 1), (self._input, input_tokens), (self._output, 1)):
            if bucket is not None and (wait := bucket.wait(amount, now)):
                raise _exceeded(f"{bucket.name.replace('-', ' ')} per minute", bucket.limit, wait)

    def take(self, input_tokens: int, now: float) -> None:
        """Take what a request that was let in counts, but for its output."""
        if self._requests is not None:
            self._requests.take(1, now)
        if self._input is not None:
            self._input.take(input_tokens, now)

    def take_output(self, tokens: int, now: float) -> None:
        """Take what a reply counts."""
        if self._output is not None:
            self._output.take(tokens, now)

    def headers(self, now: float, wall: float) -> bytes:
        """Return the header lines of all limits."""
        return b"".join([bucket.headers(now, wall) for bucket in self._all])


@lru_cache(maxsize=256)
def stamp(second: int) -> bytes:
    """Return a second since the epoch in RFC 3339."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()


def _exceeded(what: str, limit: int, wait: float) -> ProblemError:
    text = f"This request would exceed your organization's rate limit of {limit:,} {what}."
    # What floating point leaves over is no reason for another second.
    return ProblemError("rate_limit_error", text, retry_after=max(1, math.ceil(wait - 1e-9)))
