"""What the pool asks of whoever serves a model."""

from __future__ import annotations

from typing import Protocol

from avm.io.request import Completion, ModelRequest


class Provider(Protocol):
    """Serves model calls. One object serves all workers of a pool, many calls at a time."""

    @property
    def name(self) -> str:
        """What the status line calls it."""

    @property
    def concurrency(self) -> int | None:
        """How many calls it can take at once; None leaves it to the pool."""

    async def complete(self, request: ModelRequest) -> Completion:
        """Make one call. No retries: those are the pool's.

        Raises:
            ProviderError: the call failed; the subclass says how. Any other exception is a bug of the provider.
        """

    async def close(self) -> None:
        """Give up connections. A later `complete` opens them again."""
