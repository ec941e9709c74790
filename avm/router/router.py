"""Router: finds mailboxes. Names, paths, topics and groups in, deliveries out; taps; events as bytes in and out.

The kernel sends to a Ref or Pid by itself, in the shortest way. The router stands beside it for everything that has to
be looked up, and plugs in where the kernel lets it: destinations that resolve to cells, the audience of a topic, taps,
and observers of dead letters. It is the VM's service "router":

    self.service("router").subscribe("news.*")
    self.tell(router.topic("news.sport"), Goal("1:0"))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from avm.actors.hooks import Observer, Report
from avm.actors.ref import Pid, Ref
from avm.errors import DecodeError, PackError
from avm.router.addresses import Address
from avm.router.codec import BodyStore, Codec, Envelope, Packed
from avm.router.dead_letters import KEPT, PER_SECOND, DeadLetters
from avm.router.topics import Topics, Watch

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.kernel import Destination, Kernel


@attrs.frozen(slots=True, kw_only=True)
class TapFailed(Report):
    """A tap raised and was removed; or, with `removed` false, an event could not be written for it."""

    tap: str
    error: BaseException
    removed: bool


@attrs.frozen(slots=True)
class RouterStatistics:
    """Counts of one router.

    Attributes:
        published, copies: events that were published, and mailboxes they went to.
        received, refused: events that came in as bytes, and bytes that were none.
        taps: how many there are now. unwritable: events a wire tap missed because they have no wire form.
        groups, patterns: how many have members now.
        dead_letters: of the whole kernel, by reason.
    """

    published: int
    copies: int
    received: int
    refused: int
    taps: int
    unwritable: int
    groups: int
    patterns: int
    dead_letters: dict[str, int]


class Topic:
    """A topic as a destination; what `Router.topic` returns."""

    def __init__(self, name: str, audience: Callable[[str], tuple[Cell, ...]]) -> None:
        self.name = name
        self._audience = audience

    def resolve(self, event: object, kernel: Kernel) -> tuple[Cell, ...]:
        """Return the subscribers of now."""
        return self._audience(self.name)

    def __repr__(self) -> str:
        return f"topic({self.name!r})"


class Router:
    """Delivers, publishes, taps, and stands at the boundary of a kernel.

    Args:
        store: where large bodies of events go that are written to bytes.
        codec: instead of one with the default limits.
    """

    def __init__(self, kernel: Kernel, store: BodyStore | None = None, *, codec: Codec | None = None) -> None:
        self.kernel = kernel
        self.codec = codec if codec is not None else Codec(store=store, kernel=kernel)
        self.topics = Topics(kernel)
        self._taps: dict[Callable[[Any], None], _Tap] = {}
        self._published = 0
        self._copies = 0
        self._received = 0
        self._refused = 0
        self._unwritable = 0
        # From here on `self.publish(topic, event)` of every actor reaches the subscribers of patterns too.
        kernel.audience = self._audience

    # Delivery.

    def deliver(self, dest: Destination, event: object) -> None:
        """Send an event as whoever is running: the calling actor, or nobody. As `Actor.tell`.

        Args:
            dest: a Ref, a Pid, a name, a path, the unique id of an actor, an `Address`, a topic or a strategy.
        """
        self.kernel.send(self.kernel.current(), dest, event)

    def resolve(self, dest: Destination, event: object = None) -> tuple[Ref, ...]:
        """Return who would get an event now; a strategy that takes turns has taken one."""
        if isinstance(dest, (Ref, Pid, str)):
            cell = self.kernel.resolve(dest)
            return () if cell is None else (Ref(cell),)
        return tuple(Ref(cell) for cell in dest.resolve(event, self.kernel))

    def receive(self, data: bytes) -> Envelope:
        """Take an event that came as bytes, deliver it to where it says, and return what was read.

        Raises:
            DecodeError: it is no event, or does not say where to; nothing was delivered.
        """
        try:
            envelope = self.codec.decode(data)
            if envelope.to is None:
                raise DecodeError("to: expected an address, found nil.", "to")
        except DecodeError:
            self._refused += 1
            raise
        self._received += 1
        self.kernel.send(self._sender_of(envelope), envelope.to, envelope.event)
        return envelope

    # Publish and subscribe.

    def publish(self, topic: str, event: object) -> int:
        """Send an event to all who subscribe to the topic now, as whoever is running (S83); as `Actor.publish`.

        Returns:
            How many copies were sent. No subscriber is no dead letter.
        """
        return self.kernel.publish(self.kernel.current(), topic, event)

    def topic(self, name: str) -> Topic:
        """Return a topic as a destination for tell and send_after; without subscribers it is a dead letter."""
        return Topic(name, self._audience)

    def subscribe(self, topic: str, dest: Destination | None = None) -> None:
        """Subscribe the calling actor, or `dest`, to a topic or a pattern; see `Topics.subscribe`."""
        self.topics.subscribe(topic, dest)

    def unsubscribe(self, topic: str, dest: Destination | None = None) -> None:
        """Remove one subscription; see `Topics.unsubscribe`."""
        self.topics.unsubscribe(topic, dest)

    def watch(self, group: str, dest: Destination | None = None) -> tuple[Watch, tuple[Pid, ...]]:
        """Watch the membership of a group or topic; see `Topics.watch`."""
        return self.topics.watch(group, dest)

    def unwatch(self, watch: Watch) -> bool:
        """End a watch; see `Topics.unwatch`."""
        return self.topics.unwatch(watch)

    # Looking on.

    def tap(self, tap: Callable[[Envelope], None]) -> None:
        """Call `tap` for every event that is sent from now on, once for each receiver, until `untap`.

        It runs inside the runtime: it must be quick. One that raises is removed and reported (`TapFailed`). What it
        sends itself is not tapped.
        """
        self._add(tap, _Tap(self, tap))

    def tap_wire(self, tap: Callable[[bytes], None]) -> None:
        """As `tap`, with the wire form; an event that has none is counted and reported, and the tap stays."""
        self._add(tap, _WireTap(self, tap))

    def untap(self, tap: Callable[[Any], None]) -> None:
        """End a tap; nothing happens if there is none."""
        found = self._taps.pop(tap, None)
        if found is not None:
            self._unwritable += found.unwritable
            self.kernel.untap(found)

    def watch_dead_letters(
        self, into: Observer | None = None, *, keep: int = KEPT, per_second: float = PER_SECOND
    ) -> DeadLetters:
        """Watch what nobody takes: counts, the latest `keep`, and at most `per_second` of a reason to `into`."""
        return DeadLetters(self.kernel, into, keep=keep, per_second=per_second)

    def statistics(self) -> RouterStatistics:
        """Count everything."""
        return RouterStatistics(
            published=self._published,
            copies=self._copies,
            received=self._received,
            refused=self._refused,
            taps=len(self._taps),
            unwritable=self._unwritable + sum(tap.unwritable for tap in self._taps.values()),
            groups=len(self.kernel.groups.groups()),
            patterns=len(self.topics.patterns()),
            dead_letters=dict(self.kernel.dead_letters),
        )

    def _audience(self, topic: str) -> tuple[Cell, ...]:
        cells = self.topics.audience(topic)
        self._published += 1
        self._copies += len(cells)
        return cells

    def _sender_of(self, envelope: Envelope) -> Cell | None:
        sender = envelope.sender
        if isinstance(sender, Address):
            return next(iter(sender.resolve(None, self.kernel)), None)
        return None if sender is None else self.kernel.resolve(sender)

    def _add(self, tap: Callable[[Any], None], made: _Tap) -> None:
        self.untap(tap)
        self._taps[tap] = made
        self.kernel.tap(made)

    def report_tap(self, tap: Callable[[Any], None], error: Exception, *, removed: bool) -> None:
        """Report a tap that failed, and remove it if it is to go."""
        if removed:
            self.untap(tap)
            self.kernel.log(f"tap {tap!r} failed and was removed", error)
        self.kernel.report_limit(lambda at: TapFailed(at=at, tap=repr(tap), error=error, removed=removed))


class _Tap:
    """What the kernel calls for one tap."""

    def __init__(self, router: Router, tap: Callable[[Any], None]) -> None:
        self.router = router
        self.tap = tap
        self.inside = False
        self.unwritable = 0

    def __call__(self, path: str, sender: Cell | None, event: object) -> None:
        if self.inside:
            return
        self.inside = True
        try:
            self.show(path, sender, event)
        except Exception as error:
            self.router.report_tap(self.tap, error, removed=True)
        finally:
            self.inside = False

    def show(self, path: str, sender: Cell | None, event: object) -> None:
        come_from = None if sender is None else Address(sender.path, sender.serial)
        priority = "normal" if sender is None else sender.behaviour.priority
        self.tap(Envelope(event, path, come_from, priority=priority))


class _WireTap(_Tap):
    """The same in bytes. A fan-out sends one event many times in a row: its fields are written once."""

    last: tuple[object, Packed] | None = None

    def show(self, path: str, sender: Cell | None, event: object) -> None:
        codec = self.router.codec
        if self.last is None or self.last[0] is not event:
            try:
                self.last = (event, codec.pack(event))
            except PackError as error:
                self.unwritable += 1
                self.router.report_tap(self.tap, error, removed=False)
                return
        come_from = None if sender is None else Address(sender.path, sender.serial)
        priority = "normal" if sender is None else sender.behaviour.priority
        self.tap(codec.address(self.last[1], to=path, sender=come_from, priority=priority))
