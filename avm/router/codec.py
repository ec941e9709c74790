"""Codec: one event as msgpack, when it crosses a boundary: another node, the journal, a tap, the recorder, a client.

    [version, to, from, reply, deadline, priority, trace, tag, fields]

`fields` are the values in the order of the class, each written as its annotation says (`shapes.py`,
`plan.py`), so that a tuple stays a tuple and an enum an enum. Text and bytes over the inline limit go to the
store and travel as digests.

Reading is in two steps. First everything is checked: size, msgpack, the number and types of the nine parts,
the tag, and each field down to the last one. Only then is a class called. Whatever is wrong is a
`DecodeError` that says where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs

from avm.actors.event import EVENTS, INLINE_LIMIT, MAX_DEPTH, EventRegistry
from avm.actors.ref import Pid, Ref
from avm.errors import DecodeError, MissingBlob, PackError, StoreError
from avm.memory.digest import Digest
from avm.router.addresses import Address, Addresses
from avm.router.open import Open
from avm.router.plan import Plan
from avm.router.records import check_fields, pack_fields
from avm.router.shapes import TEXTS, Where, finish, render
from avm.router.wire import Ext, ExtType, name_of, pack, pack_quickly, unpack
from avm.scheduler import PRIORITIES

if TYPE_CHECKING:
    from avm.actors.kernel import Kernel

VERSION = 1
PARTS = 9
MAX_BYTES = 16 * 1024 * 1024
"""Bytes of one event, its bodies in the store not counted."""

Place = str | Address | None
Sent = str | Address | Pid | Ref | None


class BodyHandle(Protocol):
    """Keeps a body in the store while it is held."""

    @property
    def digest(self) -> Digest: ...

    def form(self, kind: type[str] | type[bytes]) -> str | bytes:
        """Return the body as text or as bytes."""


class BodyStore(Protocol):
    """The part of the store that the codec uses."""

    def share(self, body: str | bytes) -> tuple[BodyHandle, str | bytes]:
        """Keep a body; return its handle and the one object that all holders share."""

    def blob(self, digest: Digest) -> BodyHandle:
        """Return the handle of a body that is kept."""


@attrs.frozen(slots=True)
class Envelope:
    """One event and what was written beside it.

    Attributes:
        event: the event, or a plain value (a str, a number).
        to, sender: an address, or text: a registered name or a path. None: not given.
        reply: the number under which the sender waits for a reply, None if it does not.
        deadline: seconds that were left for it when it was packed.
        priority: "user", "normal" or "background".
        trace: the W3C traceparent, if there is one.
    """

    event: Any
    to: Place = None
    sender: Place = None
    reply: int | None = None
    deadline: float | None = None
    priority: str = "normal"
    trace: str | None = None


class Packet(bytes):
    """An encoded event whose large bodies are in the store; `bodies` keeps them there while the packet is held."""

    bodies: tuple[object, ...] = ()


@attrs.frozen(slots=True)
class Packed:
    """The tag and the fields of one event, packed once for any number of receivers."""

    content: bytes
    bodies: tuple[object, ...]


_PRIORITY_NUMBERS = {name: number for number, name in enumerate(PRIORITIES)}
_HEAD = bytes([0x90 + PARTS, VERSION])


class Codec:
    """Writes and reads events.

    Args:
        registry: which event classes there are; the only source of classes when reading.
        max_bytes: of one encoded event.
        max_depth: how deep its values may nest.
        store: keeps large bodies; without it they are written in place.
        kernel: whose pids and refs are meant; without it an event that holds one cannot be read.
    """

    def __init__(
        self,
        registry: EventRegistry = EVENTS,
        *,
        max_bytes: int = MAX_BYTES,
        max_depth: int = MAX_DEPTH,
        store: BodyStore | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        self.registry = registry
        self.max_bytes = max_bytes
        self.max_depth = max_depth
        self.store = store
        self._addresses = Addresses(kernel) if kernel is not None else None
        self._plans: dict[type, Plan] = {}
        self._open = Open()

    def encode(
        self,
        event: object,
        *,
        to: Sent = None,
        sender: Sent = None,
        reply: int | None = None,
        deadline: float | None = None,
        priority: str = "normal",
        trace: str | None = None,
    ) -> bytes:
        """Write an event; the other arguments are those of `Envelope`.

        Returns:
            The bytes; a `Packet`, which is to be held until they are read, if bodies went to the store.

        Raises:
            PackError: a field holds something else than its annotation says, or what has no wire form, or too
            much.
        """
        cls = type(event)
        tag = self.registry.tag_of(cls)
        if tag is None:
            return self.address(self.pack(event), to, sender, reply, deadline, priority, trace)
        plan = self._plans.get(cls) or self.plan_of(cls)
        values = plan.read(event)
        for kinds, value in zip(plan.kinds, values, strict=True):
            kind = type(value)
            if kind not in kinds or (kind in TEXTS and len(value) > INLINE_LIMIT):
                return self.address(self.pack(event), to, sender, reply, deadline, priority, trace)
        number = _PRIORITY_NUMBERS.get(priority, 1)
        to = to if to is None or type(to) is str else _spell(to)
        sender = sender if sender is None or type(sender) is str else _spell(sender)
        try:
            data: bytes = pack_quickly((VERSION, to, sender, reply, deadline, number, trace, tag, values))
        except (OverflowError, UnicodeEncodeError):
            data = pack((VERSION, to, sender, reply, deadline, number, trace, tag, values))
        if len(data) > self.max_bytes:
            self._refuse_size(plan.name, len(data))
        return data

    def pack(self, event: object) -> Packed:
        """Write the tag and the fields of an event, for `address` to complete.

        Raises:
            PackError: as `encode`.
        """
        cls = type(event)
        tag = self.registry.tag_of(cls)
        bodies: list[object] = []
        name = cls.__qualname__.rpartition(".")[2]
        where: Where = (None, name)
        try:
            if tag is None:
                fields: Any = [self._open.pack(event, self, bodies, 1, where)]
            else:
                fields = pack_fields(self.plan_of(cls), event, self, bodies, 0, where)
            content = pack(tag) + pack(fields)
        except (ValueError, RecursionError) as error:
            raise PackError(f"{name} cannot be written: {error}.", name) from error
        if len(content) > self.max_bytes:
            self._refuse_size(name, len(content))
        return Packed(content, tuple(bodies))

    def address(
        self,
        packed: Packed,
        to: Sent = None,
        sender: Sent = None,
        reply: int | None = None,
        deadline: float | None = None,
        priority: str = "normal",
        trace: str | None = None,
    ) -> bytes:
        """Complete a packed event for one receiver."""
        number = _PRIORITY_NUMBERS.get(priority, 1)
        parts = (_spell(to), _spell(sender), reply, deadline, number, trace)
        data = b"".join((_HEAD, *map(pack, parts), packed.content))
        if not packed.bodies:
            return data
        packet = Packet(data)
        packet.bodies = packed.bodies
        return packet

    def decode(self, data: bytes) -> Envelope:
        """Read an event.

        Raises:
            DecodeError: these bytes are no event; `where` names the byte or the field. Nothing of it was
            made.
        """
        if len(data) > self.max_bytes:
            place = f"byte {self.max_bytes}"
            raise DecodeError(
                f"{place}: {len(data)} bytes, and at most {self.max_bytes} are read (max_bytes).", place
            )
        message = unpack(data)
        # Small ints are one object each; `is` keeps True out.
        if type(message) is not list or len(message) != PARTS or message[0] is not VERSION:
            self._refuse_frame(message)
        _, to, sender, reply, deadline, number, trace, tag, fields = message
        if to is not None and type(to) is not str:
            to = _read_place(to, "to")
        if sender is not None and type(sender) is not str:
            sender = _read_place(sender, "from")
        if reply is not None and type(reply) is not int:
            _refuse_part("reply", "an int or nil", reply)
        if deadline is not None and type(deadline) is not float and type(deadline) is not int:
            _refuse_part("deadline", "seconds or nil", deadline)
        if type(number) is not int or not 0 <= number < len(PRIORITIES):
            _refuse_part("priority", f"a number below {len(PRIORITIES)}", number)
        if trace is not None and type(trace) is not str:
            _refuse_part("trace", "text or nil", trace)
        return Envelope(self._event(tag, fields), to, sender, reply, deadline, PRIORITIES[number], trace)

    def _event(self, tag: Any, fields: Any) -> Any:
        cls = self.registry.class_of(tag) if type(tag) is str else None
        plan = self._plans.get(cls) if cls is not None else None
        if plan is not None and type(fields) is list and len(fields) == len(plan.kinds):
            for kinds, value in zip(plan.kinds, fields, strict=True):
                if type(value) not in kinds:
                    break
            else:
                try:
                    return plan.make(fields)
                except Exception:
                    # Once more the slow way, for the error.
                    pass
        return self._checked(tag, fields)

    def _checked(self, tag: Any, fields: Any) -> Any:
        try:
            if tag is None:
                if type(fields) is not list or len(fields) != 1:
                    _refuse_part("fields", "an array of 1 for a plain value", fields)
                return finish(self._open.check(fields[0], self, 1, (None, "value")))
            plan = self.plan_of_tag(tag, (None, "tag"))
            return finish(check_fields(plan, fields, self, 0, (None, plan.name)))
        except RecursionError as error:
            raise DecodeError("fields: values nest too deep.", "fields") from error

    def _refuse_frame(self, message: Any) -> None:
        if type(message) is not list or len(message) != PARTS:
            expected = (
                f"an array of {PARTS} (version, to, from, reply, deadline, priority, trace, tag, fields)"
            )
            raise DecodeError(f"byte 0: expected {expected}, found {name_of(message)}.", "byte 0")
        _refuse_part("version", f"{VERSION}, the one this avm reads", message[0])

    def _refuse_size(self, name: str, size: int) -> None:
        raise PackError(
            f"{name} takes {size} bytes, and at most {self.max_bytes} are written (max_bytes); "
            "give the codec a store for large text and bytes, or send less.",
            name,
        )

    # What shapes call.

    def plan_of(self, cls: type) -> Plan:
        """Return the plan of a class, made at its first use."""
        plan = self._plans.get(cls)
        if plan is None:
            plan = self._plans[cls] = Plan(cls)
        return plan

    def plan_of_tag(self, tag: object, where: Where) -> Plan:
        """Return the plan of the event class that has a tag."""
        cls = self.registry.class_of(tag) if type(tag) is str else None
        if cls is None:
            place = render(where)
            found = repr(tag)[:80] if type(tag) is str else name_of(tag)
            raise DecodeError(
                f"{place}: no event has the tag {found}; import the module that defines it before reading.",
                place,
            )
        return self.plan_of(cls)

    def descend(self, depth: int, where: Where, error: type[PackError | DecodeError]) -> None:
        """Fail if values nest too deep."""
        if depth > self.max_depth:
            place = render(where)
            raise error(f"{place[:200]} nests deeper than {self.max_depth} values (max_depth).", place)

    def keep(self, body: str | bytes, bodies: list[object]) -> Any:
        """Give a large body to the store and return what is written for it; without a store, the body."""
        if self.store is None:
            return body
        handle, _ = self.store.share(body)
        bodies.append(handle)
        return ExtType(Ext.TEXT if type(body) is str else Ext.BYTES, handle.digest.bytes)

    def read_body(self, wire: ExtType, where: Where) -> str | bytes:
        """Read a body that travelled by digest."""
        place = render(where)
        try:
            digest = Digest(wire.data)
        except ValueError as error:
            raise DecodeError(f"{place}: expected a digest, found {name_of(wire)}.", place) from error
        if self.store is None:
            raise DecodeError(
                f"{place} is the body {digest} of a store, and this codec has none (store=).", place
            )
        try:
            return self.store.blob(digest).form(str if wire.code == Ext.TEXT else bytes)
        except MissingBlob as error:
            raise DecodeError(
                f"{place} is the body {digest}, which is not in the store: {error}", place
            ) from error
        except (UnicodeDecodeError, StoreError) as error:
            raise DecodeError(
                f"{place} is the body {digest}, which cannot be read: {error}", place
            ) from error

    def note(self, pid: Pid) -> None:
        """Remember a pid that is written."""
        if self._addresses is not None:
            self._addresses.note(pid)

    def address_of(self, path: str, serial: int | None, where: Where) -> Pid | Ref:
        """Return the pid or ref that is meant by what was read."""
        if self._addresses is None:
            place = render(where)
            raise DecodeError(
                f"{place} is the address of {path!r}; a codec without kernel= cannot read it.", place
            )
        return self._addresses.ref(path) if serial is None else self._addresses.pid(path, serial)


def _spell(place: Sent) -> Any:
    if place is None or isinstance(place, str):
        return place
    return [place.path, None if isinstance(place, Ref) else place.serial]


def _read_place(wire: Any, part: str) -> Address:
    if type(wire) is list and len(wire) == 2:
        path, serial = wire
        if type(path) is str and (serial is None or type(serial) is int):
            return Address(path, serial)
    _refuse_part(part, "text, a path and a number, or nil", wire)
    raise AssertionError("not reached")


def _refuse_part(part: str, expected: str, found: Any) -> None:
    raise DecodeError(f"{part}: expected {expected}, found {name_of(found)}.", part)
