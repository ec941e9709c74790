"""Pipelines: items flow through stages, a bounded number at a time, and come out in the order they went in.

    async for page in pipeline(vm["critic"], vm["editor"], limit=32)(drafts):
        print(page.text)

A stage is a ref, which is asked with the item, or a function, sync or async; a branch is an `if` in a function. Nothing
is taken from the source before there is room for it, so a slow consumer holds back the source.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Protocol

from avm.actors.ref import DEFAULT_TIMEOUT
from avm.errors import ItemFailed, SpecError

LIMIT = 32
"""Items under way at once, unless said otherwise."""


class Askable(Protocol):
    """A stage that is an actor: a `Ref`."""

    async def ask(self, request: Any, timeout: float | None = ...) -> Any:
        """Send an item and wait for what becomes of it."""


Stage = Askable | Callable[[Any], Any]
Items = Iterable[Any] | AsyncIterable[Any]
OnError = Callable[[ItemFailed], Any]


def pipeline(
    *stages: Stage,
    limit: int = LIMIT,
    timeout: float | None = DEFAULT_TIMEOUT,
    on_error: OnError | None = None,
) -> Callable[[Items], AsyncIterator[Any]]:
    """Join stages into a function from items to results.

    Args:
        limit: items under way at once, 1 or more.
        timeout: seconds for each ask of a ref; the default is the VM's, None waits for ever.
        on_error: called with the error of an item that failed; what it returns takes the item's place among the
            results. Without it the error is raised there, after the results of all items before it.

    Returns:
        A function that takes an iterable or an async iterable and gives an async iterator of the results, in order.
        A consumer that stops early leaves nothing running: what is under way is cancelled when the iterator is
        closed, which `break` does unless something else holds the iterator (then use `contextlib.aclosing`).

    Raises:
        SpecError: no stages, one that can neither be asked nor called, or a limit below 1.
    """
    if not stages:
        raise SpecError("pipeline() takes one stage or more: refs and functions, got none.")
    for place, stage in enumerate(stages):
        if not (hasattr(stage, "ask") or callable(stage)):
            raise SpecError(f"pipeline(): stage {place} must be a ref or a function, got {stage!r}.")
    if type(limit) is not int or limit < 1:
        raise SpecError(f"pipeline(): limit must be a whole number of 1 or more, got {limit!r}.")

    def run(items: Items) -> AsyncIterator[Any]:
        return _flow(stages, items, limit, timeout, on_error)

    return run


async def _flow(
    stages: tuple[Stage, ...], items: Items, limit: int, timeout: float | None, on_error: OnError | None
) -> AsyncIterator[Any]:
    source = _Source(items)
    under_way: deque[asyncio.Task[Any]] = deque()
    index = 0
    try:
        while True:
            while len(under_way) < limit and source.is_open:
                found = await source.next(under_way[0] if under_way else None)
                if found is _NOTHING:
                    break
                under_way.append(asyncio.ensure_future(_pass(stages, found, index, timeout)))
                index += 1
            if not under_way:
                return
            head = under_way.popleft()
            try:
                result = await head
            except ItemFailed as failure:
                if on_error is None:
                    raise
                result = on_error(failure)
            except asyncio.CancelledError:
                head.cancel()
                under_way.append(head)
                raise
            yield result
    finally:
        await _cancel(under_way)
        await source.close()


async def _pass(stages: tuple[Stage, ...], item: Any, index: int, timeout: float | None) -> Any:
    value = item
    for place, stage in enumerate(stages):
        try:
            if hasattr(stage, "ask"):
                value = await stage.ask(value, timeout)
            else:
                value = stage(value)
                if inspect.isawaitable(value):
                    value = await value
        except Exception as error:
            name = getattr(stage, "path", None) or getattr(stage, "__name__", repr(stage))
            raise ItemFailed(
                f"item {index} ({_brief(item)}) failed in stage {place}, {name}: {type(error).__name__}: {error}",
                item=item,
                index=index,
                stage=place,
            ) from error
    return value


async def _cancel(tasks: deque[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)


_NOTHING: Any = object()


class _Source:
    """The items, however they come; an async source is waited for only until the oldest result is there."""

    def __init__(self, items: Items) -> None:
        self.is_open = True
        self._async = items.__aiter__() if isinstance(items, AsyncIterable) else None
        self._sync = iter(items) if not isinstance(items, AsyncIterable) else None
        self._pending: asyncio.Task[Any] | None = None

    async def next(self, head: asyncio.Task[Any] | None) -> Any:
        """Return the next item, `_NOTHING` at the end or when `head` is done first."""
        if self._sync is not None:
            item = next(self._sync, _NOTHING)
            self.is_open = item is not _NOTHING
            return item
        if self._pending is None:
            assert self._async is not None
            self._pending = asyncio.ensure_future(_as_coroutine(self._async.__anext__()))
        waits: set[Awaitable[Any]] = {self._pending} if head is None else {self._pending, head}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
        if not self._pending.done():
            return _NOTHING
        pending, self._pending = self._pending, None
        item = pending.result()
        self.is_open = item is not _NOTHING
        return item

    async def close(self) -> None:
        """Stop waiting for an item, and close a source that can be closed."""
        if self._pending is not None:
            await _cancel(deque([self._pending]))
        close = getattr(self._async, "aclose", None)
        if close is not None:
            await close()


async def _as_coroutine(waiting: Awaitable[Any]) -> Any:
    try:
        return await waiting
    except StopAsyncIteration:
        # A task cannot end with it: it would be taken for the end of the task's own iteration.
        return _NOTHING


def _brief(item: object) -> str:
    text = repr(item)
    return text if len(text) <= 80 else f"{text[:77]}..."
