"""Breaker: when a provider fails again and again, calls fail at once instead of waiting for it.

    closed ──five failures in a row──► open ──after a while──► half-open ──the probe works──► closed
       └──key refused, spend limit──────► ▲                        │
                                          └──the probe fails───────┘

Closed, all calls go. Open, none goes. Half-open, one goes as a probe and the others wait for how it ends; if it hangs,
another one goes after a while. The time it is open doubles with each probe that fails.

Calls that were under way when it opened still end, long after, and say nothing about how things are now. So each change
of state is a new *generation*; a call belongs to the one it was sent in, and only the present one counts. But a probe
that works, however late, has found out that the provider does: unless the account was refused meanwhile.
"""

from __future__ import annotations

import math
from typing import Literal

from avm.errors import NotAuthorized, ProviderError, ProviderUnavailable, SpendLimitReached

FAILURES = 5
"""In a row; they open it."""

OPEN_SECONDS, LONGEST = 5.0, 60.0
"""How long it is open after failures: at first, and at most."""

PROBE_SECONDS = 10.0
"""How long the others wait for a probe before the next one goes, at least; or as long as it was open after failures."""

UNAUTHORIZED_SECONDS = 60.0
SPEND_LIMIT_SECONDS = 600.0

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Whether a provider is asked at all; closed at first. Times never go back."""

    __slots__ = ("_cause", "_failures", "_opened", "_openings", "_until", "generation", "state")

    def __init__(self) -> None:
        self.state: State = "closed"
        self.generation = 0
        self._failures = 0
        self._openings = 0
        # The last generation before it opened: later ones are of probes.
        self._opened = 0
        self._until = -math.inf
        self._cause: ProviderError | None = None

    def ready(self, now: float) -> float:
        """Return when the next call may go: now, or later, as the next probe."""
        return now if self.state == "closed" else max(now, self._until)

    def sent(self, now: float) -> bool:
        """A call goes, when `ready` said it may; tell whether it is a probe. It belongs to `generation`."""
        if self.state == "closed":
            return False
        self._until = now + max(PROBE_SECONDS, _failing(self._openings))
        # A probe that hangs is of the same generation as the one after it: how either ends counts.
        if self.state == "open":
            self._enter("half-open")
        return True

    def worked(self, generation: int) -> None:
        """The provider did its part of a call of that generation."""
        if self.state == "closed":
            if generation == self.generation:
                self._failures = 0
        elif generation > self._opened and not self._is_refused():
            self._openings = 0
            self._cause = None
            self._enter("closed")

    def failed(self, generation: int, error: ProviderError, now: float) -> None:
        """The provider failed a call of that generation, or will not serve the account at all."""
        if self.state == "open":
            self._worsen(error, now)
        elif generation == self.generation:
            self._failures += 1
            if self.state == "half-open" or self._failures >= FAILURES or _is_final(error):
                self._open(error, now)

    def dropped(self, generation: int, now: float, seconds: float = 0.0) -> None:
        """A call ended and says nothing about the provider. If it was the probe, the next one goes in `seconds`."""
        if self.state == "half-open" and generation == self.generation:
            self._until = now + seconds
            self._enter("open")

    def refusal(self, now: float) -> ProviderUnavailable | None:
        """Return what calls should fail with while it is open; None if they can go, or wait for a probe."""
        cause = self._cause
        if self.state != "open" or now >= self._until or cause is None:
            return None
        error = ProviderUnavailable(
            self._reason(cause, self._until - now), cause.provider, cause.model, cause.request_id
        )
        error.__cause__ = cause
        return error

    def _is_refused(self) -> bool:
        return self.state == "open" and self._cause is not None and _is_final(self._cause)

    def _open(self, error: ProviderError, now: float) -> None:
        if self.state == "closed":
            self._opened = self.generation
        self._cause = error
        self._openings += 1
        self._until = now + _seconds(error, self._openings)
        self._enter("open")

    # It is open for failures, and now a late call says that the account is the reason.
    def _worsen(self, error: ProviderError, now: float) -> None:
        if _is_final(error) and not isinstance(error, type(self._cause)):
            self._cause = error
            self._until = max(self._until, now + _seconds(error, self._openings))

    def _enter(self, state: State) -> None:
        self.state = state
        self.generation += 1
        self._failures = 0

    def _reason(self, cause: ProviderError, seconds: float) -> str:
        who = cause.provider or "the provider"
        model = f" {cause.model}" if cause.model else ""
        asked = f"It is asked again in {seconds:.1f} s."
        if isinstance(cause, SpendLimitReached):
            return (
                f"{who} serves{model or ' calls'} no more: the account's spending limit is reached ({cause}). Raise "
                f"the limit with the provider, or use another account. {asked}"
            )
        if isinstance(cause, NotAuthorized):
            return (
                f"{who} refuses the key{f' for{model}' if model else ''} ({cause}). Check that the key is right and "
                f"may use the model. {asked}"
            )
        failed = f"{FAILURES} calls in a row" if self._openings == 1 else "one probe after the other"
        return (
            f"{who} is not asked for{model or ' anything'} now: {failed} failed, the last with "
            f"{type(cause).__name__}: {cause}. {asked} Wait, or name other models in fallbacks=."
        )


def _is_final(error: ProviderError) -> bool:
    return isinstance(error, (SpendLimitReached, NotAuthorized))


def _seconds(error: ProviderError, openings: int) -> float:
    if isinstance(error, SpendLimitReached):
        return SPEND_LIMIT_SECONDS
    if isinstance(error, NotAuthorized):
        return UNAUTHORIZED_SECONDS
    return _failing(openings)


def _failing(openings: int) -> float:
    return min(LONGEST, OPEN_SECONDS * 2.0 ** min(openings - 1, 10))
