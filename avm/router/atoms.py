"""Shapes of single values that are no plain msgpack: decimals, dates, pids, digests, enums, errors; and unions.

An enum and a literal are written as their value and found again in the annotation's own list; nothing is
called by a name from the wire. An error cannot be made again elsewhere: it arrives as a `RemoteError` that
has its name and text.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from typing import TYPE_CHECKING, Any
from uuid import UUID

from avm.actors.ref import Pid, Ref
from avm.errors import NoProc, PackError, RemoteError
from avm.memory.digest import Digest
from avm.router.shapes import Later, Shape, Where, raise_unlike, refuse, unpack_row, wire_kind
from avm.router.wire import Ext, ExtType, pack

if TYPE_CHECKING:
    from avm.router.codec import Codec

_MICROSECOND = timedelta(microseconds=1)


def _value(*row: object) -> ExtType:
    return ExtType(Ext.VALUE, pack(row))


def _pack_zone(zone: timezone) -> ExtType:
    offset = zone.utcoffset(None)
    return ExtType(Ext.DATETIME, f"z{offset // _MICROSECOND}".encode())


# How each is written. The first letter of a DATETIME says which of the five it is.
PACKERS: dict[type, Callable[[Any], ExtType]] = {
    Decimal: lambda v: ExtType(Ext.DECIMAL, str(v).encode("ascii")),
    datetime: lambda v: ExtType(Ext.DATETIME, b"m" + v.isoformat().encode()),
    date: lambda v: ExtType(Ext.DATETIME, b"d" + v.isoformat().encode()),
    time: lambda v: ExtType(Ext.DATETIME, b"t" + v.isoformat().encode()),
    timedelta: lambda v: ExtType(Ext.DATETIME, f"l{v // _MICROSECOND}".encode()),
    timezone: _pack_zone,
    UUID: lambda v: _value("uuid", v.bytes),
    complex: lambda v: _value("complex", [v.real, v.imag]),
    type(...): lambda v: _value("ellipsis", None),
    bytearray: lambda v: _value("bytearray", bytes(v)),
    Digest: lambda v: ExtType(Ext.DIGEST, v.bytes),
    Pid: lambda v: ExtType(Ext.PID, pack([v.path, v.serial])),
    Ref: lambda v: ExtType(Ext.PID, pack([v.path, None])),
}

_READ_DATES: dict[str, Callable[[str], Any]] = {
    "m": datetime.fromisoformat,
    "d": date.fromisoformat,
    "t": time.fromisoformat,
    "l": lambda text: _MICROSECOND * int(text),
    "z": lambda text: timezone(_MICROSECOND * int(text)),
}


def read_atom(wire: ExtType, codec: Codec, where: Where) -> Any:
    """Read a DECIMAL, DATETIME, DIGEST or PID."""
    try:
        if wire.code == Ext.DECIMAL:
            return Decimal(wire.data.decode("ascii"))
        if wire.code == Ext.DATETIME:
            return _READ_DATES[chr(wire.data[0])](wire.data[1:].decode("ascii"))
        if wire.code == Ext.DIGEST:
            return Digest(wire.data)
    except (ValueError, ArithmeticError, LookupError) as error:
        raise_unlike(f"a well-formed {Ext(wire.code).name.lower()}", wire, where, error)
    path, serial = unpack_row(wire, 2, where)
    if type(path) is not str or not (serial is None or type(serial) is int):
        raise_unlike("a path and a serial number, or nil", [path, serial], where)
    return codec.address_of(path, serial, where)


def read_value(kind: object, content: Any, where: Where) -> Any:
    """Read one of the rarer values that are not made of others."""
    if kind == "uuid" and type(content) is bytes and len(content) == 16:
        return UUID(bytes=content)
    if kind == "complex" and type(content) is list and [type(c) for c in content] == [float, float]:
        return complex(*content)
    if kind == "bytearray" and type(content) is bytes:
        return bytearray(content)
    if kind == "ellipsis" and content is None:
        return ...
    if kind == "no_proc" and type(content) is str:
        return NoProc(content)
    if kind == "error" and type(content) is list and [type(c) for c in content] == [str, str]:
        return RemoteError(*content)
    raise_unlike("a value of a known kind", kind, where)


class Atom:
    """One of the types of `PACKERS`."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.text = "..." if cls is type(...) else cls.__name__
        self.kinds: frozenset[type] = frozenset()
        self._code: int = _CODES.get(cls, Ext.VALUE).value
        self.wires: frozenset[object] | None = frozenset((self._code,))

    def takes(self, value: object) -> bool:
        return type(value) is self.cls

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        # A datetime is a date by inheritance, and may stand where a date is declared.
        if not isinstance(value, self.cls) or type(value) not in PACKERS:
            refuse(self.text, value, where)
        if isinstance(value, Pid):
            codec.note(value)
        return PACKERS[type(value)](value)

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        if not isinstance(wire, ExtType) or wire.code != self._code:
            raise_unlike(self.text, wire, where)
        if self._code == Ext.VALUE:
            kind, content = unpack_row(wire, 2, where)
            found = read_value(kind, content, where)
        else:
            found = read_atom(wire, codec, where)
        if not isinstance(found, self.cls):
            raise_unlike(self.text, found, where)
        return found


_CODES: dict[type, Ext] = {
    Decimal: Ext.DECIMAL,
    datetime: Ext.DATETIME,
    date: Ext.DATETIME,
    time: Ext.DATETIME,
    timedelta: Ext.DATETIME,
    timezone: Ext.DATETIME,
    Digest: Ext.DIGEST,
    Pid: Ext.PID,
    Ref: Ext.PID,
}

_SIMPLE = (str, int, bool, float, bytes, type(None))


