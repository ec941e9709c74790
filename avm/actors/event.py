"""Events: what actors send each other. Frozen, typed, and registered under a tag in a closed registry.

`@event` makes a class an event. `Request[Reply]` as its base ties the type of the reply to it, so that `ask` is typed.
Before an event leaves its sender it is *sealed* (S4): if every value in it is deeply immutable it travels by reference,
else a private copy is made; what cannot be copied is an error at the sender that names the path to it.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, Generic, TypeVar, dataclass_transform, overload

import attrs

from avm.errors import EventError, PackError

R = TypeVar("R")
C = TypeVar("C")

INLINE_LIMIT = 4096
"""Bytes (or characters) of a str or bytes value above which its body goes to the store and travels by digest."""

MAX_DEPTH = 64
"""How deep values in an event may nest."""

ATOMS: set[type] = {
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    decimal.Decimal,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    datetime.timezone,
    uuid.UUID,
    type(Ellipsis),
}
"""Types whose values can be shared as they are. Other modules of the kernel add theirs (Ref, Pid, Digest)."""


class EventRegistry:
    """The closed list of event classes: tag to class and back. Only `@event` adds to it."""

    def __init__(self) -> None:
        self._classes: dict[str, type] = {}

    def add(self, tag: str, cls: type) -> None:
        """Register a class. A tag belongs to one place in the source; the newest definition there wins."""
        old = self._classes.get(tag)
        if old is not None and (old.__module__, old.__qualname__) != (cls.__module__, cls.__qualname__):
            raise EventError(
                f"event tag {tag!r} of {cls.__module__}.{cls.__qualname__} belongs to "
                f"{old.__module__}.{old.__qualname__} already; give one of them another tag with @event(tag=...)."
            )
        self._classes[tag] = cls

    def class_of(self, tag: str) -> type | None:
        """Return the class registered under a tag, or None."""
        return self._classes.get(tag)

    def tag_of(self, cls: type) -> str | None:
        """Return the tag of an event class, or None for any other class."""
        tag = cls.__dict__.get("__avm_tag__")
        return tag if isinstance(tag, str) else None

    def __contains__(self, tag: object) -> bool:
        return tag in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


EVENTS = EventRegistry()
"""The registry all events of this process are in."""


class Request(Generic[R]):
    """Base of events that have an answer: `class Draft(Request[Review])` makes `ask(ref, Draft(...))` give a Review."""

    __slots__ = ()


# The readers of the fields of an event class.
Readers = tuple[Callable[[Any], Any], ...]


@overload
def event(maybe_class: type[C], /) -> type[C]: ...
@overload
def event(*, tag: str | None = None) -> Callable[[type[C]], type[C]]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def event(maybe_class: type[C] | None = None, /, *, tag: str | None = None) -> Any:
    """Make a class an event: a frozen, slotted attrs class with a tag in the registry.

    Args:
        tag: the name on the wire; default is "module.Qualname". Tags are unique.

    Raises:
        EventError: the tag is taken by a class from elsewhere in the source.
    """

    def make(cls: type[C]) -> type[C]:
        made: Any = attrs.frozen(slots=True)(cls)
        name = tag if tag is not None else f"{made.__module__}.{made.__qualname__}"
        fields = attrs.fields(made)
        made.__avm_tag__ = name
        made.__avm_readers__ = tuple(attrgetter(f.name) for f in fields)
        made.__avm_plain__ = _plain_check([f.name for f in fields])
        _unmark_subclasses(made)
        EVENTS.add(name, made)
        result: type[C] = made
        return result

    return make if maybe_class is None else make(maybe_class)


# A class that derives from an event without @event is none: it may change and hold anything. What is inherited is taken
# from it, so that the quick way of a send does not take it for one.
def _unmark_subclasses(made: Any) -> None:
    own = made.__dict__.get("__init_subclass__")

    def __init_subclass__(cls: Any, /, **kwargs: Any) -> None:
        if own is None:
            super(made, cls).__init_subclass__(**kwargs)
        else:
            own.__get__(None, cls)(**kwargs)
        cls.__avm_plain__ = None

    made.__init_subclass__ = classmethod(__init_subclass__)


# Every send asks it, so it is written out for each class, as attrs writes out __init__.
def _plain_check(names: list[str]) -> Callable[[Any], bool]:
    lines = [
        "def __avm_plain__(self):",
        '    """Tell whether it holds only small values that can be shared as they are."""',
    ]
    for name in names:
        lines += [
            f"    kind = self.{name}.__class__",
            "    if kind is STR or kind is BYTES:",
            f"        if len(self.{name}) > {INLINE_LIMIT}:",
            "            return False",
            "    elif kind not in ATOMS:",
            "        return False",
        ]
    scope: dict[str, Any] = {"STR": str, "BYTES": bytes, "ATOMS": ATOMS}
    exec("\n".join([*lines, "    return True"]), scope)
    check: Callable[[Any], bool] = scope["__avm_plain__"]
    return check


def is_event(value: object) -> bool:
    """Tell whether a value is an instance of a class made by `@event`."""
    return "__avm_tag__" in type(value).__dict__


Body = str | bytes
Put = Callable[[Body], tuple[object, Body]]
"""Gives a large body to the store: returns a handle that keeps it, and the one object all holders share."""


Handles = tuple[object, ...] | list[object]
"""What keeps the large bodies of an event on its way."""


def seal(value: object, put: Put | None = None) -> tuple[object, Handles | None]:
    """Make a value safe to hand to another actor.

    Args:
        value: an event, or a reply (any value that an event may hold).
        put: called for every str or bytes over `INLINE_LIMIT`; without it bodies stay where they are.

    Returns:
        The value itself if it is deeply immutable and holds no large body that the store knows as another object;
        else a copy. And the handles of large bodies, to be kept as long as the value is on its way; None if none.

    Raises:
        PackError: something in it cannot be copied; `where` is the path, as in "Draft.items[3]".
    """
    sealer = _Sealer(put)
    sealed = sealer.seal(value, 0, ())
    return sealed, sealer.handles or None


class _Sealer:
    """One walk over a value."""

    __slots__ = ("handles", "put")

    def __init__(self, put: Put | None) -> None:
        self.put = put
        self.handles: list[object] = []

    def seal(self, value: Any, depth: int, where: tuple[str, ...]) -> Any:
        kind = type(value)
        if kind is str or kind is bytes:
            if self.put is not None and len(value) > INLINE_LIMIT:
                handle, value = self.put(value)
                self.handles.append(handle)
            return value
        if kind in ATOMS:
            return value
        if depth > MAX_DEPTH:
            raise PackError(
                f"{''.join(where)} nests deeper than {MAX_DEPTH} values; flatten it.", "".join(where)
            )
        if "__avm_tag__" in kind.__dict__:
            return self._seal_attrs(value, depth, where)
        if kind is tuple or kind is frozenset:
            return self._seal_tuple(value, kind, depth, where)
        if kind is list or kind is set:
            return kind(self.seal(v, depth + 1, (*where, f"[{n}]")) for n, v in enumerate(value))
        if kind is dict:
            return {
                self.seal(k, depth + 1, (*where, f"[key {k!r}]")): self.seal(
                    v, depth + 1, (*where, f"[{k!r}]")
                )
                for k, v in value.items()
            }
        if kind is bytearray:
            return bytearray(value)
        if isinstance(value, (enum.Enum, BaseException)):
            return value
        if attrs.has(kind) and kind.__setattr__ is not object.__setattr__:
            return self._seal_attrs(value, depth, where)
        path = "".join(where) or kind.__qualname__
        raise PackError(
            f"{path} holds a {kind.__module__}.{kind.__qualname__}, which cannot leave its sender; "
            "events hold numbers, text, bytes, None, dates, enums, refs, pids, digests, other events, frozen attrs "
            "values, and lists, tuples, sets and dicts of these.",
            path,
        )

    # A copy is made only when something inside had to be copied or shared.
    def _seal_attrs(self, value: Any, depth: int, where: tuple[str, ...]) -> Any:
        changed: dict[str, object] = {}
        base = where or (type(value).__qualname__,)
        for field in attrs.fields(type(value)):
            old = getattr(value, field.name)
            new = self.seal(old, depth + 1, (*base, f".{field.name}"))
            if new is not old:
                changed[field.name] = new
        if not changed:
            return value
        copy = object.__new__(type(value))
        for field in attrs.fields(type(value)):
            object.__setattr__(copy, field.name, changed.get(field.name, getattr(value, field.name)))
        return copy

    def _seal_tuple(self, value: Any, kind: type, depth: int, where: tuple[str, ...]) -> Any:
        new = [self.seal(v, depth + 1, (*where, f"[{n}]")) for n, v in enumerate(value)]
        return value if all(a is b for a, b in zip(new, value, strict=True)) else kind(new)


def seal_event(event: Any, put: Put | None) -> tuple[Any, Handles | None]:
    """Seal an event that is not plain; the same as `seal`, quicker when all its fields are text, bytes or atoms.

    Then, and only then, the handles are a tuple: such an event may be handed on as it is.
    """
    handles: list[object] | None = None
    for read in event.__avm_readers__:
        value = read(event)
        kind = value.__class__
        if kind is str or kind is bytes:
            if put is not None and len(value) > INLINE_LIMIT:
                handle, shared = put(value)
                if shared is not value:
                    return seal(event, put)
                if handles is None:
                    handles = [handle]
                else:
                    handles.append(handle)
        elif kind not in ATOMS:
            return seal(event, put)
    return event, None if handles is None else tuple(handles)
