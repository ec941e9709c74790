"""What the pool asks of whoever serves models."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

import attrs
import msgspec

from avm.errors import ProviderError
from avm.io.limits import Limits, RateLimits
from avm.io.request import Completion, ModelRequest

CHARACTERS_PER_TOKEN = 3.5
"""Of English text and JSON, roughly; a gate corrects it by what responses say."""


@attrs.frozen(slots=True, kw_only=True)
class Capabilities:
    """What a provider can do for a model."""

    family: str
    """Models of one family share the provider's limits."""
    streaming: bool = True
    batches: bool = False
    """Whether the provider is a `BatchProvider` for this model."""
    prompt_cache: Literal["none", "prefix", "slots"] = "none"
    """"prefix": one for all calls, readable once a response has begun; "slots": one for each slot of a local server."""
    min_cached_tokens: int = 1024
    """A shorter prefix is not cached."""
    context_tokens: int | None = None
    """Tokens of prompt and reply together; None is not known."""
    output_tokens: int | None = None
    """The most `max_tokens` may be."""
    slots: int = 0


@attrs.frozen(slots=True, kw_only=True)
class Price:
    """US dollars for a million tokens."""

    input: float
    output: float
    cache_read: float = 0.0
    cache_write: float = 0.0
    """For five minutes."""
    cache_write_hour: float = 0.0


# These two are made for each piece of each reply: msgspec makes them in a quarter of the time that attrs takes.


class Started(msgspec.Struct, frozen=True, gc=False):
    """The response has begun: what the request wrote to the prompt cache can be read from now on."""

    request_id: str = ""
    limits: RateLimits | None = None
    """What its headers say of the provider's limits, if anything."""


class Delta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the reply, as it came."""

    text: str
    kind: Literal["text", "thinking", "tool"] = "text"
    """"tool": a piece of the arguments of a tool call."""
    block: int = 0
    """Which block of the reply it belongs to, from 0."""


StreamEvent = Started | Delta
OnEvent = Callable[[StreamEvent], None]
"""Takes the events of a response as they come. `Started` comes first, once; it is quick and does not raise."""


class Provider(Protocol):
    """Serves model calls. One object serves all workers of a pool, many calls at a time."""

    @property
    def name(self) -> str:
        """What the status line calls it."""

    @property
    def credential(self) -> str:
        """Names the account that is charged and limited, without giving its key away."""

    @property
    def concurrency(self) -> int | None:
        """How many calls it can take at once; None leaves it to the pool."""

    async def complete(self, request: ModelRequest, *, on_event: OnEvent | None = None) -> Completion:
        """Make one call. No retries: those are the pool's. Cancelled, it closes its connection.

        Args:
            on_event: takes the response's events as they come; None means nobody looks, so it need not be streamed.

        Raises:
            ProviderError: the call failed; the subclass says how. Any other exception is a bug of the provider.
        """

    async def count(self, request: ModelRequest) -> int:
        """Return the input tokens of a request; an estimate where the provider does not count. Errors as `complete`."""

    def capabilities(self, model: str) -> Capabilities:
        """Return what it can do for a model."""

    def price(self, model: str) -> Price | None:
        """Return what a model costs; None if that is not known."""

    def limits(self, model: str) -> Limits:
        """Return what is allowed for the family of a model, as configured; responses correct it."""

    async def close(self) -> None:
        """Give up connections. A later `complete` opens them again."""


class PlainProvider:
    """What a provider says that has nothing special to say: no limits, no prices, no prompt cache. To be subclassed."""

    name = "provider"
    credential = ""
    concurrency: int | None = None

    async def count(self, request: ModelRequest) -> int:
        """Estimate by the length of what is sent."""
        return estimate_tokens(request)

    def capabilities(self, model: str) -> Capabilities:
        """Say that all models are one family, and nothing more."""
        return Capabilities(family=self.name)

    def price(self, model: str) -> Price | None:
        """Not known."""
        return None

    def limits(self, model: str) -> Limits:
        """None."""
        return Limits()

    async def close(self) -> None:
        """Nothing to give up."""


@attrs.frozen(slots=True)
class BatchState:
    """How far a provider's batch is."""

    ended: bool
    succeeded: int = 0
    failed: int = 0


@runtime_checkable
class BatchProvider(Protocol):
    """A provider that takes many calls as one batch, to be done within a day at a lower price."""

    async def submit_batch(self, requests: Sequence[tuple[str, ModelRequest]]) -> str:
        """Hand in calls, each with an id of the caller's; return the batch's id. Errors as `Provider.complete`."""

    async def poll_batch(self, batch: str) -> BatchState:
        """Ask how far it is."""

    def batch_results(self, batch: str) -> AsyncIterator[tuple[str, Completion | ProviderError]]:
        """Go through the results of a batch that has ended, in any order; `source` of a completion is "batch"."""

    async def cancel_batch(self, batch: str) -> None:
        """Ask the provider to stop working on it."""


def estimate_tokens(request: ModelRequest) -> int:
    """Estimate the input tokens of a request by its length."""
    return int(request.size / CHARACTERS_PER_TOKEN) + 1
