"""Transactions: a handler that ends well commits what it did to the conversation, before its reply goes out; one that
fails, or refuses, takes it back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from avm.actors.actor import Actor
from avm.actors.behaviour import Behaviour

Handler = Callable[[Any, Any], Any]


class Transactional(Protocol):
    """An actor whose handlers are transactions."""

    def commit(self) -> None:
        """Keep what the handler did."""

    def roll_back(self) -> None:
        """Take it back."""


def make_transactions(cls: type[Actor]) -> None:
    """Make every handler of a class a transaction. The methods stay as they are: one that calls another is one."""
    table = cls.__avm_behaviour__.table
    cls.__avm_behaviour__ = Behaviour(cls, {kind: _transaction(handler) for kind, handler in table.items()})


def _transaction(handler: Handler) -> Handler:
    if inspect.iscoroutinefunction(handler):

        async def run_async(agent: Transactional, event: Any) -> Any:
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
        agent.commit()
        return result

    return run


async def _finish(agent: Transactional, work: Coroutine[Any, Any, Any]) -> Any:
    try:
        result = await work
    except BaseException:
        agent.roll_back()
        raise
    agent.commit()
    return result
