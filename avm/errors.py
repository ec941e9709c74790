"""Every exception a user of avm can catch.

AVMError
 +- AskError                  an ask that got no reply
 |   +- AskTimeout              (TimeoutError) no reply in time
 |   +- NoProc                  nobody at that address; also an exit reason
 |   |   +- NoSuchActor           (KeyError) vm[...] finds no actor, or more than one
 |   +- ActorExited             it ended before it answered
 |   +- AskCycle                the ask would wait for itself through other actors
 |   |   +- CallingSelf           directly
 |   +- MailboxFull             its bounded mailbox has no room
 |   +- NoHandler               it lives, but takes no such event
 +- Refuse                    raise it in a handler: the asker gets it, the actor lives on
 +- StartError                an actor or a tree did not start
 |   +- StartIgnored            its `starting` answered Ignore
 +- StopError                 an actor ended with another reason than the one asked for
 +- ActorDead                 an actor that was killed still tries to act
 +- NameTaken                 a registered name has a live holder
 +- NotJoined                 leaving a group it is not in
 +- HandlerError              (TypeError) handlers declared wrongly, found at import
 +- EventError                (TypeError) an event declared wrongly, found at import
 |   +- PackError               an event holds something that cannot leave its sender
 +- DecodeError               (ValueError) bytes that are not a valid event
 +- SpecError                 (ValueError) a child spec or tree that cannot be right
 +- ChildError                administration of a supervisor refused
 |   +- AlreadyStarted, AlreadyPresent, ChildRunning, ChildRestarting, ChildNotFound, TooManyChildren
 +- StoreError
 |   +- MissingBlob             (KeyError) no such digest
 |   +- StoreFullError          (MemoryError) no tier has room
 |   +- TooLargeError           one object larger than its share
 |   +- CorruptBlob             bytes that do not match their digest
 |   +- ColdStoreError          the disk, or the file on it, refuses: full, read-only, damaged
 |   +- HomeError               a home directory that cannot be opened
 |   |   +- HomeInUse             another process has it open
 |   |   +- HomeTooNew            a newer avm has written it
 |   +- FileChanged             a large file is not what it was when it was put
 +- RemoteError               an error that happened beyond a boundary: its name and text
 +- ProviderError             a model call failed
 |   +- RateLimited, Overloaded, ProviderTimeout, ProviderConnection, ProviderFailed: asked again
 |   +- NotAuthorized, SpendLimitReached, InvalidRequest, ContextOverflow, Refused, BadOutput: not
 |   +- ProviderUnavailable     the pool does not ask: too much has failed
 +- ToolError                 a tool failed, or was called wrongly
 +- ToolDefinitionError       (TypeError) a function that cannot be a tool, found at import
 +- TooManySteps              a turn that does not end
 +- ItemFailed                an item of a pipeline failed in one of its stages
 +- WorkloadError             (ValueError) a conversation file that cannot be read
 +- SimulationError           a simulation is used wrongly or cannot go on
 |   +- NotSimulated            (RuntimeError) a real socket, thread or clock was used inside one
 |   +- SimulationStuck         all wait, and nothing will ever happen
 |   +- SimulationEndless       much happens and no time passes
 |   +- ReplayDiverged          a replay went another way than the run that was recorded
 |   +- ReplayStopped           a replay came to the decision at which it was to stop
 +- SimulatedCrash            the reason of an actor that a simulation let crash
 +- VMError                   the VM is used wrongly or could not go on
     +- Interrupted             a signal or Ctrl+C stopped it
     +- RunawayError            (TimeoutError) a handler held the loop too long

SpecWarning (UserWarning)       a tree that can be right but probably is not meant
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avm.io.limits import RateLimits


class AVMError(Exception):
    """Root of all errors of avm."""


class AskError(AVMError):
    """An ask ended without a reply."""


class AskTimeout(AskError, TimeoutError):
    """No reply in time (S13). The request itself is not cancelled (S15)."""


class NoProc(AskError):
    """Nobody is at that address. As an exit reason: the peer was dead already (S42, S47).

    Two of them are equal when they say the same, so reasons can be compared.
    """

    def __eq__(self, other: object) -> bool:
        return type(other) is NoProc and other.args == self.args

    def __hash__(self) -> int:
        return hash((NoProc, self.args))


class NoSuchActor(NoProc, KeyError):
    """No actor of that name, path or id, or more than one; `near` lists what may have been meant."""

    def __init__(self, message: str, near: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.near = near

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ActorExited(AskError):
    """The actor ended before it answered; `reason` says how, and is the `__cause__` if an exception."""

    def __init__(self, message: str, reason: object = None) -> None:
        super().__init__(message)
        self.reason = reason


class AskCycle(AskError):
    """An ask that closes a ring of waiting actors; it fails at once (S18). `ring` names them in order."""

    def __init__(self, message: str, ring: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.ring = ring


class CallingSelf(AskCycle):
    """An actor asks itself while it handles an event (S18)."""


class MailboxFull(AskError):
    """A bounded mailbox has no room (S10)."""


class NoHandler(AskError):
    """The actor lives but has no handler for the event."""


class Refuse(AVMError):
    """Raise it in a handler: whoever asked gets this error, and the actor lives on."""


class StartError(AVMError):
    """An actor, or the tree it belongs to, did not start; `reason` says why, `path` where."""

    def __init__(self, message: str, reason: object = None, path: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.path = path


class StartIgnored(StartError):
    """`starting` answered Ignore: there is no actor, and nothing failed (S25)."""


class StopError(AVMError):
    """An actor that was told to stop ended with another reason (S35)."""

    def __init__(self, message: str, reason: object = None) -> None:
        super().__init__(message)
        self.reason = reason


class ActorDead(AVMError):
    """An actor that has ended tries to act through avm (S94)."""


class NameTaken(AVMError):
    """A name has at most one live holder (S78); `holder` is its pid."""

    def __init__(self, message: str, holder: object = None) -> None:
        super().__init__(message)
        self.holder = holder


class NotJoined(AVMError):
    """An actor leaves a group it is not in (S82)."""


class HandlerError(AVMError, TypeError):
    """Handlers are declared wrongly; found when the class is made."""


class EventError(AVMError, TypeError):
    """An event class is declared wrongly, or a thing that is no event was sent."""


class PackError(EventError):
    """An event holds a value that cannot leave its sender (S4); `where` is the path to it."""

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.where = where


class DecodeError(AVMError, ValueError):
    """Bytes that are not a valid event; `where` says at which field or byte."""

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.where = where


class RemoteError(AVMError):
    """An error that crossed a boundary: only its name (`kind`) and `text` travel, never its class.

    Two of them are equal when they say the same.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}" if text else kind)
        self.kind = kind
        self.text = text

    def __eq__(self, other: object) -> bool:
        return type(other) is RemoteError and (other.kind, other.text) == (self.kind, self.text)

    def __hash__(self) -> int:
        return hash((self.kind, self.text))


