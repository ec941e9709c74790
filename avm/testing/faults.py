"""Faults as values: what is to go wrong in a simulation, with whom, and at which occasion.

    faults = [Crash("editor", wait=2), ModelFails(call=3, how="overloaded"), ClockStep(at=60, seconds=300)]
    with simulate(tree, faults=faults) as sim: ...

Each counts the occasions it is about (the events of an actor over all its incarnations, the calls of a model), and
happens at the one it names, the first being 1. Faults can be printed, compared, stored in a list and drawn by
Hypothesis.

A *fault point* is a named place that asks the plan whether something is to go wrong there:
`world.reach(point, subject)`. There are "event", "wait", "start" and "arrival" (subject: the path of an actor),
"model" (the path of who asks) and "tool" (the name). A part of avm that can fail in ways of its own brings its own
points, as "journal.write", "stream.chunk", "node.send" or "disk.write", and frozen classes of faults with that `point`;
nothing here has to change for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, Protocol, get_args

import attrs

from avm.errors import (
    BadOutput,
    ContextOverflow,
    Overloaded,
    ProviderConnection,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    Refused,
    SpecError,
)

ModelFailure = Literal[
    "rate_limited", "overloaded", "timeout", "connection", "context_overflow", "refused", "bad_output"
]
MODEL_FAILURES: tuple[str, ...] = get_args(ModelFailure)

_ERRORS: Mapping[str, type[ProviderError]] = {
    "overloaded": Overloaded,
    "timeout": ProviderTimeout,
    "connection": ProviderConnection,
    "context_overflow": ContextOverflow,
    "refused": Refused,
    "bad_output": BadOutput,
}


class Fault(Protocol):
    """What a plan is made of: at which point, with whom, at which occasion."""

    @property
    def point(self) -> str:
        """The fault point it is about."""

    @property
    def subject(self) -> str | None:
        """Whom it is about: a path, the end of one, an id, or a pattern with *; None is anyone."""

    @property
    def occasion(self) -> int:
        """At which of the occasions of its subject it happens, from 1."""

    @property
    def count(self) -> int:
        """For how many occasions in a row."""


def _natural(instance: object, attribute: Any, value: Any) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise SpecError(
            f"{type(instance).__name__}: {attribute.name} counts from 1, so it must be a whole number of 1 or more, "
            f"got {value!r}."
        )


def _seconds(instance: object, attribute: Any, value: Any) -> None:
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9
    ):
        raise SpecError(
            f"{type(instance).__name__}: {attribute.name} must be a number of seconds, 0 or more, got {value!r}."
        )


@attrs.frozen
class _AtActor:
    """With an actor, at its n-th event, or when a handler of it waits for the n-th time."""

    actor: str
    event: int | None = attrs.field(default=None, validator=_natural)
    wait: int | None = attrs.field(default=None, validator=_natural)
    count: ClassVar[int] = 1

    def __attrs_post_init__(self) -> None:
        if (self.event is None) == (self.wait is None):
            raise SpecError(
                f"{type(self).__name__}({self.actor!r}): give event= (the n-th event it handles) or wait= (the n-th "
                "time a handler of it waits), one of them."
            )

    @property
    def point(self) -> str:
        return "event" if self.event is not None else "wait"

    @property
    def subject(self) -> str | None:
        return self.actor

    @property
    def occasion(self) -> int:
        return self.event or self.wait or 1


@attrs.frozen
class Crash(_AtActor):
    """An actor crashes: in place of its n-th event's handler, or at an `await`."""


@attrs.frozen
class Kill(_AtActor):
    """An actor is killed before its n-th event is handled, or at an `await`."""


@attrs.frozen
class FailStart:
    """An actor cannot be started, at the n-th attempt."""

    actor: str
    start: int = attrs.field(default=1, validator=_natural)
    count: int = attrs.field(default=1, validator=_natural, kw_only=True)
    point: ClassVar[str] = "start"

    @property
    def subject(self) -> str | None:
        return self.actor

    @property
    def occasion(self) -> int:
        return self.start


@attrs.frozen
class FullMailbox:
    """The mailbox of an actor has no room for its n-th event and `count - 1` more; its `overflow` says what then."""

    actor: str
    arrival: int = attrs.field(default=1, validator=_natural)
    count: int = attrs.field(default=1, validator=_natural, kw_only=True)
    point: ClassVar[str] = "arrival"

    @property
    def subject(self) -> str | None:
        return self.actor

    @property
    def occasion(self) -> int:
        return self.arrival


@attrs.frozen
class _AtModel:
    """At the n-th call of the model, of one agent or of all."""

    call: int = attrs.field(validator=_natural)
    count: int = attrs.field(default=1, validator=_natural, kw_only=True)
    point: ClassVar[str] = "model"

    @property
    def occasion(self) -> int:
        return self.call


