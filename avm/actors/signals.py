"""Why an actor ends, what the runtime tells it, and what it may be waiting for.

An exit *reason* is a value of this module or an exception. Signals are what the runtime sends: they never
wait behind events (S9). The events an actor may handle are `Exit` (trapped, S38), `Down` (S46) and `Timeout` (S33).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from avm.actors.event import event

if TYPE_CHECKING:
    from avm.actors.ref import Pid


@attrs.frozen(slots=True)
class Normal:
    """The actor finished its work."""


@attrs.frozen(slots=True)
class Shutdown:
    """An orderly end; `detail` may say more. Not abnormal."""

    detail: object = None


@attrs.frozen(slots=True)
class Killed:
    """The actor was killed; abnormal."""


@attrs.frozen(slots=True)
class Kill:
    """Only a signal: the victim's own reason becomes `Killed` (S36)."""


@attrs.frozen(slots=True)
class Cancelled:
    """Something outside avm cancelled the handler (S98); abnormal."""


def is_abnormal(reason: object) -> bool:
    """Tell whether a reason calls for a restart of a transient child and for a crash report."""
    return not isinstance(reason, (Normal, Shutdown))


class StopActor(BaseException):
    """Raise it in a handler to end the actor with a reason: the same as `self.stop(reason)` and leaving (S98)."""

    def __init__(self, reason: object = None) -> None:
        super().__init__(reason)
        self.reason: object = Normal() if reason is None else reason


class _Ignore:
    """The type of `Ignore`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Ignore"


Ignore = _Ignore()
"""Return it from `starting`: no actor, and no error (S25)."""


@attrs.frozen(slots=True)
class Monitor:
    """What `monitor` returns: names one watch; `serial` is unique in the VM."""

    serial: int


@event(tag="avm.Exit")
class Exit:
    """A linked actor ended, or someone sent an exit signal, and this actor traps exits (S38)."""

    pid: Pid | None
    reason: object


@event(tag="avm.Down")
class Down:
    """A monitored actor ended (S46). `name` is what was monitored if that was a name (S49)."""

    monitor: Monitor
    pid: Pid | None
    name: str | None
    reason: object


@event(tag="avm.Timeout")
class Timeout:
    """The idle timeout of this actor passed without an event (S33)."""


@attrs.frozen(slots=True)
class Reply:
    """Waiting for the reply of an actor."""

    path: str


@attrs.frozen(slots=True)
class LlmReply:
    """Waiting for a model; `request` says which."""

    request: str


@attrs.frozen(slots=True)
class ToolResult:
    """Waiting for a tool."""

    tool: str


@attrs.frozen(slots=True)
class Timer:
    """Waiting for time to pass, in seconds."""

    seconds: float


@attrs.frozen(slots=True)
class UserInput:
    """Waiting for a person."""

    question: str


@attrs.frozen(slots=True)
class Other:
    """Waiting for something avm did not start: a plain `await` in a handler."""


WaitReason = Reply | LlmReply | ToolResult | Timer | UserInput | Other