class SpecError(AVMError, ValueError):
    """A child spec or tree that cannot be right (S52)."""


class SpecWarning(UserWarning):
    """A tree is valid but will fail in silence (S71)."""


class ChildError(AVMError):
    """A supervisor refuses an administration request (S75); `id` names the child."""

    def __init__(self, message: str, id: object = None, pid: object = None) -> None:
        super().__init__(message)
        self.id = id
        self.pid = pid


class AlreadyStarted(ChildError):
    """start_child: that id runs."""


class AlreadyPresent(ChildError):
    """start_child: that id is known and not running."""


class ChildRunning(ChildError):
    """restart_child, delete_child: that id runs."""


class ChildRestarting(ChildError):
    """restart_child, delete_child: that id waits for its next start."""


class ChildNotFound(ChildError):
    """No child of that id or pid."""


class TooManyChildren(ChildError):
    """A dynamic supervisor holds `max_children` already."""


class StoreError(AVMError):
    """The memory manager cannot do it."""


class MissingBlob(StoreError, KeyError):
    """No blob of that digest."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class StoreFullError(StoreError, MemoryError):
    """No tier has room."""


class TooLargeError(StoreError):
    """One object is larger than its share of the ceiling."""


class CorruptBlob(StoreError):
    """Stored bytes do not match their digest; `digest` (hex) and `path` say which and where, empty if not on disk."""

    def __init__(self, message: str, digest: str = "", path: str = "") -> None:
        super().__init__(message)
        self.digest = digest
        self.path = path


class ColdStoreError(StoreError):
    """The disk refuses, or a file of the cold store is damaged; `path` says which. What was committed stands."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class HomeError(StoreError):
    """A home directory that cannot be opened; `path` says which."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class HomeInUse(HomeError):
    """Another process has the home open; `holder` says who."""

    def __init__(self, message: str, path: str = "", holder: str = "") -> None:
        super().__init__(message, path)
        self.holder = holder


class HomeTooNew(HomeError):
    """The home has a format that a newer avm has written; `found` is its number."""

    def __init__(self, message: str, path: str = "", found: int = 0) -> None:
        super().__init__(message, path)
        self.found = found


class FileChanged(StoreError):
    """A large file is gone, or not what it was when it was put; `path` says which."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class ProviderError(AVMError):
    """A model call failed; `provider`, `model` and `request_id` say which.

    `limits` is what the response said of the provider's limits, None if it said nothing or there was none.
    """

    def __init__(self, message: str, provider: str = "", model: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.provider = provider
        self.model = model
        self.request_id = request_id
        self.limits: RateLimits | None = None


class RateLimited(ProviderError):
    """429; `retry_after` in seconds, None if the provider did not say."""

    def __init__(
        self,
        message: str,
        provider: str = "",
        model: str = "",
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, provider, model, request_id)
        self.retry_after = retry_after


class Overloaded(ProviderError):
    """529 or 503: the provider has no capacity now; `retry_after` in seconds, None if it did not say."""

    def __init__(
        self,
        message: str,
        provider: str = "",
        model: str = "",
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, provider, model, request_id)
        self.retry_after = retry_after


class ProviderTimeout(ProviderError, TimeoutError):
    """The provider did not answer in time."""


class ProviderConnection(ProviderError, ConnectionError):
    """The provider could not be reached, or the line broke."""


class ProviderFailed(ProviderError):
    """500 and the like: something is wrong at the provider; `status` is HTTP's, 0 if there was none."""

    def __init__(
        self, message: str, provider: str = "", model: str = "", request_id: str = "", status: int = 0
    ) -> None:
        super().__init__(message, provider, model, request_id)
        self.status = status


class ProviderUnavailable(ProviderError):
    """The pool does not ask the provider now: too many calls in a row failed; the last failure is the cause."""


class NotAuthorized(ProviderError):
    """401: the key is missing or wrong."""


class SpendLimitReached(ProviderError):
    """The account's spending limit is reached; asking again does not help."""


class InvalidRequest(ProviderError):
    """400, 403, 404, 422: the provider cannot take the request as it is, or not from this account."""


class ContextOverflow(ProviderError):
    """The request is larger than the model's context."""


class Refused(ProviderError):
    """The model refused to answer."""


class BadOutput(ProviderError):
    """The model's answer is not what was asked for."""


class ToolError(AVMError):
    """A tool failed or was called wrongly; the text is what the model reads."""


class ToolDefinitionError(AVMError, TypeError):
    """A function that cannot be a tool; found when `@tool` is applied."""


class TooManySteps(AVMError):
    """A turn took more steps than its agent's `max_steps`; the conversation is as it was before the turn."""


class ItemFailed(AVMError):
    """An item of a pipeline failed: the `index`-th `item`, counted from 0, in stage `stage`. The error is its cause."""

    def __init__(self, message: str, item: object = None, index: int = 0, stage: int = 0) -> None:
        super().__init__(message)
        self.item = item
        self.index = index
        self.stage = stage


class WorkloadError(AVMError, ValueError):
    """A conversation file that cannot be read; names the file and the line."""


class VMError(AVMError):
    """The VM is used wrongly, or could not go on."""


class Interrupted(VMError):
    """A signal, or KeyboardInterrupt in a handler, stopped the VM; `status` is the exit status to end with."""

    def __init__(self, message: str, signum: int = 2) -> None:
        super().__init__(message)
        self.signum = signum
        self.status = 128 + signum


class RunawayError(VMError, TimeoutError):
    """Raised in a handler that held the loop too long, under the policy `runaway="interrupt"` (S96)."""

    def __init__(self, message: str = "") -> None:
        super().__init__(
            message
            or "the handler held the loop for too long and was interrupted. Move such work to run_blocking(), or raise "
            "watchdog=."
        )


class SimulationError(AVMError):
    """A simulation is used wrongly or cannot go on."""


class NotSimulated(SimulationError, RuntimeError):
    """A real socket, thread or clock was used inside a simulation."""


class SimulationStuck(SimulationError):
    """What was waited for can never come: nobody runs, no call is open and no timer is set."""


class SimulationEndless(SimulationError):
    """Actors keep each other busy, or the loop, and no time passes."""


class ReplayDiverged(SimulationError):
    """A replay came to another decision than the run that was recorded: something outside of avm differs."""


class ReplayStopped(SimulationError):
    """A replay came to the decision at which it was to stop; `decision` is its number."""

    def __init__(self, message: str, decision: int) -> None:
        super().__init__(message)
        self.decision = decision


class SimulatedCrash(AVMError):
    """The exit reason of an actor that a simulation let crash."""
