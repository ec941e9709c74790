"""Transactions: a handler that ends well commits what it did to the conversation, before its reply goes out; one that
fails, or refuses, takes it back. With a home a commit is on disk before the reply goes out: the handler waits for it,
in a group with others. A conversation that sleeps is read back before the handler begins, in another thread.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol

from avm.actors.actor import Actor
from avm.actors.behaviour import Behaviour

Handler = Callable[[Any, Any], Any]


class Transactional(Protocol):
    """An actor whose handlers are transactions."""

    def commit(self) -> Future[None] | None:
        """Keep what the handler did; return what is done when it is on disk, None if there is nothing to wait for."""

    def roll_back(self) -> None:
        """Take it back."""

    def commit_failed(self) -> None:
        """Go back to what is kept: what was to be committed could not be written."""

    def is_asleep(self) -> bool:
        """Tell whether what the handler will want has to be read from disk."""

    async def wake(self) -> None:
        """Read it, beside the loop."""


def make_transactions(cls: type[Actor]) -> None:
    """Make every handler of a class a transaction. The methods stay as they are: one that calls another is one."""
    table = cls.__avm_behaviour__.table
    cls.__avm_behaviour__ = Behaviour(cls, {kind: _transaction(handler) for kind, handler in table.items()})


def _transaction(handler: Handler) -> Handler:
    if inspect.iscoroutinefunction(handler):

        async def run_async(agent: Transactional, event: Any) -> Any:
            if agent.is_asleep():
                await agent.wake()
            return await _finish(agent, handler(agent, event))

        return run_async

    def run(agent: Transactional, event: Any) -> Any:
        try:
            result = handler(agent, event)
        except BaseException:
            agent.roll_back()
            raise
        if inspect.iscoroutine(result):
            return _finish(agent, result)
        pending = agent.commit()
        return result if pending is None else _wait(agent, pending, result)

    return run


async def _finish(agent: Transactional, work: Coroutine[Any, Any, Any]) -> Any:
    try:
        result = await work
    except BaseException:
        agent.roll_back()
        raise
    pending = agent.commit()
    return result if pending is None else await _wait(agent, pending, result)


async def _wait(agent: Transactional, pending: Future[None], result: Any) -> Any:
    try:
        await asyncio.wrap_future(pending)
    except Exception:
        agent.commit_failed()
        raise
    return result
