"""The codec: what each kind of field becomes on the wire, and what is refused."""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal, NewType
from uuid import UUID

import attrs
import msgpack
import pytest

from avm.actors import Actor, Down, Exit, Kernel, Monitor, Pid, Ref, Request, Shutdown, event
from avm.actors.event import EventRegistry
from avm.errors import DecodeError, NoProc, PackError, RemoteError
from avm.memory import Digest, Store
from avm.router import Address, Codec, Envelope, Packet
from avm.router.wire import Ext, ExtType

Run = Callable[[Coroutine[Any, Any, None]], None]
Score = NewType("Score", float)


class Tone(enum.Enum):
    KIND = "kind"
    HARSH = "harsh"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@attrs.frozen
class Page:
    number: int
    lines: tuple[str, ...] = ()
    parts: tuple[Page, ...] = ()


@attrs.frozen
class Picture:
    number: int


@event
class Review:
    verdict: str


@event
class Draft(Request[Review]):
    text: str
    round: int = 1
    score: float = 0.0


@event
class Bundle:
    items: list[Draft]


@event
class Loose:
    value: Any


def carrier(annotation: Any) -> type[Any]:
    """Make an event class with one field of an annotation."""
    cls = type("Carrier", (), {"__annotations__": {"value": annotation}, "__module__": __name__})
    return event(tag=f"test.Carrier[{annotation}]")(cls)


def there_and_back(sent: object, **options: Any) -> Any:
    codec = Codec(**options)
    return codec.decode(codec.encode(sent)).event


def wire(tag: object, fields: object) -> bytes:
    """Write an event by hand."""
    return bytes(msgpack.packb([1, None, None, None, None, 1, None, tag, fields]))


def ext(code: int, value: object) -> ExtType:
    return ExtType(code, msgpack.packb(value))


TAG = f"{__name__}."

PAIRS = [
    (str, "text"),
    (str, "lone \ud800 surrogate"),
    (bytes, b"bytes"),
    (int, -5),
    (int, 2**63),
    (int, 2**64),
    (int, -(2**64)),
    (int, 2**5000),
    (int, True),
    (float, 0.1),
    (float, 3),
    (bool, False),
    (None, None),
    (int | None, None),
    (int | None, 2**70),
    (int | str | None, "x"),
    (Decimal, Decimal("1.10")),
    (datetime, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
    (datetime, datetime(2026, 1, 2)),
    (date, date(2026, 1, 2)),
    (date, datetime(2026, 1, 2)),
    (time, time(1, 2, 3)),
    (timedelta, timedelta(days=-1, microseconds=3)),
    (timezone, timezone(timedelta(hours=2))),
    (UUID, UUID(int=7)),
    (complex, 1 + 2j),
    (bytearray, bytearray(b"x")),
    (Digest, Digest.of("content")),
    (Score, 0.5),
    (Tone, Tone.HARSH),
    (Level, Level.HIGH),
    (int | Level, Level.HIGH),
    (Rights, Rights.READ | Rights.WRITE),
    (Literal["a", 1, None], 1),
    (list[int], [1, 2]),
    (list[str], ["a", "b"]),
    (list, [1, (2, [3])]),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "a")),
    (tuple[()], ()),
    (tuple, (1, ("a",))),
    (set[str], {"a"}),
    (frozenset[int], frozenset({1})),
    (dict[str, list[int]], {"a": [1]}),
    (dict[bytes, int], {b"a": 1}),
    (dict[int, str], {1: "a"}),
    (dict[tuple[int, int], str], {(1, 2): "a"}),
    (dict, {"a": 1, 2: "b"}),
    (Mapping[str, int], {"a": 1}),
    (Sequence[int], (1, 2)),
    (Sequence[int], [1, 2]),
    (list[int] | tuple[int, ...], (1,)),
    (Page, Page(1, ("a",), (Page(2),))),
    (Page | None, None),
    (Page | Picture, Picture(3)),
    (list[Page], [Page(1), Page(2)]),
    (frozenset[Page], frozenset({Page(1)})),
    (dict[str, Page], {"a": Page(1)}),
    (Draft, Draft("a")),
    (Draft | Review | None, Review("b")),
    (Exception, RemoteError("ValueError", "no")),
    (Any, [None, True, 1, 1.5, "a", b"b", 2**99]),
    (Any, {"a": (1, {2}, frozenset({3}), {4: 5}), b"b": bytearray(b"c")}),
    (object, [Decimal(1), date(2026, 1, 2), timedelta(1), UUID(int=1), 2j, ..., Digest.of("a")]),
    (object, {"draft": Draft("a"), "list": [Review("b")]}),
    (object, Shutdown(("failed", Review("x")))),
    (object, NoProc("gone")),
    (object, Monitor(3)),
]


