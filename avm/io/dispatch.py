"""What the actors of the pool tell each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from avm.actors.event import event
from avm.actors.hooks import Report
from avm.actors.ref import Pid
from avm.io.limits import RateLimits
from avm.io.request import CallPolicy, ModelRequest

if TYPE_CHECKING:
    from avm.io.stream import ModelStream


@event(tag="avm.io.Dispatch")
class Dispatch:
    """The front hands on a model call. The answer is `Answered` with the same serial, from whoever got this."""

    serial: int
    request: ModelRequest
    policy: CallPolicy
    priority: str
    asked: float
    """When the front got it."""
    stream: ModelStream | None = None
    """Who listens while the reply comes."""
    asker: Pid | None = None


@event(tag="avm.io.Withdraw")
class Withdraw:
    """Nobody waits for a call any more: it is to leave the queue, or to be stopped if it is under way. No answer."""

    serial: int


@event(tag="avm.io.Answered")
class Answered:
    """How a call ended: a `Completion`, a `ToolOutcome`, or the error that came instead."""

    serial: int
    outcome: Any


@event(tag="avm.io.Work")
class Work:
    """A gate hands one call to a worker; `asked` is when the front got it."""

    serial: int
    request: Any
    asked: float
    stream: ModelStream | None = None
    reports_start: bool = False
    """Whether the gate wants to hear `Begun`."""


@event(tag="avm.io.Begun")
class Begun:
    """The response to a call has begun; `limits` is what it says of the provider's."""

    serial: int
    limits: RateLimits | None = None


@event(tag="avm.io.Done")
class Done:
    """A worker's answer to its gate, as `Answered`."""

    serial: int
    outcome: Any


@attrs.frozen(slots=True, kw_only=True)
class AttemptReport(Report):
    """A provider was asked once, and failed or answered."""

    agent: str
    provider: str
    model: str
    number: int
    """Which attempt at this call, from 1."""
    seconds: float
    error: str
    """What failed; empty if it answered."""
    again_in: float | None
    """Seconds until it is tried again; None if it is not."""
