"""Conversation: all messages of an agent and its model, as an immutable value.

    prefix (system prompt, tools)   pages (sealed, up to 32 KiB each)   tail (open)        root
    two blobs                       shared by equal digest              shared by versions  blake3 over all before it

`append` gives a new value and leaves the old one as it is; the two share everything but the new message. The root
names the prefix and all messages in their order: equal roots are equal conversations, and a step costs one message,
not the history. Users see a sequence of messages (plain dicts, their own copies); stored are fragments (see
`fragment`), and a request is rendered by joining them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import attrs
from blake3 import blake3

from avm.memory import fragment as fragments
from avm.memory.blob import Blob
from avm.memory.digest import Digest
from avm.memory.fragment import JOINT, Message
from avm.memory.head import Head
from avm.memory.page import PAGE_SIZE, Line, Page, Tail
from avm.memory.shelf import Shelf
from avm.memory.store import Store


@attrs.frozen(slots=True, eq=False)
class Sealed:
    """A page in a conversation: what was before it."""

    page: Page
    first: int
    """The index of its first message."""
    root: bytes
    """The rolling root before that message."""
    base: int
    """The raw bytes of the conversation before that message."""


class Conversation:
    """An immutable sequence of messages with its prompt.

    Args:
        store: where it is kept; without one it has a store of its own, and shares nothing with others.
        system: the system prompt.
        tools: JSON schemas of the tools, as the provider wants them.
        meta: notes of the user's own, as JSON: id, source, model. Not part of the root.

    Raises:
        TypeError, ValueError: tools or meta are not JSON.
        StoreFullError, TooLargeError: the store has no room for it.
    """

    __slots__ = (
        "_bodies",
        "_count",
        "_end",
        "_head",
        "_length",
        "_line",
        "_pages",
        "_root",
        "_size",
        "_tail",
        "_version",
    )

    def __init__(
        self,
        store: Store | None = None,
        system: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        store = store if store is not None else Store()
        head = Head.make(store, system, tools, meta or {})
        shelf = store.shelf
        shelf.room(Tail.OVERHEAD + Line.OVERHEAD + 100)
        self._head = head
        self._pages: tuple[Sealed, ...] = ()
        self._tail = _begin_tail(shelf, 0, head.root, head.size)
        # How much of the tail is this version's: bytes, messages and bodies.
        self._end = self._count = self._bodies = 0
        self._root = head.root
        self._length = 0
        self._size = head.size
        self._line = shelf.begin_line(head.size)
        self._version = 0

    @classmethod
    def new(
        cls,
        store: Store,
        system: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
        meta: Mapping[str, Any] | None = None,
    ) -> Conversation:
        """Return an empty conversation, kept in `store`."""
        return cls(store, system, tools, meta)

    # What it is.

    @property
    def root(self) -> Digest:
        """The digest of the prefix and of all messages in order: `root' = blake3(root || blake3(fragment))`."""
        return Digest(self._root)

    @property
    def size(self) -> int:
        """Raw bytes: system prompt, tools, and the messages as compact JSON with their bodies as they are."""
        return self._size

    @property
    def system(self) -> str:
        """The system prompt."""
        return self._head.system_text()

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The schemas of the tools; the caller's own."""
        found: list[dict[str, Any]] = fragments.loads(self._head.tools_json())
        return found

    @property
    def tools_json(self) -> bytes:
        """The schemas of the tools as one JSON array; the same object each time while hot."""
        return self._head.tools_json()

    @property
    def meta(self) -> dict[str, Any]:
        """The user's notes; the caller's own."""
        found: dict[str, Any] = fragments.loads(self._head.meta)
        return found

    @property
    def store(self) -> Store:
        """Where it is kept."""
        return self._head.store

    def page_digests(self) -> tuple[Digest, ...]:
        """Return the digests of the sealed pages, in order."""
        return tuple(sealed.page.digest for sealed in self._pages)

    def __len__(self) -> int:
        return self._length

    def __eq__(self, other: object) -> bool:
        return self._root == other._root if isinstance(other, Conversation) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._root)

    def __repr__(self) -> str:
        return f"Conversation({self._root[:4].hex()}, {self._length} messages, {self._size} bytes)"

    # Versions.

    def append(self, message: Mapping[str, Any]) -> Conversation:
        """Return the conversation with one more message.

        Args:
            message: JSON: a dict with str keys. It is kept as it is, unknown keys and the order of keys too.

        Raises:
            TypeError, ValueError: it is not JSON; says where.
            StoreFullError, TooLargeError: the store has no room for it; this conversation is as it was.
        """
        store = self._head.store
        made, blobs = fragments.encode(message, store.put)
        store.shelf.tiers.sample(made)
        with store.shelf.lock:
            return self._push(made, blobs)

    def extend(self, messages: Iterable[Mapping[str, Any]]) -> Conversation:
        """Return the conversation with more messages. Errors as `append`."""
        grown = self
        for message in messages:
            grown = grown.append(message)
        return grown

    def fork(self) -> Conversation:
        """Return an equal conversation that goes its own way from here, and counts as one of its own.

        Raises:
            StoreFullError: the store has no room even for its bookkeeping.
        """
        self._head.store.shelf.room(Line.OVERHEAD)
        return self._version_of(self._head.store.shelf.begin_line(self._size), 0)

    def rewind(self, count: int) -> Conversation:
        """Return the conversation without its last `count` messages.

        Raises:
            ValueError: it has not that many.
        """
        if not 0 <= count <= self._length:
            raise ValueError(
                f"cannot rewind {count} messages: {self!r} has {self._length}; give 0 to {self._length}."
            )
        if count == 0:
            return self
        length = self._length - count
        with self._head.store.shelf.lock:
            # A version ends in its tail, also where a page ends: so equal conversations are always cut up alike.
            if length > self._tail.first or not self._pages:
                return self._cut_tail(length)
            return self._reopen(length)

    def diff(self, other: Conversation) -> int | None:
        """Return the index of the first message in which two conversations differ; None if their messages are equal.

        If one is the beginning of the other it is the length of the shorter. The prefix is not compared.
        """
        at = 0
        for mine, theirs in zip(self._pages, other._pages, strict=False):
            if mine.page.key != theirs.page.key:
                break
            at += 1
        ours = [part for run in self._runs(at) for part in fragments.separate(*run)]
        others = [part for run in other._runs(at) for part in fragments.separate(*run)]
        first = self._first(at)
        for index, (one, two) in enumerate(zip(ours, others, strict=False)):
            if one[0] != two[0] or [blob.key for blob in one[1]] != [blob.key for blob in two[1]]:
                return first + index
        return None if len(ours) == len(others) else first + min(len(ours), len(others))

    def cool(self) -> None:
        """Compress its pages, its tail and their bodies now; reading brings them back."""
        bodies = [blob for sealed in self._pages for blob in sealed.page.blobs]
        pages = [sealed.page for sealed in self._pages]
        self._head.store.shelf.tiers.compress([*pages, self._tail, *bodies, *self._tail.blobs])

    # Messages.

    def messages(self) -> list[Message]:
        """Return all messages, oldest first; the caller's own."""
        return list(self)

    def render(self) -> bytes:
        """Return the messages as one JSON array, joined from what is stored."""
        runs = [fragments.splice(run, blobs) for run, blobs in self._runs()]
        return b"".join((b"[", JOINT.join(runs), b"]"))

    def __iter__(self) -> Iterator[Message]:
        for run, blobs in self._runs():
            yield from fragments.messages(run, blobs)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> list[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | list[Message]:
        if isinstance(index, slice):
            chosen = range(self._length)[index]
            if not chosen:
                return []
            low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1]) + 1
            found = self._decode(low, high)
            return [found[n - low] for n in chosen] if chosen.step != 1 else found
        if not -self._length <= index < self._length:
            raise IndexError(f"no message {index} in {self!r}.")
        index %= self._length
        return self._decode(index, index + 1)[0]

    # Private.

    def _push(self, made: bytes, blobs: tuple[Blob, ...]) -> Conversation:
        shelf = self._head.store.shelf
        tail, pages, end, count, bodies = self._tail, self._pages, self._end, self._count, self._bodies
        seals = count > 0 and end + len(JOINT) + len(made) > PAGE_SIZE
        diverges = end != tail.size or self._version != self._line.version
        if shelf.limit is not None:
            # An open run is made with room to grow by an eighth; a sealed or copied one is added to the old.
            growth = len(made) + (tail.size + len(made)) // 8 + 200
            growth += tail.size if tail.packed is not None else 0
            growth += 2 * end + 2000 if seals or diverges else 0
            shelf.admit(len(made))
            shelf.room(growth, tail)
        if seals:
            page = shelf.intern_page(Page(shelf, self._tail_run(), tail.blobs[:bodies]))
            pages = (*pages, Sealed(page, tail.first, tail.root, tail.base))
            tail = _begin_tail(shelf, self._length, self._root, self._size)
            count = bodies = 0
        elif end != tail.size:
            tail = _begin_tail(shelf, tail.first, tail.root, tail.base)
            tail.push(self._tail_run(), self._tail.blobs[:bodies])
        line, version = self._line, self._version + 1
        if self._version == line.version:
            line.version = version
        else:
            line, version = shelf.begin_line(0), 0
        grown = object.__new__(Conversation)
        grown._head = self._head
        grown._pages = pages
        grown._tail = tail
        grown._end = tail.push(made, blobs)
        grown._count = count + 1
        grown._bodies = bodies + len(blobs)
        grown._root = _step(self._root, made, blobs)
        grown._length = self._length + 1
        grown._size = self._size + _raw_size(made, blobs)
        grown._line = line
        grown._version = version
        account = shelf.account
        account.hold(line.holding, grown._size)
        for blob in blobs:
            account.hold(blob.entry, 0)
        return grown

    def _version_of(self, line: Line, version: int) -> Conversation:
        """Return the same content as a version of a line; -1 is no line's newest."""
        same = object.__new__(Conversation)
        same._head = self._head
        same._pages = self._pages
        same._tail = self._tail
        same._end = self._end
        same._count = self._count
        same._bodies = self._bodies
        same._root = self._root
        same._length = self._length
        same._size = self._size
        same._line = line
        same._version = version
        return same

    def _cut_tail(self, length: int) -> Conversation:
        """Return the version of `length` messages, which ends in this one's tail."""
        tail = self._tail
        parts = fragments.separate(self._tail_run(), tail.blobs[: self._bodies])[: length - tail.first]
        cut = self._version_of(self._line, -1)
        cut._root, cut._size = tail.root, tail.base
        for made, blobs in parts:
            cut._root = _step(cut._root, made, blobs)
            cut._size += _raw_size(made, blobs)
        cut._end = sum(len(made) for made, _ in parts) + len(JOINT) * max(len(parts) - 1, 0)
        cut._count = len(parts)
        cut._bodies = sum(len(blobs) for _, blobs in parts)
        cut._length = length
        return cut

    def _reopen(self, length: int) -> Conversation:
        """Return the version of `length` messages, which ends in a page: its beginning becomes a tail again."""
        shelf = self._head.store.shelf
        index = max(bisect_right(self._pages, length - 1, key=lambda sealed: sealed.first) - 1, 0)
        sealed = self._pages[index]
        run = sealed.page.run()
        shelf.room(Tail.OVERHEAD + len(run) + len(run) // 8 + 200, sealed.page)
        tail = _begin_tail(shelf, sealed.first, sealed.root, sealed.base)
        for made, blobs in fragments.separate(run, sealed.page.blobs)[: length - sealed.first]:
            tail.push(made, blobs)
        cut = self._version_of(self._line, -1)
        cut._pages = self._pages[:index]
        cut._tail = tail
        cut._end = tail.size
        cut._bodies = len(tail.blobs)
        return cut._cut_tail(length)

    def _tail_run(self) -> bytes:
        return self._tail.run(self._end)

    def _first(self, at: int) -> int:
        return self._pages[at].first if at < len(self._pages) else self._tail.first

    def _runs(self, at: int = 0) -> Iterator[tuple[bytes, Sequence[Blob]]]:
        """Go through the pages from the `at`-th on and the tail, each as a run and its blobs; none is empty."""
        for sealed in self._pages[at:] if at else self._pages:
            yield sealed.page.run(), sealed.page.blobs
        if self._count:
            bodies = self._bodies
            yield self._tail_run(), self._tail.blobs[:bodies] if bodies else ()

    def _decode(self, low: int, high: int) -> list[Message]:
        at = max(bisect_right(self._pages, low, key=lambda sealed: sealed.first) - 1, 0)
        if low >= self._tail.first:
            at = len(self._pages)
        first = index = self._first(at)
        found: list[tuple[bytes, Sequence[Blob]]] = []
        for run, blobs in self._runs(at):
            if index >= high:
                break
            parts = fragments.separate(run, blobs)
            index += len(parts)
            found.extend(parts)
        return [fragments.decode(made, blobs) for made, blobs in found[low - first : high - first]]


def _begin_tail(shelf: Shelf, first: int, root: bytes, base: int) -> Tail:
    tail = Tail(shelf, first, root, base)
    shelf.keep(tail, 0, tail.charge(), 0)
    return tail


def _step(root: bytes, made: bytes, blobs: Sequence[Blob]) -> bytes:
    # Which body belongs where is said by the BODY bytes in the fragment, and where it ends by its last brace.
    name = blake3(b"".join((made, *[blob.key for blob in blobs])) if blobs else made).digest()
    return blake3(root + name).digest()


def _raw_size(made: bytes, blobs: Sequence[Blob]) -> int:
    return len(made) + sum([blob.size - 1 for blob in blobs]) if blobs else len(made)
