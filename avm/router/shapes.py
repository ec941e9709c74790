"""Shapes: how values of one annotation are written and checked. One object for each field, made once for each class.

`pack` turns a value into wire form and fails if the value is not what the annotation says. `check` turns wire
form back. It makes only values of built-in types at once; where a class of the user would be made, or a set
that holds one, it returns a `Later`, and `finish` makes these when the whole event has been found right.

Places within an event are written `Draft.items[3]`; a `Where` is such a place as a chain, put together only
for an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from avm.actors.event import INLINE_LIMIT
from avm.errors import DecodeError, PackError
from avm.router.wire import Ext, ExtType, name_of, unpack

if TYPE_CHECKING:
    from avm.router.codec import Codec

Where = tuple[Any, str]

TEXTS = (str, bytes)


def render(where: Where | None) -> str:
    """Write a place as text."""
    parts: list[str] = []
    while where is not None:
        where, part = where
        parts.append(part)
    return "".join(reversed(parts))


class Later:
    """A value that is made when the whole event has been checked."""

    __slots__ = ("items", "make", "where")

    def __init__(self, make: Callable[[list[Any]], Any], items: list[Any], where: Where) -> None:
        self.make = make
        self.items = items
        self.where = where


def finish(checked: Any) -> Any:
    """Make what `check` left to be made.

    Raises:
        DecodeError: a class refused its fields, by a validator of its own.
    """
    if type(checked) is not Later:
        return checked
    items = [finish(item) if type(item) is Later else item for item in checked.items]
    try:
        return checked.make(items)
    except Exception as error:
        place = render(checked.where)
        raise DecodeError(
            f"{place} was refused by its class: {type(error).__name__}: {error}", place
        ) from error


def gather(make: Callable[[list[Any]], Any], items: list[Any], where: Where) -> Any:
    """Make a container of checked items, now if all of them are there."""
    for item in items:
        if type(item) is Later:
            return Later(make, items, where)
    try:
        return make(items)
    except (TypeError, ValueError, OverflowError) as error:
        raise_unlike(f"items that fit together ({error})", items, where, error)


def raise_unlike(expected: str, found: object, where: Where, cause: BaseException | None = None) -> NoReturn:
    """Fail because the wire holds something else than it should."""
    place = render(where)
    raise DecodeError(f"{place}: expected {expected}, found {name_of(found)}.", place) from cause


def refuse(expected: str, value: object, where: Where) -> NoReturn:
    """Fail because a value is not what the annotation of its field says."""
    place = render(where)
    kind = type(value)
    raise PackError(
        f"{place} is declared as {expected} and holds a {kind.__module__}.{kind.__qualname__}; "
        "an event that crosses a boundary must hold what its annotations say.",
        place,
    )


class Shape(Protocol):
    """What is known of one annotation."""

    text: str
    """The annotation, for errors."""

    kinds: frozenset[type]
    """Types whose values have the same wire form, and need no more than a look at their type (and length, if text)."""

    wires: frozenset[object] | None
    """What the wire form can be: types, and numbers of ext types; None for anything."""

    def takes(self, value: object) -> bool:
        """Tell at a glance whether a value can be of this shape; for unions."""

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        """Return the wire form; handles of bodies that went to the store are appended to `bodies`."""

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        """Return the value, or a `Later`."""


def wire_kind(wire: object) -> object:
    """Return what a union tells its members apart by."""
    return wire.code if isinstance(wire, ExtType) else type(wire)


_SPELLED: dict[type, tuple[type, ...]] = {int: (int, bool), float: (float, int, bool)}
_EXTRA_WIRES: dict[type, tuple[object, ...]] = {
    int: (bool, Ext.INT.value),
    float: (int, bool, Ext.INT.value),
    str: (Ext.TEXT.value,),
    bytes: (Ext.BYTES.value,),
}


class Plain:
    """None, bool, int, float, str or bytes. As in Python's typing, a float may be an int, and an int a bool."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.text = "None" if kind is type(None) else kind.__name__
        self.kinds: frozenset[type] = frozenset(_SPELLED.get(kind, (kind,)))
        self.wires: frozenset[object] | None = frozenset((kind, *_EXTRA_WIRES.get(kind, ())))

    def takes(self, value: object) -> bool:
        return type(value) in self.kinds

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        if type(value) in self.kinds:
            return codec.keep(value, bodies) if type(value) in TEXTS and len(value) > INLINE_LIMIT else value
        # A member of an enum may stand for the text or number it is.
        if (
            isinstance(value, tuple(self.kinds))
            and hasattr(value, "value")
            and type(value.value) in self.kinds
        ):
            return value.value
        refuse(self.text, value, where)

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        if type(wire) in self.kinds:
            return wire
        if isinstance(wire, ExtType) and self.wires is not None and wire.code in self.wires:
            return large_int(wire, where) if wire.code == Ext.INT else codec.read_body(wire, where)
        raise_unlike(self.text, wire, where)


def large_int(wire: ExtType, where: Where) -> int:
    """Read an int that msgpack's 64 bits do not hold."""
    if len(wire.data) <= 8:
        raise_unlike("an int of more than 8 bytes", wire, where)
    return int.from_bytes(wire.data, "big", signed=True)