@attrs.frozen
class ModelFails(_AtModel):
    """A model call fails: 429 with or without `retry_after`, 529, a refusal, an overflow of the context."""

    how: ModelFailure = attrs.field(default="overloaded")
    retry_after: float | None = attrs.field(default=None, validator=_seconds)
    agent: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.how not in MODEL_FAILURES:
            raise SpecError(f"ModelFails: how must be one of {', '.join(MODEL_FAILURES)}, got {self.how!r}.")
        if self.retry_after is not None and self.how != "rate_limited":
            raise SpecError(f"ModelFails: retry_after goes with how='rate_limited', not with {self.how!r}.")

    @property
    def subject(self) -> str | None:
        return self.agent

    def error(self, model: str) -> ProviderError:
        """Make what the provider raises."""
        text = f"the simulation let this model call fail: {self.how}."
        if self.how == "rate_limited":
            return RateLimited(text, "simulated", model, retry_after=self.retry_after)
        return _ERRORS[self.how](text, "simulated", model)


@attrs.frozen
class ModelSlow(_AtModel):
    """A model call takes that many seconds more."""

    seconds: float = attrs.field(default=30.0, validator=_seconds)
    agent: str | None = None

    @property
    def subject(self) -> str | None:
        return self.agent


@attrs.frozen
class ModelAnswers(_AtModel):
    """A model call is answered with this: text, empty by default, or a whole message, with malformed tool calls say."""

    answer: str | dict[str, Any] = ""
    agent: str | None = None

    @property
    def subject(self) -> str | None:
        return self.agent


@attrs.frozen
class _AtTool:
    """At the n-th call of a tool, or of all tools."""

    tool: str | None = None
    call: int = attrs.field(default=1, validator=_natural)
    count: int = attrs.field(default=1, validator=_natural, kw_only=True)
    point: ClassVar[str] = "tool"

    @property
    def subject(self) -> str | None:
        return self.tool

    @property
    def occasion(self) -> int:
        return self.call


@attrs.frozen
class ToolFails(_AtTool):
    """A tool raises an error."""

    error: str = "the simulation let this tool call fail"


@attrs.frozen
class ToolHangs(_AtTool):
    """A tool gives no answer; its timeout ends it, if it has one."""


@attrs.frozen
class ToolSlow(_AtTool):
    """A tool's answer takes that many seconds more."""

    seconds: float = attrs.field(default=30.0, validator=_seconds)


@attrs.frozen
class ClockStep:
    """At a virtual time the clock steps forward all at once, as when the machine slept: timers are late."""

    at: float = attrs.field(validator=_seconds)
    seconds: float = attrs.field(validator=_seconds)
    point: ClassVar[str] = "clock"
    subject: ClassVar[None] = None
    occasion: ClassVar[int] = 1
    count: ClassVar[int] = 1


class FaultPlan:
    """The faults of one run and how often the occasion of each has come.

    Raises:
        SpecError: something in the list is not a fault.
    """

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.faults = tuple(faults)
        self.happened: list[Fault] = []
        self._by_point: dict[str, list[int]] = {}
        self._seen = [0] * len(self.faults)
        for number, fault in enumerate(self.faults):
            point = getattr(fault, "point", None)
            if not isinstance(point, str) or not isinstance(getattr(fault, "occasion", None), int):
                raise SpecError(
                    f"faults: {fault!r} is not a fault; give values such as Crash('editor', event=3), as "
                    "avm.testing.faults lists them."
                )
            self._by_point.setdefault(point, []).append(number)

    def has(self, point: str) -> bool:
        """Tell whether any fault is about a point."""
        return point in self._by_point

    def concerns(self, point: str, subject: str) -> bool:
        """Tell whether any fault is about a subject at a point; this is no occasion."""
        return any(matches(self.faults[n].subject, subject) for n in self._by_point.get(point, ()))

    def reach(self, point: str, subject: str) -> list[Fault]:
        """Count an occasion and return the faults that happen at it."""
        found = []
        for number in self._by_point.get(point, ()):
            fault = self.faults[number]
            if matches(fault.subject, subject):
                self._seen[number] += 1
                if 0 <= self._seen[number] - fault.occasion < fault.count:
                    found.append(fault)
        self.happened += found
        return found

    def of(self, point: str) -> list[Fault]:
        """Return the faults of a point."""
        return [self.faults[number] for number in self._by_point.get(point, ())]


def matches(pattern: str | None, subject: str) -> bool:
    """Tell whether a pattern means a subject: all of its path, its end, or by * any part."""
    if pattern is None or pattern == subject or subject.endswith(f"/{pattern}"):
        return True
    return "*" in pattern and (fnmatchcase(subject, pattern) or fnmatchcase(subject, f"*/{pattern}"))
