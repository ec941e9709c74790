"""Msgpack as avm uses it: the closed list of ext types, and reading that says at which byte it failed.

Nothing here makes an object of a user's class: reading gives None, bool, int, float, str, bytes, list, dict
and `ExtType`. The C reader of msgpack sets an array's room aside as soon as it has read the array's length,
and nested lengths multiply; so arrays of more than `QUICK_ITEMS` are read only after a pass without
allocation has found that all items are there. The slow walk in Python runs for malformed bytes only, to name
the byte.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any

import msgpack  # type: ignore[import-untyped]
from msgpack import ExtType as ExtType
from msgpack import Timestamp

from avm.errors import DecodeError

QUICK_ITEMS = 4096
SCAN_VALUES = 100_000
NESTED = 256
"""How deep one piece of msgpack may nest; the limit on events is lower and is checked with their types."""


class Ext(IntEnum):
    """The ext types. None of them names code: classes come from the tag registry and from annotations."""

    EVENT = 1  # [tag, fields]
    DIGEST = 2  # 32 bytes: a Digest as a value
    TEXT = 3  # 32 bytes: the digest of a str in the store
    BYTES = 4  # 32 bytes: the digest of bytes in the store
    PID = 5  # [path, serial]; serial nil: a Ref
    DECIMAL = 6  # ASCII
    DATETIME = 7  # one letter for which, then ISO 8601 or whole microseconds
    INT = 8  # two's complement, for what msgpack's 64 bits do not hold
    GROUP = 9  # [which, items]: tuple, set, frozenset, dict, bytearray where no annotation says so
    VALUE = 10  # [which, ...]: uuid, complex, ellipsis, exit reasons, errors


_packer = msgpack.Packer(autoreset=True)
# No callback can run inside it, so it needs no lock under the interpreter's own.
pack_quickly = _packer.pack


def pack(wire: object) -> bytes:
    """Pack any wire value, also one with large ints and lone surrogates."""
    packed: bytes = msgpack.packb(wire, default=_large, unicode_errors="surrogatepass")
    return packed


def _large(value: object) -> ExtType:
    if isinstance(value, int):
        size = value.bit_length() // 8 + 1
        return ExtType(Ext.INT, int(value).to_bytes(size, "big", signed=True))
    raise TypeError(f"{type(value).__qualname__} has no wire form")


def unpack(data: bytes, where: str = "") -> Any:
    """Read one msgpack value that takes all of `data`.

    Args:
        where: what `data` is a part of, for the error; empty for a whole message.

    Raises:
        DecodeError: it is not that; `where` names the byte.
    """
    try:
        return msgpack.unpackb(data, max_array_len=QUICK_ITEMS)
    except Exception:
        return _unpack_with_care(data, where)


def _unpack_with_care(data: bytes, where: str) -> Any:
    try:
        walker = msgpack.Unpacker(max_buffer_size=len(data) + 1)
        walker.feed(data)
        walker.skip()
        return msgpack.unpackb(data, max_array_len=len(data), unicode_errors="surrogatepass")
    except Exception as error:
        offset, what = find_fault(data)
        place = f"byte {offset}" if not where else f"{where}, byte {offset} of it"
        raise DecodeError(f"{place}: {what}.", place) from error


# How many bytes of length or value follow each first byte of msgpack, and what they are.
_FIXED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_SIZED = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
_SIZED_EXT = {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}
_ARRAYS = {0xDC: ">H", 0xDD: ">I"}
_MAPS = {0xDE: ">H", 0xDF: ">I"}


def find_fault(data: bytes) -> tuple[int, str]:
    """Walk through msgpack that could not be read; return the byte where it goes wrong, and how."""
    fault = _Walk(data).run()
    return fault if fault is not None else (0, "no msgpack value")


class _Walk:
    """One walk over bytes, without recursion and without building anything."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        # For each open array or map: how many values are owed, and whether the keys among them are to be
        # looked at.
        self.open: list[list[int]] = [[1, 0]]

    def run(self) -> tuple[int, str] | None:
        for _ in range(SCAN_VALUES):
            while self.open and self.open[-1][0] == 0:
                self.open.pop()
            if not self.open:
                break
            level = self.open[-1]
            is_key = level[1] and level[0] % 2 == 0
            level[0] -= 1
            fault = self._value(bool(is_key))
            if fault is not None:
                return fault
        else:
            return self.at, "something after this byte is malformed"
        if self.at < len(self.data):
            return self.at, f"{len(self.data) - self.at} bytes too many after the end of the value"
        return None

    def _value(self, is_key: bool) -> tuple[int, str] | None:
        start = self.at
        if start >= len(self.data):
            return start, "the bytes end before the value does"
        first = self.data[start]
        if is_key and not (0xA0 <= first <= 0xBF or first in _SIZED):
            return start, "the key of a map must be text or bytes"
        self.at += 1
        if 0x90 <= first <= 0x9F:
            return self._container(first & 15, False, start)
        if 0x80 <= first <= 0x8F:
            return self._container(first & 15, True, start)
        if 0xA0 <= first <= 0xBF:
            return self._skip(first & 31, True, start)
        if first in _FIXED:
            return self._skip(_FIXED[first], False, start)
        if first in _FIXED_EXT:
            return self._ext(_FIXED_EXT[first], start)
        for table in (_SIZED, _SIZED_EXT, _ARRAYS, _MAPS):
            if first in table:
                return self._sized(first, table[first], start)
        return (start, "0xc1 is no msgpack") if first == 0xC1 else None

    def _sized(self, first: int, form: str, start: int) -> tuple[int, str] | None:
        length = struct.calcsize(form)
        if self.at + length > len(self.data):
            return start, "the bytes end before the value does"
        count = int(struct.unpack_from(form, self.data, self.at)[0])
        self.at += length
        if first in _ARRAYS or first in _MAPS:
            return self._container(count, first in _MAPS, start)
        if first in _SIZED_EXT:
            return self._ext(count, start)
        return self._skip(count, first >= 0xD9, start)

    def _container(self, count: int, is_map: bool, start: int) -> tuple[int, str] | None:
        if count > len(self.data) - self.at:
            return start, f"says it has {count} items, and only {len(self.data) - self.at} bytes follow"
        if len(self.open) > NESTED:
            return start, f"nests deeper than {NESTED} values"
        self.open.append([count * 2, 1] if is_map else [count, 0])
        return None

    def _ext(self, size: int, start: int) -> tuple[int, str] | None:
        if self.at < len(self.data) and self.data[self.at] == 0xFF:
            return start, "a msgpack timestamp, which avm does not use"
        return self._skip(size + 1, False, start)

    def _skip(self, size: int, is_text: bool, start: int) -> tuple[int, str] | None:
        end = self.at + size
        if end > len(self.data):
            return start, f"needs {size} bytes, and only {len(self.data) - self.at} follow"
        if is_text:
            try:
                self.data[self.at : end].decode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                return self.at + error.start, "text that is not UTF-8"
        self.at = end
        return None


_NAMES: dict[type, str] = {
    type(None): "nil",
    bool: "a bool",
    int: "an int",
    float: "a float",
    str: "text",
    bytes: "bytes",
    list: "an array",
    dict: "a map",
    Timestamp: "a msgpack timestamp",
}


def name_of(wire: object) -> str:
    """Say in a few words what a wire value is."""
    if isinstance(wire, ExtType):
        known = {e.value: e.name.lower() for e in Ext}.get(wire.code)
        return f"ext type {wire.code}" + (f" ({known})" if known else ", which avm does not use")
    name = _NAMES.get(type(wire), type(wire).__name__)
    if isinstance(wire, (list, dict)):
        return f"{name} of {len(wire)}"
    if isinstance(wire, (str, bytes)):
        return f"{name} {wire[:20]!r}" if len(wire) <= 20 else f"{name} of {len(wire)}"
    return name if wire is None else f"{name} ({wire!r})"[:60]
