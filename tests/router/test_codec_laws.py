"""The laws of the codec: what is written comes back, and whatever bytes come in, nothing but a DecodeError goes out."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any

import attrs
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.actors import event
from avm.errors import DecodeError
from avm.memory import Digest, Store
from avm.router import Address, Codec, Envelope
from avm.router.wire import Ext, find_fault

calls = 0


class Mood(enum.Enum):
    CALM = "calm"
    WILD = 2


@attrs.frozen
class Line:
    text: str
    marks: tuple[int, ...]


@event
class Leaf:
    """Counts how often it is made."""

    number: int
    line: Line | None = None

    def __attrs_post_init__(self) -> None:
        global calls
        calls += 1


@event
class Tree:
    """A field of every kind."""

    name: str
    body: bytes
    number: int
    share: float
    mood: Mood | None
    price: Decimal
    digest: Digest
    zone: timezone
    leaves: list[Leaf]
    lines: tuple[Line, ...]
    table: dict[str, Leaf]
    places: dict[int, str | None]
    seen: frozenset[int]
    either: int | str | Leaf | Line | None
    anything: Any
    below: Tree | None = None


texts = st.text(st.characters(exclude_categories=()), max_size=8)
numbers = st.integers() | st.integers(-(2**80), 2**80)
floats = st.floats(allow_nan=False)
lines = st.builds(Line, texts, st.lists(numbers, max_size=3).map(tuple))
leaves = st.builds(Leaf, numbers, st.none() | lines)
digests = st.binary(min_size=32, max_size=32).map(Digest)
decimals = st.decimals(allow_nan=False)
zones = st.integers(-86399, 86399).map(lambda s: timezone(timedelta(seconds=s)))
atoms = (
    st.none() | st.booleans() | numbers | floats | texts | st.binary(max_size=8) | decimals | digests
    | st.datetimes() | st.datetimes(timezones=zones) | st.dates() | st.times() | st.timedeltas() | st.uuids()
    | st.complex_numbers(allow_nan=False) | st.just(...)
)  # fmt: skip
hashable = atoms | st.lists(atoms, max_size=3).map(tuple) | st.frozensets(atoms, max_size=3)
anything = st.recursive(
    atoms | leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(hashable, max_size=3)
        | st.dictionaries(texts | st.binary(max_size=3), inner, max_size=3)
        | st.dictionaries(hashable, inner, max_size=3)
    ),
    max_leaves=6,
)


def grow(below: st.SearchStrategy[Tree | None]) -> st.SearchStrategy[Tree]:
    """Trees above those that are given."""
    return st.builds(
        Tree,
        name=texts,
        body=st.binary(max_size=8),
        number=numbers,
        share=floats,
        mood=st.none() | st.sampled_from(Mood),
        price=decimals,
        digest=digests,
        zone=zones,
        leaves=st.lists(leaves, max_size=3),
        lines=st.lists(lines, max_size=3).map(tuple),
        table=st.dictionaries(texts, leaves, max_size=3),
        places=st.dictionaries(numbers, st.none() | texts, max_size=3),
        seen=st.frozensets(numbers, max_size=3),
        either=st.none() | numbers | texts | leaves | lines,
        anything=anything,
        below=below,
    )


trees = grow(st.none() | grow(st.none()))


def exact(value: Any) -> Any:
    """A form of a value in which 1, 1.0 and True are unlike, and so are list and tuple."""
    if attrs.has(type(value)):
        return type(value), [exact(getattr(value, f.name)) for f in attrs.fields(type(value))]
    if isinstance(value, (list, tuple)):
        return type(value), [exact(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return type(value), {(type(v), v) for v in value}
    if isinstance(value, dict):
        return dict, [(exact(k), exact(v)) for k, v in value.items()]
    return type(value), value


@pytest.mark.slow
@given(tree=trees)
def test_what_is_written_comes_back(tree: Tree) -> None:
    codec = Codec()

    back = codec.decode(codec.encode(tree)).event

    assert exact(back) == exact(tree)


@given(size=st.integers(4000, 4200), text=st.booleans(), deep=st.booleans())
def test_bodies_come_back_whichever_side_of_the_limit_they_are(size: int, text: bool, deep: bool) -> None:
    codec = Codec(store=Store("64MB"))
    body = "é" * size if text else b"x" * size
    sent = {"a": [body]} if deep else body

    assert codec.decode(codec.encode(sent)).event == sent


places = st.none() | texts | st.builds(Address, texts, st.none() | st.integers(0, 2**40))


@given(
    to=places,
    sender=places,
    reply=st.none() | st.integers(0, 2**63),
    deadline=st.none() | floats,
    priority=st.sampled_from(("user", "normal", "background")),
    trace=st.none() | texts,
    sent=texts | leaves,
)
def test_an_envelope_comes_back(sent: Any, **beside: Any) -> None:
    codec = Codec()

    assert codec.decode(codec.encode(sent, **beside)) == Envelope(sent, **beside)
    assert codec.decode(codec.address(codec.pack(sent), **beside)) == Envelope(sent, **beside)


def survives(data: bytes) -> None:
    """Reading gives an envelope or a DecodeError that has a place and made nothing."""
    before = calls
    try:
        found: object = Codec(store=Store("64MB")).decode(data)
    except DecodeError as error:
        found = error
    if isinstance(found, DecodeError):
        assert found.where
        assert calls == before
    else:
        assert isinstance(found, Envelope)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_envelope_or_a_decode_error(data: bytes) -> None:
    survives(data)


@given(st.binary(max_size=60))
def test_any_bytes_after_a_sound_frame_are_an_envelope_or_a_decode_error(data: bytes) -> None:
    survives(b"\x99\x01\xc0\xc0\xc0\xc0\x01\xc0" + data)


wires: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | texts | st.binary(max_size=8)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts, inner, max_size=3)
        | st.builds(
            lambda code, value: msgpack.ExtType(code, msgpack.packb(value, unicode_errors="surrogatepass")),
            st.sampled_from([int(e) for e in Ext]),
            inner,
        )
        | st.builds(
            lambda code, name, value: msgpack.ExtType(
                code, msgpack.packb([name, value], unicode_errors="surrogatepass")
            ),
            st.sampled_from([int(Ext.EVENT), int(Ext.GROUP), int(Ext.VALUE)]),
            st.sampled_from(["t", "s", "f", "d", "uuid", "complex", "shutdown", "error", f"{__name__}.Leaf"]),
            inner,
        )
    ),
)  # fmt: skip


@pytest.mark.slow
@given(
    head=st.lists(wires, min_size=6, max_size=6),
    tag=st.sampled_from([None, f"{__name__}.Leaf", f"{__name__}.Tree", "avm.Exit", "nobody"]),
    fields=wires | st.lists(wires, max_size=16),
    sound=st.booleans(),
)
def test_any_msgpack_is_an_envelope_or_a_decode_error(
    head: list[Any], tag: Any, fields: Any, sound: bool
) -> None:
    message = [1, *([None, None, None, None, 1, None] if sound else head), tag, fields]

    survives(msgpack.packb(message, unicode_errors="surrogatepass"))


@pytest.mark.slow
@given(tree=trees, data=st.data())
def test_a_damaged_event_is_an_envelope_or_a_decode_error(tree: Tree, data: st.DataObject) -> None:
    sound = bytearray(Codec().encode(tree))

    for _ in range(data.draw(st.integers(1, 4))):
        if not sound:
            break
        at = data.draw(st.integers(0, len(sound) - 1))
        damage: Callable[[], None] = data.draw(
            st.sampled_from(
                [
                    lambda at=at: sound.__setitem__(at, data.draw(st.integers(0, 255))),
                    lambda at=at: sound.__delitem__(at),
                    lambda at=at: sound.insert(at, data.draw(st.integers(0, 255))),
                    lambda at=at: sound.__delitem__(slice(at, None)),
                    lambda at=at: sound.extend(sound[at:]),
                ]
            )
        )
        damage()

    survives(bytes(sound))


@given(value=wires, cut=st.floats(0, 1, exclude_max=True))
def test_the_walk_finds_no_fault_where_there_is_none_and_one_where_bytes_are_missing(
    value: Any, cut: float
) -> None:
    packed = msgpack.packb(value, unicode_errors="surrogatepass")

    assert find_fault(packed)[1] == "no msgpack value"
    short = packed[: math.floor(len(packed) * cut)]
    offset, what = find_fault(short)
    assert 0 <= offset <= len(short)
    assert what != "no msgpack value"
