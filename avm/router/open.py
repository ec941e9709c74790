"""The shape of a field whose annotation says nothing (Any, object): the wire form itself says what each value is.

Only a closed list of types goes through: plain values, events, digests, addresses, numbers, dates, the
containers of Python, exit reasons and errors. Frozen attrs values and enums need an annotation that names
their class.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

import attrs

from avm.actors.event import INLINE_LIMIT
from avm.actors.ref import Pid
from avm.actors.signals import Cancelled, Kill, Killed, Monitor, Normal, Shutdown
from avm.errors import DecodeError, PackError
from avm.router.atoms import PACKERS, pack_error, read_atom, read_value
from avm.router.records import check_fields, pack_fields
from avm.router.shapes import (
    TEXTS,
    Where,
    gather,
    large_int,
    raise_unlike,
    refuse,
    render,
    same,
    unpack_row,
)
from avm.router.wire import Ext, ExtType, pack

if TYPE_CHECKING:
    from avm.router.codec import Codec

_PLAIN = frozenset((type(None), bool, int, float))

# What the runtime itself puts into open fields, as the `reason` of Exit and Down.
_RUNTIME: dict[str, type] = {
    "normal": Normal,
    "shutdown": Shutdown,
    "killed": Killed,
    "kill": Kill,
    "cancelled": Cancelled,
    "monitor": Monitor,
}
_RUNTIME_NAMES = {cls: name for name, cls in _RUNTIME.items()}

_GROUPS: dict[type, str] = {tuple: "t", set: "s", frozenset: "f", dict: "d"}
_GROUP_MAKERS: dict[str, Callable[[list[Any]], Any]] = {"t": tuple, "s": set, "f": frozenset, "d": dict}


class Open:
    """Any value of the closed list."""

    text = "any value that an event may hold"
    kinds: frozenset[type] = _PLAIN
    wires: frozenset[object] | None = None

    def takes(self, value: object) -> bool:
        return True

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind in TEXTS:
            return codec.keep(value, bodies) if len(value) > INLINE_LIMIT else value
        packer = PACKERS.get(kind)
        if packer is not None:
            if kind is Pid:
                codec.note(value)
            return packer(value)
        codec.descend(depth, where, PackError)
        if kind is list:
            return self._pack_items(value, codec, bodies, depth, where)
        if kind is dict and all(type(key) in TEXTS for key in value):
            return {k: self.pack(v, codec, bodies, depth + 1, (where, f"[{k!r}]")) for k, v in value.items()}
        if kind in _GROUPS:
            items = [list(pair) for pair in value.items()] if kind is dict else value
            row = [_GROUPS[kind], self._pack_items(items, codec, bodies, depth, where)]
            return ExtType(Ext.GROUP, pack(row))
        return self._pack_instance(kind, value, codec, bodies, depth, where)

    def _pack_items(
        self, values: Any, codec: Codec, bodies: list[object], depth: int, where: Where
    ) -> list[Any]:
        return [self.pack(v, codec, bodies, depth + 1, (where, f"[{n}]")) for n, v in enumerate(values)]

    def _pack_instance(
        self, kind: type, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where
    ) -> Any:
        tag = codec.registry.tag_of(kind)
        if tag is not None:
            fields = pack_fields(codec.plan_of(kind), value, codec, bodies, depth, where)
            return ExtType(Ext.EVENT, pack([tag, fields]))
        name = _RUNTIME_NAMES.get(kind)
        if name is not None:
            fields = pack_fields(codec.plan_of(kind), value, codec, bodies, depth, where)
            return ExtType(Ext.VALUE, pack([name, fields]))
        if isinstance(value, BaseException):
            return pack_error(value)
        if isinstance(value, Enum) or attrs.has(kind):
            place = render(where)
            raise PackError(
                f"{place} holds a {kind.__module__}.{kind.__qualname__}, and its annotation does not say so; "
                "annotate the field with that class, or make the class an event.",
                place,
            )
        refuse(self.text, value, where)

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        kind = type(wire)
        if kind in _PLAIN or kind in TEXTS:
            return wire
        if kind is list:
            return gather(same, self._check_items(wire, codec, depth, where), where)
        if kind is dict:
            items = self._check_items(wire.values(), codec, depth, where)
            keys = list(wire)
            return gather(lambda made: dict(zip(keys, made, strict=True)), items, where)
        if kind is ExtType:
            return self._check_ext(wire, codec, depth, where)
        raise_unlike(self.text, wire, where)

    def _check_items(self, wires: Any, codec: Codec, depth: int, where: Where) -> list[Any]:
        codec.descend(depth, where, DecodeError)
        return [self.check(w, codec, depth + 1, (where, f"[{n}]")) for n, w in enumerate(wires)]

    def _check_ext(self, wire: ExtType, codec: Codec, depth: int, where: Where) -> Any:
        code = wire.code
        if code in (Ext.TEXT, Ext.BYTES):
            return codec.read_body(wire, where)
        if code == Ext.INT:
            return large_int(wire, where)
        if code in (Ext.DECIMAL, Ext.DATETIME, Ext.DIGEST, Ext.PID):
            return read_atom(wire, codec, where)
        if code not in (Ext.EVENT, Ext.GROUP, Ext.VALUE):
            raise_unlike(self.text, wire, where)
        codec.descend(depth, where, DecodeError)
        first, rest = unpack_row(wire, 2, where)
        if code == Ext.EVENT:
            return check_fields(codec.plan_of_tag(first, where), rest, codec, depth, where)
        if type(first) is not str:
            raise_unlike("the name of a kind of value", first, where)
        if code == Ext.GROUP:
            return self._check_group(first, rest, codec, depth, where)
        runtime = _RUNTIME.get(first)
        if runtime is not None:
            return check_fields(codec.plan_of(runtime), rest, codec, depth, where)
        return read_value(first, rest, where)

    def _check_group(self, which: str, wires: Any, codec: Codec, depth: int, where: Where) -> Any:
        make = _GROUP_MAKERS.get(which)
        if make is None or type(wires) is not list:
            raise_unlike("a kind of group and its items", wires, where)
        if make is dict and not all(type(w) is list and len(w) == 2 for w in wires):
            raise_unlike("pairs of key and value", wires, where)
        return gather(make, self._check_items(wires, codec, depth, where), where)