class ListOf:
    """list[T]; also what is read for Sequence and Iterable when a list was sent."""

    def __init__(self, item: Shape) -> None:
        self.item = item
        self.text = f"list[{item.text}]"
        self.kinds: frozenset[type] = frozenset()
        self.wires: frozenset[object] | None = frozenset((list,))

    def takes(self, value: object) -> bool:
        return type(value) is list

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        if type(value) is not list:
            refuse(self.text, value, where)
        return pack_items(self.item, value, codec, bodies, depth, where)

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        return gather(same, check_items(self.item, wire, codec, depth, where), where)


class GroupOf:
    """tuple[T, ...], set[T] or frozenset[T]; an array on the wire."""

    def __init__(self, kind: type, item: Shape) -> None:
        self.kind = kind
        self.item = item
        self.text = f"{kind.__name__}[{item.text}{', ...' if kind is tuple else ''}]"
        self.kinds: frozenset[type] = frozenset()
        self.wires: frozenset[object] | None = frozenset((list,))

    def takes(self, value: object) -> bool:
        return type(value) is self.kind

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        if type(value) is not self.kind:
            refuse(self.text, value, where)
        return pack_items(self.item, value, codec, bodies, depth, where)

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        return gather(self.kind, check_items(self.item, wire, codec, depth, where), where)


class Row:
    """tuple[A, B, C]: each place has its own shape."""

    def __init__(self, items: tuple[Shape, ...]) -> None:
        self.items = items
        self.text = f"tuple[{', '.join(i.text for i in items) or '()'}]"
        self.kinds: frozenset[type] = frozenset()
        self.wires: frozenset[object] | None = frozenset((list,))

    def takes(self, value: object) -> bool:
        return type(value) is tuple and len(value) == len(self.items)

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        if not self.takes(value):
            refuse(self.text, value, where)
        codec.descend(depth, where, PackError)
        return [
            shape.pack(v, codec, bodies, depth + 1, (where, f"[{n}]"))
            for n, (shape, v) in enumerate(zip(self.items, value, strict=True))
        ]

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        if type(wire) is not list or len(wire) != len(self.items):
            raise_unlike(f"an array of {len(self.items)}", wire, where)
        codec.descend(depth, where, DecodeError)
        pairs = enumerate(zip(self.items, wire, strict=True))
        return gather(tuple, [s.check(w, codec, depth + 1, (where, f"[{n}]")) for n, (s, w) in pairs], where)


class MapOf:
    """dict[str, T] or dict[bytes, T]: a map on the wire."""

    def __init__(self, key: type, value: Shape) -> None:
        self.key = key
        self.value = value
        self.text = f"dict[{key.__name__}, {value.text}]"
        self.kinds: frozenset[type] = frozenset()
        self.wires: frozenset[object] | None = frozenset((dict,))

    def takes(self, value: object) -> bool:
        return type(value) is dict

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        if type(value) is not dict:
            refuse(self.text, value, where)
        codec.descend(depth, where, PackError)
        packed = {}
        for key, item in value.items():
            if type(key) is not self.key:
                refuse(self.key.__name__, key, (where, f"[key {key!r}]"))
            packed[key] = self.value.pack(item, codec, bodies, depth + 1, (where, f"[{key!r}]"))
        return packed

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        if type(wire) is not dict:
            raise_unlike(self.text, wire, where)
        codec.descend(depth, where, DecodeError)
        for key in wire:
            if type(key) is not self.key:
                raise_unlike(f"keys that are {self.key.__name__}", key, where)
        items = [self.value.check(w, codec, depth + 1, (where, f"[{k!r}]")) for k, w in wire.items()]
        keys = list(wire)
        return gather(lambda made: dict(zip(keys, made, strict=True)), items, where)


class PairsOf:
    """dict[K, T] with other keys: an array of pairs on the wire."""

    def __init__(self, key: Shape, value: Shape) -> None:
        self.pair = Row((key, value))
        self.text = f"dict[{key.text}, {value.text}]"
        self.kinds: frozenset[type] = frozenset()
        self.wires: frozenset[object] | None = frozenset((list,))

    def takes(self, value: object) -> bool:
        return type(value) is dict

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        if type(value) is not dict:
            refuse(self.text, value, where)
        return pack_items(self.pair, value.items(), codec, bodies, depth, where)

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        return gather(dict, check_items(self.pair, wire, codec, depth, where), where)


def same(items: list[Any]) -> list[Any]:
    """Make a list of checked items: they are one."""
    return items


def pack_items(
    item: Shape, values: Any, codec: Codec, bodies: list[object], depth: int, where: Where
) -> list[Any]:
    """Pack the items of a container."""
    codec.descend(depth, where, PackError)
    kinds = item.kinds
    packed = []
    for n, value in enumerate(values):
        kind = type(value)
        if kind not in kinds or (kind in TEXTS and len(value) > INLINE_LIMIT):
            value = item.pack(value, codec, bodies, depth + 1, (where, f"[{n}]"))
        packed.append(value)
    return packed


def check_items(item: Shape, wire: Any, codec: Codec, depth: int, where: Where) -> list[Any]:
    """Check the items of an array."""
    if type(wire) is not list:
        raise_unlike("an array", wire, where)
    codec.descend(depth, where, DecodeError)
    kinds = item.kinds
    return [
        w if type(w) in kinds else item.check(w, codec, depth + 1, (where, f"[{n}]"))
        for n, w in enumerate(wire)
    ]


def unpack_row(wire: ExtType, size: int, where: Where) -> list[Any]:
    """Read the array of `size` values that an ext value is."""
    row = unpack(wire.data, render(where))
    if type(row) is not list or len(row) != size:
        raise_unlike(f"an array of {size} in {name_of(wire)}", row, where)
    return row
