"""Plans: the fields of one class, from its annotations to shapes, worked out once and kept by the codec."""

from __future__ import annotations

import sys
import types
import typing
from collections import abc
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from operator import attrgetter
from typing import Any
from uuid import UUID

import attrs

from avm.actors.ref import Pid, Ref
from avm.memory.digest import Digest
from avm.router.atoms import Atom, EnumOf, ErrorOf, LiteralOf, UnionOf
from avm.router.open import Open
from avm.router.records import EventOf, Record
from avm.router.shapes import GroupOf, ListOf, MapOf, PairsOf, Plain, Row, Shape

_PLAIN = (type(None), bool, int, float, str, bytes)
_ATOMS = (
    Decimal,
    datetime,
    date,
    time,
    timedelta,
    timezone,
    UUID,
    complex,
    type(...),
    bytearray,
    Digest,
    Pid,
    Ref,
)
_GROUPS: dict[object, type] = {
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    abc.MutableSet: set,
}
_SEQUENCES = (abc.Sequence, abc.Iterable, abc.Collection, abc.MutableSequence)
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)


class Plan:
    """What the codec does with the instances of one class.

    Attributes:
        cls, name: the class and its short name.
        names, shapes, kinds: of its fields in order; `kinds` as in `Shape`.
        read: returns the values of all fields.
        make: makes an instance of the values, through the constructor where it takes them all.
    """

    __slots__ = ("cls", "kinds", "make", "name", "names", "read", "shapes")

    def __init__(self, cls: type) -> None:
        fields = attrs.fields(cls)
        hints = _hints(cls)
        self.cls = cls
        self.name = cls.__qualname__.rpartition(".")[2]
        self.names = tuple(f.name for f in fields)
        self.shapes = tuple(
            shape_of(hints.get(f.name, f.type if f.type is not None else Any)) for f in fields
        )
        self.kinds = tuple(shape.kinds for shape in self.shapes)
        self.read = _reader(self.names)
        self.make = _maker(cls, fields)


def _reader(names: tuple[str, ...]) -> Callable[[Any], Sequence[Any]]:
    if not names:
        return lambda value: ()
    if len(names) == 1:
        read = attrgetter(names[0])
        return lambda value: (read(value),)
    return attrgetter(*names)


def _maker(cls: type, fields: tuple[Any, ...]) -> Callable[[Sequence[Any]], Any]:
    if any(not f.init for f in fields):
        setters = [f.name for f in fields]

        def fill(values: Sequence[Any]) -> Any:
            made: Any = object.__new__(cls)
            for name, value in zip(setters, values, strict=True):
                object.__setattr__(made, name, value)
            return made

        return fill
    if any(f.kw_only for f in fields):
        keywords = [f.alias for f in fields]
        return lambda values: cls(**dict(zip(keywords, values, strict=True)))
    return lambda values: cls(*values)


# Names that a module imports for type checkers only cannot be resolved there; those that events use are known
# here.
_KNOWN: dict[str, Any] = {
    c.__name__: c for c in (Pid, Ref, Digest, Decimal, datetime, date, time, timedelta, UUID)
}


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, localns=_KNOWN)
    except Exception:
        return _hints_one_by_one(cls)


# An annotation that cannot be resolved (a class local to a function) leaves its field open.
def _hints_one_by_one(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        module = vars(sys.modules.get(base.__module__, types))
        for name, annotation in vars(base).get("__annotations__", {}).items():
            holder = type("Field", (), {"__annotations__": {name: annotation}})
            try:
                found[name] = typing.get_type_hints(holder, globalns=dict(module), localns=_KNOWN)[name]
            except Exception:
                found[name] = Any
    return found


def shape_of(annotation: Any) -> Shape:
    """Return the shape of an annotation; what says nothing about its values (Any, object, a type variable) is open."""
    if annotation is None:
        return Plain(type(None))
    if isinstance(annotation, typing.NewType):
        return shape_of(annotation.__supertype__)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated or origin in (typing.ClassVar, typing.Final):
        return shape_of(args[0])
    if origin is typing.Literal:
        return LiteralOf(args)
    if origin is typing.Union or origin is types.UnionType:
        return _union([shape_of(a) for a in args])
    return _shape_of_class(annotation if origin is None else origin, args)


def _shape_of_class(cls: Any, args: tuple[Any, ...]) -> Shape:
    if cls in _PLAIN:
        return Plain(cls)
    if cls in _ATOMS:
        return Atom(cls)
    if cls is list:
        return ListOf(_argument(args, 0))
    if cls is tuple and args and args[-1] is not ...:
        return Row(() if args == ((),) else tuple(shape_of(a) for a in args))
    if cls in _GROUPS:
        return GroupOf(_GROUPS[cls], _argument(args, 0))
    if cls in _SEQUENCES:
        return UnionOf([ListOf(_argument(args, 0)), GroupOf(tuple, _argument(args, 0))])
    if cls is abc.Set:
        return UnionOf([GroupOf(kind, _argument(args, 0)) for kind in (frozenset, set)])
    if cls in _MAPPINGS:
        return _mapping(args)
    if typing.is_typeddict(cls):
        return MapOf(str, Open())
    if not isinstance(cls, type):
        return Open()
    if issubclass(cls, Enum):
        return EnumOf(cls)
    if issubclass(cls, BaseException):
        return ErrorOf(cls)
    if "__avm_tag__" in cls.__dict__:
        return EventOf(cls)
    return Record(cls) if attrs.has(cls) else Open()


def _argument(args: tuple[Any, ...], n: int) -> Shape:
    return shape_of(args[n]) if len(args) > n else Open()


def _mapping(args: tuple[Any, ...]) -> Shape:
    if not args:
        return PairsOf(Open(), Open())
    key = shape_of(args[0])
    if isinstance(key, Plain) and key.kind in (str, bytes):
        return MapOf(key.kind, _argument(args, 1))
    return PairsOf(key, _argument(args, 1))


def _union(members: list[Shape]) -> Shape:
    if any(isinstance(m, Open) for m in members):
        return Open()
    plain = {m.kind for m in members if isinstance(m, Plain)}
    hidden = {bool, int} if float in plain else {bool} if int in plain else set()
    kept = [m for m in members if not (isinstance(m, EventOf) or (isinstance(m, Plain) and m.kind in hidden))]
    events = [cls for m in members if isinstance(m, EventOf) for cls in m.classes]
    if events:
        kept.append(EventOf(*events))
    return kept[0] if len(kept) == 1 else UnionOf(kept)


__all__ = ["Plan", "shape_of"]
