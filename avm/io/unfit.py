"""Unfit: what a call fails with that cannot be taken as it is, whatever is wrong with it.

A pool serves thousands: a request that makes its code raise must be that request's error, never the end of an actor.
"""

from __future__ import annotations

from avm.actors.reasons import describe
from avm.errors import AVMError, InvalidRequest
from avm.io.dispatch import Dispatch
from avm.io.request import Complete


def unfit(call: Complete | Dispatch, error: Exception) -> Exception:
    """Return the error for whoever asked: one of ours as it is, any other as the cause of an `InvalidRequest`."""
    if isinstance(error, AVMError):
        return error
    request = call.request
    model = getattr(request, "model", "?")
    refusal = InvalidRequest(
        f"the call of {getattr(request, 'agent', '') or 'its caller'} for {model!r} cannot be made "
        f"({describe(error)}); see its request and policy, and what the provider says of itself.",
        model=str(model),
    )
    refusal.__cause__ = error
    return refusal