@pytest.mark.parametrize("annotation, value", PAIRS, ids=[f"{n}-{a}" for n, (a, _) in enumerate(PAIRS)])
def test_a_field_comes_back_as_it_was(annotation: Any, value: Any) -> None:
    sent = carrier(annotation)(value)

    back = there_and_back(sent)

    assert back == sent
    assert type(back.value) is type(value)
    assert repr(back) == repr(sent)


def test_an_envelope_carries_what_was_written_beside_the_event() -> None:
    codec = Codec()

    data = codec.encode(
        Draft("a"),
        to="critic",
        sender=Address("editor", 7),
        reply=3,
        deadline=1.5,
        priority="user",
        trace="00-1",
    )

    assert codec.decode(data) == Envelope(Draft("a"), "critic", Address("editor", 7), 3, 1.5, "user", "00-1")


def test_the_wire_form_is_an_array_of_nine() -> None:
    data = Codec().encode(Draft("a", 2, 0.5), to="critic")

    assert msgpack.unpackb(data) == [1, "critic", None, None, None, 1, None, f"{TAG}Draft", ["a", 2, 0.5]]


def test_a_plain_value_travels_without_a_tag() -> None:
    assert there_and_back("Hello") == "Hello"
    assert there_and_back(("a", 1)) == ("a", 1)


def test_an_event_packed_once_is_addressed_for_each_receiver() -> None:
    codec = Codec()
    packed = codec.pack(Draft("a"))

    assert codec.address(packed, to="x") == codec.encode(Draft("a"), to="x")
    assert codec.decode(codec.address(packed, to="y")) == Envelope(Draft("a"), to="y")


def test_fields_without_init_and_keyword_fields_are_filled() -> None:
    @event(tag="test.Odd")
    class Odd:
        _secret: int = attrs.field(kw_only=True)

    @event(tag="test.Counted")
    class Counted:
        text: str
        size: int = attrs.field(init=False)

        def __attrs_post_init__(self) -> None:
            object.__setattr__(self, "size", len(self.text))

    assert there_and_back(Odd(secret=3)) == Odd(secret=3)
    assert there_and_back(Counted("abc")) == Counted("abc")


def test_an_annotation_that_cannot_be_resolved_leaves_its_field_open() -> None:
    @event(tag="test.Local")
    class Local:
        value: Unknown  # type: ignore[name-defined]  # noqa: F821
        number: int

    assert there_and_back(Local((1, "a"), 2)) == Local((1, "a"), 2)


def test_an_error_arrives_as_its_name_and_text() -> None:
    back = there_and_back(carrier(Exception)(ValueError("no room")))

    assert back.value == RemoteError("ValueError", "no room")
    assert str(back.value) == "ValueError: no room"


def test_an_event_of_a_class_below_keeps_its_class() -> None:
    @event(tag="test.Below")
    class Below(Draft):
        more: str = ""

    back = there_and_back(carrier(Draft)(Below("a", more="b")))

    assert back.value == Below("a", more="b")


# Bodies.


def test_a_body_over_the_inline_limit_travels_by_digest() -> None:
    store = Store("64MB")
    codec = Codec(store=store)
    text, blob = "x" * 5000, b"y" * 5000

    packet = codec.encode(carrier(Any)([text, blob]))
    back = codec.decode(packet).event

    assert len(packet) < 200
    assert isinstance(packet, Packet)
    assert back.value == [text, blob]
    assert codec.decode(packet).event.value[0] is back.value[0]


def test_a_large_body_is_written_in_place_without_a_store() -> None:
    data = Codec().encode(Draft("x" * 5000))

    assert type(data) is bytes
    assert Codec(store=Store("64MB")).decode(data).event == Draft("x" * 5000)


