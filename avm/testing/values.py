"""Values of a type, as the fields of events are annotated: the part of the strategies that reads annotations."""

from __future__ import annotations

import datetime
import decimal
import enum
import types
import typing
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

import attrs
from hypothesis import strategies as st

from avm.errors import SpecError
from avm.memory import Digest


class UnknownType(SpecError):
    """No values are known for a type; give a strategy for it, as `refs=` or `pids=`."""


Given = Mapping[Any, st.SearchStrategy[Any]]

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
"""What may stand in a field that says nothing of its type."""

PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    type(None): st.none(),
    None: st.none(),
    bool: st.booleans(),
    int: st.one_of(st.integers(-1000, 1000), st.integers(-(2**70), 2**70)),
    # Not NaN, which is not equal to itself: no law about what arrived could hold.
    float: st.floats(allow_nan=False),
    complex: st.complex_numbers(allow_nan=False),
    str: st.one_of(st.text(max_size=40), st.integers(4090, 4110).map("x".__mul__)),
    bytes: st.one_of(st.binary(max_size=40), st.integers(4090, 4110).map(b"x".__mul__)),
    bytearray: st.binary(max_size=40).map(bytearray),
    decimal.Decimal: st.decimals(allow_nan=False),
    datetime.datetime: st.datetimes(timezones=st.sampled_from((None, datetime.UTC))),
    datetime.date: st.dates(),
    datetime.time: st.times(),
    datetime.timedelta: st.timedeltas(),
    uuid.UUID: st.uuids(),
    Digest: st.binary(min_size=32, max_size=32).map(Digest),
    Any: ANYTHING,
    object: ANYTHING,
}

_COLLECTIONS: dict[Any, Callable[..., st.SearchStrategy[Any]]] = {
    list: st.lists,
    Sequence: st.lists,
    Iterable: st.lists,
    Collection: st.lists,
    set: st.sets,
    frozenset: st.frozensets,
}


def values_of(kind: Any, given: Given | None = None) -> st.SearchStrategy[Any]:
    """Return values of an annotation, or instances of an attrs class such as an event.

    Args:
        given: strategies for types that have none here, or another one; such as Ref and Pid.

    Raises:
        UnknownType: it is, or has inside, a type that no values are known for; says where.
    """
    return _Reader(given or {}).read(kind, getattr(kind, "__name__", str(kind)))


class _Reader:
    """Reads annotations; a class that holds itself is read once."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._classes: dict[type, st.SearchStrategy[Any]] = {}

    def read(self, kind: Any, where: str) -> st.SearchStrategy[Any]:
        for known in (self._given, PLAIN):
            try:
                if kind in known:
                    return known[kind]
            except TypeError:
                pass
        origin = get_origin(kind)
        if origin is not None:
            return self._generic(kind, origin, get_args(kind), where)
        if isinstance(kind, type):
            if issubclass(kind, enum.Enum):
                return st.sampled_from(kind)
            if issubclass(kind, BaseException):
                return st.builds(kind, st.text(max_size=20))
            if attrs.has(kind):
                return self._instances(kind, where)
            bare = {list: ANYTHING, tuple: ANYTHING, set: PLAIN[int], frozenset: PLAIN[int], dict: ANYTHING}
            if kind in bare:
                return self._bare(kind, bare[kind])
        if isinstance(kind, typing.TypeVar):
            return ANYTHING
        raise UnknownType(
            f"{where} is a {getattr(kind, '__name__', kind)}, which no values are known for; give a strategy for it: "
            "events(..., refs=, pids=) or values_of(kind, {type: strategy})."
        )

    def _bare(self, kind: type, items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        if kind is dict:
            return st.dictionaries(st.text(max_size=5), items, max_size=3)
        return st.lists(items, max_size=3).map(kind)

    def _generic(self, kind: Any, origin: Any, args: tuple[Any, ...], where: str) -> st.SearchStrategy[Any]:
        if origin in (typing.Union, types.UnionType):
            return st.one_of([self.read(arg, where) for arg in args])
        if origin is typing.Literal:
            return st.sampled_from(args)
        if origin is typing.Annotated:
            return self.read(args[0], where)
        if origin is tuple:
            if len(args) == 2 and args[1] is Ellipsis:
                return st.lists(self.read(args[0], f"{where}[0]"), max_size=3).map(tuple)
            return st.tuples(*(self.read(arg, f"{where}[{n}]") for n, arg in enumerate(args) if arg != ()))
        if origin in _COLLECTIONS:
            return _COLLECTIONS[origin](self.read(args[0], f"{where}[0]"), max_size=3)
        if origin in (dict, Mapping):
            return st.dictionaries(
                self.read(args[0], f"{where}[key]"), self.read(args[1], f"{where}[...]"), max_size=3
            )
        return self.read(origin, where)

    def _instances(self, cls: type, where: str) -> st.SearchStrategy[Any]:
        found = self._classes.get(cls)
        if found is not None:
            return found
        made: list[st.SearchStrategy[Any]] = []
        self._classes[cls] = st.deferred(lambda: made[0])
        try:
            hints = typing.get_type_hints(cls, include_extras=True)
        except NameError as error:
            raise UnknownType(
                f"an annotation of {cls.__qualname__} names something unknown: {error}."
            ) from error
        fields: dict[str, st.SearchStrategy[Any]] = {}
        for field in attrs.fields(cls):
            if field.init:
                name = field.alias or field.name
                fields[name] = self.read(hints.get(field.name, Any), f"{cls.__name__}.{field.name}")
        made.append(st.builds(cls, **fields))
        return made[0]


__all__ = ["UnknownType", "values_of"]