class EnumOf:
    """A member of an enum, by its value; by its name if values are not all plain."""

    def __init__(self, cls: type[Enum]) -> None:
        self.cls = cls
        self.text = cls.__qualname__
        self.kinds: frozenset[type] = frozenset()
        self._by_value = all(type(m.value) in _SIMPLE for m in cls.__members__.values())
        self._mask = 0
        if issubclass(cls, Flag):
            for member in cls:
                self._mask |= member.value
        # Keyed by type too: 1, 1.0 and True are three values.
        self._members = {self._key(m): m for m in cls}
        self.wires: frozenset[object] | None = frozenset(kind for kind, _ in self._members) or frozenset(
            (str,)
        )
        if issubclass(cls, Flag):
            self.wires = frozenset((int,))

    def _key(self, member: Enum) -> tuple[type, object]:
        value = member.value if self._by_value else member.name
        return type(value), value

    def takes(self, value: object) -> bool:
        return type(value) is self.cls

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        if type(value) is not self.cls:
            refuse(self.text, value, where)
        return self._key(value)[1]

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        if issubclass(self.cls, Flag) and type(wire) is int and wire >= 0 and not wire & ~self._mask:
            return Later(lambda _: self.cls(wire), [], where)
        member = self._members.get((type(wire), wire)) if type(wire) in _SIMPLE else None
        if member is None:
            raise_unlike(f"a member of {self.text}", wire, where)
        return member


class LiteralOf:
    """Literal[...]: one of a few values."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.text = f"Literal{list(values)}"
        self.kinds: frozenset[type] = frozenset()
        self._values: dict[tuple[type, object], Any] = {}
        for value in values:
            wire = value.value if isinstance(value, Enum) else value
            self._values[(type(wire), wire)] = value
        self.wires: frozenset[object] | None = frozenset(kind for kind, _ in self._values)

    def takes(self, value: object) -> bool:
        return any(type(v) is type(value) and v == value for v in self._values.values())

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        if not self.takes(value):
            refuse(self.text, value, where)
        return value.value if isinstance(value, Enum) else value

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        key = (type(wire), wire)
        if type(wire) not in _SIMPLE or key not in self._values:
            raise_unlike(self.text, wire, where)
        return self._values[key]


def pack_error(error: BaseException) -> ExtType:
    """Write an error down."""
    if type(error) is NoProc:
        return _value("no_proc", str(error))
    if isinstance(error, RemoteError):
        return _value("error", [error.kind, error.text])
    return _value("error", [type(error).__qualname__, str(error)])


class ErrorOf:
    """An exception; it arrives as a `RemoteError`, so the annotation has to be one that this is."""

    def __init__(self, cls: type[BaseException]) -> None:
        self.cls = cls
        self.text = cls.__qualname__
        self.kinds: frozenset[type] = frozenset()
        self.wires: frozenset[object] | None = frozenset((Ext.VALUE.value,))

    def takes(self, value: object) -> bool:
        return isinstance(value, self.cls)

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        if not isinstance(value, self.cls) or not issubclass(self._arrives_as(value), self.cls):
            refuse(f"{self.text} (an error arrives as RemoteError; declare Exception)", value, where)
        return pack_error(value)

    def _arrives_as(self, value: BaseException) -> type[BaseException]:
        return NoProc if type(value) is NoProc else RemoteError

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        if not isinstance(wire, ExtType) or wire.code != Ext.VALUE:
            raise_unlike(self.text, wire, where)
        kind, content = unpack_row(wire, 2, where)
        found = read_value(kind, content, where)
        if not isinstance(found, self.cls):
            raise_unlike(self.text, found, where)
        return found


class UnionOf:
    """A | B. If the wire forms tell the members apart they stand alone, else in a pair: the member's number, and it."""

    def __init__(self, members: list[Shape]) -> None:
        self.members = members
        self.text = " | ".join(m.text for m in members)
        found = [wire for m in members for wire in m.wires or ()]
        self._apart = len(found) == len(set(found))
        self._by_wire = {wire: m for m in members for wire in m.wires or ()} if self._apart else {}
        self.kinds: frozenset[type] = (
            frozenset().union(*(m.kinds for m in members)) if self._apart else frozenset()
        )
        self.wires: frozenset[object] | None = frozenset(found) if self._apart else frozenset((list,))

    def takes(self, value: object) -> bool:
        return any(m.takes(value) for m in self.members)

    def pack(self, value: Any, codec: Codec, bodies: list[object], depth: int, where: Where) -> Any:
        last: PackError | None = None
        likely = [n for n, member in enumerate(self.members) if member.takes(value)]
        for n in likely or range(len(self.members)):
            member = self.members[n]
            try:
                packed = member.pack(value, codec, bodies, depth, where)
            except PackError as error:
                last = error
            else:
                return packed if self._apart else [n, packed]
        if likely and last is not None:
            raise last
        refuse(self.text, value, where)

    def check(self, wire: Any, codec: Codec, depth: int, where: Where) -> Any:
        if self._apart:
            member = self._by_wire.get(wire_kind(wire))
            if member is None:
                raise_unlike(self.text, wire, where)
            return member.check(wire, codec, depth, where)
        if type(wire) is not list or len(wire) != 2 or type(wire[0]) is not int:
            raise_unlike(f"a pair of a number and one of {self.text}", wire, where)
        if not 0 <= wire[0] < len(self.members):
            raise_unlike(f"a number below {len(self.members)}, for {self.text}", wire[0], where)
        return self.members[wire[0]].check(wire[1], codec, depth, where)


__all__ = ["Atom", "EnumOf", "ErrorOf", "LiteralOf", "UnionOf", "pack_error", "read_atom", "read_value"]