def test_a_body_that_is_gone_is_named_by_its_digest() -> None:
    packet = Codec(store=Store("64MB")).encode(Draft("x" * 5000))

    with pytest.raises(DecodeError, match=str(Digest.of("x" * 5000))) as caught:
        Codec(store=Store("64MB")).decode(packet)

    assert caught.value.where == "Draft.text"


def test_a_body_is_kept_while_its_packet_is_held() -> None:
    codec = Codec(store=Store("64MB"))
    packet = codec.encode(Draft("x" * 5000))

    assert codec.decode(packet).event == Draft("x" * 5000)

    data = bytes(packet)
    del packet
    with pytest.raises(DecodeError, match="not in the store"):
        codec.decode(data)


def test_a_body_of_a_store_needs_a_store() -> None:
    packet = Codec(store=Store("64MB")).encode(Draft("x" * 5000))

    with pytest.raises(DecodeError, match="this codec has none"):
        Codec().decode(packet)


# Addresses.


class Idle(Actor):
    pass


@event(tag="test.Holder")
class Holder:
    pid: Pid | None
    ref: Ref | None


def test_pids_and_refs_come_back_as_the_same(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            codec = Codec(kernel=kernel)
            ref = await kernel.spawn(Idle, id="critic")
            sent = Holder(ref.pid, ref)

            back = codec.decode(codec.encode(sent)).event

            assert back == sent
            assert back.pid.is_alive()
            assert back.ref.is_alive()

    run(main())


def test_a_pid_that_has_ended_comes_back_equal_and_dead(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            codec = Codec(kernel=kernel)
            ref = await kernel.spawn(Idle, id="critic")
            sent = Exit(ref.pid, Shutdown("x"))
            kernel.kill(ref)

            back = codec.decode(codec.encode(sent)).event

            assert back == sent
            assert not back.pid.is_alive()

    run(main())


def test_an_unknown_pid_is_dead_and_a_ref_to_nobody_finds_who_comes_later(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            codec = Codec(kernel=kernel)
            holder = codec.decode(
                wire("test.Holder", [ext(Ext.PID, ["a/b", 9]), ext(Ext.PID, ["critic", None])])
            ).event

            assert repr(holder.pid) == "b#9"
            assert holder.pid.path == "a/b"
            assert not holder.pid.is_alive()
            assert not holder.ref.is_alive()
            await kernel.spawn(Idle, id="critic")
            assert holder.ref.is_alive()

    run(main())


def test_the_runtimes_own_events_can_be_written() -> None:
    sent = Down(Monitor(4), None, "critic", Shutdown("done"))

    assert there_and_back(sent) == sent


def test_a_pid_cannot_be_read_without_a_kernel() -> None:
    with pytest.raises(DecodeError, match="without kernel="):
        Codec().decode(wire("test.Holder", [ext(Ext.PID, ["a", 1]), None]))


# What cannot be written.

REFUSED = [
    (Draft(5), "Draft.text", "declared as str and holds a builtins.int"),  # type: ignore[arg-type]
    (Bundle([Draft("a"), Draft("b", "c")]), "Bundle.items[1].round", "declared as int"),  # type: ignore[arg-type]
    (Bundle([Review("a")]), "Bundle.items[0]", "declared as Draft"),  # type: ignore[list-item]
    (Loose(object()), "Loose.value", "builtins.object"),
    (Loose({"a": [Page(1)]}), "Loose.value['a'][0]", "annotate the field"),
    (Loose(Tone.KIND), "Loose.value", "annotate the field"),
    (carrier(tuple[int, str])((1,)), "Carrier.value", "tuple"),
    (carrier(Literal["a"])("b"), "Carrier.value", "Literal"),
    (carrier(int | None)("b"), "Carrier.value", "int | None"),
    (carrier(dict[str, int])({1: 2}), "Carrier.value[key 1]", "str"),
    (carrier(ValueError)(ValueError("a")), "Carrier.value", "declare Exception"),
]


@pytest.mark.parametrize("sent, where, text", REFUSED, ids=range(len(REFUSED)))
def test_a_value_unlike_its_annotation_is_refused_at_its_place(sent: object, where: str, text: str) -> None:
    with pytest.raises(PackError) as caught:
        Codec().encode(sent)

    assert caught.value.where == where
    assert text in str(caught.value)


def test_an_event_deeper_than_the_limit_is_not_written() -> None:
    value: Any = 1
    for _ in range(70):
        value = [value]

    with pytest.raises(PackError, match="nests deeper than 64"):
        Codec().encode(Loose(value))


def test_an_event_larger_than_the_limit_is_not_written() -> None:
    for sent in (Draft("x" * 200), Loose((1,) * 200)):
        with pytest.raises(PackError, match="at most 100 are written"):
            Codec(max_bytes=100).encode(sent)


# What cannot be read.

BROKEN = [
    (b"", "byte 0", "end before"),
    (b"\xc1", "byte 0", "no msgpack"),
    (wire(f"{TAG}Review", ["a"])[:-1], "byte", "follow"),
    (wire(f"{TAG}Review", ["a"]) + b"\x00", "byte", "1 bytes too many"),
    (b"\x91\xa2\xff\xfe", "byte 2", "not UTF-8"),
    (b"\x91\xdd\xff\xff\xff\xff", "byte 1", "4294967295 items"),
    (b"\x91\x81\x01\x02", "byte 2", "key of a map"),
    (b"\x91\xd4\xff\x00", "byte 1", "timestamp"),
    (b"\x91" * 3000 + b"\xc0", "byte 256", "deeper"),
    (b"\x01", "byte 0", "array of 9"),
    (bytes(msgpack.packb([2] + [None] * 8)), "version", "2"),
    (bytes(msgpack.packb([True] + [None] * 8)), "version", "bool"),
    (bytes(msgpack.packb([1, 5, None, None, None, 1, None, "a", []])), "to", "int"),
    (bytes(msgpack.packb([1, None, ["a", "b"], None, None, 1, None, "a", []])), "from", "array"),
    (bytes(msgpack.packb([1, None, None, "x", None, 1, None, "a", []])), "reply", "text"),
    (bytes(msgpack.packb([1, None, None, None, "x", 1, None, "a", []])), "deadline", "text"),
    (bytes(msgpack.packb([1, None, None, None, None, 3, None, "a", []])), "priority", "below 3"),
    (bytes(msgpack.packb([1, None, None, None, None, 1, 3, "a", []])), "trace", "int"),
    (wire("no.such", []), "tag", "no event has the tag 'no.such'"),
    (wire(7, []), "tag", "int"),
    (wire(["list"], []), "tag", "array"),
    (wire(f"{TAG}Review", []), "Review", "1 fields (verdict)"),
    (wire(f"{TAG}Review", ["a", "b"]), "Review", "array of 2"),
    (wire(f"{TAG}Review", {"verdict": "a"}), "Review", "map"),
    (wire(f"{TAG}Review", [5]), "Review.verdict", "expected str"),
    (wire(f"{TAG}Draft", ["a", 1.5, 0.0]), "Draft.round", "expected int"),
    (wire(f"{TAG}Bundle", [5]), "Bundle.items", "array"),
    (wire(f"{TAG}Bundle", [[["a", 1, 0.0]]]), "Bundle.items[0]", "an event Draft"),
    (wire(f"{TAG}Bundle", [[ext(1, [f"{TAG}Review", ["a"]])]]), "Bundle.items[0]", "found Review"),
    (wire(f"{TAG}Bundle", [[ext(1, ["no.such", []])]]), "Bundle.items[0]", "no event has the tag"),
    (wire(f"{TAG}Bundle", [[ext(1, [f"{TAG}Draft", ["a", "b", 0.0]])]]), "Bundle.items[0].round", "int"),
    (wire(f"{TAG}Bundle", [[ExtType(1, b"\x92\x01")]]), "Bundle.items[0], byte 0 of it", "2 items"),
    (wire(f"{TAG}Bundle", [[ExtType(77, b"")]]), "Bundle.items[0]", "ext type 77, which avm does not use"),
    (wire(f"{TAG}Loose", [ExtType(77, b"")]), "Loose.value", "ext type 77"),
    (wire(f"{TAG}Loose", [ExtType(2, b"short")]), "Loose.value", "well-formed digest"),
    (wire(f"{TAG}Loose", [ExtType(3, b"short")]), "Loose.value", "a digest"),
    (wire(f"{TAG}Loose", [ExtType(6, b"one")]), "Loose.value", "decimal"),
    (wire(f"{TAG}Loose", [ExtType(7, b"")]), "Loose.value", "datetime"),
    (wire(f"{TAG}Loose", [ExtType(7, b"m2026-13-01")]), "Loose.value", "datetime"),
    (wire(f"{TAG}Loose", [ExtType(7, b"l" + b"9" * 40)]), "Loose.value", "datetime"),
    (wire(f"{TAG}Loose", [ExtType(8, b"\x01")]), "Loose.value", "8 bytes"),
    (wire(f"{TAG}Loose", [ext(9, ["s", [[1]]])]), "Loose.value", "fit together"),
    (wire(f"{TAG}Loose", [ext(9, ["d", [[1]]])]), "Loose.value", "pairs"),
    (wire(f"{TAG}Loose", [ext(9, ["x", []])]), "Loose.value", "kind of group"),
    (wire(f"{TAG}Loose", [ext(10, ["os.system", "true"])]), "Loose.value", "known kind"),
    (wire(f"{TAG}Loose", [ext(10, ["shutdown", []])]), "Loose.value", "1 fields (detail)"),
    (wire(None, []), "fields", "plain value"),
]


@pytest.mark.parametrize("data, where, text", BROKEN, ids=range(len(BROKEN)))
def test_bytes_that_are_no_event_are_refused_at_their_place(data: bytes, where: str, text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        Codec().decode(data)

    assert caught.value.where.startswith(where)
    assert text in str(caught.value)


def test_an_event_deeper_than_the_limit_is_not_read() -> None:
    value: Any = 1
    for _ in range(70):
        value = [value]
    with pytest.raises(DecodeError, match="nests deeper than 64"):
        Codec().decode(wire(f"{TAG}Loose", [value]))

    inner: Any = None
    for _ in range(70):
        inner = ext(1, [f"{TAG}Loose", [inner]])
    with pytest.raises(DecodeError, match="nests deeper than 64"):
        Codec().decode(wire(f"{TAG}Loose", [inner]))


def test_bytes_over_the_limit_are_not_read() -> None:
    with pytest.raises(DecodeError, match="at most 10 are read"):
        Codec(max_bytes=10).decode(bytes(11))


def test_a_long_list_is_read_whole() -> None:
    sent = carrier(list[int])(list(range(20_000)))

    assert there_and_back(sent) == sent


def test_nested_lengths_that_promise_much_are_refused_at_once() -> None:
    """Each array says it has as many items as there are bytes; room for all of them is never set aside."""
    data = b"\xdd\x00\x10\x00\x00" * 900 + b"\xc0" * 2**20

    with pytest.raises(DecodeError):
        Codec().decode(data)


def test_a_tag_outside_the_registry_of_the_codec_is_unknown() -> None:
    data = Codec().encode(Review("a"))

    with pytest.raises(DecodeError, match="no event has the tag"):
        Codec(EventRegistry()).decode(data)


made = 0


@event
class Witness:
    name: str

    def __attrs_post_init__(self) -> None:
        global made
        made += 1


@event
class Witnesses:
    first: Witness
    some: list[Witness]
    last: int


def test_no_class_is_called_before_the_whole_event_is_right() -> None:
    witness = ext(Ext.EVENT, [f"{TAG}Witness", ["a"]])
    before = made

    for fields in ([witness, [witness], "x"], [witness, [witness, 3], 1], [witness, [witness], 1, 2]):
        with pytest.raises(DecodeError):
            Codec().decode(wire(f"{TAG}Witnesses", fields))
    assert made == before

    Codec().decode(wire(f"{TAG}Witnesses", [witness, [witness], 1]))
    assert made == before + 2


def test_a_class_that_refuses_its_fields_is_a_decode_error() -> None:
    @event(tag="test.Positive")
    class Positive:
        number: int = attrs.field(validator=attrs.validators.gt(0))

    for field in (-1, 0):
        with pytest.raises(DecodeError, match=r"Positive was refused by its class: ValueError"):
            Codec().decode(wire("test.Positive", [field]))
