"""Shapes of classes with fields: frozen attrs values, and events within events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from avm.errors import DecodeError, PackError
from avm.router.shapes import Later, Where, raise_unlike, refuse, render, unpack_row
from avm.router.wire import Ext, ExtType, pack

if TYPE_CHECKING:
    from avm.router.codec import Codec
    from avm.router.plan import Plan


class Record:
    """A frozen attrs class that is no event: an array of its fields. The class comes from the annotation alone."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.text = cls.__qualname__
        self.kinds: frozenset[type] = frozenset()
        self.wires: frozenset[object] | None = frozenset((list,))

    def takes(self, value: object) -> bool:
        return type(value) is self.cls

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        if type(value) is not self.cls:
            refuse(self.text, value, where)
        return pack_fields(codec.plan_of(self.cls), value, codec, bodies, depth, where)

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        return check_fields(codec.plan_of(self.cls), wire, codec, depth, where)


class EventOf:
    """An event of some classes or below: an ext value of tag and fields, so that the receiver knows which."""

    def __init__(self, *classes: type) -> None:
        self.classes = classes
        self.text = " | ".join(c.__qualname__ for c in classes)
        self.kinds: frozenset[type] = frozenset()
        self.wires: frozenset[object] | None = frozenset((Ext.EVENT.value,))

    def takes(self, value: object) -> bool:
        return isinstance(value, self.classes)

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        tag = codec.registry.tag_of(type(value))
        if tag is None or not isinstance(value, self.classes):
            refuse(self.text, value, where)
        fields = pack_fields(codec.plan_of(type(value)), value, codec, bodies, depth, where)
        return ExtType(Ext.EVENT, pack([tag, fields]))

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        if not isinstance(wire, ExtType) or wire.code != Ext.EVENT:
            raise_unlike(f"an event {self.text}", wire, where)
        codec.descend(depth, where, DecodeError)
        tag, fields = unpack_row(wire, 2, where)
        plan = codec.plan_of_tag(tag, where)
        if not issubclass(plan.cls, self.classes):
            place = render(where)
            raise DecodeError(
                f"{place}: expected an event {self.text}, found {plan.name} (tag {tag!r}).", place
            )
        return check_fields(plan, fields, codec, depth, where)


def pack_fields(
    plan: Plan, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where
) -> list[Any]:
    """Pack the fields of an instance of a plan's class."""
    codec.descend(depth, where, PackError)
    return [
        shape.pack(v, codec, bodies, depth + 1, (where, f".{name}"))
        for name, shape, v in zip(plan.names, plan.shapes, plan.read(value), strict=True)
    ]


def check_fields(plan: Plan, wire: Any, codec: Codec, depth: int, where: Where) -> Later:
    """Check the fields of an instance that is to be made."""
    codec.descend(depth, where, DecodeError)
    if type(wire) is not list or len(wire) != len(plan.names):
        expected = f"an array of {len(plan.names)} fields ({', '.join(plan.names) or 'none'}) for {plan.name}"
        raise_unlike(expected, wire, where)
    items = [
        w if type(w) in kinds else shape.check(w, codec, depth + 1, (where, f".{name}"))
        for name, kinds, shape, w in zip(plan.names, plan.kinds, plan.shapes, wire, strict=True)
    ]
    return Later(plan.make, items, where)
