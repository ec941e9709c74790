"""Limits: what a provider allows a minute, as configured, and what it says in its responses."""

from __future__ import annotations

import attrs

from avm.errors import SpecError


@attrs.frozen(slots=True, kw_only=True)
class Limits:
    """What a provider allows one credential for one family of models; None is no limit, or none that is known.

    Raises:
        SpecError: a limit below 1.
    """

    requests: int | None = None
    """Requests a minute."""
    input_tokens: int | None = None
    """Input tokens a minute, without those read from the prompt cache."""
    output_tokens: int | None = None
    """Output tokens a minute."""
    concurrency: int | None = None
    """Calls under way at once."""

    def __attrs_post_init__(self) -> None:
        for name in ("requests", "input_tokens", "output_tokens", "concurrency"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise SpecError(
                    f"Limits: {name} must be a whole number of 1 or more, or None, got {value!r}."
                )


@attrs.frozen(slots=True)
class Allowance:
    """What one response says of one limit; None where it says nothing."""

    limit: int | None = None
    """A minute."""
    remaining: int | None = None
    reset: float | None = None
    """Seconds until all of it is there again, from when the response came."""


@attrs.frozen(slots=True, kw_only=True)
class RateLimits:
    """What a response says of all limits."""

    requests: Allowance | None = None
    input_tokens: Allowance | None = None
    output_tokens: Allowance | None = None
