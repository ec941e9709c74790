"""Behaviour: what is the same for all actors of one class, read off the class once, when it is defined.

So a class knows its events: two handlers for one event fail at import, and an event without a handler is refused with
the list of those that have one.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from avm.actors.limits import OVERFLOWS
from avm.errors import HandlerError, SpecError
from avm.scheduler import PRIORITIES

if TYPE_CHECKING:
    from avm.actors.actor import Actor

Handler = Callable[[Any, Any], Any]
F = TypeVar("F", bound=Callable[..., Any])


def on(*event_types: type) -> Callable[[F], F]:
    """Mark a method as the handler of one or more event types. Its return value is the reply.

    Raises:
        HandlerError: no type was given, or something that is not a type.
    """
    if not event_types or not all(isinstance(t, type) for t in event_types):
        raise HandlerError(f"@on takes the event types to handle, as in @on(Draft); got {event_types!r}.")

    def mark(handler: F) -> F:
        handler.__avm_on__ = event_types  # type: ignore[attr-defined]
        return handler

    return mark


def optional(callback: F) -> F:
    """Mark a callback of `Actor` that is not worth a call unless a class has its own."""
    callback.__avm_optional__ = callback  # type: ignore[attr-defined]
    return callback


def is_own(callback: Callable[..., Any]) -> bool:
    """Tell whether a callback is the class's own, not the default of `Actor`."""
    return getattr(callback, "__avm_optional__", None) is not callback


class Behaviour:
    """The handlers and defaults of a class. Read only, but that the table learns which base class takes an event.

    Args:
        cls: whose callbacks and class attributes count.
        table: the handler of each event type.

    Raises:
        SpecError: a class attribute has a value that cannot be.
    """

    __slots__ = (
        "_variants",
        "cls",
        "direct",
        "has_starting",
        "has_stopping",
        "has_unhandled",
        "hibernate_after",
        "limit",
        "max_bytes",
        "max_mailbox",
        "over_bytes",
        "overflow",
        "priority",
        "slow",
        "table",
        "urgent",
    )

    def __init__(self, cls: type[Actor], table: dict[type, Handler]) -> None:
        self.cls = cls
        self.table = table
        # Handlers that are plain functions: they cannot suspend, so an idle actor can run them anywhere.
        self.direct = {t: f for t, f in table.items() if inspect.isfunction(f) and not _may_suspend(f)}
        self.priority: str = cls.priority
        self.max_mailbox: int | None = cls.max_mailbox
        self.overflow: str = cls.overflow
        self.urgent: bool = cls.urgent
        self.max_bytes: int | None = cls.max_bytes
        self.over_bytes: str = cls.over_bytes
        self.hibernate_after: float | None = cls.hibernate_after
        self.has_starting = is_own(cls.starting)
        self.has_stopping = is_own(cls.stopping)
        self.has_unhandled = is_own(cls.unhandled)
        self._variants: dict[tuple[str | None, int | None], Behaviour] = {}
        self._settle()

    @classmethod
    def of(cls, actor_class: type[Actor]) -> Behaviour:
        """Collect the handlers of a class.

        Raises:
            HandlerError: two handlers for one event, or one that cannot be called with an event.
            SpecError: a class attribute has a value that cannot be.
        """
        names = _handlers(actor_class)
        return cls(actor_class, {kind: getattr(actor_class, name) for kind, name in names.items()})

    def find(self, event_type: type) -> Handler | None:
        """Find the handler of an event type through its base classes, and remember it."""
        for base in event_type.__mro__[1:]:
            handler = self.table.get(base)
            if handler is not None:
                self.table[event_type] = handler
                return handler
        return None

    def varied(self, priority: str | None, max_mailbox: int | None) -> Behaviour:
        """Return the same with another priority or mailbox limit; None leaves it.

        Raises:
            SpecError: no such priority, or a limit below 1.
        """
        found = self._variants.get((priority, max_mailbox))
        if found is None:
            found = self._vary(priority, max_mailbox)
            self._variants[priority, max_mailbox] = found
        return found

    def _vary(self, priority: str | None, max_mailbox: int | None) -> Behaviour:
        copy: Behaviour = object.__new__(Behaviour)
        for slot in Behaviour.__slots__:
            setattr(copy, slot, getattr(self, slot))
        if priority is not None:
            copy.priority = priority
        if max_mailbox is not None:
            copy.max_mailbox = max_mailbox
        copy._variants = {}
        copy._settle()
        return copy

    # What follows from the rest.
    def _settle(self) -> None:
        self._check()
        # Is there anything to look at when an event comes to an actor at rest?
        self.slow = any(x is not None for x in (self.max_mailbox, self.max_bytes, self.hibernate_after))
        # At which length of the mailbox a new event is looked at.
        self.limit = self.max_mailbox if self.max_bytes is None else self.max_mailbox or sys.maxsize

    def _check(self) -> None:
        name = self.cls.__qualname__
        if self.priority not in PRIORITIES:
            raise SpecError(
                f"{name}: priority must be one of {', '.join(PRIORITIES)}, got {self.priority!r}."
            )
        if self.overflow not in OVERFLOWS:
            raise SpecError(f"{name}: overflow must be one of {', '.join(OVERFLOWS)}, got {self.overflow!r}.")
        if self.over_bytes not in ("kill", "report"):
            raise SpecError(f"{name}: over_bytes must be 'kill' or 'report', got {self.over_bytes!r}.")
        for what, limit in (("max_mailbox", self.max_mailbox), ("max_bytes", self.max_bytes)):
            if limit is not None and (type(limit) is not int or limit < 1):
                raise SpecError(
                    f"{name}: {what} must be a whole number of 1 or more, or None, got {limit!r}."
                )


def _may_suspend(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function)


# Event type to method name, base classes first, so that a subclass may take over an event.
def _handlers(cls: type) -> dict[type, str]:
    found: dict[type, str] = {}
    for base in reversed(cls.__mro__):
        own: dict[type, str] = {}
        for name, value in vars(base).items():
            for event_type in getattr(value, "__avm_on__", ()):
                if event_type in own:
                    raise HandlerError(
                        f"{cls.__qualname__} has two handlers for {event_type.__name__}: {own[event_type]} and {name}. "
                        "Keep one of them."
                    )
                own[event_type] = name
                _check_handler(cls, name, value)
        found.update(own)
    return found


def _check_handler(cls: type, name: str, handler: Callable[..., Any]) -> None:
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError:
        raise HandlerError(
            f"{cls.__qualname__}.{name} must take self and the event, and nothing else that has no default."
        ) from None
