"""Replies: how one gets to whoever asked, and those that come later (S17)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from avm.actors.event import ATOMS, INLINE_LIMIT, seal
from avm.actors.reasons import describe
from avm.errors import Refuse

if TYPE_CHECKING:
    from avm.actors.cell import Answer, Cell


def answer(cell: Cell, reply: Answer, result: Any) -> None:
    """Give a reply to whoever asked, sealed as every message is (S4); a late one is dropped and counted (S16).

    Raises:
        PackError: the result cannot leave this actor.
    """
    kind = result.__class__
    if kind not in ATOMS:
        plain = getattr(result, "__avm_plain__", None)
        if plain is None or not plain():
            result, _ = seal(result, cell.kernel.put)
    elif (kind is str or kind is bytes) and len(result) > INLINE_LIMIT:
        result, _ = seal(result, cell.kernel.put)
    if reply.done():
        cell.kernel.late_replies += 1
    else:
        reply.set_result(result)


def refuse(cell: Cell, reply: Answer | None, refusal: Refuse) -> None:
    """A handler refused: the asker gets the error it was made with, or the refusal itself."""
    if cell.more is not None:
        # What it asked for besides is void, and must not be done to the next event.
        cell.more.deferred = cell.more.postpone = False
    if reply is not None and not reply.done():
        first = refusal.args[0] if refusal.args else None
        reply.set_exception(_harmless(first) if isinstance(first, BaseException) else refusal)


# An actor may not end whoever asks it, nor the program, by the error it answers with (S99).
def _harmless(error: BaseException) -> BaseException:
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    refusal = Refuse(describe(error))
    refusal.__cause__ = error
    return refusal


class PendingReply:
    """The right to answer one request: may be kept, and handed to a task or another actor of this VM (S17).

    The first answer wins, later ones are dropped and counted. If the actor that took it ends first, whoever asked
    gets ActorExited. For an event that nobody waits for, answering does nothing.
    """

    __slots__ = ("_cell", "_future", "_is_given")

    def __init__(self, cell: Cell, future: asyncio.Future[Any] | None) -> None:
        self._cell = cell
        self._future = future
        self._is_given = False

    @classmethod
    def of_current(cls, cell: Cell) -> PendingReply:
        """Take over the reply to what the actor is handling now."""
        current = cell.current
        future = current[2] if current is not None else None
        if current is not None:
            more = cell.extras()
            more.deferred = True
            cell.alert = True
            cell.letter = (current[0], current[1], None, current[3])
            if future is not None and not future.done():
                more.owed[future] = current[1]
                future.add_done_callback(lambda done: more.owed.pop(done, None))
        return cls(cell, future)

    @property
    def is_waited_for(self) -> bool:
        """Tell whether someone still waits for it."""
        return self._future is not None and not self._future.done()

    def when_given_up(self, call: Callable[[], None]) -> None:
        """Have a function called on the loop when whoever asked stops waiting before there is an answer."""
        if self._future is not None:
            self._future.add_done_callback(lambda _: None if self._is_given else call())

    def send(self, value: object = None) -> None:
        """Answer.

        Raises:
            PackError: the value cannot leave this actor (S4).
        """
        kernel = self._cell.kernel
        sealed, _ = seal(value, kernel.put)
        if self._future is None:
            return
        if self._future.done():
            kernel.late_replies += 1
        else:
            self._is_given = True
            self._future.set_result(sealed)

    def fail(self, error: BaseException) -> None:
        """Answer with an error, which is raised where it was asked; one that is no Exception as a `Refuse`."""
        if self._future is None:
            return
        if self._future.done():
            self._cell.kernel.late_replies += 1
        else:
            self._is_given = True
            self._future.set_exception(_harmless(error))
            self._future.exception()
