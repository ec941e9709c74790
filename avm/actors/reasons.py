"""Exit reasons: what an error that left a handler means (S98), and how a reason is put in words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from avm.actors.signals import Cancelled, Kill, Killed, Normal, Shutdown, StopActor, is_abnormal

if TYPE_CHECKING:
    from avm.actors.kernel import Kernel


def describe(reason: object) -> str:
    """Put an exit reason in a few words. Never raises: reasons are users' objects, and their text users' code (S99)."""
    try:
        return _words(reason)
    except BaseException as error:
        return f"{type(reason).__name__} (its text failed with {type(error).__name__})"


def _words(reason: object) -> str:
    if isinstance(reason, BaseException):
        text = str(reason)
        return f"{type(reason).__name__}: {text}" if text else type(reason).__name__
    if isinstance(reason, Shutdown):
        return "shutdown" if reason.detail is None else f"shutdown: {reason.detail}"
    if isinstance(reason, (Normal, Killed, Kill, Cancelled)):
        return type(reason).__name__.lower()
    return repr(reason)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Go through the errors of a group, or give the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def reason_of(kernel: Kernel, error: BaseException) -> object:
    """Map what escaped a handler to an exit reason; a KeyboardInterrupt also stops the system (S98)."""
    if isinstance(error, Exception) and not isinstance(error, ExceptionGroup):
        return error
    if any(isinstance(e, KeyboardInterrupt) for e in leaves(error)) and kernel.on_interrupt is not None:
        kernel.on_interrupt()
    return _stop_reason(error)


def _stop_reason(error: BaseException) -> object:
    if isinstance(error, StopActor):
        return error.reason
    if isinstance(error, KeyboardInterrupt):
        return Shutdown("interrupt")
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return Cancelled()
    if isinstance(error, BaseExceptionGroup):
        return _group_reason(error)
    return error


# A task group in which every failure was a wish to stop in peace is such a wish.
def _group_reason(group: BaseExceptionGroup[BaseException]) -> object:
    wishes = [e.reason if isinstance(e, StopActor) else e for e in leaves(group)]
    return group if any(is_abnormal(wish) for wish in wishes) else wishes[0]
