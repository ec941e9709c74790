"""Conversation: all messages of an agent and its model, as an immutable value.

    prefix (system prompt, tools)   pages (sealed, up to 32 KiB each)   tail (open)        root
    two blobs                       shared by equal digest              shared by versions  blake3 over all before it

`append` gives a new value and leaves the old one as it is; the two share everything but the new message. The root
names the prefix and all messages in their order: equal roots are equal conversations, and a step costs one message,
not the history. Users see a sequence of messages (plain dicts, their own copies); stored are fragments (see
`fragment`), and a request is rendered by joining them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import attrs

from avm.memory import fragment as fragments
from avm.memory.blob import Blob
from avm.memory.chain import Chain, Sealed, raw_size, step
from avm.memory.digest import Digest
from avm.memory.fragment import JOINT, Message
from avm.memory.head import Head
from avm.memory.line import Line
from avm.memory.page import Page, Tail
from avm.memory.store import Store

NO_META = b"{}"


@attrs.frozen(slots=True, eq=False)
class Piece:
    """A stretch of a conversation's messages as it is kept: a sealed page, or the version's part of an open tail.

    What is cached about a page is cached by its `key`; about a tail, by the tail itself, held weakly: the bytes of a
    tail never change, more only come behind them.
    """

    holder: Page | Tail
    first: int
    """The index of its first message."""
    count: int
    """How many messages it has."""
    end: int
    """Bytes of its run, without bodies."""
    size: int
    """Raw bytes of its messages with their bodies."""
    blobs: Sequence[Blob]
    """The bodies taken out of it, in order."""

    @property
    def key(self) -> bytes | None:
        """The digest of a sealed page; None for a tail, which is still open."""
        holder = self.holder
        return None if isinstance(holder, Tail) else holder.key

    def run(self) -> bytes:
        """Return its fragments as they are joined, bodies taken out; makes it hot."""
        holder = self.holder
        return holder.run(self.end) if isinstance(holder, Tail) else holder.run()

    def messages(self, begin: int = 0, bodies: int = 0) -> list[Message]:
        """Return its messages, the caller's own.

        Args:
            begin: where to begin in its run: 0, or the `end` of an earlier version of the same tail.
            bodies: how many blobs belong to what is before that.
        """
        run = self.run()
        return fragments.messages(run[begin + len(JOINT) :] if begin else run, self.blobs[bodies:])


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

    __slots__ = ("__weakref__", "_chain", "_head", "_length", "_line", "_meta", "_root", "_size", "_version")

    def __init__(
        self,
        store: Store | None = None,
        system: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        store = store if store is not None else Store()
        head = Head.make(store, system, tools)
        shelf = store.shelf
        shelf.room(Tail.OVERHEAD + Line.OVERHEAD + 100)
        self._head = head
        # None while it is asleep.
        self._chain: Chain | None = Chain.begin(shelf, head.root, head.size)
        self._root = head.root
        self._length = 0
        self._size = head.size
        self._line = shelf.begin_line(head.size)
        self._version = 0
        self._meta = fragments.compact(dict(meta), "meta") if meta else NO_META

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
    def prefix_size(self) -> int:
        """Raw bytes of system prompt and tools alone."""
        return self._head.size

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
        found: dict[str, Any] = fragments.loads(self._meta)
        return found

    @property
    def store(self) -> Store:
        """Where it is kept."""
        return self._head.store

    def page_digests(self) -> tuple[Digest, ...]:
        """Return the digests of the sealed pages, in order."""
        return tuple(sealed.page.digest for sealed in self._awake().pages)

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
        shelf = self._head.store.shelf
        made, blobs = fragments.encode(message, self._head.store.put)
        with shelf.lock:
            line, version = self._line, self._version + 1
            forks = self._version != line.version
            root, length, size = self._root, self._length, self._size
            chain = self._chain
            if chain is None:
                chain = self._awake()
            chain = chain.push(shelf, made, blobs, (length, root, size), forks)
            if forks:
                line, version = shelf.begin_line(0), 0
            else:
                line.version = version
            # As `_with`, written out: this is done for each message.
            grown = object.__new__(Conversation)
            grown._head = self._head
            grown._chain = chain
            grown._root = step(root, made, blobs)
            grown._length = length + 1
            grown._size = size = size + (raw_size(made, blobs) if blobs else len(made))
            grown._line = line
            grown._version = version
            grown._meta = self._meta
            shelf.account.held += size - line.held
            line.held = size
            for blob in blobs:
                blob.belongs()
        return grown

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
        shelf = self._head.store.shelf
        if shelf.limit is not None:
            shelf.room(Line.OVERHEAD)
        chain = self._chain
        return self._with(chain if chain is not None else self._awake(), shelf.begin_line(self._size), 0)

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
        shelf = self._head.store.shelf
        with shelf.lock:
            chain = self._awake()
            # A version ends in its tail, also where a page ends: so equal conversations are always cut up alike.
            if length > chain.tail.first or not chain.pages:
                cut = chain.cut(length)
            else:
                cut = chain.reopen(shelf, length)
            rewound = self._with(cut[0], self._line, -1)
            rewound._root, rewound._size, rewound._length = cut[1], cut[2], length
            return rewound

    def diff(self, other: Conversation) -> int | None:
        """Return the index of the first message in which two conversations differ; None if their messages are equal.

        If one is the beginning of the other it is the length of the shorter. The prefix is not compared.
        """
        return self._awake().diff(other._awake())

    def cool(self) -> None:
        """Compress its pages, its tail and their bodies now; reading brings them back."""
        chain = self._chain
        if chain is not None:
            pages = [sealed.page for sealed in chain.pages]
            self._head.store.shelf.tiers.compress([*pages, chain.tail, *chain.bodies_of_all()])

    # Sleep.

    @property
    def is_asleep(self) -> bool:
        """Whether RAM holds no more of it than a stub: 300 bytes, and its name. Any use reads it back."""
        return self._chain is None

    def sleep(self) -> bool:
        """Let its messages leave RAM if they are on disk: it is what a name was last committed as (`Store.roots`).

        Returns:
            Whether it is asleep now. It stays awake while its commit is being written.
        """
        return self._chain is None or self._head.store.roots.put_to_sleep(self)

    def wake(self) -> None:
        """Read it back from disk now; any use does it too.

        Raises:
            CorruptBlob, ColdStoreError: it cannot be read. StoreFullError: there is no room for it.
        """
        self._awake()

    # Messages.

    def messages(self) -> list[Message]:
        """Return all messages, oldest first; the caller's own."""
        return list(self)

    def render(self) -> bytes:
        """Return the messages as one JSON array, joined from what is stored."""
        runs = [fragments.splice(run, blobs) for run, blobs in self._awake().runs()]
        return b"".join((b"[", JOINT.join(runs), b"]"))

    def pieces(self) -> Iterator[Piece]:
        """Go through the stretches its messages are kept in, oldest first: sealed pages, then its part of the tail.

        Nothing is read, so what is cool stays so until a piece is asked for its messages. None is empty.
        """
        chain = self._awake()
        tail = chain.tail
        following: tuple[Sealed | Tail, ...] = (*chain.pages[1:], tail)
        for sealed, after in zip(chain.pages, following, strict=False):
            page, first = sealed.page, sealed.first
            yield Piece(page, first, after.first - first, page.size, after.base - sealed.base, page.blobs)
        if chain.count:
            bodies = tail.blobs[: chain.bodies] if chain.bodies else ()
            yield Piece(tail, tail.first, chain.count, chain.end, self._size - tail.base, bodies)

    def __iter__(self) -> Iterator[Message]:
        for run, blobs in self._awake().runs():
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
            found = self._awake().decode(low, high)
            return [found[n - low] for n in chosen] if chosen.step != 1 else found
        if not -self._length <= index < self._length:
            raise IndexError(f"no message {index} in {self!r}.")
        index %= self._length
        return self._awake().decode(index, index + 1)[0]

    # Private.

    def _awake(self) -> Chain:
        chain = self._chain
        return chain if chain is not None else self._head.store.roots.wake_up(self)

    def _with(self, chain: Chain, line: Line, version: int) -> Conversation:
        """Return the same content as a version of a line; -1 is no line's newest."""
        same = object.__new__(Conversation)
        same._head = self._head
        same._chain = chain
        same._root = self._root
        same._length = self._length
        same._size = self._size
        same._line = line
        same._version = version
        same._meta = self._meta
        return same

    @classmethod
    def _stub(
        cls, head: Head, line: Line, name: str, root: bytes, length: int, size: int, meta: bytes
    ) -> Conversation:
        """Return a conversation that is asleep on disk under a name."""
        stub = object.__new__(cls)
        stub._head = head
        stub._chain = None
        stub._root = root
        stub._length = length
        stub._size = size
        stub._line = line
        stub._version = 0
        stub._meta = meta if meta != NO_META else NO_META
        line.name = name
        head.store.shelf.account.sleep(line)
        return stub
